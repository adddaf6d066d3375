"""The run folder: durable, one process at a time, and never the end of somebody's files."""

import fcntl
import json
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize import files
from quantize.errors import OutputError, RunFolderError
from quantize.journal import JOURNAL, LOCK, RunFolder, trial_from_json, trial_to_json
from quantize.plan import Cpu, Fidelity, Latency, Plan, Scheme, Trial

PLANS = tuple(Plan("onnxruntime", "qdq", repairs=(name,)) for name in "abc")


def trial(run, plan=PLANS[0], content=b"int8", **values):
    """A finished trial, its file written."""
    path = run.candidates / f"{plan.key}.onnx"
    path.write_bytes(content)
    defaults = {
        "accuracy": 0.5,
        "fidelity": Fidelity(30.0, 0.9),
        "latency": None,
        "accepted": False,
        "note": "drop of 3 points",
        "seconds": 1.5,
    }
    return Trial(plan, path, **{**defaults, **values})


def failed(plan=PLANS[0]):
    return Trial(plan, None, None, None, None, accepted=False, note="failed: x", seconds=0.1)


def begun(path, key="key", fresh=False):
    """The state on a second visit."""
    with RunFolder(path, fresh=fresh) as run:
        return run.begin(key)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "out.onnx.run"


# ------------------------------------------------------------------------------ states


def test_a_run_is_new_then_continued_then_finished(folder):
    with RunFolder(folder) as run:
        assert run.begin("key") == "new"
        assert run.candidates.is_dir()
        run.remember(trial(run))
    assert begun(folder) == "continued"
    with RunFolder(folder) as run:
        run.begin("key")
        run.note("end", outcome="met")
    assert begun(folder) == "finished"
    assert begun(folder) == "finished"
    assert begun(folder, fresh=True) == "new"
    assert begun(folder) == "continued"


def test_finished_trials_are_recalled_by_their_plan(folder):
    with RunFolder(folder) as run:
        run.begin("key")
        made = [trial(run, plan, plan.key.encode()) for plan in PLANS[:2]]
        for one in made:
            run.remember(one)
        assert run.recall(PLANS[1]) == made[1]
    with RunFolder(folder) as run:
        run.begin("key")
        assert run.recall(PLANS[0]) == made[0]
        assert run.recall(PLANS[1]) == made[1]
        assert run.recall(PLANS[2]) is None
        assert run.trials() == tuple(made)


def test_the_last_trial_of_a_plan_counts(folder):
    with RunFolder(folder) as run:
        run.begin("key")
        run.remember(trial(run, content=b"old", note="first"))
        second = trial(run, content=b"new", note="second")
        run.remember(second)
        assert run.recall(PLANS[0]) == second


def test_the_trials_of_a_loop_are_counted_as_used_again(folder):
    """They all have one plan."""
    with RunFolder(folder) as run:
        run.begin("key")
        made = [trial(run), failed(), trial(run, accepted=True)]
        for one in made:
            run.remember(one)
    with RunFolder(folder) as run:
        run.begin("key")
        assert run.recalled == 0
        assert run.recall_last(2) == tuple(made[1:])
        assert run.recalled == 2


def test_a_failed_trial_is_kept_but_not_recalled(folder):
    with RunFolder(folder) as run:
        run.begin("key")
        run.remember(failed())
        assert run.recall(PLANS[0]) is None
        assert run.trials() == (failed(),)


@pytest.mark.parametrize("change", [lambda p: p.write_bytes(b"other"), Path.unlink])
def test_a_changed_or_lost_candidate_is_not_recalled(folder, change):
    with RunFolder(folder) as run:
        run.begin("key")
        one = trial(run)
        run.remember(one)
        change(one.path)
        assert run.recall(PLANS[0]) is None
        assert run.trials() == ()


def test_a_folder_can_be_moved(folder, tmp_path):
    with RunFolder(folder) as run:
        run.begin("key")
        run.remember(trial(run))
    moved = folder.rename(tmp_path / "moved")
    with RunFolder(moved) as run:
        assert run.begin("key") == "continued"
        assert run.recall(PLANS[0]).path.parent == moved / "candidates"


def test_fresh_forgets_everything(folder):
    with RunFolder(folder) as run:
        run.begin("key")
        run.remember(trial(run))
        run.write("best.onnx", b"best")
        (run.path / "statistics").mkdir()
        (run.path / "statistics" / "x").write_text("")
    with RunFolder(folder, fresh=True) as run:
        assert run.begin("key") == "new"
        assert run.recall(PLANS[0]) is None
        assert sorted(p.name for p in folder.iterdir()) == ["candidates", JOURNAL, LOCK]
        assert list(run.candidates.iterdir()) == []
    assert list(folder.parent.iterdir()) == [folder]


