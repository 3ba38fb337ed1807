"""Networks of others as methods: a TorchScript file of InstanSeg, and models of lazyslide-models."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from histocell._core.device import pick_device
from histocell._core.errors import MissingKeyError, import_optional, listing, reading
from histocell._core.outputs import file_digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from numpy.typing import NDArray

    type Image = NDArray[np.uint8]

WINDOW_PX = 512
_SHARES = (0.1, 99.9)  # percentiles that become 0 and 1


class InstanSeg:
    """A TorchScript file of InstanSeg.

    It takes float32 (1, 3, h, w) of 0.5 um per px, channels scaled so that the percentiles 0.1 and 99.9 are 0 and 1, and
    gives labels (1, 1, h, w), or (1, 2, h, w) with nuclei first. The percentiles are those of the slide, not of a block,
    so that blocks agree.

    Parameters
    ----------
    weights
        The file.
    trust_code
        Whether the code in it may run.
    device
        Torch device.
    window_px
        Edge of the images that it is given.
    """

    mpp = 0.5
    halo_um = 16.0
    enlarges = True  # they know no other resolution

    def __init__(
        self,
        weights: str | PathLike[str] | None,
        *,
        trust_code: bool = False,
        device: str | None = None,
        window_px: int = WINDOW_PX,
    ) -> None:
        if weights is None:
            msg = (
                'method="instanseg" needs weights=, the TorchScript file of brightfield_nuclei: '
                "https://github.com/instanseg/instanseg/releases (instanseg.pt in the archive of the model)"
            )
            raise ValueError(msg)
        path = Path(weights).expanduser()
        if not path.is_file():
            msg = f"weights={str(path)!r} is no file"
            raise FileNotFoundError(msg)
        if not trust_code:
            msg = (
                f"{path} is TorchScript: a program that runs whatever its author wrote. If you trust where it comes from, "
                "allow it with trust_code=True"
            )
            raise ValueError(msg)
        self.window_px = window_px
        self.version = file_digest(path)[:16]
        self._device = pick_device(device)
        with reading(path, "the TorchScript file"):
            self._module = torch.jit.load(path, map_location=self._device).eval()
        self._lock = threading.Lock()

    def context(self, sample: Sequence[Image], mpp: float) -> NDArray[np.float32]:
        """Percentiles of the channels, shape (2, 3)."""
        del mpp
        pixels = np.concatenate([image.reshape(-1, 3) for image in sample])
        return np.percentile(pixels, _SHARES, axis=0).astype(np.float32)

    def __call__(self, image: Image, mpp: float, *, context: NDArray[np.float32] | None = None) -> NDArray[np.int64]:
        """Labels of an image."""
        low, high = self.context([image], mpp) if context is None else context
        scaled = (image.astype(np.float32) - low) / np.maximum(high - low, 1e-3)
        batch = torch.from_numpy(scaled).permute(2, 0, 1)[None].contiguous().to(self._device)
        with self._lock, torch.inference_mode():
            out = self._module(batch)
        if not isinstance(out, torch.Tensor) or out.ndim != 4 or out.shape[1] not in {1, 2}:
            shape = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
            msg = (
                f"the TorchScript file must give labels (1, 1, h, w) or (1, 2, h, w) as InstanSeg does; it gave {shape}"
            )
            raise ValueError(msg)
        return out[0, 0].round().long().cpu().numpy()


class LazySlideModel:
    """A segmentation model of lazyslide-models, whose package finds the weights.

    Parameters
    ----------
    key
        Its name there.
    weights
        A file, for models that take one.
    options
        Other arguments of the model.
    device
        Torch device.
    """

    mpp = 0.5
    halo_um = 16.0
    enlarges = True  # they know no other resolution
    window_px = WINDOW_PX

    def __init__(
        self,
        key: str,
        weights: str | PathLike[str] | None,
        options: Mapping[str, object],
        *,
        device: str | None = None,
    ) -> None:
        models = import_optional("lazyslide_models", "wsi")
        registry = models.MODEL_REGISTRY
        if key not in registry:
            found = [name for name, card in registry.items() if hasattr(card, "segment")]
            msg = f"lazyslide-models has no model {key!r} that segments; it has {listing(found)}"
            raise MissingKeyError(msg)
        if not hasattr(registry[key], "segment"):
            msg = f"{key!r} of lazyslide-models does not segment images"
            raise ValueError(msg)
        self._key = key
        self._device = pick_device(device)
        self._model = registry[key](**options, **({} if weights is None else {"model_path": str(weights)}))
        self._model.to(self._device)
        self._transform = self._model.get_transform()
        self._lock = threading.Lock()
        self.version = f"lazyslide-models {models.__version__}"
        if weights is not None and Path(weights).is_file():
            self.version += f" {file_digest(Path(weights))[:16]}"

    def context(self, sample: Sequence[Image], mpp: float) -> None:
        """None: these models know nothing of a slide but the image before them."""

    def __call__(self, image: Image, mpp: float, *, context: object = None) -> NDArray[np.integer]:
        """Labels of an image."""
        del mpp, context
        batch = torch.as_tensor(image if self._transform is None else self._transform(image))[None]
        with self._lock, torch.inference_mode():
            labels = self._model.segment(batch.to(self._device)).instance_map
        if labels is None:
            msg = f"{self._key!r} of lazyslide-models finds regions, not single nuclei"
            raise ValueError(msg)
        return np.asarray(torch.as_tensor(labels)[0].cpu())
