"""What a run is said to cost, before it starts."""

import pytest

from quantize import price, strategy
from quantize.graph.prepare import prepare
from quantize.job import open_job
from quantize.price import price_of
from quantize.probe import run_once
from quantize.strategy import accept


@pytest.fixture
def opened(job):
    inputs = open_job(job.model, job.settings(), None)
    return inputs, prepare(inputs.model.proto, run_once, inputs.model.size)


def test_every_image_costs_the_pace(opened):
    slow, quick = (price_of(*opened, pace) for pace in (0.3, 0.1))
    assert slow.image_runs == quick.image_runs > 2 * slow.holdout
    assert 60 * (slow.minutes - quick.minutes) == pytest.approx(0.2 * slow.image_runs)
    judged = 2 * slow.holdout
    assert slow.verify_seconds - quick.verify_seconds == pytest.approx(0.2 * judged)


def test_a_known_pace_is_not_measured_again(opened, monkeypatch):
    def refuse(job):
        raise AssertionError("measured")

    monkeypatch.setattr(price, "_seconds_per_image", refuse)
    assert price_of(*opened, 0.1).minutes > 0
    with pytest.raises(AssertionError, match="measured"):
        price_of(*opened)


def test_the_float_models_first_run_tells_the_pace(opened, monkeypatch):
    assert accept(*opened).pace is None  # so few say little
    monkeypatch.setattr(strategy, "_LEAST_TIMED", 8)
    assert 0 < accept(*opened).pace < 10


def test_what_is_told_as_the_most_names_its_exception(opened):
    [line] = [line for line in price_of(*opened, 0.1).lines() if line.startswith("candidates")]
    assert line.endswith("; more only where nodes are left float")
