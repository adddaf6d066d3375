"""Statistics on disk: never stale, never half, never trusted."""

import json
import multiprocessing
import os
import stat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize import npz, statistics_store
from quantize.files import npz_bytes
from quantize.histogram import BINS
from quantize.plan import Range, Statistics
from quantize.statistics_store import (
    KEPT,
    from_arrays,
    load_or_calibrate,
    statistics_key,
    to_arrays,
)

PARTS = {"model": "ab", "images": ["1", "2"], "preprocessing": "c"}


def some(seed=0):
    rng = np.random.default_rng(seed)
    return Statistics(
        {"a": Range(-1 / 3, 2e30), "b é\0\ud800": Range(0.0, 0.1)},
        17,
        {"a": rng.integers(0, 1 << 40, BINS)},
        {"conv": rng.standard_normal(3), "fc": rng.standard_normal(5)},
    )


def assert_same(one, other):
    assert dict(one.ranges) == dict(other.ranges)
    assert one.images == other.images
    for mine, others in ((one.histograms, other.histograms), (one.means, other.means)):
        assert list(mine) == list(others)
        for name, values in mine.items():
            assert values.dtype == others[name].dtype
            np.testing.assert_array_equal(values, others[name])


def failing():
    raise AssertionError("calibrated again")


# ----------------------------------------------------------------------------- arrays


@given(
    st.dictionaries(st.text(max_size=5), st.floats(-1e30, 1e30), max_size=4),
    st.dictionaries(st.text(max_size=5), st.integers(1, 4), max_size=4),
    st.integers(0, 10**9),
)
@settings(deadline=None, max_examples=50)
def test_statistics_come_back_bit_for_bit(lows, layers, images):
    made = Statistics(
        {name: Range(low, low + 1) for name, low in lows.items()},
        images,
        {name: np.arange(BINS) for name in list(lows)[:2]},
        {name: np.arange(length) / 3 for name, length in layers.items()},
    )
    assert_same(from_arrays(npz.unpack(npz_bytes(to_arrays(made)))), made)


def names(**changes):
    known = json.loads(to_arrays(some())["names"].tobytes())
    return {"names": np.frombuffer(json.dumps({**known, **changes}).encode(), np.uint8)}


@pytest.mark.parametrize(
    "changes",
    [
        {"names": np.frombuffer(b"no JSON", np.uint8)},
        {"names": np.frombuffer(b"[]", np.uint8)},
        {"names": np.frombuffer(b"[" * 100_000, np.uint8)},
        {"names": np.zeros(3)},
        names(ranges=["a"]),
        names(ranges=[["a"], "b"]),
        names(histograms=["c"]),
        names(histograms=[]),
        names(means=[["conv", 4], ["fc", 5]]),
        names(means=[["conv", 9], ["fc", -1]]),
        names(means=[["conv", 3.5], ["fc", 5]]),
        names(means=["conv"]),
        names(images=float("inf")),
        names(images=None),
        {"ranges": np.array([[0.0, 1.0], [1.0, 0.0]])},
        {"ranges": np.array([[0.0, 1.0], [np.nan, 0.0]])},
        {"ranges": np.zeros((2, 2), np.float32)},
        {"histograms": np.zeros((1, 5), np.int64)},
        {"histograms": np.full((1, BINS), -1)},
        {"histograms": np.zeros((1, BINS))},
        {"means": np.zeros(7)},
        {"means": np.full(8, np.inf)},
    ],
)
def test_arrays_that_are_no_statistics_are_refused(changes):
    with pytest.raises(ValueError, match="not statistics"):
        from_arrays({**to_arrays(some()), **changes})
    missing = to_arrays(some())
    del missing[next(iter(changes))]
    with pytest.raises(ValueError, match="not statistics"):
        from_arrays(missing)


# ------------------------------------------------------------------------------- disk


def test_the_second_time_nothing_is_calibrated(tmp_path):
    folder = tmp_path / "run" / "statistics"
    made = load_or_calibrate(folder, PARTS, some)
    assert_same(made, some())
    assert_same(load_or_calibrate(folder, PARTS, failing), some())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [path.suffix for path in folder.iterdir()] == [".npz"]


