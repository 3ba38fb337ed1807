"""Cell abundances that were estimated elsewhere, joined to the rows of a table by the names of the spots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.errors import MissingKeyError, listing, warn
from histocell._core.settings import logger
from histocell.io.abundance_table import read_abundances
from histocell.tables.sections import Sections
from histocell.tables.spot_names import match_spots
from histocell.tables.units import ABUNDANCE, CELLS, PROPORTION, recorded_unit

if TYPE_CHECKING:
    from typing import Any

    from anndata import AnnData

    from histocell._core.types import Bools, Floats
    from histocell.io.abundance_table import AbundanceSource, AbundanceTable
    from histocell.tables.access import Data

_ROUNDING = 0.05  # relative, of the sums of shares or of per cent in a table of text
_ABOUT_ONE = (0.5, 2.0)  # a median sum between these may be that of shares that were not normalised


def import_abundance(
    data: Data,
    source: AbundanceSource,
    *,
    section: str | None = None,
    unit: str | None = None,
    source_key: str | None = None,
    library_key: str | None = None,
    key_added: str = keys.ABUNDANCE,
    table_key: str | None = None,
    inplace: bool = True,
) -> pd.DataFrame | None:
    """Take cell abundances that another tool estimated: cell2location, RCTD, stereoscope, SPOTlight, or any table.

    Rows are joined by the names of the spots: two are the same if their barcode, or place in the grid such as
    ``10x13``, is, and neither names nor labels say that they are of different sections. Where several fit, that of the
    most similar name is meant, if it holds more than a bare barcode; else it is an error. Rows that the source does not
    have are NaN, never 0; fits and co-localization leave them out.

    Parameters
    ----------
    data
        AnnData, or SpatialData with a table.
    source
        Spots by cell types: a data frame, a CSV or TSV file of one (plain or gzipped, as ``write.csv`` and
        ``write.table`` of R write it), an AnnData or h5ad with the abundances in ``obsm``.
    section
        The section of `data` that the source is of; by default what the names in the source, or its
        ``obs[library_key]``, say. Rows of other sections keep what they have.
    unit
        ``"cells per spot"``, ``"proportion"`` or ``"abundance"`` (neither). Proportions are divided by the sum of their
        row. By default cells for cell2location, proportions for SPOTlight and where rows sum to 1 or to 100, else abundance.
    source_key
        Slot of ``obsm`` of an AnnData; by default cell2location's 5 % quantile (``q05_cell_abundance_w_sf``), else its
        mean or median.
    library_key
        Column of ``obs`` with the sections; ``section`` by default.
    key_added
        Slot of ``obsm``.
    table_key
        Table of a SpatialData, where it holds several.
    inplace
        Whether to write into `data`.

    Returns
    -------
    `None`, or with ``inplace=False`` the data frame of abundances that would have been written. Writes:

    ``obsm[key_added]`` : DataFrame
        One column per cell type, under its name without the prefixes of cell2location.
    ``obsm[key_added + "_noise"]`` : DataFrame
        Of cell2location, where both are in the source: the 95 % less the 5 % quantile, in the same unit.
    ``uns["histocell"][key_added]`` : str
        As JSON the unit, and for each section the source and the numbers of its rows and of those that matched.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    KeyError
        When an AnnData has no such slot, or `section` is not there.
    TypeError
        When the source is neither a table nor a path.
    ValueError
        When fewer than half of the names match (the message shows names of both sides), a name may mean several spots,
        columns hold anything but numbers from 0 up or are genes of the table, the unit is unclear, or cell types or unit differ from those that
        rows of other sections have.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600)
    >>> weights = sdata["table"].obsm["cell_abundance"].iloc[::-1]  # or "weights.csv", "cell2location.h5ad"
    >>> hc.pp.import_abundance(sdata, weights.add_prefix("q05cell_abundance_w_sf_"), key_added="c2l")
    >>> hc.get.abundance(sdata, "c2l").columns[0]
    'tumour'
    >>> hc.get.provenance(sdata, "c2l")["unit"]
    'cells per spot'
    """
    if unit not in {None, PROPORTION, CELLS, ABUNDANCE}:
        msg = f'unit must be "{CELLS}", "{PROPORTION}" or "{ABUNDANCE}", not {unit!r}'
        raise ValueError(msg)
    sections = Sections(data, table_key=table_key, library_key=library_key)
    table = sections.table
    if section is not None and section not in sections.names:
        msg = f"there is no section {section!r}; there are: {listing(sections.names)}"
        raise MissingKeyError(msg)
    read = read_abundances(source, source_key, sections.library_key)
    _refuse_genes(read, table)
    found = match_spots(
        table.obs_names, list(sections.labels), read.frame.index, other_labels=read.labels, section=section
    )
    names, originals = keys.safe_names(read.frame.columns)
    matched = found >= 0
    values = np.full((table.n_obs, len(names)), np.nan)
    values[matched], scale, unit = _in_unit(read.frame.to_numpy()[found[matched]], unit, read)
    frame = pd.DataFrame(values, index=table.obs_names, columns=names)
    noise = None
    if read.noise is not None:
        noise = pd.DataFrame(np.nan, index=table.obs_names, columns=names)
        noise.loc[matched] = read.noise.to_numpy()[found[matched]] * scale
    facts = {
        name: {"source": read.name, "method": read.method, "rows": len(rows), "matched": int(matched[rows].sum())}
        for name, rows in zip(sections.names, sections.rows, strict=True)
        if matched[rows].any()
    }
    here = np.isin(sections.labels, list(facts))
    _report(frame[here], matched[here], facts, n_source=len(read.frame))
    if key_added in table.obsm and not here.all():
        facts = _keep_others(table, key_added, frame, ~here, unit) | facts
    if not inplace:
        return frame
    table.obsm[key_added] = frame
    _write_noise(table, key_added + keys.NOISE, noise, names, here)
    table.varm.pop(key_added + keys.SIGNATURES, None)  # of the abundances that these replace
    said = {"noise": "q95 - q05"} if key_added + keys.NOISE in table.obsm else {}
    keys.write_provenance(table, key_added, unit=unit, original_names=originals, sections=facts, **said)
    return None


def _refuse_genes(read: AbundanceTable, table: AnnData) -> None:
    """An error where most columns are genes of the table: counts would do for abundances without a word."""
    genes = read.frame.columns.intersection(table.var_names)
    if len(genes) > len(read.frame.columns) / 2:
        msg = (
            f"{len(genes)} of the {len(read.frame.columns)} columns of {read.name} are genes of the table ({listing(genes, 3)}): "
            "expression, not abundances of cell types. If they are cell types, give them names that no gene has"
        )
        raise ValueError(msg)


def _in_unit(values: Floats, unit: str | None, read: AbundanceTable) -> tuple[Floats, Floats, str]:
    """Abundances in their unit, by what their rows were multiplied for it, and the unit where none was given."""
    totals = values.sum(axis=1)
    known = totals[totals > 0]
    if unit is None and len(known):
        low, middle, high = np.quantile(known, [0, 0.5, 1])
        if read.method == "cell2location":
            unit = CELLS
        elif read.method == "SPOTlight":  # small shares are set to 0, so that rows sum to less than 1
            unit = PROPORTION
        elif any(np.allclose((low, high), whole, rtol=_ROUNDING, atol=0) for whole in (1, 100)):
            unit = PROPORTION
        elif _ABOUT_ONE[0] < middle < _ABOUT_ONE[1]:
            msg = (
                f"rows of {read.name} sum to {low:.3g} to {high:.3g}: proportions that were not normalised, as RCTD's "
                f'weights, or numbers of cells? Give unit="{PROPORTION}", and they are divided by their sum, or '
                f'unit="{CELLS}"'
            )
            raise ValueError(msg)
    scale = np.ones((len(values), 1))
    if unit == PROPORTION and not np.allclose(totals, 1, rtol=0, atol=1e-4):
        scale = 1 / np.where(totals > 0, totals, np.nan)[:, None]
    return values * scale, scale, unit or ABUNDANCE


def _write_noise(table: AnnData, key: str, noise: pd.DataFrame | None, names: list[str], here: Bools) -> None:
    """Write the noise of the rows that were imported, keep that of others; no noise stays of values that were replaced."""
    there = table.obsm.pop(key, None)
    full = pd.DataFrame(np.nan, index=table.obs_names, columns=names) if noise is None else noise
    if isinstance(there, pd.DataFrame) and set(there.columns) == set(names):
        full.loc[~here] = there.loc[~here, names].to_numpy()
    if full.notna().any(axis=None):
        table.obsm[key] = full


def _report(frame: pd.DataFrame, matched: Bools, facts: dict[str, Any], *, n_source: int) -> None:
    """Log what matched; warn of rows without abundances and of cell types that are nowhere."""
    counts = f"{matched.sum()} of {len(frame)} rows of section {listing(facts)} are among the {n_source} of the source"
    logger.info("%s", counts)
    unknown = frame.isna().any(axis=1)
    problems = []
    if not matched.all():
        problems.append(f"{counts}; the others ({listing(frame.index[~matched], 3)}) are NaN and left out of fits")
        if n_source > matched.sum():
            problems.append(
                "Names on both sides have no partner: look whether both are of one section and number the grid alike"
            )
    if (unknown & matched).any():
        problems.append(
            f"{(unknown & matched).sum()} matched rows hold NaN, or nothing to be a share of, and are left out"
        )
    if len(nowhere := frame.columns[(frame[~unknown] == 0).all()]):
        problems.append(f"{listing(nowhere)}: 0 in every row, which nothing can be learnt from")
    if problems:
        warn(". ".join(problems))


def _keep_others(table: AnnData, key: str, frame: pd.DataFrame, others: Bools, unit: str) -> dict[str, Any]:
    """Copy the rows of other sections from ``obsm[key]`` into `frame`; what is recorded of them."""
    there, known = table.obsm[key], recorded_unit(table, key)
    there = there if isinstance(there, pd.DataFrame) else pd.DataFrame(there, index=table.obs_names)
    names = [str(name) for name in there.columns]
    if sorted(names) != sorted(frame.columns) or (known or unit) != unit:
        msg = (
            f'obsm["{key}"] holds abundances of other sections, of {listing(names, 5)} ({known or "unit unknown"}); '
            f"those of the source are of {listing(frame.columns, 5)} ({unit}). Write them beside, with key_added="
        )
        raise ValueError(msg)
    frame.loc[others] = there.set_axis(names, axis="columns").loc[others, list(frame.columns)].to_numpy()
    return keys.read_provenance(table, key).get("sections", {})
