"""Small files and folders of each kind that histocell reads, and how it reads them."""

from __future__ import annotations

import builtins
import gzip
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import anndata as ad
import cell_specimens as cells
import geopandas as gpd
import h5py
import numpy as np
import pandas as pd
import tifffile
import torch
from PIL import Image
from scipy.sparse import csc_matrix
from shapely import box
from spatialdata import SpatialData
from spatialdata.models import ShapesModel, TableModel

import histocell as hc
from histocell.cli.predict import predict_slides
from histocell.images.slide_image import open_image

if TYPE_CHECKING:
    from collections.abc import Callable

HEIGHT, WIDTH, MPP = 640, 720, 0.5
ENCODER = {"encoder": "timm/test_vit", "weights": "random", "precision": "fp32", "device": "cpu"}
FEATURES = "X_test_vit"


class Specimen(NamedTuple):
    """A file or folder that is damaged.

    Attributes
    ----------
    write
        Writes it, at the path given.
    read
        Reads all of it; raises `AssertionError` where what it read cannot be true.
    """

    write: Callable[[Path], object]
    read: Callable[[Path], object]


class Mean(torch.nn.Module):
    """The mean of each channel."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))


def pixels() -> np.ndarray:
    """A piece of tissue on a white slide."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    tissue = ((y - 320) / 280) ** 2 + ((x - 360) / 300) ** 2 < 1
    stain = np.stack([150 + 60 * np.sin(y / 17), 90 + 50 * np.cos(x / 23), 160 + 40 * np.sin((x + y) / 31)], axis=-1)
    noise = np.random.default_rng(0).normal(0, 6, (HEIGHT, WIDTH, 3))
    return np.clip(np.where(tissue[..., None], stain, 240) + noise, 0, 255).astype(np.uint8)


def half(image: np.ndarray) -> np.ndarray:
    return image[::2, ::2]


# --- slides

PER_CM = {"resolution": (1e4 / MPP, 1e4 / MPP), "resolutionunit": "CENTIMETER"}


def write_strips(path: Path) -> None:
    tifffile.imwrite(path, pixels(), photometric="rgb", compression="deflate", rowsperstrip=64, **PER_CM)


