"""Split rows into train, val and test: whole groups or whole spatial blocks, never single spots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histocell._core import keys
from histocell._core.arguments import as_names, check_switch
from histocell._core.errors import MissingKeyError, listing, warn
from histocell._core.keys import DROPPED, TEST, TRAIN, VAL
from histocell._core.rng import as_rng
from histocell.tables.access import row_labels
from histocell.tables.fields import FieldsOfView
from histocell.tables.sections import Sections

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from histocell._core.rng import RNGLike, SeedLike
    from histocell.tables.access import Data


def split(
    data: Data,
    *,
    by: str | None = None,
    block_um: float | None = None,
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
    test: str | Sequence[str] | None = None,
    val: str | Sequence[str] | None = None,
    single_rows: bool = False,
    rng: SeedLike | RNGLike | None = 0,
    features: str | Sequence[str] | None = None,
    library_key: str | None = None,
    key_added: str = keys.SPLIT,
    table_key: str | None = None,
    inplace: bool = True,
) -> pd.Series | None:
    """Divide rows into training, validation and test rows.

    Neighbouring spots show the same tissue, so spots are never divided one by one: whole levels of a column go together,
    or whole squares of tissue. Where patches, or what the encoders of the embeddings see around them, overlap
    nevertheless, a row for training or validation that shares tissue with a test row, or a training row that shares
    tissue with a validation row, becomes ``dropped``. A fit looks again, so patches may be made later.

    Parameters
    ----------
    data
        AnnData, or SpatialData with a table.
    by
        Column of ``obs`` whose levels stay together; by default ``patient``, else ``section``, whichever has two levels.
    block_um
        Edge of the squares that stay together, in um, in place of `by`; needs ``obs["mpp"]``, or images that say it.
    fractions
        Shares of groups for training, validation and test. A share of 0 leaves that part out.
    test, val
        Names of the groups for test and validation, in place of `fractions`; all others are for training.
    single_rows
        Whether rows are divided one by one, as publications of single cells do, and none is dropped; with a warning, since
        neighbours of test rows are trained on. For comparisons with such figures alone.
    rng
        Seed or generator that draws the groups; `None` for others each time.
    features
        Embeddings that count for the overlap; all in ``obsm`` by default. `histocell.encoders.EncoderSpec` says what an
        encoder sees; ``"morphology"`` sees 600 um around a row, so its blocks must be large.
    library_key
        Column of ``obs`` with the sections or slides: rows of two of them share no tissue, whatever their coordinates. By
        default ``section``, else what `histocell.pp.patches` was given.
    key_added
        Column of ``obs``: a category of ``train``, ``val``, ``test`` and, where rows had to go, ``dropped``.
    table_key
        Table of a SpatialData, where it holds several.
    inplace
        Whether to write into `data`.

    Returns
    -------
    `None`, or with ``inplace=False`` the column that would have been written.

    Raises
    ------
    KeyError
        When a column or a named group is missing.
    ValueError
        When there are too few groups, a part would be empty, or the resolution for `block_um` is unknown.

    Examples
    --------
    >>> import histocell as hc
    >>> sdata = hc.datasets.synthetic_tissue(size_px=600, spot_pitch_um=50, spot_diameter_um=50)
    >>> hc.pp.split(sdata, block_um=100, rng=0)
    >>> sdata["table"].obs["split"].cat.categories.tolist()
    ['train', 'val', 'test']
    """
    sections = Sections(data, table_key=table_key, library_key=library_key)
    table = sections.table
    named = test is not None or val is not None
    if check_switch(single_rows, "single_rows"):
        if named or by is not None or block_um is not None:
            msg = "single_rows divides rows one by one; it goes with fractions, not with by, block_um, test or val"
            raise ValueError(msg)
        labels = np.arange(table.n_obs).astype(object)
    elif block_um is None:
        labels = row_labels(table, by or _default_column(sections))
    elif by is None and not named:
        labels = sections.squares(block_um)
    else:
        msg = "block_um divides tissue into squares; it goes with fractions, not with by, test or val"
        raise ValueError(msg)
    parts = (
        _named(labels, *([] if each is None else as_names(each) for each in (test, val)))
        if named
        else _drawn(labels, fractions, as_rng(rng))
    )
    if single_rows:
        warn(
            "rows are divided one by one: test rows lie beside training rows and share their tissue, so scores flatter; "
            "block_um= or by= keeps them apart"
        )
    else:
        parts = _drop_overlaps(FieldsOfView.of(sections, None if features is None else as_names(features)), parts)
    present = [name for name in (TRAIN, VAL, TEST, DROPPED) if name in (TRAIN, VAL, TEST) or (parts == name).any()]
    column = pd.Series(pd.Categorical(parts, categories=present), index=table.obs_names, name=key_added)
    if not inplace:
        return column
    table.obs[key_added] = column
    keys.write_provenance(
        table, key_added, by=by, block_um=block_um, **{str(k): int(v) for k, v in column.value_counts().items()}
    )
    return None


def _default_column(sections: Sections) -> str:
    if key := sections.replicate_key():
        return key
    msg = (
        f'neither obs["{keys.PATIENT}"] nor obs["{keys.SECTION}"] has two levels; name a column with by=, or divide the '
        "section into squares with block_um=1000"
    )
    raise ValueError(msg)


def _named(labels: NDArray[np.object_], test: list[str], val: list[str]) -> NDArray[np.object_]:
    there = sorted(set(labels))
    if absent := [name for name in (*test, *val) if name not in there]:
        msg = f"no group {listing(absent)}; there are: {listing(there)}"
        raise MissingKeyError(msg)
    if both := sorted(set(test) & set(val)):
        msg = f"{listing(both)} cannot be for test and for validation at once"
        raise ValueError(msg)
    parts = _parts(labels, test, val)
    if not (parts == TRAIN).any():
        msg = f"no group is left for training; there are: {listing(there)}"
        raise ValueError(msg)
    return parts


def _drawn(labels: NDArray[np.object_], fractions: Sequence[float], rng: np.random.Generator) -> NDArray[np.object_]:
    """Groups drawn by share; every part whose share is not 0 gets at least one."""
    try:
        shares = np.asarray(fractions, dtype=np.float64)
    except (TypeError, ValueError):
        shares = np.empty(0)
    if shares.shape != (3,) or (shares < 0).any() or shares[0] == 0 or not np.isclose(shares.sum(), 1):
        msg = f"fractions must be three shares (train, val, test) that sum to 1, the first above 0, not {fractions}"
        raise ValueError(msg)
    groups = np.unique(labels)
    wanted = int((shares > 0).sum())
    if len(groups) < wanted:
        msg = (
            f"{len(groups)} groups ({listing(groups)}) cannot make {wanted} parts; divide by a finer column, use block_um=, "
            "or leave a part out, for example fractions=(0.8, 0, 0.2)"
        )
        raise ValueError(msg)
    counts = np.where(shares > 0, np.maximum(np.rint(shares * len(groups)), 1), 0).astype(int)
    while counts[1:].sum() > len(groups) - 1:
        counts[1 + counts[1:].argmax()] -= 1
    order = rng.permutation(groups)
    return _parts(labels, order[: counts[2]], order[counts[2] : counts[2] + counts[1]])


def _parts(labels: NDArray[np.object_], test: ArrayLike, val: ArrayLike) -> NDArray[np.object_]:
    return np.select([np.isin(labels, test), np.isin(labels, val)], [TEST, VAL], TRAIN).astype(object)


def _drop_overlaps(fields: FieldsOfView, parts: NDArray[np.object_]) -> NDArray[np.object_]:
    """The parts without rows that show tissue of one that must stay unseen; an emptied part is an error."""
    kept = fields.drop_shared(parts)
    if dropped := int((kept == DROPPED).sum()):
        warn(f"{dropped} rows dropped: their field of view ({fields.size}) overlaps that of test or validation rows")
    if emptied := [name for name in (TRAIN, VAL, TEST) if (parts == name).any() and not (kept == name).any()]:
        msg = (
            f"the field of view ({fields.size}) of every {listing(emptied)} row overlaps that of held-out rows; use larger "
            "blocks, or smaller patches and an encoder that sees less (features= names those that count)"
        )
        raise ValueError(msg)
    return kept
