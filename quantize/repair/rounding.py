"""Least-squares rounding: choose each integer so that it makes up for the ones chosen before.

For one layer y = W x with W [M,K] the error of integers Q with scales s is the quadratic form
sum_m (w_m - s_m q_m)^T H (w_m - s_m q_m), H = E[x x^T]. Rounding to the nearest ignores H's
off-diagonal. Here columns are rounded one after the other, and the rounding error of each is
carried over to the columns not yet rounded (Frantar and Alistarh, "Optimal Brain Compression",
2022; Frantar et al., "GPTQ", 2023): with U the upper Cholesky factor of H^-1,
w_j -= (w_i - s q_i) / U_ii * U_ij for j > i.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_DAMPING = 0.01
_BLOCK = 64
_SWEEPS = 2


def round_by_least_squares(
    weight: NDArray[np.float32],
    scale: NDArray[np.float32],
    moments: NDArray[np.float64],
    limit: int = 127,
) -> NDArray[np.int8]:
    """Integers for one layer's weights.

    Args:
        weight: float32 [M,K].
        scale: float32 [M], positive.
        moments: float64 [K,K], mean or sum of x x^T over positions.
        limit: largest absolute integer.

    Returns:
        int8 [M,K].
    """
    rounded = _carry_errors(weight, scale, moments, limit)
    return _descend(weight, scale, moments, rounded, limit).astype(np.int8)


def quadratic_error(
    weight: NDArray[np.float32],
    scale: NDArray[np.float32],
    moments: NDArray[np.float64],
    integers: NDArray[np.int8],
) -> NDArray[np.float64]:
    """float64 [M]: (w_m - s_m q_m)^T H (w_m - s_m q_m) of each row."""
    error = weight.astype(np.float64) - scale[:, None].astype(np.float64) * integers
    return np.einsum("mk,mk->m", error @ moments, error)


def _descend(
    weight: NDArray[np.float32],
    scale: NDArray[np.float32],
    moments: NDArray[np.float64],
    integers: NDArray[np.float64],
    limit: int,
) -> NDArray[np.float64]:
    """Coordinate descent: each integer in turn takes the value that is best given the others."""
    steps = scale.astype(np.float64)
    error = weight.astype(np.float64) - steps[:, None] * integers
    diagonal = np.maximum(np.diag(moments), 1e-12 * float(np.trace(moments)) + 1e-30)
    for _ in range(_SWEEPS):
        pull = error @ moments
        for i in range(len(moments)):
            wanted = np.rint(integers[:, i] + pull[:, i] / (steps * diagonal[i]))
            change = np.clip(wanted, -limit, limit) - integers[:, i]
            moved = np.flatnonzero(change)
            if moved.size:
                integers[moved, i] += change[moved]
                shift = steps[moved] * change[moved]
                error[moved, i] -= shift
                pull[moved] -= np.outer(shift, moments[i])
    return integers


def _carry_errors(
    weight: NDArray[np.float32],
    scale: NDArray[np.float32],
    moments: NDArray[np.float64],
    limit: int,
) -> NDArray[np.float64]:
    order = np.argsort(-np.diag(moments), kind="stable")
    upper = _inverse_factor(moments[np.ix_(order, order)])
    rest = (weight.astype(np.float64) / scale[:, None])[:, order]
    integers = np.empty_like(rest)
    columns = rest.shape[1]
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        errors = np.empty((len(rest), stop - start))
        for i in range(start, stop):
            integers[:, i] = np.clip(np.rint(rest[:, i]), -limit, limit)
            error = (rest[:, i] - integers[:, i]) / upper[i, i]
            rest[:, i:stop] -= np.outer(error, upper[i, i:stop])
            errors[:, i - start] = error
        rest[:, stop:] -= errors @ upper[start:stop, stop:]
    result = np.empty(weight.shape)
    result[:, order] = integers
    return result


def _inverse_factor(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """U with U^T U = (H + damping)^-1, upper triangular; damping keeps H invertible."""
    mean = float(np.trace(moments)) / len(moments)
    damped = moments + np.eye(len(moments)) * max(_DAMPING * mean, 1e-12)
    lower = np.linalg.cholesky(damped)
    inverse = np.linalg.inv(lower)
    upper: NDArray[np.float64] = np.linalg.cholesky(inverse.T @ inverse).T
    return upper
