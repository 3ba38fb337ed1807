"""Expression of a panel of genes as numbers to be predicted: how the panel is chosen, and how a table is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix, diags_array, issparse

from histocell._core.arguments import as_names, check_count, check_share
from histocell._core.errors import MissingKeyError, listing, missing_key, warn
from histocell._core.settings import logger
from histocell.tables.genes.arrays import ArrayNeighbors
from histocell.tables.sections import Sections

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike

    from histocell._core.types import JSON, Bools, Floats, Ints

    type Stored = np.ndarray | csr_matrix

SCALES = ("log1p_cp10k", "log1p")
FLAVORS = ("seurat", "variance", "mean")
TOTALS = ("all", "counted")
_CONTROLS = r"BLANK|CONTROL|AMBIGUOUS"
_PER = 1e4
_LEAST_COUNTS = 3  # of a gene
_BINS = 20
_ROWS = 2048  # read at once
_FEW_SPOTS = 2
_FEW_EMPTY = 0.1  # share of rows


@dataclass(frozen=True)
class GenePanel:
    """Genes whose expression is predicted, and what their numbers are; `choose_panel` makes one.

    Attributes
    ----------
    genes
        Names, in the order of the columns. They are found in other tables whatever the case of their letters.
    scale
        ``"log1p_cp10k"``: the logarithm of 1 + counts per 10,000 of the spot. ``"log1p"``: of 1 + the counts.
    spot_context
        Whether the counts of a spot are averaged with those of the spots beside it in the array, half and half.
    totals
        What the counts of a spot are summed over: ``"all"`` genes of its table but controls, or those that are
        ``"counted"`` at least three times in it, as SEAL does. The latter depends on which rows the table has.
    mean, std
        Of each gene over the training rows, in this scale.
    """

    genes: list[str]
    scale: str = SCALES[0]
    spot_context: bool = False
    totals: str = TOTALS[0]
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        _check_choice(self.scale, "scale", SCALES)
        _check_choice(self.totals, "totals", TOTALS)
        if not self.genes:
            msg = "a panel needs at least one gene"
            raise ValueError(msg)
        names = pd.Index(self.genes).str.upper()
        if names.has_duplicates:
            msg = f"genes more than once in the panel: {listing(names[names.duplicated()].unique())}"
            raise ValueError(msg)

    def __len__(self) -> int:
        return len(self.genes)

    def __repr__(self) -> str:
        context = ", averaged with neighbours" if self.spot_context else ""
        return f"GenePanel({listing(self.genes, 4)}; {self.scale}{context})"

    def to_dict(self) -> JSON:
        """The panel as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: JSON) -> Self:
        """The panel of `to_dict`."""
        known = {each.name for each in fields(cls)}
        if "genes" not in values or not set(values) <= known:
            msg = f"not a gene panel: it has {listing(values)}, a panel has {listing(sorted(known))}"
            raise ValueError(msg)
        return cls(**values)

    def select(self, genes: Sequence[str]) -> Self:
        """The panel of some of its genes, in the order given."""
        place = {name.upper(): index for index, name in enumerate(self.genes)}
        index = [place[name.upper()] for name in genes]
        mean, std = ([values[i] for i in index] if values else [] for values in (self.mean, self.std))
        return replace(self, genes=list(genes), mean=mean, std=std)


