"""Several processes of torchrun that train one network: rows are shared out, embeddings gathered, gradients summed."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import distributed

from histocell._core.device import pick_device

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor


class Processes(NamedTuple):
    """A process among all.

    Attributes
    ----------
    rank, size
        Number of this one, and of all.
    """

    rank: int = 0
    size: int = 1

    def share(self, n: int) -> slice:
        """The rows of a batch that this process embeds."""
        bounds = np.linspace(0, n, self.size + 1).round().astype(int)
        return slice(int(bounds[self.rank]), int(bounds[self.rank + 1]))

    def gather(self, own: Tensor, n: int) -> Tensor:
        """The rows of all processes, `n` in all, in their order; without a gradient."""
        if self.size == 1:
            return own
        shares = [Processes(rank, self.size).share(n) for rank in range(self.size)]
        longest = max(share.stop - share.start for share in shares)
        padded = own.new_zeros((longest, *own.shape[1:]))
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in shares]
        distributed.all_gather(parts, padded)
        return torch.cat([part[: share.stop - share.start] for part, share in zip(parts, shares, strict=True)])

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Add the gradients of all processes."""
        if self.size > 1:
            for parameter in parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                distributed.all_reduce(parameter.grad)

    def barrier(self) -> None:
        """Wait for all."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def joined(device: str | None) -> Iterator[tuple[Processes, torch.device]]:
    """The processes that ``torchrun`` started, each with its GPU; without torchrun this one alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "LOCAL_RANK" not in os.environ:
        yield Processes(), pick_device(device)
        return
    chosen = pick_device(device)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    own = not distributed.is_initialized()
    if own:
        distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size()), chosen
    finally:
        if own:
            distributed.destroy_process_group()
