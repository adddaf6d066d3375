"""What a file is: told by its content, whatever it is called."""

import contextlib
import io as streams
import json
import os
import struct
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models import tiny_resnet
from quantize.conversion.importing import import_model
from quantize.conversion.source import KINDS, Source, find_source
from quantize.errors import ModelError, QuantizeError

HEADER = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
SAFETENSORS = struct.pack("<Q", len(HEADER)) + HEADER + bytes(4)
SYMBOL = b'\n{\n  "nodes": [], "heads": []}'
NET = b"\x0a\x08resnet50\x12\x04\x0a\x02ab"
NET_TEXT = b'# a net\nname: "resnet50"\nop {\n  type: "Conv"\n}\n'


def archive(name):
    buffer = streams.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(name, b"x")
    return buffer.getvalue()


def put(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (tiny_resnet().SerializeToString(), "onnx"),
        (tiny_resnet(opset=7, initializers_as_inputs=True).SerializeToString(), "onnx"),
        (SAFETENSORS, "torch"),
        (archive("archive/data.pkl"), "torch"),
        (b"\x80\x02}q\x00.", "torch"),
    ],
)
@pytest.mark.parametrize("name", ["model.onnx", "model.pb", "model-symbol.json", "model"])
def test_names_do_not_matter(tmp_path, content, kind, name):
    path = put(tmp_path, name, content)
    assert find_source(path) == Source(kind, path)


@pytest.mark.parametrize("content", [SYMBOL, b"{}", b'{"nodes": []}'])
def test_an_mxnet_symbol_finds_the_last_of_its_params(tmp_path, content):
    symbol = put(tmp_path, "net-symbol.json", content)
    for name in ("net-0000.params", "net-0010.params", "net2-0099.params", "other-0100.params"):
        put(tmp_path, name, b"x")
    found = find_source(symbol)
    assert (found.kind, found.weights) == ("mxnet", tmp_path / "net-0010.params")
    given = find_source(symbol, weights=tmp_path / "other-0100.params")
    assert given.files == (symbol, tmp_path / "other-0100.params")


@pytest.mark.parametrize(("content", "suffix"), [(NET, ".pb"), (NET_TEXT, ".pbtxt")])
def test_a_caffe2_net_finds_its_init_net_in_either_form(tmp_path, content, suffix):
    net = put(tmp_path, f"predict_net{suffix}", content)
    with pytest.raises(ModelError, match="no init net beside it; name the init net: --weights"):
        find_source(net)
    init = put(tmp_path, "init_net.pb", b"x")
    assert find_source(net) == Source("caffe2", net, init, None)
    info = put(tmp_path, "value_info.json", b"{}")
    assert find_source(net).files == (net, init, info)
    other = put(tmp_path, "shapes.json", b"{}")
    assert find_source(net, init, other).value_info == other


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer.*git lfs pull"),
        (struct.pack("<QQ", 0x112, 0), "is an MXNet parameter file; name its -symbol.json"),
        (b"\x1f\x8b\x08\x00", "is a gzip archive; unpack it"),
        (b"\n <!DOCTYPE html>", "is a web page"),
        (b"\x89HDF\r\n", "is an HDF5 file"),
        (b"PNG nothing of the kind", "is no model that can be read; give ONNX"),
        (b"\xff\xd8\xff\xe0", "is no model that can be read"),
        (b"{ this is no json", "is no model that can be read"),
        (struct.pack("<Q", 1 << 40) + b"{", "is no model that can be read"),
        (SYMBOL, "has no model-0000.params beside it; name the .params file: --weights"),
    ],
)
def test_something_else_is_named_with_a_cure(tmp_path, content, message):
    path = put(tmp_path, "model.onnx" if content != SYMBOL else "model-symbol.json", content)
    with pytest.raises(ModelError, match=message):
        find_source(path)


def test_what_is_no_file_is_refused_and_nothing_waits(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        find_source(tmp_path / "none")
    with pytest.raises(ModelError, match="is not a file"):
        find_source(tmp_path)
    with pytest.raises(ModelError, match="cannot be read: File name too long"):
        find_source(tmp_path / ("x" * 300))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="is not a file"):
        find_source(tmp_path / "pipe")
    symbol = put(tmp_path, "a-symbol.json", SYMBOL)
    with pytest.raises(ModelError, match=r"none\.params does not exist"):
        find_source(symbol, weights=tmp_path / "none.params")


def test_files_that_belong_to_something_else_are_refused(tmp_path):
    model = put(tmp_path, "m.onnx", tiny_resnet().SerializeToString())
    with pytest.raises(
        ModelError, match="is an ONNX file, which holds its weights; drop --weights"
    ):
        find_source(model, weights=model)
    symbol = put(tmp_path, "a-symbol.json", SYMBOL)
    with pytest.raises(ModelError, match="drop --value-info"):
        find_source(symbol, value_info=model)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=64)
    | st.tuples(
        st.sampled_from([SAFETENSORS, SYMBOL, NET, NET_TEXT, b"\x08\x03", b"PK\x03\x04"]),
        st.binary(max_size=20),
    ).map(b"".join)
)
def test_any_bytes_have_a_kind_or_an_error_for_people(tmp_path, content):
    path = put(tmp_path, "x", content)
    with contextlib.suppress(QuantizeError):  # anything else escapes
        assert find_source(path).path == path


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_a_reader_that_refuses_what_it_cannot_read(tmp_path, kind):
    path, weights = put(tmp_path, "x", b"\x00 no model"), put(tmp_path, "y", b"\x00 nothing")
    with pytest.raises(ModelError, match=r"/[xy]\b"):
        import_model(Source(kind, path, weights if kind in ("mxnet", "caffe2") else None))
