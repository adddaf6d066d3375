"""Which tensors int8 rounds on a grid of their own: checked against what onnxruntime writes."""

import numpy as np
import onnx
import pytest

from graphs import build, noise
from models import tiny_resnet
from quantize.calibrate import calibrate
from quantize.engines import ort
from quantize.graph.points import quantization_points
from quantize.graph.prepare import prepare
from quantize.plan import Plan
from quantize.probe import run_once


def inferred(text, **constants):
    return onnx.shape_inference.infer_shapes(build(text, **constants))


def test_a_residual_network():
    model = prepare(tiny_resnet(), run_once, (3, 16, 16)).model
    assert quantization_points(model) == (
        "data",
        "relu0",
        "relu1",
        "bn2_fwd",
        "relu2",
        "pool",
        "logits",
    )


def test_a_result_read_by_more_than_a_relu_stays_a_point():
    model = inferred(
        "(float[N,4] x) => (float[N,4] y) { a = Gemm(x, w) r = Relu(a) y = Add(a, r) }", w=(4, 4)
    )
    assert quantization_points(model) == ("x", "a", "r", "y")


def test_a_result_that_the_graph_gives_stays_a_point():
    model = inferred(
        "(float[N,4] x) => (float[N,4] a, float[N,4] y) { a = Gemm(x, w) y = Relu(a) }", w=(4, 4)
    )
    assert quantization_points(model) == ("x", "a", "y")


@pytest.mark.parametrize("end", ["Relu(a)", "Clip(a, low, high)"])
def test_what_only_a_relu_or_clip_reads_is_no_point(end):
    model = inferred(
        f"(float[N,4] x) => (float[N,4] y) {{ a = Add(x, x) r = {end} y = Mul(r, r) }}",
        low=np.array(0, np.float32),
        high=np.array(6, np.float32),
    )
    assert quantization_points(model) == ("x", "r", "y")


def test_what_only_moves_data_passes_the_grid_on():
    model = inferred(
        """(float[N,3,8,8] x) => (float[N,4] y) {
        a = Conv<kernel_shape=[1,1]>(x, k) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
        t = Transpose<perm=[0,2,3,1]>(p) f = Flatten(t) y = Gemm(f, w) }""",
        k=(2, 3, 1, 1),
        w=(32, 4),
    )
    assert quantization_points(model) == ("x", "a", "y")


def test_what_comes_from_a_float_node_is_rounded_where_it_is_read():
    model = inferred(
        """(float[N,4] x) => (float[N,4] y) {
        a = Gemm(x, w) s = Sigmoid(a) r = Reshape(s, shape) z = Sqrt(s) y = Mul(a, r) }""",
        w=(4, 4),
        shape=np.array([0, 4], np.int64),
    )
    assert quantization_points(model) == ("x", "a", "r", "y")


def test_a_relu_of_a_float_node_is_float_unless_arithmetic_reads_it():
    text = "(float[N,4] x) => (float[N,4] y) {{ a = Sqrt(x) r = Relu(a) y = {}(r) }}"
    assert quantization_points(inferred(text.format("Sqrt"))) == ("x",)
    model = inferred("(float[N,4] x) => (float[N,4] y) { a = Sqrt(x) r = Relu(a) y = Add(r, r) }")
    assert quantization_points(model) == ("x", "r", "y")


@pytest.mark.parametrize(
    ("text", "constants", "expected"),
    [
        (
            """(float[N,3,8,8] x) => (float[N,5] y) {
            a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, k) r = Relu(a)
            b = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(r, l) s = Sigmoid(b) m = Mul(b, s)
            c = Concat<axis=1>(m, r) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)
            q = AveragePool<kernel_shape=[2,2], strides=[2,2]>(p) g = GlobalAveragePool(q)
            f = Flatten(g) y = Gemm(f, w) }""",
            {"k": (4, 3, 3, 3), "l": (4, 4, 3, 3), "w": (8, 5)},
            ("x", "r", "b", "s", "m", "c", "q", "g", "y"),
        ),
        (
            """(float[N,3,8,8] x) => (float[N,5] y) {
            a = Conv<kernel_shape=[1,1]>(x, k) e = LeakyRelu(a) f = Flatten(e)
            h = MatMul(f, v) b = Add(h, o) c = Clip(b, low, high) y = Gemm(c, w) }""",
            {
                "k": (2, 3, 1, 1),
                "v": (128, 6),
                "o": (6,),
                "w": (6, 5),
                "low": np.array(0, np.float32),
                "high": np.array(3, np.float32),
            },
            ("x", "a", "e", "h", "c", "y"),
        ),
    ],
)
def test_each_grid_that_onnxruntime_writes_is_that_of_a_point(text, constants, expected):
    """Each of its QuantizeLinear nodes reads a point, or one that shares a point's scale."""
    model = prepare(build(text, **constants), run_once, (3, 8, 8)).model
    seen = calibrate(model, [noise(4, 3, 8, 8)], threads=1)
    made = ort.quantize(model, seen, Plan("onnxruntime", "qdq"))
    values = {t.name: onnx.numpy_helper.to_array(t) for t in made.graph.initializer}
    points = set(quantization_points(model))
    assert quantization_points(model) == expected
    scales = {
        node.input[0].removesuffix("_QuantizeLinear_Input"): float(values[node.input[1]])
        for node in made.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in values
    }
    assert points - {"y"} <= scales.keys()  # the scores stay float
    known = {scales[name] for name in points if name in scales}
    assert {scale for name, scale in scales.items() if name not in points} <= known
