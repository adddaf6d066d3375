"""Outcomes, their reasons, and the exit codes that follow."""

import numpy as np
import pytest

from quantize.errors import DataError
from quantize.evaluation import Comparison
from quantize.paired import agreement_interval, drop
from quantize.plan import NO_LABEL, Cpu, Evaluation, Fidelity, Goal, Latency
from quantize.verdict import judge

CPU = Cpu("cpu", "x86-64 AVX512-VNNI", saturates=False, cores=2)
N = 1000


def comparison(lost, gained, right=800, agreement=0.97, labelled=True):
    """N images: `right` right in float, of which `lost` wrong in int8; `gained` the other way.

    The last fifty have the label in fifth place.
    """
    labels = np.zeros(N, np.int64)
    float_top5 = np.tile([9, 8, 7, 6, 5], (N, 1))
    float_top5[:right] = [0, 1, 2, 3, 4]
    float_top5[-50:, 4] = 0
    int8_top5 = float_top5.copy()
    int8_top5[:lost] = [1, 0, 2, 3, 4]
    int8_top5[right : right + gained] = [0, 1, 2, 3, 4]
    if not labelled:
        labels[3] = NO_LABEL
    digests = tuple(map(str, range(N)))
    return Comparison(
        Evaluation(digests, float_top5, labels),
        Evaluation(digests, int8_top5, labels),
        Fidelity(30.0, agreement),
    )


def latency(low):
    return Latency(3.0, 1.0, low + 0.1, low, low + 0.2, 1, 30, CPU)


@pytest.mark.parametrize(
    ("lost", "gained", "goal", "outcome", "code"),
    [
        (8, 0, Goal(0.01), "met", 0),
        (9, 0, Goal(0.01), "unmet", 3),
        (20, 12, Goal(0.01), "met", 0),
        (0, 50, Goal(0.0), "met", 0),
        (10, 0, Goal(0.01, "absolute"), "met", 0),
        (11, 0, Goal(0.01, "absolute"), "unmet", 3),
        (0, 0, Goal(0.01, confidence=0.95), "met", 0),
        (8, 3, Goal(0.01, confidence=0.95), "undecided", 4),
        (40, 1, Goal(0.01, confidence=0.95), "unmet", 3),
    ],
)
def test_the_drop_decides(lost, gained, goal, outcome, code):
    seen = comparison(lost, gained)
    verdict = judge(seen, goal, latency(2.0), CPU)
    assert (verdict.outcome, verdict.exit_code) == (outcome, code)
    assert verdict.drop == drop(seen.float_, seen.int8)
    assert (verdict.float_top1, verdict.int8_top1) == (0.8, (800 - lost + gained) / N)
    assert (verdict.float_top5, verdict.int8_top5) == (0.85, (850 + gained) / N)
    assert (verdict.goal, verdict.cpu, verdict.images) == (goal, CPU, N)
    assert verdict.fidelity == seen.fidelity
    assert (verdict.more_images is None) == (outcome != "undecided")
    drop_points = f"top-1 drop {(lost - gained) / 10:.2f} points (95 % interval "
    assert verdict.reason.startswith(drop_points)
    assert ("; not decided at 95 % confidence, about " in verdict.reason) == (code == 4)


@pytest.mark.parametrize(
    ("agreement", "goal", "code"),
    [
        (0.98, Goal(0.98, "agreement"), 0),
        (0.979, Goal(0.98, "agreement"), 3),
        (0.995, Goal(0.98, "agreement", confidence=0.95), 0),
        (0.982, Goal(0.98, "agreement", confidence=0.95), 4),
        (0.95, Goal(0.98, "agreement", confidence=0.95), 3),
    ],
)
@pytest.mark.parametrize("labelled", [False, True])
def test_agreement_decides_where_it_is_asked(agreement, goal, code, labelled):
    seen = comparison(300, 0, agreement=agreement, labelled=labelled)
    verdict = judge(seen, goal, None, CPU)
    assert verdict.exit_code == code
    assert verdict.reason.startswith(f"agreement {100 * agreement:.2f} % (95 % interval ")
    assert (verdict.more_images is None) == (code != 4)
    limits = agreement_interval(agreement, N)
    assert (verdict.agreement_low, verdict.agreement_high) == limits
    assert (verdict.drop is None) == (not labelled)
    assert (verdict.float_top1 is None) == (not labelled)
    assert (verdict.int8_top5 is None) == (not labelled)


@pytest.mark.parametrize("kind", ["relative", "absolute"])
def test_a_goal_on_accuracy_needs_every_label(kind):
    with pytest.raises(DataError, match=r"without a label.*give labels, or set .*agreement"):
        judge(comparison(0, 0, labelled=False), Goal(0.01, kind), None, CPU)


@pytest.mark.parametrize(
    ("lost", "goal"),
    [
        (0, Goal(0.01)),
        (9, Goal(0.01, confidence=0.95)),
        (100, Goal(0.01)),
        (0, Goal(0.5, "agreement")),
        (0, Goal(0.968, "agreement", confidence=0.95)),
    ],
)
def test_a_missed_speed_floor_is_unmet_whatever_the_accuracy(lost, goal):
    seen = comparison(lost, 0)
    before = judge(seen, goal, None, CPU)
    verdict = judge(seen, goal, latency(1.09), CPU)
    assert (verdict.outcome, verdict.exit_code) == ("unmet", 3)
    assert verdict.reason == f"{before.reason}; the speed floor of 1.1x is missed"
    assert verdict.more_images is None
    assert verdict.latency == latency(1.09)


def test_a_floor_that_is_met_or_not_measured_changes_nothing():
    for goal in (Goal(0.01), Goal(0.01, speed_floor=2.5)):
        without = judge(comparison(0, 0), goal, None, CPU)
        with_time = judge(comparison(0, 0), goal, latency(2.5), CPU)
        assert without.outcome == with_time.outcome == "met"
        assert without.reason == with_time.reason
        assert without.latency is None


def test_where_nothing_would_decide_the_reason_says_so():
    verdict = judge(comparison(8, 0), Goal(0.01, confidence=0.95), None, CPU)
    assert verdict.outcome == "undecided"
    assert verdict.more_images is None
    assert verdict.reason.endswith("not decided at 95 % confidence, more images will hardly decide")


def test_no_difference_at_all_is_not_proof_on_few_images():
    seen = comparison(0, 0)
    few = Comparison(
        *(Evaluation(e.digests[:50], e.top5[:50], e.labels[:50]) for e in (seen.float_, seen.int8)),
        seen.fidelity,
    )
    assert judge(few, Goal(0.01, confidence=0.95), None, CPU).outcome == "undecided"
    assert judge(few, Goal(0.01), None, CPU).outcome == "met"
