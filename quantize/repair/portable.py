"""Weights that no activations drive beyond 16 bits, pair by pair; see `quantize.pairs`.

Two weights that share a pair have to sum up to at most `MOST` where they have one sign, no more:
the largest weight of a channel may be 127 if its neighbour is small. A channel loses resolution
only if one of its pairs would overflow, and only as much as that pair asks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantize.graph.layers import Layer
from quantize.pairs import MOST, partners

Partners = NDArray[np.int64]
"""Of each column, [K,L], -1 for none: see `quantize.pairs.partners`."""


def partners_of(layer: Layer, shape: tuple[int, ...]) -> Partners | None:
    """Which columns of a layer's weight matrix [M,K] share a pair, or None.

    The products of a depthwise convolution are not added in pairs.

    Args:
        layer: that holds the weight.
        shape: (M, K).
    """
    rows, width = shape
    taps = layer.kernel[0] * layer.kernel[1]
    if layer.group == rows > 1 and width == taps:
        return None
    return partners(width // taps, taps)


def together(weight: NDArray[Any], partners: Partners) -> NDArray[Any]:
    """The largest |w_i + w_j| of a pair of one sign in each row, [...], for weights [...,K]."""
    largest = np.zeros(weight.shape[:-1], np.float64)
    for way in partners.T:
        one = np.flatnonzero(way >= 0)
        a, b = weight[..., one], weight[..., way[one]]
        both = np.where(a * b > 0, np.abs(a + b), 0)
        largest = np.maximum(largest, both.max(axis=-1, initial=0))
    return largest


def fitting(integers: NDArray[Any], partners: Partners) -> NDArray[Any]:
    """Integers [...,K] of which each pair fits, of those with the least change, half of it each.

    Args:
        integers: whole numbers from -127 to 127 of any type.
        partners: of the columns.
    """
    result = integers.astype(np.int16)
    for way in partners.T:
        one = np.flatnonzero(way > np.arange(len(way)))
        other = way[one]
        a, b = result[..., one], result[..., other]
        excess = np.where(a * b > 0, np.maximum(np.abs(a + b) - MOST, 0), 0)
        more, less = (excess + 1) // 2, excess // 2
        first = np.abs(a) >= np.abs(b)
        result[..., one] = a - np.sign(a) * np.where(first, more, less)
        result[..., other] = b - np.sign(b) * np.where(first, less, more)
    return result.astype(integers.dtype)


def room(neighbours: NDArray[Any], limit: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Lowest and highest integer beside these, chosen already: [...] for integers [...]."""
    chosen = neighbours.astype(np.int64)
    low = np.maximum(-limit, -MOST - np.minimum(chosen, 0))
    return low, np.minimum(limit, MOST - np.maximum(chosen, 0))
