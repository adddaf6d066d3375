"""Batches arrive in order and whole, whatever the threads do and whatever lies in the folder."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from quantize.data import loader
from quantize.data.cache import ArrayCache
from quantize.data.datasets import ImagenetRaw, digest_samples
from quantize.data.images import UnreadableImage, encode_png
from quantize.data.loader import Unreadable, batches
from quantize.data.steps import CenterCrop, Rescale, Resize, Transpose
from quantize.data.transforms import Pipeline, Preset
from quantize.errors import DataError
from quantize.plan import NO_LABEL, Sample

SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "imagenet-sample"
CHW = Pipeline((Transpose((2, 0, 1)),))


def grey(level, height=6, width=8):
    return np.full((height, width, 3), level, np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Ten PNG files, image i of grey level i."""
    items = []
    for i in range(10):
        encode_png(grey(i), tmp_path / f"{i}.png")
        items.append((tmp_path / f"{i}.png", i))
    return digest_samples(items, 2)


def levels(got):
    return [int(image[0, 0, 0]) for batch in got for image in batch.images]


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 3, 10, 64])
def test_batches_come_in_order_and_whole(folder, workers, batch_size):
    got = list(batches(folder, CHW, batch_size=batch_size, workers=workers, unreadable=None))
    assert levels(got) == list(range(10))
    assert [label for batch in got for label in batch.labels] == list(range(10))
    assert [d for batch in got for d in batch.digests] == [s.digest for s in folder]
    assert [len(batch.images) for batch in got[:-1]] == [batch_size] * (len(got) - 1)
    first = got[0].images
    assert (first.dtype, first.shape[1:]) == (np.float32, (3, 6, 8))
    assert first.flags.c_contiguous
    assert got[0].labels.dtype == np.int64


def test_a_last_batch_that_is_not_full_can_be_dropped(folder):
    got = list(batches(folder, CHW, batch_size=4, workers=2, unreadable=None, drop_last=True))
    assert levels(got) == list(range(8))


def test_no_samples_give_no_batches():
    assert list(batches([], CHW, batch_size=4, workers=2, unreadable=None)) == []


def test_arrays_before_and_after_preprocessing_and_missing_labels():
    prepared = np.full((3, 6, 8), 2.5, np.float32)
    samples = digest_samples([(grey(9), None), (prepared, 4)], 1)
    (batch,) = batches(samples, CHW, batch_size=2, workers=2, unreadable=None)
    assert batch.labels.tolist() == [NO_LABEL, 4]
    np.testing.assert_array_equal(batch.images[0], np.full((3, 6, 8), 9))
    np.testing.assert_array_equal(batch.images[1], prepared)


def test_unreadable_images_are_left_out_counted_and_named(folder):
    folder[3].source.write_bytes(b"")
    folder[7].source.unlink()
    unreadable = Unreadable()
    got = list(batches(folder, CHW, batch_size=4, workers=2, unreadable=unreadable))
    assert levels(got) == [0, 1, 2, 4, 5, 6, 8, 9]
    assert [len(batch.images) for batch in got] == [4, 4]
    assert unreadable.count == 2
    assert unreadable.images[0] == ("3.png", "the file is empty")
    assert unreadable.images[1][0] == "7.png"


def test_without_a_collector_an_unreadable_image_raises(folder):
    folder[3].source.write_bytes(b"")
    with pytest.raises(UnreadableImage, match=r"3\.png"):
        list(batches(folder, CHW, batch_size=4, workers=2, unreadable=None))


def test_images_too_small_for_the_recipe_are_counted_with_the_cure(folder):
    encode_png(grey(4, 2, 2), folder[4].source)
    unreadable = Unreadable()
    pipeline = Pipeline((CenterCrop(5), Transpose((2, 0, 1))))
    got = list(batches(folder, pipeline, batch_size=4, workers=2, unreadable=unreadable))
    assert len(levels(got)) == 9
    assert unreadable.images[0][0] == "4.png"
    assert "put Resize before CenterCrop" in unreadable.images[0][1]


def test_running_out_of_memory_on_one_image_is_that_images_fault(folder, monkeypatch):
    def scarce(path):
        if path.name == "2.png":
            raise MemoryError
        return grey(int(path.stem))

    monkeypatch.setattr(loader, "decode", scarce)
    unreadable = Unreadable()
    got = list(batches(folder, CHW, batch_size=4, workers=2, unreadable=unreadable))
    assert levels(got) == [0, 1, 3, 4, 5, 6, 7, 8, 9]
    assert unreadable.images == [("2.png", "not enough memory to prepare it")]


def test_the_collector_judges_by_the_share_and_names_a_few():
    unreadable = Unreadable()
    unreadable.check(0, 0.0)
    for i in range(30):
        unreadable.add(f"{i}.jpg", "empty")
    assert unreadable.count == 30
    assert len(unreadable.images) == 20
    unreadable.check(3000, 0.01)
    with pytest.raises(DataError, match=r"30 of 2999 images .* 0\.jpg: empty.*max_unreadable"):
        unreadable.check(2999, 0.01)


