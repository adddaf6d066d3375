"""The guided search, told by dictionaries what each plan is worth: no model, no clock."""

import logging
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.errors import (
    BudgetError,
    DataError,
    EngineError,
    Interrupted,
    ModelError,
    OutputError,
)
from quantize.plan import Cpu, Fidelity, Latency, Plan, Trial
from quantize.search import (
    EXPIRED,
    MET,
    MOST_LOSS_DB,
    NONE_LEFT,
    OPEN,
    SLOW,
    Hands,
    Quality,
    beside,
    closest,
    guided,
)

CPU = Cpu("cpu", "isa", saturates=False, cores=1)
INC = Plan("inc", "qdq")
ORT = Plan("onnxruntime", "qdq")
NODES = tuple(f"n{i:03d}" for i in range(128))


def ort(*repairs, keep=(), walked=0):
    return Plan(
        "onnxruntime",
        "qdq",
        repairs=repairs,
        keep_float=tuple(sorted(keep)),
        walked=walked if repairs else None,
    )


def on_images(*repairs, keep=()):
    return ort(*repairs, keep=keep, walked=None)


class Desk:
    """Hands that look everything up by plan.

    Args:
        sqnr: plan -> dB on the probe, or an exception that making it raises.
        outcome: plan -> what judging says, or an exception that it raises.
        ratio: plan -> speed; 2 is the floor.
        decidable: whether the search images can decide.
        known: finished trials of an earlier run.
        expires_after: how often `expired` says no.
    """

    def __init__(
        self,
        sqnr,
        outcome=lambda plan: "unmet",
        *,
        ratio=lambda plan: 3,
        decidable=False,
        known=(),
        expires_after=10**6,
    ):
        self.sqnr, self.outcome, self.ratio = sqnr, outcome, ratio
        self.decidable = decidable
        self.known = {trial.plan: trial for trial in known}
        self.left = expires_after
        self.plans = {}
        self.made, self.judged, self.remembered, self.ranked = [], [], [], []

    def make(self, plan):
        self.made.append(plan)
        worth = self.sqnr(plan)
        if isinstance(worth, BaseException):
            raise worth
        self.plans[Path(plan.key)] = plan
        return Path(plan.key)

    def probe(self, path):
        return Fidelity(self.sqnr(self.plans[path]), 0.9)

    def judge(self, path):
        plan = self.plans.get(path) or next(p for p in self.known if Path(p.key) == path)
        self.judged.append(plan)
        outcome = self.outcome(plan)
        if isinstance(outcome, BaseException):
            raise outcome
        note = f"drop of {plan.key}"
        return Quality(0.5, Fidelity(1.0, 0.8), outcome, outcome == "met", note, 100)

    def time(self, path):
        plan = self.plans.get(path) or next(p for p in self.known if Path(p.key) == path)
        ratio = self.ratio(plan)
        return Latency(ratio, 1.0, ratio, ratio, ratio, 1, 30, CPU)

    def expired(self):
        self.left -= 1
        return self.left < 0

    def search(self, plain=(ORT,), repairs=(), order=NODES, **options):
        def rank(plan):
            self.ranked.append(plan)
            return [name for name in order if name not in plan.keep_float]

        hands = Hands(
            make=self.make,
            probe=self.probe,
            judge=self.judge,
            time=self.time,
            fast_enough=lambda seen: seen.low >= 2,
            decidable=self.decidable,
            remember=self.remembered.append,
            recall=self.known.get,
            expired=self.expired,
        )
        self.hands = hands
        return guided(plain, repairs, rank, hands, **options)


def plans(trials):
    return [trial.plan for trial in trials]


def table(values, default=10.0):
    """SQNR by repairs, floats bring nothing."""
    return lambda plan: values.get(plan.repairs, default)


def without_seconds(result):
    return [
        (t.plan, t.path, t.fidelity, t.probe, t.gain_db, t.accepted, t.note, t.outcome)
        for t in result.trials
    ]


# ------------------------------------------------------------------------- first rungs


