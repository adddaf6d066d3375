"""Decisions while images come in: stop as soon as a candidate is clearly good or clearly bad."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import roots_legendre

from quantize.distributions import normal_cdf, normal_density
from quantize.paired import (
    agreement_evidence,
    decide_agreement,
    decide_drop,
    drop_evidence,
    margin,
)
from quantize.plan import Drop, Goal, Outcome

Array = NDArray[np.float64]

_FIRST_LOOK = 24
_GROWTH = math.sqrt(2)
_SPENDING = 1.5
_NODES, _FAR = 200, 9.0


def looks(total: int) -> tuple[int, ...]:
    """After how many images to look, each about the root of two times the one before.

    They depend on `total` alone, so that nothing seen can move them.

    Args:
        total: all images there are, at least 1; the last look.
    """
    if total < 1:
        raise ValueError(f"no look at {total} images")
    found, images = [total], total / _GROWTH
    while round(images) >= _FIRST_LOOK:
        found.append(round(images))
        images /= _GROWTH
    return tuple(reversed(found))


@lru_cache(maxsize=64)
def levels(at: tuple[int, ...], confidence: float) -> tuple[float, ...]:
    """The one-sided level of each look's test, so that all together err in 1 - confidence.

    Error is spent as (1 - confidence) t^1.5, where t is the share of images seen: Lan and DeMets,
    "Discrete sequential boundaries for clinical trials", Biometrika 70 (1983) 659-663, with the
    power family of Kim and DeMets, Biometrika 74 (1987) 149-154. It stops earlier than O'Brien
    and Fleming's boundary and keeps more of the last look's power than Pocock's. What is
    spent is the chance of crossing for the first time, found by integrating over the scores of
    the look before (Armitage, McPherson and Rowe, JRSS A 132 (1969) 235-244).

    Args:
        at: images at each look, ascending.
        confidence: one-sided, of met and of unmet each.
    """
    points, weights = roots_legendre(_NODES)
    found: list[float] = []
    spent, before = 0.0, at[0]
    u, mass = np.zeros(1), np.ones(1)
    for index, images in enumerate(at):
        total = (1 - confidence) * (images / at[-1]) ** _SPENDING
        kept = math.sqrt(before / images) if index else 0.0
        new = math.sqrt(1 - kept * kept)
        bound = _crossed(u, mass, kept, new, total - spent)
        v = bound + (points + 1) / 2 * (_FAR - bound)
        density = normal_density((v[:, None] - kept * u) / new) @ mass / new
        u, mass = v, density * weights * (_FAR - bound) / 2
        spent, before = total, images
        found.append(float(normal_cdf(bound)))
    return tuple(found)


def _crossed(u: Array, mass: Array, kept: float, new: float, chance: float) -> float:
    """The score below which a look falls with this chance, having gone on at u with `mass`."""

    def missed(z: float) -> float:
        return float(mass @ normal_cdf((z - kept * u) / new)) - chance

    return float(brentq(missed, -_FAR, _FAR))


def decide_drop_at(
    index: int, at: tuple[int, ...], seen: Drop, float_top1: float, goal: Goal
) -> Outcome | None:
    """What the drop on the images so far shows, or None to go on.

    Over all looks together a drop at the margin is called met, and likewise unmet, no more often
    than 1 - confidence. Without a confidence the point rule decides at the last look.

    Args:
        index: which look, from 0.
        at: images at each look.
        seen: the drop on the first `at[index]` images.
        float_top1: float top-1 on all images.
        goal: what to reach, with the one-sided confidence.

    Returns:
        met, unmet, or at the last look undecided.

    Raises:
        ValueError: `seen` is not of this look's images.
    """
    last = _last(index, at)
    if seen.images != at[index]:
        raise ValueError(f"{seen.images} images are not look {index} of {at}")
    if goal.confidence is None:
        return decide_drop(seen, float_top1, goal) if last else None
    evidence = drop_evidence(seen, margin(goal, float_top1))
    outcome = evidence.outcome(levels(at, goal.confidence)[index])
    return outcome if last or outcome != "undecided" else None


def decide_agreement_at(
    index: int, at: tuple[int, ...], agreement: float, goal: Goal
) -> Outcome | None:
    """The same for a goal on agreement.

    Args:
        index: which look, from 0.
        at: images at each look.
        agreement: share of equal answers on the first `at[index]` images.
        goal: what to reach, with the one-sided confidence.
    """
    last = _last(index, at)
    if goal.confidence is None:
        return decide_agreement(agreement, at[index], goal) if last else None
    evidence = agreement_evidence(agreement, at[index], goal.tolerance)
    outcome = evidence.outcome(levels(at, goal.confidence)[index])
    return outcome if last or outcome != "undecided" else None


def _last(index: int, at: tuple[int, ...]) -> bool:
    if not 0 <= index < len(at):
        raise ValueError(f"there is no look {index} in {at}")
    return index == len(at) - 1
