"""Names for the types that many rooms share."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

AnyArray = NDArray[Any]
FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.integer[Any]]
Triple = tuple[float, float, float]
Shape = tuple[int, int, int]
