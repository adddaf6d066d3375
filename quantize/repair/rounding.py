"""Least-squares rounding: choose each integer so that it makes up for the ones chosen before.

For one layer y = W x with W [M,K] the error of integers Q with scales s is the quadratic form
sum_m (w_m - s_m q_m)^T H (w_m - s_m q_m), H = E[x x^T]. Rounding to the nearest ignores H's
off-diagonal. Here columns are rounded one after the other, and the rounding error of each is
carried over to the columns not yet rounded (Frantar and Alistarh, "Optimal Brain Compression",
2022; Frantar et al., "GPTQ", 2023): with U the upper Cholesky factor of H^-1,
w_j -= (w_i - s q_i) / U_ii * U_ij for j > i.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

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
    sorted_moments = moments[groups, order[:, :, None], order[:, None, :]]
    upper = _inverse_factors(sorted_moments)
    # Columns of W lie together: [G,K,M].
    rest = (weight.astype(np.float64) / scale[:, :, None]).transpose(0, 2, 1)
    rest = np.ascontiguousarray(np.take_along_axis(rest, order[:, :, None], axis=1))
    beside = None if partners is None else _beside(order, partners)
    integers = _rounded(rest, upper, limit, beside)
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
    integers: NDArray[np.int8], beside: NDArray[np.int64], limit: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Between what a column [G,M] may lie, whose partners [G,L] of `integers` are rounded."""
    groups = np.arange(len(integers))[:, None]
    chosen = np.where(beside[..., None] >= 0, integers[groups, beside], 0)  # [G,L,M]
    low, high = room(chosen, limit)
    return low.max(axis=1), high.min(axis=1)


def _rounded(
    rest: NDArray[np.float64],
    upper: NDArray[np.float64],
    limit: int,
    beside: NDArray[np.int64] | None,
) -> NDArray[np.int8]:
    """The integers int8 [G,K,M] of weights float64 [G,K,M] in steps; `rest` is used up.

    A block of columns is rounded before the later ones are told, all at once.
    """
    low: Any
    high: Any
    low, high = -limit, limit
    integers = np.empty(rest.shape, np.int8)
    columns = rest.shape[1]
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        errors = np.empty((len(rest), stop - start, rest.shape[2]))
        for i in range(start, stop):
            if beside is not None:
                low, high = _limits(integers, beside[:, i], limit)
            nearby = np.minimum(np.maximum(np.rint(rest[:, i]), low), high)  # np.clip is slow
            integers[:, i] = nearby
            error = (rest[:, i] - nearby) / upper[:, i, i, None]
            rest[:, i + 1 : stop] -= upper[:, i, i + 1 : stop, None] * error[:, None]
            errors[:, i - start] = error
        if stop < columns:
            rest[:, stop:] -= upper[:, start:stop, stop:].transpose(0, 2, 1) @ errors
    return integers


def _error(
    weight: NDArray[np.float32],
    scale: NDArray[np.float32],
    integers: NDArray[np.int8],
    moments: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Each row's (w - s q)^T H (w - s q), float64 [G,M]."""
    missing = weight.astype(np.float64) - scale.astype(np.float64)[..., None] * integers
    return np.asarray(((missing @ moments) * missing).sum(axis=-1))


def _inverse_factors(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """U with U^T U = (H + damping)^-1 of each H [G,K,K], upper triangular.

    Damping keeps H invertible. With J the reversal of rows, J H J = L L^T gives
    H^-1 = (J L^-1 J)^T (J L^-1 J), and J L^-1 J is upper triangular.
    """
    width = moments.shape[1]
    mean = np.trace(moments, axis1=1, axis2=2) / width
    damped = moments + np.eye(width) * np.maximum(_DAMPING * mean, 1e-12)[:, None, None]
    lower = np.linalg.cholesky(damped[:, ::-1, ::-1])
    # One call for many small matrices; LAPACK's for triangles takes half as long on a large one.
    inverse = np.linalg.inv(lower) if len(lower) > 1 else _triangle(lower[0])[None]
    return np.ascontiguousarray(inverse[:, ::-1, ::-1])


def _triangle(lower: NDArray[np.float64]) -> NDArray[np.float64]:
    inverse, failed = lapack.dtrtri(lower, lower=1)
    if failed:
        raise np.linalg.LinAlgError("the moments are not positive")
    return np.asarray(inverse)
