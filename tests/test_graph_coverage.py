"""Which layers are int8, and how many multiply-adds: the same answer in each format."""

import re

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import build, noise, norm
from models import tiny_resnet
from quantize.calibrate import calibrate
from quantize.engines import ort
from quantize.graph.coverage import Coverage, Layer, coverage
from quantize.graph.prepare import prepare
from quantize.plan import Plan
from quantize.probe import run_once, shapes_of

INT8 = {"QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat"}

# The layers of tiny_resnet by hand: three convolutions 3x3 on 16x16, one classifier.
BY_HAND = {
    "conv0_fwd": 16 * 16 * 8 * 3 * 9,
    "conv1_fwd": 16 * 16 * 8 * 8 * 9,
    "conv2_fwd": 16 * 16 * 8 * 8 * 9,
    "logits": 8 * 4,
}


def measured(model):
    return coverage(model, lambda names: shapes_of(model, names))


@pytest.fixture(scope="module")
def ready():
    return prepare(tiny_resnet(), run_once, (3, 16, 16)).model


@pytest.fixture(scope="module")
def statistics(ready):
    return calibrate(ready, [noise(8, 3, 16, 16)], threads=1)


def test_a_convolution_by_hand():
    model = build(
        """(float[N,6,10,8] x) => (float[N,4,A,B] y) {
        y = Conv<group=2, kernel_shape=[3,5], strides=[2,1], pads=[1,0,1,0]>(x, w) }""",
        w=(4, 3, 3, 5),
    )
    seen = measured(model)
    assert seen.layers == (Layer("y", "Conv", (4 * 5 * 4) * (3 * 3 * 5), int8=False),)
    assert (seen.int8_share, seen.stayed_float, seen.count("Conv")) == (0, ("y",), (0, 1))


@given(
    rows=st.integers(1, 5), inner=st.integers(1, 7), columns=st.integers(1, 6), flip=st.booleans()
)
@settings(max_examples=15, deadline=None)
def test_gemm_and_matmul_multiply_inner_by_columns(rows, inner, columns, flip):
    shapes = {"f": (1, inner), "g": (1, columns), "m": (1, rows, columns)}
    model = build(
        f"""(float[N,{inner}] f) => (float[N,{columns}] g, float[N,{rows},{columns}] m) {{
        g = Gemm<transB={int(flip)}>(f, w)
        u = Reshape(f, to) e = Expand(u, size) m = MatMul(e, v) }}""",
        w=(columns, inner) if flip else (inner, columns),
        v=(inner, columns),
        to=np.array([-1, 1, inner]),
        size=np.array([1, rows, 1]),
    )
    seen = coverage(model, lambda names: {name: shapes[name] for name in names})
    assert [layer.multiply_adds for layer in seen.layers] == [
        inner * columns,
        rows * inner * columns,
    ]


def test_what_has_no_constant_weights_is_no_layer():
    model = build(
        "(float[N,3,4,4] x) => (float[N,3,4,4] y) { a = MatMul(x, x) y = Mul(a, k) }", k=(1,)
    )
    assert measured(model) == Coverage(())
    assert measured(model).int8_share == 0


def test_weights_in_constant_nodes_count():
    model = build(
        """(float[N,1,4,4] x) => (float[N,1,4,4] y) {
        w = Constant<value = float[1,1,1,1] {2.0}>() y = Conv(x, w) }"""
    )
    assert [layer.multiply_adds for layer in measured(model).layers] == [16]