def choose_panel(
    data: Sections | AnnData | Sequence[Sections | AnnData],
    rows: ArrayLike | Sequence[ArrayLike | None] | None = None,
    *,
    genes: int | str | Sequence[str] | None = 50,
    flavor: str = "seurat",
    min_share: float = 0.0,
    scale: str = SCALES[0],
    spot_context: bool = False,
    totals: str = TOTALS[0],
    layer: str | None = None,
) -> GenePanel:
    """Choose genes by their expression in training rows.

    Candidates are the genes that all tables have, but for those whose names hold BLANK, CONTROL or AMBIGUOUS; of names that
    repeat, whatever the case of their letters, the first counts. They need three counts in the training rows, and
    at least one in every section that has training rows.

    Parameters
    ----------
    data
        One table or several.
    rows
        Training rows of each table, positions or booleans; all by default. No other row is looked at.
    genes
        How many of the candidates; or names, taken as they are; or `None` for all candidates.
    flavor
        What is largest: ``"seurat"``, dispersions normalised within 20 bins of the mean, of counts per 10,000; or
        ``"variance"`` or ``"mean"`` in the scale of the panel, without the context of the spots. Of equal ones the first
        in the table.
    min_share
        Share of the training rows of every section that must have counts of a gene.
    scale, spot_context, totals
        See `GenePanel`.
    layer
        Layer with raw counts, by default ``X``.

    Raises
    ------
    KeyError
        When named genes are not in all tables, or the layer is missing.
    ValueError
        When tables share no gene, values are no raw counts, or fewer candidates remain than are asked for.
    """
    given = [data] if isinstance(data, Sections | AnnData) else list(data)
    sections = [each if isinstance(each, Sections) else Sections(each) for each in given]
    of_each: Any = rows if len(sections) > 1 or _is_nested(rows) else [rows]
    of_each = [None] * len(sections) if of_each is None else of_each
    training = [_positions(each, some.table.n_obs) for each, some in zip(of_each, sections, strict=True)]
    _check_choice(flavor, "flavor", FLAVORS)
    draft = GenePanel(["-"], scale, spot_context, totals)
    shared = _shared_genes([each.table for each in sections])
    if genes is None or isinstance(genes, int | np.integer):
        check_share(min_share, "min_share")
        n_genes = None if genes is None else check_count(genes, "genes", least=1)
        found = _Moments.of(sections, training, replace(draft, genes=shared, spot_context=False), layer)
        names = _best(found, shared, n_genes, flavor, min_share)
    else:
        names = _named(as_names(genes), shared)
    panel = replace(draft, genes=names)
    known = _Moments.of(sections, training, panel, layer)
    return replace(panel, mean=known.mean.tolist(), std=np.sqrt(known.variance).tolist())


def read_expression(
    table: AnnData,
    panel: GenePanel,
    *,
    layer: str | None = None,
    rows: ArrayLike | None = None,
    where: str = "this table",
) -> np.ndarray:
    """The expression of the genes of a panel, ``(n, n_genes)``, float32.

    Rows without any counts are NaN in counts per 10,000: nothing is known of them. The context of the spots, where the
    panel has it, is that of all spots of the table.

    Parameters
    ----------
    table
        Raw counts.
    panel
        The genes, and what their numbers are.
    layer
        Layer with raw counts, by default ``X``.
    rows
        Positions or booleans, all rows by default.
    where
        What a message calls the table.

    Raises
    ------
    KeyError
        When genes of the panel or the layer are missing.
    ValueError
        When values are no raw counts.
    """
    reader = _Reader.of(Sections(table), panel, layer, where)
    wanted = _positions(rows, table.n_obs)
    out, empty = np.empty((len(wanted), len(panel)), dtype=np.float32), 0
    for start in range(0, len(wanted), _ROWS):
        some = slice(start, start + _ROWS)
        values, known = reader.read(wanted[some])
        out[some] = values.toarray()
        out[some][~known] = np.nan
        empty += int((~known).sum())
    report_empty(empty, len(wanted), "their expression is not known (NaN)")
    return out


def report_empty(n: int, n_rows: int, so: str) -> None:
    """Say how many rows have no counts: a few lie beside the tissue, many are worth a warning."""
    if n:
        say = warn if n > _FEW_EMPTY * n_rows else logger.info
        say(f"{n} of {n_rows} rows have no counts: {so}")


