"""Methods of others: functions, TorchScript files, models of lazyslide-models; what they must give."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import ndimage

import histocell as hc
from histocell.pp._segment_nuclei.methods import resolve_method


class Bands(torch.nn.Module):
    """A stand-in for InstanSeg: labels of dark pixels by bands of 16 rows, so that they are known."""

    def __init__(self, n_channels: int = 1) -> None:
        super().__init__()
        self.n_channels = n_channels

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        rows = torch.arange(image.shape[2], device=image.device)[:, None] // 16 * 64
        columns = torch.arange(image.shape[3], device=image.device)[None, :] // 16
        dark = image[:, :1] < 0.5
        labels = (rows + columns + 1)[None, None] * dark
        return torch.cat([labels] * self.n_channels, dim=1).float()


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "instanseg.pt"
    torch.jit.script(Bands()).save(str(path))
    return path


def run(sdata, method, **options):
    return hc.pp.segment_nuclei(sdata, method=method, region=None, inplace=False, measure=False, **options)["nuclei"]


class TestInstanSeg:
    @pytest.mark.parametrize("n_channels", [1, 2])
    def test_a_torchscript_file(self, tissue, tmp_path, n_channels):
        path = tmp_path / "instanseg.pt"
        torch.jit.script(Bands(n_channels)).save(str(path))
        found = run(tissue, "instanseg", weights=path, trust_code=True)
        assert len(found) > 100
        assert found.area.max() <= 256

    def test_channels_are_scaled_by_percentiles_of_the_slide(self, checkpoint):
        method = resolve_method("instanseg", weights=checkpoint, trust_code=True).segmenter
        rng = np.random.default_rng(0)
        sample = [rng.integers(50, 200, (64, 64, 3)).astype(np.uint8) for _ in range(3)]
        low, high = method.context(sample, 0.5)
        assert np.allclose(low, np.percentile(np.stack(sample), 0.1, axis=(0, 1, 2)))
        assert np.allclose(high, np.percentile(np.stack(sample), 99.9, axis=(0, 1, 2)))
        image = np.full((32, 32, 3), 124, np.uint8)  # just below the middle of 50 to 199
        assert (method(image, 0.5, context=(low, high)) > 0).all()
        assert (method(image + np.uint8(2), 0.5, context=(low, high)) == 0).all()

    def test_code_runs_only_when_it_is_allowed(self, tissue, checkpoint, user_sees):
        with user_sees("Nuclei", "a TorchScript file that nobody has vouched for", ValueError, match="trust_code=True"):
            run(tissue, "instanseg", weights=checkpoint)

    def test_no_weights(self, tissue, user_sees):
        with user_sees("Nuclei", "InstanSeg without its file", ValueError, match="needs weights="):
            run(tissue, "instanseg")

    def test_a_missing_file(self, tissue, tmp_path):
        with pytest.raises(FileNotFoundError, match="is no file"):
            run(tissue, "instanseg", weights=tmp_path / "absent.pt", trust_code=True)

    def test_a_file_that_is_no_torchscript(self, tissue, tmp_path):
        path = tmp_path / "instanseg.pt"
        path.write_bytes(b"nothing" * 100)
        with pytest.raises(OSError, match="is damaged or truncated"):
            run(tissue, "instanseg", weights=path, trust_code=True)

    def test_another_network(self, tissue, tmp_path, user_sees):
        path = tmp_path / "other.pt"
        torch.jit.script(torch.nn.Flatten()).save(str(path))
        with user_sees("Nuclei", "a TorchScript file of another network", ValueError, match="must give labels"):
            run(tissue, "instanseg", weights=path, trust_code=True)

    def test_blocks_of_another_size(self, tissue, checkpoint):
        with pytest.raises(ValueError, match="leave out block_px"):
            run(tissue, "instanseg", weights=checkpoint, trust_code=True, block_px=1024)


class TestLazySlide:
    def register(self, monkeypatch, segment) -> None:
        models = pytest.importorskip("lazyslide_models")

        class Model:
            commercial = True

            def __init__(self, sigma: float = 0.0) -> None:
                self.sigma = sigma

            def to(self, device):
                return self

            def get_transform(self):
                return lambda image: torch.from_numpy(image).permute(2, 0, 1).float() / 255

            def segment(self, images):
                assert images.shape[1:] == (3, 512, 512)
                return segment(images)

        monkeypatch.setitem(models.MODEL_REGISTRY, "spots", Model)

    def test_instance_maps(self, tissue, monkeypatch):
        def segment(images):
            labels = [ndimage.label(each[0].numpy() < 0.3)[0] for each in images]
            return SimpleNamespace(instance_map=np.stack(labels))

        self.register(monkeypatch, segment)
        found = run(tissue, "lazyslide:spots", settings={"sigma": 1.0})
        assert len(found) > 100
        assert found.total_bounds.min() >= 0
        assert found.total_bounds.max() <= 700

    def test_a_model_of_regions(self, tissue, monkeypatch):
        self.register(monkeypatch, lambda images: SimpleNamespace(instance_map=None))
        with pytest.raises(ValueError, match="finds regions"):
            run(tissue, "lazyslide:spots")

    def test_an_encoder(self, tissue):
        pytest.importorskip("lazyslide_models")
        with pytest.raises(ValueError, match="does not segment"):
            run(tissue, "lazyslide:uni")

    def test_an_unknown_model(self, tissue):
        pytest.importorskip("lazyslide_models")
        with pytest.raises(KeyError, match="cellpose"):
            run(tissue, "lazyslide:nothing")


class TestFunctions:
    @pytest.mark.parametrize(
        ("what", "function", "kind", "match"),
        [
            ("another shape", lambda image, mpp: np.zeros((5, 5), int), ValueError, r"shape \(5, 5\)"),
            ("three dimensions", lambda image, mpp: image.astype(int), ValueError, "of shape"),
            ("nothing", lambda image, mpp: None, ValueError, "it gave NoneType"),
            ("probabilities", lambda image, mpp: image[..., 0] / 255, TypeError, "type float64"),
            ("a mask", lambda image, mpp: image[..., 0] < 99, TypeError, "skimage.measure.label"),
            ("negative labels", lambda image, mpp: image[..., 0].astype(int) - 999, ValueError, "labels down to"),
        ],
    )
    def test_what_is_no_labels(self, tissue, what, function, kind, match):
        with pytest.raises(kind, match=match):
            run(tissue, function)
        assert "nuclei" not in tissue.shapes

    def test_what_the_user_sees(self, tissue, user_sees):
        def mine(image, mpp):
            return image[..., 0] < 99

        with user_sees("Nuclei", "a function that gives a mask", TypeError, match="label"):
            run(tissue, mine)

    def test_what_it_wants_to_see(self, tissue):
        seen = []

        class Wants:
            name = "wants"
            mpp = 1.0
            halo_um = 8.0

            def context(self, sample, mpp):
                assert mpp == 1.0
                assert all(each.dtype == np.uint8 and each.shape[2] == 3 for each in sample)
                return len(sample)

            def __call__(self, image, mpp, *, context):
                seen.append((image.shape, mpp, context))
                return ndimage.label(image[..., 0] < 80)[0].astype(np.uint16)

        run(tissue, Wants(), block_px=200)
        sizes = [
            (170, 170),
            (170, 220),
            (220, 170),
            (220, 220),
        ]  # blocks of 200 and 150 px, 20 um around them in the image
        assert sorted(seen) == [((*size, 3), 1.0, 5) for size in sizes]  # 4 of tissue, one of the empty slide

    def test_huge_labels(self, tissue):
        def labels(image, mpp):
            return ndimage.label(image[..., 0] < 140)[0].astype(np.uint64) * 2**40

        assert len(run(tissue, labels)) == len(run(tissue, lambda image, mpp: ndimage.label(image[..., 0] < 140)[0]))

    def test_settings_are_for_names(self, tissue):
        with pytest.raises(ValueError, match=r"functools\.partial"):
            run(tissue, lambda image, mpp: 0, settings={"a": 1})

    def test_unknown_names(self, tissue, user_sees):
        with user_sees("Nuclei", "an unknown method", KeyError, match="watershed"):
            run(tissue, "stardist")
        with pytest.raises(TypeError, match="a name or a function"):
            run(tissue, 5)
        with pytest.raises(ValueError, match="takes no weights"):
            run(tissue, "watershed", weights="file.pt")