def test_another_job_puts_the_old_folder_aside(folder):
    for number in (1, 2):
        with RunFolder(folder) as run:
            run.begin(f"key {number}")
            run.remember(trial(run))
            run.write("best.onnx", str(number))
    assert begun(folder, "key 3") == "new"
    for number in (1, 2):
        aside = folder.with_name(f"{folder.name}.old{number}")
        assert (aside / "best.onnx").read_text() == str(number)
        with RunFolder(aside) as run:
            assert run.begin(f"key {number}") == "continued"
            assert run.recall(PLANS[0]).note == "drop of 3 points"
    assert not (folder / "best.onnx").exists()


def test_another_job_has_the_statistics_of_the_old_one_unless_it_is_fresh(folder):
    """Their names say what they are of, so that another goal needs no second calibration."""
    begun(folder, "one")
    (folder / "statistics").mkdir()
    (folder / "statistics" / "x.npz").touch()
    assert begun(folder, "two") == "new"
    assert (folder / "statistics" / "x.npz").exists()
    assert begun(folder, "three", fresh=True) == "new"
    assert not (folder / "statistics").exists()


def test_another_job_puts_the_old_folder_aside_even_when_fresh(folder):
    begun(folder, "one")
    assert begun(folder, "two", fresh=True) == "new"
    assert folder.with_name(f"{folder.name}.old1").is_dir()


def test_candidates_that_were_removed_have_a_place_again(folder):
    begun(folder)
    (folder / "candidates").rmdir()
    assert begun(folder) == "continued"
    assert (folder / "candidates").is_dir()


# --------------------------------------------------------------------- other's files


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("name", ["thesis.tex", ".git", "best.onnx"])
def test_a_folder_with_other_files_is_refused_and_left_alone(folder, fresh, name):
    folder.mkdir()
    (folder / name).write_text("years of work")
    refused = pytest.raises(RunFolderError, match=f"holds '{name}', which is")
    with RunFolder(folder, fresh=fresh) as run, refused:
        run.begin("key")
    assert (folder / name).read_text() == "years of work"
    assert [p.name for p in folder.iterdir()] == [name]


def test_what_an_interrupted_start_leaves_is_no_obstacle(folder):
    (folder / "candidates").mkdir(parents=True)
    (folder / "samples").mkdir()
    (folder / LOCK).touch()
    (folder / f"{files.TEMPORARY}abc").touch()
    (folder / JOURNAL).write_text('{"event": "beg')
    assert begun(folder) == "new"
    assert sorted(p.name for p in folder.iterdir()) == ["candidates", JOURNAL, LOCK, "samples"]


def test_a_link_in_the_folder_is_removed_not_followed(folder, tmp_path):
    begun(folder)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (folder / "link").symlink_to(tmp_path / "precious")
    assert begun(folder, fresh=True) == "new"
    assert not (folder / "link").is_symlink()
    assert (tmp_path / "precious" / "file").exists()


@pytest.mark.parametrize("name", ["answers", "samples", "statistics"])
def test_a_part_that_lies_elsewhere_is_refused_and_left_alone(folder, tmp_path, name):
    folder.mkdir()
    (tmp_path / "precious").mkdir(mode=0o755)
    (tmp_path / "precious" / "keep").touch()
    (folder / name).symlink_to(tmp_path / "precious")
    with pytest.raises(RunFolderError, match=f"{name} is a link to another place; remove"):
        RunFolder(folder)
    assert [path.name for path in (tmp_path / "precious").iterdir()] == ["keep"]
    assert [path.name for path in folder.iterdir()] == [name]


@pytest.mark.parametrize("existing", [False, True])
def test_a_job_that_is_refused_before_it_begins_leaves_no_trace(folder, existing):
    if existing:
        folder.mkdir()
    with pytest.raises(ZeroDivisionError), RunFolder(folder):
        raise ZeroDivisionError
    assert folder.exists() == existing
    assert not existing or list(folder.iterdir()) == []


def test_a_run_that_exists_survives_a_refused_job(folder):
    begun(folder)
    with RunFolder(folder):
        pass
    assert begun(folder) == "continued"


# -------------------------------------------------------------------------- processes

