"""Types of arrays in signatures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

type Floats = NDArray[np.float64]
type Ints = NDArray[np.intp]
type Bools = NDArray[np.bool_]
