"""Model files: every way in which one can be wrong has its error, and saving loses nothing."""

import errno
import os

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.external_data_helper import convert_model_to_external_data

from graphs import build
from models import tiny_resnet
from quantize.errors import ModelError, OutputError
from quantize.graph import io, tensors

SMALL = """(float[N,3,4,4] x) => (float[N,2] y) {
    p = GlobalAveragePool(x) f = Flatten(p) y = MatMul(f, w) }"""


@pytest.fixture(scope="module")
def resnet():
    return tiny_resnet()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.onnx"


def refuse(path, *words):
    with pytest.raises(ModelError) as caught:
        io.load(path)
    text = str(caught.value)
    assert "\n" not in text
    for word in (str(path), *words):
        assert word in text


# ------------------------------------------------------------------------ whole files


def test_what_is_saved_is_loaded(file, resnet):
    io.save(resnet, file)
    assert io.load(file) == resnet


def test_saving_the_same_model_gives_the_same_bytes(file, resnet):
    io.save(resnet, file)
    first = file.read_bytes()
    io.save(onnx.ModelProto.FromString(resnet.SerializeToString()), file)
    assert file.read_bytes() == first == io.to_bytes(resnet)


@pytest.mark.parametrize("name", ["model.json", "model.textproto", "model.onnxtxt", "model"])
def test_the_ending_of_the_name_does_not_matter(tmp_path, resnet, name):
    io.save(resnet, tmp_path / name)
    assert io.load(tmp_path / name) == resnet


def test_a_disk_that_fills_up_keeps_the_old_file(file, resnet, monkeypatch):
    file.write_bytes(b"old")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"cannot write .*model\.onnx: No space left on device"):
        io.save(resnet, file)
    assert file.read_bytes() == b"old"
    assert list(file.parent.iterdir()) == [file]


def test_a_model_that_protobuf_cannot_write_is_refused(resnet, monkeypatch):
    class Large:
        def SerializeToString(self, deterministic):
            raise io.EncodeError("Failed to serialize proto")

    with pytest.raises(ModelError, match="larger than 2 GiB"):
        io.to_bytes(Large())


# ---------------------------------------------------------------------- damaged files


def test_missing_file(file):
    refuse(file, "does not exist")


def test_folder_instead_of_a_file(tmp_path):
    refuse(tmp_path, "is not a file")


def test_a_name_that_no_file_can_have(tmp_path):
    refuse(tmp_path / ("m" * 300), "cannot be read", "File name too long")


def test_empty_file(file):
    file.touch()
    refuse(file, "is empty")


def test_lfs_pointer(file):
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n")
    refuse(file, "Git LFS pointer", "git lfs pull")


