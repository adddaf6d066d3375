import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import CLASSES, SIZE
from models import tiny_dataset, write_image_folder, write_imagenet_raw
from quantize.config import load_config
from quantize.data import loader
from quantize.data.cache import ArrayCache
from quantize.data.steps import Cast, Rescale, Transpose
from quantize.data.transforms import Pipeline
from quantize.errors import ConfigError, DataError, ModelError, OutputError
from quantize.job import (
    Images,
    check_classes,
    check_labelled,
    check_labels,
    check_readable,
    first_image,
    open_cache,
    open_images,
    open_job,
    open_proto,
)
from quantize.plan import NO_LABEL, Sample

STEPS = (Rescale(), Transpose((2, 0, 1)), Cast())


def images_of(items, **options):
    samples = tuple(Sample(x, label, f"{i:064d}") for i, (x, label) in enumerate(items))
    usual = {"name": "search", "pipeline": Pipeline(STEPS), "batch_size": 4, "workers": 2}
    return Images(samples=samples, **{**usual, **options})


@pytest.fixture(scope="module")
def items():
    return tiny_dataset(CLASSES, 5, SIZE, seed=6)


# ---------------------------------------------------------------------------------- images


def test_batches_come_in_order_again_and_again(items):
    images = images_of(items)
    for _ in range(2):
        batches = list(images)
        assert [len(b.labels) for b in batches] == [4] * 5
        labels = np.concatenate([b.labels for b in batches])
        assert labels.tolist() == [label for _, label in items]
        digests = [digest for b in batches for digest in b.digests]
        assert digests == [s.digest for s in images.samples]
    assert sum(len(a) for a in images.arrays()) == len(items)


def test_an_image_without_a_label_says_so(items):
    (batch,) = images_of([(items[0][0], None)])
    assert batch.labels.tolist() == [NO_LABEL]


def test_the_last_smaller_batch_can_be_left_out(items):
    assert [len(b.labels) for b in images_of(items[:10])] == [4, 4, 2]
    assert [len(b.labels) for b in images_of(items[:10], drop_last=True)] == [4, 4]


@pytest.mark.parametrize("count", [1, 3, 7, 19, 20])
def test_a_spread_sample_has_equal_distances(items, count):
    images = images_of(items, drop_last=True)
    few = images.spread(count)
    assert len(few.samples) == count
    positions = [images.samples.index(s) for s in few.samples]
    distances = np.diff([*positions, positions[0] + len(items)])
    assert distances.max() - distances.min() <= 1
    assert sum(len(b.labels) for b in few) == count


def test_a_sample_of_more_than_there_are_is_all(items):
    images = images_of(items)
    assert images.spread(10**6).samples == images.samples
    assert images.first(10**6).samples == images.samples


def test_a_sample_of_a_sorted_list_has_every_class(items):
    images = images_of(sorted(items, key=lambda item: item[1]))
    assert {s.label for s in images.spread(CLASSES).samples} == set(range(CLASSES))


def test_the_first_few(items):
    images = images_of(items)
    assert images.first(3).samples == images.samples[:3]


def test_the_digest_tells_content_label_order_and_preprocessing_apart(items):
    images = images_of(items)
    first = images.samples[0]
    others = [
        replace(images, samples=images.samples[::-1]),
        replace(images, samples=(replace(first, label=9), *images.samples[1:])),
        replace(images, samples=(replace(first, digest="0"), *images.samples[1:])),
        replace(images, pipeline=Pipeline(STEPS[1:])),
    ]
    digests = {replace(other).digest for other in others}
    assert len(digests | {images.digest}) == 1 + len(others)
    assert replace(images, batch_size=1, workers=1, name="x").digest == images.digest


def test_progress_counts_unreadable_images_too(items, tmp_path):
    told = []
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    images = images_of([*items[:9], (bad, 0)], on_progress=told.append, max_unreadable=0.1)
    list(images)
    assert [(step.done, step.total) for step in told][-1] == (10, 10)
    assert told[0].stage == "search"


def test_unreadable_images_are_counted_and_the_first_are_named(items, tmp_path):
    files = [tmp_path / f"{i:02d}.png" for i in range(25)]
    for file in files:
        file.write_text(file.name)
    images = images_of([*items, *((file, 0) for file in files)], max_unreadable=1.0)
    for _ in range(2):
        list(images)
    assert images.unreadable.count == 25
    assert [name for name, _ in images.unreadable.images] == [f.name for f in files[:20]]


