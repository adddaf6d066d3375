"""Gram matrices of columns: for each group the sum of x x^T over its positions, for rounding.

Columns of integers are multiplied as integers: the sums are exact, whatever the processor and
however the positions are divided, and take less time than those of reals.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantize.graph.io import to_bytes
from quantize.graph.product import integer_gram
from quantize.plan import Encoding
from quantize.repair.columns import Columns
from quantize.runtime import Operator

INTEGER_GRAM = to_bytes(integer_gram())

_POSITIONS = 1 << 15
"""That are added at once: more products of 255 and 255 could leave int32."""

_STRIP = 128
"""Rows that are worked out at once, from the diagonal on: the rest is their mirror."""

Grams = Iterator[tuple[slice, NDArray[np.float64]]]
"""(groups, their Gram matrices float64 [g,K,K]), of all groups in order."""


def grams_of(columns: Columns, encoding: Encoding | None, product: Operator) -> Grams:
    """The Gram matrix of each group's columns.

    Args:
        columns: float32, or uint8 with an encoding.
        encoding: what the integers stand for; sums are then in units of its scale, squared.
        product: of `INTEGER_GRAM`.

    Yields:
        Groups and their matrices.
    """
    for groups, values in columns:
        if encoding is None:
            reals = values.astype(np.float64)
            yield groups, np.stack([one.T @ one for one in reals])
        else:
            yield groups, _exact(values, encoding.zero_point, product)


def _exact(values: NDArray[Any], zero_point: int, product: Operator) -> NDArray[np.float64]:
    groups, positions, width = values.shape
    zero = np.asarray(zero_point, np.uint8)
    total = np.zeros((groups, width, width))
    strips = [slice(start, min(start + _STRIP, width)) for start in range(0, width, _STRIP)]
    for start in range(0, positions, _POSITIONS):
        some = values[:, start : start + _POSITIONS]
        feeds = ([some[..., strip], some[..., strip.start :], zero] for strip in strips)
        for strip, [made] in zip(strips, product.each(feeds), strict=True):
            total[:, strip, strip.start :] += made
    for strip in strips:
        total[:, strip.stop :, strip] = total[:, strip, strip.stop :].transpose(0, 2, 1)
    return total