@pytest.mark.parametrize("name", ["model.onnx", "model.json", "model.onnxtxt"])
@pytest.mark.parametrize(
    "content",
    [b"<html>404 Not Found</html>", b"{}", b"\x00", b"\xff" * 100, b"PK\x03\x04 zip", b"\x08\x07"],
)
def test_something_else_than_onnx(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refuse(tmp_path / name)


@given(st.binary(min_size=1, max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_refused_or_a_model(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    path.write_bytes(content)
    refuse(path)


def test_a_file_that_is_too_large_is_refused_unread(file):
    with file.open("wb") as sparse:
        sparse.truncate(1 << 32)
    refuse(file, "larger than 2 GiB")


def test_a_file_cut_anywhere_is_refused_or_the_same_model(file, resnet):
    other = onnx.ModelProto.FromString(resnet.SerializeToString())
    other.opset_import.add(domain="com.microsoft", version=1)
    other.graph.node[0].domain = "com.microsoft"
    other.metadata_props.add(key="a", value="b" * 20)
    for model in (resnet, other):
        whole = io.to_bytes(model)
        cuts = {*range(1, len(whole), 499), *range(1, 150), *range(len(whole) - 150, len(whole))}
        loaded = 0
        for cut in sorted(cuts):
            file.write_bytes(whole[:cut])
            try:
                seen = io.load(file)
            except ModelError:
                continue
            loaded += 1
            assert (seen.graph, list(seen.opset_import)) == (model.graph, list(model.opset_import))
        assert loaded <= 2


def test_a_file_whose_field_is_lost_is_refused(file, resnet):
    for field, words in (
        ("initializer", "nothing provides"),
        ("input", "nothing provides"),
        ("node", "no graph"),
        ("output", "no output"),
    ):
        model = onnx.ModelProto.FromString(resnet.SerializeToString())
        model.graph.ClearField(field)
        file.write_bytes(model.SerializeToString())
        refuse(file, words)


def test_an_output_that_nothing_makes_is_named(file, resnet):
    model = onnx.ModelProto.FromString(resnet.SerializeToString())
    model.graph.output[0].name = "nothing"
    file.write_bytes(model.SerializeToString())
    refuse(file, "no node makes the output 'nothing'")


def test_nodes_may_stand_in_any_order(file, resnet):
    model = onnx.ModelProto.FromString(resnet.SerializeToString())
    nodes = list(reversed(resnet.graph.node))
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    io.save(model, file)
    assert io.load(file) == model


@pytest.mark.parametrize("index", range(4))
def test_weights_that_do_not_fill_their_dimensions(file, index):
    model = build(SMALL, w=(3, 2))
    tensor = model.graph.initializer[0]
    if index == 0:
        tensor.raw_data = tensor.raw_data[:-1]
    elif index == 1:
        tensor.dims[0] = 1 << 40
    elif index == 2:
        tensor.dims[0] = -1
    else:
        tensor.ClearField("raw_data")
        tensor.float_data.extend([0.0] * 5)
    file.write_bytes(model.SerializeToString())
    refuse(file, "'w'", "does not hold")


@pytest.mark.parametrize("name", ["relu1", "conv1_fwd", "conv1_weight", "kernel_shape"])
def test_a_name_that_is_no_text_is_refused(file, resnet, name):
    """Protobuf reads it as bytes, which nothing after expects."""
    content = io.to_bytes(resnet)
    assert name.encode() in content
    file.write_bytes(content.replace(name.encode(), b"\xff" * len(name)))
    with pytest.raises(ModelError, match="has a name that is no text; the file is damaged"):
        io.load(file)


def test_weights_of_every_type_and_form_are_whole(file):
    model = build(SMALL, w=(3, 2))
    kinds = [t for t in onnx.TensorProto.DataType.values() if t not in (0, onnx.TensorProto.STRING)]
    for kind in kinds:
        for raw in (False, True):
            if raw and kind not in tensors._BITS:
                continue
            values = b"\0" * ((7 * tensors._BITS[kind] + 7) // 8) if raw else [0] * 7
            model.graph.initializer.append(
                onnx.helper.make_tensor(f"t{kind}{raw}", kind, [7], values, raw)
            )
    model.graph.initializer.append(
        onnx.helper.make_tensor("words", onnx.TensorProto.STRING, [2], [b"a", b"b"])
    )
    io.save(model, file)
    assert io.load(file) == model


# ---------------------------------------------------------------------- external data


@pytest.fixture
def outside(file):
    """A model whose weights lie in weights.bin beside it, and the model as it was."""
    model = build(SMALL, w=(3, 2))
    whole = onnx.ModelProto.FromString(model.SerializeToString())
    convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save_model(model, file)
    return file, whole


def relocate(file, **entries):
    model = onnx.load_model(file, load_external_data=False)
    tensor = model.graph.initializer[0]
    for entry in list(tensor.external_data):
        if entry.key in entries:
            tensor.external_data.remove(entry)
    for key, value in entries.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    file.write_bytes(model.SerializeToString())


def test_external_data_is_read_and_saved_inside(outside):
    file, whole = outside
    loaded = io.load(file)
    assert loaded.graph.initializer[0].raw_data == whole.graph.initializer[0].raw_data
    assert not loaded.graph.initializer[0].external_data
    (file.parent / "weights.bin").unlink()
    io.save(loaded, file)
    np.testing.assert_array_equal(
        onnx.numpy_helper.to_array(io.load(file).graph.initializer[0]),
        onnx.numpy_helper.to_array(whole.graph.initializer[0]),
    )


def test_external_data_without_offset_and_length_is_the_whole_file(outside):
    file, whole = outside
    relocate(file, offset=None, length=None)
    assert io.load(file).graph.initializer[0].raw_data == whole.graph.initializer[0].raw_data


def test_external_data_may_begin_anywhere_in_its_file(outside):
    file, whole = outside
    data = file.parent / "weights.bin"
    data.write_bytes(b"other" + data.read_bytes() + b"more")
    relocate(file, offset="5")
    assert io.load(file).graph.initializer[0].raw_data == whole.graph.initializer[0].raw_data


def test_external_data_in_an_attribute_is_read_too(outside):
    file, whole = outside
    model = onnx.load_model(file, load_external_data=False)
    node = model.graph.node.add(op_type="Constant", output=["w"])
    attribute = node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    attribute.t.CopyFrom(model.graph.initializer.pop())
    file.write_bytes(model.SerializeToString())
    constant = io.load(file).graph.node[-1].attribute[0].t
    assert constant.raw_data == whole.graph.initializer[0].raw_data
    attribute.t.external_data[0].value = "../weights.bin"
    file.write_bytes(model.SerializeToString())
    refuse(file, "outside its folder")


def test_external_data_missing(outside):
    file, _ = outside
    (file.parent / "weights.bin").unlink()
    refuse(file, "'weights.bin'", "'w'", "is missing", f"put it into {file.parent}")


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "a/../../weights.bin", ""])
def test_external_data_outside_the_folder(outside, location):
    file, _ = outside
    (file.parent.parent / "weights.bin").write_bytes(b"\0" * 24)
    relocate(file, location=location)
    refuse(file, "'w'", "lies outside its folder")


def test_external_data_behind_a_link(outside, tmp_path_factory):
    file, whole = outside
    data = file.parent / "weights.bin"
    inside = data.rename(file.parent / "moved.bin")
    data.symlink_to(inside.name)
    assert io.load(file).graph.initializer[0].raw_data == whole.graph.initializer[0].raw_data
    secret = tmp_path_factory.mktemp("elsewhere") / "secret"
    secret.write_bytes(inside.read_bytes())
    data.unlink()
    data.symlink_to(secret)
    refuse(file, "lies outside its folder")


@pytest.mark.parametrize(
    "entries",
    [
        {"location": "w\0.bin"},
        {"location": "w" * 300},
        {"location": "."},
        {"offset": "1"},
        {"offset": "-8"},
        {"offset": "many"},
        {"length": "8"},
        {"length": str(1 << 50)},
        {"length": "\N{SUPERSCRIPT TWO}"},
    ],
)
def test_external_data_that_cannot_be_right(outside, entries):
    file, _ = outside
    relocate(file, **entries)
    refuse(file, "'w'")


def test_external_data_cut_short(outside):
    file, _ = outside
    data = file.parent / "weights.bin"
    data.write_bytes(data.read_bytes()[:-1])
    refuse(file, "'w'", "weights.bin is cut short")


def test_external_data_with_odd_keys_is_only_data(outside):
    file, whole = outside
    relocate(file, __class__="x", checksum="no")
    assert io.load(file).graph.initializer[0].raw_data == whole.graph.initializer[0].raw_data


def test_external_data_that_would_fill_the_memory_is_refused_unread(outside):
    file, _ = outside
    with (file.parent / "weights.bin").open("wb") as sparse:
        sparse.truncate(1 << 32)
    model = onnx.load_model(file, load_external_data=False)
    model.graph.initializer[0].dims[0] = 1 << 29
    file.write_bytes(model.SerializeToString())
    relocate(file, offset=None, length=None)
    refuse(file, "larger than 2 GiB")
