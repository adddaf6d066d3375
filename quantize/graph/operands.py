"""What layers read, in the one form that quantizers get right: each edits in place and counts.

onnxruntime's drops the beta of a Gemm, fails on a bias that is no vector, and in QOperator files
gives layers that share a bias the integers of the first one, whose scale is not theirs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from quantize.graph.nodes import add_constant, attribute, drop
from quantize.graph.view import View

_BIASED = frozenset({"Conv", "Gemm"})
_BIAS = 2


def plain_gemms(model: onnx.ModelProto) -> int:
    """Put the factors of each Gemm into its constants, and its bias into a vector.

    B' = alpha B and C' = beta C, float64 in between; C of one element, [1,M] or [1,1] becomes [M].
    What is not constant, or no float32, keeps its factor.

    Returns:
        How many were changed.
    """
    view = View(model.graph)
    gemms = [node for node in model.graph.node if node.op_type == "Gemm"]
    return sum([_settle(model.graph, view, node) for node in gemms])


def _settle(graph: onnx.GraphProto, view: View, gemm: onnx.NodeProto) -> bool:
    held = view.initializers.get(gemm.input[1])
    if held is None or held.data_type != onnx.TensorProto.FLOAT or len(held.dims) != 2:
        return False
    width = held.dims[0 if attribute(gemm, "transB", 0) else 1]
    alpha, beta = (float(attribute(gemm, name, 1.0)) for name in ("alpha", "beta"))
    if alpha != 1:
        _give(graph, gemm, 1, numpy_helper.to_array(held).astype(np.float64) * alpha)
        drop(gemm, "alpha")
    bias = _float32(view, gemm.input[_BIAS]) if gemm.input[_BIAS:] else None
    if bias is None or bias.size not in (1, width) or bias.shape[-1:] not in ((), (1,), (width,)):
        return alpha != 1
    if beta == 1 and bias.shape == (width,):
        return alpha != 1
    _give(graph, gemm, _BIAS, np.broadcast_to(bias.reshape(-1) * beta, (width,)))
    drop(gemm, "beta")
    return True


def own_biases(model: onnx.ModelProto) -> int:
    """Give each Conv and Gemm a bias that nothing else reads, where it is constant.

    Returns:
        How many copies were made.
    """
    view = View(model.graph)
    made = 0
    for name, readers in view.consumers.items():
        biased = [node for node in readers if _reads_as_bias(node, name)]
        value = _float32(view, name) if biased and len(readers) > 1 else None
        if value is None:
            continue
        kept = 1 if len(biased) == len(readers) else 0
        for node in biased[kept:]:
            _give(model.graph, node, _BIAS, value)
            made += 1
    return made


def _reads_as_bias(node: onnx.NodeProto, name: str) -> bool:
    return node.op_type in _BIASED and name in node.input[_BIAS:] and name not in node.input[:_BIAS]


def _float32(view: View, name: str) -> NDArray[np.float64] | None:
    """A float32 constant in float64, or None if it is none."""
    value = view.constant(name) if name else None
    return value.astype(np.float64) if value is not None and value.dtype == np.float32 else None


def _give(graph: onnx.GraphProto, node: onnx.NodeProto, position: int, value: NDArray[Any]) -> None:
    """A constant of its own: another node may still read the old one."""
    stem = f"{node.input[position]}.{node.output[0]}"
    node.input[position] = add_constant(graph, stem, value.astype(np.float32))
