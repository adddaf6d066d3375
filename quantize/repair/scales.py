"""Scales for weights: one per output channel, or one for all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantize.pairs import MOST
from quantize.repair.portable import Partners, fitting, together

_SHARES = np.linspace(1.0, 0.6, 17)
_LEAST = 1e-12


@dataclass(frozen=True)
class WeightForm:
    """What integers and scales the weights of a layer may have.

    Attributes:
        limit: largest absolute integer.
        portable: whether each pair of integers has to fit 16 bits.
        whole: whether all channels share one scale.
    """

    limit: int = 127
    portable: bool = False
    whole: bool = False


INT8 = WeightForm()
"""All of -127 to 127, and a scale for each channel."""


def largest(
    weight: NDArray[np.float32],
    limit: int = 127,
    partners: Partners | None = None,
    *,
    whole: bool = False,
) -> NDArray[np.float32]:
    """The scale under which nothing is clipped: s_m = max_k |w_mk| / limit.

    With partners it is also at least max |w_mi + w_mj| / MOST over the pairs of one sign.

    Args:
        weight: float32 [M,K].
        limit: largest absolute integer.
        partners: of the columns, where each pair has to fit 16 bits.
        whole: whether the largest of all is every channel's.

    Returns:
        float32 [M].
    """
    scale = np.abs(weight).max(axis=1) / limit
    if partners is not None:
        scale = np.maximum(scale, together(weight, partners) / MOST)
    if whole:
        scale = np.full_like(scale, scale.max(initial=0))
    return np.asarray(np.maximum(scale, _LEAST), np.float32)


def least_squares(
    weight: NDArray[np.float32],
    limit: int = 127,
    partners: Partners | None = None,
    *,
    whole: bool = False,
) -> NDArray[np.float32]:
    """The scale with the least sum_k (w_mk - s_m q_mk)^2, out of 17 from the largest to 60 % of it.

    Args:
        weight: float32 [M,K].
        limit: largest absolute integer.
        partners: as for `largest`.
        whole: whether one scale is every channel's: that with the least sum over all of them.

    Returns:
        float32 [M].
    """
    full = largest(weight, limit, partners, whole=whole)
    best, least = full, np.full(len(weight), np.inf)
    for share in _SHARES:
        scale = (full * np.float32(share)).astype(np.float32)
        rounded = nearest(weight, scale, limit, partners) * scale[:, None]
        error = ((weight - rounded) ** 2).sum(axis=1)
        if whole:
            error = np.full_like(error, error.sum())
        best = np.where(error < least, scale, best)
        least = np.minimum(error, least)
    return best


def chosen(
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    unit: float,
    form: WeightForm = INT8,
    *,
    by_least_squares: bool = False,
    partners: Partners | None = None,
) -> NDArray[np.float32]:
    """A layer's scales: `largest` or by `least_squares`, and none for which the bias is too large.

    The bias is an int32 in units of input scale times weight scale: |b_m| / (s_x s_m) stays below
    2^30. A channel whose weights are all but 0 would lose its bias otherwise.

    Args:
        weight: float32 [M,K].
        bias: float32 [M].
        unit: scale of the input's integers, 0 where it has none.
        form: largest absolute integer, and whether there is one scale for all.
        by_least_squares: which of the two.
        partners: as for `largest`.

    Returns:
        float32 [M].
    """
    found = least_squares if by_least_squares else largest
    scale = found(weight, form.limit, partners, whole=form.whole)
    if not unit:
        return scale
    least = np.asarray(np.abs(bias) / (unit * 2.0**30), np.float32)
    return np.maximum(scale, least.max(initial=0) if form.whole else least)


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
