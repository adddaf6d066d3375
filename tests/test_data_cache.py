"""The cache gives back the very bits, stays within its bound, and outlives a kill, not a run."""

import errno
import multiprocessing
import os
import stat
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.data import cache as cache_module
from quantize.data.cache import ArrayCache
from quantize.errors import BudgetError, DataError, Interrupted, OutputError
from quantize.files import TEMPORARY


def array(seed=0, shape=(3, 4, 5)):
    bits = np.random.default_rng(seed).integers(0, 2**32, shape, np.uint32)
    return bits.view(np.float32)  # any bit pattern, NaN and denormals with it


def same_bits(one, other):
    return (
        one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    )


def test_arrays_come_back_bit_for_bit(tmp_path):
    with ArrayCache(tmp_path / "cache", 10_000) as cache:
        for seed, shape in enumerate([(3, 4, 5), (1, 1, 1), (3, 8, 2)]):
            assert cache.put(f"a{seed}", array(seed, shape))
        for seed, shape in enumerate([(3, 4, 5), (1, 1, 1), (3, 8, 2)]):
            back = cache.get(f"a{seed}")
            assert same_bits(back, array(seed, shape))
            assert back.dtype == np.float32
        assert cache.get("unknown") is None


@pytest.mark.parametrize("shape", [(3, 4, 5), (7, 2), (9,), (0, 3, 3), ()])
def test_pixels_come_back_as_bytes(tmp_path, shape):
    pixels = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    with ArrayCache(tmp_path, 10_000) as cache:
        assert cache.put("p", pixels)
        assert same_bits(cache.get("p"), pixels)


def test_views_are_kept_as_their_values(tmp_path):
    with ArrayCache(tmp_path, 10_000) as cache:
        cache.put("view", array().transpose(2, 0, 1))
        assert same_bits(cache.get("view"), array().transpose(2, 0, 1))


def test_what_is_given_out_is_not_shared(tmp_path):
    with ArrayCache(tmp_path, 10_000) as cache:
        cache.put("a", array())
        cache.get("a")[:] = 0
        assert same_bits(cache.get("a"), array())


def test_the_first_array_of_a_name_stays(tmp_path):
    with ArrayCache(tmp_path, 10_000) as cache:
        cache.put("a", array(0))
        assert not cache.put("a", array(1))
        assert same_bits(cache.get("a"), array(0))


def file_size(seed=0):
    return array(seed).nbytes + cache_module._HEADER.size


def test_the_least_recently_used_go_first(tmp_path):
    with ArrayCache(tmp_path, 4 * file_size()) as cache:
        for index in range(4):
            assert cache.put(f"a{index}", array(index))
            os.utime(tmp_path / f"a{index}.cached", (index, index))
        assert same_bits(cache.get("a0"), array(0))  # the oldest is used again
        assert cache.put("a4", array(4))
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 4 * file_size()
        assert [cache.get(f"a{i}") is not None for i in range(5)] == [
            True,
            False,
            False,
            True,
            True,
        ]


def test_what_is_larger_than_the_bound_is_not_kept(tmp_path):
    with ArrayCache(tmp_path, file_size() - 1) as cache:
        assert not cache.put("a", array())
        assert list(tmp_path.iterdir()) == []


def test_other_dtypes_are_a_defect(tmp_path):
    with ArrayCache(tmp_path, 1000) as cache, pytest.raises(TypeError, match="float64"):
        cache.put("a", np.zeros((1, 1, 1)))


def test_nobody_else_can_read_it_and_nothing_is_left(tmp_path):
    folder = tmp_path / "run" / "cache"
    cache = ArrayCache(folder, 10_000)
    cache.put("a", array())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()] == [0o600]
    cache.close()
    assert not folder.exists()
    assert cache.get("a") is None
    assert not cache.put("b", array())
    cache.close()


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a.b", "x" * 201, "\n"])
def test_a_name_leaves_no_folder(tmp_path, name):
    with ArrayCache(tmp_path, 10_000) as cache:
        for call in (lambda: cache.get(name), lambda: cache.put(name, array())):
            with pytest.raises(ValueError, match="no name"):
                call()


@pytest.mark.parametrize(
    ("error", "stays"),
    [
        (Interrupted(143), True),
        (KeyboardInterrupt(), True),
        (BudgetError("spent"), True),
        (DataError("bad"), False),
        (ValueError(), False),
    ],
)
def test_an_unfinished_run_leaves_it_to_the_next(tmp_path, error, stays):
    folder = tmp_path / "cache"

    def run():
        with ArrayCache(folder, 10_000) as cache:
            cache.put("a", array())
            raise error

    with pytest.raises(type(error)):
        run()
    assert folder.exists() == stays
    if stays:
        with ArrayCache(folder, 10_000) as cache:
            assert same_bits(cache.get("a"), array())


