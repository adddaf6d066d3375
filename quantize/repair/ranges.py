"""Ranges for activations, worked out from what calibration counted: min-max, percentile, MSE, KL.

Each takes the exact range of a tensor and its histogram over the fixed bins of
`quantize.histogram`. Values count as spread evenly over their bin, whose centre is their mean,
and bins are cut at the exact range. Each result contains 0, which int8 holds exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantize.histogram import EDGES, ZERO
from quantize.plan import Method, Range

_Reals = NDArray[np.float64]

_OCTAVE = 4
_COARSE = 2.0 ** -(np.arange(12 * _OCTAVE + 1) / _OCTAVE)
"""Shares of a limit that are tried first: from 1 to 1/4096, a quarter of an octave apart."""

_FINE = np.linspace(0.9, 1.1, 41)
"""Multiples of the best of them that are tried then."""

_NEGLIGIBLE = 2.0**-24
"""Values below this share of the largest count as 0."""

_SHARES = 2.0 ** -(np.arange(161) / 16)
_CELLS = 8

PERCENTILE_SHARE = 0.99999
"""Share of the values that `percentile` holds; Intel Neural Compressor's is fixed at this, too."""


def by_method(method: Method, seen: Range, counts: NDArray[np.int64]) -> Range:
    """The range of a plan's method, for uint8.

    Args:
        method: of the plan's scheme.
        seen: the exact range.
        counts: int64 [BINS].
    """
    if method == "percentile":
        return percentile(seen, counts, PERCENTILE_SHARE)
    if method == "kl":
        return kl(seen, counts)
    return mse_optimal(seen, counts) if method == "mse" else min_max(seen)


def min_max(seen: Range) -> Range:
    """[min(low, 0), max(high, 0)]: nothing is clipped."""
    return Range(min(seen.low, 0.0), max(seen.high, 0.0))


