"""The forecast of what overflows 16 bits, on small int8 files, and against emulation."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphs import build
from quantize.calibrate import calibrate
from quantize.engines import ort
from quantize.graph.prepare import prepare
from quantize.graph.products import products
from quantize.overflow import Overflow, overflows
from quantize.pairs import in_pairs
from quantize.plan import Plan, Scheme
from quantize.probe import run_once

QEMU = shutil.which("qemu-x86_64")
GRAPH = """(float[N,3,8,8] x) => (float[N,4] y) {
    [first] a = Conv<pads=[1,1,1,1]>(x, u)
    [r] b = Relu(a)
    [depthwise] c = Conv<pads=[1,1,1,1], group=8>(b, v)
    [grouped] d = Conv<pads=[1,1,1,1], group=2, strides=[2,2]>(c, w)
    [p] e = GlobalAveragePool(d)
    [f] g = Flatten(e)
    [last] y = Gemm<transB=1>(g, z)
}"""


def float_model():
    rng = np.random.default_rng(0)

    def alike(*shape):  # all near the largest: neighbours of one sign overflow
        return rng.uniform(0.8, 1, shape).astype(np.float32)

    model = build(
        GRAPH,
        u=alike(8, 3, 3, 3),
        v=alike(8, 1, 3, 3),
        w=alike(6, 4, 3, 3) * np.float32([[[[1]], [[-1]]] * 2]),
        z=(4, 6),
    )
    return prepare(model, run_once, (3, 8, 8)).model


IMAGES = np.random.default_rng(1).uniform(0, 255, (6, 3, 8, 8)).astype(np.float32)
IMAGES[0] = 255


def quantized(form="qdq", **scheme):
    model = float_model()
    statistics = calibrate(model, [IMAGES], threads=1)
    return ort.quantize(model, statistics, Plan("onnxruntime", form, Scheme(**scheme)))


def of(model, images=IMAGES, **options):
    """The forecast by the first letters of a node's name: QOperator adds to them."""
    found = overflows(model, images, **options)
    return {name.removesuffix("_quant"): seen for name, seen in found.items()}


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_what_can_overflow_and_what_did(form):
    seen = of(quantized(form))
    assert list(seen) == ["first", "depthwise", "grouped", "last"]
    assert seen["first"].possible > 0.9
    assert 0 < seen["first"].seen < seen["first"].possible
    assert seen["depthwise"] == Overflow(0.0, 0.0)  # multiplied in 32 bits
    assert seen["grouped"].possible == 0  # neighbours of different sign
    assert seen["last"].seen <= seen["last"].possible


def test_black_images_overflow_nothing():
    seen = of(quantized(), IMAGES[:2] * 0)["first"]
    assert seen.possible > 0.9
    assert seen.seen == 0


def test_without_images_or_time_only_the_weights_tell():
    for seen in (of(quantized(), IMAGES[:0]), of(quantized(), expired=lambda: True)):
        assert seen["first"].possible > 0.9
        assert seen["first"].seen is None
        assert seen["depthwise"].seen == 0


def test_seven_bits_cannot_overflow():
    assert {seen.possible for seen in of(quantized(reduce_range=True)).values()} == {0}


def test_a_share_is_that_of_all_positions(monkeypatch):
    whole = of(quantized())["first"].seen
    monkeypatch.setattr("quantize.overflow._POSITIONS", 16)
    assert of(quantized())["first"].seen == pytest.approx(whole, rel=0.3)
    monkeypatch.setattr("quantize.overflow._MOST_SUMS", 1)
    assert of(quantized())["first"].seen is not None


def test_a_gemm_that_turns_its_input_is_left_out():
    model = quantized("qoperator")
    gemm = next(node for node in model.graph.node if node.op_type == "QGemm")
    assert gemm.name in {one.node for one in products(model)}
    gemm.attribute.append(helper.make_attribute("transA", 1))
    assert gemm.name not in {one.node for one in products(model)}


def test_unsigned_weights_and_other_operators_are_none_of_ours():
    made = quantized()
    for tensor in made.graph.initializer:
        if tensor.name == "u_quantized":
            value = numpy_helper.to_array(tensor).astype(np.uint8)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    assert [one.node for one in products(made)] == ["depthwise", "grouped", "last"]
    assert products(float_model()) == ()


# ------------------------------------------------------------------------------ emulation

