"""The smallest model that shows how a processor adds two products."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

EXACT = 2 * 255 * 127


def largest_pair() -> onnx.ModelProto:
    """uint8 [1,2] times two weights of 127, as int32 [1,1]: 255 and 255 give `EXACT`."""
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"], "pair")
    graph = helper.make_graph(
        [node],
        "pair",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [1, 1])],
        [numpy_helper.from_array(np.full((2, 1), 127, np.int8), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
