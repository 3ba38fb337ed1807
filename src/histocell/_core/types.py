"""Types of arrays and of plain data in signatures."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

type Floats = NDArray[np.float64]
type Ints = NDArray[np.intp]
type Bools = NDArray[np.bool_]
type Arrays = dict[str, np.ndarray]
type JSON = dict[str, Any]  # what json.loads gives
