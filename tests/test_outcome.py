import errno
import os
from pathlib import Path

import numpy as np
import pytest

from conftest import tree
from quantize import outcome
from quantize.errors import OutputError
from quantize.files import sha256
from quantize.outcome import check_output, keep_best, publish, set_aside
from quantize.plan import Plan, SearchResult, Trial


@pytest.fixture
def place(tmp_path):
    (tmp_path / "float.onnx").write_bytes(b"float")
    (tmp_path / "job.yaml").write_bytes(b"yaml")
    return tmp_path


def check(place, output):
    check_output(place / "float.onnx", place / "job.yaml", output)


def test_a_new_path_and_an_older_file_can_be_written(place):
    (place / "older.onnx").write_bytes(b"older")
    before = tree(place)
    check(place, place / "new.onnx")
    check(place, place / "older.onnx")
    assert tree(place) == before


def test_a_configuration_without_a_file(place):
    check_output(place / "float.onnx", None, place / "new.onnx")


def test_a_missing_model_is_not_the_outputs_affair(place):
    check_output(place / "none.onnx", None, place / "new.onnx")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("float.onnx", "is the input model itself"),
        ("job.yaml", "is the configuration itself"),
        ("../{}/float.onnx", "is the input model itself"),
        ("linked", "is the input model itself"),
        (".", "is a folder"),
        ("..", "is a folder"),
        ("none/new.onnx", "create the folder first"),
        ("float.onnx/new.onnx", "name a path inside a folder"),
        ("n" * 300, "choose a shorter name"),
    ],
)
def test_what_cannot_be_the_output(place, name, says):
    (place / "linked").symlink_to(place / "float.onnx")
    before = tree(place)
    with pytest.raises(OutputError, match=says):
        check(place, place / name.format(place.name))
    assert tree(place) == before


@pytest.mark.parametrize(("source", "what"), [("float.onnx", "model"), ("job.yaml", "config")])
def test_an_older_output_must_not_be_renamed_over_an_input(place, source, what):
    (place / "out.old").hardlink_to(place / source)
    with pytest.raises(OutputError, match=rf"renamed out\.old, and that is the .*{what}"):
        check(place, place / "out")


def test_a_folder_where_the_older_output_would_go(place):
    (place / "out.old").mkdir()
    with pytest.raises(OutputError, match=r"renamed out\.old, and that is a folder"):
        check(place, place / "out")


def test_an_older_output_is_set_aside_once_more(tmp_path):
    output = tmp_path / "out"
    set_aside(output)
    assert list(tmp_path.iterdir()) == []
    for content in (b"first", b"second"):
        output.write_bytes(content)
        set_aside(output)
        assert tree(tmp_path) == {"out.old": content}


def test_an_output_that_cannot_be_set_aside(tmp_path):
    output = tmp_path / "out"
    output.write_bytes(b"older")
    (tmp_path / "out.old").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*out: Is a directory"):
        set_aside(output)
    assert output.read_bytes() == b"older"


def test_what_is_published_is_whole_or_absent(tmp_path, monkeypatch):
    best = tmp_path / "best.onnx"
    best.write_bytes(b"int8")
    assert publish(best, tmp_path / "out") == tmp_path / "out"
    assert sha256(tmp_path / "out") == sha256(best)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    before = tree(tmp_path)
    with pytest.raises(OutputError, match="No space left on device; free some space"):
        publish(best, tmp_path / "new")
    assert tree(tmp_path) == before


class Folder:
    """Keeps what would be written."""

    def __init__(self, path):
        self.path = path
        self.written = {}

    def write(self, name, content):
        self.written[name] = content
        return self.path / name

    write_json = write
    write_arrays = None


def test_the_best_file_is_kept_with_its_plan(tmp_path):
    (tmp_path / "candidate.onnx").write_bytes(b"int8")
    plan = Plan("onnxruntime", "qdq", keep_float=("conv0",))
    trial = Trial(plan, tmp_path / "candidate.onnx", 0.9, None, None, True, "", 1.0)
    run = Folder(Path("run"))
    assert keep_best(SearchResult(trial, (trial,), ""), run) == Path("run/best.onnx")
    assert run.written == {"plan.json": plan.to_json(), "best.onnx": b"int8"}


def test_a_search_without_a_file_has_nothing_to_keep(tmp_path):
    with pytest.raises(ValueError, match="no file to keep"):
        keep_best(SearchResult(None, (), ""), Folder(tmp_path))


def test_arrays_of_the_outcome_are_in_the_order_of_the_images(done):
    job, result = done
    with np.load(job.run / "outcomes.npz", allow_pickle=False) as arrays:
        assert len(set(arrays["digest"].tolist())) == result.verdict.images
        assert arrays["digest"].dtype == "S64"  # memory that grows with the images
        right = arrays["int8_top5"][:, 0] == arrays["label"]
        assert right.mean() == result.verdict.int8_top1
        assert arrays["label"].dtype == arrays["float_top5"].dtype == np.int64
    assert outcome.BEST == "best.onnx"
