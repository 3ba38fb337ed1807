from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import torch

import histocell as hc
from histocell._core import keys


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
    with pytest.raises(ValueError, match="missing"):
        hc.pp.embed_image(adata, "timm/resnet18", weights=str(tmp_path / "half.safetensors"), image=image)


class Interrupted(MeanColour):
    """Stops the run at its third batch."""

    calls = 0

    def forward(self, images):
        self.calls += 1
        if self.calls == 3:
            raise KeyboardInterrupt
        return super().forward(images)


def test_an_interrupted_run_changes_nothing():
    adata, image = colours()
    options = {"image": image, "batch_size": 2, "key_added": "X"}
    hc.pp.embed_image(adata, MeanColour(), **options)
    before = adata.obsm["X"].copy()
    with pytest.raises(KeyboardInterrupt):
        hc.pp.embed_image(adata, Interrupted(), **options)
    assert (adata.obsm["X"] == before).all()


@pytest.fixture
def slide() -> ad.AnnData:
    """More patches than fit into a chunk, on two images of noise, in an order of their own."""
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 255, (400, 500, 3), dtype=np.uint8) for name in ("a", "b")}
    n = 600
    adata = ad.AnnData(np.ones((n, 1), np.float32), obsm={"spatial": rng.uniform(0, 400, (n, 2))})
    adata.obs["section"] = rng.choice(["a", "b"], n)
    adata.uns["images"] = images
    hc.pp.patches(adata, size_um=16, image=images, mpp=0.5)
    return adata


def embedded(adata: ad.AnnData, encoder, **options):
    return hc.pp.embed_image(adata, encoder, image=adata.uns["images"], inplace=False, **options)


def tiny_vit(**options):
    torch.manual_seed(0)
    from timm.models.vision_transformer import VisionTransformer

    network = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=0)
    return hc.encoders.load(network.eval(), **options)


def test_a_store_gives_the_same_and_is_not_computed_twice(slide, tmp_path, monkeypatch):
    plain = embedded(slide, tiny_vit())
    stored = embedded(slide, tiny_vit(), store=tmp_path / "s")
    assert isinstance(stored, np.ndarray)
    assert (stored == plain).all()

    def fail(*args):
        raise AssertionError

    again = tiny_vit()
    assert again.dim == 24
    monkeypatch.setattr(torch.nn.Module, "__call__", fail)
    assert (embedded(slide, again, store=tmp_path / "s") == plain).all()


def test_an_interrupted_run_goes_on_where_it_was(slide, tmp_path):
    plain = embedded(slide, MeanColour(), batch_size=8)
    encoder = hc.encoders.load(MeanColour(), batch_size=8)
    network = encoder._executor.replicas[0].backbone
    seen = []

    def count(module, arguments):
        seen.append(len(arguments[0]))
        if len(seen) == 20:
            raise KeyboardInterrupt

    network.register_forward_pre_hook(count)
    with pytest.raises(KeyboardInterrupt):
        embedded(slide, encoder, store=tmp_path / "s")
    before = sum(seen[:-1])
    assert (embedded(slide, encoder, store=tmp_path / "s") == plain).all()
    repeated = sum(seen) - seen[19] - len(plain)
    assert before > 64
    assert 0 <= repeated <= 2 * encoder.chunk_rows + 8  # what was under way, of one chunk each


def test_a_store_of_another_run_is_not_mixed_with(slide, tmp_path):
    embedded(slide, tiny_vit(), store=tmp_path / "s")
    with pytest.raises(ValueError, match="precision"):
        embedded(slide, tiny_vit(precision="bf16"), store=tmp_path / "s")
    with pytest.raises(ValueError, match="pool"):
        embedded(slide, tiny_vit(pool="mean"), store=tmp_path / "s")
    slide.uns["images"]["b"] = slide.uns["images"]["b"][::-1].copy()
    with pytest.raises(ValueError, match="image"):
        embedded(slide, tiny_vit(), store=tmp_path / "s")
    with pytest.raises(ValueError, match="store="):
        embedded(slide, tiny_vit(), lazy=True)


def test_a_lazy_embedding_is_the_same_and_can_be_written(slide, tmp_path):
    slide.obsm["patches"][5] += 10_000  # outside of its image
    plain = hc.pp.embed_image
    with pytest.warns(UserWarning, match="outside"):
        expected = embedded(slide, MeanColour())
    images = slide.uns.pop("images")
    with pytest.warns(UserWarning, match="outside"):
        plain(slide, MeanColour(), image=images, store=tmp_path / "s", lazy=True)
    assert not isinstance(slide.obsm["X_MeanColour"], np.ndarray)
    slide.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(back.obsm["X_MeanColour"], expected)
    assert np.isnan(expected[5]).all()


def test_several_devices_give_what_one_gives(slide):
    one = embedded(slide, tiny_vit(device="cpu", batch_size=16))
    two = embedded(slide, tiny_vit(device=["cpu", "cpu"], batch_size=16))
    assert (one == two).all()


def test_a_loaded_encoder_takes_no_further_options(slide):
    with pytest.raises(ValueError, match=r"hc\.encoders\.load"):
        embedded(slide, tiny_vit(), pool="mean")


@pytest.mark.parametrize("pool", ["nucleus", hc.encoders.NucleusPooling("shared", k=2)])
def test_tokens_of_nuclei(slide, pool):
    encoder = tiny_vit(pool=pool)
    found = embedded(slide, encoder)
    assert found.shape == (slide.n_obs, 24)
    assert np.isfinite(found).all()
    # no row depends on the others
    part = slide[100:160].copy()
    np.testing.assert_allclose(embedded(part, encoder), found[100:160], atol=1e-5)


def test_a_pooling_that_the_encoder_has_not(slide):
    with pytest.raises(ValueError, match="no grid of tokens"):
        embedded(slide, MeanColour(), pool="nucleus")
    with pytest.raises(ValueError, match="native"):
        embedded(slide, MeanColour(), pool="cls")


def test_stains_are_normalised_on_the_way(tissue):
    hc.pp.patches(tissue, size_um=40)
    plain = hc.pp.embed_image(tissue, MeanColour(), inplace=False)
    hc.pp.embed_image(tissue, MeanColour(), stain="macenko")
    table = tissue["table"]
    assert np.abs(table.obsm["X_MeanColour"] - plain).max() > 0.01
    facts = keys.read_provenance(table, "X_MeanColour")
    assert facts["stain"]["method"] == "macenko"
    with pytest.raises(ValueError, match="leave stain= out"):
        hc.pp.embed_image(tissue, "morphology", stain="macenko")


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


def test_sections_with_names_that_a_folder_cannot_have_share_no_store(slide, tmp_path):
    plain = embedded(slide, MeanColour())
    names = dict(zip(slide.uns["images"], ("a b", "a/b"), strict=True))
    slide.obs["section"] = slide.obs["section"].astype(str).map(names).astype("category")
    slide.uns["images"] = {names[old]: pixels for old, pixels in slide.uns["images"].items()}
    for _ in range(2):
        assert (embedded(slide, MeanColour(), store=tmp_path / "s") == plain).all()
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["a_b", "a_b_2"]
