"""The script that compares files here and on another CPU: what its figures are taken from."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def script():
    path = FOLDER / "portable.py"
    if not path.exists():
        pytest.skip("benchmarks/ is not here")
    spec = importlib.util.spec_from_file_location("benchmark_portable", path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def scores():
    random = np.random.default_rng(0)
    exact = random.normal(size=(100, 4)).astype(np.float32)
    return exact, exact + random.normal(0, 0.01, exact.shape).astype(np.float32)


FEW = np.arange(10) * 10


def test_the_same_scores_there_are_worth_what_they_are_here_on_all_images(script, scores):
    exact, here = scores
    seen = script.row(exact, here, exact.argmax(1), FEW, here[FEW])
    assert (seen["native_images"], seen["images"]) == (100, 10)
    assert math.isinf(seen["between_db"])
    assert seen["sqnr_there_db"] == seen["sqnr_db"] == script.sqnr_db(exact, here)
    assert seen["sqnr_few_db"] != seen["sqnr_db"]


def test_other_scores_there_are_judged_by_the_few_images(script, scores):
    exact, here = scores
    there = -here[FEW]
    seen = script.row(exact, here, exact.argmax(1), FEW, there)
    assert seen["sqnr_there_db"] == script.sqnr_db(exact[FEW], there) < 0
    assert seen["agreement"] == seen["top1_there_few"] == 0
    assert seen["top1_here_few"] > 0.9


def test_the_cost_is_that_against_the_best_other_file(script):
    random = np.random.default_rng(0)
    noise = random.uniform(1, 2, 200)
    rows = {
        "repaired": {"sqnr_db": 30.0},
        "reduce_range": {"sqnr_db": 31.0},
        "portable": {"sqnr_db": 28.0, "agreement": 1.0, "images": 10, "native_images": 200},
    }
    times = {"repaired": np.full(50, 1.0), "portable": np.full(50, 0.5)}
    noises = {"repaired": noise, "reduce_range": noise, "portable": 2 * noise}
    seen = script.cost(rows, noises, times)
    assert seen["best"] == "reduce_range"
    assert seen["lost_db"] == pytest.approx(10 * math.log10(2))
    assert seen["lost_db_interval"] == pytest.approx([10 * math.log10(2)] * 2)
    assert (seen["speed"], seen["speed_interval"]) == (2, [2, 2])
    told = script.in_short("Net", {"cost": seen, "rows": rows}, "Haswell")
    assert "loses 3.01 dB against reduce_range (95 % interval 3.01 to 3.01, 200 images)" in told
    assert "2.000 times as fast as repaired (2.000 to 2.000)" in told
    json.dumps(seen)


def test_the_table_tells_both_numbers_of_images(script, scores):
    exact, here = scores
    one = script.row(exact, here, exact.argmax(1), FEW, here[FEW]) | {"ms": 1.0}
    two = script.row(exact, here, exact.argmax(1), FEW, -here[FEW]) | {"ms": 2.0}
    rows = {"float": {"ms": 2.0}, "portable": one, "plain": two}
    lines = script.table({"Net": {"rows": rows}}).splitlines()
    assert lines[2].startswith("| Net | portable | 100, 10 | ")
    assert "identical" in lines[2]
    assert "here on these)" in lines[3]
