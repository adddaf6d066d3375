"""Batch-1 time of the float and the int8 file, in turn, so that drift hits both alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantize.deadline import NEVER, Deadline
from quantize.distributions import fair_quantile
from quantize.plan import Latency, OnProgress, Progress
from quantize.runtime import Session, cpu

WARM_UP = 10
LEAST_ROUNDS = 30
CLEAR_ROUNDS = 12
"""If int8 were exactly as fast as the floor, so many would be on one side once in 2,000 times."""

_LEAST_ROUND_S = 2e-3
_MORE = 4


@dataclass(frozen=True)
class Timing:
    """How latency is measured.

    Attributes:
        threads: of each session: what was asked, or what the machine has if that is fewer.
        asked: threads asked for.
        warm_up: runs of each model that do not count.
        rounds: interleaved rounds, each float then int8 or int8 then float in turn.
        seconds: after this long no further round starts, once `LEAST_ROUNDS` are done.
    """

    threads: int
    asked: int
    warm_up: int = WARM_UP
    rounds: int = 100
    seconds: float = 20.0


def measure(
    float_model: Path,
    int8_model: Path,
    image: NDArray[np.float32],
    timing: Timing,
    *,
    floor: float | None = None,
    brief: bool = False,
    on_progress: OnProgress | None = None,
    deadline: Deadline = NEVER,
) -> Latency:
    """Time both files on one image.

    Args:
        float_model: the float file.
        int8_model: the int8 file.
        image: float32 [1,C,H,W].
        timing: threads, warm-up and rounds.
        floor: a ratio to decide about: while the interval holds it, up to `_MORE` times as many
            rounds and seconds are spent.
        brief: whether `CLEAR_ROUNDS` are enough where all of them are on one side of the floor.
        on_progress: told after each round.
        deadline: when measuring breaks off.

    Returns:
        Medians, and the median of the rounds' ratios with its 95 % interval.

    Raises:
        ModelError: a file does not load or run.
        BudgetError: the deadline passed.
    """
    both = (
        Session(float_model, threads=timing.threads),
        Session(int8_model, threads=timing.threads),
    )
    runs = tuple(_runner(session, image) for session in both)
    for run in runs:
        for _ in range(max(1, timing.warm_up)):
            run()
    repeats = tuple(_repeats(run) for run in runs)
    times: list[tuple[float, float]] = []
    start = time.perf_counter()
    for limit in (1, _MORE):
        while len(times) < timing.rounds * limit:
            if len(times) >= LEAST_ROUNDS and time.perf_counter() - start > timing.seconds * limit:
                break
            if brief and floor is not None and _is_clear(times, floor):
                break
            deadline.check()
            times.append(_round(runs, repeats, swapped=len(times) % 2 == 1))
            if on_progress:
                on_progress(Progress("benchmark", len(times), timing.rounds * limit, "rounds"))
        seen = _summary(np.asarray(times), timing.threads)
        if floor is None or not seen.low < floor <= seen.high:
            break
    return seen


def _is_clear(times: list[tuple[float, float]], floor: float) -> bool:
    """Whether enough rounds are done, and all are on one side of the floor."""
    above = [first / second >= floor for first, second in times]
    return len(times) >= CLEAR_ROUNDS and (all(above) or not any(above))


def _round(
    runs: tuple[Callable[[], object], ...], repeats: tuple[int, ...], *, swapped: bool
) -> tuple[float, float]:
    """Seconds of the float and of the int8 model, in this order, measured in either."""
    seen = {
        which: _seconds(runs[which], repeats[which]) for which in ((1, 0) if swapped else (0, 1))
    }
    return seen[0], seen[1]


def single(model: Path, image: NDArray[np.float32], timing: Timing) -> float:
    """Median milliseconds of one model alone, batch 1, after the warm-up."""
    run = _runner(Session(model, threads=timing.threads), image)
    for _ in range(max(1, timing.warm_up)):
        run()
    return 1e3 * float(np.median([_seconds(run, 1) for _ in range(max(1, timing.rounds))]))


def median_interval(values: NDArray[np.float64], confidence: float = 0.95) -> tuple[float, float]:
    """Distribution-free interval of the median, from order statistics.

    With k the lower (1 - c)/2 quantile of Binomial(n, 1/2), the k-th smallest and the k-th
    largest value enclose the median with probability at least c. Fewer than six values cannot:
    then the extremes are returned.

    Args:
        values: float64 [n], independent.
        confidence: two-sided.
    """
    ordered = np.sort(values)
    k = fair_quantile((1 - confidence) / 2, len(ordered))
    k = min(max(k, 1), (len(ordered) + 1) // 2)
    return float(ordered[k - 1]), float(ordered[-k])


def meets_floor(latency: Latency, floor: float) -> bool:
    """Whether the interval shows int8 to be at least `floor` times as fast: unproven is missed."""
    return latency.low >= floor


def _runner(session: Session, image: NDArray[np.float32]) -> Callable[[], object]:
    if session.batch and session.batch != len(image):
        image = np.repeat(image, session.batch, axis=0)
    return lambda: session.run(image)


def _repeats(run: Callable[[], object]) -> int:
    """Runs per round, so that a round outlasts the clock's and the scheduler's jitter."""
    return max(1, int(_LEAST_ROUND_S / max(1e-6, min(_seconds(run, 1) for _ in range(3)))))


def _seconds(run: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats


def _summary(times: NDArray[np.float64], threads: int) -> Latency:
    ratios = times[:, 0] / times[:, 1]
    low, high = median_interval(ratios)
    return Latency(
        float_ms=1e3 * float(np.median(times[:, 0])),
        int8_ms=1e3 * float(np.median(times[:, 1])),
        ratio=float(np.median(ratios)),
        low=low,
        high=high,
        threads=threads,
        rounds=len(times),
        cpu=cpu(),
    )
