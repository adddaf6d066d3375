"""Datasets list what they should, in order, and say which key is wrong."""

import contextlib
import dataclasses
import gzip
import hashlib
import logging
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.data import binary
from quantize.data.datasets import (
    CIFAR10,
    CIFAR100,
    DATASETS,
    MNIST,
    Dummy,
    DummyV2,
    FashionMNIST,
    ImageFolder,
    Imagenet,
    ImagenetRaw,
    as_samples,
    digest_samples,
)
from quantize.errors import DataError
from quantize.plan import Progress

SHARED = Path(__file__).parents[2] / "shared" / "data"


def touch(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def listed(folder, text, images=("a.jpg", "b.jpg", "sub/c.jpg")):
    for name in images:
        touch(folder / name)
    (folder / "list.txt").write_bytes(text.encode())
    return ImagenetRaw(folder, folder / "list.txt")


# ------------------------------------------------------------------------------ ImagenetRaw


def test_a_list_gives_names_and_labels_in_its_order(tmp_path):
    dataset = listed(tmp_path, "\ufeffb.jpg 7\r\n\r\n  sub/c.jpg\t\t 999  \r\na.jpg 0")
    assert dataset.samples() == [
        (tmp_path / "b.jpg", 7),
        (tmp_path / "sub/c.jpg", 999),
        (tmp_path / "a.jpg", 0),
    ]


def test_a_list_of_names_alone_has_no_labels(tmp_path):
    dataset = listed(tmp_path, "b.jpg\n\na.jpg\n")
    assert dataset.samples() == [(tmp_path / "b.jpg", None), (tmp_path / "a.jpg", None)]


@pytest.mark.parametrize(
    "line",
    ["b.jpg", "b.jpg x", "b.jpg 1 2", "b.jpg -1", "b.jpg 1.0", "b.jpg ²", "b.jpg " + "9" * 5000],
)
def test_a_bad_line_is_named_by_its_number(tmp_path, line):
    dataset = listed(tmp_path, f"a.jpg 1\n\n{line}\n")
    with pytest.raises(DataError, match=r"ImagenetRaw\.image_list .*list\.txt, line 3: .*name"):
        dataset.samples()


@pytest.mark.parametrize("name", ["../outside.jpg", "sub/../../outside.jpg", "/etc/passwd"])
def test_names_cannot_leave_the_folder(tmp_path, name):
    touch(tmp_path / "outside.jpg")
    dataset = listed(tmp_path / "data", f"a.jpg 1\n{name} 2\n")
    with pytest.raises(DataError, match=r"line 2: .* leaves data_path"):
        dataset.samples()


def test_missing_images_are_left_out_and_counted(tmp_path, caplog):
    dataset = listed(tmp_path, "a.jpg 1\ngone.jpg 2\nb.jpg 3\n")
    with caplog.at_level(logging.WARNING):
        assert [label for _, label in dataset.samples()] == [1, 3]
    assert "1 of the 3 images" in caplog.text


def test_a_list_none_of_whose_images_exist_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"none of its 2 images lies in ImagenetRaw\.data_path"):
        listed(tmp_path, "x.jpg 1\ny.jpg 2\n").samples()


def test_the_list_is_looked_for_inside_and_beside_the_folder(tmp_path):
    folder = tmp_path / "images"
    touch(folder / "a.jpg")
    touch(tmp_path / "val.txt", b"a.jpg 5\n")
    assert ImagenetRaw(folder).samples() == [(folder / "a.jpg", 5)]
    touch(folder / "val.txt", b"a.jpg 6\n")
    assert ImagenetRaw(folder).samples() == [(folder / "a.jpg", 6)]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: ImagenetRaw(p / "nowhere"), r"ImagenetRaw\.data_path .*nowhere does not exist"),
        (lambda p: ImagenetRaw(p / "file"), r"ImagenetRaw\.data_path .*file is no folder"),
        (lambda p: ImagenetRaw(p), r"ImagenetRaw\.image_list: no file .*val\.txt or .*val\.txt"),
        (lambda p: ImagenetRaw(p, p / "no.txt"), r"ImagenetRaw\.image_list: no file .*no\.txt;"),
        (lambda p: ImagenetRaw(p, p / "empty"), r"ImagenetRaw\.image_list .*empty is empty"),
        (lambda p: ImagenetRaw(p, p / "binary"), r"ImagenetRaw\.image_list .*no UTF-8 text"),
    ],
)
def test_errors_name_the_key(tmp_path, make, said):
    touch(tmp_path / "file")
    touch(tmp_path / "empty", b"\n \n")
    touch(tmp_path / "binary", b"\xff\xd8\xff\xe0\x00")
    with pytest.raises(DataError, match=said):
        make(tmp_path).samples()


