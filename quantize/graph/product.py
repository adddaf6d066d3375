"""Products of matrices as a model, so that onnxruntime computes them."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

_OPSET = 13
_IR = 8


def integer_gram() -> onnx.ModelProto:
    """X uint8 [G,P,K], Y [G,P,L], z -> of each group sum of (x - z) (y - z)^T, int32 [G,K,L]."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["rows"], perm=[0, 2, 1]),
        helper.make_node("MatMulInteger", ["rows", "y", "zero", "zero"], ["products"]),
    ]
    graph = helper.make_graph(
        nodes,
        "integer_gram",
        [
            helper.make_tensor_value_info("x", TensorProto.UINT8, ["G", "P", "K"]),
            helper.make_tensor_value_info("y", TensorProto.UINT8, ["G", "P", "L"]),
            helper.make_tensor_value_info("zero", TensorProto.UINT8, []),
        ],
        [helper.make_tensor_value_info("products", TensorProto.INT32, ["G", "K", "L"])],
    )
    return _model(graph)


def _model(graph: onnx.GraphProto) -> onnx.ModelProto:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
