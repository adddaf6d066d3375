"""Exact chances of paired tables (lost, gained, rest) whose true drop is d0.

An asymptotic limit is too generous for some tables; this tells what deciding by them really risks.
A drop of d0 leaves open which share of the images is discordant, lost or gained: anything from
|d0| to 1. That share is the nuisance, and the worst one counts.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln, xlog1py, xlogy

from quantize.distributions import binomial_cdf, normal_cdf

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

EXACT_IMAGES = 20_000
"""Up to here chances are enumerated; above, a corrected normal approximation serves."""

_TIE = 1e-9
_DEVIATIONS = 5.5
_STEP = 0.14  # of the root of a count, whose standard deviation is 1/2
_FEW = 6.0
_SWINGS_AGAIN = 0.6
_PEAKS = 5
_BETWEEN_POINTS = 5e-4  # the largest chance found lies up to 2e-4 of itself below the true one


def spread(lost: ArrayLike, gained: ArrayLike, n: ArrayLike, d0: float) -> Array:
    """Standard deviation of lost - gained, in images, where the drop is d0.

    That is sqrt(n (2 q + d0 (1 - d0))), where q, the likeliest probability of `gained`, is the
    larger root of 2 n q^2 + (-b - c + (2 n - b + c) d0) q - c d0 (1 - d0) = 0 with b = lost and
    c = gained (Tango 1998, see `quantize.paired.tango`).
    """
    b, c, n = (np.asarray(counts, np.float64) for counts in (lost, gained, n))
    middle = -b - c + (2 * n - b + c) * d0
    root = np.sqrt(np.maximum(0.0, middle * middle + 8 * n * c * d0 * (1 - d0)))
    variance = n * ((root - middle) / (2 * n) + d0 * (1 - d0))
    return np.asarray(np.sqrt(np.maximum(0.0, variance)))


def score(lost: ArrayLike, gained: ArrayLike, n: ArrayLike, d0: float) -> Array:
    """Tango's score (lost - gained - n d0) / `spread`; 0 where that is 0."""
    b, c, n = (np.asarray(counts, np.float64) for counts in (lost, gained, n))
    excess = b - c - n * d0
    deviation = spread(b, c, n, d0)
    return np.divide(excess, deviation, out=np.zeros_like(deviation), where=deviation > 0)


def cautious_score(lost: ArrayLike, gained: ArrayLike, n: int, d0: float) -> Array:
    """A score below 0 as if 1 + z^2 / 6 more images were there, and lost.

    One image is half a step where all images are discordant, since lost - gained moves by two
    there; elsewhere half of it would do. z^2 / 6 covers the skewness of few counts, the term
    (z^2 - 1) / 6 of Cornish and Fisher 1938. A score of 0 or more stays.
    """
    seen = score(lost, gained, n, d0)
    more = np.where(seen < 0, 1 + seen * seen / 6, 0.0)
    return score(np.asarray(lost, np.float64) + more, gained, n + more, d0)


@lru_cache(maxsize=4096)
def p_value(lost: int, gained: int, n: int, d0: float) -> float:
    """The chance of a table that speaks at least as clearly for a drop below d0, if it is d0.

    The exact unconditional test that orders tables by their score and takes the worst nuisance:
    Hsueh, Liu and Chen, "Unconditional exact tests for equivalence or noninferiority for paired
    binary endpoints", Biometrics 57 (2001) 478-483. A score of 0 or more speaks for nothing and
    gives 1. Above `EXACT_IMAGES` images it is the normal chance of `cautious_score`, which
    enumeration finds never too low.

    For a drop above d0 ask with `lost` and `gained` exchanged, and -d0.

    Args:
        lost: images that only the first model has right.
        gained: images that only the second model has right.
        n: images in all, at least 1.
        d0: the drop (a ratio) against which the table speaks, above -1 and below 1.
    """
    seen = float(score(lost, gained, n, d0))
    if seen >= 0:
        return 1.0
    if n > EXACT_IMAGES:
        return float(normal_cdf(cautious_score(lost, gained, n, d0)))
    return size(n, d0, seen)