@pytest.mark.parametrize("form", ["float", "qdq", "qoperator"])
def test_each_format_has_the_same_layers_and_multiply_adds(ready, statistics, form):
    model = ready if form == "float" else ort.quantize(ready, statistics, Plan("onnxruntime", form))
    seen = measured(model)
    names = [layer.name.removesuffix("_quant") for layer in seen.layers]
    assert dict(zip(names, (x.multiply_adds for x in seen.layers), strict=True)) == BY_HAND
    assert {layer.int8 for layer in seen.layers} == {form != "float"}
    assert seen.int8_share == (0 if form == "float" else 1)
    assert seen.count("Conv") == (0 if form == "float" else 3, 3)
    assert seen.count("Gemm") == (0 if form == "float" else 1, 1)


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_a_layer_kept_float_shows(ready, statistics, form):
    plan = Plan("onnxruntime", form, keep_float=("conv1_fwd",))
    seen = measured(ort.quantize(ready, statistics, plan))
    assert seen.stayed_float == ("conv1_fwd",)
    assert seen.count("Conv") == (2, 3)
    assert seen.int8_share == pytest.approx(1 - BY_HAND["conv1_fwd"] / sum(BY_HAND.values()))


# -------------------------------------- QDQ: as onnxruntime really runs it, pattern by pattern

CONV = "(float[1,3,4,4] x) => (float[1,4,4,4] y)"
DENSE = "(float[1,8] x) => (float[1,4] y)"
FEED = "xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z)"
WEIGHT = "wd = DequantizeLinear(w, s, wz)"
TAKE = "q = QuantizeLinear(c, s, z) y = DequantizeLinear(q, s, z)"
TAKE_POSITIVE = "q = QuantizeLinear(c, s, zero) y = DequantizeLinear(q, s, zero)"