def test_a_wrong_recipe_stops_at_once_and_names_an_image(folder):
    with pytest.raises(DataError, match=r"image 0\.png: preprocessing ends .*Transpose"):
        next(
            batches(
                folder, Pipeline((Rescale(),)), batch_size=1, workers=2, unreadable=Unreadable()
            )
        )


def test_images_of_different_shape_in_one_batch_are_refused(folder):
    encode_png(grey(1, 7, 8), folder[1].source)
    with pytest.raises(
        DataError, match=r"1\.png .*\[3, 7, 8\] and 0\.png.*\[3, 6, 8\].*batch_size"
    ):
        list(batches(folder, CHW, batch_size=2, workers=2, unreadable=None))
    assert len(list(batches(folder, CHW, batch_size=1, workers=2, unreadable=None))) == 10


# ---------------------------------------------------------------------------------- threads


def running():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prepare")]


def test_closing_early_ends_the_threads(folder):
    generator = batches(folder * 100, CHW, batch_size=2, workers=3, unreadable=None)
    next(generator)
    assert running()
    generator.close()
    assert not running()


def test_an_error_of_the_consumer_ends_the_threads(folder):
    def consume():
        for _ in batches(folder * 100, CHW, batch_size=2, workers=3, unreadable=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consume()
    assert not running()


def test_work_runs_ahead_of_the_consumer_but_not_far(folder, monkeypatch):
    decoded = []
    monkeypatch.setattr(loader, "decode", lambda path: decoded.append(path) or grey(1))
    generator = batches(folder * 100, CHW, batch_size=5, workers=2, unreadable=None)
    next(generator)
    deadline = time.monotonic() + 5
    while len(decoded) < 14 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(decoded) == 5 + 5 + 2 * 2  # this batch, the next one, two for each thread
    generator.close()


def test_images_are_prepared_in_parallel(folder, monkeypatch):
    together = threading.Barrier(3, timeout=10)

    def decode(path):
        together.wait()  # passes only when three threads are in here at once
        return grey(1, 80, 80)

    monkeypatch.setattr(loader, "decode", decode)
    got = list(batches(folder[:9], CHW, batch_size=9, workers=3, unreadable=None))
    assert len(levels(got)) == 9


def test_an_image_that_takes_long_is_the_only_one_in_its_threads_hands(folder, monkeypatch):
    """What is left of a chunk when the consumer stops is not prepared."""
    decoded = []
    entered, release = threading.Event(), threading.Event()

    def decode(path):
        decoded.append(path)
        if len(decoded) == 40:
            entered.set()
            release.wait(10)
        return grey(1)

    monkeypatch.setattr(loader, "decode", decode)
    monkeypatch.setattr(loader, "_CHUNK_S", 1e9)
    generator = batches(folder * 10, CHW, batch_size=20, workers=1, unreadable=None)
    next(generator)
    assert entered.wait(10)
    threading.Timer(0.2, release.set).start()
    generator.close()
    assert not running()
    assert len(decoded) == 40


# ------------------------------------------------------------------------------------ chunks


@pytest.mark.parametrize(("pace", "handed"), [(1e9, 1), (1e-9, 5)])
def test_a_thread_takes_several_images_unless_one_takes_long(folder, monkeypatch, pace, handed):
    taken = []
    original = loader.in_order

    def in_order(work, items, **options):
        counted = (taken.append(len(item)) or item for item in items)
        return original(work, counted, **options)

    monkeypatch.setattr(loader, "in_order", in_order)
    monkeypatch.setattr(loader, "_CHUNK_S", 1 / pace)
    got = list(batches(folder * 6, CHW, batch_size=20, workers=2, unreadable=None))
    assert levels(got) == list(range(10)) * 6
    assert taken[0] == 1  # nobody knows yet
    assert max(taken) == handed


@pytest.mark.parametrize(("brief", "most"), [(1e9, 1), (0, 3)])
def test_small_images_are_prepared_in_turn_unless_they_take_long(folder, monkeypatch, brief, most):
    inside, seen = [], []

    def decode(path):
        inside.append(path)
        time.sleep(0.002)
        seen.append(len(inside))
        inside.pop()
        return grey(int(path.stem))

    monkeypatch.setattr(loader, "decode", decode)
    monkeypatch.setattr(loader, "_BRIEF_S", brief)
    got = list(batches(folder * 6, CHW, batch_size=20, workers=3, unreadable=None))
    assert levels(got) == list(range(10)) * 6
    assert max(seen[6:]) == most  # nobody knows at first


def test_the_images_of_a_chunk_before_an_unfit_recipe_are_handed_out(folder, monkeypatch):
    def decode(path):
        level = int(path.stem)
        return np.zeros((6, 8), np.uint8) if level == 7 else grey(level)

    monkeypatch.setattr(loader, "decode", decode)
    monkeypatch.setattr(loader, "_CHUNK_S", 1e9)
    seen = []

    def consume():
        for batch in batches(folder, CHW, batch_size=7, workers=1, unreadable=Unreadable()):
            seen.extend(levels([batch]))

    with pytest.raises(DataError, match=r"image 7\.png: Transpose of 3 axes"):
        consume()
    assert seen == list(range(7))


# ------------------------------------------------------------------------------------ memory


def addresses(got):
    return [batch.images.ctypes.data for batch in got]


def test_memory_that_nobody_looks_at_is_used_again(folder, monkeypatch):
    monkeypatch.setattr(loader, "_LARGE", 0)
    seen = []
    for batch in batches(folder * 20, CHW, batch_size=10, workers=2, unreadable=None):
        assert levels([batch]) == list(range(10))
        seen += addresses([batch])
        del batch
    assert len(set(seen)) <= 5 < len(seen)


VIEWS = {
    "images": lambda images: images,
    "rows": lambda images: images[3:][::2].transpose(0, 2, 3, 1),
    "buffer": memoryview,
}


@pytest.mark.parametrize("view", VIEWS)
def test_memory_that_somebody_looks_at_stays(folder, monkeypatch, view):
    monkeypatch.setattr(loader, "_LARGE", 0)
    held, copies = [], []
    for batch in batches(folder * 20, CHW, batch_size=10, workers=2, unreadable=None):
        batch.images[...] += len(held)
        held.append(VIEWS[view](batch.images))
        copies.append(np.array(held[-1]))
        del batch
    for still, copy in zip(held, copies, strict=True):
        np.testing.assert_array_equal(still, copy)


# ------------------------------------------------------------------------------------ cache


def test_each_image_is_decoded_once_and_comes_back_bit_for_bit(folder, tmp_path, monkeypatch):
    decoded = []
    original = loader.decode
    monkeypatch.setattr(loader, "decode", lambda path: decoded.append(path) or original(path))
    with ArrayCache(tmp_path / "cache", 1 << 20) as cache:
        passes = [
            list(batches(folder, CHW, batch_size=4, workers=3, unreadable=None, cache=cache))
            for _ in range(3)
        ]
    assert len(decoded) == 10
    for later in passes[1:]:
        for one, other in zip(passes[0], later, strict=True):
            np.testing.assert_array_equal(one.images, other.images)
            np.testing.assert_array_equal(one.labels, other.labels)


def test_one_cache_serves_several_recipes(folder, tmp_path):
    half = Pipeline((Rescale(), Transpose((2, 0, 1))))
    with ArrayCache(tmp_path / "cache", 1 << 20) as cache:
        for pipeline, scale in ((CHW, 1), (half, 255), (CHW, 1)):
            got = list(
                batches(folder, pipeline, batch_size=10, workers=2, unreadable=None, cache=cache)
            )
            np.testing.assert_allclose(got[0].images[:, 0, 0, 0], np.arange(10) / scale, rtol=1e-6)


def test_a_full_cache_changes_nothing(folder, tmp_path):
    with ArrayCache(tmp_path / "cache", 2000) as cache:
        for _ in range(2):
            got = batches(folder, CHW, batch_size=4, workers=2, unreadable=None, cache=cache)
            assert levels(got) == list(range(10))


def test_a_sample_whose_bytes_are_elsewhere_in_the_cache_is_not_decoded_again(tmp_path):
    samples = [Sample(grey(5), 1, "same"), Sample(tmp_path / "nowhere.png", 2, "same")]
    with ArrayCache(tmp_path / "cache", 1 << 20) as cache:
        (batch,) = batches(samples, CHW, batch_size=2, workers=1, unreadable=None, cache=cache)
    assert batch.labels.tolist() == [1, 2]
    np.testing.assert_array_equal(batch.images[0], batch.images[1])


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="needs ../shared/data/imagenet-sample")
def test_photographs_are_the_same_for_any_number_of_threads_and_batch_size(tmp_path):
    samples = digest_samples(ImagenetRaw(SAMPLE).samples()[:24], 2)
    pipeline = Pipeline((Preset("short_side"),))
    one = np.concatenate(
        [b.images for b in batches(samples, pipeline, batch_size=1, workers=1, unreadable=None)]
    )
    with ArrayCache(tmp_path / "cache", 1 << 26) as cache:
        for _ in range(2):
            two = np.concatenate(
                [
                    b.images
                    for b in batches(
                        samples, pipeline, batch_size=7, workers=3, unreadable=None, cache=cache
                    )
                ]
            )
            np.testing.assert_array_equal(one, two)
    assert one.shape == (24, 3, 224, 224)


def test_resize_makes_any_folder_one_shape(folder):
    encode_png(grey(1, 1, 1), folder[1].source)
    encode_png(grey(2, 2, 300), folder[2].source)
    pipeline = Pipeline((Resize(16), Transpose((2, 0, 1))))
    got = list(batches(folder, pipeline, batch_size=10, workers=2, unreadable=None))
    assert got[0].images.shape == (10, 3, 16, 16)