def size(n: int, d0: float, most: float) -> float:
    """The largest chance, over the nuisance, of a score up to `most` where the drop is d0.

    Rounded up by a two-thousandth, since it is sought on a grid.
    """
    lost = most_lost(n, d0, most)
    shares = nuisances(n, d0)
    found = chances(shares, d0, lost)
    peaks = np.argsort(found)[-_PEAKS:]
    left, right = shares[np.maximum(peaks - 1, 0)], shares[np.minimum(peaks + 1, len(shares) - 1)]
    near = np.linspace(left, right, 9)[1:-1].ravel()
    largest = max(found.max(), chances(near, d0, lost).max())
    return min(1.0, float(largest) * (1 + _BETWEEN_POINTS))


def nuisances(n: int, d0: float) -> Array:
    """Shares of discordant images to try, from |d0| to 1, ascending.

    They lie dense where the steps of the counts make the chance of a set of tables swing: where
    few images are discordant beyond |d0|, and where most images are. In between swings average
    out.
    """
    free = 1 - abs(d0)
    few = min(math.sqrt(n * free), math.sqrt(n * abs(d0) / 2) + 8)
    most = max(few, math.sqrt(n * free * _SWINGS_AGAIN))
    points = (
        abs(d0) + np.arange(0, few, _STEP) ** 2 / n,
        abs(d0) + np.linspace(few, most, 40) ** 2 / n,
        abs(d0) + np.arange(most, math.sqrt(n * free), _STEP) ** 2 / n,
        1 - np.arange(0, min(_FEW, math.sqrt(n * free)), _STEP) ** 2 / n,
    )
    return np.asarray(np.unique(np.clip(np.concatenate(points), abs(d0), 1.0)), np.float64)


def chances(shares: Array, d0: float, lost: Counts) -> Array:
    """The chance of a set of tables where the drop is d0, under each share of discordant images.

    Args:
        shares: float64 [Q], each at least |d0|.
        d0: the drop (a ratio).
        lost: int64 [n+1], for 0 to n discordant images the most lost ones that the set holds, -1
            where it holds none.

    Returns:
        float64 [Q], summed over all numbers of discordant images within 5.5 deviations.
    """
    n = len(lost) - 1
    reach = _DEVIATIONS * np.sqrt(n * shares * (1 - shares))
    first = np.maximum(0, np.floor(n * shares - reach - 3)).astype(np.int64)
    last = np.minimum(n, np.ceil(n * shares + reach + 12)).astype(np.int64)
    counts = last - first + 1
    of = np.repeat(np.arange(len(shares)), counts)
    discordant = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts - first, counts)
    ways = gammaln(n + 1) - gammaln(discordant + 1) - gammaln(n - discordant + 1)
    some = xlogy(discordant, shares[of]) + xlog1py(n - discordant, -shares[of])
    among = 0.5 + np.clip(d0 / np.maximum(shares, 1e-300), -1, 1) / 2
    chance = np.exp(ways + some) * binomial_cdf(lost[discordant], discordant, among[of])
    return np.asarray(np.bincount(of, chance, len(shares)), np.float64)


def most_lost(n: int, d0: float, most: float) -> Counts:
    """For 0 to n discordant images the most lost ones with a score up to `most`, or -1.

    By bisection, since the score rises where a lost image takes the place of a gained one.

    Returns:
        int64 [n+1].
    """
    discordant = np.arange(n + 1)
    low: Counts = np.full(n + 1, -1)
    high: Counts = discordant
    while (low < high).any():
        middle = (low + high + 1) // 2
        within = score(middle, discordant - middle, n, d0) <= most + _TIE
        low, high = np.where(within, middle, low), np.where(within, high, middle - 1)
    return low