RUN = """
import sys
import numpy as np
import onnxruntime
given = np.load(sys.argv[1], allow_pickle=False)
answers = {}
for name in given:
    if name.startswith("model:"):
        session = onnxruntime.InferenceSession(given[name].tobytes())
        feeds = {"x": given["x:" + name[6:]]}
        answers[name[6:]] = session.run(None, feeds)[0]
np.savez(sys.argv[2], **answers)
"""

SHAPES = (  # channels in and out, side of the kernel, groups
    (3, 16, 3, 1), (4, 16, 3, 1), (16, 16, 1, 1), (5, 24, 1, 1), (17, 8, 3, 1), (16, 16, 3, 16),
    (8, 16, 3, 8), (16, 32, 3, 2), (9, 42, 3, 3), (1, 4, 5, 1),
)  # fmt: skip


def constant(name, value):
    return numpy_helper.from_array(np.asarray(value), name)


def one_layer(weights, groups, step):
    """A QLinearConv, or for two dimensions a QLinearMatMul, alone."""
    outputs = weights.shape[0 if weights.ndim == 4 else 1]
    given = [
        constant("xs", np.float32(0.02)), constant("xz", np.uint8(7)), constant("w", weights),
        constant("ws", np.full(outputs, 0.01, np.float32)),
        constant("wz", np.zeros(outputs, np.int8)),
        constant("ys", np.float32(step)), constant("yz", np.uint8(128)),
    ]  # fmt: skip
    names = ["x", *(tensor.name for tensor in given)]
    if weights.ndim == 4:
        pad = weights.shape[2] // 2
        node = helper.make_node("QLinearConv", names, ["y"], "layer", pads=[pad] * 4, group=groups)
        shape = ["N", weights.shape[1] * groups, 6, 6]
    else:
        node, shape = helper.make_node("QLinearMatMul", names, ["y"], "layer"), ["N", len(weights)]
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        given,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def predicted(model, x, step, *, cut):
    """What the layer gives where sums of two products are cut off at 16 bits, or are not."""
    (layer,) = products(model)
    parts = []
    for columns, weights in layer.columns(x, 1 << 30):
        pairs = [
            a.astype(np.int64)[:, None] * w.astype(np.int64)
            for a, w in zip(in_pairs(columns), in_pairs(weights), strict=True)
        ]
        sums = pairs[0] + pairs[1]
        if cut and layer.paired:
            sums = np.clip(sums, -32768, 32767)
        parts.append(sums.sum(-1) - 7 * weights.astype(np.int64).sum(-1))
    total = np.concatenate(parts, axis=1)  # [P,M]
    real = total * np.float32(0.02 * 0.01) / np.float32(step)
    return np.clip(np.rint(real) + 128, 0, 255)


@pytest.mark.skipif(QEMU is None, reason="qemu-x86_64 is not installed")
def test_emulation_shows_what_the_forecast_computes(tmp_path):
    """Each output of each layer, to the last bit, where pairs overflow a lot."""
    rng = np.random.default_rng(0)
    choice = np.int8([127, -127, 100, -90, 64, 20])
    weights = {
        f"{c} {m} {k} {g}": rng.choice(choice, (m, c // g, k, k)) for c, m, k, g in SHAPES
    } | {f"{k} {m}": rng.choice(choice, (k, m)) for k, m in ((64, 10), (63, 16))}
    given, expected = {}, {}
    for name, value in weights.items():
        depth = value[0].size if value.ndim == 4 else len(value)
        step = 0.05 * np.sqrt(depth)
        model = one_layer(value, int(name.split()[-1]) if value.ndim == 4 else 1, step)
        shape = [d.dim_value or 2 for d in model.graph.input[0].type.tensor_type.shape.dim]
        x = rng.choice(np.uint8([255, 250, 200, 130, 40]), shape)
        given[f"x:{name}"] = x
        given[f"model:{name}"] = np.frombuffer(model.SerializeToString(), np.uint8)
        expected[name] = [predicted(model, x, step, cut=cut) for cut in (True, False)]
    np.savez(tmp_path / "given.npz", **given)
    command = [QEMU, "-cpu", "Haswell", sys.executable, "-c", RUN]
    files = [str(tmp_path / "given.npz"), str(tmp_path / "answers.npz")]
    subprocess.run([*command, *files], check=True, timeout=120, capture_output=True)
    answers = np.load(tmp_path / "answers.npz")
    for name, (cut, whole) in expected.items():
        seen = np.moveaxis(answers[name], 1, -1).reshape(len(cut), -1)
        np.testing.assert_array_equal(seen, cut, err_msg=name)
        depthwise = name == "16 16 3 16"
        assert (seen == whole).all() == depthwise, name
