"""Which blob is the image: declared, told by a place holder, or assumed and said."""

import numpy as np
import pytest

from caffe2_nets import binary, fill, init_net, net, op
from quantize.conversion.caffe2_fills import Weights
from quantize.conversion.caffe2_inputs import Image, find_image, read_value_info
from quantize.conversion.caffe2_net import parse_net
from quantize.errors import ModelError

WEIGHT = np.ones((4, 2, 1, 1))


def found(*operators, declared=None, holders=(), **blobs):
    init = net(*init_net(**blobs).op, *holders)
    weights = Weights(parse_net(binary(init)))
    return find_image(parse_net(binary(net(*operators))), weights, declared or {})


def refused(call, *words):
    with pytest.raises(ModelError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


# ------------------------------------------------------------------------ value_info.json


def test_value_info_is_read(tmp_path):
    path = tmp_path / "value_info.json"
    path.write_text('{"gpu_0/data": [1, [1, 3, 224, 224]], "labels": [2, [1]], "b": [1, []]}')
    assert read_value_info(path) == {"gpu_0/data": (1, 3, 224, 224), "b": ()}


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "3", '"x"', '{"a": 1}', '{"a": [1]}', '{"a": [1, 3]}', '{"a": [1, ["3"]]}',
        '{"a": [1, [1.5]]}', '{"a": [true, [1]]}', '{"a": [1, [1], 2]}', '{"a": {"b": 1}}',
        "[" * 100_000, "1" * 5000, b"\xff\xfe", '{"a": [1, [NaN]]}', "{}" + " " * 2**20,
    ],
    ids=lambda content: repr(content[:14]),
)  # fmt: skip
def test_value_info_that_says_something_else(tmp_path, content):
    path = tmp_path / "value_info.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    refused(lambda: read_value_info(path), str(path), "value_info.json")


def test_value_info_that_is_not_there(tmp_path):
    refused(lambda: read_value_info(tmp_path / "none"), "none", "cannot be read")
    refused(lambda: read_value_info(tmp_path), "cannot be read")


# ------------------------------------------------------------------------------- declared

CONV = op("Conv", "data w", "y", kernel=1)


def test_the_declared_input_is_taken():
    image = found(CONV, declared={"data": (1, 2, 50, 60), "other": (3,)}, w=WEIGHT)
    assert image == Image("data", (2, 50, 60), False, ())
    both = {"data": (1, 2, 50, 60), "w": (4, 2, 1, 1)}
    assert found(CONV, declared=both, w=WEIGHT).blob == "data"


@pytest.mark.parametrize(
    "shape", [(2, 50, 60), (1, 2, 50), (1, 0, 5, 5), (1, 2, -5, 5), (1, 2, 5, 5000), ()]
)
def test_declared_sizes_that_cannot_be(shape):
    refused(lambda: found(CONV, declared={"data": shape}, w=WEIGHT), "'data'", str(list(shape)))


@pytest.mark.parametrize("names", [["x"], ["y"], ["data", "more"]])
def test_declared_inputs_that_are_not_read(names):
    declared = dict.fromkeys(names, (1, 2, 5, 5))
    more = op("Sum", "y more", "z")
    refused(lambda: found(CONV, more, declared=declared), repr(names[0]), "'data'")


# --------------------------------------------------------------------------------- found


def test_the_input_is_what_an_operator_reads_first():
    bias = op("Conv", "y w2", "z", kernel=1)
    image = found(CONV, bias, w=WEIGHT)
    assert (image.blob, image.size, image.assumed) == ("data", (2, 224, 224), True)
    assert image.steps == ("assumed images of 2x224x224: there is no value_info.json",)


def test_channels_are_told_by_the_first_weights():
    grouped = op("Conv", "data w", "y", kernel=1, group=3)
    assert found(grouped, w=WEIGHT).size[0] == 6
    bn = op("SpatialBN", "data s b m v", "y", is_test=1)
    assert found(bn, s=np.ones(5)).size[0] == 5
    refused(lambda: found(op("MaxPool", "data", "y")), "how many channels", "value_info.json")
    refused(lambda: found(CONV), "how many channels")
    refused(lambda: found(CONV, w=np.ones(3)), "how many channels")


def test_a_place_holder_tells_the_size():
    holder = op("GivenTensorFill", "", "data", shape=[1, 2, 30, 40])
    image = found(CONV, holders=[holder], w=WEIGHT)
    assert (image.size, image.assumed) == ((2, 30, 40), False)
    one = op("ConstantFill", "", "data", shape=[1], value=0.0)
    assert found(CONV, holders=[one], w=WEIGHT).size == (2, 224, 224)
    large = op("ConstantFill", "", "data", shape=[1, 2, 1 << 30, 1 << 30], value=0.0)
    refused(lambda: found(CONV, holders=[large], w=WEIGHT), "'data'", "4096")


def test_no_input_or_two():
    two = op("Conv", "left w", "y", kernel=1), op("Conv", "right w", "z", kernel=1)
    refused(lambda: found(*two, w=WEIGHT), "2 possible", "'left'", "'right'", "value_info.json")
    refused(lambda: found(fill("w", WEIGHT)), "0 possible", "none", "value_info.json")
