import gzip
import hashlib
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import time

import pytest

from quantize.data.datasets import ImageFolder, ImagenetRaw
from quantize.errors import DataError, OutputError
from quantize.imagenet import placing, preparing
from quantize.imagenet.preparing import prepare_imagenet
from tars import member, tar_bytes

WNIDS = ["n01440764", "n01443537", "n01484850"]
IMAGES = {f"ILSVRC2012_val_{i:08}.JPEG": b"%d" % i * 300 * i for i in range(1, 9)}
CLASS_OF = {name: WNIDS[2 * (i % 2)] for i, name in enumerate(IMAGES)}
TRAIN = {wnid: {f"{wnid}_{i}.JPEG": b"%d" % i * 700 for i in (1, 2)} for wnid in WNIDS}


@pytest.fixture
def files(tmp_path):
    """The two tars, the map, and where everything goes."""

    class Files:
        val, train = tmp_path / "val.tar", tmp_path / "train.tar"
        map, output = tmp_path / "map.pklz", tmp_path / "imagenet"

        def prepare(self, **options):
            return prepare_imagenet(self.val, self.map, self.output, **options)

        def seen(self, part="val"):
            root = self.output / part
            return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.JPEG")}

    made = Files()
    made.val.write_bytes(tar_bytes(IMAGES))
    inner = {f"{wnid}.tar": tar_bytes(images) for wnid, images in TRAIN.items()}
    made.train.write_bytes(tar_bytes(inner))
    made.map.write_bytes(gzip.compress(pickle.dumps([WNIDS, sorted(CLASS_OF.items())], 0)))
    return made


EXPECTED = {f"{CLASS_OF[name]}/{name}": content for name, content in IMAGES.items()}


def test_the_folders_of_the_zoo_s_preparation(files):
    seen = []
    made = files.prepare(train=files.train, on_progress=seen.append)
    assert files.seen() == EXPECTED
    assert files.seen("train") == {f"{w}/{n}": c for w in WNIDS for n, c in TRAIN[w].items()}
    assert sorted(p.name for p in (files.output / "val").iterdir()) == WNIDS, "empty ones, too"
    assert sorted(p.name for p in files.output.iterdir()) == ["train", "val", "val.txt"]
    assert (made.val, made.train, made.classes, made.written, made.kept) == (8, 6, 3, 14, 0)
    assert ("val", 8, 8) in [(step.stage, step.done, step.total) for step in seen]
    assert ("train", 3, 3) in [(step.stage, step.done, step.total) for step in seen]
    assert str(files.output) in made.lines()[0]
    assert made.to_json()["written"] == 14


def test_both_datasets_read_it_with_the_same_labels(files):
    files.prepare()
    folder = ImageFolder(root=files.output / "val").samples()
    listed = ImagenetRaw(data_path=files.output / "val").samples()
    assert sorted((str(i[0]), i[1]) for i in map(pair, folder)) == sorted(
        (str(i[0]), i[1]) for i in map(pair, listed)
    )
    assert {label for _, label in map(pair, folder)} == {0, 2}, "ranks of the wnids"


def pair(item):
    path, label = (item.path, item.label) if hasattr(item, "path") else item[:2]
    return path, label


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_of_a_folder(files, form):
    entries = [member("val", kind=tarfile.DIRTYPE)]
    entries += [member(f"val/{name}", content) for name, content in IMAGES.items()]
    files.val.write_bytes(tar_bytes(*entries, form=form))
    files.prepare()
    assert files.seen() == EXPECTED