def test_a_first_candidate_that_meets_the_goal_ends_the_search_unrepaired():
    desk = Desk(table({}), lambda plan: "met", decidable=True)
    found = desk.search((INC, ORT), ("bias", "scales"))
    assert plans(found.trials) == [INC] == desk.made == desk.judged
    assert found.best is found.trials[0]
    assert (found.best.accepted, found.best.outcome, found.best.note) == (True, "met", "")
    assert (found.best.accuracy, found.best.latency.ratio, found.stopped) == (0.5, 3, MET)
    assert found.best.fidelity == Fidelity(1.0, 0.8)
    assert found.best.probe == Fidelity(10.0, 0.9)
    assert desk.ranked == []


def test_the_second_rung_is_judged_only_if_the_first_failed():
    worth = {INC: EngineError("broke"), ORT: 9.0}
    desk = Desk(lambda plan: worth[plan], lambda plan: "met", decidable=True)
    found = desk.search((INC, ORT))
    assert desk.judged == [ORT]
    assert found.best.plan == ORT
    assert found.stopped == MET


@pytest.mark.parametrize("outcome", ["unmet", "undecided"])
def test_an_unmet_or_open_first_rung_leads_to_repairs(outcome):
    sqnr = table({(): 10.0, ("bias",): 20.0})
    good = {("bias",): "met"}
    desk = Desk(sqnr, lambda plan: good.get(plan.repairs, outcome), decidable=True)
    found = desk.search(repairs=("bias",))
    assert desk.judged == [ORT, ort("bias")]
    assert found.best.plan == ort("bias")
    assert found.stopped == MET


def test_a_slow_candidate_is_refused_and_said_to_be():
    desk = Desk(table({}), lambda plan: "met", ratio=lambda plan: 1.9, decidable=True)
    found = desk.search((ORT,))
    assert (found.best.accepted, found.best.note, found.best.outcome) == (False, SLOW, "met")
    assert found.stopped == NONE_LEFT
    assert desk.ranked == []


def test_where_int8_is_too_slow_no_node_is_left_float():
    desk = Desk(table({("a",): 20.0}), lambda plan: "unmet", ratio=lambda plan: 1.9)
    found = desk.search(repairs=("a",))
    assert (found.stopped, desk.ranked) == (NONE_LEFT, [])
    assert len(found.trials) == 2


def test_notes_name_all_that_was_missed():
    desk = Desk(table({}), ratio=lambda plan: 1, decidable=True)
    assert desk.search().best.note == f"drop of {ORT.key}; {SLOW}"
    assert Desk(table({})).search().best.note == f"drop of {ORT.key}"


def test_no_candidate_is_judged_twice():
    desk = Desk(table({("bias",): 9.0}), decidable=True)
    found = desk.search(repairs=("bias",), order=())
    assert desk.judged == [ORT]
    assert found.best.note == f"drop of {ORT.key}"


def test_where_the_first_fails_while_it_is_judged_the_next_is_judged():
    outcome = {ort("a"): EngineError("broke"), ORT: "met"}
    desk = Desk(table({("a",): 20.0}), outcome.get, decidable=True)
    found = desk.search((ort("a"), ORT), ("a",))
    assert desk.judged == [ort("a"), ORT]
    assert (found.best.plan, found.stopped) == (ORT, MET)


# ----------------------------------------------------------------------------- repairs


def test_a_first_candidate_that_is_a_rung_as_well_is_kept_for_what_it_brings_there():
    sqnr = table({(): 10.0, ("a",): 20.0, ("b",): 12.0, ("a", "b"): 25.0})
    good = {("a", "b"): "met"}
    desk = Desk(sqnr, lambda plan: good.get(plan.repairs, "unmet"), decidable=True)
    found = desk.search((ort("a"), ORT), ("a", "b"))
    assert plans(found.trials) == [ort("a"), ORT, ort("a", "b")] == desk.made
    assert found.trials[-1].gain_db == 5
    assert desk.judged == [ort("a"), ort("a", "b")]
    assert (found.best.plan, found.stopped) == (ort("a", "b"), MET)


