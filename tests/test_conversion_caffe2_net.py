"""Caffe2 nets are read as protobuf itself reads them, in every form; what is none is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caffe2_nets import FORMS, argument, binary, messages, net, op, text
from quantize.conversion.caffe2_fields import DamagedError
from quantize.conversion.caffe2_net import parse_net, read_net
from quantize.errors import ModelError

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(width=32, allow_nan=False)


@st.composite
def operators(draw):
    """An OperatorDef with any arguments."""
    made = messages()["OperatorDef"](
        type=draw(st.sampled_from(["Conv", "Sum", "été", 'odd"\\\n'])),
        input=draw(st.lists(NAMES, max_size=3)),
        output=draw(st.lists(NAMES, max_size=2)),
    )
    for name in draw(st.lists(NAMES, max_size=3, unique=True)):
        arg = made.arg.add(name=name)
        for field, values in (("f", FLOATS), ("i", INTEGERS), ("s", st.binary(max_size=9))):
            if draw(st.booleans()):
                setattr(arg, field, draw(values))
        arg.floats.extend(draw(st.lists(FLOATS, max_size=40)))
        arg.ints.extend(draw(st.lists(INTEGERS, max_size=5)))
        arg.strings.extend(draw(st.lists(st.binary(max_size=9), max_size=3)))
        if draw(st.booleans()):
            arg.nets.add(name="inner").op.add(type="x", input=["{"])
    if draw(st.booleans()):
        made.device_option.node_name = draw(NAMES)
        made.is_gradient_op = draw(st.booleans())
    return made


@settings(max_examples=80, deadline=None)
@given(st.lists(operators(), min_size=1, max_size=3), st.lists(NAMES, max_size=2), NAMES)
def test_every_form_is_read_as_protobuf_reads_it(ops, outputs, name):
    message = messages()["NetDef"](name=name, op=ops, external_output=outputs, num_workers=3)
    message.external_input.extend(["a", "b"])
    for form, write in FORMS.items():
        content = write(message)
        if form == "text" and b"\x7f" in content:
            content = content.replace(b"\x7f", b"\\177")
        same(parse_net(content), message)


def same(got, message):
    assert got.name == message.name
    assert got.outputs == tuple(message.external_output)
    assert len(got.operators) == len(message.op)
    for one, other in zip(got.operators, message.op, strict=True):
        assert (one.type, one.inputs) == (other.type, tuple(other.input))
        assert one.outputs == tuple(other.output)
        assert list(one.arguments) == [arg.name for arg in other.arg]
        for arg in other.arg:
            mine = one.arguments[arg.name]
            for value, field in ((mine.number, "f"), (mine.integer, "i"), (mine.text, "s")):
                assert value == (getattr(arg, field) if arg.HasField(field) else None)
            assert mine.numbers.dtype == np.float32
            np.testing.assert_array_equal(mine.numbers, np.array(arg.floats, np.float32))
            assert mine.integers == tuple(arg.ints)
            assert mine.texts == tuple(arg.strings)


def test_the_forms_are_told_apart_by_content(tmp_path):
    message = net(op("Relu", "data", "y"))
    for name, content in (("net.pb", text(message)), ("net.pbtxt", binary(message))):
        (tmp_path / name).write_bytes(content)
        assert read_net(tmp_path / name, "predict net").operators[0].type == "Relu"
    (tmp_path / "marked").write_bytes(b"\xef\xbb\xbf\n# remark\n" + text(message))
    assert read_net(tmp_path / "marked", "predict net").operators[0].outputs == ("y",)


def test_arguments_have_kinds():
    relu = net(op("Relu", "x", "y", i=3, f=0.5, s="word", ints=[1, 2]))
    got = parse_net(binary(relu)).operators[0]
    assert (got.integer("i", 9), got.integer("none", 9)) == (3, 9)
    assert (got.number("f", 9.0), got.number("i", 9.0), got.number("none", 9.0)) == (0.5, 3.0, 9.0)
    assert (got.text("s", ""), got.text("none", "z")) == ("word", "z")
    assert (got.integers("ints"), got.integers("none")) == ((1, 2), ())
    for ask in (
        lambda: got.integer("f", 0),
        lambda: got.number("s", 0.0),
        lambda: got.text("i", ""),
    ):
        with pytest.raises(ModelError, match=r"Relu \(which makes 'y'\) has an argument"):
            ask()


def refused(path, *words):
    with pytest.raises(ModelError) as caught:
        read_net(path, "init net")
    message = str(caught.value)
    assert "\n" not in message
    for word in ("init net", str(path), *words):
        assert word in message, message


OTHER_FILES = {
    "empty": (b"", "is empty"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "json": (b'{"nodes": []}', "not a Caffe2 net"),
    "prose": (b"dear reader,\n", "no field of NetDef"),
    "zeros": (bytes(1000), "field 0"),
    "pickle": (b"\x80\x04\x95\x00\x00", "not a Caffe2 net"),
    "zip": (b"PK\x03\x04" + bytes(50), "not a Caffe2 net"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(50), "not a Caffe2 net"),
    "utf16": ('op { type: "x" }'.encode("utf-16"), "not a Caffe2 net"),
    "blank": (b" \n ", "no operators"),
    "name only": (b'name: "x"', "no operators"),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_files_that_are_something_else(tmp_path, kind):
    content, word = OTHER_FILES[kind]
    path = tmp_path / "file"
    path.write_bytes(content)
    refused(path, word)


def test_an_onnx_model_is_no_caffe2_net(tmp_path):
    from models import tiny_resnet

    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_resnet().SerializeToString())
    refused(path, "not a Caffe2 net")


def test_paths_that_are_no_files(tmp_path):
    refused(tmp_path / "none", "does not exist")
    refused(tmp_path, "is not a file")
    refused(tmp_path / ("x" * 300), "cannot be read")


def test_a_file_over_two_gigabytes(tmp_path):
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(2**31)  # holds nothing on disk
    refused(path, "2 GiB")


def test_names_are_text_and_short():
    with pytest.raises(DamagedError, match="a name of 501 bytes"):
        parse_net(binary(net(op("Relu", "x", "y" * 501))))
    content = binary(net(op("Relu", "x", "yyy"))).replace(b"yyy", b"y\xff\xfe")
    with pytest.raises(DamagedError, match="not UTF-8"):
        parse_net(content)


def test_an_argument_given_twice():
    relu = op("Relu", "x", "y", a=1)
    relu.arg.add().CopyFrom(argument("a", 2))
    with pytest.raises(DamagedError, match="'a' of 'Relu' is there twice"):
        parse_net(binary(net(relu)))


def test_an_operator_without_a_type():
    with pytest.raises(DamagedError, match="no type"):
        parse_net(binary(net(op("", "x", "y"))))
