"""Layers that were left float stay float in onnxruntime, with the very same numbers."""

import numpy as np
import onnx
import onnxruntime
import pytest

from graphs import answers, build, noise, ops
from quantize.graph.order import sort_nodes
from quantize.graph.shield import shield_float_layers

FEED = "xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z)"
TAKE = "q = QuantizeLinear(c, s, z) y = DequantizeLinear(q, s, z)"
POSITIVE = TAKE.replace("z)", "o)")
SCALE = {"s": np.float32(0.02), "z": np.uint8(128), "o": np.uint8(0)}
IMAGES = noise(32, 4, 6, 6)


def optimized(model, tmp_path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options)
    return ops(onnx.load(tmp_path / "optimized.onnx"))


def shielded(model):
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    count = shield_float_layers(copy)
    onnx.checker.check_model(copy, full_check=True)
    return count, copy


def differing(a, b):
    """Share of elements that differ."""
    return float((np.abs(a - b) > 1e-5).mean())


@pytest.mark.parametrize(
    ("text", "constants"),
    [
        (
            f"(float[N,8,6,6] y) {{ {FEED} c = Conv(xd, w, b) {TAKE} }}",
            {"w": (8, 4, 1, 1), "b": (8,)},
        ),
        (
            f"(float[N,8,6,6] y) {{ {FEED} a = Conv<group=2>(xd, w) c = Relu(a) {POSITIVE} }}",
            {"w": (8, 2, 1, 1)},
        ),
        (
            f"(float[N,5] y) {{ {FEED} p = GlobalAveragePool(xd) pq = QuantizeLinear(p, s, z)"
            f" pd = DequantizeLinear(pq, s, z) f = Flatten(pd) fq = QuantizeLinear(f, s, z)"
            f" fd = DequantizeLinear(fq, s, z) c = Gemm(fd, w, b) {TAKE} }}",
            {"w": (4, 5), "b": (5,)},
        ),
        (
            f"(float[N,5] y) {{ {FEED} p = GlobalAveragePool(xd) f = Flatten(p)"
            f" fq = QuantizeLinear(f, s, z) fd = DequantizeLinear(fq, s, z)"
            f" c = Gemm<transB=1>(fd, w) {TAKE} }}",
            {"w": (5, 4)},
        ),
    ],
)
def test_a_shielded_layer_runs_in_float(text, constants, tmp_path):
    text = "(float[N,4,6,6] x) => " + text
    model = build(text, **constants, **SCALE)
    exact = answers(model, IMAGES, plain=True)[0]
    assert not {"Conv", "FusedConv", "Gemm", "FusedGemm"} & set(optimized(model, tmp_path))
    assert differing(answers(model, IMAGES)[0], exact) > 0.02
    count, safe = shielded(model)
    assert count == 1
    assert {"Conv", "FusedConv", "Gemm", "FusedGemm"} & set(optimized(safe, tmp_path))
    assert differing(answers(safe, IMAGES)[0], exact) < 0.01  # pooling may round a tie away
    np.testing.assert_array_equal(answers(safe, IMAGES, plain=True)[0], exact)
    assert shielded(safe)[0] == 0


def test_only_the_float_layer_of_a_shared_tensor_gets_its_own():
    model = build(
        f"""(float[N,4,6,6] x) => (float[N,4,6,6] y) {{ {FEED}
        a = Conv(xd, w) aq = QuantizeLinear(a, s, z) ad = DequantizeLinear(aq, s, z)
        c = Add(ad, xd) {TAKE} }}""",
        w=(4, 4, 1, 1),
        **SCALE,
    )
    count, safe = shielded(model)
    assert count == 1
    assert ops(safe).count("DequantizeLinear") == ops(model).count("DequantizeLinear") + 1
    np.testing.assert_array_equal(
        answers(safe, IMAGES, plain=True)[0], answers(model, IMAGES, plain=True)[0]
    )


def test_a_zero_point_may_be_absent():
    model = build(
        """(float[N,4,6,6] x) => (float[N,4,6,6] y) {
        xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s) c = Conv(xd, w)
        q = QuantizeLinear(c, s, z) y = DequantizeLinear(q, s) }""",
        w=(4, 4, 1, 1),
        s=np.float32(0.05),
        z=np.uint8(0),
    )
    count, safe = shielded(model)
    assert count == 1
    np.testing.assert_array_equal(answers(safe, IMAGES)[0], answers(model, IMAGES, plain=True)[0])


@pytest.mark.parametrize(
    "nodes",
    [
        "y = Conv(x, w)",  # not fed by integers
        f"{FEED} wd = DequantizeLinear(wq, s, wz) c = Conv(xd, wd) {TAKE}",
        f"{FEED} c = Relu(xd) {TAKE}",
        f"{FEED} c = MatMul(xd, m) {TAKE}",
        f"{FEED} v = Neg(w) c = Conv(xd, v) {TAKE}",
    ],
)
def test_everything_else_is_left_alone(nodes):
    model = build(
        f"(float[N,4,6,6] x) => (float[N,4,6,6] y) {{ {nodes} }}",
        w=(4, 4, 1, 1),
        m=(6, 6),
        wq=np.ones((4, 4, 1, 1), np.int8),
        wz=np.int8(0),
        **SCALE,
    )
    count, safe = shielded(model)
    assert count == 0
    assert safe == model


def test_sorting_suits_what_was_added():
    model = build(
        f"(float[N,4,6,6] x) => (float[N,4,6,6] y) {{ {FEED} c = Conv(xd, w) {TAKE} }}",
        w=(4, 4, 1, 1),
        **SCALE,
    )
    safe = shielded(model)[1]
    before = ops(safe)
    sort_nodes(safe.graph)
    assert ops(safe) == before
