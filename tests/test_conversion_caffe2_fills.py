"""The init net: what fills a blob with weights, and what only claims to."""

import numpy as np
import pytest

from caffe2_nets import binary, net, op
from quantize.conversion.caffe2_fills import MOST_CONSTANT, Weights, shape_of
from quantize.conversion.caffe2_net import parse_net
from quantize.errors import ModelError


def weights(*operators):
    return Weights(parse_net(binary(net(*operators))))


def refused(operator, *words):
    with pytest.raises(ModelError) as caught:
        weights(operator)["w"]
    text = str(caught.value)
    assert "\n" not in text
    for word in (operator.type, "'w'", *words):
        assert word in text, text


def floats(*values):
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("operator", "value"),
    [
        (op("GivenTensorFill", "", "w", shape=[2, 1], values=floats(1.5, 2)), [[1.5], [2]]),
        (op("GivenTensorFill", "", "w", shape=[0, 3], values=floats()), np.zeros((0, 3))),
        (op("GivenTensorFill", "", "w", values=floats(7)), 7),
        (op("GivenTensorDoubleFill", "", "w", shape=[1], values=floats(3)), [3]),
        (op("GivenTensorIntFill", "", "w", shape=[2], values=[3, -4]), [3, -4]),
        (op("GivenTensorInt64Fill", "", "w", shape=[1], values=[2**40]), [2**40]),
        (op("GivenTensorBoolFill", "", "w", shape=[2], values=[0, 1]), [0, 1]),
        (op("ConstantFill", "", "w", shape=[2, 2], value=0.5), [[0.5, 0.5], [0.5, 0.5]]),
        (op("ConstantFill", "", "w", shape=[2]), [0, 0]),
        (op("ConstantFill", "", "w", shape=[2], value=3, dtype=10), [3, 3]),
    ],
    ids=lambda value: getattr(value, "type", ""),
)
def test_fills(operator, value):
    got = weights(operator)["w"]
    np.testing.assert_array_equal(got, np.array(value))
    whole = "Int" in operator.type or "Bool" in operator.type or "dtype" in str(operator)
    assert got.dtype == (np.int64 if whole else np.float32)


def test_bytes_are_small_integers():
    fill = op("GivenTensorByteStringToUInt8Fill", "", "w", shape=[3], values=b"\x00\x07\xff")
    np.testing.assert_array_equal(weights(fill)["w"], np.array([0, 7, 255], np.uint8))
    fill.arg[1].strings.append(fill.arg[1].s)
    fill.arg[1].ClearField("s")
    np.testing.assert_array_equal(weights(fill)["w"], np.array([0, 7, 255], np.uint8))


def test_of_several_fills_the_last_counts():
    first = op("ConstantFill", "", "w", shape=[1], value=1.0)
    last = op("ConstantFill", "", "w", shape=[1], value=2.0)
    both = weights(first, op("Free", "x", ""), last)
    assert (both["w"], len(both), list(both), "w" in both) == ([2], 1, ["w"], True)
    assert "v" not in both
    with pytest.raises(KeyError):
        both["v"]


@pytest.mark.parametrize(
    ("operator", "word"),
    [
        (op("GivenTensorFill", "", "w", shape=[2, 2], values=floats(1, 2, 3)), "holds 3 values"),
        (op("GivenTensorFill", "", "w", shape=[-1, -3], values=floats(1, 2, 3)), "impossible"),
        (op("GivenTensorFill", "", "w", shape=[2**62, 2**62], values=floats(1)), "holds 1 values"),
        (op("GivenTensorFill", "", "w", shape=[1] * 9, values=floats(1)), "impossible"),
        (op("GivenTensorFill", "", "w", shape=[1]), "no argument 'values'"),
        (op("GivenTensorFill", "x", "w", shape=[1], values=floats(1)), "another blob"),
        (op("GivenTensorStringFill", "", "w", shape=[1], values=b"x"), "unknown in an init net"),
        (op("LoadEverything", "", "w"), "unknown in an init net"),
        (op("XavierFill", "", "w", shape=[1]), "at random"),
        (op("ConstantFill", "", "w", shape=[2**20, 2**20], value=0.1), "too large a constant"),
        (op("ConstantFill", "", "w", shape=[-2], value=0.1), "impossible"),
        (op("ConstantFill", "", "w", input_as_shape=1), "another blob"),
    ],
    ids=lambda value: getattr(value, "type", ""),
)
def test_what_does_not_fill(operator, word):
    refused(operator, word)


def test_constants_are_limited_in_all():
    half = MOST_CONSTANT // 2
    fills = [op("ConstantFill", "", name, shape=[half], value=1.0) for name in "abc"]
    filled = weights(*fills)
    assert filled["a"].size + filled["b"].size == MOST_CONSTANT
    assert filled["a"] is filled["a"]
    with pytest.raises(ModelError, match=r"'c'.* too large a constant"):
        filled["c"]


def test_a_shape_alone_takes_no_memory():
    assert shape_of(parse_net(binary(net(op("X", "", "w", shape=[2**40])))).operators[0]) == (
        2**40,
    )
