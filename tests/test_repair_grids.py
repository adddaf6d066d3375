"""Integers of activations, as onnxruntime makes them."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper

from graphs import build
from quantize.graph.io import to_bytes
from quantize.plan import Encoding
from quantize.repair.grids import integers_of, units
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
