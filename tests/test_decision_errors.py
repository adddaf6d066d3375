"""The script that measures decisions at the margin: its sums, its runs and the rules agree."""

import importlib.util
import math
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from quantize.plan import Goal

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "decision_errors.py"


@cache
def script():
    if not SCRIPT.exists():
        pytest.skip("benchmarks/ is not here")
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[SCRIPT.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("lost", [1.0, 0.75])
def test_a_row_is_what_its_runs_show(lost):
    found = script().row(100, 0.05, lost, 0.9, runs=4000, seed=3)
    assert found.margin == pytest.approx(0.05 * (2 * lost - 1))
    assert abs(found.simulated - found.sequential) < 4 * found.simulated_error
    assert 0 < found.sequential <= 0.1
    assert 0 < found.fixed <= min(0.1, found.tango)
    assert found.images_four_times < found.images_twice < found.images <= 100


def test_a_course_of_one_look_is_a_binomial_sum():
    rule = script().Rule((60,), 0.1, (-1.3,), (-math.inf,))
    lost = np.arange(61)
    met, _ = rule.decides(0, lost, np.zeros(61, np.int64))
    ended = script().course(rule, 0.1, 0.0)
    assert ended.met == pytest.approx(binom.pmf(lost[met], 60, 0.1).sum())
    assert (ended.unmet, ended.images) == (0, pytest.approx(60))


def test_a_rule_that_is_not_the_public_one_is_noticed():
    rule = script().sequential(100, 0.05, 0.9)
    wrong = script().Rule(rule.at, rule.margin, tuple(t + 0.5 for t in rule.met), rule.unmet)
    goal = Goal(0.05, "absolute", confidence=0.9)
    with pytest.raises(AssertionError, match="not met"):
        script().simulated(wrong, goal, 0.06, 0.01, 2000, 0)


def test_the_conditional_limit_is_that_of_a_binomial():
    """Of 40 discordant images in 100, a drop of 2 points leaves 52.5 % lost ones."""
    most = script().conditional(100, 0.02, 0.95)
    assert list(most[:3]) == [0, 1, 2]
    assert binom.cdf(most[40], 40, 0.525) <= 0.05 < binom.cdf(most[40] + 1, 40, 0.525)
