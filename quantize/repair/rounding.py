"""Least-squares rounding: choose each integer so that it makes up for the ones chosen before.

For one layer y = W x with W [M,K] the error of integers Q with scales s is the quadratic form
sum_m (w_m - s_m q_m)^T H (w_m - s_m q_m), H = E[x x^T]. Rounding to the nearest ignores H's
off-diagonal. Here columns are rounded one after the other, each so that it makes up for the errors
of those before (Frantar and Alistarh, "Optimal Brain Compression", 2022; Frantar et al., "GPTQ",
2023). With H = V V^T, V upper triangular, the form is sum_j (sum_{i <= j} (w_i - s q_i) V_ij)^2:
its j-th term is least for the integer nearest to (w_j + sum_{i < j} (w_i - s q_i) V_ij / V_jj) / s,
and no inverse of H is needed (Chee et al., "QuIP", 2023).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantize.repair.portable import Partners, room
from quantize.repair.scales import nearest

_DAMPING = 0.01
_BLOCK = 64


def round_by_least_squares(
    weight: NDArray[np.float32],
    scale: NDArray[np.float32],
    moments: NDArray[np.float64],
    limit: int = 127,
    partners: Partners | None = None,
) -> NDArray[np.int8]:
    """Integers for one layer's weights, or for those of G groups side by side.

    Args:
        weight: float32 [M,K] or [G,M,K].
        scale: float32 [M] or [G,M], positive.
        moments: float64 [K,K] or [G,K,K], mean or sum of x x^T over positions.
        limit: largest absolute integer.
        partners: of the columns, where each pair has to fit 16 bits: the second of a pair keeps
            within what the first leaves, and what that costs is carried over like any other error.

    Returns:
        int8, shaped as the weight.
    """
    shape = weight.shape
    weight = weight.reshape(-1, *shape[-2:])
    scale = scale.reshape(weight.shape[:2])
    moments = moments.reshape(-1, *moments.shape[-2:])
    order = np.argsort(-np.diagonal(moments, axis1=1, axis2=2), axis=1, kind="stable")
    groups = np.arange(len(weight))[:, None, None]
    shares = _shares(moments[groups, order[:, :, None], order[:, None, :]])
    # Columns of W lie together: [G,K,M].
    wanted = (weight.astype(np.float64) / scale[:, :, None]).transpose(0, 2, 1)
    wanted = np.ascontiguousarray(np.take_along_axis(wanted, order[:, :, None], axis=1))
    beside = None if partners is None else _beside(order, partners)
    integers = _rounded(wanted, shares, limit, beside)
    result = np.empty(weight.shape, np.int8)
    np.put_along_axis(result, order[:, None, :], integers.transpose(0, 2, 1), axis=2)
    # What is carried over may meet the limit, or be rounded away again: each row keeps the better.
    simple = nearest(weight, scale, limit, partners)
    worse = _error(weight, scale, result, moments) > _error(weight, scale, simple, moments)
    result[worse] = simple[worse]
    return result.reshape(shape)


def _beside(order: NDArray[np.int64], partners: Partners) -> NDArray[np.int64]:
    """The partners by their place in the order of rounding, [G,K,L]: -1 unless rounded before."""
    places = np.argsort(order, axis=1, kind="stable")  # [G,K]: column -> place
    own = partners[order]  # [G,K,L]
    groups = np.arange(len(order))[:, None, None]
    there = np.where(own >= 0, places[groups, own], -1)
    return np.where(there < np.arange(order.shape[1])[:, None], there, -1)


def _limits(
    integers: NDArray[np.float64], beside: NDArray[np.int64], limit: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Between what a column [G,M] may lie, whose partners [G,L] of `integers` are rounded."""
    groups = np.arange(len(integers))[:, None]
    chosen = np.where(beside[..., None] >= 0, integers[groups, beside], 0)  # [G,L,M]
    low, high = room(chosen, limit)
    return low.max(axis=1), high.min(axis=1)


def _rounded(
    wanted: NDArray[np.float64],
    shares: NDArray[np.float64],
    limit: int,
    beside: NDArray[np.int64] | None,
) -> NDArray[np.int8]:
    """The integers int8 [G,K,M] of weights float64 [G,K,M] in steps.

    A block of columns is told at once what the blocks before it left.
    """
    low: Any
    high: Any
    low, high = np.asarray(-limit, np.float64), np.asarray(limit, np.float64)
    integers, errors = np.empty_like(wanted), np.empty_like(wanted)
    columns = wanted.shape[1]
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        told = shares[:, start:stop]
        aims = wanted[:, start:stop] + told[:, :, :start] @ errors[:, :start]
        for i in range(start, stop):
            nearby = integers[:, i]
            aim = (
                aims[:, i - start] + (told[:, i - start, None, start:i] @ errors[:, start:i])[:, 0]
            )
            if beside is not None:
                low, high = _limits(integers, beside[:, i], limit)
            np.rint(aim, out=nearby)
            np.maximum(nearby, low, out=nearby)  # np.clip is slow
            np.minimum(nearby, high, out=nearby)
            np.subtract(wanted[:, i], nearby, out=errors[:, i])
    return integers.astype(np.int8)


def _error(
    weight: NDArray[np.float32],
    scale: NDArray[np.float32],
    integers: NDArray[np.int8],
    moments: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Each row's (w - s q)^T H (w - s q), float64 [G,M]."""
    missing = weight.astype(np.float64) - scale.astype(np.float64)[..., None] * integers
    return np.asarray(((missing @ moments) * missing).sum(axis=-1))


def _shares(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of each earlier column's error a column takes over: V_ij / V_jj at [G,j,i], i < j.

    V is the upper triangular factor of H + damping = V V^T of each H [G,K,K]; damping keeps it
    from being singular. With J the reversal of rows and J H J = L L^T, V is J L J.
    """
    damped = moments[:, ::-1, ::-1].copy()
    diagonal = np.einsum("gkk->gk", damped)
    diagonal += np.maximum(_DAMPING * diagonal.mean(axis=1), 1e-12)[:, None]
    lower = np.linalg.cholesky(damped)
    lower /= np.einsum("gkk->gk", lower)[:, None, :]
    return np.ascontiguousarray(lower[:, ::-1, ::-1].transpose(0, 2, 1))
