from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import histocell as hc
from histocell._core import keys


def toy(xy, shape=(400, 600)) -> tuple[ad.AnnData, np.ndarray]:
    xy = np.asarray(xy, dtype=float)
    adata = ad.AnnData(np.ones((len(xy), 1), np.float32), obsm={"spatial": xy})
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.stack([x % 256, y % 256, np.full(shape, 128)], axis=2).astype(np.uint8)
    return adata, image


def test_patches_are_squares_of_the_given_size_around_the_spots():
    adata, image = toy([[100, 200], [300, 150], [10, 390]])
    assert hc.pp.patches(adata, size_um=56, mpp=0.5, image=image) is None
    windows = adata.obsm["patches"]
    assert windows.dtype == np.int32
    assert windows[0].tolist() == [144, 44, 256, 156]
    assert adata.obs["patch_inside"].tolist() == [True, True, False]
    assert (adata.obs["mpp"] == 0.5).all()
    assert keys.read_provenance(adata, "patches")["size_um"] == 56


def test_not_inplace_returns_what_would_be_written_and_writes_nothing(tmp_path):
    from PIL import Image

    adata, image = toy([[100, 200], [300, 150]])
    Image.fromarray(image).save(tmp_path / "he.png")
    new = hc.pp.patches(adata, mpp=0.5, image=tmp_path / "he.png", inplace=False)
    assert "patches" not in adata.obsm
    assert not len(adata.obs.columns)
    assert not adata.uns
    by_hand = adata.copy()
    by_hand.obs[new.obs.columns] = new.obs
    by_hand.obsm.update(new.obsm)
    by_hand.uns.update(new.uns)
    hc.pp.patches(adata, mpp=0.5, image=tmp_path / "he.png")
    pd.testing.assert_frame_equal(by_hand.obs, adata.obs)
    assert list(by_hand.obsm) == list(adata.obsm)
    assert by_hand.obsm["patches"].dtype == np.int32
    np.testing.assert_array_equal(by_hand.obsm["patches"], adata.obsm["patches"])
    assert by_hand.uns == adata.uns


def test_unknown_resolution_is_asked_for():
    adata, image = toy([[100, 200]])
    with pytest.raises(ValueError, match="give mpp=|Give mpp="):
        hc.pp.patches(adata, image=image)


def test_swapped_axes_are_told():
    adata, image = toy([[550, 10], [500, 300], [590, 20], [420, 350]])
    hc.pp.patches(adata, mpp=0.5, image=image)
    adata.obsm["spatial"] = adata.obsm["spatial"][:, ::-1].copy()
    with pytest.raises(ValueError, match="x and y look swapped"):
        hc.pp.patches(adata, mpp=0.5, image=image)


def test_a_spot_off_the_image_is_kept_and_named():
    adata, image = toy([[100, 200], [300, 150], [2000, 200]])
    with pytest.warns(UserWarning, match="1 of 3 rows lie outside"):
        hc.pp.patches(adata, mpp=0.5, image=image)
    assert adata.n_obs == 3
    with pytest.warns(UserWarning, match="embedding is NaN"):
        hc.pp.embed_image(adata, "timm/resnet18", weights="random", image=image, key_added="X_net")
    assert np.isnan(adata.obsm["X_net"]).all(axis=1).tolist() == [False, False, True]


@pytest.mark.parametrize("size", [0, -5])
def test_size_must_be_positive(size):
    adata, image = toy([[100, 200]])
    with pytest.raises(ValueError, match="positive"):
        hc.pp.patches(adata, size_um=size, mpp=0.5, image=image)


def test_an_image_file_is_remembered(tmp_path):
    from PIL import Image

    adata, image = toy([[100, 200], [300, 150]])
    Image.fromarray(image).save(tmp_path / "he.png")
    hc.pp.patches(adata, mpp=0.5, image=tmp_path / "he.png")
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    hc.pp.patch_qc(back)
    assert back.obs["focus"].notna().all()


def test_anndata_and_spatialdata_agree(tissue):
    hc.pp.patches(tissue)
    adata = tissue["table"].copy()
    expected = adata.obsm.pop("patches")
    del adata.uns["spatialdata_attrs"]
    image = np.moveaxis(tissue["he"].to_numpy(), 0, -1)
    hc.pp.patches(adata, image=image, mpp=0.5)
    assert (adata.obsm["patches"] == expected).all()


def test_sections_of_different_resolution_get_patches_of_one_size():
    adata, image = toy([[100, 200], [300, 150]])
    adata.obs["section"] = pd.Categorical(["A", "B"])
    hc.pp.patches(adata, size_um=70, image={"A": image, "B": image}, mpp={"A": 0.5, "B": 0.7})
    edge = adata.obsm["patches"][:, 2] - adata.obsm["patches"][:, 0]
    assert edge.tolist() == [140, 100]
