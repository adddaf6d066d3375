"""The guided search. It is handed functions and plans, and knows neither onnx nor a runtime.

The ladder, cheapest first:

1. the plain candidates. Where the search images can show that one is good enough, the first of
   them has the repairs that take next to no time, so that it rarely needs more;
2. repairs, one after the other: none costs speed, so each stays that does not clearly lose output
   SQNR. They follow from what calibration saw, so that each takes little time;
3. those that stayed once more with the repairs that walk through the model on images; the better
   of both goes on. Only it is judged: a walk takes no longer than to judge once more, and what is
   judged often on the same images is met by luck at last;
4. other candidates, such as Intel Neural Compressor's default one;
5. nodes left float, which costs speed: ranked by the SQNR that each brings per multiply-add, the
   smallest sufficient number found by doubling and bisection, then each given back if it can be.

Candidates are compared by output SQNR on a few images, the probe. Only a promising one is judged
on the search images, and only if so many images can decide at all; it is looked at several times
while they come in, and clearly good or bad ones are known early. Measured time accepts or
refuses, it never chooses, so that two runs end with the same bytes.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from quantize.errors import BudgetError, EngineError, ModelError
from quantize.plan import Fidelity, Latency, Outcome, Plan, SearchResult, Trial

log = logging.getLogger(__name__)

SLOW = "misses the speed floor"
MET = "goal and speed floor met on search images"
OPEN = "the best candidate; the search images alone cannot decide"
NONE_LEFT = "no candidate met goal and speed floor on search images; the closest was taken"
EXPIRED = "the time budget is spent; the best so far was taken"

MOST_LOSS_DB = 0.2
"""A repair that loses more than this is left out again, as is one that changes nothing.

