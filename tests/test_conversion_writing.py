"""Converted files: whole or not at all, beside nothing of their source, without private words."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from conftest import tree
from graphs import noise
from models import tiny_resnet
from quantize.conversion import writing
from quantize.conversion.source import Source
from quantize.conversion.writing import check_output, data_file, source_files, write_model
from quantize.errors import OutputError
from quantize.graph import io
from quantize.runtime import Session

MODEL = tiny_resnet(32)
IMAGES = noise(2, 3, 16, 16)


def arrays(model):
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


@pytest.mark.parametrize("external", [False, True])
def test_what_is_written_is_read_again(tmp_path, external):
    output = tmp_path / "out.onnx"
    files = write_model(MODEL, output, external_data=external)
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert files == ((output, data_file(output)) if external else (output,))
    read, expected = arrays(io.load(output)), arrays(MODEL)
    assert read.keys() == expected.keys()
    assert all(np.array_equal(read[name], expected[name]) for name in read)
    np.testing.assert_array_equal(
        Session(output).predict(IMAGES), Session(MODEL.SerializeToString()).predict(IMAGES)
    )
    onnx.checker.check_model(str(output), full_check=True)
    first = tree(tmp_path)
    write_model(MODEL, output, external_data=external)
    assert tree(tmp_path) == first


def test_external_weights_lie_aligned_and_are_all_of_the_file(tmp_path):
    output = tmp_path / "out.onnx"
    odd = tiny_resnet(33)
    write_model(odd, output, external_data=True)
    model = onnx.load_model(output, load_external_data=False)
    outside = [t for t in model.graph.initializer if t.external_data]
    assert {t.name for t in outside} == {n for n, a in arrays(odd).items() if a.nbytes >= 1024}
    for tensor in outside:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        assert entries["location"] == "out.onnx.data"
        assert int(entries["offset"]) % 64 == 0


@pytest.mark.parametrize("external", [False, True])
def test_a_failed_write_leaves_everything_as_it_was(tmp_path, monkeypatch, external):
    output = tmp_path / "out.onnx"
    output.write_bytes(b"older")
    data_file(output).write_bytes(b"older data")
    before = tree(tmp_path)

    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "swap" if external else "to_bytes", broken)
    with pytest.raises((OutputError, OSError)):
        write_model(MODEL, output, external_data=external)
    assert tree(tmp_path) == before


def test_a_second_file_that_cannot_be_placed_takes_the_first_back(tmp_path, monkeypatch):
    output = tmp_path / "out.onnx"
    data_file(output).write_bytes(b"older data")
    before = tree(tmp_path)
    rename = type(output).rename

    def stumbling(self, target):
        if target == output:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(type(output), "rename", stumbling)
    with pytest.raises(OutputError, match=r"cannot write .*out\.onnx: Input/output error"):
        write_model(MODEL, output, external_data=True)
    assert tree(tmp_path) == before


def test_nothing_of_the_machine_that_exported_it(tmp_path):
    model = onnx.ModelProto()
    model.CopyFrom(MODEL)
    model.doc_string = model.graph.doc_string = "exported in /home/someone/project"
    model.graph.node[0].doc_string = 'File "/home/someone/net.py", line 3'
    model.graph.initializer[0].doc_string = "/root/weights.npz"
    model.metadata_props.add(key="path", value="/Users/someone/x")
    model.metadata_props.add(key="classes", value="cat dog")
    output = tmp_path / "out.onnx"
    write_model(model, output, external_data=False)
    content = output.read_bytes()
    assert not any(word in content for word in (b"someone", b"/root", str(tmp_path).encode()))
    read = onnx.load(output)
    assert [(p.key, p.value) for p in read.metadata_props] == [("classes", "cat dog")]
    assert read.producer_name == "quantize"


def test_a_name_that_is_a_folder_is_told(tmp_path, caplog):
    model = onnx.ModelProto()
    model.CopyFrom(MODEL)
    model.graph.node[0].name = "/home/someone/net/conv"
    write_model(model, tmp_path / "out.onnx", external_data=False)
    assert "names a folder of the machine that made it: the name of node" in caplog.text


def test_the_source_is_never_replaced(tmp_path):
    source, weights = tmp_path / "net.onnx", tmp_path / "net.onnx.data"
    write_model(MODEL, source, external_data=True)
    files = source_files(Source("onnx", source))
    assert set(files) == {source, weights}
    (tmp_path / "link.onnx").symlink_to(source)
    (tmp_path / "hard.onnx").hardlink_to(source)
    for output in (source, weights, tmp_path / "link.onnx", tmp_path / "hard.onnx"):
        with pytest.raises(OutputError, match="is the source; name another file"):
            check_output(output, files, external_data=False)
    other = tmp_path / "other"
    check_output(other, files, external_data=True)
    with pytest.raises(OutputError, match="is the source"):
        check_output(tmp_path / "net.onnx", [weights], external_data=True)
    with pytest.raises(OutputError, match="choose a shorter name"):
        check_output(tmp_path / ("x" * 300), files, external_data=False)
    with pytest.raises(OutputError, match="is a folder"):
        check_output(tmp_path, files, external_data=False)
    with pytest.raises(OutputError, match="create the folder first"):
        check_output(tmp_path / "none" / "x.onnx", files, external_data=False)


def test_a_damaged_source_is_the_importers_affair(tmp_path):
    path = tmp_path / "x.onnx"
    path.write_bytes(b"\x08\xff\xff")
    assert source_files(Source("onnx", path)) == [path]
    assert source_files(Source("torch", path)) == [path]
