"""Moments of columns: for each group the sum of x x^T over its positions, what rounding looks at.

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

_POSITIONS = 1 << 11
"""That are added at once: so many products of 255 and 255 are far from the end of int32."""

Moments = Iterator[tuple[slice, NDArray[np.float64]]]
"""(groups, their moments float64 [g,K,K]), of all groups in order."""


def moments_of(columns: Columns, encoding: Encoding | None, product: Operator) -> Moments:
    """The moments of all groups' columns.

    Args:
        columns: float32, or uint8 with an encoding.
        encoding: what the integers stand for; moments are then in units of its scale, squared.
        product: of `INTEGER_GRAM`.

    Yields:
        Groups and their moments.
    """
    for groups, values in columns:
        if encoding is None:
            reals = values.astype(np.float64)
            yield groups, np.stack([one.T @ one for one in reals])
        else:
            yield groups, _exact(values, encoding.zero_point, product)


def _exact(values: NDArray[Any], zero_point: int, product: Operator) -> NDArray[np.float64]:
    zero = np.asarray(zero_point, np.uint8)
    starts = range(0, values.shape[1], _POSITIONS)
    parts = product.each([values[:, start : start + _POSITIONS], zero] for start in starts)
    total = np.zeros(parts[0][0].shape)
    for [part] in parts:
        total += part
    return total
