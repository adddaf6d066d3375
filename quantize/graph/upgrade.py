"""Newer operators for graphs of opset 7 and up, which both `tune` and `convert` need.

`onnx.version_converter` does the work; here is what it refuses or gets wrong.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper, version_converter

from quantize.errors import ModelError
from quantize.graph.nodes import add_constant, attribute, called, drop, give, replace_nodes
from quantize.graph.view import View, opset

_PIXEL_RULES = 11
"""From this opset on Resize says where pixels lie, and its default is another than before."""


def to_opset(model: onnx.ModelProto, target: int) -> onnx.ModelProto:
    """The model with operators of a newer opset, computing the same.

    Args:
        model: of opset 7 or newer, older than `target`; edited in place.
        target: the opset wanted.

    Raises:
        ModelError: an operator has no newer form.
    """
    version = opset(model)
    settle_spatial(model.graph)
    resized = {
        name
        for node in model.graph.node
        if node.op_type in ("Upsample", "Resize") and version < _PIXEL_RULES
        for name in node.output
    }
    try:
        upgraded = version_converter.convert_version(model, target)
    except Exception as error:  # the converter raises whatever its C++ side does
        raise ModelError(
            f"the model's opset {version} cannot be converted to {target}: {error}",
            "export it again with opset 13 or newer",
        ) from error
    for node in upgraded.graph.node:
        if node.op_type == "Resize" and resized.intersection(node.output):
            give(node, coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    return upgraded


def settle_spatial(graph: onnx.GraphProto) -> int:
    """Rewrite BatchNormalization with spatial=0 (opsets below 9), in place.

    With parameters for each element, [C,H,W], it is x s + b with s = gamma / sqrt(var + eps) and
    b = beta - mean s. With C of them it is what older exporters wrote for the ordinary one.

    Returns:
        How many were rewritten.

    Raises:
        ModelError: the parameters are neither, or are no constants.
    """
    view, nodes, count = View(graph), [], 0
    for node in graph.node:
        flat = node.op_type == "BatchNormalization" and attribute(node, "spatial", 1) == 0
        if not flat:
            nodes.append(node)
            continue
        count += 1
        ranks = {len(view.initializers[n].dims) for n in node.input[1:5] if n in view.initializers}
        if ranks == {1}:
            drop(node, "spatial")
            nodes.append(node)
        else:
            nodes += _elementwise(graph, node, view)
    if count:
        replace_nodes(graph, nodes)
    return count


def _elementwise(
    graph: onnx.GraphProto, node: onnx.NodeProto, view: View
) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    tensors = [view.initializers.get(name) for name in node.input[1:5]]
    values = [numpy_helper.to_array(t).astype(np.float64) for t in tensors if t is not None]
    if len(values) != 4 or any(v.shape != values[0].shape or v.ndim != 3 for v in values):
        raise ModelError(
            f"{called(node)} has spatial=0 with parameters that are neither [C] nor [C,H,W]",
            "export the model again",
        )
    gamma, beta, mean, var = values
    scale = gamma / np.sqrt(var + attribute(node, "epsilon", 1e-5))
    output = node.output[0]
    scales = add_constant(graph, f"{output}.scale", scale.astype(np.float32))
    offsets = add_constant(graph, f"{output}.offset", (beta - mean * scale).astype(np.float32))
    scaled = f"{scales}d"
    return (
        helper.make_node("Mul", [node.input[0], scales], [scaled], name=f"{output}.mul"),
        helper.make_node("Add", [scaled, offsets], [output], name=node.name or f"{output}.add"),
    )