LINE = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(deadline=None, max_examples=60)
@given(lines=st.lists(LINE, max_size=5))
def test_any_text_gives_samples_or_a_data_error(tmp_path_factory, lines):
    folder = tmp_path_factory.mktemp("any")
    with contextlib.suppress(DataError):
        items = listed(folder, "a.jpg 1\n" + "\n".join(lines)).samples()
        assert items[0] == (folder / "a.jpg", 1)
        assert all(path.is_relative_to(folder) for path, _ in items)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_the_real_sample_is_read_whole():
    folder = SHARED / "imagenet-sample"
    items = ImagenetRaw(folder).samples()
    assert len(items) == 500
    assert len({label for _, label in items}) == 500


# ------------------------------------------------------------------------------ ImageFolder


def test_labels_follow_the_sorted_folders_and_stray_files_shift_none(tmp_path, caplog):
    for name in ("dog/2.PNG", "dog/1.jpeg", "cat/x.jpg", "zebra/z.webp"):
        touch(tmp_path / name)
    touch(tmp_path / "a_stray.jpg")
    touch(tmp_path / "README")
    touch(tmp_path / ".ipynb_checkpoints" / "x.jpg")
    touch(tmp_path / "dog" / "notes.txt")
    touch(tmp_path / "dog" / "._1.jpeg")
    dataset = ImageFolder(tmp_path)
    with caplog.at_level(logging.INFO):
        items = dataset.samples()
    assert [(str(path.relative_to(tmp_path)), label) for path, label in items] == [
        ("cat/x.jpg", 0),
        ("dog/1.jpeg", 1),
        ("dog/2.PNG", 1),
        ("zebra/z.webp", 2),
    ]
    assert dataset.classes() == ["cat", "dog", "zebra"]
    assert "4 files" in caplog.text


def test_an_empty_class_folder_keeps_its_label(tmp_path):
    (tmp_path / "a").mkdir()
    touch(tmp_path / "b" / "x.jpg")
    assert ImageFolder(tmp_path).samples() == [(tmp_path / "b" / "x.jpg", 1)]
    assert ImageFolder(tmp_path).classes() == ["a", "b"]


def test_a_flat_folder_has_no_labels(tmp_path):
    for name in ("b.png", "a.jpg", "c.txt"):
        touch(tmp_path / name)
    assert ImageFolder(tmp_path).samples() == [
        (tmp_path / "a.jpg", None),
        (tmp_path / "b.png", None),
    ]
    assert ImageFolder(tmp_path).classes() == []


def test_folders_without_images_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"ImageFolder\.root .* holds no images"):
        ImageFolder(tmp_path).samples()
    touch(tmp_path / "train" / "cat" / "x.jpg")
    with pytest.raises(DataError, match=r"ImageFolder\.root .* one sub-folder of images per class"):
        ImageFolder(tmp_path).samples()
    with pytest.raises(DataError, match=r"ImageFolder\.root .* does not exist"):
        ImageFolder(tmp_path / "nowhere").samples()


def test_imagenet_is_the_folder_below(tmp_path):
    touch(tmp_path / "val" / "cat" / "x.jpg")
    expected = [(tmp_path / "val" / "cat" / "x.jpg", 0)]
    assert Imagenet(root=tmp_path).samples() == expected
    assert Imagenet(data_path=tmp_path).samples() == expected
    assert Imagenet(root=tmp_path).classes() == ["cat"]
    with pytest.raises(DataError, match=r"Imagenet\.root .*other does not exist"):
        Imagenet(root=tmp_path, subset="other").samples()
    for options in ({}, {"root": tmp_path, "data_path": tmp_path}):
        with pytest.raises(ValueError, match="exactly one of root and data_path"):
            Imagenet(**options)
    with pytest.raises(ValueError, match="subset"):
        Imagenet(root=tmp_path, subset="../x")


# ------------------------------------------------------------------------------ binary files


