"""Embedding of many slides, each a task of its own."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histocell import io
from histocell._core import keys
from histocell._core.arguments import check_positive, check_share
from histocell._core.settings import settings
from histocell.encoders.inference.slides import definition
from histocell.encoders.inference.store import FeatureStore
from histocell.encoders.loading import load
from histocell.encoders.networks.weights import local_weights
from histocell.encoders.registry import get_spec, register
from histocell.pp._cohort.files import Kind
from histocell.pp._cohort.run import run_cohort
from histocell.pp._embed_image import as_normalizer, embed_image
from histocell.pp._tiles import tiles
from histocell.pp._tissue import tissue_mask

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    import distributed
    import pandas as pd
    from spatialdata import SpatialData

    from histocell.encoders.inference.nucleus_tokens import NucleusPooling
    from histocell.encoders.spec import Encoder, EncoderSpec
    from histocell.images.stain.normalize import Method, StainNormalizer


KIND = Kind("hc.pp.embed_cohort", frozenset({keys.TISSUE, keys.TILES}), keys.TILE_TABLE, "n_tiles", FeatureStore.is_own)


@dataclass(frozen=True, kw_only=True)
class EmbedCohort:
    """Tiles and embeddings of many slides.

    Attributes
    ----------
    spec, loading
        The encoder, and the arguments of :func:`histocell.encoders.load`.
    tiling
        Options of :func:`histocell.pp.tiles`.
    stain
        Stain normalisation.
    mpp
        Micrometres per full-resolution px, where the files do not say it.
    settings
        All that the results depend on, as JSON can hold it.
    """

    spec: EncoderSpec
    loading: dict[str, Any]
    tiling: dict[str, Any]
    stain: StainNormalizer | None
    mpp: float | None
    settings: dict[str, object]

    @property
    def kind(self) -> Kind:
        """What is made."""
        return KIND

    def prepare(self, *, on_worker: bool = False) -> None:
        """Load the encoder, once for all slides of a process; on a worker its load may fail with the slide."""
        if not on_worker:
            cached_encoder(**self.loading)
        elif self.loading["encoder"] == self.spec.name:
            register(self.spec, overwrite=True)  # it may be known to the user's process alone

    def release(self) -> None:
        """Free the encoder."""
        cached_encoder.cache_clear()

    def process(self, slide: Path, store: Path) -> SpatialData:
        """The slide with its tissue, its tiles and their embedding."""
        sdata = io.slide(slide, mpp=self.mpp)
        tissue_mask(sdata)
        tiles(sdata, **self.tiling)
        encoder = cached_encoder(**self.loading)
        embed_image(sdata, encoder, stain=self.stain, store=store, lazy=True, table_key=keys.TILE_TABLE)
        return sdata


@lru_cache(maxsize=1)
def cached_encoder(**loading: Any) -> Encoder:
    """The encoder, loaded once for all slides of a process."""
    return load(**loading)


def embed_cohort(
    paths: Sequence[str | PathLike[str]],
    encoder: str = "morphology",
    *,
    out: str | PathLike[str],
    size_um: float = 112.0,
    overlap: float = 0.0,
    min_tissue: float = 0.3,
    mpp: float | None = None,
    weights: str | PathLike[str] | None = None,
    pool: str | NucleusPooling | None = None,
    stain: Method | StainNormalizer | None = None,
    precision: str = "auto",
    batch_size: int | None = None,
    device: str | Sequence[str] | None = None,
    client: distributed.Client | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Tile and embed many slides, into one SpatialData each.

    A slide is a task: :func:`histocell.io.slide`, :func:`histocell.pp.tissue_mask`, :func:`histocell.pp.tiles` and
    :func:`histocell.pp.embed_image` with a store. An error on one slide is reported and does not stop the others.
    Started again, a run skips the slides that are done and resumes those that are not. Whether a slide is the same is told
    by its content, which is read where its size, time or inode changed.

    Parameters
    ----------
    paths
        The slides: what :func:`histocell.io.slide` opens.
    encoder
        Name of an encoder (:func:`histocell.encoders.list_encoders`); each worker loads it once.
    out
        Folder for the results, ``<name of the slide>.zarr``.
    size_um, overlap, min_tissue
        Edge of a tile in um, the share that neighbours have in common, and the least share of tissue, as in
        :func:`histocell.pp.tiles`.
    mpp
        Micrometres per full-resolution px of all slides; by default what each file says.
    weights, pool, stain, precision, batch_size, device
        As in :func:`histocell.pp.embed_image`.
    client
        A ``distributed.Client``; its workers share the slides, each taking one at a time, and must see `paths`, `out` and
        `weights`. A slide whose worker dies goes to another one, three times at most. By default the slides are embedded one
        after the other in this process.
    overwrite
        Whether slides that are done already are embedded again.

    Returns
    -------
    DataFrame in the order of `paths`: ``path``, ``output``, ``status`` (``"done"``, ``"skipped"`` or ``"failed"``),
    ``n_tiles``, ``seconds`` and ``error``. On disk, for each slide:

    ``<out>/<slide>.zarr``
        SpatialData with the shapes ``tissue`` and ``tiles``, the table ``tile_table`` with ``obsm["X_<encoder>"]`` and
        the name of the slide in ``obs["section"]``, and an image ``thumbnail``; the slide itself is not copied.
        ``attrs["histocell"]`` holds the path of the slide and the settings.
        ``sdata.images["he"] = hc.io.slide(path)["he"]`` brings the slide back; after ``spatialdata.concatenate`` under the
        name ``a`` it is ``sdata.images["he-a"] = hc.io.slide(path, section="a")["he-a"]``.
    ``<out>/<slide>.store``
        Features of a slide that is not done yet.

    Raises
    ------
    ValueError
        When `paths` is empty, two slides have one name, or `out` holds results of other settings.
    FileExistsError
        When `out` holds something else under the name of a result or its store, or something was added to one that would
        be replaced. Nothing is touched then.
    KeyError
        For an unknown encoder.

    Examples
    --------
    >>> import histocell as hc
    >>> paths = ["a.svs", "b.svs"]
    >>> report = hc.pp.embed_cohort(paths, "uni", out="embedded")  # doctest: +SKIP
    >>> report.query("status == 'failed'")[["path", "error"]]  # doctest: +SKIP

    On a machine with several processors, or on a cluster:

    >>> from distributed import Client, LocalCluster
    >>> with LocalCluster(n_workers=4, threads_per_worker=1) as cluster, Client(cluster) as client:  # doctest: +SKIP
    ...     hc.pp.embed_cohort(paths, "uni", out="embedded", client=client)
    """
    device = settings.device if device is None else device
    spec, normalizer = get_spec(encoder), as_normalizer(stain)
    if spec.adapter is not None:  # by its name, which workers are told, wherever its folder was named from
        encoder = spec.name
    tiling = _tiling(size_um, overlap, min_tissue)
    loading = {
        "encoder": encoder,
        "weights": None if weights is None else str(weights),
        "pool": pool,
        "precision": precision,
        "batch_size": batch_size,
        "device": device if device is None or isinstance(device, str) else tuple(device),
    }
    facts: dict[str, object] = {
        "encoder": encoder,
        "weights": _version(weights, spec),
        "definition": definition(spec),
        "pool": None if pool is None else str(pool),
        "stain": None if normalizer is None else asdict(normalizer),
        "precision": precision,
        **tiling,
        "mpp": mpp,
    }
    cohort = EmbedCohort(spec=spec, loading=loading, tiling=tiling, stain=normalizer, mpp=mpp, settings=facts)
    return run_cohort(paths, cohort, out=out, client=client, overwrite=overwrite)


def _version(weights: str | PathLike[str] | None, spec: EncoderSpec) -> str:
    """Version of the weights, without loading them; with the sizes that a config beside them gives."""
    if weights is None or weights == "random":
        return weights or spec.revision
    local = local_weights(Path(weights), spec)
    return local.version + (f" {json.dumps(local.config, sort_keys=True)}" if local.config else "")


def _tiling(size_um: float, overlap: float, min_tissue: float) -> dict[str, float]:
    """Arguments of :func:`histocell.pp.tiles`, checked before any slide is read."""
    return {
        "size_um": check_positive(size_um, "size_um"),
        "overlap": check_share(overlap, "overlap", ends="[)"),
        "min_tissue": check_share(min_tissue, "min_tissue"),
    }