def total_counts(table: AnnData, layer: str | None = None) -> Floats:
    """Counts of each row over all genes but controls, ``(n,)``."""
    stored, counted = raw_counts(table, layer), np.zeros(table.n_vars)
    counted[genes_of(table).to_numpy()] = 1
    return np.concatenate([part @ counted for _, part in _parts(stored, np.arange(table.n_obs))])


def genes_of(table: AnnData) -> pd.Series:
    """Columns of the genes of a table by their names in capitals: without controls, of repeated names the first."""
    names = pd.Index(table.var_names.astype(str)).str.upper()
    columns = pd.Series(np.arange(len(names)), index=names)
    return columns[~names.duplicated() & ~names.str.contains(_CONTROLS)]


class _Reader(NamedTuple):
    """What is needed to read rows of a table.

    Attributes
    ----------
    stored
        The counts, rows by genes.
    columns
        Columns of the genes of the panel.
    counted
        Which columns count in totals, 1 or 0; `None` where there are no totals.
    neighbors
        Of the spots in the array, where they are averaged.
    """

    stored: Any
    columns: Ints
    counted: Floats | None
    neighbors: ArrayNeighbors | None

    @classmethod
    def of(cls, sections: Sections, panel: GenePanel, layer: str | None, where: str = "this table") -> Self:
        table = sections.table
        stored, known = raw_counts(table, layer), genes_of(table)
        wanted = pd.Index(panel.genes).str.upper()
        if absent := [name for name, key in zip(panel.genes, wanted, strict=True) if key not in known.index]:
            msg = (
                f"{len(absent)} of the {len(panel)} genes of the panel are not in {where}: {listing(absent)}. It has "
                f"{len(known)} genes: {listing(table.var_names, 4)}. Gene names must be of one kind (symbols or Ensembl "
                "identifiers); fit on the genes that the tables share, or on a list of genes"
            )
            raise MissingKeyError(msg)
        counted = None
        if panel.scale == SCALES[0]:
            counted = np.zeros(table.n_vars)
            counted[known.to_numpy()] = 1
            if panel.totals == TOTALS[1]:
                counted *= sum(_sum(part) for _, part in _parts(stored, np.arange(table.n_obs))) >= _LEAST_COUNTS
        neighbors = ArrayNeighbors.of(sections) if panel.spot_context else None
        return cls(stored, known[wanted].to_numpy(), counted, neighbors)

    def read(self, rows: Ints) -> tuple[csr_matrix, Bools]:
        """Values of the panel, sparse, and which rows are known."""
        counts = as_csr(self.stored[rows])
        known = np.ones(len(rows), dtype=bool) if self.counted is None else counts @ self.counted > 0
        if self.neighbors is not None:
            around, weights = self.neighbors.around(rows)
            counts = csr_matrix(0.5 * counts + 0.5 * (weights @ as_csr(self.stored[around])))
        values = counts[:, self.columns].astype(np.float64)
        if self.counted is not None:
            totals = counts @ self.counted
            factors = np.divide(_PER, totals, out=np.zeros(len(rows)), where=totals > 0)
            values = csr_matrix(diags_array(factors) @ values)
        return values.log1p(), known


