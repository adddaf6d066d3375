"""The search, told by dictionaries what each plan is worth: no model, no clock."""

import logging
from pathlib import Path

import pytest

from quantize.errors import DataError, EngineError, Interrupted, ModelError, OutputError
from quantize.plan import Cpu, Fidelity, Latency, Plan, Trial
from quantize.search import NONE_LEFT, SLOW, Hands, Quality, attempt, closest, search

CPU = Cpu("cpu", "isa", saturates=False, cores=1)
PLANS = tuple(Plan("onnxruntime", "qdq", repairs=(name,)) for name in "abcde")


class Desk:
    """Hands that look everything up: (SQNR, good, ratio) or an exception by plan's letter."""

    def __init__(self, worth, known=(), expires_after=99):
        self.worth = worth
        self.known = {trial.plan: trial for trial in known}
        self.remembered = []
        self.made = []
        self.looks = 0
        self.expires_after = expires_after

    def make(self, plan):
        letter = plan.repairs[0]
        self.made.append(letter)
        if isinstance(self.worth[letter], BaseException):
            raise self.worth[letter]
        return Path(letter)

    def judge(self, path):
        sqnr, good, _ = self.worth[path.name]
        return Quality(0.5, Fidelity(sqnr, 0.9), good, f"drop of {path.name}")

    def time(self, path):
        ratio = self.worth[path.name][2]
        return Latency(ratio, 1.0, ratio, ratio, ratio, 1, 30, CPU)

    def expired(self):
        self.looks += 1
        return self.looks >= self.expires_after

    def hands(self):
        return Hands(
            self.make,
            self.judge,
            self.time,
            lambda seen: seen.low >= 2,
            self.remembered.append,
            self.known.get,
            self.expired,
        )


def letters(trials):
    return "".join(trial.plan.repairs[0] for trial in trials)


def test_the_earliest_accepted_wins_though_later_ones_are_better():
    desk = Desk({"a": (9, False, 3), "b": (20, True, 2.0), "c": (50, True, 9)})
    found = search(iter(PLANS), desk.hands())
    assert found.best == found.trials[1] == desk.remembered[1]
    assert letters(found.trials) == letters(desk.remembered) == "ab"
    assert desk.made == ["a", "b"]
    assert found.best.accepted
    assert found.best.note == ""
    assert found.stopped == "goal and speed floor met on search images"


def test_plans_after_the_accepted_one_are_not_even_asked_for():
    def plans():
        yield PLANS[0]
        pytest.fail("the search went on")

    assert search(plans(), Desk({"a": (9, True, 3)}).hands()).best.accepted


def test_notes_say_what_was_missed():
    desk = Desk({"a": (9, False, 3), "b": (9, True, 1), "c": (9, False, 1)})
    found = search(PLANS[:3], desk.hands())
    assert [t.note for t in found.trials] == ["drop of a", SLOW, f"drop of c; {SLOW}"]
    assert not any(t.accepted for t in found.trials)


def test_a_trial_holds_what_was_seen():
    trial = attempt(PLANS[0], Desk({"a": (9, True, 3)}).hands())
    assert (trial.plan, trial.path, trial.accuracy) == (PLANS[0], Path("a"), 0.5)
    assert (trial.fidelity.sqnr_db, trial.latency.ratio) == (9, 3)
    assert trial.seconds >= 0


@pytest.mark.parametrize("error", [EngineError("broke", "mend"), ModelError("broke", "mend")])
def test_a_candidate_that_fails_is_recorded_and_the_search_goes_on(error, caplog):
    desk = Desk({"a": error, "b": (9, True, 3)})
    with caplog.at_level(logging.WARNING):
        found = search(PLANS, desk.hands())
    failed = found.trials[0]
    assert failed == desk.remembered[0]
    assert (failed.path, failed.accuracy, failed.fidelity, failed.latency) == (None,) * 4
    assert failed.note == "failed: broke; mend"
    assert not failed.accepted
    assert found.best.plan == PLANS[1]
    assert f"candidate {PLANS[0].key} failed: broke; mend" in caplog.text


