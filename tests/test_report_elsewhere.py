"""What another processor shows: one type, with the float model and without."""

import json

import pytest

from quantize.bundle.alone import Alone
from quantize.plan import Cpu, Drop, Fidelity, Goal, Verdict
from quantize.report.elsewhere import Elsewhere

CPU = Cpu("Haswell (emulated)", "x86-64 Haswell, emulated", True, 1)
NEAR = Fidelity(14.0, 0.92)
EXACT = Fidelity(float("inf"), 1.0)
ALONE = Alone("unmet", 0.85, 0.8, 0.9, "too much is lost")


def verdict(drop=True):
    return Verdict(
        outcome="unmet",
        reason="because",
        goal=Goal(0.01),
        drop=Drop(1.0, -1.0, 3.0, 2, 1, 100) if drop else None,
        float_top1=0.9,
        int8_top1=0.89,
        float_top5=1.0,
        int8_top5=1.0,
        fidelity=Fidelity(20.0, 0.97),
        agreement_low=0.9,
        agreement_high=1.0,
        images=120,
        more_images=None,
        latency=None,
        cpu=CPU,
    )


def test_lines_begin_alike_and_end_with_what_was_judged():
    begin = [
        "",
        "Haswell (emulated)",
        "           sums of two products are cut off at 16 bits; 120 images, 92.00 % of the answers"
        " as here, 14.0 dB",
    ]
    end = "GOAL NOT MET: because; seen on 120 holdout images, x86-64 Haswell, emulated"
    drop = "           drop 1.00 points, 95 % interval -1.00 to 3.00"
    assert Elsewhere(CPU, 120, NEAR, False, verdict()).lines() == [*begin, drop, end]
    assert Elsewhere(CPU, 120, NEAR, False, verdict(drop=False)).lines() == [*begin, end]
    assert Elsewhere(CPU, 120, NEAR, False, ALONE).lines() == [*begin, ALONE.line()]


def test_equal_scores_have_no_decibels():
    seen = Elsewhere(CPU, 120, EXACT, True, ALONE)
    assert seen.lines()[2].endswith("100.00 % of the answers as here, identical scores")
    assert seen.to_json()["against_here"] == {"sqnr_db": None, "agreement": 1.0}


def test_a_verdict_lies_among_the_fields_and_the_accuracy_alone_below_its_name():
    seen = Elsewhere(CPU, 120, NEAR, False, verdict()).to_json()
    assert list(seen)[-4:] == ["exit_code", "emulated_images", "against_here", "proven"]
    assert (seen["outcome"], seen["exit_code"], seen["emulated_images"]) == ("unmet", 3, 120)
    alone = Elsewhere(CPU, 120, NEAR, False, ALONE).to_json()
    assert list(alone) == ["cpu", "alone", "images", "against_here", "proven"]
    assert alone["alone"]["reason"] == "too much is lost"
    json.dumps([seen, alone], allow_nan=False)


@pytest.mark.parametrize("judged", [verdict(), ALONE])
def test_the_outcome_is_that_of_whichever_is_there(judged):
    assert Elsewhere(CPU, 120, NEAR, False, judged).outcome == "unmet"
