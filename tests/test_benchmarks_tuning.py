"""Ours against INC's loop: what is counted and claimed, from what the two commands say."""

import json
import sys
import time
from pathlib import Path

import pytest

from benchmarks import process_tree
from benchmarks.cases import CASES, Ready
from benchmarks.process_tree import Ended, peak_of, tree
from benchmarks.tuning import claim, measure

REPORT = {
    "measured": {
        "passes_over_search_set": 3.25,
        "latency": {"ratio": 2.0, "low": 1.9, "high": 2.1},
    },
    "search": {"trials": [{"plan": {"engine": "onnxruntime"}}] * 3 + [{"plan": {"engine": "inc"}}]},
    "fidelity": {"agreement": 0.99, "sqnr_db": 30.0},
    "accuracy": {"drop_points": 0.1, "drop_interval_points": [-0.2, 0.4]},
}
BASIC = {
    "content": True,
    "cut_off": False,
    "first_passes": False,
    "fast_enough": False,
    "reason": "",
    "trials": 7,
    "loop_seconds": 35.0,
    "aside_seconds": 2.0,
    "agreement": 0.9,
    "sqnr_db": 15.0,
    "speed": [1.0, 0.9, 1.1],
    "drop": 0.5,
    "interval": [0.0, 1.0],
}


@pytest.fixture
def case(tmp_path):
    return Ready(CASES[0], tmp_path, *[tmp_path / "x"] * 6, "data")


def runner(folder, *, ours=0, basic=BASIC, seconds=(8.0, 6.0, 7.0), whole=42.0):
    """Plays both commands; the times of ours come one after the other, INC's process takes `whole`.

    Two of its seconds are no part of its work.
    """
    times = iter(seconds)
    told = []

    def run(command, _, limit):
        told.append(limit)
        if "benchmarks.basic" in command:
            return Ended(0, f"noise\n{json.dumps(basic)}\n", "", whole, 2000)
        run_folder = folder / "tuned.onnx.run"
        assert not run_folder.exists(), "nothing of an earlier turn may help"
        run_folder.mkdir()
        (run_folder / "report.json").write_text(json.dumps(REPORT))
        return Ended(ours, "", "error: why", next(times), 1000)

    run.told = told
    return run


def test_the_turn_of_median_time_is_told_with_the_times_of_all(case):
    play = runner(case.folder)  # shares around 0.2
    ours, theirs = measure(case, seconds=1e9, patience=6, with_inc=True, runner=play)
    assert (ours["seconds"], ours["every"]) == (7.0, [8.0, 6.0, 7.0])
    assert (ours["evaluations"], ours["candidates"], ours["calibrations"]) == (5.25, 4, 2)
    assert (ours["ended"], ours["met"], ours["drop"]) == ("exit 0", True, 0.1)
    assert (theirs["seconds"], theirs["evaluations"], theirs["calibrations"]) == (40.0, 8, 7)
    assert (theirs["ended"], theirs["met"]) == ("content, too slow", False)
    assert (ours["share"], ours["asked"], ours["standing"]) == (7 / 40, 0.2, "ahead")
    assert (theirs["loop_seconds"], ours["share_of_loop"]) == (35.0, 0.2)
    assert play.told[1] == 6 * 8 + 300


def test_without_time_there_is_one_turn_and_without_inc_one_row(case):
    rows = measure(case, seconds=0, patience=6, with_inc=False, runner=runner(case.folder))
    assert [row["every"] for row in rows] == [[8.0]]
    assert "share" not in rows[0]


@pytest.mark.parametrize(
    ("share", "first_passes", "standing"),
    [(0.2, False, "ahead"), (0.21, False, "behind"), (1.25, True, "ahead"), (1.3, True, "behind")],
)
def test_what_is_asked_depends_on_the_first_candidate(share, first_passes, standing):
    theirs = BASIC | {"first_passes": first_passes, "seconds": 1.0, "loop_seconds": 0.5}
    assert claim({"seconds": share}, theirs)["standing"] == standing


