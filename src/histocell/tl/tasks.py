"""The tasks that come with histocell, by name."""

from __future__ import annotations

from histocell.tl._cell_types.task import CELL_TYPES
from histocell.tl.engine.abundance import ABUNDANCE

TASKS = {task.name: task for task in (ABUNDANCE, CELL_TYPES)}
