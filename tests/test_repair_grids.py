"""Integers of activations, as onnxruntime makes them."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper

from quantize.graph.io import to_bytes
from quantize.plan import Encoding
from quantize.repair.grids import integers_of
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
