"""Integers of activations, as onnxruntime makes them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper

from graphs import build, noise
from quantize.calibrate import calibrate
from quantize.engines import ort
from quantize.graph.io import to_bytes
from quantize.graph.layers import absorbed
from quantize.graph.points import quantization_points
from quantize.graph.prepare import prepare
from quantize.plan import Encoding, Encodings, Plan, Scheme
from quantize.probe import run_once
from quantize.repair.grids import activation_encodings, encoding_of, integers_of, units
from quantize.repair.ranges import by_method, min_max
from quantize.runtime import Session

GRAPH = helper.make_graph(
    [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])],
    "q",
    [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        helper.make_tensor_value_info("s", TensorProto.FLOAT, []),
        helper.make_tensor_value_info("z", TensorProto.UINT8, []),
    ],
    [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
)
SESSION = Session(
    to_bytes(helper.make_model(GRAPH, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))
)


@settings(deadline=None, max_examples=100)
@given(
    arrays(np.float32, st.integers(1, 40), elements=st.floats(-1e4, 1e4, width=32)),
    st.floats(2.0**-10, 100, width=32),
    st.integers(0, 255),
)
def test_integers_are_those_of_onnxruntime(values, scale, zero):
    encoding = Encoding(np.float32(scale), zero)
    before = values.copy()
    [seen] = SESSION.run_feeds(
        {"x": values, "s": np.asarray(scale, np.float32), "z": np.asarray(zero, np.uint8)}
    )
    found = integers_of(values, encoding)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, seen)
    np.testing.assert_array_equal(values, before)


def test_what_moves_integers_passes_their_unit_on():
    model = build(
        """(float[N,3,8,8] x) => (float[N,4] y) {
            h = Conv(x, w)
            r = Relu(h)
            m = MaxPool<kernel_shape=[2,2]>(r)
            s = Sigmoid(x)
            t = Concat<axis=1>(s, x)
            y = Gemm(m, k)
        }""",
        w=(4, 3, 3, 3),
        k=(4, 4),
    )
    own = {"x": 0.5, "h": 0.25, "r": 0.25}
    encodings = {name: Encoding(np.float32(scale), 0) for name, scale in own.items()}
    passed_on = {"m": 0.25, "s": 0.5, "t": 0.5, "y": 0.25}
    assert units(model, encodings) == own | passed_on
    without = units(model, {"r": encodings["r"]})
    assert (without["x"], without["h"], without["t"]) == (0, 0, 0)
    assert (without["r"], without["m"]) == (0.25, 0.25)


# ------------------------------------------------------------------------- by a method

METHODS = ("minmax", "percentile", "kl", "mse")


@pytest.fixture(scope="module")
def tailed():
    """A model whose activations have long tails, and its statistics."""
    made = build(
        """(float[N,3,32,32] x) => (float[N,4] y) {
            [a] h = Conv(x, w, b)
            [r] s = Relu(h)
            [c] t = Conv<pads=[1,1,1,1]>(s, v, d)
            [p] q = GlobalAveragePool(t)
            [f] z = Flatten(q)
            [g] y = Gemm<transB=1>(z, k, e)
        }""",
        w=(6, 3, 1, 1), b=(6,), v=(5, 6, 3, 3), d=(5,), k=(4, 5), e=(4,),
    )  # fmt: skip
    model = prepare(made, run_once, (3, 32, 32)).model
    images = noise(40, 3, 32, 32)
    images[0, :, 0, 0] = [90, -60, 30]  # few enough for a percentile to leave some out
    return model, calibrate(model, [images], threads=1)


@pytest.mark.parametrize("method", METHODS)
def test_ranges_are_those_of_the_method_and_the_input_keeps_its_own(tailed, method):
    model, statistics = tailed
    assert "x" in quantization_points(model)
    found = activation_encodings(model, statistics, method)
    for name in quantization_points(model):
        span, counts = statistics.ranges[name], statistics.histograms.get(name)
        exact = name == "x" or counts is None
        wanted = encoding_of(min_max(span) if exact else by_method(method, span, counts))
        assert (found[name].scale, found[name].zero_point) == (wanted.scale, wanted.zero_point)
    for before, behind in absorbed(model).items():
        assert found[before] == found[behind]


def test_each_method_clips_a_long_tail_elsewhere(tailed):
    model, statistics = tailed
    [relu] = [name for name in absorbed(model).values() if name in statistics.histograms]
    found = {
        method: float(activation_encodings(model, statistics, method)[relu].scale)
        for method in METHODS
    }
    assert len(set(found.values())) == len(METHODS)
    assert max(found, key=lambda method: found[method]) == "minmax"


def test_only_on_images_does_the_input_leave_its_range(tailed):
    """What the repair `ranges` does beyond the method mse."""
    model, _ = tailed
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32))
    images = (pixels / np.float32(127.5) - 1).astype(np.float32)
    seen = calibrate(model, [images], threads=1)
    alone, moved = (activation_encodings(model, seen, "mse", each) for each in (None, images))
    assert {name for name in alone if alone[name].scale != moved[name].scale} == {"x"}


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("method", METHODS)
def test_the_file_has_the_scales_of_the_method(tailed, form, method):
    model, statistics = tailed
    found = activation_encodings(model, statistics, method)
    plan = Plan("onnxruntime", form, Scheme(method=method))
    before = to_bytes(model)
    made = [ort.quantize(model, statistics, plan, Encodings(found, {}, {})) for _ in range(2)]
    assert to_bytes(made[0]) == to_bytes(made[1])
    assert to_bytes(model) == before
    values = {t.name: numpy_helper.to_array(t) for t in made[0].graph.initializer}
    written = {name for name in found if f"{name}_scale" in values}
    assert set(found) - set(absorbed(model)) - {"y"} <= written | set(absorbed(model).values())
    for name in written:
        assert values[f"{name}_scale"] == found[name].scale
        assert values[f"{name}_zero_point"] == found[name].zero_point
    other = replace(plan, scheme=Scheme())
    plain = ort.quantize(model, statistics, other)
    assert (to_bytes(plain) == to_bytes(made[0])) == (method == "minmax")
