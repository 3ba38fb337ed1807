"""Checkpoints of a training: one file that is whole or not there, and is only continued by a run of the same settings."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, NamedTuple

from histocell._core.errors import listing, reading
from histocell._core.outputs import PARTIAL, replacing

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from histocell._core.types import JSON

LAST, BEST = "checkpoint.safetensors", "best.safetensors"
_FACTS = "histocell"


class Checkpoint(NamedTuple):
    """What a training needs to go on.

    Attributes
    ----------
    tensors
        Weights, and the state of the optimizer.
    facts
        Stage, step, curves: whatever JSON can hold. Random numbers are drawn anew for each step from the seed, the stage and
        the step, so that they need no state of their own.
    """

    tensors: dict[str, Tensor]
    facts: JSON


class Checkpoints:
    """The checkpoints in a folder.

    Parameters
    ----------
    folder
        Exists already; partial files of a run that was killed are removed.
    identity
        All that the result depends on.
    overwrite
        Whether to forget the training before.
    """

    def __init__(self, folder: Path, identity: JSON, *, overwrite: bool = False) -> None:
        self.folder = folder
        self.identity: JSON = json.loads(json.dumps(identity))
        for left in folder.glob(f"{PARTIAL}*"):
            shutil.rmtree(left, ignore_errors=True)
        for name in (LAST, BEST) if overwrite else ():
            (folder / name).unlink(missing_ok=True)

    def save(self, checkpoint: Checkpoint, name: str = LAST) -> None:
        """Replace the checkpoint of this name.

        Raises
        ------
        OSError
            When it cannot be written, as on a full disk; the one before is still there.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        path = self.folder / name
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in checkpoint.tensors.items()}
        text = json.dumps({"identity": self.identity, **checkpoint.facts})
        try:
            with replacing(path) as partial:
                save_file(tensors, partial, metadata={_FACTS: text})
        except (OSError, SafetensorError) as error:
            if isinstance(error, FileExistsError):
                raise
            kept = f"that of {place} is kept" if (place := self.place(name)) else "there is none before it"
            msg = f"{path} could not be written ({error}); {kept}. Make room and call again: the training goes on from there"
            raise OSError(msg) from error

    def load(self, name: str = LAST) -> Checkpoint | None:
        """The checkpoint of this name, if there is one.

        Raises
        ------
        OSError
            When the file is damaged.
        ValueError
            When it is of a run with other settings or data.
        """
        from safetensors import safe_open

        path = self.folder / name
        if not path.is_file():
            return None
        with reading(path, "the checkpoint"), safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()[_FACTS])
            tensors = {key: file.get_tensor(key) for key in file.keys()}
            before = facts.pop("identity")
        if differ := [key for key in {**before, **self.identity} if before.get(key) != self.identity.get(key)]:
            words = [f"{key} was {before.get(key)!r} and is {self.identity.get(key)!r}" for key in differ]
            msg = (
                f"{self.folder} holds a training with other settings or data: {listing(words, 6)}. Give another out=, or "
                "overwrite=True to start anew"
            )
            raise ValueError(msg)
        return Checkpoint(tensors, facts)

    def place(self, name: str = LAST) -> str | None:
        """Where a checkpoint stands, for messages; `None` where there is none."""
        checkpoint = self.load(name)
        return checkpoint and f"stage {checkpoint.facts['stage'] + 1}, step {checkpoint.facts['step']}"
