"""The onnxruntime engine: its arithmetic, its formats, and parity with `quantize_static`."""

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from graphs import answers, build, noise, ops
from models import prepared, tiny_dataset, tiny_resnet
from quantize.calibrate import calibrate
from quantize.conversion.int8 import change_format
from quantize.engines import ort
from quantize.errors import EngineError
from quantize.graph.io import to_bytes
from quantize.graph.prepare import prepare
from quantize.graph.scores import float_scores
from quantize.graph.view import View
from quantize.plan import Plan, Range, Scheme, Statistics
from quantize.probe import run_once
from quantize.runtime import cpu

FORMATS = ["qdq", "qoperator"]
IMAGES = prepared(tiny_dataset(per_class=8))


@pytest.fixture(scope="module")
def ready():
    return prepare(tiny_resnet(), run_once, (3, 16, 16)).model


@pytest.fixture(scope="module")
def statistics(ready):
    return calibrate(ready, [IMAGES], threads=1)


def plan(form="qdq", **scheme):
    keep = scheme.pop("keep_float", ())
    return Plan("onnxruntime", form, Scheme(**scheme), keep_float=keep)


def constants(model):
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def scales(statistics, name):
    """onnxruntime's rule for uint8 activations, zero included in the range."""
    seen = statistics.ranges[name]
    low, high = np.float32(min(seen.low, 0)), np.float32(max(seen.high, 0))
    scale = np.float32((float(high) - float(low)) / 255)
    return scale, round(float(-low / scale))


# ---------------------------------------------------------------------------- formats


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
@pytest.mark.parametrize("reduce_range", [False, True])
def test_every_scheme_loads_runs_and_answers_like_float(
    ready, statistics, form, granularity, reduce_range
):
    made = ort.quantize(
        ready,
        statistics,
        plan(form, weight_granularity=granularity, reduce_range=reduce_range),
    )
    onnx.checker.check_model(made)
    exact, seen = answers(ready, IMAGES)[0], answers(made, IMAGES)[0]
    noise_share = ((exact - seen) ** 2).sum() / (exact**2).sum()
    saturates = cpu().saturates and not reduce_range
    assert 0 < noise_share < (0.3 if saturates else 0.01)
    assert (exact.argmax(1) == seen.argmax(1)).mean() > (0.6 if saturates else 0.9)
    assert len(set(exact.argmax(1))) > 1


def test_the_format_decides_the_operators(ready, statistics):
    qdq, qoperator = (ort.quantize(ready, statistics, plan(form)) for form in FORMATS)
    assert set(ops(qdq)) == {
        *("QuantizeLinear", "DequantizeLinear"),
        *("Conv", "Add", "GlobalAveragePool", "Flatten", "Gemm"),
    }
    assert {o.domain for o in qdq.opset_import} <= {"", "ai.onnx", "com.microsoft"}
    assert all(node.domain in ("", "ai.onnx") for node in qdq.graph.node)
    assert set(ops(qoperator)) == {
        *("QuantizeLinear", "QLinearConv", "QLinearAdd", "QLinearGlobalAveragePool"),
        *("Flatten", "QGemm"),
    }


def test_the_float_model_is_not_changed(ready, statistics):
    before = ready.SerializeToString()
    for form in FORMATS:
        ort.quantize(ready, statistics, plan(form))
    assert ready.SerializeToString() == before


# -------------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("reduce_range", "most"), [(False, 127), (True, 64)])
def test_weights_have_a_symmetric_scale_per_channel(ready, statistics, form, reduce_range, most):
    made = constants(ort.quantize(ready, statistics, plan(form, reduce_range=reduce_range)))
    weights = {n.input[1] for n in ready.graph.node if n.op_type == "Conv"}
    assert len(weights) == 3
    for name in weights:
        exact = constants(ready)[name]
        integers, scale = made[f"{name}_quantized"], made[f"{name}_scale"]
        assert (integers.dtype, made[f"{name}_zero_point"].any()) == (np.int8, False)
        widest = np.abs(exact).reshape(len(exact), -1).max(axis=1)
        np.testing.assert_allclose(scale, widest * 2 / (2 * most), rtol=1e-6)
        assert np.abs(integers.reshape(len(exact), -1).astype(int)).max(axis=1).tolist() == (
            [most] * len(exact)
        )
        shaped = scale.reshape(-1, 1, 1, 1)
        assert np.abs(integers * shaped - exact).max() <= shaped.max() / 2 * 1.001


