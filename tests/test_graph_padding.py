"""Pad that vanishes into the Conv or MaxPool behind it."""

import numpy as np
import onnx
import pytest

from graphs import answers, build, noise, ops
from quantize.graph.padding import into_windows, without_borders

LEAST = float(np.finfo(np.float32).min)
BORDERS = [0, 0, 0, 1, 0, 0, 2, 1]
CONV = "y = Conv<strides=[2,2]>(p, w)"
POOL = "y = MaxPool<kernel_shape=[3,3], strides=[2,2]>(p)"


def padded(reader, value=None, borders=(0, 0, 0, 1, 0, 0, 2, 1), mode="constant"):
    pad = f'p = Pad<mode="{mode}">(x, borders' + (")" if value is None else ", value)")
    text = f"(float[N,4,6,6] x) => (float[N,A,B,C] y) {{ {pad} {reader} }}"
    constants = {"borders": np.array(borders, np.int64)}
    if "w" in reader:
        constants["w"] = (4, 4, 3, 3)
    if value is not None:
        constants["value"] = np.float32(value)
    return build(text, **constants)


def folded(model):
    images = noise(2, 4, 6, 6) - 3  # so that zeros would be the largest
    (before,) = answers(model, images, plain=True)
    count = into_windows(model)
    onnx.checker.check_model(model, full_check=True)
    (after,) = answers(model, images, plain=True)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    return count


@pytest.mark.parametrize("value", [None, 0.0])
@pytest.mark.parametrize(
    "reader",
    [
        CONV,
        "y = Conv<pads=[1,0,1,2]>(p, w)",
        'y = Conv<auto_pad="VALID">(p, w)',
        "y = Conv<dilations=[2,2]>(p, w)",
    ],
)
def test_zeros_vanish_into_a_convolution(reader, value):
    model = padded(reader, value)
    assert folded(model) == 1
    assert ops(model) == ["Conv"]


@pytest.mark.parametrize("value", [LEAST, -np.inf])
def test_the_least_number_vanishes_into_a_maximum(value):
    model = padded(POOL, value)
    assert folded(model) == 1
    assert ops(model) == ["MaxPool"]


@pytest.mark.parametrize(
    "model",
    [
        padded(CONV, 0.5),
        padded(POOL, 0.0),
        padded(POOL, -50.0),
        padded(CONV, mode="reflect"),
        padded(CONV, borders=(0, 0, -1, 0, 0, 0, 0, 0)),
        padded("y = Abs(p)", 0.0),
        padded("c = Conv(p, w) r = ReduceMax<keepdims=0>(p) y = Add(c, r)", 0.0),
        padded('y = Conv<auto_pad="SAME_UPPER">(p, w)', 0.0),
        padded(POOL, LEAST, borders=(0, 0, 3, 0, 0, 0, 0, 0)),
        padded(POOL.replace("strides", "ceil_mode=1, strides"), LEAST),
        padded(
            "y = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(p)", LEAST, (0, 0, 2, 0) + (0,) * 4
        ),
        padded("y = AveragePool<kernel_shape=[3,3]>(p)", 0.0),
        padded("y = Conv(p, v) ", 0.0, (0, 1, 0, 0, 0, 0, 0, 0)),
    ],
)
def test_it_stays_where_the_window_cannot_stand_for_it(model):
    if "v" in model.graph.node[-1].input:
        weight = np.ones((2, 5, 3, 3), np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "v"))
    before = model.SerializeToString()
    assert folded(model) == 0
    assert model.SerializeToString() == before


def test_a_computed_weight_or_value_stays():
    text = """(float[N,4,6,6] x) => (float[N,4,A,B] y) {
        m = ReduceMax<keepdims=0>(x) n = Sub(m, m) p = Pad(x, borders, n)
        y = Conv(p, w) }"""
    borders = np.array(BORDERS, np.int64)
    assert folded(build(text, borders=borders, w=(4, 4, 3, 3))) == 0


AVERAGE = "AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1, count_include_pad=1"


@pytest.mark.parametrize(
    ("more", "count"),
    [("", 1), (", pads=[0,0,0,0]", 1), (", pads=[1,1,1,1]", 0), (', auto_pad="SAME_UPPER"', 0)],
)
def test_an_average_without_borders_says_nothing_of_them(more, count):
    text = f"(float[N,4,6,6] x) => (float[N,4,A,B] y) {{ y = {AVERAGE}{more}>(x) }}"
    model = build(text)
    (before,) = answers(model, noise(2, 4, 6, 6), plain=True)
    assert without_borders(model) == count
    (after,) = answers(model, noise(2, 4, 6, 6), plain=True)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
