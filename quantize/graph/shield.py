"""Layers that were left float stay float when the file runs.

Onnxruntime's optimizer (WeightBiasQuantization) gives every Conv and Gemm between DequantizeLinear
and QuantizeLinear int8 weights of one scale per tensor, whatever the file says; but only where that
DequantizeLinear has a single scale.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from quantize.graph.view import View


def shield_float_layers(model: onnx.ModelProto) -> int:
    """Feed each float layer through a DequantizeLinear of its own with the same scale per channel.

    It gives the very same numbers. A layer with one input channel cannot be shielded so.

    Args:
        model: int8, opset 13 or newer; edited in place.

    Returns:
        How many layers were shielded.
    """
    graph = model.graph
    view = View(graph)
    nodes: list[onnx.NodeProto] = []
    shielded = 0
    for node in graph.node:
        own = _own_source(graph, view, node)
        if own is not None:
            nodes.append(own)
            node.input[0] = own.output[0]
            shielded += 1
        nodes.append(node)
    if shielded:
        read = {name for node in nodes for name in node.input} | view.outputs
        used = [n for n in nodes if n.op_type != "DequantizeLinear" or n.output[0] in read]
        copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in used]
        del graph.node[:]
        graph.node.extend(copies)
    return shielded


def needs_shield(view: View, node: onnx.NodeProto) -> bool:
    """Whether a layer has float weights and reads from a DequantizeLinear of one scale."""
    if not _input_channels(view, node):
        return False
    source = view.producers.get(node.input[0])
    if source is None or source.op_type != "DequantizeLinear":
        return False
    parameters = [view.constant(name) for name in source.input[1:3]]
    return all(value is not None and value.size == 1 for value in parameters)


def _own_source(graph: onnx.GraphProto, view: View, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """A DequantizeLinear with a scale per channel for this node, where it needs one."""
    channels = _input_channels(view, node)
    if channels < 2 or not needs_shield(view, node):
        return None
    source = view.producers[node.input[0]]
    parameters = [view.constant(name) for name in source.input[1:3]]
    name = f"{node.output[0]}.shield"
    inputs = [source.input[0]]
    for kind, value in zip(("scale", "zero_point"), parameters, strict=False):
        inputs.append(f"{name}.{kind}")
        repeated = np.repeat(np.asarray(value).reshape(1), channels)
        graph.initializer.append(numpy_helper.from_array(repeated, inputs[-1]))
    return onnx.helper.make_node("DequantizeLinear", inputs, [name], name=name, axis=1)


def _input_channels(view: View, node: onnx.NodeProto) -> int:
    """How many a Conv or Gemm with constant float weights reads; 0 for any other node."""
    attributes = {a.name: a.i for a in node.attribute}
    weight = view.initializers.get(node.input[1]) if node.op_type in ("Conv", "Gemm") else None
    if weight is None or weight.data_type != onnx.TensorProto.FLOAT or attributes.get("transA"):
        return 0
    if node.op_type == "Conv":
        return int(weight.dims[1]) * int(attributes.get("group", 1))
    return int(weight.dims[1] if attributes.get("transB") else weight.dims[0])
