import gzip
import os
import pickle
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.errors import DataError
from quantize.imagenet.labels import read_labels, read_synset

WNIDS = ["n01440764", "n01443537", "n01484850"]
PAIRS = [("val_1.JPEG", WNIDS[2]), ("val_2.JPEG", WNIDS[0])]
SHARED = Path(__file__).parents[2] / "shared" / "data" / "imagenet-sample"


@pytest.fixture
def write(tmp_path):
    def make(content, name="labels"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


@pytest.fixture
def synset(write):
    return lambda name="synset.txt": write("".join(f"{w} a fish, a name\n" for w in WNIDS), name)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("packed", [gzip.compress, bytes])
@pytest.mark.parametrize("pairs", [PAIRS, tuple(PAIRS), [list(p) for p in PAIRS], dict(PAIRS)])
def test_the_published_map(write, protocol, packed, pairs):
    labels = read_labels(write(packed(pickle.dumps([WNIDS, pairs], protocol))))
    assert labels.classes == tuple(WNIDS)
    assert labels.folder_of == dict(PAIRS)
    assert not labels.numbered


def test_a_full_map_of_fifty_thousand_images(write):
    """In the published form: protocol 0, the label being the rank of the wnid."""
    wnids = [f"n{i:08}" for i in range(1000)]
    pairs = [(f"ILSVRC2012_val_{i:08}.JPEG", wnids[i * 7 % 1000]) for i in range(1, 50_001)]
    labels = read_labels(write(gzip.compress(pickle.dumps([wnids, pairs], 0), 1)))
    assert len(labels.folder_of) == 50_000
    assert labels.classes.index(labels.folder_of["ILSVRC2012_val_00000003.JPEG"]) == 21


def test_a_list_of_labels_with_a_synset(write, synset):
    path = write("val_1.JPEG 2\r\nval_2.JPEG\t0\n\n", "val.txt")
    assert read_labels(path, synset("mine.txt")).folder_of == dict(PAIRS)
    for name in ("synset.txt", "synsets.txt", "synset_words.txt"):
        beside = synset(name)
        labels = read_labels(path)
        assert (labels.folder_of, labels.classes, labels.numbered) == (
            dict(PAIRS), tuple(WNIDS), False,
        )  # fmt: skip
        beside.unlink()


def test_a_list_of_labels_alone_is_numbered_so_that_ranks_are_labels(write):
    labels = read_labels(write("\ufeffval_1.JPEG 2\nval_2.JPEG 0\n", "val.txt"))
    assert labels.folder_of == {"val_1.JPEG": "0002", "val_2.JPEG": "0000"}
    assert len(labels.classes) == 1000
    assert list(labels.classes) == sorted(labels.classes)
    assert labels.numbered


def test_a_list_of_wnids(write, synset):
    path = write("".join(f"{name} {wnid}\n" for name, wnid in PAIRS))
    assert read_labels(path).classes == (WNIDS[0], WNIDS[2])
    assert read_labels(path, synset("mine.txt")).classes == tuple(WNIDS)
    assert read_labels(path).folder_of == dict(PAIRS)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data/imagenet-sample")
def test_a_real_list_and_a_real_synset():
    labels = read_labels(SHARED / "val.txt")
    assert len(labels.classes) == 1000
    for name, wnid in labels.folder_of.items():
        assert name.startswith(wnid), "the sample's files are called by their wnids"


def mapped(classes, pairs):
    return gzip.compress(pickle.dumps([classes, pairs], 0))


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        ("65\n970\n", "entry 1 is not `name label`: '65'"),
        ("a.JPEG 1\nb.JPEG 2 3\n", "entry 2 is not"),
        ("a.JPEG -1\n", "'-1' is neither a wnid nor a label"),
        ("a.JPEG 1\nb.JPEG n01440764\n", "is neither"),
        ("a.JPEG \u0661\n", "is neither"),
        ("a.JPEG 99999\n", "is neither"),
        ("a.JPEG 1\na.JPEG 2\n", "two classes of a.JPEG"),
        ("../a.JPEG 1\n", "is no name of an image"),
        ("/etc/passwd 1\n", "is no name of an image"),
        (".hidden 1\n", "is no name of an image"),
        (".. 1\n", "is no name of an image"),
        ("a/b 1\n", "is no name of an image"),
        ("a\\b 1\n", "is no name of an image"),
        ("a\x1b[2J.JPEG 1\n", "is no name of an image"),
        (b"\xff\xfe\x00a", "no UTF-8 text"),
        (b"\x1f\x8b rubbish", "damaged gzip"),
        (gzip.compress(pickle.dumps([WNIDS, PAIRS]))[:-9], "cut short"),
        (gzip.compress(bytes(40 << 20)), "unpacks to more than"),
        (gzip.compress(b"hello"), "no whole pickle"),
        (gzip.compress(pickle.dumps([WNIDS, os.mkdir], 0)), "carries code"),
        (pickle.dumps([WNIDS, os.mkdir]), "carries code"),
        (mapped(WNIDS, [("a.JPEG", "n99999999")]), "not among the classes"),
        (mapped(WNIDS, [("a.JPEG", 1)]), "not among the classes"),
        (mapped(WNIDS, [("../a.JPEG", WNIDS[0])]), "is no name of an image"),
        (mapped(WNIDS, [(1, WNIDS[0])]), "is no name of an image"),
        (mapped(WNIDS, [("a.JPEG", WNIDS[0]), ("a.JPEG", WNIDS[1])]), "two classes"),
        (mapped(WNIDS, []), "lists no image"),
        (mapped(["../../etc"], [("a.JPEG", "../../etc")]), "is no map"),
        (mapped([1], []), "is no map"),
        (mapped("abc", []), "is no map"),
        (mapped(WNIDS, [("a.JPEG",)]), "is no map"),
        (mapped(WNIDS, [1]), "is no map"),
        (mapped(WNIDS, 1), "is no map"),
        (gzip.compress(pickle.dumps([WNIDS])), "is no map"),
        (gzip.compress(pickle.dumps("x")), "is no map"),
    ],
    ids=count(),  # gzip writes the time, and contents are long
)
def test_anything_else_is_one_line(write, content, word):
    with pytest.raises(DataError) as caught:
        read_labels(write(content))
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_unhashable_labels_are_no_classes(write):
    with pytest.raises(DataError):
        read_labels(write(mapped(WNIDS, [("a.JPEG", [WNIDS[0]])])))


def test_what_is_no_file(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_labels(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is no file"):
        read_labels(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is no file"):
        read_labels(tmp_path / "pipe")


def test_a_list_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataError, match="too large"):
        read_labels(path)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("", "names no wnid"),
        ("tench\n", "names no wnid"),
        ("n01443537 b\nn01440764 a\n", "is not sorted"),
        ("n01440764 a\nn01440764 a\n", "is not sorted"),
        (b"\xff", "no UTF-8"),
    ],
)
def test_a_synset_that_is_none(write, content, word):
    with pytest.raises(DataError, match=word):
        read_synset(write(content))


def test_a_label_beyond_the_synset(write, synset):
    with pytest.raises(DataError, match=r"has a label 3, but .* only 3 classes"):
        read_labels(write("a.JPEG 3\n"), synset())


@given(st.one_of(st.binary(), st.text().map(str.encode)))
def test_any_file_is_labels_or_a_complaint(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any-labels"
    path.write_bytes(content)
    try:
        labels = read_labels(path)
    except DataError:
        return
    assert set(labels.folder_of.values()) <= set(labels.classes)
