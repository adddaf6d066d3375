"""Pairs of products: what x86 processors without VNNI add in 16 bits, and when that overflows.

There onnxruntime multiplies uint8 activations x by int8 weights w two at a time, and x_i w_i +
x_j w_j is cut off at -32768 and 32767 before it is added to the sum in 32 bits. Neighbours in the
order of the kernel are a pair, first with second, third with fourth: for a convolution the order
is position by position with the channels of a group innermost. A depthwise convolution, one channel
in and one out for each group, is multiplied in 32 bits and has no pairs. All of that was seen in
emulation, see docs/portable.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST = 32767 // 255
"""What two weights of one sign may sum up to for no activations to overflow: 255 * 128 fits."""

_AT_ONCE = 1 << 22
"""Sums of pairs that are held at once."""


def kernel_order(channels: int, taps: int) -> NDArray[np.int64]:
    """Where a row of weights [C, taps] stands in the order of the kernel, int64 [C taps].

    Args:
        channels: of a group.
        taps: positions of the kernel; 1 for a matrix product.
    """
    return np.arange(channels * taps).reshape(channels, taps).T.reshape(-1)


def partners(channels: int, taps: int) -> NDArray[np.int64]:
    """Which weights of a row [C, taps] share a pair with each, int64 [C taps, L], -1 for none.

    A channel of zeros may be added to an odd number of them (`quantize.graph.widen`), which makes
    other pairs: then L is 2, and both are told.
    """
    order = kernel_order(channels, taps)
    result = np.full((len(order), 1 + channels % 2 * (taps > 1)), -1, np.int64)
    positions = np.arange(len(order))
    for way in range(result.shape[1]):
        places = positions + way * (positions // channels)  # behind the zeros added before
        row = np.full(int(places[-1]) + 2 - int(places[-1]) % 2, -1, np.int64)
        row[places] = order
        two = row.reshape(-1, 2)
        for one, other in (two.T, two[:, ::-1].T):
            there = one >= 0
            result[one[there], way] = other[there]
    return result


def in_pairs(integers: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """First and second of each pair along the last axis, in kernel order; an odd end meets a 0."""
    if integers.shape[-1] % 2:
        integers = np.pad(integers, [(0, 0)] * (integers.ndim - 1) + [(0, 1)])
    return integers[..., 0::2], integers[..., 1::2]


def at_risk(weights: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Pairs that some activations overflow, [..., K/2], for weights [..., K] in kernel order.

    255 (max(w_i, 0) + max(w_j, 0)) > 32767, or 255 (min(w_i, 0) + min(w_j, 0)) < -32768.
    """
    first, second = (part.astype(np.int16) for part in in_pairs(weights))
    high = np.maximum(first, 0) + np.maximum(second, 0)
    low = np.minimum(first, 0) + np.minimum(second, 0)
    return np.asarray((high > MOST) | (low < -MOST))


class Risks:
    """Pairs of weights that some activations overflow: found once, for many activations.

    Both of such a pair have one sign, so that sums of absolute values tell. They fit 16 bits
    without a sign: 255 (128 + 128) < 65536.

    Args:
        weights: int8 [M,K] in kernel order.

    Attributes:
        count: how many there are.
        pairs: of all.
    """

    def __init__(self, weights: NDArray[np.int8]) -> None:
        risky = at_risk(weights)
        rows, pairs = np.nonzero(risky)
        self.count, self.pairs = len(pairs), risky.size
        self._first = (2 * pairs).astype(np.int32)
        one, other = (part[rows, pairs].astype(np.int16) for part in in_pairs(weights))
        self._one, self._other = (np.abs(part).astype(np.uint16) for part in (one, other))
        self._most = np.where(one > 0, 32767, 32768).astype(np.uint16)

    def overflowing(self, columns: NDArray[np.uint8]) -> int:
        """How many sums of pairs overflow, of as many as `pairs` at each position: exact.

        Args:
            columns: uint8 [P,K], activations in kernel order at P positions.
        """
        largest = columns.max(axis=0, initial=0)[None]
        left = np.flatnonzero(self._beyond(largest, slice(None)))
        step, count = max(1, _AT_ONCE // max(1, len(columns))), 0
        for start in range(0, len(left), step):
            count += int(np.count_nonzero(self._beyond(columns, left[start : start + step])))
        return count

    def _beyond(
        self, columns: NDArray[np.uint8], some: slice | NDArray[np.intp]
    ) -> NDArray[np.bool_]:
        """Whether sums overflow, [P, some of the pairs]."""
        first = self._first[some]
        sums = columns[:, first] * self._one[some] + columns[:, first + 1] * self._other[some]
        return np.asarray(sums > self._most[some])
