"""Float answers are used again only where they are what the model gives now."""

import hashlib
import multiprocessing
import os
import stat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize import remembered
from quantize.evaluation import compare
from quantize.measure import verify
from quantize.plan import Batch
from quantize.remembered import Remembered, memory_folder

K = 5


def batches(count=12, size=4, start=0):
    for first in range(start, start + count, size):
        numbers = range(first, first + size)
        images = np.stack([np.full((1, 2, 2), n, np.float32) for n in numbers])
        digests = tuple(hashlib.sha256(str(n).encode()).hexdigest() for n in numbers)
        yield Batch(images, np.zeros(size, np.int64), digests)


class Model:
    """Counts the images that it is asked for."""

    def __init__(self, factor=1.0):
        self.factor, self.asked = factor, 0

    def __call__(self, images):
        self.asked += len(images)
        return (
            np.float32(self.factor)
            * images.reshape(len(images), -1)[:, :1]
            * np.arange(K, dtype=np.float32)
        )


def answers(folder, model=None, what="m", **options):
    model = model or Model()
    known = Remembered(model, 1, folder, {"model": what}, K)
    return np.concatenate([known.of(batch) for batch in batches(**options)]), known, model


def test_a_second_run_computes_the_first_batch_only(tmp_path):
    first, known, model = answers(tmp_path)
    assert (known.reused, model.asked) == (0, 12)
    second, known, model = answers(tmp_path)
    assert second.tobytes() == first.tobytes()
    assert (known.reused, model.asked) == (8, 4)


def test_other_batches_and_more_images_use_what_is_there(tmp_path):
    answers(tmp_path)
    got, known, model = answers(tmp_path, count=20, size=2)
    np.testing.assert_array_equal(got, np.outer(np.arange(20), np.arange(K)))
    assert (known.reused, model.asked) == (10, 10)


def test_another_model_knows_nothing(tmp_path):
    answers(tmp_path)
    assert answers(tmp_path, what="other")[1].reused == 0


def test_answers_that_changed_are_all_computed_and_kept_anew(tmp_path, caplog):
    answers(tmp_path)
    got, known, model = answers(tmp_path, Model(1.0000001))
    assert (known.reused, model.asked) == (0, 12)
    assert "not those of today" in caplog.text
    np.testing.assert_array_equal(
        got[:, 1], np.float32(1.0000001) * np.arange(12, dtype=np.float32)
    )


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_a_damaged_file_never_gives_a_wrong_answer(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("answers")
    right, *_ = answers(folder)
    (file,) = folder.iterdir()
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    file.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    for _ in range(2):
        assert answers(folder)[0].tobytes() == right.tobytes()


def test_a_row_that_was_cut_off_is_written_over(tmp_path):
    answers(tmp_path)
    (file,) = tmp_path.iterdir()
    os.truncate(file, file.stat().st_size - 3)
    answers(tmp_path)
    assert answers(tmp_path)[1].reused == 8


def test_files_take_a_bounded_room_and_the_oldest_goes_first(tmp_path, monkeypatch):
    answers(tmp_path, what="a")
    (old,) = tmp_path.iterdir()
    os.utime(old, (1, 1))
    answers(tmp_path, what="b")
    monkeypatch.setattr(remembered, "MOST_BYTES", int(2.5 * old.stat().st_size))
    answers(tmp_path, what="c")
    assert not old.exists()
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(remembered, "MOST_BYTES", 10)
    assert answers(tmp_path, what="d")[1].reused == 0


def test_the_folder_is_the_users_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("QUANTIZE_CACHE", str(tmp_path / "cache"))
    folder = memory_folder()
    answers(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()] == [0o600]
    folder.chmod(0o777)
    assert memory_folder() is None
    monkeypatch.setenv("QUANTIZE_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    assert memory_folder() is None


def test_a_comparison_asks_the_int8_model_for_every_image(tmp_path):
    answers(tmp_path)
    exact, other = Model(), Model(2)
    known = Remembered(exact, 1, tmp_path, {"model": "m"}, K)
    seen = compare(known, other, batches())
    assert (exact.asked, other.asked) == (4, 12)
    plain = compare(Model(), Model(2), batches())
    assert seen.fidelity == plain.fidelity


@pytest.mark.parametrize("fresh", [False, True])
def test_verify_says_what_it_used_again(job, monkeypatch, fresh):
    result = job.tune()
    assert result.verdict.reused == 0
    seen = verify(job.model, result.output, job.settings(), fresh=fresh)
    assert seen.reused == (0 if fresh else 60 - 8)
    assert seen.drop == result.verdict.drop
    assert seen.fidelity == result.verdict.fidelity


def asker(folder, start):
    for size in (1, 3, 5):
        first, _, _ = answers(folder, count=30, start=start, size=size)
        assert first.tobytes() == expected(count=30, start=start, size=5).tobytes()


def expected(**which):
    return np.concatenate([Model()(batch.images) for batch in batches(**which)])


def test_two_processes_write_one_file_at_once(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    both = [spawn.Process(target=asker, args=(tmp_path, start)) for start in (0, 15)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    after, known, model = answers(tmp_path, count=45, size=5)
    assert after.tobytes() == expected(count=45, size=5).tobytes()
    assert (known.reused, model.asked) == (40, 5)


def test_a_pipe_in_the_place_of_the_file_is_no_answer_and_no_end(tmp_path):
    answers(tmp_path)
    [file] = tmp_path.iterdir()
    file.unlink()
    os.mkfifo(file)
    got, known, _ = answers(tmp_path)
    assert got.tobytes() == expected().tobytes()
    assert known.reused == 0