@pytest.mark.parametrize("form", FORMATS)
def test_per_tensor_weights_have_one_scale(ready, statistics, form):
    made = constants(ort.quantize(ready, statistics, plan(form, weight_granularity="per_tensor")))
    for name in {n.input[1] for n in ready.graph.node if n.op_type == "Conv"}:
        assert made[f"{name}_scale"].size == 1
        widest = np.abs(constants(ready)[name]).max()
        assert made[f"{name}_scale"].item() == pytest.approx(widest / 127, rel=1e-6)


@pytest.mark.parametrize("form", FORMATS)
def test_activations_are_uint8_over_the_measured_range(ready, statistics, form):
    made = constants(ort.quantize(ready, statistics, plan(form)))
    for name in ("data", "bn2_fwd"):
        scale, zero = scales(statistics, name)
        assert made[f"{name}_scale"].item() == pytest.approx(scale, rel=1e-6)
        assert made[f"{name}_zero_point"].dtype == np.uint8
        assert made[f"{name}_zero_point"].item() == zero


@pytest.mark.parametrize("form", FORMATS)
def test_given_ranges_decide_not_the_images(ready, statistics, form):
    wider = dict(statistics.ranges)
    wider["data"] = Range(-10.0, 10.0)
    made = constants(ort.quantize(ready, Statistics(wider, 1), plan(form)))
    assert made["data_scale"].item() == pytest.approx(20 / 255, rel=1e-6)


# ------------------------------------------------------------------------------ parity


class Reader(CalibrationDataReader):
    """The same images, one by one."""

    def __init__(self):
        self.left = iter(IMAGES)

    def get_next(self):
        image = next(self.left, None)
        return None if image is None else {"data": image[None]}


def published(ready, tmp_path, form, scheme, **options):
    """What onnxruntime's public function makes of the same model and images."""
    onnx.save_model(ready, tmp_path / "float.onnx")
    logging.disable(logging.WARNING)
    try:
        quantize_static(
            tmp_path / "float.onnx",
            tmp_path / "int8.onnx",
            Reader(),
            quant_format=QuantFormat.QDQ if form == "qdq" else QuantFormat.QOperator,
            per_channel=scheme.weight_granularity == "per_channel",
            reduce_range=scheme.reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            **options,
        )
    finally:
        logging.disable(logging.NOTSET)
    return onnx.load_model(tmp_path / "int8.onnx")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "scheme",
    [Scheme(), Scheme(weight_granularity="per_tensor"), Scheme(reduce_range=True)],
    ids=["per_channel", "per_tensor", "reduce_range"],
)
def test_the_result_is_that_of_quantize_static(ready, statistics, tmp_path, form, scheme):
    theirs = published(ready, tmp_path, form, scheme)
    assert float_scores(theirs, ready) == 1  # which they round
    ours = ort.quantize(ready, statistics, Plan("onnxruntime", form, scheme))
    assert sorted(n.SerializeToString() for n in ours.graph.node) == sorted(
        n.SerializeToString() for n in theirs.graph.node
    )
    mine, other = constants(ours), constants(theirs)
    assert mine.keys() == other.keys()
    for name, value in mine.items():
        assert value.dtype == other[name].dtype
        # Their calibrator runs the graph without fusions, ours with: ranges differ in the last bit.
        apart = np.abs(value.astype(np.float64) - other[name])
        allowed = {np.dtype(np.float32): 1e-6 * np.abs(value), np.dtype(np.int32): 1}
        assert (apart <= allowed.get(value.dtype, 0)).all(), name
    exact, seen = answers(theirs, IMAGES)[0], answers(ours, IMAGES)[0]
    assert np.abs(seen - exact).max() < 0.01 * np.abs(exact).max()


# -------------------------------------------------------------------------- keep float


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["conv0_fwd", "conv1_fwd", "conv2_fwd", "logits"])
def test_a_node_kept_float_keeps_its_weights_and_runs_in_float(ready, statistics, form, name):
    # Seven bits, so that processors without VNNI compute the same.
    made = ort.quantize(ready, statistics, plan(form, keep_float=(name,), reduce_range=True))
    onnx.checker.check_model(made, full_check=True)
    node = next(n for n in made.graph.node if n.name == name)
    original = next(n for n in ready.graph.node if n.name == name)
    assert list(node.input[1:]) == list(original.input[1:])
    np.testing.assert_array_equal(constants(made)[node.input[1]], constants(ready)[node.input[1]])
    whole = ort.quantize(ready, statistics, plan(form, reduce_range=True))
    exact = answers(ready, IMAGES)[0]
    error = [np.square(answers(m, IMAGES)[0] - exact).mean() for m in (whole, made)]
    assert error[0] != error[1]
    # As written and as optimized: onnxruntime may not quantize the node on its own account.
    np.testing.assert_allclose(
        answers(made, IMAGES)[0], answers(made, IMAGES, plain=True)[0], atol=1e-4
    )