def test_a_loop_that_was_cut_off_gives_a_bound(case):
    told = BASIC | {"cut_off": True, "content": False}
    play = runner(case.folder, basic=told)
    ours, theirs = measure(case, seconds=0, patience=6, with_inc=True, runner=play)
    assert (ours["bound"], theirs["ended"]) == (True, "cut off")


@pytest.mark.parametrize(
    ("changes", "seconds", "turns"),
    [
        ({}, 40.0, 3),  # 0.2, as asked
        ({}, 81.0, 1),  # less than half of what is asked
        ({}, 19.9, 1),  # more than twice as much
        ({"first_passes": True}, 19.9, 1),  # 0.4, where 1.25 is asked
        ({"first_passes": True}, 8.0, 3),
        ({"cut_off": True, "content": False}, 40.0, 1),  # it would be again
    ],
)
def test_a_share_that_leaves_no_doubt_needs_no_second_turn(case, changes, seconds, turns):
    basic = BASIC | changes
    play = runner(case.folder, basic=basic, seconds=(8.0, 8.0, 8.0), whole=seconds + 2)
    ours, theirs = measure(case, seconds=1e9, patience=6, with_inc=True, runner=play)
    assert (len(ours["every"]), len(theirs["every"])) == (turns, turns)


@pytest.mark.parametrize("failure", [{"ours": 2}, {"basic": {"failed": "INC died"}}])
def test_what_failed_gets_no_second_turn(case, failure):
    play = runner(case.folder, **failure)
    measure(case, seconds=1e9, patience=6, with_inc=True, runner=play)
    assert len(play.told) == 2


def test_failures_are_rows(case):
    play = runner(case.folder, ours=2, basic={"failed": "INC died"})
    ours, theirs = measure(case, seconds=0, patience=6, with_inc=True, runner=play)
    assert ours["failed"] == "failed: error: why"
    assert theirs["failed"] == "failed: INC died"
    assert "share" not in ours


# ----------------------------------------------------------------------- process trees

CHILD = "import subprocess, sys; x = bytearray(60 << 20); print('out', flush=True);"


def test_memory_is_that_of_the_whole_tree_and_its_end_is_everybody_s(tmp_path):
    sleeping = "import time; x = bytearray(80 << 20); time.sleep(0.5)"
    code = f"{CHILD} subprocess.run([sys.executable, '-c', {sleeping!r}]); sys.exit(3)"
    ended = process_tree.run([sys.executable, "-c", code], tmp_path, 30)
    assert (ended.code, ended.out.strip()) == (3, "out")
    assert 140 << 20 < ended.peak_bytes < 250 << 20
    assert 0.5 < ended.seconds < 20


def test_a_program_that_does_not_end_is_ended_with_what_it_started(tmp_path):
    sleeping = "import time; time.sleep(60)"
    code = f"{CHILD} p = subprocess.Popen([sys.executable, '-c', {sleeping!r}]); print(p.pid,"
    code += " flush=True); p.wait()"
    start = time.monotonic()
    ended = process_tree.run([sys.executable, "-c", code], tmp_path, 1.5)
    assert time.monotonic() - start < 20
    assert ended.code is None
    status = Path(f"/proc/{ended.out.split()[-1]}/status")
    while not gone(status):  # on a busy machine it takes a moment to die
        assert time.monotonic() - start < 20
        time.sleep(0.05)


def gone(status):
    """Whether the process of this file has ended."""
    try:
        return "Z (zombie)" in status.read_text()
    except OSError:
        return True


def test_a_tree_is_read_from_the_children_files(tmp_path):
    for pid, children, peak in ((1, "2 3", 10), (2, "", 20), (3, "4", 30), (4, "", 40)):
        task = tmp_path / str(pid) / "task" / str(pid)
        task.mkdir(parents=True)
        (task / "children").write_text(f"{children} ")
        (tmp_path / str(pid) / "status").write_text(f"Name:\tx\nVmHWM:\t{peak} kB\nVmRSS:\t5 kB\n")
    assert sorted(tree(1, tmp_path)) == [1, 2, 3, 4]
    assert peak_of(1, tmp_path) == 100 * 1024
    assert peak_of(9, tmp_path) == 0
