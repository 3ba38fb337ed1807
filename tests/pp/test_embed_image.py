from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import torch

import histocell as hc
from histocell._core import keys
from histocell.encoders import inference


class MeanColour(torch.nn.Module):
    """The mean of the normalised channels: an encoder whose answer is known."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))


def colours(n: int = 6) -> tuple[ad.AnnData, np.ndarray]:
    """Spots in the middle of uniform stripes of different colour."""
    rng = np.random.default_rng(0)
    palette = rng.integers(0, 255, (n, 3), dtype=np.uint8)
    image = np.repeat(palette, 100, axis=0)[None].repeat(100, axis=0)
    adata = ad.AnnData(
        np.ones((n, 1), np.float32), obsm={"spatial": np.column_stack([np.arange(n) * 100 + 50.0, np.full(n, 50.0)])}
    )
    hc.pp.patches(adata, size_um=40, image=image, mpp=0.5)
    return adata, image


def test_each_row_gets_its_own_patch():
    adata, image = colours()
    hc.pp.embed_image(adata, MeanColour(), image=image, batch_size=4)
    expected = (image[50, 50::100] / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    found = adata.obsm["X_MeanColour"]
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert np.allclose(found, expected, atol=1e-5)


def test_shuffled_rows_get_the_same_embedding():
    adata, image = colours()
    order = np.random.default_rng(1).permutation(adata.n_obs)
    shuffled = adata[order].copy()
    for data in (adata, shuffled):
        hc.pp.embed_image(data, MeanColour(), image=image)
    assert (adata.obsm["X_MeanColour"][order] == shuffled.obsm["X_MeanColour"]).all()


def test_batch_size_does_not_change_the_result():
    adata, image = colours()
    one, all_ = (
        hc.pp.embed_image(adata, "timm/resnet18", weights="random", image=image, batch_size=size, inplace=False)
        for size in (1, 6)
    )
    assert np.allclose(one, all_, atol=1e-4)
    assert "X_resnet18" not in adata.obsm


def test_provenance_says_what_was_done():
    adata, image = colours()
    hc.pp.embed_image(adata, "timm/resnet18", weights="random", image=image)
    facts = keys.read_provenance(adata, "X_resnet18")
    assert facts["encoder"] == "resnet18"
    assert facts["revision"] == "random-0"
    assert facts["size_um"] == 40


def test_local_checkpoint_is_loaded_strictly(tmp_path):
    import timm
    from safetensors.torch import save_file

    model = timm.create_model("resnet18", pretrained=False, num_classes=0)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    torch.save(model.state_dict(), tmp_path / "w.pt")
    adata, image = colours(3)
    out = [
        hc.pp.embed_image(adata, "timm/resnet18", weights=str(tmp_path / name), image=image, inplace=False)
        for name in ("w.safetensors", "w.pt")
    ]
    assert (out[0] == out[1]).all()
    save_file({k: v for k, v in model.state_dict().items() if "layer4" not in k}, tmp_path / "half.safetensors")
    with pytest.raises(RuntimeError, match="Missing key"):
        hc.pp.embed_image(adata, "timm/resnet18", weights=str(tmp_path / "half.safetensors"), image=image)


def test_an_interrupted_run_changes_nothing(monkeypatch):
    adata, image = colours()
    hc.pp.embed_image(adata, MeanColour(), image=image, batch_size=2)
    before = adata.obsm["X_MeanColour"].copy()
    calls = []

    def interrupt(self, patches):
        calls.append(len(patches))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return np.zeros((len(patches), 3), np.float32)

    monkeypatch.setattr(inference.PatchEncoder, "forward", interrupt)
    with pytest.raises(KeyboardInterrupt):
        hc.pp.embed_image(adata, MeanColour(), image=image, batch_size=2)
    assert (adata.obsm["X_MeanColour"] == before).all()


def test_nan_output_is_an_error_and_constant_output_a_warning():
    class Broken(torch.nn.Module):
        def forward(self, images):
            return images.mean(dim=(2, 3)) * float("nan")

    class Constant(torch.nn.Module):
        def forward(self, images):
            return torch.ones(len(images), 4)

    class Grid(torch.nn.Module):
        def forward(self, images):
            return images

    adata, image = colours()
    with pytest.raises(ValueError, match="NaN"):
        hc.pp.embed_image(adata, Broken(), image=image)
    with pytest.warns(UserWarning, match="identical"):
        hc.pp.embed_image(adata, Constant(), image=image)
    with pytest.raises(ValueError, match="shape"):
        hc.pp.embed_image(adata, Grid(), image=image)


def test_unknown_names_say_what_exists():
    adata, image = colours()
    with pytest.raises(KeyError, match="morphology"):
        hc.pp.embed_image(adata, "unii", image=image)
    with pytest.raises(KeyError, match="similar"):
        hc.pp.embed_image(adata, "timm/resnet19", image=image)
    with pytest.raises(ValueError, match="no weights"):
        hc.pp.embed_image(adata, "morphology", weights="random", image=image)
    del adata.obsm["patches"]
    with pytest.raises(KeyError, match=r"hc\.pp\.patches"):
        hc.pp.embed_image(adata, MeanColour(), image=image)


def test_morphology_writes_finite_features(tissue):
    hc.pp.patches(tissue)
    hc.pp.embed_image(tissue)
    found = tissue["table"].obsm["X_morphology"]
    assert found.shape == (tissue["table"].n_obs, hc.encoders.load("morphology").dim)
    assert np.isfinite(found).all()
