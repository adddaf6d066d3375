"""Timing, on a clock and sessions of our own: no assertion here depends on real time."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import tiny_resnet
from quantize import latency
from quantize.latency import LEAST_ROUNDS, Timing, measure, median_interval, meets_floor, single
from quantize.plan import Cpu, Latency

FLOAT, INT8 = Path("float.onnx"), Path("int8.onnx")
IMAGE = np.zeros((1, 3, 4, 4), np.float32)


class World:
    """A clock that only running models advances, and the order in which they ran."""

    def __init__(self, monkeypatch, float_s=0.030, int8_s=0.010, batch=None, drift=None):
        self.now = 100.0
        self.runs = []
        self.threads = []
        self.shapes = set()
        seconds = {str(FLOAT): float_s, str(INT8): int8_s}
        world = self

        class Session:
            def __init__(self, model, *, threads):
                self.name, self.batch = str(model), batch
                world.threads.append(threads)

            def run(self, images):
                world.shapes.add(images.shape)
                world.runs.append(self.name[0])
                index = len(world.runs)
                world.now += seconds[self.name] * (drift(index) if drift else 1)

        monkeypatch.setattr(latency, "Session", Session)
        monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: self.now))


def timing(**values):
    return Timing(**{"threads": 3, "asked": 3, "warm_up": 2, "rounds": 40, **values})


# ------------------------------------------------------------------------------ rounds


def test_models_take_turns_and_who_begins_alternates(monkeypatch):
    world = World(monkeypatch)
    measure(FLOAT, INT8, IMAGE, timing())
    text = "".join(world.runs)
    assert text.startswith("ff" + "ii" + "fff" + "iii")  # warm-up, then how often to repeat
    assert text[10:] == "fiif" * 20
    assert world.threads == [3, 3]
    assert world.shapes == {(1, 3, 4, 4)}


def test_what_is_reported_is_what_the_clock_said(monkeypatch):
    World(monkeypatch)
    seen = measure(FLOAT, INT8, IMAGE, timing())
    assert seen.float_ms == pytest.approx(30)
    assert seen.int8_ms == pytest.approx(10)
    assert (seen.ratio, seen.low, seen.high) == pytest.approx((3, 3, 3))
    assert (seen.rounds, seen.threads) == (40, 3)
    assert seen.cpu == latency.cpu()


def test_a_machine_that_slows_down_leaves_the_ratio_alone(monkeypatch):
    World(monkeypatch, drift=lambda index: 1 + index / 50)
    seen = measure(FLOAT, INT8, IMAGE, timing())
    assert seen.float_ms > 35
    assert seen.low <= 3.0 <= seen.high
    assert seen.high - seen.low < 0.2


def test_one_disturbed_round_changes_nothing(monkeypatch):
    World(monkeypatch, drift=lambda index: 1000 if index == 41 else 1)
    seen = measure(FLOAT, INT8, IMAGE, timing())
    assert (seen.float_ms, seen.int8_ms) == pytest.approx((30, 10))
    assert (seen.ratio, seen.low, seen.high) == pytest.approx((3, 3, 3))


def test_short_runs_are_repeated_within_a_round(monkeypatch):
    world = World(monkeypatch, float_s=0.0009, int8_s=0.0004)
    seen = measure(FLOAT, INT8, IMAGE, timing(rounds=2))
    assert "".join(world.runs)[10:] == "ff" + "iiiii" + "iiiii" + "ff"
    assert (seen.float_ms, seen.int8_ms) == pytest.approx((0.9, 0.4))


def test_a_frozen_clock_does_not_repeat_for_ever(monkeypatch):
    world = World(monkeypatch, float_s=0.0, int8_s=0.0)
    with np.errstate(invalid="ignore"):
        measure(FLOAT, INT8, IMAGE, timing(rounds=1))
    assert len(world.runs) == 2 * (2 + 3 + 2000)


@pytest.mark.parametrize(("warm_up", "runs"), [(0, 1), (1, 1), (10, 10)])
def test_the_warm_up_runs_each_model_at_least_once(monkeypatch, warm_up, runs):
    world = World(monkeypatch)
    measure(FLOAT, INT8, IMAGE, timing(warm_up=warm_up, rounds=1))
    assert "".join(world.runs).startswith("f" * runs + "i" * runs + "fff")


def test_time_over_ends_the_rounds_but_not_before_the_least(monkeypatch):
    World(monkeypatch)
    assert measure(FLOAT, INT8, IMAGE, timing(rounds=500, seconds=0)).rounds == LEAST_ROUNDS
    assert measure(FLOAT, INT8, IMAGE, timing(rounds=5, seconds=0)).rounds == 5
    assert measure(FLOAT, INT8, IMAGE, timing(rounds=500, seconds=4.0)).rounds == pytest.approx(
        100, abs=1
    )


def test_a_fixed_batch_is_filled(monkeypatch):
    world = World(monkeypatch, batch=4)
    measure(FLOAT, INT8, IMAGE, timing(rounds=1))
    assert world.shapes == {(4, 3, 4, 4)}


def test_progress_is_told_after_each_round(monkeypatch):
    World(monkeypatch)
    told = []
    measure(FLOAT, INT8, IMAGE, timing(rounds=5), on_progress=told.append)
    assert [(p.stage, p.done, p.total, p.unit) for p in told] == [
        ("benchmark", done, 5, "rounds") for done in range(1, 6)
    ]


@pytest.mark.parametrize("floor", [None, 0.5, 10.0])
def test_a_floor_outside_the_interval_costs_no_more_rounds(monkeypatch, floor):
    World(monkeypatch, drift=lambda index: 1 + index % 7 / 10)
    seen = measure(FLOAT, INT8, IMAGE, timing(), floor=floor)
    assert seen.rounds == 40
    assert seen.low < seen.high


def test_a_floor_inside_the_interval_gets_more_rounds(monkeypatch):
    rng = np.random.default_rng(0)
    factors = rng.uniform(0.5, 1.5, 10_000)
    World(monkeypatch, drift=lambda index: factors[index])
    first = measure(FLOAT, INT8, IMAGE, timing())
    World(monkeypatch, drift=lambda index: factors[index])
    again = measure(FLOAT, INT8, IMAGE, timing(), floor=(first.low + first.high) / 2)
    assert first.rounds == 40
    assert again.rounds == 160
    assert again.high - again.low < first.high - first.low


@pytest.mark.parametrize(
    ("floor", "brief", "rounds"),
    [(1.1, True, 12), (9.0, True, 12), (1.1, False, 40), (None, True, 40)],
)
def test_a_brief_look_ends_where_every_round_says_the_same(monkeypatch, floor, brief, rounds):
    World(monkeypatch, drift=lambda index: 1 + index % 7 / 10)
    assert measure(FLOAT, INT8, IMAGE, timing(), floor=floor, brief=brief).rounds == rounds


def test_one_round_on_the_other_side_makes_a_brief_look_a_whole_one(monkeypatch):
    # After 4 warm-up runs and 6 to find the repeats: the third round's int8 run.
    World(monkeypatch, drift=lambda index: 5.0 if index == 16 else 1.0)
    seen = measure(FLOAT, INT8, IMAGE, timing(), floor=1.1, brief=True)
    assert (seen.rounds, seen.ratio) == (40, pytest.approx(3.0))


def test_a_model_alone_is_timed_by_its_median(monkeypatch):
    world = World(monkeypatch, drift=lambda index: 10 if index == 5 else 1)
    assert single(INT8, IMAGE, timing(rounds=9)) == pytest.approx(10)
    assert len(world.runs) == 2 + 9


def test_real_files_are_measured(tmp_path):
    for name in ("float.onnx", "int8.onnx"):
        (tmp_path / name).write_bytes(tiny_resnet().SerializeToString())
    image = np.zeros((1, 3, 16, 16), np.float32)
    seen = measure(
        tmp_path / "float.onnx", tmp_path / "int8.onnx", image, timing(threads=1, rounds=6)
    )
    assert 0 < seen.low <= seen.ratio <= seen.high
    assert seen.float_ms > 0
    assert seen.int8_ms > 0
    assert single(tmp_path / "int8.onnx", image, timing(threads=1, rounds=3)) > 0


# ---------------------------------------------------------------------------- interval


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.sampled_from([0.5, 0.95, 0.99]))
@settings(max_examples=200, deadline=None)
def test_the_interval_is_of_values_and_holds_the_median(values, confidence):
    low, high = median_interval(np.array(values), confidence)
    assert low <= np.median(values) <= high
    assert {low, high} <= set(values)
    shuffled = np.random.default_rng(0).permutation(values)
    assert median_interval(shuffled, confidence) == (low, high)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_values_give_their_extremes(n):
    assert median_interval(np.arange(float(n))) == (0, n - 1)


def test_known_order_statistics():
    """As tables of the sign test have them for 95 %."""
    for n, low, high in ((6, 1, 6), (10, 2, 9), (30, 10, 21), (100, 40, 61)):
        assert median_interval(np.arange(1.0, n + 1)) == (low, high)


@pytest.mark.parametrize(("n", "exact"), [(6, 0.969), (11, 0.988), (30, 0.957), (100, 0.965)])
def test_the_interval_covers_the_median_as_often_as_promised(n, exact):
    rng = np.random.default_rng(n)
    samples = rng.lognormal(1.0, 1.0, (2500, n))
    limits = [median_interval(sample) for sample in samples]
    covered = np.mean([low <= np.exp(1.0) <= high for low, high in limits])
    assert covered == pytest.approx(exact, abs=0.012)


def test_the_floor_asks_the_lower_limit():
    seen = Latency(3, 1, 3.0, 2.5, 3.5, 1, 30, Cpu("cpu", "isa", saturates=False, cores=1))
    assert meets_floor(seen, 2.5)
    assert not meets_floor(seen, 2.5001)
    assert meets_floor(seen, 0)
