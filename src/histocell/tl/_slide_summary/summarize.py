"""One tidy table of a cohort: composition, co-localization and nuclei of each slide, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histocell import get, metrics
from histocell._core import keys
from histocell._core.arguments import as_pairs, check_count, check_positive
from histocell._core.errors import MissingKeyError, listing, reading, warn
from histocell._core.geometry import spot_pitch
from histocell._core.rng import as_rng
from histocell._core.settings import progress_bar
from histocell.tables.access import is_spatialdata
from histocell.tables.sections import ALL, Sections
from histocell.tl._colocalization.colocalization import colocalization as _colocalization
from histocell.tl.engine.intervals import LEAST_GROUPS, NONE, name_interval

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from histocell._core.rng import RNGLike, SeedLike
    from histocell._core.types import Floats, Ints
    from histocell.tables.access import Data

COLUMNS = ["slide", "patient", "feature", "value", "low", "high", "interval"]
_MM2 = 1e-6  # of um2

type Slides = (
    Data | str | PathLike[str] | Iterable[Data | str | PathLike[str]] | Mapping[str, Data | str | PathLike[str]]
)


def summarize_slides(
    slides: Slides,
    *,
    key: str = keys.PREDICTED,
    colocalization: bool | Sequence[tuple[str, str]] = True,
    length_scale_um: float | None = None,
    block_um: float = 1000.0,
    patients: Mapping[str, str] | pd.Series | None = None,
    library_key: str | None = None,
    n_bootstrap: int = 500,
    rng: SeedLike | RNGLike | None = 0,
    table_key: str | None = None,
) -> pd.DataFrame:
    """Describe each slide by what its cells are and how they lie: one table of a cohort for survival or response models.

    Parameters
    ----------
    slides
        A folder, as `histocell predict` or `histocell.pp.embed_cohort` fills it; or data of one or several sections; or several of
        either, by name in a mapping.
    key
        Slot of ``obsm`` with the abundances, ``(n, n_types)``.
    colocalization
        Whether to add bivariate Moran's R of all pairs of types, less what independent fields give; or pairs of names.
    length_scale_um
        Of the co-localization, the same for all slides; by default that of `histocell.tl.colocalization`.
    block_um
        Edge of the squares of tissue that intervals resample: the interval of a slide is over its tissue, not over slides.
    patients
        Patient of each slide; by default ``obs["patient"]``, else each slide is a patient of its own.
    library_key
        Column of ``obs`` with the slides, by default ``section``.
    n_bootstrap
        Resamples of squares.
    rng
        Seed or generator; `None` for other draws each time.
    table_key
        Table of a SpatialData, by default ``tile_table`` where there is one.

    Returns
    -------
    Data frame of a row for each slide and feature: ``slide``, ``patient``, ``feature``, ``value``, ``low``, ``high``, ``interval``
    (``95 % over 20 blocks``; ``none`` of fewer than five). Features are ``share of <type>`` of the sum of all types,
    ``mean <type>`` per row, ``<type> with <type>``, ``n_rows``; ``tissue_mm2`` where rows are tiles, by
    their share of tissue; ``nuclei_per_mm2`` where nuclei were segmented. ``table.pivot(index="slide", columns="feature", values="value")`` makes a column of each.

    Raises
    ------
    FileNotFoundError
        When a folder holds no slide.
    KeyError
        When a slide has no abundances.
    ValueError
        When slides have the same name, or types differ between them.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(2, size_px=800, rng=0)
    >>> table = hc.tl.summarize_slides(sdata, key="cell_abundance", table_key="table", n_bootstrap=50)
    >>> wide = table.pivot(index="slide", columns="feature", values="value")
    >>> wide.shape, wide.filter(like="share of").sum(axis=1).round(6).tolist()
    ((2, 28), [1.0, 1.0])
    """
    check_positive(block_um, "block_um"), check_count(n_bootstrap, "n_bootstrap")
    pairs = colocalization if isinstance(colocalization, bool) else as_pairs(colocalization, "colocalization")
    given = None if patients is None else {str(slide): str(patient) for slide, patient in dict(patients).items()}
    generator, rows, types = as_rng(rng), [], None
    for name, data in progress_bar(_slides(slides), desc="Describing slides", unit="slide"):
        source = _open(data)
        table = _table_key(source, table_key)
        sections = Sections(source, table_key=table, library_key=library_key)
        frame = get.abundance(source, key, table_key=table)
        if types is not None and list(frame.columns) != types:
            msg = f"{name or 'a slide'} has the types {listing(frame.columns)}, others have {listing(types)}: predict all with one model"
            raise ValueError(msg)
        types = [str(column) for column in frame.columns]
        for section, found in zip(sections.names, sections.rows, strict=True):
            slide = str(name) if name and len(sections) == 1 else section if section != ALL else str(name or keys.TABLE)
            facts = _features(
                source, sections, frame, section, found, pairs, length_scale_um, block_um, n_bootstrap, generator
            )
            patient = _patient(sections, found, slide, given)
            rows += [(slide, patient, *fact) for fact in facts]
    out = pd.DataFrame(rows, columns=COLUMNS)
    if twice := sorted(out.loc[out.duplicated(["slide", "feature"]), "slide"].unique()):
        msg = f"several slides are called {listing(twice)}; give a mapping from names to slides"
        raise ValueError(msg)
    return out


def _slides(slides: Slides) -> list[tuple[str, Data | Path]]:
    """Names, empty where the data know them, and slides."""
    if isinstance(slides, Mapping):
        return [(str(name), Path(each) if isinstance(each, str | PathLike) else each) for name, each in slides.items()]
    if isinstance(slides, str | PathLike):
        folder = Path(slides)
        found = [folder] if folder.suffix == ".zarr" else sorted(folder.glob("*.zarr"))
        if not found:
            msg = (
                f"no slide (<name>.zarr) found in {folder}; `histocell predict` and hc.pp.embed_cohort write them there"
            )
            raise FileNotFoundError(msg)
        return [(path.stem, path) for path in found]
    if hasattr(slides, "obs_names") or is_spatialdata(slides):
        return [("", slides)]
    return [pair for each in slides for pair in _slides(each)]


def _open(data: Data | Path) -> Data:
    if not isinstance(data, Path):
        return data
    from spatialdata import read_zarr

    with reading(data, "the slide"):
        return read_zarr(data)


def _table_key(data: Data, table_key: str | None) -> str | None:
    if table_key is None and is_spatialdata(data) and keys.TILE_TABLE in data.tables:
        return keys.TILE_TABLE
    return table_key


def _patient(sections: Sections, rows: Ints, slide: str, given: Mapping[str, str] | None) -> str:
    if given is not None:
        if slide not in given:
            msg = f"patients= does not name the patient of {slide!r}; it has {listing(given)}"
            raise MissingKeyError(msg)
        return given[slide]
    if keys.PATIENT in sections.table.obs:
        return str(sections.table.obs[keys.PATIENT].iloc[rows[0]])
    return slide


def _features(
    data: Data,
    sections: Sections,
    frame: pd.DataFrame,
    section: str,
    rows: Ints,
    pairs: bool | Sequence[tuple[str, str]],
    length_scale_um: float | None,
    block_um: float,
    n_bootstrap: int,
    rng: np.random.Generator,
) -> Iterator[tuple[str, float, float, float, str]]:
    values = frame.to_numpy(dtype=np.float64)[rows]
    known = np.isfinite(values).all(axis=1)
    if not known.any():
        msg = f"{section}: no row has an abundance"
        raise ValueError(msg)
    if lost := int((~known).sum()):
        warn(f"{section}: {lost} of {len(rows)} rows have no abundance; left out")
    blocks = sections.squares(block_um)[rows][known]
    drawn = metrics.bootstrap_mean(values[known], n_bootstrap=n_bootstrap, rng=rng, blocks=blocks)
    n_blocks = len(np.unique(blocks))
    interval = name_interval(n_blocks, "blocks") if n_blocks >= LEAST_GROUPS and n_bootstrap else NONE
    mean = values[known].mean(axis=0)
    for what, each, resampled in (("share of", _shares(mean), _shares(drawn)), ("mean", mean, drawn)):
        low, high = metrics.percentile_interval(resampled) if interval != NONE else np.full((2, len(each)), np.nan)
        yield from (
            (f"{what} {name}", float(value), float(a), float(b), interval)
            for name, value, a, b in zip(frame.columns, each, low, high, strict=True)
        )
    yield "n_rows", float(known.sum()), np.nan, np.nan, NONE
    yield from ((name, value, np.nan, np.nan, NONE) for name, value in _areas(data, sections, section, rows))
    if pairs is not False and frame.shape[1] > 1:
        for name, value in _together(sections, frame, rows[known], pairs, length_scale_um):
            yield name, value, np.nan, np.nan, NONE


def _shares(means: Floats) -> Floats:
    total = means.sum(axis=-1, keepdims=True)
    return np.divide(means, total, out=np.full(means.shape, np.nan), where=total > 0)


def _areas(data: Data, sections: Sections, section: str, rows: Ints) -> Iterator[tuple[str, float]]:
    """Area of the tiles, and nuclei in it, of slides that have them."""
    table = sections.table
    facts = keys.read_provenance(table, keys.PATCHES)
    if (
        not is_spatialdata(data)
        or keys.TILE_TABLE not in data.tables
        or data[keys.TILE_TABLE] is not table
        or "size_um" not in facts
    ):
        return
    edge_um = float(facts["size_um"])
    if len(rows) > 1:  # tiles that overlap do not count twice
        edge_um = min(edge_um, spot_pitch(sections.coordinates_um()[rows]))
    share = (
        table.obs[keys.TISSUE_FRACTION].to_numpy(dtype=np.float64)[rows] if keys.TISSUE_FRACTION in table.obs else 1.0
    )
    area = float(np.nansum(np.broadcast_to(share, len(rows)))) * edge_um**2 * _MM2
    if not area > 0:
        return
    yield "tissue_mm2", area
    if keys.NUCLEUS_TABLE in data.tables:
        nuclei = Sections(data, table_key=keys.NUCLEUS_TABLE)
        if section in nuclei.names:
            yield "nuclei_per_mm2", len(nuclei.rows[nuclei.names.index(section)]) / area


def _together(
    sections: Sections,
    frame: pd.DataFrame,
    rows: Ints,
    pairs: bool | Sequence[tuple[str, str]],
    length_scale_um: float | None,
) -> Iterator[tuple[str, float]]:
    """Bivariate Moran's R of pairs of types within one slide, less what its null expects."""
    from anndata import AnnData

    names = [str(name) for name in frame.columns]
    wanted = list(combinations(names, 2)) if isinstance(pairs, bool) else list(pairs)
    if absent := sorted({name for pair in wanted for name in pair} - set(names)):
        msg = f"colocalization= names {listing(absent)}; the types are {listing(names)}"
        raise MissingKeyError(msg)
    here = AnnData(obs=pd.DataFrame({keys.MPP: sections.mpp()[rows]}, index=sections.table.obs_names[rows]))
    here.obsm[keys.SPATIAL], here.obsm["types"] = sections.coordinates_px()[rows], frame.iloc[rows]
    result = _colocalization(here, "types", length_scale_um=length_scale_um, inplace=False)
    place = {name: index for index, name in enumerate(result.names)} if result is not None else {}
    for first, second in wanted:
        pair = place.get(first), place.get(second)
        yield (
            f"{first} with {second}",
            float(result.R[pair] - result.expected[pair]) if result is not None and None not in pair else np.nan,
        )