def test_what_a_killed_process_left_is_bounded_and_swept(tmp_path):
    for name, age in ((f"{TEMPORARY}old", 7200), (f"{TEMPORARY}new", 60)):
        (tmp_path / name).write_bytes(b"half")
        now = (tmp_path / name).stat().st_mtime
        os.utime(tmp_path / name, (now - age, now - age))
    ArrayCache(tmp_path, 10_000).close(keep=True)
    assert [file.name for file in tmp_path.iterdir()] == [f"{TEMPORARY}new"]
    first = ArrayCache(tmp_path, 10 * file_size())
    for index in range(5):
        first.put(f"a{index}", array(index))
        os.utime(tmp_path / f"a{index}.cached", (index, index))
    first.close(keep=True)
    with ArrayCache(tmp_path, 3 * file_size()) as second:  # less room than there was
        second.put("b", array(9))
        sizes = [file.stat().st_size for file in tmp_path.iterdir()]
        assert sum(sizes) <= 3 * file_size() + 4
        assert same_bits(second.get("b"), array(9))


@given(data=st.data())
def test_a_file_that_is_not_what_was_written_is_none(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cache")
    ArrayCache(folder, 10_000).put("a", array())
    content = bytearray((folder / "a.cached").read_bytes())
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] ^= data.draw(st.integers(1, 255))
    else:
        length = data.draw(st.integers(0, len(content) + 9).filter(lambda n: n != len(content)))
        content = content[:length].ljust(length, b"x")
    (folder / "a.cached").write_bytes(content)
    os.utime(folder / "a.cached", (1, 1))  # before this process
    with ArrayCache(folder, 10_000) as cache:
        assert cache.get("a") is None
        assert cache.put("a", array())


def test_sizes_are_checked_before_memory_is_taken(tmp_path):
    huge = cache_module._HEADER.pack(b"quantize", 0, 0, 3, 1 << 40, 1 << 40, 1)
    (tmp_path / "a.cached").write_bytes(huge + b"xx")
    with ArrayCache(tmp_path, 10_000) as cache:
        assert cache.get("a") is None


def writer(folder, seeds):
    cache = ArrayCache(folder, 1 << 20)
    for seed in seeds:
        cache.put(f"a{seed}", array(seed))
        found = cache.get(f"a{seed}")
        assert found is None or same_bits(found, array(seed))
    cache.close(keep=True)


def test_two_processes_share_it(tmp_path):
    fork = multiprocessing.get_context("spawn")
    both = [
        fork.Process(target=writer, args=(tmp_path, range(start, start + 60))) for start in (0, 20)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    with ArrayCache(tmp_path, 1 << 20) as cache:
        assert all(same_bits(cache.get(f"a{seed}"), array(seed)) for seed in range(80))


def test_what_is_not_its_own_stays(tmp_path):
    for name in ("notes.txt", "keep"):
        (tmp_path / name).write_text("mine")
    with ArrayCache(tmp_path, file_size()) as cache:
        assert cache.put("a", array(0))
        cache.put("b", array(1))  # there is room for one
    assert sorted(file.name for file in tmp_path.iterdir()) == ["keep", "notes.txt"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="file"):
        ArrayCache(tmp_path / "file" / "cache", 100)


def test_a_full_disk_stops_the_growth_and_nothing_else(tmp_path, caplog, monkeypatch):
    with ArrayCache(tmp_path, 10_000) as cache:
        assert cache.put("a", array(0))

        def full(source, target):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "replace", full)
        assert not cache.put("b", array(1))
        monkeypatch.undo()
        assert not cache.put("c", array(2, (1, 1, 1)))
        assert same_bits(cache.get("a"), array(0))
        assert cache.get("b") is None
        assert [file.name for file in tmp_path.iterdir()] == ["a.cached"]
    assert caplog.text.count("No space left") == 1


def test_a_file_that_was_cut_is_noticed_and_written_again(tmp_path):
    with ArrayCache(tmp_path, 10_000) as cache:
        cache.put("a", array())
        os.truncate(tmp_path / "a.cached", 60)
        assert cache.get("a") is None
        assert cache.put("a", array())
        assert same_bits(cache.get("a"), array())


@pytest.fixture
def hasty_threads():
    """Threads that take turns after every few instructions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
def test_threads_do_not_mix_arrays_up(tmp_path):
    wrong = []
    with ArrayCache(tmp_path, 10_000_000) as cache:

        def work(start):
            for i in range(400):
                name = (start + i) % 80
                known = cache.get(str(name))
                if known is None:
                    cache.put(str(name), array(name))
                elif not same_bits(known, array(name)):
                    wrong.append(name)

        threads = [threading.Thread(target=work, args=(start,)) for start in (0, 20, 40, 60)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert all(same_bits(cache.get(str(i)), array(i)) for i in range(80))
