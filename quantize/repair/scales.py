"""Scales for weights: one per output channel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SHARES = np.linspace(1.0, 0.6, 17)
_LEAST = 1e-12


def largest(weight: NDArray[np.float32], limit: int = 127) -> NDArray[np.float32]:
    """The scale under which nothing is clipped: s_m = max_k |w_mk| / limit.

    Args:
        weight: float32 [M,K].
        limit: largest absolute integer.

    Returns:
        float32 [M].
    """
    return np.asarray(np.maximum(np.abs(weight).max(axis=1) / limit, _LEAST), np.float32)


def least_squares(weight: NDArray[np.float32], limit: int = 127) -> NDArray[np.float32]:
    """The scale with the least sum_k (w_mk - s_m q_mk)^2, out of 17 from max|w| to 60 % of it.

    Args:
        weight: float32 [M,K].
        limit: largest absolute integer.

    Returns:
        float32 [M].
    """
    full = largest(weight, limit)
    best, least = full, np.full(len(weight), np.inf)
    for share in _SHARES:
        scale = (full * np.float32(share)).astype(np.float32)
        error = ((weight - nearest(weight, scale, limit) * scale[:, None]) ** 2).sum(axis=1)
        best = np.where(error < least, scale, best)
        least = np.minimum(error, least)
    return best


def nearest(
    weight: NDArray[np.float32], scale: NDArray[np.float32], limit: int = 127
) -> NDArray[np.int8]:
    """Each weight's nearest integer, int8 [...,K], for float32 [...,K] and scale float32 [...]."""
    return np.clip(np.rint(weight / scale[..., None]), -limit, limit).astype(np.int8)