def test_repairs_are_tried_in_order_and_kept_unless_they_clearly_lose():
    sqnr = table(
        {
            (): 10.0,
            ("b",): 12.0,
            ("a", "b"): 12.0 - 1.1 * MOST_LOSS_DB,
            ("b", "c"): 12.0,
            ("b", "d"): 12.0 - 0.9 * MOST_LOSS_DB,
            ("b", "d", "e"): 13.0,
        }
    )
    desk = Desk(sqnr, lambda plan: "undecided")
    found = desk.search(repairs=("b", "a", "c", "d", "e"))
    tried = [ort("b"), ort("a", "b"), ort("b", "c"), ort("b", "d"), ort("b", "d", "e")]
    assert plans(found.trials) == [ORT, *tried]
    assert [t.gain_db for t in found.trials] == pytest.approx([None, 2.0, -0.22, 0, -0.18, 1.18])
    assert found.best.plan == ort("b", "d", "e")
    assert desk.judged == [ort("b", "d", "e")]
    assert found.stopped == OPEN
    assert found.best.accepted


def test_repairs_start_from_the_last_plain_plan_but_the_best_is_judged():
    sqnr = {INC: 30.0, ORT: 10.0, ort("a"): 20.0}
    desk = Desk(sqnr.get, lambda plan: "met")
    found = desk.search((INC, ORT), ("a",))
    assert desk.judged == [INC]
    assert found.best.plan == INC
    assert found.trials[2].gain_db == 10


def test_an_exact_repair_is_kept_and_equals_bring_nothing():
    sqnr = table({(): 10.0, ("a",): math.inf, ("a", "b"): math.inf})
    found = Desk(sqnr, lambda plan: "met").search(repairs=("a", "b"))
    assert [t.gain_db for t in found.trials] == [None, math.inf, 0.0]
    assert found.best.plan == ort("a")


def test_a_hopeless_start_can_be_repaired():
    sqnr = table({(): -math.inf, ("a",): -math.inf, ("b",): 5.0})
    assert Desk(sqnr, lambda plan: "met").search(repairs=("a", "b")).best.plan == ort("b")


@pytest.mark.parametrize("error", [EngineError("broke", "mend"), ModelError("broke", "mend")])
def test_a_candidate_that_fails_is_recorded_and_the_ladder_goes_on(error, caplog):
    desk = Desk(table({(): 10.0, ("a",): error, ("b",): 20.0}), lambda plan: "met")
    with caplog.at_level(logging.WARNING):
        found = desk.search(repairs=("a", "b"))
    failed = found.trials[1]
    assert failed == desk.remembered[1]
    assert (failed.path, failed.fidelity, failed.probe, failed.gain_db) == (None,) * 4
    assert failed.note == "failed: broke; mend"
    assert not failed.accepted
    assert found.best.plan == ort("b")
    assert f"candidate {failed.plan.key} failed: broke; mend" in caplog.text


def test_repairs_may_save_a_start_that_fails():
    desk = Desk(table({(): EngineError("broke"), ("a",): 20.0}), lambda plan: "met")
    found = desk.search(repairs=("a",))
    assert found.best.plan == ort("a")
    assert found.best.gain_db is None
    assert found.stopped == MET


@pytest.mark.parametrize("decidable", [True, False])
def test_a_candidate_that_fails_on_all_images_is_recorded_too(decidable):
    worth = {INC: ModelError("NaN"), ORT: "met"}
    sqnr = {INC: 20.0, ORT: 10.0}
    desk = Desk(sqnr.get, worth.get, decidable=decidable)
    found = desk.search((INC, ORT))
    assert (found.trials[0].note, found.trials[0].path) == ("failed: NaN", None)
    assert found.best.plan == ORT
    assert desk.remembered[-1 if not decidable else 1] == found.trials[0]


@pytest.mark.parametrize(
    "error", [OutputError("disk full"), DataError("images"), Interrupted(), KeyError("defect")]
)
@pytest.mark.parametrize("where", ["make", "judge"])
def test_what_is_no_candidates_fault_ends_the_search(error, where):
    sqnr, outcome = (error, "met") if where == "make" else (10.0, error)
    desk = Desk(lambda plan: sqnr, lambda plan: outcome)
    with pytest.raises(type(error)):
        desk.search()
    assert len(desk.remembered) == (where == "judge")