def cifar_records(count, classes, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    labels = rng.integers(0, classes, count).astype(np.uint8)
    planes = images.transpose(0, 3, 1, 2).reshape(count, -1)
    columns = [labels[:, None], planes]
    if classes == 100:
        columns.insert(0, labels[:, None] // 5)
    return images, labels, np.hstack(columns).tobytes()


@pytest.mark.parametrize("inner", ["", "cifar-10-batches-bin"])
def test_cifar10_reads_its_binary_version(tmp_path, inner):
    wanted = []
    for i in range(1, 6):
        images, labels, content = cifar_records(3, 10, seed=i)
        touch(tmp_path / inner / f"data_batch_{i}.bin", content)
        wanted += list(zip(images, labels.tolist(), strict=True))
    images, labels, content = cifar_records(2, 10, seed=9)
    touch(tmp_path / inner / "test_batch.bin", content)

    train = CIFAR10(tmp_path, train=True).samples()

    assert [label for _, label in train] == [label for _, label in wanted]
    for (image, _), (expected, _) in zip(train, wanted, strict=True):
        np.testing.assert_array_equal(image, expected)
        assert image.flags.c_contiguous
    assert len(CIFAR10(tmp_path).samples()) == 2


def test_cifar100_reads_fine_labels(tmp_path):
    images, labels, content = cifar_records(4, 100)
    touch(tmp_path / "cifar-100-binary" / "test.bin", content)
    items = CIFAR100(tmp_path).samples()
    assert [label for _, label in items] == labels.tolist()
    np.testing.assert_array_equal(items[3][0], images[3])


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "0 bytes"), (b"x" * 3000, "no multiple of 3073"), (b"\x0a" * 3073, "label 10 of 10")],
)
def test_damaged_cifar_files_are_refused(tmp_path, content, said):
    touch(tmp_path / "test_batch.bin", content)
    with pytest.raises(DataError, match=rf"CIFAR10\.root: .*{said}"):
        CIFAR10(tmp_path).samples()


def test_the_python_version_of_cifar_is_refused_because_of_its_pickles(tmp_path):
    touch(tmp_path / "cifar-10-batches-py" / "test_batch")
    with pytest.raises(DataError, match=r"CIFAR10\.root .*test_batch\.bin.*pickles"):
        CIFAR10(tmp_path).samples()


def idx(array):
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize("dataset", [MNIST, FashionMNIST])
@pytest.mark.parametrize("inner", [".", "name", "name/raw"])
@pytest.mark.parametrize("compressed", [False, True])
def test_idx_files_are_read_plain_and_compressed(tmp_path, dataset, inner, compressed):
    rng = np.random.default_rng(0)
    folder = tmp_path / inner.replace("name", dataset.__name__)
    images, labels = rng.integers(0, 256, (5, 28, 28), np.uint8), np.array([3, 1, 4, 1, 5])
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        content = idx(array)
        path = folder / f"t10k-{name}-ubyte{'.gz' if compressed else ''}"
        touch(path, gzip.compress(content) if compressed else content)
    items = dataset(tmp_path).samples()
    assert [label for _, label in items] == [3, 1, 4, 1, 5]
    np.testing.assert_array_equal(items[2][0], images[2][:, :, None])
    with pytest.raises(DataError, match=rf"{dataset.__name__}\.root .*train-images-idx3-ubyte"):
        dataset(tmp_path, train=True).samples()


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (b"", idx(np.zeros(1)), "no idx file of 3 axes"),
        (idx(np.zeros(4)), idx(np.zeros(1)), "no idx file of 3 axes"),
        (idx(np.zeros((2, 3, 3)))[:-1], idx(np.zeros(2)), "announces 2 x 3 x 3 values and has 17"),
        (idx(np.zeros((0, 3, 3))), idx(np.zeros(0)), "announces 0 x 3 x 3"),
        (bytes((0, 0, 8, 3)) + b"\xff" * 12, idx(np.zeros(2)), "announces 4294967295"),
        (idx(np.zeros((2, 3, 3))), idx(np.zeros(3)), "2 images and .* 3 labels"),
        (idx(np.zeros((2, 3, 3))), idx(np.full(2, 10)), "label 10 of 10 classes"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path, images, labels, said):
    touch(tmp_path / "t10k-images-idx3-ubyte", images)
    touch(tmp_path / "t10k-labels-idx1-ubyte", labels)
    with pytest.raises(DataError, match=rf"MNIST\.root: .*{said}"):
        MNIST(tmp_path).samples()


def test_damaged_and_bloated_archives_are_refused(tmp_path, monkeypatch):
    touch(tmp_path / "t10k-labels-idx1-ubyte", idx(np.zeros(1)))
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    for content in (b"no gzip", gzip.compress(idx(np.zeros((1, 28, 28))))[:-20]):
        touch(path, content)
        with pytest.raises(DataError, match=r"MNIST\.root: .*cannot be read"):
            MNIST(tmp_path).samples()
    monkeypatch.setattr(binary, "_MAX_BYTES", 1000)
    touch(path, gzip.compress(bytes(100_000)))
    with pytest.raises(DataError, match="more than 1000 bytes"):
        MNIST(tmp_path).samples()