def test_all_nodes_kept_float_is_the_float_model(ready, statistics):
    names = tuple(sorted(node.name for node in ready.graph.node))
    made = ort.quantize(ready, statistics, plan(keep_float=names))
    assert ops(made) == ops(ready)
    np.testing.assert_array_equal(answers(made, IMAGES)[0], answers(ready, IMAGES)[0])


def test_an_unknown_node_to_keep_float_is_an_error(ready, statistics):
    with pytest.raises(EngineError, match=r"the node 'nosuch', to be kept float, is not in the"):
        ort.quantize(ready, statistics, plan(keep_float=("conv0_fwd", "nosuch")))


# ------------------------------------------------------------------------------ errors


def test_a_failure_of_the_quantizer_is_an_error_with_its_reason(ready, statistics):
    fewer = {k: v for k, v in statistics.ranges.items() if k != "add"}
    with pytest.raises(EngineError, match=r"onnxruntime's quantizer failed: KeyError: 'add'"):
        ort.quantize(ready, Statistics(fewer, 1), plan())


@pytest.mark.parametrize("method", ["kl", "percentile", "mse"])
def test_a_method_whose_scales_nobody_gives_is_an_error(ready, statistics, method):
    other = replace(plan(), scheme=Scheme(method=method))
    with pytest.raises(EngineError, match=f"was given no scales of {method} ranges"):
        ort.quantize(ready, statistics, other)


def test_logging_is_as_before_afterwards_and_silent_meanwhile(ready, statistics, caplog):
    caplog.set_level(17)
    ort.quantize(ready, statistics, plan("qoperator"))
    with pytest.raises(EngineError):
        ort.quantize(ready, Statistics({}, 1), plan("qoperator"))
    assert logging.getLogger().level == 17
    assert not caplog.records


# ------------------------------------------------------------------------- determinism

CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import hashlib, test_engines_ort as t
from quantize.graph.io import to_bytes
ready = t.prepare(t.tiny_resnet(), t.run_once, (3, 16, 16)).model
seen = t.calibrate(ready, [t.IMAGES[:5], t.IMAGES[5:]], threads=2)
for form in t.FORMATS:
    for keep in ((), ("conv1_fwd",)):
        made = t.ort.quantize(ready, seen, t.plan(form, keep_float=keep))
        print(hashlib.sha256(to_bytes(made)).hexdigest())