@pytest.mark.parametrize(("share", "refused"), [(0.05, False), (0.04, True)])
def test_a_share_of_unreadable_images_is_put_up_with(items, tmp_path, share, refused):
    (tmp_path / "bad.png").write_text("no image")
    images = images_of([*items[:19], (tmp_path / "bad.png", 0)], max_unreadable=share)
    if refused:
        with pytest.raises(DataError, match=r"1 of 20 images cannot be used, such as bad\.png"):
            check_readable(images)
    else:
        check_readable(images)


def test_the_first_readable_image(items, tmp_path):
    (tmp_path / "bad.png").write_text("no image")
    bad = (tmp_path / "bad.png", 0)
    images = images_of([bad, bad, items[0]])
    expected = items[0][0].astype(np.float32).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(first_image(images), expected[None], rtol=1e-6)
    with pytest.raises(DataError, match=r"such as bad\.png: not a JPEG"):
        first_image(images_of([bad]))


def test_each_image_is_decoded_once(items, tmp_path, monkeypatch):
    root = write_image_folder(tmp_path / "images", items)
    files = [(path, 0) for path in sorted(root.glob("*/*.png"))]
    decoded = []
    true = loader.decode
    monkeypatch.setattr(loader, "decode", lambda path: decoded.append(path) or true(path))
    with ArrayCache(tmp_path / "cache", 1 << 20) as cache:
        images = images_of(files, cache=cache)
        first = np.concatenate(list(images.arrays()))
        again = np.concatenate(list(images.arrays()))
    np.testing.assert_array_equal(first, again)
    assert sorted(decoded) == sorted(path for path, _ in files)


def test_the_cache_leaves_half_of_the_disk(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 40, 60))
    monkeypatch.setattr("quantize.job.ArrayCache", lambda path, most: asked.update({path: most}))
    open_cache(tmp_path)
    assert asked == {tmp_path / "samples": 30}


def test_a_run_folder_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "samples").write_text("a file")
    with pytest.raises(OutputError, match="samples"):
        open_cache(tmp_path)


# ------------------------------------------------------------------------------ open_job


def test_a_job_is_opened_with_all_that_follows(job):
    opened = open_job(job.model, job.settings(), None)
    assert opened.model.classes == CLASSES
    assert opened.model.size == (3, SIZE, SIZE)
    parts = (opened.calibration, opened.search, opened.holdout)
    assert [len(part.samples) for part in parts] == [16, 8, 60]
    assert [part.name for part in parts] == ["calibrate", "search", "verify"]
    seen = [{s.digest for s in part.samples} for part in parts]
    assert not seen[0] & seen[1]
    assert not (seen[0] | seen[1]) & seen[2]


def key(job, *overrides, versions=None, **options):
    opened = open_job(job.model, job.settings(*overrides), None, **options)
    return opened.key(versions or {"numpy": "1"})


def test_the_key_follows_everything_that_decides_the_outcome(job):
    original = key(job)
    assert key(job) == original
    others = {
        key(job, versions={"numpy": "2"}),
        key(job, "tuning.accuracy_criterion.relative=0.2"),
        key(job, evaluation=tiny_dataset(CLASSES, 15, SIZE, seed=3)),
        key(job, calibration=tiny_dataset(CLASSES, 6, SIZE, seed=3)),
    }
    job.model.write_bytes(job.model.read_bytes() + b"\x72\x00")  # an empty field of ModelProto
    others.add(key(job))
    assert len(others - {original}) == 5


def test_batches_may_be_limited(job):
    settings = job.settings("evaluation.accuracy.iteration=2")
    assert len(open_job(job.model, settings, None).holdout.samples) == 2 * 8
    assert len(open_images(settings).samples) == 2 * 8


def test_a_last_batch_is_discarded_only_where_there_is_a_full_one(job):
    settings = job.settings("evaluation.accuracy.dataloader.last_batch=discard")
    opened = open_job(job.model, settings, None)
    assert sum(len(b.labels) for b in opened.holdout) == 56
    settings = job.settings(
        "evaluation.accuracy.dataloader.last_batch=discard",
        "evaluation.accuracy.dataloader.batch_size=16",
    )
    assert sum(len(b.labels) for b in open_job(job.model, settings, None).search) == 8


