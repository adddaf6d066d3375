"""How a candidate is seen on the search images: probed on a few, judged on as many as it takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from quantize.answers import AnswerFolder
from quantize.evaluation import Comparison, Reference, against
from quantize.job import Images, Job
from quantize.measure import pairs, predictor
from quantize.paired import decide_agreement, decide_drop, drop, margin
from quantize.plan import Fidelity, Goal, Outcome
from quantize.search import Quality
from quantize.sequential import decide_agreement_at, decide_drop_at, looks

SEARCH_CONFIDENCE = 0.9
"""One-sided; only steers the search, the verdict has its own."""

_LEAST_PROBE, _MOST_PROBE = 16, 64


def probe_size(images: int) -> int:
    """How many of the search images compare candidates."""
    return min(images, max(_LEAST_PROBE, min(_MOST_PROBE, images // 8)))


def probe_images(job: Job, base: Reference) -> tuple[Reference, Images]:
    """The first images of the search set, which is shuffled, and the float answers to them."""
    few = base.first(probe_size(base.evaluation.images))
    return few, replace(job.search.only(few.evaluation.digests), on_progress=None)


def probe(path: Path, few: tuple[Reference, Images]) -> Fidelity:
    """How close a candidate is to float on the probe."""
    return against(few[0], predictor(path), few[1]).fidelity


def judge(
    path: Path,
    job: Job,
    base: Reference,
    answers: AnswerFolder | None = None,
    *,
    whole: bool = False,
) -> Quality:
    """Compare a candidate with float on the search images, until it is clearly good or bad.

    Args:
        path: the candidate's file.
        job: search images and goal.
        base: the float model's answers to all of them.
        answers: keeps the candidate's answers as they come.
        whole: take all images, whatever the first ones show.
    """
    goal, predict = job.config.goal(), predictor(path)
    total = base.evaluation.images
    at = (total,) if whole else looks(total)
    with pairs("judge", answers, job.model, path, job.search) as kept:
        for index, count in enumerate(at):
            part = base.first(count)
            todo = job.search.only(part.evaluation.digests).without(kept.done)
            seen = against(part, predict, todo, kept)
            outcome = _outcome_at(index, at, seen, base, goal)
            if outcome is not None:
                break
    return _quality(seen, outcome or "undecided", base, goal)


def decidable(base: Reference, goal: Goal) -> bool:
    """Whether so many images could show a perfect candidate to meet the goal."""
    at = looks(base.evaluation.images)
    perfect = Comparison(base.evaluation, base.evaluation, Fidelity(0.0, 1.0))
    return _outcome_at(len(at) - 1, at, perfect, base, goal) == "met"


def baseline(base: Reference, goal: Goal) -> float:
    """What the float model scores on the search images: top-1, or agreement with itself."""
    return 1.0 if on_agreement(base, goal) else base.evaluation.accuracy()


def on_agreement(base: Reference, goal: Goal) -> bool:
    """Whether answers are compared with float's: asked for, or all there is without labels."""
    return goal.kind == "agreement" or not base.evaluation.labelled


def _quality(seen: Comparison, outcome: Outcome, base: Reference, goal: Goal) -> Quality:
    images, total = seen.int8.images, base.evaluation.images
    where = f"{images} of {total} search images" if images < total else "search images"
    if on_agreement(base, goal):
        share = seen.fidelity.agreement
        good = decide_agreement(share, images, _agreement_goal(goal, None)) == "met"
        note = f"agreement {100 * share:.2f} % on {where}"
        return Quality(None, seen.fidelity, outcome, good, note, images)
    difference, before = drop(seen.float_, seen.int8), base.evaluation.accuracy()
    good = decide_drop(difference, before, replace(goal, confidence=None)) == "met"
    allowed = 100 * margin(goal, before)
    note = f"drop {difference.points:.2f} points on {where}, {allowed:.2f} allowed"
    top1 = seen.int8.accuracy()
    return Quality(top1, seen.fidelity, outcome, good, note, images, difference.points)


def _outcome_at(
    index: int, at: tuple[int, ...], seen: Comparison, base: Reference, goal: Goal
) -> Outcome | None:
    """Met, unmet or undecided at the search's own confidence; None to go on."""
    if on_agreement(base, goal):
        asked = _agreement_goal(goal, SEARCH_CONFIDENCE)
        return decide_agreement_at(index, at, seen.fidelity.agreement, asked)
    asked = replace(goal, confidence=SEARCH_CONFIDENCE)
    difference = drop(seen.float_, seen.int8)
    return decide_drop_at(index, at, difference, base.evaluation.accuracy(), asked)


def _agreement_goal(goal: Goal, confidence: float | None) -> Goal:
    """The goal on agreement that stands for this one."""
    least = goal.tolerance if goal.kind == "agreement" else 1 - goal.tolerance
    return Goal(least, "agreement", confidence, goal.speed_floor)