CHILD = """
import sys, time
sys.path.insert(0, sys.argv[1])
import test_journal as t
from pathlib import Path
try:
    with t.RunFolder(Path(sys.argv[2])) as run:
        print(run.begin("key"), flush=True)
        run.remember(t.trial(run))
        with (run.path / t.JOURNAL).open("a") as file:
            file.write('{"event": "trial", "plan": {"eng')
            file.flush()
            print("half written", flush=True)
            time.sleep(60)
except t.RunFolderError as error:
    print(error)
"""


def child(folder, **options):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_second_process_is_refused(folder):
    with RunFolder(folder) as run:
        run.begin("key")
        with child(folder) as other:
            said = other.stdout.read()
    assert said.startswith(f"run folder {folder} is in use by another run; wait for it")
    with RunFolder(folder), pytest.raises(RunFolderError, match="in use"):
        RunFolder(folder)
    assert begun(folder) == "continued"


def test_a_killed_process_leaves_its_finished_steps(folder):
    with child(folder) as other:
        assert other.stdout.readline() == "new\n"
        assert other.stdout.readline() == "half written\n"
        other.send_signal(signal.SIGKILL)
    with RunFolder(folder) as run:
        assert run.begin("key") == "continued"
        assert run.recall(PLANS[0]) == trial(run)
        run.remember(trial(run, PLANS[1]))
    with RunFolder(folder) as run:
        run.begin("key")
        assert len(run.trials()) == 2


def test_a_lock_that_was_taken_away_is_taken_anew(folder, monkeypatch):
    flock, calls = fcntl.flock, []

    def first_removes(file, mode):
        if not calls:
            (folder / LOCK).unlink()
            folder.rmdir()
        calls.append(mode)
        flock(file, mode)

    monkeypatch.setattr(fcntl, "flock", first_removes)
    with RunFolder(folder) as run:
        assert len(calls) == 2
        run.begin("key")
        monkeypatch.undo()
        with pytest.raises(RunFolderError, match="in use"):
            RunFolder(folder)


# ---------------------------------------------------------------------------- damages


def test_a_journal_cut_anywhere_loses_only_what_was_cut(folder, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    with RunFolder(folder) as run:
        run.begin("key")
        made = [trial(run, plan, plan.key.encode()) for plan in PLANS[:2]]
        for one in made:
            run.remember(one)
        run.note("end", outcome="met")
    whole = (folder / JOURNAL).read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in (*range(ends[0], ends[1], 9), *range(ends[1], len(whole) + 1)):
        (folder / JOURNAL).write_bytes(whole[:cut])
        kept = sum(end <= cut for end in ends)
        with RunFolder(folder) as run:
            state = run.begin("key")
            assert state == ("finished" if kept == 4 else "continued")
            assert run.trials() == tuple(made[: kept - 1])
            assert (folder / JOURNAL).read_bytes() == whole[: ends[kept - 1]]


def test_a_first_line_cut_anywhere_is_a_new_run(folder):
    begun(folder)
    whole = (folder / JOURNAL).read_bytes()
    for cut in range(len(whole)):
        (folder / JOURNAL).write_bytes(whole[:cut])
        assert begun(folder) == "new"


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "trial"}',
        '{"event": "trial", "path": "x", "plan": {"engine": "inc"}}',
        '{"event": "trial", "path": 7, "plan": 7, "fidelity": 7}',
        '{"event": "other"}',
    ],
)
def test_lines_of_another_version_are_no_trials(folder, line):
    begun(folder)
    with (folder / JOURNAL).open("a") as file:
        file.write(line + "\n")
    with RunFolder(folder) as run:
        assert run.begin("key") == "continued"
        assert run.trials() == ()
        assert run.recall(PLANS[0]) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("accuracy", "0.5"),
        ("fidelity", {"sqnr_db": "30", "agreement": 0.9}),
        ("probe", {"sqnr_db": None, "agreement": 0.9}),
        ("latency", {"float_ms": 1}),
        ("latency", 7),
        ("accepted", "yes"),
        ("note", 7),
        ("seconds", None),
        ("gain_db", [1]),
        ("outcome", "great"),
        ("outcome", ["met"]),
        ("images", "all"),
        ("drop_points", {}),
        ("plan", 7),
        ("plan", {"engine": "mine", "format": "qdq"}),
        ("plan", {"engine": "inc", "format": "qdq", "walked": -1}),
    ],
)
def test_a_trial_with_a_value_of_another_kind_is_none(folder, key, value):
    with RunFolder(folder) as run:
        run.begin("key")
        run.remember(trial(run))
    lines = [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]
    lines[1][key] = value
    (folder / JOURNAL).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with RunFolder(folder) as run:
        assert run.begin("key") == "continued"
        assert run.recall(PLANS[0]) is None
        assert run.trials() == ()