"""


def test_the_same_inputs_give_the_same_bytes_in_every_process(ready, statistics):
    def child(seed):
        return subprocess.run(
            [sys.executable, "-c", CHILD, str(Path(__file__).parent)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    first = child("1")
    assert len(set(first.split())) == 4
    assert child("77") == first
    for form in FORMATS:
        made = [to_bytes(ort.quantize(ready, statistics, plan(form))) for _ in range(2)]
        assert made[0] == made[1]


def test_constants_are_sorted_and_nodes_in_order(ready, statistics):
    for form in FORMATS:
        made = ort.quantize(ready, statistics, plan(form, keep_float=("conv0_fwd",)))
        names = [t.name for t in made.graph.initializer]
        assert names == sorted(names)
        known = set(names) | {v.name for v in View(made.graph).inputs}
        for node in made.graph.node:
            assert known.issuperset(node.input)
            known.update(node.output)
        assert made.producer_name == "quantize"
        assert not made.graph.value_info


def test_softmax_and_sigmoid_stay_float():
    model = prepare(
        build(
            """(float[N,3,8,8] x) => (float[N,4] y) {
            c = Conv(x, w) g = Sigmoid(c) m = Mul(c, g) p = GlobalAveragePool(m) f = Flatten(p)
            y = Softmax<axis=1>(f) }""",
            w=(4, 3, 1, 1),
        ),
        run_once,
        (3, 8, 8),
    ).model
    seen = calibrate(model, [noise(4, 3, 8, 8)], threads=1)
    for form in FORMATS:
        made = ort.quantize(model, seen, plan(form))
        assert {"Softmax", "Sigmoid"} <= set(ops(made))
        assert answers(made, noise(4, 3, 8, 8))[0].shape == (4, 4)


POOL = "MaxPool<kernel_shape=[2,2], strides=[2,2]>"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "nodes",
    [
        f"c = Conv(x, w, b) p = {POOL}(c) r = Relu(p) d = Conv(r, v)",
        f"c = Conv(x, w, b) p = {POOL}(c) r = Relu(p) a = Add(r, p) d = Conv(a, v)",
        "c = Conv(x, w, b) t = Transpose<perm=[0,2,3,1]>(c) r = Relu(t)"
        " u = Transpose<perm=[0,3,1,2]>(r) d = Conv(u, v)",
        "c = Conv(x, w, b) r = Relu(c) s = Conv(r, v) d = Add(s, c)",
        "c = Conv(x, w, b) r = Relu(c) s = Clip(r, , high) d = Conv(s, v)",
        "c = Conv(x, w, b) s = Clip(c, high) d = Conv(s, v)",
        "c = Conv(x, w, b) p, q = Split<axis=1>(c) r = Relu(p) s = Concat<axis=1>(r, q)"
        " d = Conv(s, v)",
        "c = Conv(x, w, b) r = Relu(c) d = Conv(r, v, b)",
        "p = Pad(x, borders, least) c = Conv(p, w, b) d = Conv(c, v)",
        "c = Conv(x, w, b) s = Slice(c, from, to, axes, steps) r = Relu(s) d = Conv(r, v)",
        "c = Conv(x, w, b) s = Slice(c, from, to, axes, steps) t = Add(s, s) r = Relu(c)"
        " u = Slice(r, from, to, axes, steps) a = Add(t, u) d = Conv(a, v)",
        "c = Conv(x, w, b) p = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1,"
        " count_include_pad=1>(c) d = Conv(p, v)",
        "c = Conv(x, w, b) p = Pad(c, borders, least) q = MaxPool<kernel_shape=[2,2]>(p)"
        " d = Conv(q, v)",
    ],
)
def test_nothing_of_a_float_model_is_lost(form, nodes):
    known = {"w": (8, 3, 1, 1), "v": (8, 8, 1, 1), "b": np.linspace(-1, 1, 8, dtype=np.float32)}
    some = {"high": np.float32(0.5), "borders": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
    some |= {"from": np.array([1, -1]), "to": np.array([8, -9]), "axes": np.array([2, 3])}
    some["steps"] = np.array([2, -3])
    some["least"] = np.float32(0 if "Pad(x" in nodes else np.finfo(np.float32).min)
    known |= {name: value for name, value in some.items() if name in nodes}
    tail = "g = GlobalAveragePool(d) f = Flatten(g) y = Gemm<alpha=0.5, beta=2.0>(f, k, h)"
    text = f"(float[N,3,8,8] x) => (float[N,4] y) {{ {nodes} {tail} }}"
    known |= {"k": (8, 4), "h": np.linspace(2, -2, 4, dtype=np.float32)}
    model = prepare(build(text, **known), run_once, (3, 8, 8)).model
    images = noise(8, 3, 8, 8)
    made = ort.quantize(model, calibrate(model, [images], threads=1), plan(form))
    exact, seen = answers(build(text, **known), images)[0], answers(made, images)[0]
    power = np.square(exact - exact.mean()).sum()
    assert 10 * np.log10(power / np.square(seen - exact).sum()) > 25


def test_a_slice_passes_integers_on():
    """As in the shortcuts of the ResNets for CIFAR-10: one scale before and behind it."""
    known = {"w": (8, 3, 1, 1), "v": (8, 8, 1, 1), "from": np.array([0]), "to": np.array([8])}
    known |= {"axes": np.array([2]), "steps": np.array([2])}
    text = """(float[N,3,8,8] x) => (float[N,8] y) {
        c = Conv(x, w) r = Relu(c) s = Slice(r, from, to, axes, steps) z = Conv(s, v)
        t = Relu(z) a = Add(t, s) g = GlobalAveragePool(a) y = Flatten(g) }"""
    model = prepare(build(text, **known), run_once, (3, 8, 8)).model
    images = noise(8, 3, 8, 8)
    images[:, :, 1] *= 10  # in what is left out, so that the rest has a range of its own
    made = ort.quantize(model, calibrate(model, [images], threads=1), plan())
    view, values = View(made.graph), constants(made)
    [slice_] = [node for node in made.graph.node if node.op_type == "Slice"]
    behind = view.only_reader(slice_.output[0])
    before = view.producers[slice_.input[0]]
    assert (before.op_type, behind.op_type) == ("DequantizeLinear", "QuantizeLinear")
    assert [values[name] for name in before.input[1:]] == [
        values[name] for name in behind.input[1:]
    ]
    turned = change_format(made, "qoperator")
    source = View(turned.graph).producers[
        next(n for n in turned.graph.node if n.op_type == "Slice").input[0]
    ]
    assert source.op_type == "QLinearConv"
