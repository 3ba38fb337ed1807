"""Images that are stored turned or mirrored, by the tag Orientation of EXIF and TIFF."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from histocell.images.levels import Level


class Turn(NamedTuple):
    """How a stored image becomes upright: rows and columns exchanged first, then mirrored."""

    exchange: bool
    flip_y: bool
    flip_x: bool

    def shape(self, stored: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the upright image."""
        return (stored[1], stored[0]) if self.exchange else stored

    def apply[T: np.generic](self, pixels: NDArray[T]) -> NDArray[T]:
        """The upright image of a stored one (h, w, ...), a view."""
        if self.exchange:
            pixels = pixels.swapaxes(0, 1)
        return pixels[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


UPRIGHT = Turn(exchange=False, flip_y=False, flip_x=False)
_TURNS = {  # what is not a known value counts as upright, as in other readers
    2: Turn(exchange=False, flip_y=False, flip_x=True),
    3: Turn(exchange=False, flip_y=True, flip_x=True),
    4: Turn(exchange=False, flip_y=True, flip_x=False),
    5: Turn(exchange=True, flip_y=False, flip_x=False),
    6: Turn(exchange=True, flip_y=False, flip_x=True),
    7: Turn(exchange=True, flip_y=True, flip_x=True),
    8: Turn(exchange=True, flip_y=True, flip_x=False),
}


def turn_of(orientation: object) -> Turn:
    """The turn that a value of the tag asks for."""
    return _TURNS.get(orientation, UPRIGHT) if isinstance(orientation, int) else UPRIGHT


class TurnedLevel:
    """A level that is stored turned or mirrored, upright."""

    def __init__(self, level: Level, turn: Turn) -> None:
        self._level = level
        self._turn = turn
        self.shape = turn.shape(level.shape)

    def window(self, y0: int, x0: int, y1: int, x1: int) -> NDArray[np.uint8]:
        """Pixels of a window."""
        height, width = self.shape
        if self._turn.flip_y:
            y0, y1 = height - y1, height - y0
        if self._turn.flip_x:
            x0, x1 = width - x1, width - x0
        stored = (x0, y0, x1, y1) if self._turn.exchange else (y0, x0, y1, x1)
        return self._turn.apply(self._level.window(*stored))
