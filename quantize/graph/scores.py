"""Scores that are not rounded: the last matrix product gives floats.

Its sums are 32-bit integers, and the last thing that happens to them is a multiplication; to round
them to 8 bits before would save nothing.
"""

from __future__ import annotations

import onnx

from quantize.graph.fold import unused_initializers
from quantize.graph.view import View

_QUANTIZED = "_quant"
"""What onnxruntime's quantizer adds to the name of a node that it replaces."""

_ROUNDING = frozenset({"DequantizeLinear", "QuantizeLinear"})
_SCORING = frozenset({"LogSoftmax", "Sigmoid", "Softmax"})
_SUMS = 7
"""Inputs of a QGemm that gives floats: without scale and zero point of its result."""


def float_scores(made: onnx.ModelProto, model: onnx.ModelProto) -> int:
    """Let a Gemm whose result is scores give floats, in both formats.

    A QLinearMatMul cannot, and a bias of its own stands behind a MatMul: both stay as they are. So
    does a result that a Relu or Clip reads in the float model, as its rounding is that Relu now.

    Args:
        made: int8; edited in place.
        model: the float model that it was made from.

    Returns:
        How many results are no longer rounded.
    """
    graph = made.graph
    view, scoring = View(graph), _scoring(View(model.graph))
    found = [
        (back, source)
        for back in graph.node
        for source in _products(view, back)
        if source.name.removesuffix(_QUANTIZED) in scoring
    ]
    dropped = {name for back, _ in found for name in (back.input[0], back.output[0])}
    for back, source in found:
        del source.input[_SUMS if source.op_type == "QGemm" else len(source.input) :]
        source.output[0] = back.output[0]
    kept = [n for n in graph.node if n.op_type not in _ROUNDING or n.output[0] not in dropped]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(copies)
    unused_initializers(made)
    return len(found)


def _scoring(view: View) -> set[str]:
    """Names of the float model's Gemm nodes that make scores."""
    nodes = view.graph.node
    return {n.name for n in nodes if n.op_type == "Gemm" and _is_score(view, n.output[0])}


def _products(view: View, back: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The Gemm or QGemm whose rounded result a DequantizeLinear turns into scores, if any."""
    alone = back.op_type == "DequantizeLinear" and view.only_reader(back.input[0]) is not None
    if not alone or not _is_score(view, back.output[0]):
        return []
    source = view.producers.get(back.input[0])
    if source is not None and source.op_type == "QuantizeLinear":
        whole = view.only_reader(source.input[0]) is not None
        product = view.producers.get(source.input[0])
        return [product] if product is not None and whole and product.op_type == "Gemm" else []
    return [source] if source is not None and source.op_type == "QGemm" else []


def _is_score(view: View, name: str) -> bool:
    """Whether a tensor is the output, or goes into what makes probabilities of it."""
    reader = view.only_reader(name)
    if reader is None:
        return name in view.outputs and not view.consumers.get(name)
    return reader.op_type in _SCORING