def test_nothing_that_ran_is_no_best():
    found = Desk(lambda plan: EngineError("x")).search((INC, ORT), ("a",))
    assert found.best is None
    assert found.stopped == NONE_LEFT
    assert plans(found.trials) == [INC, ORT, ort("a")]


# ------------------------------------------------------------------------ float nodes


def needing(nodes, met="met"):
    """Judged by the nodes that stay float: all of these must."""
    return lambda plan: met if set(nodes) <= set(plan.keep_float) else "unmet"


def by_floats(plan):
    return 10.0 + len(plan.keep_float) / 1000


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 65, 100, 127, 128])
def test_the_smallest_prefix_is_found_with_few_judgements(count):
    desk = Desk(by_floats, needing(NODES[:count]))
    found = desk.search(repairs=("none",))
    assert found.best.plan.keep_float == NODES[:count]
    assert found.stopped == MET
    # The rest of them, one for each node of the answer, tries to give it back.
    tried = {
        t.plan
        for t in found.trials
        if set(t.plan.keep_float) == set(NODES[: len(t.plan.keep_float)]) and t.outcome
    }
    assert len(tried) <= 1 + 2 * math.ceil(math.log2(len(NODES))) + 1
    assert len(desk.judged) == len(set(desk.judged))
    assert len(desk.judged) <= 1 + 2 * math.ceil(math.log2(len(NODES))) + 1 + count


def test_nodes_that_are_not_needed_are_given_back():
    needed = (NODES[2], NODES[9])
    found = Desk(by_floats, needing(needed)).search(repairs=("none",))
    assert found.best.plan.keep_float == needed
    assert found.best.accepted


def test_given_back_with_the_repairs_and_the_pins_kept():
    pinned = Plan("onnxruntime", "qdq", keep_float=("mine",))
    kept = {("a",): 20.0}
    desk = Desk(
        lambda plan: kept.get(plan.repairs, 10.0) + len(plan.keep_float) / 1000,
        needing((NODES[0], "mine")),
    )
    found = desk.search((pinned,), ("a",))
    assert found.best.plan == ort("a", keep=("mine", NODES[0]))
    assert desk.ranked == [ort("a", keep=("mine",))]


def test_float_nodes_that_cannot_decide_leave_it_open():
    found = Desk(by_floats, needing(NODES[:3], "undecided")).search(repairs=("none",))
    assert found.best.plan.keep_float == NODES[:3]
    assert found.best.accepted
    assert found.stopped == OPEN


def test_speed_does_not_lead_the_search_for_float_nodes():
    """Eight float nodes are too slow, yet the five that are needed are not."""
    desk = Desk(by_floats, needing(NODES[:5]), ratio=lambda p: 3 if len(p.keep_float) < 8 else 1)
    found = desk.search(repairs=("none",))
    assert found.best.plan.keep_float == NODES[:5]
    assert found.stopped == MET


def test_float_nodes_that_are_too_slow_are_refused():
    desk = Desk(by_floats, needing(NODES[:5]), ratio=lambda plan: 3 - len(plan.keep_float))
    found = desk.search(repairs=("none",))
    assert found.stopped == NONE_LEFT
    assert not found.best.accepted
    assert len(found.best.plan.keep_float) <= 1
    assert len(desk.judged) < 20


def test_without_repairs_nothing_is_left_float():
    desk = Desk(by_floats, needing(NODES[:1]))
    assert desk.search().stopped == NONE_LEFT
    assert desk.ranked == []


def test_where_nothing_works_the_closest_is_taken():
    found = Desk(table({("a",): 20.0, ("a", "b"): 15.0})).search(
        repairs=("a", "b"), order=NODES[:4]
    )
    assert found.stopped == NONE_LEFT
    assert found.best.plan == ort("a")
    assert [len(t.plan.keep_float) for t in found.trials] == [0, 0, 0, 1, 2, 4]