def test_judging_and_timing_may_fail_too():
    for hand in ("judge", "time"):
        desk = Desk({"a": (9, True, 3), "b": (9, True, 3)})
        real = getattr(desk, hand)

        def fail(path, real=real):
            if path.name == "a":
                raise ModelError("does not load")
            return real(path)

        setattr(desk, hand, fail)
        assert [t.note for t in search(PLANS, desk.hands()).trials] == ["failed: does not load", ""]


@pytest.mark.parametrize(
    "error", [OutputError("disk full"), DataError("images"), Interrupted(), KeyError("defect")]
)
def test_what_is_no_candidates_fault_ends_the_search(error):
    desk = Desk({"a": error, "b": (9, True, 3)})
    with pytest.raises(type(error)):
        search(PLANS, desk.hands())
    assert desk.remembered == []


def test_a_recalled_trial_is_not_made_again():
    first = Desk({"a": (9, False, 3), "b": (8, False, 3), "c": (7, True, 3)})
    whole = search(PLANS, first.hands())
    again = Desk(first.worth, known=whole.trials[:2])
    found = search(PLANS, again.hands())
    assert again.made == ["c"]
    assert letters(again.remembered) == "c"
    assert found.trials[:2] == whole.trials[:2]
    assert letters(found.trials) == "abc"
    finished = Desk({}, known=whole.trials)
    assert search(PLANS, finished.hands()).best == whole.best
    assert finished.made == []


def test_a_spent_budget_stops_after_the_first():
    desk = Desk({"a": (9, False, 3), "b": (9, True, 3)}, expires_after=1)
    found = search(PLANS, desk.hands())
    assert letters(found.trials) == "a"
    assert found.best.plan == PLANS[0]
    assert found.stopped == "the time budget is spent"


def test_a_budget_spent_later_keeps_what_is_closest():
    worth = {"a": (9, False, 3), "b": (12, False, 3), "c": (11, False, 3), "d": (99, True, 9)}
    desk = Desk(worth, expires_after=3)
    found = search(PLANS, desk.hands())
    assert letters(found.trials) == "abc"
    assert found.best.plan == PLANS[1]


def test_without_an_accepted_one_the_closest_of_the_fast_is_best():
    desk = Desk({"a": (30, True, 1), "b": (9, False, 3), "c": (12, False, 2), "d": (12, False, 9)})
    found = search(PLANS[:4], desk.hands())
    assert found.best.plan == PLANS[2]
    assert found.stopped == NONE_LEFT


def test_without_a_fast_one_the_closest_is_best():
    desk = Desk({"a": (9, True, 1), "b": EngineError("x"), "c": (12, False, 1)})
    assert search(PLANS[:3], desk.hands()).best.plan == PLANS[2]


def test_an_exact_or_hopeless_candidate_is_compared_too():
    inf = float("inf")
    desk = Desk({"a": (-inf, False, 3), "b": (inf, False, 3), "c": (40, False, 3)})
    assert search(PLANS[:3], desk.hands()).best.plan == PLANS[1]


def test_nothing_that_ran_is_no_best():
    desk = Desk({"a": EngineError("x"), "b": ModelError("y")})
    found = search(PLANS[:2], desk.hands())
    assert found.best is None
    assert letters(found.trials) == "ab"
    assert search((), desk.hands()) == type(found)(None, (), NONE_LEFT)
    assert closest((), lambda _: True) is None


def test_a_trial_that_was_not_timed_is_no_best():
    untimed = Trial(
        PLANS[0], Path("a"), 0.5, Fidelity(99, 1), None, accepted=False, note="", seconds=0
    )
    timed = attempt(PLANS[1], Desk({"b": (1, False, 1)}).hands())
    assert closest([untimed, timed], lambda _: True) == timed
