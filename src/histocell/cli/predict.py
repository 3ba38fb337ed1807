"""Predictions for slides with a saved model: zarr stores, maps and a table of means."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import histocell as hc
from histocell._core import keys
from histocell._core.errors import listing, warn
from histocell._core.outputs import check_outputs, file_digest, partial_folder, replacing
from histocell.cli.console import sentence

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from histocell._core.types import JSON
    from histocell.models.base import Model

MEANS = "means.csv"
NOVELTY = "novelty"  # median over the tiles, as that which predictions are warned of by


def predict_slides(
    slides: list[Path], *, model: Path, out: Path, device: str | None, adapter: Path | None = None, **options: Any
) -> pd.DataFrame:
    """Tile and embed slides as a model needs it, predict, draw maps.

    Parameters
    ----------
    slides, out
        As in :func:`histocell.pp.embed_cohort`; `out` gets ``<slide>.zarr`` with ``obsm["predicted_abundance"]``,
        ``<slide>.png`` and ``means.csv`` (tiles, median novelty, means), where slides of earlier runs of the same model keep their rows. What is there
        already of the same model is not done again.
    model
        Folder of the model, as ``save`` wrote it.
    device
        Torch device.
    adapter
        Folder of the adapter of the encoder, where it has one.
    **options
        More arguments of :func:`histocell.pp.embed_cohort`.

    Returns
    -------
    The report of :func:`histocell.pp.embed_cohort`; a slide that cannot be predicted has failed.

    Raises
    ------
    FileExistsError
        When `out` holds a file of the user's under the name of a result.

    Warns
    -----
    UserWarning
        When the model standardises within slides, so that their means say nothing.
    """
    loaded = hc.models.load(model)
    if adapter is not None:
        hc.encoders.register_adapter(adapter)
    check_outputs([*(out / f"{keys.slide_name(slide)}.png" for slide in slides), out / MEANS])
    if loaded.facts.get("standardize_by") is not None and not loaded.facts.get("beside_raw"):
        warn(
            f"the model standardises features within each slide, so means over slides ({MEANS}) come out alike, whatever is on "
            "them: compare places within a slide, or fit without standardize_by to compare slides"
        )
    report = hc.pp.embed_cohort(slides, out=out, device=device, **embedding_options(loaded), **options)
    files = sorted(path for path in model.iterdir() if path.suffix in {".json", ".safetensors"})
    fingerprint = " ".join(file_digest(path) for path in files)
    means = []
    for number, row in report.iterrows():
        if row["status"] == "failed":
            continue
        try:
            predicted = predict_slide(Path(row["path"]), Path(row["output"]), loaded, fingerprint, device=device)
        except (ValueError, LookupError, OSError) as error:
            report.loc[number, ["status", "error"]] = "failed", f"{type(error).__name__}: {sentence(error)}"
        else:
            means.append({"slide": Path(row["output"]).stem, **predicted})
    table = pd.DataFrame(means, columns=["slide", "n_tiles", NOVELTY, *loaded.targets])
    earlier = earlier_means(out, table.columns, fingerprint)
    with replacing(out / MEANS) as file:
        pd.concat([earlier[~earlier["slide"].isin(table["slide"])], table]).to_csv(file, index=False)
    return report


def earlier_means(out: Path, columns: pd.Index, fingerprint: str) -> pd.DataFrame:
    """Means that runs before wrote of slides whose store still holds the prediction of this model."""
    import zarr

    def is_current(slide: str) -> bool:
        try:
            facts = zarr.open_group(out / f"{slide}.zarr", mode="r").attrs.get(keys.PROVENANCE)
        except (OSError, ValueError):
            return False
        return isinstance(facts, dict) and facts.get("prediction") == fingerprint

    known = (
        pd.read_csv(out / MEANS, dtype={"slide": str}, keep_default_na=False, na_values=[""])
        if (out / MEANS).exists()
        else pd.DataFrame(columns=columns)
    )
    if list(known.columns) != list(columns):
        return pd.DataFrame(columns=columns)
    return known[known["slide"].map(is_current).astype(bool)]


def embedding_options(model: Model) -> JSON:
    """Encoder, size, pooling and stain of the one embedding that a model was fitted on."""
    if len(model.features) != 1:
        names = listing(feature["key"] for feature in model.features)
        msg = (
            f"the model was fitted on {len(model.features)} embeddings ({names}); `histocell predict` computes one. "
            "Use hc.pp.embed_image for each and hc.tl.predict_abundance"
        )
        raise ValueError(msg)
    (feature,) = model.features
    if absent := [fact for fact in ("encoder", "size_um") if fact not in feature]:
        msg = f"the model does not know the {listing(absent)} of its features {feature['key']!r}, so they cannot be computed"
        raise ValueError(msg)
    encoder = encoder_name(feature)
    pool, stain = feature.get("pool"), feature.get("stain", "none")
    return {
        "encoder": encoder,
        "size_um": feature["size_um"],
        "pool": None if pool == hc.encoders.get_spec(encoder).pooling else pool,
        "stain": None if stain == "none" else stain_normalizer(**stain),
    }


def encoder_name(feature: JSON) -> str:
    """The name that loads the encoder of a feature again; with its library where it is not registered."""
    name, library = str(feature["encoder"]), feature.get("library", "timm")
    if name in hc.encoders.list_encoders().index:
        return name
    if "adapter" in feature:
        msg = (
            f"the model was fitted on features of {name!r}, which is {feature['base']!r} with the adapter {feature['adapter']}; "
            "--adapter names its folder"
        )
        raise ValueError(msg)
    if library == "timm":
        return f"timm/{name}"
    if library == "lazyslide":
        return f"lazyslide:{name.removeprefix('lazyslide-')}"
    msg = (
        f"the model was fitted on features of {name!r}, which `histocell predict` cannot load by its name. "
        "Use hc.pp.embed_image and hc.tl.predict_abundance"
    )
    raise ValueError(msg)


def stain_normalizer(method: Any, target: JSON | None) -> hc.encoders.StainNormalizer:
    """The normaliser that a model's features record."""
    if target is None:
        return hc.encoders.StainNormalizer(method)
    values: JSON = {name: tuple(value) for name, value in target.items()}
    values["vectors"] = tuple(tuple(vector) for vector in target["vectors"])
    return hc.encoders.StainNormalizer(method, hc.encoders.StainTarget(**values))


