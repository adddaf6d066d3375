"""When the time is over, and what is left of it."""

import math

import pytest

from quantize import deadline
from quantize.deadline import NEVER, Deadline
from quantize.errors import BudgetError


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    found = Clock()
    monkeypatch.setattr(deadline, "time", found)
    return found


def test_a_deadline_passes(clock):
    limit = Deadline.after(5)
    assert (limit.left, limit.passed) == (5, False)
    limit.check()
    clock.now += 4.9
    limit.check()
    clock.now = 105.0
    assert limit.passed
    with pytest.raises(
        BudgetError, match="the time budget is spent; run the same command"
    ) as caught:
        limit.check()
    assert caught.value.exit_code == 3


def test_an_earlier_one_leaves_time(clock):
    assert Deadline.after(5).earlier(2).left == 3
    assert Deadline.after(5).earlier(6).passed


def test_no_limit_never_passes(clock):
    clock.now = 1e300
    NEVER.check()
    assert NEVER.left == math.inf
    assert NEVER.earlier(1e9) == NEVER
