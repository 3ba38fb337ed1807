"""Hashes of the rows that a model was fitted on, so that an evaluation can tell them from unseen ones."""

from __future__ import annotations

import base64
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from histocell._core.types import Bools

    type Hashes = NDArray[np.uint64]
    type Places = NDArray[np.int32]

_NO_PLACES = np.zeros((0, 4), dtype=np.int32)


class Fingerprint(NamedTuple):
    """Sorted hashes of the rows of a fit; a row may have several and is known by any of them.

    Attributes
    ----------
    train
        Of the rows that were fitted.
    validation
        Of the rows that only chose settings.
    places
        Fields of view of both, shape ``(n, 4)``, where they are known.
    """

    train: Hashes
    validation: Hashes
    places: Places = _NO_PLACES

    @classmethod
    def of(cls, hashes: Hashes, validation: Bools) -> Self:
        """Fingerprint of rows with `hashes`, shape ``(n, n_hashes)``, of which some only validate."""
        return cls(np.unique(hashes[~validation]), np.unique(hashes[validation]))

    def contains(self, hashes: Hashes) -> Bools:
        """Whether rows with `hashes`, shape ``(n, n_hashes)``, were fitted, and whether they only validated: ``(2, n)``."""
        train, validation = (np.isin(hashes, known).any(axis=1) for known in (self.train, self.validation))
        return np.stack([train, validation & ~train])

    def among(self, hashes: Hashes) -> Self:
        """The part of the fingerprint that is among `hashes`."""
        return type(self)(np.intersect1d(self.train, hashes), np.intersect1d(self.validation, hashes))

    def to_text(self) -> dict[str, str]:
        """The hashes as base64, for JSON."""
        return {"train": to_text(self.train), "validation": to_text(self.validation)}

    @classmethod
    def from_text(cls, text: Mapping[str, str]) -> Self:
        """The fingerprint of `to_text`."""
        return cls(from_text(text["train"]), from_text(text["validation"]))


def hash_rows(rows: Iterable[bytes]) -> Hashes:
    """A hash of 64 bits for each row."""
    return np.frombuffer(b"".join(blake2b(row, digest_size=8).digest() for row in rows), dtype="<u8")


def hash_arrays(arrays: Iterable[np.ndarray]) -> str:
    """A hash of some arrays together, whatever their order, as text."""
    hashes = np.sort(hash_rows(np.ascontiguousarray(array).tobytes() for array in arrays))
    return blake2b(hashes.tobytes(), digest_size=8).hexdigest()


def to_text(hashes: Hashes) -> str:
    """Hashes as base64."""
    return base64.b64encode(hashes.tobytes()).decode()


def from_text(text: str) -> Hashes:
    """The hashes of `to_text`."""
    return np.frombuffer(base64.b64decode(text), dtype="<u8")
