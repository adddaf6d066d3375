"""A convolution's input as columns, so that it is a matrix product like any other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantize.plan import Encoding

_LEAST, _MOST = 16, 64
"""Positions of each image."""

_COLUMNS = 8
"""For each of the K values of a column, over all images: what follows damps the rest."""

_MOST_IMAGES = 64
_AT_ONCE = 1 << 22
"""Values of the columns that are held at once, unless one group has more."""

Columns = Iterator[tuple[slice, NDArray[Any]]]
"""(groups, their columns [g,P,K], float32 or uint8), of all groups in order."""


def conv_columns(
    value: NDArray[Any],
    encoding: Encoding | None = None,
    *,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pads: tuple[int, int, int, int],
    group: int,
) -> Columns:
    """What each row of the weight matrix is multiplied with, at a seeded sample of positions.

    Of more than `_MOST_IMAGES` images so many are taken, at equal distances.

    Args:
        value: float32 [N,C,H,W], or uint8 with an encoding.
        encoding: what the integers stand for; the padding is its zero point.
        kernel: height and width; strides and dilations likewise.
        strides: of the convolution.
        dilations: of the convolution.
        pads: top, left, bottom, right.
        group: of the convolution.

    Yields:
        Groups and their columns [g,P,K] with K = C / group * kH * kW, of the value's type.
    """
    top, left, bottom, right = pads
    total = len(value)
    if total > _MOST_IMAGES:
        value = value[[index * total // _MOST_IMAGES for index in range(_MOST_IMAGES)]]
    zero = 0 if encoding is None else encoding.zero_point
    if any(pads):
        around = ((0, 0), (0, 0), (top, bottom), (left, right))
        value = np.pad(value, around, constant_values=zero)
    images, channels, high, wide = value.shape
    reach = ((kernel[0] - 1) * dilations[0] + 1, (kernel[1] - 1) * dilations[1] + 1)
    height, width = (high - reach[0]) // strides[0] + 1, (wide - reach[1]) // strides[1] + 1
    per_column = channels // group * kernel[0] * kernel[1]
    wanted = -(-_COLUMNS * per_column // images)
    count = min(max(_LEAST, min(wanted, _MOST)), height * width)
    spots = np.random.default_rng(0).choice(height * width, count, replace=False)
    corners = spots // width * strides[0] * wide + spots % width * strides[1]
    places = corners[:, None] + _window((channels // group, high, wide), kernel, dilations)
    at_once = max(1, _AT_ONCE // (images * count * per_column))
    for start in range(0, group, at_once):
        some = slice(start, min(start + at_once, group))
        own = value.reshape(images, group, -1)[:, some].take(places, axis=2)  # [N,g,P,K]
        yield some, own.transpose(1, 0, 2, 3).reshape(own.shape[1], -1, per_column)


def _window(
    shape: tuple[int, int, int], kernel: tuple[int, int], dilations: tuple[int, int]
) -> NDArray[np.int64]:
    """Where in the flattened values [C,H,W] of a group the first window lies, int64 [K]."""
    channels, high, wide = shape
    down = np.arange(kernel[0]) * dilations[0] * wide
    across = np.arange(kernel[1]) * dilations[1]
    first = np.arange(channels) * high * wide
    return np.asarray((first[:, None, None] + down[:, None] + across).reshape(-1))


def matrix_columns(value: NDArray[Any]) -> Columns:
    """The same for a matrix product: value [...,K] is its own columns, in one group."""
    yield slice(0, 1), value.reshape(1, -1, value.shape[-1])
