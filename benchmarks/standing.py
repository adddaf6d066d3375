"""Ahead, equal or behind: figures of two who were measured in turn, and whether they differ.

Equal within noise means: the 95 % interval of the difference holds "none". For times that is the
ratio theirs / ours of each interleaved round, its median and the interval of that median, against
1, and against our own file loaded twice, which rounds cannot tell: where its memory lies. For
accuracy it is the paired difference over the same images, against 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quantize.latency import median_interval
from quantize.paired import tango

Standing = Literal["ahead", "equal", "behind"]

LEAST_ROUNDS = 6
"""Fewer cannot enclose a median with 95 %."""

_RESAMPLES = 1000


@dataclass(frozen=True)
class Span:
    """A figure with an interval.

    Attributes:
        value: of it.
        low: end of the interval.
        high: other end.
    """

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """All fields."""
        return asdict(self)

    def standing(self, none: float) -> Standing:
        """Whether we are ahead, where more is better and `none` is no difference."""
        if self.low > none:
            return "ahead"
        return "behind" if self.high < none else "equal"

    def beyond(self, again: Span | None) -> Standing:
        """The same for a ratio of times, equal where it cannot be told from our file's own.

        Args:
            again: ratio of our file, loaded twice; None where it was not measured.
        """
        overlaps = again is not None and self.low <= again.high and again.low <= self.high
        return "equal" if overlaps else self.standing(1.0)


def spread(seconds: Sequence[float]) -> Span:
    """Median of the rounds, and where the middle 80 % of them lie, in milliseconds."""
    low, middle, high = 1e3 * np.quantile(np.asarray(seconds, np.float64), (0.1, 0.5, 0.9))
    return Span(float(middle), float(low), float(high))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Span:
    """How many times as fast we are: the median of theirs / ours, round by round.

    Args:
        ours: seconds of each round.
        theirs: of the same rounds.

    Raises:
        ValueError: the rounds are not the same ones, or too few for an interval.
    """
    if len(ours) != len(theirs) or len(ours) < LEAST_ROUNDS:
        raise ValueError(f"{len(ours)} and {len(theirs)} rounds give no interval")
    rounds = np.asarray(theirs, np.float64) / np.asarray(ours, np.float64)
    return Span(float(np.median(rounds)), *median_interval(rounds))


def share_difference(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> Span:
    """Our share of images minus theirs, in points, with Tango's interval.

    Args:
        ours: bool [N], whether the image counts for us.
        theirs: bool [N], whether the same image counts for them.
    """
    only_ours, only_theirs = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    limits = tango(only_ours, only_theirs, len(ours))
    points = 100 * (only_ours - only_theirs) / len(ours)
    return Span(points, 100 * limits.low, 100 * limits.high)


def decibels(signal: NDArray[np.float64], noise: NDArray[np.float64]) -> float:
    """Output SQNR: 10 log10( sum f^2 / sum (f - q)^2 ), in dB; infinite without noise.

    Args:
        signal: float64 [N], sum of f^2 of each image.
        noise: float64 [N], sum of (f - q)^2 of each image.
    """
    total = float(noise.sum())
    return float(10 * np.log10(signal.sum() / total)) if total else float("inf")


def decibels_difference(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> Span:
    """Our SQNR minus theirs in dB, with the 95 % interval of paired resamples of the images.

    The signal is the same for both, so it cancels: 10 log10( sum theirs / sum ours ).

    Args:
        ours: float64 [N], our noise on each image, above zero.
        theirs: float64 [N], theirs.
    """
    rng = np.random.default_rng(0)
    weights = rng.multinomial(len(ours), np.full(len(ours), 1 / len(ours)), _RESAMPLES)
    several = 10 * np.log10((weights @ theirs) / (weights @ ours))
    low, high = np.quantile(several, (0.025, 0.975))
    return Span(float(10 * np.log10(theirs.sum() / ours.sum())), float(low), float(high))


def best(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The rival that is fastest, or None where none ran."""
    ran = [row for row in rows if row["rival"] and "failed" not in row]
    return min(ran, key=lambda row: float(row["ms"]["value"]), default=None)
