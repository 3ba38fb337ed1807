from __future__ import annotations

import dask
import numpy as np
import pytest
from anndata import AnnData
from dask.array import Array
from spatialdata import SpatialData, read_zarr
from spatialdata.models import Image2DModel
from spatialdata.transformations import Identity, Scale, get_transformation

import histocell as hc
from histocell.images.slide_image import open_image
from histocell.images.stain.normalize import StainNormalizer, StainTarget

SYSTEMS = {"global": Identity(), "um": Scale([0.5, 0.5], axes=("x", "y"))}


def pixels(sdata: SpatialData, key: str = "he") -> np.ndarray:
    return np.moveaxis(np.asarray(sdata.images[key].data), 0, -1)


def parsed(array: np.ndarray, **how) -> SpatialData:
    return SpatialData(
        images={"he": Image2DModel.parse(array, dims=("c", "y", "x"), transformations=dict(SYSTEMS), **how)}
    )


def test_image_lies_beside_its_source_and_is_lazy(tissue):
    before = pixels(tissue)
    assert hc.pp.normalize_stain(tissue) is None
    out, source = tissue.images["he_macenko"], tissue.images["he"]
    assert isinstance(out.data, Array)
    assert out.data.chunks == source.data.chunks
    assert (out.dtype, out.shape, out.dims) == (np.uint8, source.shape, source.dims)
    assert list(out.coords["c"].values) == ["r", "g", "b"]
    assert get_transformation(out, get_all=True) == get_transformation(source, get_all=True)
    expected = StainNormalizer("macenko").fit(open_image(source), mpp=0.5)
    np.testing.assert_array_equal(pixels(tissue, "he_macenko"), expected.apply(before))
    assert np.abs(pixels(tissue, "he_macenko").astype(int) - before).mean() > 2
    np.testing.assert_array_equal(pixels(tissue), before)
    assert tissue.attrs["histocell"]["he_macenko"] == expected.describe()
    hc.pp.patches(tissue)  # the source is still the image of its spots


def test_result_can_be_had_alone_under_any_name_and_written(tissue, tmp_path):
    out = hc.pp.normalize_stain(tissue, method="reinhard", inplace=False)
    assert list(tissue.images) == ["he"]
    assert "histocell" not in tissue.attrs
    hc.pp.normalize_stain(tissue, method="reinhard", key_added="shown")
    tissue.write(tmp_path / "a.zarr")
    back = read_zarr(tmp_path / "a.zarr")
    np.testing.assert_array_equal(pixels(back, "shown"), np.moveaxis(np.asarray(out.data), 0, -1))
    assert back.attrs["histocell"]["shown"]["method"] == "reinhard"


def test_every_scale_is_normalised(tissue):
    sdata = parsed(np.asarray(tissue.images["he"].data), scale_factors=[2, 2], c_coords=["r", "g", "b"])
    hc.pp.normalize_stain(sdata)
    source, out = sdata.images["he"], sdata.images["he_macenko"]
    assert list(out.children) == list(source.children) == ["scale0", "scale1", "scale2"]
    assert get_transformation(out, get_all=True) == get_transformation(source, get_all=True)
    transform = StainNormalizer("macenko").fit(open_image(source), mpp=0.5)
    for name in source.children:
        old, new = source[name]["image"], out[name]["image"]
        assert isinstance(new.data, Array)
        np.testing.assert_array_equal(new.coords["x"], old.coords["x"])
        expected = transform.apply(np.moveaxis(old.values, 0, -1))
        np.testing.assert_array_equal(np.moveaxis(new.values, 0, -1), expected)


@pytest.mark.parametrize("kind", ["rgba", "uint16", "float"])
def test_other_pixels_become_8_bit_rgb(tissue, kind):
    rgb = np.asarray(tissue.images["he"].data)
    array = {
        "rgba": np.concatenate([rgb, np.full_like(rgb[:1], 255)]),
        "uint16": rgb.astype(np.uint16) * 257,
        "float": (rgb / 255).astype(np.float32),
    }[kind]
    same = hc.pp.normalize_stain(parsed(array), inplace=False)
    expected = hc.pp.normalize_stain(parsed(rgb), inplace=False)
    assert (same.dtype, same.shape) == (np.uint8, rgb.shape)
    np.testing.assert_array_equal(same.values, expected.values)