def test_a_holdout_of_its_own(job):
    items = tiny_dataset(CLASSES, 3, SIZE, seed=7)
    write_image_folder(job.folder / "holdout", items)
    holdout = "evaluation.holdout={dataset: {ImageFolder: {root: holdout}}, transform: %s}"
    recipe = "{Rescale: , Transpose: {perm: [2, 0, 1]}, Cast: }"
    opened = open_job(job.model, job.settings(holdout % recipe), None)
    assert len(opened.holdout.samples) == 12
    assert len(opened.search.samples) == 60
    assert opened.holdout.pipeline == Pipeline(STEPS)


def test_what_cannot_be_quantized_is_refused_first(job, done):
    with pytest.raises(ModelError, match="already quantized"):
        open_proto(done[0].output)


# ---------------------------------------------------------------------------- the labels


def folders(tmp_path, count, dataset="ImageFolder", shift=0):
    root = tmp_path / "root"
    inner = root / "val" if dataset == "Imagenet" else root
    for number in range(count):
        (inner / f"c{number}").mkdir(parents=True)
    inner.mkdir(parents=True, exist_ok=True)
    path = tmp_path / "c.yaml"
    path.write_text(
        f"""
model: {{name: x, framework: onnxrt_qdq}}
evaluation:
  accuracy:
    metric: {{topk: 1}}
    postprocess: {{transform: {{LabelShift: {shift}}}}}
    dataloader: {{dataset: {{{dataset}: {{root: root}}}}}}
tuning: {{accuracy_criterion: {{relative: 0.01}}}}
"""
    )
    config = load_config(path)
    return config.evaluation.accuracy.dataloader, config


@pytest.mark.parametrize("dataset", ["ImageFolder", "Imagenet"])
@pytest.mark.parametrize(
    ("count", "classes", "shift", "fits"),
    [
        (10, 10, 0, True),
        (9, 10, 0, False),
        (11, 10, 0, False),
        (1000, 1001, -1, True),
        (1001, 1001, -1, False),
        (999, 1001, -1, False),
        (11, 10, 1, True),
        (0, 10, 0, True),
    ],
)
def test_class_folders_and_label_shift_have_to_give_the_classes(
    tmp_path, dataset, count, classes, shift, fits
):
    if count > 20:
        count, classes = count - 990, classes - 990
    loader, config = folders(tmp_path, count, dataset, shift)
    if fits:
        check_classes(loader, classes, config)
    else:
        with pytest.raises(DataError, match=rf"{dataset}\.root .* has {count} class folders, but"):
            check_classes(loader, classes, config)


def test_lists_have_no_class_folders(tmp_path, job):
    check_classes(None, 10, job.settings())
    write_imagenet_raw(tmp_path / "raw", tiny_dataset(CLASSES, 1, SIZE))
    dataset = "evaluation.accuracy.dataloader.dataset.ImagenetRaw.data_path"
    config = job.settings(f"{dataset}={tmp_path / 'raw'}")
    check_classes(config.evaluation.accuracy.dataloader, 10, config)


def sample(label, name="x.png"):
    return Sample(Path(name), label, name)


@pytest.mark.parametrize("labels", [[0, 3], [None, 2], [None], []])
def test_labels_that_are_classes(job, labels):
    check_labels([sample(label) for label in labels], 4, job.settings())


@pytest.mark.parametrize(
    ("labels", "cure"),
    [
        ([1, 4], "the labels count from 1: set LabelShift: 1"),
        ([0, 4], "correct the label file"),
        ([1, 5], "correct the label file"),
    ],
)
def test_labels_that_are_no_classes(job, labels, cure):
    samples = [sample(labels[0], "a.png"), sample(labels[1], "b.png")]
    with pytest.raises(DataError) as caught:
        check_labels(samples, 4, job.settings())
    assert f"image b.png has label {labels[1]}, but the model has 4 classes, 0 to 3" in str(
        caught.value
    )
    assert cure in caught.value.cure


def test_a_goal_on_labels_needs_them_all():
    check_labelled([sample(0), sample(1)])
    with pytest.raises(
        DataError, match=r"1 of 2 images to verify on have no label, such as b\.png"
    ):
        check_labelled([sample(0, "a.png"), sample(None, "b.png")])


def test_images_for_verbs_without_splits_need_a_loader(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("model: {name: x, framework: onnxrt_qdq}\n")
    with pytest.raises(ConfigError, match="there are no images for evaluation"):
        open_images(load_config(path))