Each repair lowers the expected noise by its own account, and what few images show of it is off by
some tenths of a dB either way: to ask for a gain would leave out many that bring as much.
"""


@dataclass(frozen=True)
class Quality:
    """What the search images say of one candidate.

    Attributes:
        accuracy: top-1 (ratio), or None without labels.
        fidelity: closeness to float.
        outcome: whether the goal is met, unmet or neither is sure.
        good: whether the goal is met by the point rule.
        note: the figures.
        images: how many search images were looked at.
        drop_points: float top-1 minus int8 top-1 on them, in points, or None without labels.
    """

    accuracy: float | None
    fidelity: Fidelity
    outcome: Outcome
    good: bool
    note: str
    images: int
    drop_points: float | None = None


@dataclass(frozen=True)
class Hands:
    """What the search can do, each a function.

    Attributes:
        make: writes the plan's int8 file.
        probe: compares a file with float on a few images.
        judge: compares a file with float on the search images, as many as it takes.
        time: measures a file against float.
        fast_enough: whether a latency meets the floor.
        decidable: whether the search images could show a perfect candidate to meet the goal.
        remember: makes a finished trial durable.
        recall: the trial of an earlier, interrupted run of the same job.
        expired: whether the time budget is spent.
    """

    make: Callable[[Plan], Path]
    probe: Callable[[Path], Fidelity]
    judge: Callable[[Path], Quality]
    time: Callable[[Path], Latency]
    fast_enough: Callable[[Latency], bool]
    decidable: bool
    remember: Callable[[Trial], None]
    recall: Callable[[Plan], Trial | None]
    expired: Callable[[], bool]


@dataclass
class _Ladder:
    """The trials so far.

    Attributes:
        hands: what the search can do.
        trials: in order, each plan once.
        left: the accepted candidate with the fewest nodes left float so far.
    """

    hands: Hands
    trials: list[Trial] = field(default_factory=list)
    left: Trial | None = None

    def probed(self, plan: Plan, below: Trial | None = None) -> Trial:
        """Make and probe a candidate, or recall it; `below` is what it is compared with."""
        known = next((trial for trial in self.trials if trial.plan == plan), None)
        if known is not None:
            return replace(known, gain_db=_gain_db(known.probe, below))
        if self.trials and self.hands.expired():
            raise BudgetError(EXPIRED)
        trial = self.hands.recall(plan)
        if trial is None:
            trial = _probe(plan, below, self.hands)
            self.hands.remember(trial)
        self.trials.append(trial)
        return trial

    def met(self, trial: Trial) -> bool:
        """Whether the search images show the goal to be met, if they can show that at all."""
        if not self.hands.decidable or self.judged(trial).outcome != "met":
            return False
        return self.timed(trial).accepted

    def judged(self, trial: Trial) -> Trial:
        """Judge a probed candidate, once; its record becomes the richer one."""
        trial = self.record(trial)
        if trial.path is None or trial.outcome is not None:
            return trial
        return self._richer(trial, _judge)

    def timed(self, trial: Trial) -> Trial:
        """Judge and time a probed candidate, each once: only now it may be accepted."""
        trial = self.judged(trial)
        if trial.path is None or trial.latency is not None:
            return trial
        return self._richer(trial, _time)

    def record(self, trial: Trial) -> Trial:
        """What is known by now of a candidate."""
        return next((known for known in self.trials if known.plan == trial.plan), trial)

    def _richer(self, trial: Trial, look: Callable[[Trial, Hands], Trial]) -> Trial:
        """The record after one more look, which a failure ends as in `_probe`."""
        if self.hands.expired():
            raise BudgetError(EXPIRED)
        start = time.monotonic()
        try:
            richer = look(trial, self.hands)
        except (EngineError, ModelError) as error:
            log.warning("candidate %s failed: %s", trial.plan.key, error)
            failed = replace(trial, path=None, fidelity=None, probe=None, gain_db=None)
            richer = replace(failed, outcome=None, note=f"failed: {error}")
        richer = replace(richer, seconds=trial.seconds + time.monotonic() - start)
        self.trials = [richer if known is trial else known for known in self.trials]
        self.hands.remember(richer)
        return richer

    def slow(self, trial: Trial) -> bool:
        return trial.latency is not None and not self.hands.fast_enough(trial.latency)

    def result(self, best: Trial | None, stopped: str) -> SearchResult:
        best = best or closest(self.trials, self.hands.fast_enough)
        return SearchResult(best, tuple(self.trials), stopped)


def guided(
    plain: Sequence[Plan],
    repairs: Sequence[str],
    rank: Callable[[Plan], Sequence[str]],
    hands: Hands,
    *,
    following: Sequence[str] = (),
    others: Sequence[Plan] = (),
) -> SearchResult:
    """Climb the ladder.

    Args:
        plain: what to begin with; the first that can be made is judged. The last one, which has
            no repairs, is what they start from, unless none are offered.
        repairs: names in the order to try them; they look at no images.
        rank: plan -> names of nodes, the one that float helps most per multiply-add first.
        hands: what the search can do.
        following: repairs that walk through the model on images, added together at the end.
        others: candidates to try where the repaired one is not enough.

    Returns:
        The candidate to verify, all trials, and why the search ended.
    """
    ladder = _Ladder(hands)
    try:
        repaired = _climb(ladder, plain, repairs, following, others)
        if isinstance(repaired, SearchResult):
            return repaired
        _leave_float(ladder, repaired, rank)
        return ladder.result(ladder.left, _stopped(ladder.left))
    except BudgetError:
        return ladder.result(ladder.left, EXPIRED)


def _climb(
    ladder: _Ladder,
    plain: Sequence[Plan],
    repairs: Sequence[str],
    following: Sequence[str],
    others: Sequence[Plan],
) -> SearchResult | Trial:
    """The result without float nodes, or the candidate of which some may be left float."""
    best: Trial | None = None
    for plan in plain:
        trial = ladder.probed(plan)
        if best is None and ladder.met(trial):
            return ladder.result(ladder.timed(trial), MET)
        best = _better(best, ladder.record(trial))  # to judge it may have failed
    repaired = _follow(ladder, _repair(ladder, ladder.trials[-1], repairs), following)
    best = _better(best, repaired)
    if best is not None:
        best = ladder.timed(best)
    for plan in others:
        if best is not None and best.accepted:
            break
        trial = ladder.probed(plan)
        if _better(best, trial) is trial or (best is not None and ladder.slow(best)):
            best = ladder.timed(trial)
    if best is None:
        return ladder.result(None, NONE_LEFT)
    if best.accepted:
        return ladder.result(best, _stopped(best))
    if ladder.slow(best) or not (repairs or following):  # float nodes would only make it slower
        return ladder.result(None, NONE_LEFT)
    return repaired


def beside(found: SearchResult, plan: Plan, hands: Hands, note: str) -> SearchResult:
    """The result with one more candidate, which is only looked at and never chosen.

    Args:
        found: with a best candidate.
        plan: of the other one; what it brings is told against the best one.
        hands: what the search can do.
        note: why it was not chosen.
    """
    if found.best is None or hands.expired():
        return found
    trial = hands.recall(plan)
    if trial is None:
        try:
            trial = _probe(plan, found.best, hands)
        except BudgetError:  # what was found stands without it
            return found
        trial = trial if trial.note else replace(trial, note=note)
        hands.remember(trial)
    return replace(found, trials=(*found.trials, trial))


def _stopped(accepted: Trial | None) -> str:
    if accepted is None:
        return NONE_LEFT
    return MET if accepted.outcome == "met" else OPEN


def _repair(ladder: _Ladder, start: Trial, repairs: Sequence[str]) -> Trial:
    """Add repairs one at a time, without a walk, unless SQNR falls."""
    current = start
    for name in repairs:
        added = tuple(sorted({*current.plan.repairs, name}))
        trial = ladder.probed(replace(current.plan, repairs=added, walked=0), current)
        gain = trial.gain_db
        stays = gain is not None and gain != 0 and gain >= -MOST_LOSS_DB
        if stays or (current.probe is None and trial.probe is not None):
            current = trial
    return current


def _follow(ladder: _Ladder, start: Trial, following: Sequence[str]) -> Trial:
    """Add the repairs that walk, all at once: they share the walk, which is what takes time."""
    if not following:
        return start
    added = tuple(sorted({*start.plan.repairs, *following}))
    walked = ladder.probed(replace(start.plan, repairs=added, walked=None), start)
    worse = walked.gain_db is not None and walked.gain_db < 0
    return start if walked.probe is None or worse else walked


def _leave_float(ladder: _Ladder, start: Trial, rank: Callable[[Plan], Sequence[str]]) -> None:
    """Look for the fewest nodes whose being float is enough for the goal.

    Accuracy alone leads the way. Speed then accepts or refuses each candidate, and the last one
    accepted, which leaves the fewest float, is `ladder.left`.
    """
    order = list(rank(start.plan))
    kept = set(start.plan.keep_float)

    def enough(nodes: Iterable[str]) -> bool:
        plan = replace(start.plan, keep_float=tuple(sorted(kept | set(nodes))))
        trial = ladder.timed(ladder.probed(plan, start))
        if trial.accepted:
            ladder.left = trial
        return trial.outcome in ("met", "undecided")

    count = _smallest(len(order), lambda count: enough(order[:count]))
    needed = list(order[: count or 0])
    for node in order[: count or 0]:
        without = [other for other in needed if other != node]
        if without and enough(without):
            needed = without


def _smallest(most: int, enough: Callable[[int], bool]) -> int | None:
    """The least count from 1 to `most` that is enough, by doubling and bisection."""
    if not most:
        return None
    low, count = 0, 1
    while not enough(count):
        if count == most:
            return None
        low, count = count, min(2 * count, most)
    while count - low > 1:
        middle = (low + count) // 2
        if enough(middle):
            count = middle
        else:
            low = middle
    return count


def _probe(plan: Plan, below: Trial | None, hands: Hands) -> Trial:
    """Make a candidate and compare it with float on the probe.

    Its failure is a trial with a note, not an exception. What is not the candidate's fault, such
    as a full disk, is an exception.
    """
    start = time.monotonic()
    trial = Trial(plan, None, None, None, None, accepted=False, note="", seconds=0.0)
    try:
        path = hands.make(plan)
        seen = hands.probe(path)
    except (EngineError, ModelError) as error:
        log.warning("candidate %s failed: %s", plan.key, error)
        return replace(trial, note=f"failed: {error}", seconds=time.monotonic() - start)
    gain = _gain_db(seen, below)
    seconds = time.monotonic() - start
    return replace(trial, path=path, fidelity=seen, probe=seen, gain_db=gain, seconds=seconds)


def _gain_db(seen: Fidelity | None, below: Trial | None) -> float | None:
    """What it has more on the probe than the one below; None where one of them was not probed."""
    if seen is None or below is None or below.probe is None:
        return None
    before = below.probe.sqnr_db
    return 0.0 if seen.sqnr_db == before else seen.sqnr_db - before  # both may be infinite


def _judge(trial: Trial, hands: Hands) -> Trial:
    """The trial with what the search images say."""
    quality = hands.judge(_path(trial))
    return replace(
        trial,
        accuracy=quality.accuracy,
        fidelity=quality.fidelity,
        note="" if quality.outcome == "met" else quality.note,
        outcome=quality.outcome,
        images=quality.images,
        drop_points=quality.drop_points,
    )


def _time(trial: Trial, hands: Hands) -> Trial:
    """The judged trial with what the clock says, which accepts or refuses it."""
    latency = hands.time(_path(trial))
    fast = hands.fast_enough(latency)
    notes = [*([trial.note] if trial.note else []), *([] if fast else [SLOW])]
    accepted = fast and trial.outcome != "unmet"
    return replace(trial, latency=latency, accepted=accepted, note="; ".join(notes))


def _path(trial: Trial) -> Path:
    if trial.path is None:
        raise ValueError(f"candidate {trial.plan.key} has no file to look at")
    return trial.path


def _better(one: Trial | None, other: Trial) -> Trial | None:
    """The one with the higher SQNR on the probe; the earlier of equals."""
    if other.probe is None:
        return one
    if one is None or one.probe is None:
        return other
    return other if other.probe.sqnr_db > one.probe.sqnr_db else one


def closest(trials: Iterable[Trial], fast_enough: Callable[[Latency], bool]) -> Trial | None:
    """The trial to keep when none was accepted; the earlier of equals.

    One that was found slow comes after all others. All are compared on the probe's images, if they
    were probed.
    """
    ran = [t for t in trials if t.path is not None and t.fidelity is not None]
    fast = [t for t in ran if t.latency is None or fast_enough(t.latency)]
    return max(fast or ran, key=_sqnr_db, default=None)


def _sqnr_db(trial: Trial) -> float:
    seen = trial.probe or trial.fidelity
    return -math.inf if seen is None else seen.sqnr_db