def test_the_range_of_values_is_that_of_reading(tissue):
    """Of a 12-bit image whose middle is so dark that 10 bits would do."""
    array = np.asarray(tissue.images["he"].data).astype(np.uint16) * 16
    array[:, 250:450, 250:450] = np.minimum(array[:, 250:450, 250:450], 1000)
    sdata = parsed(array)
    sdata.images["he"].data = array  # in memory
    image = open_image(sdata.images["he"])
    transform = StainNormalizer("macenko").fit(image, mpp=0.5)
    expected = transform.apply(image.read(0, 0, *image.shape))
    with dask.config.set({"array.chunk-size": "20kiB"}):
        out = hc.pp.normalize_stain(sdata, inplace=False)
        assert out.data.numblocks[1] > 5
        np.testing.assert_array_equal(np.moveaxis(out.values, 0, -1), expected)


def test_targets(tissue, tmp_path):
    other = hc.datasets.synthetic_tissue(size_px=700, rng=5)
    target = StainTarget.from_image(open_image(other.images["he"]), mpp=0.5)
    expected = hc.pp.normalize_stain(tissue, target=target, inplace=False).values
    assert not np.array_equal(expected, hc.pp.normalize_stain(tissue, inplace=False).values)
    for same in (other, other.images["he"]):
        np.testing.assert_array_equal(hc.pp.normalize_stain(tissue, target=same, inplace=False).values, expected)
    with pytest.raises(ValueError, match="resolution of the target"):
        hc.pp.normalize_stain(tissue, target=pixels(other))
    with pytest.raises(ValueError, match="cannot be a target"):
        hc.pp.normalize_stain(tissue, target=parsed(np.full((3, 300, 300), 240, np.uint8)))


def test_bad_input(tissue):
    with pytest.raises(TypeError, match="takes a SpatialData"):
        hc.pp.normalize_stain(AnnData(np.zeros((1, 1))))
    with pytest.raises(ValueError, match="method must be one of"):
        hc.pp.normalize_stain(tissue, method="magic")
    with pytest.raises(KeyError, match="image 'no' not found; available: he"):
        hc.pp.normalize_stain(tissue, image_key="no")
    bare = SpatialData(images={"he": Image2DModel.parse(np.zeros((3, 9, 9), np.uint8), dims=("c", "y", "x"))})
    with pytest.raises(ValueError, match="give mpp="):
        hc.pp.normalize_stain(bare)
    with pytest.warns(UserWarning, match="stay as they are"):
        hc.pp.normalize_stain(bare, mpp=0.5)
    np.testing.assert_array_equal(pixels(bare, "he_macenko"), pixels(bare))


@pytest.mark.filterwarnings("ignore:.*training rows")
def test_an_embedding_knows_that_its_image_was_normalised(tissue):
    hc.pp.patches(tissue)
    hc.pp.embed_image(tissue)
    tissue["table"].obs["split"] = "train"
    hc.tl.fit_abundance(tissue, model="ridge", rng=0)
    hc.pp.normalize_stain(tissue)
    hc.pp.normalize_stain(tissue, target=tissue, key_added="own")
    stains = {}
    for key in ("he_macenko", "own"):
        hc.pp.embed_image(tissue, image_key=key, key_added="X_morphology")
        stains[key] = hc.get.provenance(tissue, "X_morphology")["stain"]
        with pytest.raises(ValueError, match=r"stain is .*macenko.*, the model was fitted with none"):
            hc.tl.predict_abundance(tissue)
    assert stains["he_macenko"] == {"method": "macenko", "target": None}  # as embed_image(stain="macenko") says it
    assert stains["own"]["target"] is not None


def test_no_image_is_normalised_twice(tissue):
    hc.pp.patches(tissue)
    hc.pp.normalize_stain(tissue)
    with pytest.raises(ValueError, match="'he_macenko' are normalised already"):
        hc.pp.embed_image(tissue, "resnet50", weights="random", image_key="he_macenko", stain="reinhard")
