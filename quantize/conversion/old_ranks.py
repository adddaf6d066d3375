"""How many axes each tensor has: what the oldest broadcasting rules need, and no file says.

onnx infers no shapes through operators this old. The rank is all that is asked for here, and it
follows from the operators without sizes.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from quantize.graph.nodes import attribute
from quantize.graph.view import dims

_TO_TWO = frozenset({"Flatten", "Gemm", "FC"})


def ranks(graph: onnx.GraphProto) -> dict[str, int]:
    """Tensor name -> rank, as far as it is known; operators below opset 13 (axes as attributes)."""
    known = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shape = dims(value)
        if shape is not None:
            known.setdefault(value.name, len(shape))
    shapes = {tensor.name: tensor.dims for tensor in graph.initializer}
    for node in graph.node:
        rank = _rank(node, known, shapes)
        if rank is not None:
            known.update({name: rank for name in node.output if name and name not in known})
        if node.op_type == "Constant" and node.output:
            value = attribute(node, "value")
            shapes[node.output[0]] = value.dims if value is not None else []
    return known


def _rank(
    node: onnx.NodeProto, known: Mapping[str, int], shapes: Mapping[str, list[int]]
) -> int | None:
    if node.op_type == "Constant":
        value = attribute(node, "value")
        return None if value is None else len(value.dims)
    if node.op_type in _TO_TWO:
        return 2
    if node.op_type == "Reshape":
        return _reshaped(node, shapes)
    first = known.get(node.input[0]) if node.input else None
    if first is None:
        return None
    axes = attribute(node, "axes", [])
    if node.op_type == "Squeeze":
        return first - len(axes) if axes else None
    if node.op_type == "Unsqueeze":
        return first + len(axes)
    if node.op_type.startswith("Reduce") and attribute(node, "keepdims", 1) == 0:
        return first - len(axes) if axes else 0
    given = [known[name] for name in node.input if name in known]
    # Broadcasting never takes an axis away; all else keeps the rank of what it reads first.
    return max(given) if node.op_type in ("MatMul", "Sum", "Max", "Min", "Mean") else first


def _reshaped(node: onnx.NodeProto, shapes: Mapping[str, list[int]]) -> int | None:
    shape = attribute(node, "shape")
    if shape is not None:
        return len(shape)
    wanted = shapes.get(node.input[1]) if len(node.input) > 1 else None
    return int(wanted[0]) if wanted and len(wanted) == 1 else None