def test_labels_as_numbers(files):
    files.map = files.map.with_name("val.txt")
    files.map.write_text("".join(f"{n} {WNIDS.index(w)}\n" for n, w in CLASS_OF.items()))
    made = files.prepare()
    assert made.numbered
    assert "0000 and on" in made.lines()[-1]
    assert len(list((files.output / "val").iterdir())) == 1000
    assert set(files.seen()) == {f"{WNIDS.index(w):04}/{n}" for n, w in CLASS_OF.items()}
    with pytest.raises(DataError, match="give --synset"):
        files.prepare(train=files.train)
    files.map.with_name("s.txt").write_text("\n".join(WNIDS))
    files.output = files.output.with_name("named")
    made = files.prepare(train=files.train, synset=files.map.with_name("s.txt"))
    assert not made.numbered
    assert files.seen() == EXPECTED


# ----------------------------------------------------------------------------------- resuming


def test_a_second_call_writes_nothing(files):
    files.prepare(train=files.train)
    before = {p: p.stat().st_mtime_ns for p in files.output.rglob("*.JPEG")}
    made = files.prepare(train=files.train)
    assert (made.written, made.kept) == (0, 14)
    assert {p: p.stat().st_mtime_ns for p in files.output.rglob("*.JPEG")} == before


def test_what_is_wrong_or_missing_is_mended(files):
    files.prepare()
    first, second, third = sorted(files.output.rglob("*.JPEG"))[:3]
    first.write_bytes(b"")
    second.write_bytes(bytes(second.stat().st_size))
    third.unlink()
    made = files.prepare()
    assert (made.written, made.kept) == (3, 5)
    assert files.seen() == EXPECTED


def test_a_link_in_an_image_s_place_is_refused(files, tmp_path):
    files.prepare()
    image = min(files.output.rglob("*.JPEG"))
    (tmp_path / "other").write_bytes(image.read_bytes())
    image.unlink()
    image.symlink_to(tmp_path / "other")
    with pytest.raises(OutputError, match="already holds"):
        files.prepare()


KILLED = """
import sys
from pathlib import Path
from quantize.imagenet import placing, preparing
real = placing.place
def slow(content, target, scratch, tally):
    real(content, target, scratch, tally)
    if tally.written == 3:
        (scratch / "file").write_bytes(b"half")
        print("now", flush=True)
        sys.stdin.read()
preparing.place = slow
preparing.prepare_imagenet(*map(Path, sys.argv[1:]))
"""


def test_a_killed_process_is_continued(files):
    arguments = [sys.executable, "-c", KILLED, files.val, files.map, files.output]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "now\n"
    with pytest.raises(OutputError, match="written by another process"):
        files.prepare()
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    assert len(files.seen()) == 3, "whole ones only"
    made = files.prepare()
    assert (made.written, made.kept) == (5, 3)
    assert files.seen() == EXPECTED
    assert sorted(p.name for p in files.output.iterdir()) == ["val", "val.txt"]


# ---------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda i: {**i, "extra.JPEG": b"1"}, "holds 'extra.JPEG', of which the labels know"),
        (
            lambda i: dict(list(i.items())[2:]),
            "lacks 2 of 8 images, such as ILSVRC2012_val_00000001",
        ),
        (lambda i: {**i, "ILSVRC2012_val_00000001.JPEG": b""}, "with 0 bytes"),
        (lambda i: {"../" + n: c for n, c in i.items()}, "a file called '../ILSVRC"),
        (lambda i: {"/" + n: c for n, c in i.items()}, "a file called '/ILSVRC"),
    ],
)
def test_a_tar_that_does_not_fit_writes_nothing(files, change, word):
    files.val.write_bytes(tar_bytes(change(IMAGES)))
    with pytest.raises(DataError) as caught:
        files.prepare()
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not files.output.exists()


def test_a_tar_that_is_cut_short_writes_nothing(files):
    files.val.write_bytes(files.val.read_bytes()[:5000])
    with pytest.raises(DataError, match="cut short"):
        files.prepare()
    assert not files.output.exists()


def test_an_image_that_is_too_large(files, monkeypatch):
    monkeypatch.setattr(preparing, "MOST_IMAGE", 1000)
    with pytest.raises(DataError, match="which is no image"):
        files.prepare()