def test_a_folder_open_to_others_is_closed(tmp_path):
    folder = tmp_path / "statistics"
    folder.mkdir(mode=0o755)
    load_or_calibrate(folder, PARTS, some)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "ac"},
        {"images": ["2", "1"]},
        {"images": ["1"]},
        {"images": ["12"]},
        {"preprocessing": "d"},
    ],
)
def test_whatever_changes_is_calibrated_anew(tmp_path, changed):
    load_or_calibrate(tmp_path, PARTS, some)
    found = load_or_calibrate(tmp_path, {**PARTS, **changed}, lambda: some(1))
    assert_same(found, some(1))
    assert_same(load_or_calibrate(tmp_path, PARTS, failing), some())


def test_versions_code_and_processor_are_part_of_the_key(monkeypatch, tmp_path):
    keys = {statistics_key(PARTS)}
    assert statistics_key(dict(reversed(PARTS.items()))) in keys
    with monkeypatch.context() as patch:
        patch.setattr(statistics_store.metadata, "version", lambda name: "0")
        keys.add(statistics_key(PARTS))
    with monkeypatch.context() as patch:
        patch.setattr(statistics_store, "_CODE", statistics_store._CODE[1:])
        keys.add(statistics_key(PARTS))
    with monkeypatch.context() as patch:
        patch.setattr(statistics_store, "cpu", lambda: type("Cpu", (), {"isa": "other"}))
        keys.add(statistics_key(PARTS))
    with monkeypatch.context() as patch:
        patch.setattr(statistics_store, "_FORMAT", 0)
        keys.add(statistics_key(PARTS))
    assert len(keys) == 5


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "other", "folder"])
def test_a_damaged_file_is_calibrated_anew_and_replaced(tmp_path, damage, caplog):
    load_or_calibrate(tmp_path, PARTS, some)
    [path] = tmp_path.iterdir()
    content = path.read_bytes()
    half = len(content) // 2
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(
            {
                "cut": content[:half],
                "empty": b"",
                "flipped": content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :],
                "other": npz_bytes({"a": np.zeros(3)}),
            }[damage]
        )
    assert_same(load_or_calibrate(tmp_path, PARTS, lambda: some(1)), some(1))
    assert "is not used" in caplog.text
    if damage != "folder":
        assert_same(load_or_calibrate(tmp_path, PARTS, failing), some(1))


def test_a_huge_file_is_not_read(tmp_path, caplog):
    load_or_calibrate(tmp_path, PARTS, some)
    [path] = tmp_path.iterdir()
    os.truncate(path, npz.MOST_BYTES + 1)
    assert_same(load_or_calibrate(tmp_path, PARTS, lambda: some(1)), some(1))
    assert "too large" in caplog.text


def test_only_the_newest_files_stay(tmp_path):
    for index in range(KEPT + 3):
        load_or_calibrate(tmp_path, {**PARTS, "model": str(index)}, some)
        for path in tmp_path.iterdir():
            known = path.stat().st_mtime
            os.utime(path, (known - 10, known - 10))
    assert len(list(tmp_path.iterdir())) == KEPT
    assert_same(load_or_calibrate(tmp_path, {**PARTS, "model": str(index)}, failing), some())


def test_what_cannot_be_kept_is_returned_all_the_same(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    made = load_or_calibrate(tmp_path / "file" / "statistics", PARTS, some)
    assert_same(made, some())
    assert "is not kept" in caplog.text


def test_an_error_of_the_calibration_leaves_nothing(tmp_path):
    with pytest.raises(AssertionError, match="calibrated again"):
        load_or_calibrate(tmp_path, PARTS, failing)
    assert list(tmp_path.iterdir()) == []


def _work(folder, barrier, results):
    def compute():
        barrier.wait(20)
        return some()

    made = load_or_calibrate(folder, PARTS, compute)
    results.put(npz_bytes(to_arrays(made)))


def test_two_processes_at_once_both_have_the_whole(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_work, args=(tmp_path, barrier, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=30) for _ in workers]
    for worker in workers:
        worker.join(30)
    assert found[0] == found[1]
    assert len(list(tmp_path.iterdir())) == 1
    assert_same(load_or_calibrate(tmp_path, PARTS, failing), some())
