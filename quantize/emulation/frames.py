"""Arrays between two processes: number of dimensions and sides as int64, then float32."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_DIMENSIONS = 4
_MOST = 1 << 28
"""Values of one array."""


def packed(array: NDArray[np.float32]) -> bytes:
    """An array of at most four dimensions as bytes."""
    header = np.asarray([array.ndim, *array.shape], "<i8")
    return header.tobytes() + np.ascontiguousarray(array, "<f4").tobytes()


def unpacked(read: Callable[[int], bytes]) -> NDArray[np.float32]:
    """The next array.

    Args:
        read: gives exactly so many bytes.

    Raises:
        ValueError: what comes is no array.
    """
    dimensions = int(np.frombuffer(read(8), "<i8")[0])
    if not 0 < dimensions <= _DIMENSIONS:
        raise ValueError(f"an array of {dimensions} dimensions")
    shape = [int(side) for side in np.frombuffer(read(8 * dimensions), "<i8")]
    if min(shape) < 0 or math.prod(shape) > _MOST:
        raise ValueError(f"an array of shape {shape}")
    return np.frombuffer(read(4 * math.prod(shape)), "<f4").reshape(shape)