class _Moments(NamedTuple):
    """What is known of genes over training rows.

    Attributes
    ----------
    mean, variance
        In the scale of the panel; the variance of the sample (n - 1).
    raw_mean, raw_variance
        The same of counts per 10,000, not of their logarithms.
    counts
        Sum of the raw counts.
    share
        Least share of the rows of a section that have counts.
    """

    mean: Floats
    variance: Floats
    raw_mean: Floats
    raw_variance: Floats
    counts: Floats
    share: Floats

    @classmethod
    def of(cls, sections: Sequence[Sections], rows: Sequence[Ints], panel: GenePanel, layer: str | None) -> Self:
        """Of tables that hold all genes of a panel; rows without counts do not count."""
        sums, counts, shares, n = np.zeros((4, len(panel))), np.zeros(len(panel)), np.ones(len(panel)), 0
        for each, training in zip(sections, rows, strict=True):
            reader = _Reader.of(each, panel, layer)
            for name in dict.fromkeys(each.labels[training]):
                mine = training[each.labels[training] == name]
                found, n_known = np.zeros(len(panel)), 0
                for start in range(0, len(mine), _ROWS):
                    part = mine[start : start + _ROWS]
                    values, known = reader.read(part)
                    stored = as_csr(reader.stored[part])[:, reader.columns]
                    counts += _sum(stored)
                    found += _sum(stored > 0)
                    values, n_known = values[known], n_known + int(known.sum())
                    raw = values.expm1()
                    sums += [_sum(values), _sum(values.power(2)), _sum(raw), _sum(raw.power(2))]
                n += n_known
                shares = np.minimum(shares, found / max(n_known, 1))
        if n < _FEW_SPOTS:
            msg = f"{n} training rows have counts; a panel needs at least {_FEW_SPOTS}"
            raise ValueError(msg)
        mean, square, raw, raw_square = sums / n
        spread = n / (n - 1)
        variances = [np.maximum(b - a**2, 0.0) * spread for a, b in ((mean, square), (raw, raw_square))]
        return cls(mean, variances[0], raw, variances[1], counts, shares)


def raw_counts(table: AnnData, layer: str | None = None) -> Stored:
    """Raw counts of a table, as they are stored.

    Raises
    ------
    KeyError
        When there is no such layer.
    ValueError
        When values are negative, not finite or no whole numbers.
    """
    layers = [str(name) for name in table.layers.keys() if name is not None]
    if layer is not None and layer not in layers:
        raise missing_key("layers", layer, layers, "layer= names the layer with raw counts.")
    stored: Any = table.X if layer is None else table.layers[layer]
    slot = "X" if layer is None else f'layers["{layer}"]'
    if stored is None:
        msg = f"{slot} is empty; layer= names the layer with raw counts: {listing(layers)}"
        raise ValueError(msg)
    wrong = fractions = total = 0
    example = 0.0
    for _, part in _parts(stored, np.arange(table.n_obs)):
        values = part.data
        bad = ~np.isfinite(values) | (values < 0)
        odd = ~bad & (values != np.rint(values))
        if (bad | odd).any() and not wrong + fractions:
            example = float(values[bad | odd][0])
        wrong, fractions, total = wrong + int(bad.sum()), fractions + int(odd.sum()), total + len(values)
    if wrong or fractions:
        what = f"{wrong} values below 0 or not finite" if wrong else f"{fractions} of {total} values that are fractions"
        msg = (
            f"{slot} does not hold raw counts: {what} (such as {example:.4g}); it was normalised or scaled. layer= names the "
            f"layer with raw counts: {listing(layers)}"
        )
        raise ValueError(msg)
    if total == 0:
        msg = f"{slot} holds no counts at all"
        raise ValueError(msg)
    return stored.tocsr() if issparse(stored) and stored.format != "csr" else stored


def as_csr(values: Stored) -> csr_matrix:
    """Rows of counts, sparse."""
    if not issparse(values) and not isinstance(values, np.ndarray):
        values = values.to_memory() if hasattr(values, "to_memory") else np.asarray(values)
    return csr_matrix(values)


def _parts(stored: Stored, rows: Ints) -> Iterator[tuple[Ints, csr_matrix]]:
    if not isinstance(stored, np.ndarray) and getattr(stored, "format", "csr") != "csr":
        stored = stored.tocsr()
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        yield some, as_csr(stored[start : start + len(some)])


def _sum(values: csr_matrix) -> Floats:
    return np.asarray(values.sum(axis=0), dtype=np.float64).ravel()


