"""The cache gives back the very bits, stays within its bound, and leaves nothing behind."""

import errno
import os
import stat
import sys
import threading

import numpy as np
import pytest

from quantize.data.cache import ArrayCache
from quantize.errors import OutputError


def array(seed=0, shape=(3, 4, 5)):
    bits = np.random.default_rng(seed).integers(0, 2**32, shape, np.uint32)
    return bits.view(np.float32)  # any bit pattern, NaN and denormals with it


def same_bits(one, other):
    return one.shape == other.shape and one.tobytes() == other.tobytes()


def test_arrays_come_back_bit_for_bit(tmp_path):
    with ArrayCache(tmp_path / "cache", 10_000) as cache:
        for seed, shape in enumerate([(3, 4, 5), (1, 1, 1), (3, 8, 2)]):
            assert cache.put(f"a{seed}", array(seed, shape))
        for seed, shape in enumerate([(3, 4, 5), (1, 1, 1), (3, 8, 2)]):
            back = cache.get(f"a{seed}")
            assert same_bits(back, array(seed, shape))
            assert back.dtype == np.float32
        assert cache.get("unknown") is None


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


def test_the_bound_holds(tmp_path):
    size = array().nbytes
    with ArrayCache(tmp_path, 2 * size + size // 2) as cache:
        assert [cache.put(f"a{i}", array(i)) for i in range(4)] == [True, True, False, False]
        assert cache.put("small", array(9, (1, 1, 1)))
        assert cache.get("a2") is None
        assert same_bits(cache.get("a1"), array(1))


def test_other_dtypes_are_a_defect(tmp_path):
    with ArrayCache(tmp_path, 1000) as cache, pytest.raises(TypeError, match="float64"):
        cache.put("a", np.zeros((1, 1, 1)))


def test_nobody_else_can_read_it_and_nothing_is_left(tmp_path):
    folder = tmp_path / "run" / "cache"
    cache = ArrayCache(folder, 10_000)
    cache.put("a", array())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    status = os.fstat(cache._file.fileno())
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_nlink == 0  # without a name: gone with the process
    assert not os.get_inheritable(cache._file.fileno())
    cache.close()
    assert not folder.exists()
    assert cache.get("a") is None
    assert not cache.put("b", array())
    cache.close()


def test_a_folder_that_was_there_stays(tmp_path):
    ArrayCache(tmp_path, 100).close()
    assert tmp_path.is_dir()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="file"):
        ArrayCache(tmp_path / "file" / "cache", 100)


class FullDisk:
    """A file on a disk that fills up after so many bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self.file.write(data[: min(self.room, 100)])
        self.room -= written
        return written


def test_a_full_disk_stops_the_growth_and_nothing_else(tmp_path, caplog):
    with ArrayCache(tmp_path, 10_000) as cache:
        cache._file = FullDisk(cache._file, array().nbytes + 110)
        assert cache.put("a", array(0))  # in several short writes
        assert not cache.put("b", array(1))
        assert not cache.put("c", array(2, (1, 1, 1)))
        assert same_bits(cache.get("a"), array(0))
        assert cache.get("b") is None
        assert os.fstat(cache._file.fileno()).st_size == array().nbytes
    assert caplog.text.count("No space left") == 1


def test_a_file_that_was_cut_is_noticed(tmp_path):
    with ArrayCache(tmp_path, 10_000) as cache:
        cache.put("a", array())
        cache._file.truncate(10)
        assert cache.get("a") is None


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