def write_ome(path: Path) -> None:
    image = pixels()
    options = {"photometric": "rgb", "tile": (128, 128), "compression": "lzw"}
    size = {"PhysicalSizeX": MPP, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": MPP, "PhysicalSizeYUnit": "µm"}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(image, subifds=1, metadata={"axes": "YXS", **size}, **options)
        tiff.write(half(image), subfiletype=1, **options)


def write_svs(path: Path) -> None:
    """As Aperio's scanners write it: the slide, a thumbnail, a coarser level."""
    image = pixels()
    head = f"Aperio Image Library v11.2.1 \r\n{WIDTH}x{HEIGHT} (256x256) JPEG/RGB Q=70"
    tiles = {"photometric": "rgb", "tile": (256, 256), "compression": "jpeg", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(image, description=f"{head}|AppMag = 20|MPP = {MPP}", **tiles)
        tiff.write(half(half(image)), photometric="rgb", rowsperstrip=16, description=head, metadata=None)
        tiff.write(half(image), description=head, **tiles)


def write_deep(path: Path) -> None:
    image = pixels().astype(np.uint16) * 200
    tifffile.imwrite(path, image, photometric="rgb", tile=(128, 128), compression="zstd", bigtiff=True, **PER_CM)


def write_picture(path: Path) -> None:
    Image.fromarray(pixels()).save(path, quality=90)


def write_real_slide(path: Path) -> None:
    shutil.copyfile(hc.settings.data_dir / "slides" / "CMU-1-Small-Region.svs", path)


def read_slide(path: Path) -> None:
    """Windows at the corners, in the middle and over the whole, at the resolution of each level."""
    sdata = hc.io.slide(path, mpp=MPP if path.suffix in {".jpg", ".png"} else None)
    image = open_image(sdata["he"])
    image.thumbnail(200)
    for factor in image.levels:
        edge = 200 * factor
        for y in np.linspace(-9, image.shape[0] - edge, 3):
            for x in np.linspace(-9, image.shape[1] - edge, 3):
                image.read(y, x, y + edge, x + edge, out_shape=(200, 200))


# --- folders of sections


def grid(n: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    column, row = (places.ravel() for places in np.mgrid[:n, :n])
    return column, row, np.column_stack([column, row]) * 100.0 + 60


def write_st(path: Path) -> None:
    column, row, xy = grid()
    path.mkdir()
    table = pd.DataFrame({"x": column, "y": row, "pixel_x": xy[:, 0], "pixel_y": xy[:, 1], "selected": 1})
    table.to_csv(path / "selection.tsv", sep="\t", index=False)
    counts = np.random.default_rng(0).poisson(3, (len(xy), 12)) * 5
    names = [f"{x}x{y}" for x, y in zip(column, row, strict=True)]
    with gzip.open(path / "counts.tsv.gz", "wt") as file:
        pd.DataFrame(counts, index=names, columns=[f"g{i}" for i in range(12)]).to_csv(file, sep="\t")
    write_picture(path / "he.png")


def write_visium(path: Path) -> None:
    column, row, xy = grid()
    (path / "spatial").mkdir(parents=True)
    barcodes = [f"ACGT{i:02d}-1" for i in range(len(xy))]
    lines = [f"{b},1,{r},{2 * c},{int(y)},{int(x)}" for b, c, r, (x, y) in zip(barcodes, column, row, xy, strict=True)]
    (path / "spatial" / "tissue_positions_list.csv").write_text("\n".join(lines) + "\n")
    factors = {"tissue_hires_scalef": 0.5, "tissue_lowres_scalef": 0.1}
    factors |= {"spot_diameter_fullres": 55.0, "fiducial_diameter_fullres": 90.0}
    (path / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))
    for name, step in (("hires", 2), ("lowres", 10)):
        Image.fromarray(pixels()[::step, ::step]).save(path / "spatial" / f"tissue_{name}_image.png")
    counts = csc_matrix(np.random.default_rng(0).poisson(1, (4, len(barcodes))).astype(np.int32))
    with h5py.File(path / "filtered_feature_bc_matrix.h5", "w") as file:
        file.attrs["library_ids"] = np.array([b"lib"])
        file.attrs["chemistry_description"] = b"Spatial 3' v1"
        group = file.create_group("matrix")
        group["barcodes"] = np.array(barcodes, dtype="S")
        group["shape"] = np.array(counts.shape)
        for part in ("data", "indices", "indptr"):
            group[part] = getattr(counts, part)
        features = group.create_group("features")
        for name, values in {"id": "WXYZ", "name": "ABBC"}.items():
            features[name] = np.array(list(values), dtype="S")
        features["feature_type"] = np.array(["Gene Expression"] * 4, dtype="S")
        features["genome"] = np.array(["GRCh38"] * 4, dtype="S")
        features["_all_tag_keys"] = np.array([b"genome"])


def write_hest(path: Path) -> None:
    column, row, xy = grid()
    for part in ("st", "wsis", "metadata", "patches"):
        (path / part).mkdir(parents=True)
    obs = pd.DataFrame({"array_row": row, "array_col": column}, index=[f"{i:03d}x" for i in range(len(xy))])
    adata = ad.AnnData(np.ones((len(xy), 3)), obs=obs, obsm={"spatial": xy})
    adata.write_h5ad(path / "st" / "TENX1.h5ad")
    image = pixels()
    tifffile.imwrite(path / "wsis" / "TENX1.tif", image, tile=(256, 256), photometric="rgb", compression="deflate")
    facts = {"pixel_size_um_estimated": MPP, "inter_spot_dist": 50.0, "spot_diameter": 30.0, "patient": "P1"}
    (path / "metadata" / "TENX1.json").write_text(json.dumps({**facts, "st_technology": "Visium", "license": None}))
    with h5py.File(path / "patches" / "TENX1.h5", "w") as file:
        file["img"] = np.stack([image[int(y) : int(y) + 32, int(x) : int(x) + 32] for x, y in xy])
        file["barcode"] = np.array([[name.encode()] for name in adata.obs_names])


def read_section(sdata: SpatialData) -> None:
    """The pixels under the spots of a section that was read."""
    if "he" in sdata.images:
        hc.pp.patches(sdata, size_um=20)
        hc.pp.embed_image(sdata, Mean(), device="cpu")


def read_hest(path: Path) -> None:
    sdata = hc.io.hest(path, "TENX1")
    read_section(sdata)
    if (path / "patches" / "TENX1.h5").exists():
        hc.pp.embed_patches(sdata, Mean(), device="cpu", key_added="X_file")


def write_lazyslide(path: Path) -> None:
    x, y = (places.ravel() * 100 for places in np.mgrid[:6, :6])
    tiles = gpd.GeoDataFrame({"tile_id": np.arange(36)}, geometry=box(x, y, x + 100, y + 100))
    obs = pd.DataFrame({"region": pd.Categorical(["tiles"] * 36), "tile_id": np.arange(36)}, index=map(str, range(36)))
    features = ad.AnnData(np.random.default_rng(0).normal(size=(36, 4)).astype(np.float32), obs=obs)
    options = {"region": "tiles", "region_key": "region", "instance_key": "tile_id"}
    attrs = {"slide_properties": {"shape": [HEIGHT, WIDTH], "mpp": MPP}, "tile_spec": {"tiles": {"mpp": 1.0}}}
    shapes = {"tiles": ShapesModel.parse(tiles)}
    SpatialData(shapes=shapes, tables={"colour_tiles": TableModel.parse(features, **options)}, attrs=attrs).write(path)


# --- results of histocell


def spots() -> SpatialData:
    _, _, xy = grid()
    names = [f"s{i}" for i in range(len(xy))]
    adata = ad.AnnData(np.ones((len(xy), 2)), obs=pd.DataFrame(index=names), obsm={"spatial": xy})
    sdata = hc.io.from_anndata(adata, image=pixels(), mpp=MPP)
    hc.pp.patches(sdata, size_um=40)
    return sdata


def fill_store(path: Path) -> None:
    """Features in a store on disk, which must be those that are computed without one."""
    sdata = spots()
    hc.pp.embed_image(sdata, Mean(), device="cpu", store=path, key_added="X_stored")
    hc.pp.embed_image(sdata, Mean(), device="cpu", key_added="X_now")
    table = sdata["table"]
    np.testing.assert_array_equal(np.asarray(table.obsm["X_stored"]), table.obsm["X_now"])


def fit(encoder: dict[str, str], model: str) -> hc.models.Model:
    slide = Path("for_the_model.tif")
    write_strips(slide)
    sdata = hc.io.slide(slide)
    hc.pp.tiles(sdata, size_um=40)
    hc.pp.embed_image(sdata, **encoder)
    table = sdata["tile_table"]
    rising = table.obsm["spatial"][:, 0] / WIDTH
    table.obsm["cell_abundance"] = pd.DataFrame({"a": rising, "b": 1 - rising}, index=table.obs_names)
    hc.pp.split(sdata, block_um=100, fractions=(0.8, 0, 0.2), rng=0)
    hc.tl.fit_abundance(sdata, model=model, rng=0)
    return hc.models.load(sdata)


def write_model(path: Path) -> None:
    fit(ENCODER, "ridge").save(path)


def write_mlp(path: Path) -> None:
    fit(ENCODER, "mlp").save(path)


def read_model(path: Path) -> None:
    model = hc.models.load(path)
    model.outputs(np.random.default_rng(0).normal(size=(5, model.features[0]["dim"] * model.config.n_views)))


def write_weights(path: Path) -> None:
    """Weights of a network as the hub keeps them."""
    import timm
    from safetensors.torch import save_file

    path.mkdir()
    save_file(timm.create_model("test_vit").state_dict(), path / "model.safetensors")
    config = {"architecture": "test_vit", "model_args": {"embed_dim": 64, "depth": 6}, "num_classes": 1000}
    (path / "config.json").write_text(json.dumps(config))


def read_weights(path: Path) -> None:
    hc.encoders.load("timm/test_vit", weights=path, device="cpu", precision="fp32")


def run_cohort(path: Path) -> None:
    """Results of a cohort, and the same run again."""
    slide = Path("of_the_cohort.tif")
    if not slide.exists():
        write_strips(slide)
    report = hc.pp.embed_cohort([slide], **ENCODER, out=path, size_um=40)
    check_report(report, path)


def run_predict(path: Path) -> None:
    """Predictions of a slide, and the same run again."""
    slide, model = Path("of_the_cohort.tif"), Path("of_the_prediction")
    if not slide.exists():
        write_strips(slide)
    if not model.exists():
        write_model(model)
    report = predict_slides(
        [slide], model=model, out=path, weights="random", precision="fp32", device="cpu", overlap=0.0, min_tissue=0.3
    )
    check_report(report, path)


def check_report(report: pd.DataFrame, path: Path) -> None:
    """An error of a slide is one of ours and names the result."""
    for row in report[report["status"] == "failed"].to_dict("records"):
        kind, _, text = str(row["error"]).partition(": ")
        assert hasattr(builtins, kind), f"reported bare: {row['error']}"
        assert path.name in text, f"reported without a name: {row['error']}"
        assert len(text) < 1000, f"reported too long: {row['error']}"


SPECIMENS = {
    "CMU-1-Small-Region.svs": Specimen(write_real_slide, read_slide),
    "strips.tif": Specimen(write_strips, read_slide),
    "pyramid.ome.tif": Specimen(write_ome, read_slide),
    "aperio.svs": Specimen(write_svs, read_slide),
    "deep.tif": Specimen(write_deep, read_slide),
    "photograph.jpg": Specimen(write_picture, read_slide),
    "picture.png": Specimen(write_picture, read_slide),
    "section_st": Specimen(write_st, lambda path: read_section(hc.io.st(path, pitch_um=50))),
    "section_visium": Specimen(write_visium, lambda path: read_section(hc.io.visium(path))),
    "section_hest": Specimen(write_hest, read_hest),
    "lazyslide.zarr": Specimen(write_lazyslide, lambda path: hc.io.lazyslide(path, image=pixels())),
    "features.store": Specimen(fill_store, fill_store),
    "model_ridge": Specimen(write_model, read_model),
    "model_mlp": Specimen(write_mlp, read_model),
    "weights": Specimen(write_weights, read_weights),
    "adapter": Specimen(cells.write_adapter, cells.read_adapter),
    "scgpt": Specimen(cells.write_scgpt, cells.read_scgpt),
    "model_cells": Specimen(cells.write_cell_model, cells.read_cell_model),
    "bundle_xenium": Specimen(cells.write_xenium, cells.read_xenium),
    "bundle_visium_hd": Specimen(cells.write_visium_hd, cells.read_visium_hd),
    "outlines.geojson": Specimen(cells.write_outlines, cells.read_outlines),
    "cohort": Specimen(run_cohort, run_cohort),
    "predictions": Specimen(run_predict, run_predict),
}