def percentile(seen: Range, counts: NDArray[np.int64], share: float) -> Range:
    """The range that leaves out at most (1 - share) / 2 of the values at either end.

    With n_j values in bin j, N in all, the lower limit is the lower edge of the first bin i with
    sum_{j <= i} n_j > N (1 - share) / 2, and the upper one likewise from above.

    Args:
        seen: the exact range.
        counts: int64 [BINS].
        share: of the values that stay inside, above 0 and at most 1; 1 is min-max.

    Raises:
        ValueError: share is not such a number.
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share above 0 and at most 1 is needed, not {share}")
    mass = _Mass.of(seen, counts)
    if share == 1 or not mass.counts.size:
        return min_max(seen)
    cut = mass.counts.sum() * (1 - share) / 2
    first = np.argmax(np.cumsum(mass.counts) > cut)
    last = -1 - np.argmax(np.cumsum(mass.counts[::-1]) > cut)
    return Range(min(float(mass.lower[first]), 0.0), max(float(mass.upper[last]), 0.0))


def mse_optimal(
    seen: Range, counts: NDArray[np.int64], *, levels: int = 256, symmetric: bool = False
) -> Range:
    """The range whose grid has the least mean squared error.

    The grid has the step s = (high - low) / (levels - 1) and rint(-low / s) steps below 0, as the
    engine rounds it; if symmetric, s = high / (levels / 2 - 1) and levels / 2 - 1 steps on either
    side. With n = rint(t) and r = t - n, the squared error of rounding integrates to

        int_0^t (u - rint u)^2 du = n / 12 + r^3 / 3,

    and beyond the grid's last value v to (u - v)^3 / 3; so the error of a bin is exact. Both limits
    are searched by turns, coarsely and then finely, from the best pair of octaves.

    Args:
        seen: the exact range.
        counts: int64 [BINS].
        levels: how many integers there are, even.
        symmetric: one limit for both signs, [-t, t].

    Returns:
        The best of the ranges tried, min-max among them.
    """
    mass = _Mass.of(seen, counts)
    whole = min_max(seen)
    if symmetric:
        most = max(-whole.low, whole.high)
        whole = Range(-most, most)
    if not mass.counts.size or whole.low == whole.high:
        return whole
    lows, highs = whole.low * _COARSE, whole.high * _COARSE
    search = _Search(mass, whole, levels, symmetric)
    search.compare(lows, highs)
    if symmetric or not whole.low or not whole.high:
        search.compare(search.low * _FINE, search.high * _FINE)
        return search.range
    for low in lows[::_OCTAVE]:
        search.compare(low, highs[::_OCTAVE])
    for _ in range(2):
        search.compare(search.low, highs)
        search.compare(lows, search.high)
    for _ in range(2):
        search.compare(search.low, search.high * _FINE)
        search.compare(search.low * _FINE, search.high)
    return search.range


def kl(seen: Range, counts: NDArray[np.int64], *, levels: int = 256) -> Range:
    """The range [max(low, -t), min(high, t)] that loses the least information.

    For each t the range is divided into 8 cells a level. P is the share of the values in each
    cell, what lies beyond the range being added to its last cells. Q has the values inside only,
    as the levels tell them: spread evenly over those of a level's cells that hold any. The least

        KL(P || Q) = sum_i p_i log(p_i / q_i)

    wins, the larger t where two are equal (Migacz, "8-bit Inference with TensorRT", 2017, where
    zeros are left out as here: every grid holds 0 exactly). With as many cells as levels Q would be
    P without clipping, and nothing could beat min-max.

    Args:
        seen: the exact range.
        counts: int64 [BINS].
        levels: how many integers there are.
    """
    mass = _Mass.of(seen, counts)
    whole = min_max(seen)
    most = max(-whole.low, whole.high)
    best, least = whole, np.inf
    cumulated = _Cumulated.of(mass)
    if cumulated is None:
        return whole
    for t in most * _SHARES:
        tried = Range(max(whole.low, -float(t)), min(whole.high, float(t)))
        divergence = _divergence(cumulated, tried, levels)
        if divergence < least:
            best, least = tried, divergence
    return best


# ------------------------------------------------------------------------------- mass


@dataclass(frozen=True, eq=False)
class _Mass:
    """The bins that hold anything, ascending: real numbers, float64 [B]; zeros are a point."""

    lower: _Reals
    upper: _Reals
    counts: _Reals

    @classmethod
    def of(cls, seen: Range, counts: NDArray[np.int64]) -> _Mass:
        lower, upper = EDGES[:-1].copy(), EDGES[1:].copy()
        lower[0], upper[-1] = -np.inf, np.inf
        lower[ZERO] = upper[ZERO] = 0.0
        held = np.flatnonzero(counts)
        return cls(
            np.clip(lower[held], seen.low, seen.high),
            np.clip(upper[held], seen.low, seen.high),
            counts[held].astype(np.float64),
        )

    def without(self, size: float) -> _Mass:
        """Those whose values reach that size."""
        large = np.maximum(-self.lower, self.upper) > size
        return _Mass(self.lower[large], self.upper[large], self.counts[large])


# -------------------------------------------------------------------------------- MSE


class _Search:
    """The best range found so far.

    Args:
        mass: the values.
        whole: the range that clips nothing; no limit leaves it.
        levels: of the grid.
        symmetric: whether the grid is.
    """

    def __init__(self, mass: _Mass, whole: Range, levels: int, symmetric: bool) -> None:
        self.range = whole
        mass = mass.without(_NEGLIGIBLE * max(-whole.low, whole.high))
        wide = mass.upper > mass.lower
        self._points = mass.lower[~wide], mass.counts[~wide]
        self._edges, self._density = _density(mass, wide)
        self._whole = whole
        self._levels = levels
        self._symmetric = symmetric
        self._least = np.inf

    @property
    def low(self) -> float:
        return self.range.low

    @property
    def high(self) -> float:
        return self.range.high

    def compare(self, lows: _Reals | float, highs: _Reals | float) -> None:
        """Try these ranges, float64 [R] each, or one limit for all."""
        low, high = np.broadcast_arrays(
            np.maximum(lows, self._whole.low), np.minimum(highs, self._whole.high)
        )
        error = self._error(low[:, None], high[:, None])
        best = int(np.argmin(error))
        if error[best] < self._least:
            self._least = error[best]
            self.range = Range(float(low[best]), float(high[best]))

    def _error(self, low: _Reals, high: _Reals) -> _Reals:
        """Sum of squared errors over all values, float64 [R], for limits [R,1]."""
        if self._symmetric:
            above = below = np.full_like(high, self._levels // 2 - 1)
            step = high / above
        else:
            step = (high - low) / (self._levels - 1)
            below = np.rint(-low / step)
            above = self._levels - 1 - below
        values, counts = self._points
        error = self._density @ _integral(self._edges / step, below, above).T * step.T
        if counts.size:
            reals = values / step
            error += (reals - np.clip(np.rint(reals), -below, above)) ** 2 @ counts
        return np.asarray(error.reshape(-1) * step.reshape(-1) ** 2)


def _density(mass: _Mass, wide: NDArray[np.bool_]) -> tuple[_Reals, _Reals]:
    """Edges e, and the d with sum_i d_i I(e_i) = sum of counts times the mean of dI over each bin.

    A bin [a, b] of n values adds n (I(b) - I(a)) / (b - a), so neighbours share their edge.
    """
    lower, upper = mass.lower[wide], mass.upper[wide]
    each = mass.counts[wide] / (upper - lower)
    edges, place = np.unique(np.concatenate([lower, upper]), return_inverse=True)
    weights = np.concatenate([-each, each])
    density = np.bincount(place.reshape(-1), weights, minlength=len(edges))
    return edges, density.astype(np.float64)


def _integral(t: _Reals, below: _Reals, above: _Reals) -> _Reals:
    """int_0^t of the squared distance to the nearest integer in [-below, above]."""
    n = np.clip(np.rint(t), -below, above)
    off = t - n
    return np.asarray(n / 12 + off * off * off / 3)  # ** 3 would take logarithms


# --------------------------------------------------------------------------------- KL


@dataclass(frozen=True, eq=False)
class _Cumulated:
    """How many values other than 0 lie below a real number: straight lines between knots."""

    knots: _Reals
    below: _Reals

    @classmethod
    def of(cls, mass: _Mass) -> _Cumulated | None:
        """None where all values are 0."""
        rest = mass.without(0.0)
        if not rest.counts.size:
            return None
        sums = np.cumsum(rest.counts)
        knots = np.stack([rest.lower, rest.upper], axis=1).reshape(-1)
        below = np.stack([sums - rest.counts, sums], axis=1).reshape(-1)
        return cls(knots, below)

    @property
    def total(self) -> float:
        return float(self.below[-1])

    def __call__(self, values: _Reals) -> _Reals:
        return np.interp(values, self.knots, self.below, left=0.0, right=self.total)


def _divergence(cumulated: _Cumulated, tried: Range, levels: int) -> float:
    """KL(P || Q) in nats, as `kl` defines them."""
    edges = np.linspace(tried.low, tried.high, levels * _CELLS + 1)
    below = cumulated(edges)
    inside = np.diff(below)
    p = inside.copy()
    p[0] += below[0]
    p[-1] += cumulated.total - below[-1]
    held = inside.reshape(levels, _CELLS) > 0
    share = inside.reshape(levels, _CELLS).sum(axis=1) / np.maximum(held.sum(axis=1), 1)
    q = (held * share[:, None]).reshape(-1)
    own = p > 0
    if not (q[own] > 0).all():  # what is clipped has no neighbour inside
        return np.inf
    p, q = p[own] / p.sum(), q[own] / q.sum()
    return float((p * np.log(p / q)).sum())