def test_no_node_to_leave_float_is_no_error():
    found = Desk(table({("a",): 20.0})).search(repairs=("a",), order=())
    assert (found.stopped, found.best.plan) == (NONE_LEFT, ort("a"))


# ----------------------------------------------------------------- resuming and budget


def laddered():
    return Desk(
        lambda plan: {(): 10.0, ("a",): 20.0}.get(plan.repairs, 15.0) + len(plan.keep_float),
        needing((NODES[1], NODES[2])),
        decidable=True,
    )


def test_equal_inputs_give_equal_results():
    first, second = laddered(), laddered()
    repairs = ("a", "b")
    one, two = first.search(repairs=repairs), second.search(repairs=repairs)
    assert without_seconds(one) == without_seconds(two)
    assert one.best.plan == two.best.plan == ort("a", keep=NODES[1:3])


def test_each_plan_is_one_trial_and_the_last_record_of_it_is_the_result():
    desk = laddered()
    found = desk.search(repairs=("a", "b"))
    assert len(set(plans(found.trials))) == len(found.trials) == len(desk.made)
    last = {trial.plan: trial for trial in desk.remembered}
    assert [last[plan] for plan in plans(found.trials)] == list(found.trials)


@pytest.mark.parametrize("finished", [0, 1, 2, 4, 6, 9, 99])
def test_recalled_trials_are_neither_made_nor_judged_again(finished):
    first = laddered()
    whole = first.search(repairs=("a", "b"))
    known = first.remembered[:finished]
    again = laddered()
    again.known = {trial.plan: trial for trial in known}
    found = again.search(repairs=("a", "b"))
    assert without_seconds(found) == without_seconds(whole)
    assert found.best.plan == whole.best.plan
    assert found.stopped == whole.stopped
    assert set(again.made) == set(first.made) - {trial.plan for trial in known}
    judged = {trial.plan for trial in known if trial.outcome}
    assert set(again.judged) == set(first.judged) - judged
    assert len(again.judged) == len(set(again.judged))


@pytest.mark.parametrize("looks", range(20))
def test_a_spent_budget_keeps_the_best_so_far(looks):
    desk = laddered()
    desk.left = looks
    found = desk.search(repairs=("a", "b"))
    assert found.stopped == EXPIRED
    ran = [t.probe.sqnr_db for t in found.trials]
    accepted = [t for t in found.trials if t.accepted]
    assert found.trials
    assert bool(accepted) == (looks > 13)
    if accepted:  # fewer float nodes have a lower SQNR, but cost less
        assert found.best == min(accepted, key=lambda trial: len(trial.plan.keep_float))
    else:
        assert found.best.probe.sqnr_db == max(ran)


def test_the_first_candidate_is_made_whatever_the_budget():
    desk = Desk(table({}), lambda plan: "met", decidable=True, expires_after=0)
    found = desk.search((INC, ORT))
    assert plans(found.trials) == [INC]
    assert (found.best.plan, found.stopped, desk.judged) == (INC, EXPIRED, [])


# ----------------------------------------------------------------------------- closest


def timed(plan, sqnr, ratio=None, probe=None):
    latency = None if ratio is None else Latency(1, 1, ratio, ratio, ratio, 1, 1, CPU)
    seen = None if probe is None else Fidelity(probe, 0.5)
    return Trial(plan, Path("x"), 0.5, Fidelity(sqnr, 0.5), latency, False, "", 0.0, probe=seen)


def test_the_closest_is_the_best_of_those_not_found_slow():
    slow, fast, untimed = timed(INC, 30, 1), timed(ORT, 10, 3), timed(ort("a"), 20)
    assert closest([slow, fast, untimed], lambda seen: seen.low >= 2) == untimed
    assert closest([slow, fast], lambda seen: seen.low >= 2) == fast
    assert closest([slow, timed(ORT, 31, 1)], lambda seen: False).plan == ORT
    assert closest([], lambda seen: True) is None


