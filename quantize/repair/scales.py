"""Scales for weights: one per output channel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantize.pairs import MOST
from quantize.repair.portable import Partners, fitting, together

_SHARES = np.linspace(1.0, 0.6, 17)
_LEAST = 1e-12


def largest(
    weight: NDArray[np.float32], limit: int = 127, partners: Partners | None = None
) -> NDArray[np.float32]:
    """The scale under which nothing is clipped: s_m = max_k |w_mk| / limit.

    With partners it is also at least max |w_mi + w_mj| / MOST over the pairs of one sign.

    Args:
        weight: float32 [M,K].
        limit: largest absolute integer.
        partners: of the columns, where each pair has to fit 16 bits.

    Returns:
        float32 [M].
    """
    scale = np.abs(weight).max(axis=1) / limit
    if partners is not None:
        scale = np.maximum(scale, together(weight, partners) / MOST)
    return np.asarray(np.maximum(scale, _LEAST), np.float32)


def least_squares(
    weight: NDArray[np.float32], limit: int = 127, partners: Partners | None = None
) -> NDArray[np.float32]:
    """The scale with the least sum_k (w_mk - s_m q_mk)^2, out of 17 from the largest to 60 % of it.

    Args:
        weight: float32 [M,K].
        limit: largest absolute integer.
        partners: as for `largest`.

    Returns:
        float32 [M].
    """
    full = largest(weight, limit, partners)
    best, least = full, np.full(len(weight), np.inf)
    for share in _SHARES:
        scale = (full * np.float32(share)).astype(np.float32)
        rounded = nearest(weight, scale, limit, partners) * scale[:, None]
        error = ((weight - rounded) ** 2).sum(axis=1)
        best = np.where(error < least, scale, best)
        least = np.minimum(error, least)
    return best


def chosen(
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    unit: float,
    *,
    by_least_squares: bool = False,
    limit: int = 127,
    partners: Partners | None = None,
) -> NDArray[np.float32]:
    """A layer's scales: `largest` or by `least_squares`, and none for which the bias is too large.

    The bias is an int32 in units of input scale times weight scale: |b_m| / (s_x s_m) stays below
    2^30. A channel whose weights are all but 0 would lose its bias otherwise.

    Args:
        weight: float32 [M,K].
        bias: float32 [M].
        unit: scale of the input's integers, 0 where it has none.
        by_least_squares: which of the two.
        limit: largest absolute integer.
        partners: as for `largest`.

    Returns:
        float32 [M].
    """
    scale = (least_squares if by_least_squares else largest)(weight, limit, partners)
    if not unit:
        return scale
    return np.maximum(scale, np.asarray(np.abs(bias) / (unit * 2.0**30), np.float32))


def nearest(
    weight: NDArray[np.float32],
    scale: NDArray[np.float32],
    limit: int = 127,
    partners: Partners | None = None,
) -> NDArray[np.int8]:
    """Each weight's nearest integer, int8 [...,K], for float32 [...,K] and scale float32 [...].

    With partners, the nearest of which each pair fits 16 bits.
    """
    integers = np.clip(np.rint(weight / scale[..., None]), -limit, limit).astype(np.int8)
    return integers if partners is None else fitting(integers, partners)
