"""Maps of the expression of genes on the tissue, truth beside prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.arguments import as_names, check_switch
from histocell._core.errors import MissingKeyError, listing, missing_key, warn
from histocell.pl._maps import Maps, draw_maps
from histocell.pl._style import AMOUNT
from histocell.tables.access import get_table
from histocell.tables.expression import GenePanel, genes_of, read_expression

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from numpy.typing import NDArray

    from histocell._core.types import JSON
    from histocell.pl._sections import Images
    from histocell.tables.access import Data

_LABELS = {"log1p_cp10k": "log(1 + counts per 10,000)", "log1p": "log(1 + counts)"}
_FEW = 3  # genes that are shown by default


def expression(
    data: Data,
    genes: str | Sequence[str] | None = None,
    *,
    key: str = keys.PREDICTED_EXPRESSION,
    truth: bool = True,
    layer: str | None = None,
    section: str | Sequence[str] | None = None,
    image: Images | bool = True,
    image_alpha: float | None = None,
    alpha: float | None = None,
    cmap: str | Colormap = AMOUNT,
    vmax: float | str | Mapping[str, float] = "p99",
    size: float = 1.0,
    ncols: int | None = None,
    scalebar: bool = True,
    title: str | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool | None = None,
    table_key: str | None = None,
) -> Axes | NDArray[np.object_] | None:
    """Map the predicted expression of genes on the tissue, beside what was measured, on one colour scale.

    The correlation in a title is Pearson's over the spots shown, over the test spots alone where ``obs["split"]`` marks
    some. Measured counts are scaled as the panel of the model says.

    Parameters
    ----------
    data
        Reads ``obsm[key]`` or ``layers[key]``, raw counts, the coordinates, and where they are there the image,
        ``obs["section"]``, ``obs["mpp"]``, ``obs["split"]``.
    genes
        One or several; by default the first three of the panel, those that vary most.
    key
        The prediction that `histocell.tl.predict_expression` wrote.
    truth
        Whether what was measured is shown beside it, where the table has counts of the gene.
    layer
        Layer with raw counts; by default the one that the model was fitted on.
    section, image, image_alpha, alpha, cmap, vmax, size, ncols, scalebar, title, figsize, ax, show, table_key
        As in `histocell.pl.abundance`; the colour scales are by gene.

    Returns
    -------
    The axes, or for several maps an array of them of shape ``(genes, maps of each)``; nothing if `show` is `True`.

    Raises
    ------
    KeyError
        If there is no such prediction, or a gene is not in it.
    ValueError
        If there are too many sections, or the counts are no raw counts.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=600, spot_pitch_um=50, rng=0)
    >>> hc.pp.patches(sdata)
    >>> hc.pp.embed_image(sdata, "morphology")
    >>> hc.pp.split(sdata, by="patient", test="P3")
    >>> hc.tl.fit_expression(sdata, genes=5, model="ridge")
    >>> hc.tl.predict_expression(sdata)
    >>> axes = hc.pl.expression(sdata, section="P3S1")
    >>> axes.shape
    (3, 2)
    """
    table = get_table(data, table_key)
    facts = keys.read_provenance(table, key)
    known = list(facts.get("panel", {}).get("genes", []))
    names = known[:_FEW] if genes is None else as_names(genes)
    predicted, names = _predicted(table, key, names, known)
    measured = _measured(table, facts, names, layer) if check_switch(truth, "truth") else None
    label = _LABELS.get(facts.get("panel", {}).get("scale", ""), "expression")
    maps = Maps({"predicted": predicted}, measured, label, list(predicted.columns))
    look = {"image_alpha": image_alpha, "alpha": alpha, "cmap": cmap, "vmax": vmax, "size": size}
    layout = {"ncols": ncols, "scalebar": scalebar, "title": title, "figsize": figsize, "ax": ax, "show": show}
    return draw_maps(data, maps, section=section, image=image, table_key=table_key, **look, **layout)  # type: ignore[arg-type]


def _predicted(table: AnnData, key: str, names: list[str], known: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """The prediction of some genes, from ``obsm`` or ``layers``, and their names."""
    layers = [str(name) for name in table.layers.keys() if name is not None]
    if key in table.obsm:
        frame: Any = table.obsm[key]
        names = names or list(frame.columns[:_FEW])
        columns = [name.replace("/", "_") for name in names]
        if absent := [name for name, column in zip(names, columns, strict=True) if column not in frame]:
            raise _absent(absent, list(frame.columns), key)
        return frame[columns].set_axis(names, axis=1), names
    if key not in layers:
        there = [*table.obsm.keys(), *layers]
        raise missing_key(
            "obsm", key, there, "Run hc.tl.fit_expression(data) and hc.tl.predict_expression(data) first."
        )
    places, panel = genes_of(table), {name.upper() for name in known}
    names = names or known[:_FEW]
    if absent := [name for name in names if name.upper() not in places.index or (panel and name.upper() not in panel)]:
        raise _absent(absent, known, key)
    stored: Any = table.layers[key]
    values = np.asarray(stored[:, places[[name.upper() for name in names]].to_numpy()], dtype=np.float64)
    return pd.DataFrame(values, index=table.obs_names, columns=names), names


def _measured(table: AnnData, facts: JSON, names: list[str], layer: str | None) -> pd.DataFrame | None:
    """What was measured of these genes, `None` where the table has none of them."""
    if "panel" not in facts:
        warn("nothing is recorded of the scale of this prediction, so what was measured is not drawn")
        return None
    places = genes_of(table)
    there = [name for name in names if name.upper() in places.index]
    if not there:
        return None
    panel = GenePanel.from_dict(facts["panel"]).select(there)
    values = read_expression(table, panel, layer=facts.get("layer") if layer is None else layer)
    return pd.DataFrame(values.astype(np.float64), index=table.obs_names, columns=there)


def _absent(names: list[str], known: list[str], key: str) -> KeyError:
    msg = f"gene {listing(names)} is not in the prediction {key!r}, which has {listing(known)}"
    return MissingKeyError(msg)
