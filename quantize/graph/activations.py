"""Relu and Clip, where an int8 layer's rounding cannot stand for them.

A quantizer lets them vanish: the range of the integers before ends where they would clip. That is
right only if this range is theirs. What merely passes integers on, as a pooling or a Transpose, has
the range of what it reads; a tensor that others read, too, keeps its own; and every range holds 0.
"""

from __future__ import annotations

import onnx

from quantize.graph.layers import clip_limits
from quantize.graph.nodes import attribute, replace_nodes
from quantize.graph.order import sort_nodes
from quantize.graph.points import ARITHMETIC
from quantize.graph.view import View

_KINDS = frozenset({"Clip", "Relu"})
_PASSING = frozenset(
    {"Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
)


def ahead(model: onnx.ModelProto) -> int:
    """Move each Relu and Clip in front of what passes values on, to what made them.

    Neither a maximum nor another shape minds. Edits in place; tensors that are left keep their
    values, those in between hold clipped ones.

    Returns:
        How many were moved.
    """
    graph = model.graph
    moved, view = 0, View(graph)
    for node in graph.node:
        if node.op_type not in _KINDS:
            continue
        passing = _passing(view, node) if clip_limits(view, node) is not None else []
        if not passing or passing[-1].input[0] not in view.producers:
            continue
        first, before = passing[-1], node.input[0]
        clipped = f"{first.input[0]}.{node.name or node.output[0]}"
        node.input[0], first.input[0] = first.input[0], clipped
        passing[0].output[0] = node.output[0]
        node.output[0] = clipped
        _forget(graph, before)
        moved, view = moved + 1, View(graph)
    if moved:
        replace_nodes(graph, list(graph.node))
        sort_nodes(graph)
    return moved


def _passing(view: View, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The nodes before it that pass values on to it alone, the nearest first."""
    found: list[onnx.NodeProto] = []
    name = node.input[0]
    while view.only_reader(name) is not None:
        maker = view.producers.get(name)
        if maker is None or maker.op_type not in _PASSING or len(maker.output) > 1:
            break
        if attribute(maker, "ceil_mode", 0) or view.only_reader(maker.input[0]) is None:
            break
        found.append(maker)
        name = maker.input[0]
    return found


def _forget(graph: onnx.GraphProto, name: str) -> None:
    """Drop the declaration of a tensor that is gone."""
    kept = [value for value in graph.value_info if value.name != name]
    if len(kept) < len(graph.value_info):
        copies = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in kept]
        del graph.value_info[:]
        graph.value_info.extend(copies)


def must_stay(model: onnx.ModelProto, *, passing_on: bool) -> list[str]:
    """Names of the Relu and Clip that a quantizer would lose.

    Args:
        model: a prepared float model.
        passing_on: whether it lets one vanish wherever its input is an integer, as that of
            QOperator files does; that of QDQ files looks at what made the input.
    """
    view = View(model.graph)
    return [
        node.name
        for node in model.graph.node
        if node.op_type in _KINDS and _is_lost(view, node, passing_on=passing_on)
    ]


def _is_lost(view: View, node: onnx.NodeProto, *, passing_on: bool) -> bool:
    limits = clip_limits(view, node)
    if limits is None or limits[0] > 0 or limits[1] < 0:
        return True
    maker = view.producers.get(node.input[0])
    alone = view.only_reader(node.input[0]) is not None
    return passing_on and (maker is None or not alone or maker.op_type not in ARITHMETIC)