def _shared_genes(tables: Sequence[AnnData]) -> list[str]:
    """Genes of all tables, as the first one spells them."""
    known = [genes_of(table) for table in tables]
    first = known[0].index
    shared = first[np.logical_and.reduce([first.isin(each.index) for each in known])]
    if len(shared) == 0:
        samples = "; ".join(listing(table.var_names, 3) for table in tables[:3])
        msg = (
            f"the {len(tables)} tables share no gene: {samples}. Gene names must be of one kind, symbols or Ensembl "
            "identifiers; write those that they share to var_names"
        )
        raise ValueError(msg)
    if len(shared) < max(len(each) for each in known):
        logger.info("%d genes are in all %d tables", len(shared), len(tables))
    return tables[0].var_names[known[0][shared].to_numpy()].astype(str).tolist()


def _named(names: list[str], shared: list[str]) -> list[str]:
    spelled = dict(zip(pd.Index(shared).str.upper(), shared, strict=True))
    if absent := [name for name in names if name.upper() not in spelled]:
        msg = f"genes {listing(absent)} are not in all tables; the tables share {len(shared)}: {listing(shared)}"
        raise MissingKeyError(msg)
    return [spelled[name.upper()] for name in names]


def _best(found: _Moments, names: list[str], n_genes: int | None, flavor: str, min_share: float) -> list[str]:
    """The genes with the largest values, the largest first."""
    usable = (found.counts >= _LEAST_COUNTS) & (found.share >= min_share) & (found.share > 0)
    if n_genes is None:
        n_genes = int(usable.sum())
    if n_genes > usable.sum() or n_genes == 0:
        msg = (
            f"{int(usable.sum())} of {len(names)} genes have at least {_LEAST_COUNTS} counts in the training rows and are found in "
            f"{f'at least {min_share:.0%} of the rows of ' if min_share else ''}every section, fewer than genes={n_genes}. Ask for "
            "fewer, lower min_share=, or look whether the sections share their genes"
        )
        raise ValueError(msg)
    values = {"variance": found.variance, "mean": found.mean}.get(flavor)
    if values is None:
        values = np.full(len(names), -np.inf)
        values[usable] = normalized_dispersions(found.raw_mean[usable], found.raw_variance[usable])
    order = np.argsort(np.where(usable, -np.nan_to_num(values, nan=-np.inf), np.inf), kind="stable")
    return [names[index] for index in order[:n_genes]]


def normalized_dispersions(mean: Floats, variance: Floats) -> Floats:
    """Dispersions of genes in units of those of genes with a similar mean; NaN for genes that do not vary.

    Satija et al. 2015 (Seurat): the logarithm of variance over mean, less its mean over the genes of a bin of equal width of
    the logarithm of 1 + mean, over its standard deviation; a gene alone in its bin gets 1.

    References
    ----------
    Satija et al.: Spatial reconstruction of single-cell gene expression data (Nature Biotechnology 2015).
    """
    ratio = variance / np.where(mean == 0, 1e-12, mean)
    dispersion = pd.Series(np.log(np.where(ratio == 0, np.nan, ratio)))
    bins = dispersion.groupby(pd.cut(pd.Series(np.log1p(mean)), bins=_BINS).cat.codes)
    center, spread = bins.transform("mean"), bins.transform("std")
    alone = spread.isna()
    out = (dispersion - center.where(~alone, 0.0)) / spread.where(~alone, center)
    return out.to_numpy()


def _is_nested(rows: object) -> bool:
    """Whether rows are given for each of several tables."""
    if not isinstance(rows, Sequence) or isinstance(rows, np.ndarray) or len(rows) == 0:
        return False
    return rows[0] is None or np.ndim(rows[0]) > 0


def _positions(rows: ArrayLike | None, n: int) -> Ints:
    if rows is None:
        return np.arange(n)
    array = np.asarray(rows)
    return np.flatnonzero(array) if array.dtype == bool else array.astype(np.intp)


def _check_choice(value: str, name: str, choices: Sequence[str]) -> None:
    if value not in choices:
        msg = f"{name} must be one of {', '.join(choices)}, not {value!r}"
        raise ValueError(msg)
