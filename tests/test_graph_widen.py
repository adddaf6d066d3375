"""Channels of zeros: the same numbers to the last bit, and only where kernels gain by them."""

import numpy as np
import onnx
import pytest

from graphs import answers, build, noise
from quantize.calibrate import calibrate
from quantize.candidates import finished
from quantize.engines import ort
from quantize.graph.coverage import coverage
from quantize.graph.prepare import prepare
from quantize.graph.rounded import rounded_layers
from quantize.graph.widen import widen
from quantize.plan import Plan, Scheme
from quantize.probe import run_once, shapes_of

SIZE = 12
IMAGES = noise(6, 3, SIZE, SIZE)


def network(channels=24, kernel=3, act="Clip", colours=3, bias=True, tapped=False):
    """conv, activation, depthwise, activation, 1x1, pool, flatten, gemm."""
    limits = ", low, high" if act == "Clip" else ""
    b1, b2, b3 = (f", b{i}" if bias else "" for i in (1, 2, 3))
    pad = kernel // 2
    other = "m = ReduceMean <axes = [2, 3], keepdims = 0> (c2)\n tap = MatMul(m, wt)" * tapped
    text = f"""
    (float[N,{colours},{SIZE},{SIZE}] data) => (float[N,5] logits) {{
        [first] c1 = Conv <pads = [{pad},{pad},{pad},{pad}]> (data, w1{b1})
        a1 = {act}(c1{limits})
        [depthwise] c2 = Conv <pads = [1,1,1,1], group = {channels}> (a1, wd{b2})
        {other}
        a2 = {act}(c2{limits})
        [pointwise] c3 = Conv(a2, w2{b3})
        p = GlobalAveragePool(c3)
        f = Flatten(p)
        [head] {"g" if tapped else "logits"} = Gemm(f, wf)
        {"logits = Add(g, tap)" * tapped}
    }}"""
    constants = {
        "w1": (channels, colours, kernel, kernel),
        "wd": (channels, 1, 3, 3),
        "w2": (20, channels, 1, 1),
        "wf": (20, 5),
    }
    if act == "Clip":
        constants |= {"low": np.float32(0), "high": np.float32(6)}
    if bias:
        constants |= {"b1": (channels,), "b2": (channels,), "b3": (20,)}
    if tapped:
        constants["wt"] = (channels, 5)
    return build(text, **constants)


def quantized(model, form, **scheme):
    """The prepared model, its int8 form as the engine writes it, and as it ships."""
    colours = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    ready = prepare(model, run_once, (colours, SIZE, SIZE)).model
    statistics = calibrate(ready, [IMAGES[:, :colours]], threads=1)
    made = ort.quantize(ready, statistics, Plan("onnxruntime", form, Scheme(**scheme)))
    before = onnx.ModelProto()
    before.CopyFrom(made)
    return ready, before, finished(made, model)


def shapes(model):
    return {t.name: list(t.dims) for t in model.graph.initializer}


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
@pytest.mark.parametrize("act", ["Clip", "Relu"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_answers_are_the_same_to_the_last_bit(form, granularity, act, bias):
    model = network(act=act, bias=bias)
    _, before, after = quantized(model, form, weight_granularity=granularity)
    onnx.checker.check_model(after)
    assert shapes(after)["wd_quantized"] == [32, 1, 3, 3]
    assert shapes(after)["w1_quantized"] == [32, 4, 3, 3]
    assert shapes(after)["w2_quantized"] == [20, 32, 1, 1]
    np.testing.assert_array_equal(answers(after, IMAGES)[0], answers(before, IMAGES)[0])


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_what_a_layer_holds_is_read_without_the_zeros(form):
    ready, before, after = quantized(network(), form)
    plain, wide = (rounded_layers(ready, model) for model in (before, after))
    assert wide.keys() == plain.keys() == {"first", "depthwise", "pointwise", "head"}
    for name, seen in plain.items():
        np.testing.assert_array_equal(wide[name].weight, seen.weight)
        if seen.bias is not None:
            np.testing.assert_array_equal(wide[name].bias, seen.bias)


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({"channels": 32}, 1),
        ({"channels": 48}, 1),
        ({"channels": 24, "colours": 1}, 1),
        ({"channels": 32, "kernel": 7}, 0),
        ({"channels": 32, "colours": 4}, 0),
        ({"channels": 24}, 2),
    ],
)
def test_only_what_gains_is_widened(options, changes):
    model = network(**options)
    colours = options.get("colours", 3)
    images = noise(6, colours, SIZE, SIZE)
    ready = prepare(model, run_once, (colours, SIZE, SIZE)).model
    statistics = calibrate(ready, [images], threads=1)
    made = ort.quantize(ready, statistics, Plan("onnxruntime", "qoperator", Scheme()))
    before = answers(made, images)[0]
    assert widen(made) == changes
    np.testing.assert_array_equal(answers(made, images)[0], before)
    assert widen(made) == 0  # once is enough


def test_a_depthwise_layer_that_another_node_reads_is_left_alone():
    model = network(tapped=True)
    _, before, after = quantized(model, "qdq")
    assert shapes(after)["wd_quantized"] == [24, 1, 3, 3]
    np.testing.assert_array_equal(answers(after, IMAGES)[0], answers(before, IMAGES)[0])


def test_a_float_model_is_left_alone():
    model = network()
    before = model.SerializeToString()
    assert widen(model) == 0
    assert model.SerializeToString() == before


def test_zeros_are_no_work():
    _, before, after = quantized(network(), "qdq")

    def multiply_adds(model):
        seen = coverage(model, lambda names: shapes_of(model, names, (3, SIZE, SIZE)))
        return [layer.multiply_adds for layer in seen.layers]

    assert multiply_adds(after) == multiply_adds(before)
