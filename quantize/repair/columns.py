"""A convolution's input as columns, so that it is a matrix product like any other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

_POSITIONS = 64


def conv_columns(
    value: NDArray[np.float32],
    *,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pads: tuple[int, int, int, int],
    group: int,
    outputs: int,
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """What each row of the weight matrix is multiplied with, at a seeded sample of positions.

    Args:
        value: float32 [N,C,H,W].
        kernel: height and width; strides and dilations likewise.
        strides: of the convolution.
        dilations: of the convolution.
        pads: top, left, bottom, right.
        group: of the convolution.
        outputs: M, rows of the weight matrix.

    Yields:
        For each group its rows, and columns float64 [P,K] with K = C / group * kH * kW.
    """
    top, left, bottom, right = pads
    padded = np.pad(value, ((0, 0), (0, 0), (top, bottom), (left, right)))
    reach = ((kernel[0] - 1) * dilations[0] + 1, (kernel[1] - 1) * dilations[1] + 1)
    windows: NDArray[np.float32] = sliding_window_view(padded, reach, (2, 3))  # type: ignore[call-overload]  # numpy's stub has one axis
    windows = windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    images, channels, height, width = windows.shape[:4]
    count = min(_POSITIONS, height * width)
    spots = np.random.default_rng(0).choice(height * width, count, replace=False)
    taken = windows[:, :, spots // width, spots % width]  # [N,C,P,kH,kW]
    per_group, rows = channels // group, outputs // group
    for index in range(group):
        own = taken[:, index * per_group : (index + 1) * per_group]
        columns = own.transpose(0, 2, 1, 3, 4).reshape(images * count, -1)
        yield slice(index * rows, (index + 1) * rows), columns.astype(np.float64)


def matrix_columns(
    value: NDArray[np.float32], outputs: int
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """The same for a matrix product: value float32 [...,K] is its own columns."""
    yield slice(0, outputs), value.reshape(-1, value.shape[-1]).astype(np.float64)