def runs_on_integers(model, tmp_path):
    """Whether onnxruntime's optimizer makes an integer operator of the model's one layer."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options)
    return bool(INT8 & {n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node})


PATTERNS = [
    f"{CONV} {{ {FEED} {WEIGHT} c = Conv(xd, wd) {TAKE} }}",
    f"{CONV} {{ {FEED} {WEIGHT} c = Conv(xd, wd, b) {TAKE} }}",
    f"{CONV} {{ {FEED} {WEIGHT} y = Conv(xd, wd) }}",
    f"{CONV} {{ {WEIGHT} c = Conv(x, wd) {TAKE} }}",
    f"{CONV} {{ {FEED} c = Conv(xd, wf) {TAKE} }}",
    f"{CONV} {{ {FEED} wq = QuantizeLinear(wf, s, wz) wd = DequantizeLinear(wq, s, wz)"
    f" c = Conv(xd, wd) {TAKE} }}",
    f"(float[1,3,4,4] x) => (float[1,4,4,4] y, float[1,4,4,4] c) {{ {FEED} {WEIGHT}"
    f" c = Conv(xd, wd) {TAKE} }}",
    f"(float[1,3,4,4] x) => (float[1,4,4,4] y, float[1,4,4,4] n) {{ {FEED} {WEIGHT}"
    f" c = Conv(xd, wd) n = Neg(c) {TAKE} }}",
    f"{CONV} {{ {FEED} {WEIGHT} a = Conv(xd, wd) c = Relu(a) {TAKE_POSITIVE} }}",
    f"{CONV} {{ {FEED} {WEIGHT} a = Conv(xd, wd) c = Relu(a) {TAKE} }}",
    f"{CONV} {{ {FEED} {WEIGHT} a = Conv(xd, wd) c = Clip(a, low, six) {TAKE_POSITIVE} }}",
    f"{CONV} {{ {FEED} {WEIGHT} a = Conv(xd, wd) c = Clip(a, low, far) {TAKE_POSITIVE} }}",
    f"{CONV} {{ {FEED} {WEIGHT} a = Conv(xd, wd) c = Clip(a, low, far) {TAKE} }}",
    f"{CONV} {{ {FEED} {WEIGHT} a = Conv(xd, wd) c = Clip(a, low, six)"
    " q = QuantizeLinear(c, sixth, zero) y = DequantizeLinear(q, sixth, zero) }",
    f"{CONV} {{ {FEED} {WEIGHT} a = Conv(xd, wd) c = Clip(a, low, almost)"
    " q = QuantizeLinear(c, sixth, zero) y = DequantizeLinear(q, sixth, zero) }",
    f"{CONV} {{ {FEED} {WEIGHT} a = Conv(xd, wd) c = Sigmoid(a) {TAKE} }}",
    *(
        text.replace("OP", op)
        for op in ("Gemm", "MatMul")
        for text in (
            f"{DENSE} {{ {FEED} {WEIGHT} c = OP(xd, wd) {TAKE} }}",
            f"{DENSE} {{ {FEED} {WEIGHT} y = OP(xd, wd) }}",
            f"{DENSE} {{ {FEED} {WEIGHT} c = OP(xd, wd) y = Relu(c) }}",
            f"{DENSE} {{ {FEED} {WEIGHT} a = OP(xd, wd) c = Relu(a) {TAKE} }}",
            f"{DENSE} {{ {FEED} {WEIGHT} a = OP(xd, wd) c = Relu(a) {TAKE_POSITIVE} }}",
            f"{DENSE} {{ {WEIGHT} y = OP(x, wd) }}",
        )
    ),
    f"{CONV} {{ {FEED} a = Conv(xd, wf, b) c = Relu(a) {TAKE_POSITIVE} }}",
    f"{CONV} {{ {FEED} y = Conv(xd, wf, b) }}",
    f"{CONV} {{ xq = QuantizeLinear(x, s, z) xd = DequantizeLinear<axis=1>(xq, s3, z3)"
    f" c = Conv(xd, wf) {TAKE} }}",
    f"{DENSE} {{ {FEED} c = Gemm(xd, wf, b) {TAKE} }}",
    f"{DENSE} {{ {FEED} y = Gemm(xd, wf, b) }}",
    f"{DENSE} {{ {FEED} y = Gemm(xd, wf) }}",
    f"{DENSE} {{ {FEED} c = MatMul(xd, wf) {TAKE} }}",
    f"{DENSE} {{ {FEED} {WEIGHT} y = Gemm(xd, wd, b) }}",
    f"{DENSE} {{ {FEED} {WEIGHT} bd = DequantizeLinear(bq, ss, bz) y = Gemm(xd, wd, bd) }}",
    f"{DENSE} {{ {FEED} {WEIGHT} bd = DequantizeLinear(bq, ss, bz) c = Gemm(xd, wd, bd) {TAKE} }}",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_layer_is_int8_where_onnxruntime_computes_on_integers(pattern, tmp_path):
    rng = np.random.default_rng(0)
    shape = (4, 3, 1, 1) if "Conv" in pattern else (8, 4)
    constants = {
        "s": np.float32(0.1),
        "z": np.uint8(128),
        "s3": np.full(3, 0.1, np.float32),
        "z3": np.full(3, 128, np.uint8),
        "zero": np.uint8(0),
        "wz": np.int8(0),
        "w": rng.integers(-127, 127, shape).astype(np.int8),
        "wf": rng.normal(0, 1, shape).astype(np.float32),
        "b": rng.normal(0, 1, 4).astype(np.float32),
        "bq": rng.integers(-9, 9, 4).astype(np.int32),
        "ss": np.float32(0.01),
        "bz": np.int32(0),
        "low": np.float32(0),
        "six": np.float32(6),
        "sixth": np.float32(6 / 255),
        "almost": np.float32(5.9),
        "far": np.float32(60),
    }
    words = set(re.findall(r"\w+", pattern))
    model = build(pattern, **{name: constants[name] for name in constants.keys() & words})
    seen = coverage(model, lambda names: dict.fromkeys(names, (1, 4)))
    assert [layer.int8 for layer in seen.layers] == [runs_on_integers(model, tmp_path)]


def test_batch_normalization_is_no_layer():
    model = build(
        """(float[N,4,6,6] x) => (float[N,4,6,6] y) {
        y = BatchNormalization(x, gamma, beta, mean, var) }""",
        **norm(4),
    )
    assert measured(model) == Coverage(())
