"""Newer operators for graphs of opset 7 and up, which both `tune` and `convert` need.

`onnx.version_converter` does the work; here is what it refuses or gets wrong.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper, version_converter

from quantize.errors import ModelError
from quantize.graph.nodes import add_constant, attribute, called, drop, give, replace_nodes
from quantize.graph.view import View, dims, opset

_ONE_AXIS = 13
"""From this opset on Softmax goes along one axis."""

_SOFTMAX = frozenset({"LogSoftmax", "Softmax"})

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
    check_operators(model, target)
    settle_spatial(model)
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
    if version < _ONE_AXIS <= target:
        _plain_softmax(upgraded)
    _add_pairs(upgraded.graph)
    return upgraded


def _add_pairs(graph: onnx.GraphProto) -> None:
    """A Sum of two is an Add, which quantizers and runtimes know better."""
    for node in graph.node:
        if node.op_type == "Sum" and len(node.input) == 2 and node.domain in ("", "ai.onnx"):
            node.op_type = "Add"


def check_operators(model: onnx.ModelProto, target: int) -> None:
    """Raise ModelError, naming the node, if an operator is not one of the model's opset."""
    version = opset(model)
    for node in model.graph.node:
        if node.domain in ("", "ai.onnx") and not _known(node.op_type, version):
            raise ModelError(
                f"the model's opset {version} cannot be converted to {target}: it has no operator"
                f" {called(node)}",
                "export it again with opset 13 or newer",
            )


def _known(operator: str, version: int) -> bool:
    try:
        onnx.defs.get_schema(operator, version)
    except onnx.defs.SchemaError:
        return False
    return True


def _plain_softmax(model: onnx.ModelProto) -> None:
    """Softmax of [N,K,1,1] along K, in place of the three nodes that flatten it and back.

    Before opset 13 all axes from `axis` on were taken as one. The converter writes that out,
    though nothing is there to flatten where the axes behind are 1 long; and what looks for the
    scores before a last Softmax would not find it.
    """
    view = View(model.graph)
    found = [(flat, node) for node in model.graph.node if (flat := _flattened(node, view))]
    if not found:
        return
    shapes = inferred_shapes(model)
    gone: set[str] = set()
    measured: set[str] = set()
    for flat, node in found:
        back = view.only_reader(node.output[0])
        axis, shape = attribute(flat, "axis", 1), shapes.get(flat.input[0])
        if back is None or shape is None or any(size != 1 for size in shape[axis + 1 :]):
            continue
        gone.update({flat.output[0], back.output[0]})
        measured.add(back.input[1])
        node.input[0], node.output[0] = flat.input[0], back.output[0]
        give(node, axis=axis)
    replace_nodes(
        model.graph,
        [n for n in model.graph.node if n.op_type in _SOFTMAX or gone.isdisjoint(n.output)],
    )
    left = View(model.graph)
    unread = measured - left.consumers.keys() - left.outputs - left.captured
    replace_nodes(model.graph, [n for n in model.graph.node if unread.isdisjoint(n.output)])


def _flattened(node: onnx.NodeProto, view: View) -> onnx.NodeProto | None:
    """The Flatten before a Softmax, if a Reshape to the same tensor's shape stands behind it."""
    flat = view.producers.get(node.input[0]) if node.op_type in _SOFTMAX else None
    if flat is None or flat.op_type != "Flatten" or view.only_reader(flat.output[0]) is None:
        return None
    back = view.only_reader(node.output[0])
    shape = view.producers.get(back.input[1]) if back and back.op_type == "Reshape" else None
    same = shape is not None and shape.op_type == "Shape" and shape.input[0] == flat.input[0]
    return flat if same else None


def settle_spatial(model: onnx.ModelProto) -> int:
    """Rewrite BatchNormalization with spatial=0 (opsets below 9), in place.

    With parameters for each element, [C,H,W], it is x s + b with s = gamma / sqrt(var + eps) and
    b = beta - mean s. With C of them it is what older exporters wrote for the ordinary one.

    Returns:
        How many were rewritten.

    Raises:
        ModelError: the parameters are neither, or are no constants.
    """
    graph = model.graph
    found = {index for index, node in enumerate(graph.node) if _elements(node)}
    if not found:
        return 0
    shapes, view, nodes = inferred_shapes(model), View(graph), []
    for index, node in enumerate(graph.node):
        if index not in found:
            nodes.append(node)
            continue
        known = [view.initializers[n].dims for n in node.input[1:5] if n in view.initializers]
        channels = (shapes.get(node.input[0]) or [None, None])[1]
        if all(len(d) == 1 and channels in (None, d[0]) for d in known):
            drop(node, "spatial")
            nodes.append(node)
        else:
            nodes += _elementwise(graph, node, view)
    replace_nodes(graph, nodes)
    return len(found)


def _elements(node: onnx.NodeProto) -> bool:
    return node.op_type == "BatchNormalization" and attribute(node, "spatial", 1) == 0


def inferred_shapes(model: onnx.ModelProto) -> dict[str, list[int | None] | None]:
    """Tensor name -> shape, None for open sizes; tensors of unknown rank are missing or None.

    Raises:
        ModelError: the graph contradicts itself.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:  # inference raises whatever its C++ side does
        raise ModelError(f"shapes cannot be inferred: {error}", "export the model again") from error
    graph = inferred.graph
    return {value.name: dims(value) for value in (*graph.input, *graph.value_info, *graph.output)}


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