def predict_slide(slide: Path, output: Path, model: Model, fingerprint: str, *, device: str | None) -> dict[str, float]:
    """Number of tiles, novelty and means of one slide, whose predictions are written into its store and drawn if need be."""
    sdata = read_store(output, model)
    facts = sdata.attrs[keys.PROVENANCE]
    figure = output.with_suffix(".png")
    if facts.get("prediction") != fingerprint:
        hc.tl.predict_abundance(sdata, model=model, device=device, table_key=keys.TILE_TABLE)
        facts["prediction"] = fingerprint
        check_outputs([figure])
        figure.unlink(missing_ok=True)
        replace_store(sdata, output)
    if not figure.exists():
        draw_map(sdata, slide, figure)
    predicted, obs = hc.get.abundance(sdata, table_key=keys.TILE_TABLE), sdata[keys.TILE_TABLE].obs
    novelty = obs.get(keys.PREDICTED + keys.NOVELTY, pd.Series(dtype="float64")).median()
    return {"n_tiles": len(predicted), NOVELTY: float(novelty), **predicted.mean()}


def read_store(output: Path, model: Model) -> SpatialData:
    """What is known of a slide, if all of it can be read.

    Raises
    ------
    ValueError
        When the store is damaged.
    """
    from spatialdata import read_zarr

    try:
        sdata = read_zarr(output)
        features = np.asarray(sdata[keys.TILE_TABLE].obsm[model.features[0]["key"]])
    except Exception as error:  # of which kind depends on what is damaged
        msg = f"{output} is damaged ({type(error).__name__}: {sentence(error)}); move it away, then the slide is embedded again"
        raise ValueError(msg) from error
    if lost := int((features == 0).all(axis=1).sum()):  # what zarr gives for a chunk that is not there
        msg = f"{output} has lost the features of {lost} tiles; move it away, then the slide is embedded again"
        raise ValueError(msg)
    return sdata


def replace_store(sdata: SpatialData, output: Path) -> None:
    """Write a store anew; a run that is killed leaves the old one, or none and the slide is embedded again."""
    with partial_folder(output.parent) as folder:
        partial = folder / output.name
        sdata.write(partial)
        for entry in output.iterdir():
            if not (partial / entry.name).exists():  # of the user's
                entry.rename(partial / entry.name)
        shutil.rmtree(output)
        partial.rename(output)


def draw_map(sdata: SpatialData, slide: Path, figure: Path) -> None:
    """All cell types on the tissue."""
    import matplotlib.pyplot as plt

    mpp = float(sdata[keys.TILE_TABLE].obs[keys.MPP].iloc[0])
    sdata.images[keys.IMAGE] = hc.io.slide(slide, mpp=mpp)[keys.IMAGE]  # the store holds a thumbnail only
    hc.pl.abundance(sdata, table_key=keys.TILE_TABLE, show=False)
    with replacing(figure) as file:
        plt.savefig(file, dpi=150, bbox_inches="tight")
        plt.close()