def test_download_is_ignored_and_said_so(tmp_path, caplog):
    touch(tmp_path / "test_batch.bin", cifar_records(1, 10)[2])
    with caplog.at_level(logging.WARNING):
        CIFAR10(tmp_path, download=True).samples()
    assert "CIFAR10.download is ignored" in caplog.text


def test_random_tensors_load_and_are_refused_at_use():
    for name, dataset in (("dummy", Dummy([3, 4])), ("dummy_v2", DummyV2([3, 4], [1]))):
        with pytest.raises(DataError, match=f"dataset {name} makes random tensors.*ImageFolder"):
            dataset.samples()


def test_every_dataset_of_the_yaml_files_is_a_frozen_dataclass():
    for dataset in DATASETS.values():
        assert dataclasses.is_dataclass(dataset)
        assert dataset.__dataclass_params__.frozen
        assert callable(dataset.samples)


# -------------------------------------------------------------------------- from the caller


def test_paths_and_arrays_pass_as_samples():
    raw, prepared = np.zeros((4, 5, 3), np.uint8), np.zeros((3, 4, 5), np.float32)
    items = [("a.jpg", 1), (Path("b.jpg"), None), [raw, np.int64(7)], (prepared, np.array(3))]
    checked = list(as_samples(iter(items)))
    assert checked[:2] == [(Path("a.jpg"), 1), (Path("b.jpg"), None)]
    assert checked[2][0] is raw
    assert [label for _, label in checked] == [1, None, 7, 3]
    assert type(checked[2][1]) is int


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("a.jpg", "of type str, not a pair"),
        (("a.jpg",), "not a pair"),
        ((b"bytes", 1), "of type bytes"),
        ((np.zeros((4, 5, 3), np.float64), 1), r"array \[4, 5, 3\] of float64"),
        ((np.zeros((1, 4, 5, 3), np.uint8), 1), "one image at a time"),
        ((np.zeros((0, 5, 3), np.uint8), 1), "one image at a time"),
        ((np.zeros((3, 4, 5), np.uint8), 1), "channels last"),
        ((np.full((3, 4, 5), np.nan, np.float32), 1), "NaN"),
        (("a.jpg", -1), "label -1"),
        (("a.jpg", True), "label True"),
        (("a.jpg", 1.0), r"label 1\.0"),
        (("a.jpg", "cat"), "label 'cat'"),
    ],
)
def test_other_items_are_refused_by_their_index(item, said):
    with pytest.raises(DataError, match=f"image 2 of the iterable .*{said}"):
        list(as_samples([("ok.jpg", 0), ("ok.jpg", None), item]))


# ---------------------------------------------------------------------------------- digests


@pytest.mark.parametrize("workers", [1, 3])
def test_digests_are_of_the_bytes_in_order(tmp_path, workers):
    items = [(touch(tmp_path / f"{i}.jpg", bytes([i % 50] * 9)), i) for i in range(100)]
    seen = []
    samples = digest_samples(iter(items), workers, seen.append)
    assert [sample.label for sample in samples] == list(range(100))
    assert [sample.source for sample in samples] == [path for path, _ in items]
    assert samples[3].digest == hashlib.sha256(bytes([3] * 9)).hexdigest()
    assert samples[3] != samples[53]  # another label
    assert samples[3].digest == samples[53].digest
    assert seen[-1] == Progress("fingerprint", 100, 100)
    assert [step.done for step in seen] == sorted(step.done for step in seen)


@pytest.mark.parametrize("size", [0, (1 << 16) - 1, 1 << 16, 200_000])
def test_digests_are_of_all_bytes_whatever_the_size(tmp_path, size):
    content = np.random.default_rng(size).bytes(size)
    (tmp_path / "image.png").write_bytes(content)
    (sample,) = digest_samples([(tmp_path / "image.png", None)], 1)
    assert sample.digest == hashlib.sha256(content).hexdigest()


def test_digests_of_arrays_know_dtype_and_shape():
    flat = np.arange(24, dtype=np.uint8)
    arrays = [flat.reshape(2, 4, 3), flat.reshape(4, 2, 3), flat.view(np.float32).reshape(1, 2, 3)]
    arrays.append(np.asfortranarray(arrays[0]))
    digests = [sample.digest for sample in digest_samples([(a, None) for a in arrays], 2)]
    assert len(set(digests)) == 3
    assert digests[3] == digests[0]


def test_files_that_cannot_be_read_get_digests_of_their_own(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    items = [(tmp_path / name, None) for name in ("pipe.jpg", "gone.jpg", "gone2.jpg")]
    assert len({sample.digest for sample in digest_samples(items, 2)}) == 3


def test_no_images_have_no_digests():
    assert digest_samples([], 2) == []