def test_the_closest_is_told_by_the_same_images_for_all():
    judged, probed = timed(INC, 30, 3, probe=10), timed(ORT, 20, probe=20)
    assert closest([judged, probed], lambda seen: True) == probed


# ------------------------------------------------------------------------- properties


@settings(deadline=None, max_examples=60)
@given(
    values=st.dictionaries(
        st.sets(st.sampled_from("abc")).map(lambda names: tuple(sorted(names))),
        st.floats(-50, 50),
    ),
    met=st.floats(-50, 60),
    decidable=st.booleans(),
    order=st.permutations("abc"),
)
def test_the_best_is_never_worse_than_plain(values, met, decidable, order):
    def sqnr(plan):
        return values.get(plan.repairs, 0.0) + len(plan.keep_float)

    desk = Desk(sqnr, lambda plan: "met" if sqnr(plan) >= met else "unmet", decidable=decidable)
    found = desk.search(repairs=tuple(order), order=NODES[:5])
    assert found.best.probe.sqnr_db >= found.trials[0].probe.sqnr_db
    assert found.best.accepted == (found.stopped == MET)
    assert found.best.accepted or max(t.probe.sqnr_db for t in found.trials) < met
    assert found.best in found.trials


# ------------------------------------------------------- repairs on images, other candidates


def test_repairs_that_walk_are_added_together_to_what_stayed():
    worth = {(): 10.0, ("a",): 12.0, ("a", "b"): 11.0, ("a", "c"): 13.0, ("a", "c", "w"): 14.0}
    desk = Desk(table(worth), lambda plan: "met")
    found = desk.search((ORT,), ("a", "b", "c"), following=("w", "a"))
    tried = [ORT, ort("a"), ort("a", "b"), ort("a", "c"), on_images("a", "c", "w")]
    assert plans(found.trials) == tried
    assert found.best.plan == on_images("a", "c", "w")
    assert desk.judged == [on_images("a", "c", "w")]


def test_what_is_repaired_is_judged_once_when_it_has_walked():
    desk = Desk(table({("a",): 12.0, ("a", "w"): 13.0}), lambda plan: "undecided", decidable=True)
    found = desk.search((ORT,), ("a",), following=("w",))
    assert desk.judged == [ORT, on_images("a", "w")]
    assert (found.best.plan, found.stopped) == (on_images("a", "w"), OPEN)


def test_only_what_may_be_taken_is_timed():
    def outcome(plan):
        return "met" if plan.repairs else "undecided"

    desk = Desk(table({("a",): 12.0}), outcome, decidable=True)
    found = desk.search((ORT,), ("a",))
    plain, repaired = found.trials
    assert (plain.outcome, plain.latency, plain.accepted) == ("undecided", None, False)
    assert repaired.latency is not None
    assert (found.best, found.stopped) == (repaired, MET)


def test_a_candidate_that_cannot_be_timed_is_recorded_too():
    desk = Desk(table({}), lambda plan: "met", decidable=True)

    def broken(path):
        raise ModelError("broke")

    desk.time = broken
    found = desk.search()
    assert found.best is None
    assert [(trial.note, trial.outcome) for trial in found.trials] == [("failed: broke", None)]


def test_where_no_repair_stays_those_that_walk_are_tried_alone():
    desk = Desk(table({("a",): 1.0, ("w",): 11.0}), lambda plan: "met")
    found = desk.search((ORT,), ("a",), following=("w",))
    assert plans(found.trials) == [ORT, ort("a"), on_images("w")]
    assert found.best.plan == on_images("w")


def test_a_walk_that_makes_it_worse_is_not_taken():
    def worth(plan):
        return 12.0 if plan == ort("a") else 11.0 if plan.repairs else 10.0

    found = Desk(worth, lambda plan: "met").search((ORT,), ("a",), following=("a",))
    assert plans(found.trials) == [ORT, ort("a"), on_images("a")]
    assert found.best.plan == ort("a")


def test_a_walk_that_fails_is_not_taken():
    def worth(plan):
        return EngineError("broke") if plan == on_images("a") else 10.0 + 5 * len(plan.repairs)

    found = Desk(worth, lambda plan: "met").search((ORT,), ("a",), following=("a",))
    assert found.best.plan == ort("a")