def inner(**changed):
    made = {f"{wnid}.tar": tar_bytes(images) for wnid, images in TRAIN.items()}
    return tar_bytes(made | {name.replace("_", "."): tar for name, tar in changed.items()})


@pytest.mark.parametrize(
    ("train", "word"),
    [
        (inner(other_tar=b"1"), "holds 'other.tar', which is no class"),
        (inner(n99999999_tar=b"1"), "holds 'n99999999.tar'"),
        (tar_bytes({f"{WNIDS[0]}.tar": b"1"}), "lacks 2 classes, such as n01443537"),
        (inner(n01443537_tar=b"hello" * 200), "n01443537.tar is no tar file"),
        (inner(n01443537_tar=tar_bytes()), "n01443537.tar holds no image"),
        (
            inner(n01443537_tar=tar_bytes(member("../a"))),
            "n01443537.tar holds a file called '../a'",
        ),
        (inner(n01443537_tar=tar_bytes(member("a b"))), "'a b', which is no name of an image"),
        (inner(n01443537_tar=tar_bytes(member("a", b""))), "a with 0 bytes"),
        (inner(n01443537_tar=tar_bytes(member("a", kind=tarfile.SYMTYPE, link="/"))), "symbolic"),
        (b"", "cut short"),
    ],
)
def test_training_images_that_do_not_fit(files, train, word):
    files.train.write_bytes(train)
    with pytest.raises(DataError) as caught:
        files.prepare(train=files.train)
    assert word in str(caught.value)


@pytest.mark.parametrize("which", ["val", "train"])
def test_a_tar_that_is_no_file(files, tmp_path, which):
    os.mkfifo(tmp_path / "pipe")
    for path, word in (
        (tmp_path / "no", "does not exist"),
        (tmp_path, "no file"),
        (tmp_path / "pipe", "no file"),
    ):
        setattr(files, which, path)
        with pytest.raises(DataError, match=word):
            files.prepare(train=files.train)


def test_the_published_checksums(files, monkeypatch):
    with pytest.raises(DataError, match=f"not the published {preparing.VAL_SHA1}"):
        files.prepare(checksum=True)
    assert not files.output.exists()
    for name, file in (("VAL_SHA1", files.val), ("TRAIN_SHA1", files.train)):
        monkeypatch.setattr(preparing, name, hashlib.sha1(file.read_bytes()).hexdigest())
    files.prepare(train=files.train, checksum=True)
    assert files.seen() == EXPECTED


@pytest.mark.parametrize(
    "stray",
    [
        "val/n99999999/x",
        "val/readme",
        "val/n01440764/stray.JPEG",
        "val/n01443537/ILSVRC2012_val_00000001.JPEG",
        "train/other/x",
    ],
)
def test_a_folder_that_holds_something_else_is_left_alone(files, stray):
    path = files.output / stray
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match="already holds"):
        files.prepare(train=files.train)
    assert path.read_bytes() == b"mine"
    assert len(files.seen()) <= 1


def test_an_output_that_cannot_be_written(files, monkeypatch):
    files.output.write_text("a file")
    with pytest.raises(OutputError, match="cannot write"):
        files.prepare()
    files.output.unlink()

    class Usage:
        free = 1000

    monkeypatch.setattr(placing.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(OutputError, match=r"0.0 GB left"):
        files.prepare()


def test_three_thousand_images_take_seconds(files):
    """A thousand classes and as many look-ups: nothing is quadratic."""
    wnids = [f"n{i:08}" for i in range(1000)]
    names = {f"ILSVRC2012_val_{i:08}.JPEG": wnids[i % 1000] for i in range(3_000)}
    files.val.write_bytes(tar_bytes(dict.fromkeys(names, b"12345")))
    files.map.write_bytes(gzip.compress(pickle.dumps([wnids, list(names.items())], 0)))
    began = time.monotonic()
    assert files.prepare().written == 3_000
    assert time.monotonic() - began < 30
