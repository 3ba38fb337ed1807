"""The image side of a training: embeddings of batches, and the gradient of a large batch in the memory of a small one."""

from __future__ import annotations

import re
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from histocell.encoders.inference.preprocessing import Preprocessing
from histocell.models.finetuning.processes import Processes
from histocell.models.training import seeded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from timm.models.vision_transformer import VisionTransformer
    from torch import Tensor, nn

    from histocell.encoders.networks.backbone import Backbone
    from histocell.encoders.spec import EncoderSpec

    type Losses = dict[str, Tensor]

_BLOCK = re.compile(r"^(.*?)\.(\d+)\.")


class ImageTower:
    """An encoder with adapters.

    Parameters
    ----------
    backbone
        The network, with adapters in its layers; only they are trained.
    spec
        Input size and normalisation.
    targets
        Names of the layers with adapters.
    pool
        Definition of the embedding.
    device
        Where it is.
    bf16
        Whether matrices are multiplied in bf16.
    checkpointing
        Whether activations of the blocks are computed again for the gradient.

    Attributes
    ----------
    parameters
        Those that are trained, by name.
    pool, bf16
        As they are used.
    """

    def __init__(
        self,
        backbone: Backbone,
        spec: EncoderSpec,
        targets: Sequence[str],
        *,
        pool: str | None = None,
        device: torch.device,
        bf16: bool = False,
        checkpointing: bool = False,
    ) -> None:
        self.backbone = backbone.eval().to(device)
        self.device, self.pool, self.bf16 = device, backbone.check_pool(pool), bf16
        self._edge = spec.input_px
        self._prepare = Preprocessing(spec, device, torch.float32)
        self._prefix, self._first = _frozen_blocks(backbone, targets)
        self.parameters = {name: value for name, value in backbone.named_parameters() if value.requires_grad}
        if checkpointing:
            if not hasattr(backbone.trunk, "set_grad_checkpointing"):
                msg = f"{type(backbone.trunk).__name__} cannot compute its activations again; leave gradient_checkpointing out"
                raise ValueError(msg)
            cast("VisionTransformer", backbone.trunk).set_grad_checkpointing(True)

    def train(self, mode: bool) -> None:
        """Switch the dropout of the adapters; the network itself always is as at inference."""
        for name, module in self.backbone.named_modules():
            if "lora_dropout" in name:
                module.train(mode)

    def embed(self, patches: Tensor) -> Tensor:
        """Embeddings, float32 ``(n, dim)``, of uint8 patches ``(n, h, h, 3)``."""
        images = self._prepare(patches.to(self.device))
        with self._autocast():
            return self.backbone(images, pool=self.pool).float()

    @cached_property
    def dim(self) -> int:
        """Width of the embedding."""
        with torch.no_grad():
            return self.embed(torch.zeros(1, self._edge, self._edge, 3, dtype=torch.uint8)).shape[1]

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    @contextmanager
    def keeping(self, tokens: list[Tensor]) -> Iterator[None]:
        """Append what enters the first block that is trained; nothing where that is the first of all."""

        def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            tokens.append(args[0].detach())

        if self._first is None or not self._prefix:
            yield
            return
        handle = self._first.register_forward_pre_hook(keep)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def continuing(self, tokens: Tensor | None) -> Iterator[None]:
        """Skip the frozen blocks: their output is known. Patches are cut into tokens again, which costs next to nothing."""
        if tokens is None or self._first is None:
            yield
            return
        with ExitStack() as stack:
            for block in self._prefix:
                block.forward = _pass_on
                stack.callback(delattr, block, "forward")
            handle = self._first.register_forward_pre_hook(lambda _, args: (tokens, *args[1:]))
            stack.callback(handle.remove)
            yield

    def backward(
        self,
        patches: Tensor,
        losses: Callable[[Tensor], Losses],
        *,
        micro_batch: int,
        seed: Sequence[int],
        processes: Processes = Processes(),
    ) -> Losses:
        """Losses of a batch, and their gradients in all parameters.

        The batch is embedded in parts without a graph; the gradient of the loss in the embeddings then goes back through
        each part, which passes the trained blocks a second time with the same dropout. The gradient is that of the whole
        batch; memory is that of a part, and of the tokens before the trained blocks.

        Parameters
        ----------
        patches
            uint8, shape ``(n, h, h, 3)``: the whole batch.
        losses
            Of the embeddings of the whole batch.
        micro_batch
            Rows of a part.
        seed
            Of dropout.
        processes
            Those that share the batch.

        References
        ----------
        Gao, Zhang, Han and Callan 2021, RepL4NLP, arXiv:2101.06983 (cached gradients).
        """
        n, mine = len(patches), processes.share(len(patches))
        parts = [
            slice(start, min(start + micro_batch, mine.stop)) for start in range(mine.start, mine.stop, micro_batch)
        ]
        if len(parts) == 1 and processes.size == 1:
            with self._drawing(seed, parts[0]):
                embeddings = self.embed(patches)
            found = losses(embeddings)
            _total(found).backward()
            return found
        tokens: list[Tensor] = []
        with torch.no_grad(), self.keeping(tokens):
            own = []
            for part in parts:
                with self._drawing(seed, part):
                    own.append(self.embed(patches[part]))
        embeddings = processes.gather(torch.cat(own), n).requires_grad_()
        found = losses(embeddings)
        _total(found).backward()
        gradient = embeddings.grad
        for index, part in enumerate(parts):
            known = tokens[index] if tokens else None
            with self._drawing(seed, part), self.continuing(known):
                self.embed(patches[part]).backward(None if gradient is None else gradient[part])
            if tokens:
                tokens[index] = tokens[index][:0]  # no longer needed
        processes.sum_gradients(self.parameters.values())
        return found

    def _drawing(self, seed: Sequence[int], part: slice) -> AbstractContextManager[None]:
        """Dropout of a part, the same in both passes and for any number of processes that share parts of one size."""
        return seeded(int(np.random.SeedSequence([*seed, part.start]).generate_state(1)[0]), self.device)


def _total(losses: Losses) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def _pass_on(tokens: Tensor, *args: object, **kwargs: object) -> Tensor:
    """A block that does nothing."""
    del args, kwargs
    return tokens


def _frozen_blocks(network: nn.Module, targets: Sequence[str]) -> tuple[list[nn.Module], nn.Module | None]:
    """The blocks before the first that is trained, and that one; none where the targets lie in no row of blocks."""
    found = [_BLOCK.match(name) for name in targets]
    rows = {match[1] for match in found if match}
    if not found or None in found or len(rows) != 1:
        return [], None
    blocks = list(network.get_submodule(rows.pop()).children())
    first = min(int(match[2]) for match in found if match)
    return blocks[:first], blocks[first]
