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

from quantize.repair.scales import nearest

_DAMPING = 0.01
_BLOCK = 64


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
    result = np.empty(weight.shape, np.int8)
    result[:, order] = integers.astype(np.int8)
    # What is carried over may meet the limit, or be rounded away again: each row keeps the better.
    simple = nearest(weight, scale, limit)
    worse = _error(weight, scale, result, moments) > _error(weight, scale, simple, moments)
    result[worse] = simple[worse]
    return result


def _error(
    weight: NDArray[np.float32],
    scale: NDArray[np.float32],
    integers: NDArray[np.int8],
    moments: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Each row's (w - s q)^T H (w - s q), float64 [M]."""
    missing = weight.astype(np.float64) - scale.astype(np.float64)[:, None] * integers
    return np.asarray(((missing @ moments) * missing).sum(axis=1))


def _inverse_factor(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """U with U^T U = (H + damping)^-1, upper triangular; damping keeps H invertible."""
    mean = float(np.trace(moments)) / len(moments)
    damped = moments + np.eye(len(moments)) * max(_DAMPING * mean, 1e-12)
    lower = np.linalg.cholesky(damped)
    inverse = np.linalg.inv(lower)
    upper: NDArray[np.float64] = np.linalg.cholesky(inverse.T @ inverse).T
    return upper