def test_nodes_are_left_float_of_the_candidate_that_walked():
    def outcome(plan):
        return "met" if plan.keep_float else "unmet"

    desk = Desk(table({("w",): 11.0}), outcome)
    found = desk.search((ORT,), (), NODES[:4], following=("w",))
    assert found.best.plan == on_images("w", keep=NODES[:1])


def test_others_wait_until_the_repaired_one_is_not_enough():
    desk = Desk(table({("a",): 15.0}), lambda plan: "met" if plan.repairs else "unmet")
    found = desk.search((ORT,), ("a",), others=(INC,))
    assert INC not in plans(found.trials)
    assert found.best.plan == ort("a")


def test_a_better_other_is_judged_and_wins():
    def worth(plan):
        return 20.0 if plan == INC else 10.0

    desk = Desk(worth, lambda plan: "met" if plan == INC else "unmet")
    found = desk.search((ORT,), ("a",), others=(INC,))
    assert found.best.plan == INC
    assert desk.judged == [ORT, INC]
    assert desk.ranked == []


def test_a_worse_other_is_not_judged_and_nodes_are_left_float():
    def worth(plan):
        return 5.0 if plan == INC else 10.0

    def outcome(plan):
        return "met" if plan.keep_float else "unmet"

    desk = Desk(worth, outcome)
    found = desk.search((ORT,), (), others=(INC,), order=NODES[:4])
    assert INC in plans(found.trials)
    assert INC not in desk.judged
    found = Desk(worth, outcome).search((ORT,), ("a",), others=(INC,), order=NODES[:4])
    assert found.best.plan.keep_float == NODES[:1]


def test_an_other_stands_in_for_an_engine_that_fails():
    def worth(plan):
        return 9.0 if plan == INC else EngineError("broke")

    found = Desk(worth, lambda plan: "met").search((ORT,), ("a",), others=(INC,))
    assert found.best.plan == INC


def test_an_other_may_be_fast_where_the_repaired_one_is_slow():
    def worth(plan):
        return 5.0 if plan == INC else 10.0

    desk = Desk(worth, lambda plan: "met", ratio=lambda plan: 3 if plan == INC else 1)
    found = desk.search((ORT,), ("a",), others=(INC,))
    assert found.best.plan == INC


# ------------------------------------------------------------------------ only looked at


def test_a_candidate_beside_the_best_is_probed_and_never_chosen():
    desk = Desk(lambda plan: 99.0 if plan == INC else 10.0, lambda plan: "met", decidable=True)
    found = desk.search()
    more = beside(found, INC, desk.hands, "only to compare")
    assert more.best is found.best
    assert plans(more.trials) == [ORT, INC]
    assert (more.trials[-1].note, more.trials[-1].gain_db) == ("only to compare", 89.0)
    assert (more.trials[-1].accepted, more.trials[-1].outcome) == (False, None)
    assert desk.remembered[-1] is more.trials[-1]
    assert desk.judged == [ORT]


def test_what_was_found_stands_where_the_time_is_over_beside_it():
    desk = Desk(lambda plan: BudgetError("over") if plan == INC else 10.0, lambda plan: "met")
    found = desk.search()
    assert found.best is not None
    assert beside(found, INC, desk.hands, "only to compare") is found


def test_a_candidate_beside_that_fails_says_so():
    desk = Desk(lambda plan: EngineError("broke", "mend") if plan == INC else 10.0)
    more = beside(desk.search(), INC, desk.hands, "only to compare")
    assert more.trials[-1].note.startswith("failed: broke")


def test_nothing_is_looked_at_beside_once_the_time_is_over_or_known():
    desk = Desk(table({}))
    found = desk.search()
    desk.known[INC] = known = beside(found, INC, desk.hands, "note").trials[-1]
    made = len(desk.made)
    assert beside(found, INC, desk.hands, "note").trials[-1] is known
    assert len(desk.made) == made
    desk.left = 0
    assert beside(found, INC, desk.hands, "note") is found
