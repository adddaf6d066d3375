"""Normal and binomial distributions, straight from `scipy.special`.

`scipy.stats` has the same behind checks of every argument, and takes as long to import as all the
rest of a small run's start.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, bdtrc, ndtr, ndtri

Array = NDArray[np.float64]


def normal_cdf(x: ArrayLike) -> Array:
    """P(Z <= x), float64."""
    return np.asarray(ndtr(x), np.float64)


def normal_density(x: NDArray[Any]) -> Array:
    """exp(-x^2 / 2) / sqrt(2 pi), float64."""
    return np.asarray(np.exp(-np.square(x) / 2) / math.sqrt(2 * math.pi), np.float64)


def normal_quantile(p: float) -> float:
    """The x with P(Z <= x) = p."""
    return float(ndtri(p))


def binomial_cdf(k: ArrayLike, n: ArrayLike, p: ArrayLike) -> Array:
    """P(X <= k) of n trials that succeed with probability p each; 0 for k below 0."""
    count = np.asarray(k, np.float64)
    return np.where(count < 0, 0.0, bdtr(np.maximum(count, 0), n, p))


def binomial_above(k: ArrayLike, n: ArrayLike, p: ArrayLike) -> Array:
    """P(X > k); 1 for k below 0."""
    count = np.asarray(k, np.float64)
    return np.where(count < 0, 1.0, bdtrc(np.maximum(count, 0), n, p))


def fair_quantile(q: float, n: int) -> int:
    """The least k with P(X <= k) >= q of n fair coins."""
    return int(np.argmax(binomial_cdf(np.arange(n + 1), n, 0.5) >= q))


def wilson(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """Wilson's score interval of a share, within [0, 1].

    Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the
    American Statistical Association 22 (1927) 209-212.
    """
    z = normal_quantile(0.5 + confidence / 2)
    share, grown = successes / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / grown
    half = z / grown * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high