@pytest.mark.parametrize("line", ["[]", "7", "{}", "nonsense", "[" * 100_000, "9" * 10_000, "\0\0"])
def test_lines_that_are_no_entries_end_the_journal(folder, line):
    begun(folder)
    with (folder / JOURNAL).open("a") as file:
        file.write(line + '\n{"event": "end"}\n')
    assert begun(folder) == "continued"


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.write_bytes(b"\xff")])
def test_a_journal_that_cannot_be_read_is_an_error(folder, make):
    folder.mkdir()
    make(folder / JOURNAL)
    refused = pytest.raises(RunFolderError, match=r"journal.jsonl cannot be")
    with RunFolder(folder, fresh=True) as run, refused:
        run.begin("key")


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / ("n" * 300)):
        with pytest.raises(OutputError, match="cannot write"):
            RunFolder(path)


def test_a_full_disk_is_an_error_and_no_entry(folder, monkeypatch):
    with RunFolder(folder) as run:
        run.begin("key")

        def full(_):
            raise OSError(28, os.strerror(28))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"journal.jsonl: No space left"):
            run.remember(trial(run))
        assert run.trials() == ()


# -------------------------------------------------------------------------- round trip

text = st.text(max_size=12)
number = st.floats(allow_nan=False, width=64)
cpus = st.builds(Cpu, text, text, st.booleans(), st.integers(1, 512))
plans = st.builds(
    Plan,
    st.sampled_from(["inc", "onnxruntime"]),
    st.sampled_from(["qdq", "qoperator"]),
    st.builds(
        Scheme,
        st.sampled_from(["per_channel", "per_tensor"]),
        st.sampled_from(["minmax", "kl", "percentile", "mse"]),
        st.booleans(),
        st.booleans(),
    ),
    st.lists(text, max_size=3).map(tuple),
    st.lists(text, max_size=3).map(tuple),
    st.none() | text,
    st.none() | st.integers(0, 128),
)
trials = st.builds(
    Trial,
    plans.map(lambda plan: replace(plan, encodings_sha256=None)),  # known when one of them ships
    st.none() | st.sampled_from(["candidates/a.onnx", "candidates/b/c.onnx"]).map(Path),
    st.none() | number,
    st.none() | st.builds(Fidelity, number, number),
    st.none()
    | st.builds(Latency, number, number, number, number, number, st.just(2), st.just(30), cpus),
    st.booleans(),
    text,
    number,
)


@given(trials)
@settings(max_examples=60, deadline=None)
def test_a_trial_survives_its_json(one):
    root = Path("/somewhere/run")
    one = replace(one, path=one.path and root / one.path)
    line = json.dumps(trial_to_json(one, root))
    assert "somewhere" not in line
    assert trial_from_json(json.loads(line), root) == one


@given(plans, plans)
@settings(max_examples=60, deadline=None)
def test_plans_have_equal_keys_only_if_equal(one, other):
    assert (one.key == other.key) == (one == other)
    assert one.key == pickle.loads(pickle.dumps(one)).key
    assert len(one.key) == 16


# ------------------------------------------------------------------------------- files


def test_files_are_written_as_given(folder):
    with RunFolder(folder) as run:
        run.begin("key")
        assert run.write("a.txt", "äöü\n").read_bytes() == "äöü\n".encode()
        assert run.write("b.bin", b"\0\1").read_bytes() == b"\0\1"
        path = run.write_json("c.json", {"z": 1, "a": [None, "ü"]})
        assert path.read_text() == '{\n  "z": 1,\n  "a": [\n    null,\n    "ü"\n  ]\n}\n'


def test_arrays_are_written_to_the_same_bytes_and_read_back(folder):
    arrays = {
        "digest": np.array(["ab", "cd"]),
        "label": np.array([1, -1]),
        "empty": np.zeros((0, 5), np.float32),
        "file": np.arange(1000.0),
    }
    with RunFolder(folder) as run:
        run.begin("key")
        first = run.write_arrays("one.npz", **arrays)
        second = run.write_arrays("two.npz", **arrays)
        assert first.read_bytes() == second.read_bytes()
        assert len(first.read_bytes()) < 8000
        with np.load(first, allow_pickle=False) as loaded:
            assert loaded.files == list(arrays)
            for name, value in arrays.items():
                np.testing.assert_array_equal(loaded[name], value)
                assert loaded[name].dtype == value.dtype
        with pytest.raises(ValueError, match="allow_pickle"):
            run.write_arrays("bad.npz", objects=np.array([object()]))
        assert not (folder / "bad.npz").exists()
