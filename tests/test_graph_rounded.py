"""What an int8 file holds of each layer: the same for every format, whatever the engine renamed."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphs import build, noise
from models import tiny_resnet
from quantize.calibrate import calibrate
from quantize.engines import ort
from quantize.graph.layers import constants_of
from quantize.graph.prepare import prepare
from quantize.graph.rounded import rounded_layers, rows_of
from quantize.plan import Plan, Scheme
from quantize.probe import run_once

FORMATS = ["qdq", "qoperator"]
LAYERS = ["conv0_fwd", "conv1_fwd", "conv2_fwd", "logits"]


@pytest.fixture(scope="module")
def ready():
    return prepare(tiny_resnet(), run_once, (3, 16, 16)).model


@pytest.fixture(scope="module")
def statistics(ready):
    return calibrate(ready, [noise(8, 3, 16, 16)], threads=1)


def node(model, name):
    return next(node for node in model.graph.node if node.name == name)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
def test_weights_biases_and_grids_are_those_of_the_file(ready, statistics, form, granularity):
    plan = Plan("onnxruntime", form, Scheme(granularity))
    held = rounded_layers(ready, ort.quantize(ready, statistics, plan))
    values = constants_of(ready)
    assert list(held) == LAYERS
    for name, seen in held.items():
        layer = node(ready, name)
        exact, bias = values[layer.input[1]], values[layer.input[2]]
        rows = rows_of(layer, exact)
        peaks = np.abs(rows).max(axis=1) if granularity == "per_channel" else np.abs(rows).max()
        off = np.abs(rows_of(layer, seen.weight) - rows).max(axis=1)
        assert seen.weight.shape == exact.shape
        assert (off > 0).any()
        assert (off <= peaks / 127 * 0.501).all()
        assert np.abs(seen.bias - bias).max() <= seen.scale * np.max(peaks) / 127
        span = statistics.ranges[layer.input[0]]
        low, high = seen.limits
        assert (seen.lowest, seen.highest) == (0, 255)
        assert low < span.low <= span.high < high
        assert high - low == pytest.approx(256 * seen.scale)


def test_both_formats_hold_the_same(ready, statistics):
    one, two = (
        rounded_layers(ready, ort.quantize(ready, statistics, Plan("onnxruntime", form)))
        for form in FORMATS
    )
    for name in LAYERS:
        np.testing.assert_array_equal(one[name].weight, two[name].weight)
        np.testing.assert_allclose(one[name].bias, two[name].bias, rtol=1e-6, atol=1e-9)
        assert (one[name].scale, one[name].zero_point) == (two[name].scale, two[name].zero_point)
    assert two["conv1_fwd"].node == "conv1_fwd_quant"


@pytest.mark.parametrize("form", FORMATS)
def test_a_layer_that_stayed_float_is_not_there(ready, statistics, form):
    plan = Plan("onnxruntime", form, keep_float=("conv1_fwd",))
    held = rounded_layers(ready, ort.quantize(ready, statistics, plan))
    assert list(held) == [name for name in LAYERS if name != "conv1_fwd"]


def gemm(**weights):
    return build(
        """(float[N,3] x) => (float[N,2] y) { [g] y = Gemm<transB=1>(x, w, b) }""",
        **{"w": (2, 3), "b": (2,), **weights},
    )


def file(nodes, **constants):
    """A QOperator file; constants are called as INC does."""
    graph = helper.make_graph(
        nodes,
        "int8",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])


INTEGERS = np.array([[3, -7], [11, 127], [-5, 0]], np.int8)
GRID = {"x_scale": np.float32(0.5), "x_zero_point": np.uint8(3)}
WEIGHT = {
    "w_quantized": INTEGERS,
    "w_scale": np.array([0.5, 0.25], np.float32),
    "w_zero_point": np.zeros(2, np.int8),
}


def matmul_and_add(**bias):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero_point"], ["x_q"]),
        helper.make_node(
            "QLinearMatMul",
            ["x_q", "x_scale", "x_zero_point", *WEIGHT, "x_scale", "x_zero_point"],
            ["y_q"],
            "y_MatMul_quant",
        ),
        helper.make_node("DequantizeLinear", ["y_q", "x_scale", "x_zero_point"], ["y"]),
    ]
    return file(nodes, **GRID, **WEIGHT, **bias)


def test_a_gemm_that_became_matmul_and_add_is_turned_back():
    made = matmul_and_add(
        b_quantized=np.array([10, 200], np.uint8),
        b_scale=np.float32(0.1),
        b_zero_point=np.uint8(100),
    )
    (seen,) = rounded_layers(gemm(), made).values()
    assert seen.node == "y_MatMul_quant"
    np.testing.assert_array_equal(seen.weight, [[1.5, 5.5, -2.5], [-1.75, 31.75, 0]])
    np.testing.assert_allclose(seen.bias, [-9, 10], rtol=1e-6)
    assert seen.limits == (-1.75, 126.25)


def test_its_bias_may_be_float_or_unchanged():
    (float_,) = rounded_layers(gemm(), matmul_and_add(b=np.float32([4, 5]))).values()
    np.testing.assert_array_equal(float_.bias, [4, 5])
    (unchanged,) = rounded_layers(gemm(b=np.float32([6, 7])), matmul_and_add()).values()
    np.testing.assert_array_equal(unchanged.bias, [6, 7])


@pytest.mark.parametrize("shape", [(4, 3), (2, 2), (3, 2), (1, 6)])
def test_a_weight_of_another_shape_is_not_taken(shape):
    assert rounded_layers(gemm(w=shape, b=(shape[0],)), matmul_and_add()) == {}


def test_a_weight_that_two_layers_share_is_found_twice_or_not_at_all():
    model = build(
        """(float[N,2,5,5] x) => (float[N,2,5,5] y) {
            [a] h = Conv(x, w)
            [b] y = Conv(h, w)
        }""",
        w=(2, 2, 1, 1),
    )
    ready = onnx.shape_inference.infer_shapes(model)
    statistics = calibrate(ready, [noise(4, 2, 5, 5)], threads=1)
    both = ort.quantize(ready, statistics, Plan("onnxruntime", "qdq"))
    held = rounded_layers(ready, both)
    assert (held["a"].node, held["b"].node) == ("a", "b")
    assert held["a"].scale != held["b"].scale
    both.graph.initializer.append(numpy_helper.from_array(constants_of(model)["w"], "w_float"))
    node(both, "b").input[1] = "w_float"
    assert rounded_layers(ready, both) == {}


def test_rows_are_output_channels():
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    as_conv = rows_of(helper.make_node("Conv", ["x", "w"], ["y"]), weight.reshape(2, 3, 1, 1))
    np.testing.assert_array_equal(as_conv, weight)
    as_matmul = rows_of(helper.make_node("MatMul", ["x", "w"], ["y"]), weight)
    np.testing.assert_array_equal(as_matmul, weight.T)
    as_gemm = rows_of(helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), weight)
    np.testing.assert_array_equal(as_gemm, weight)
