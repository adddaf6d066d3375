"""Small edits of graphs that rewrites are made of: attributes, constants, new nodes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


def called(node: onnx.NodeProto) -> str:
    """How errors call a node: by its name, or by what it makes where it has none."""
    name = node.name or next(iter(node.output), "")
    return f"{node.op_type} {name!r}"


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of an attribute, strings as str, or the default where the node has none."""
    found = next((a for a in node.attribute if a.name == name), None)
    if found is None:
        return default
    value = helper.get_attribute_value(found)
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def drop(node: onnx.NodeProto, *names: str) -> None:
    """Remove attributes; those that the node lacks are no error."""
    kept = [a for a in node.attribute if a.name not in names]
    if len(kept) < len(node.attribute):
        copies = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in kept]
        del node.attribute[:]
        node.attribute.extend(copies)


def give(node: onnx.NodeProto, **values: Any) -> None:
    """Set attributes, replacing those of the same name."""
    drop(node, *values)
    node.attribute.extend(helper.make_attribute(name, value) for name, value in values.items())


def unused_name(graph: onnx.GraphProto, stem: str) -> str:
    """`stem`, or with underscores behind it if a tensor is called so."""
    taken = {tensor.name for tensor in graph.initializer}
    taken.update(value.name for value in graph.input)
    taken.update(name for node in graph.node for name in (*node.input, *node.output))
    while stem in taken:
        stem += "_"
    return stem


def add_constant(graph: onnx.GraphProto, stem: str, value: NDArray[np.generic]) -> str:
    """A new initializer; returns its name, which begins with `stem`."""
    name = unused_name(graph, stem)
    graph.initializer.append(numpy_helper.from_array(value, name))
    return name


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Make these the nodes of the graph; some may be its own."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def constants_out_of_inputs(graph: onnx.GraphProto) -> int:
    """Files of IR version 3 list every initializer as an input: leave the true inputs.

    Returns:
        How many were taken out.
    """
    constants = {tensor.name for tensor in graph.initializer}
    true = [value for value in graph.input if value.name not in constants]
    dropped = len(graph.input) - len(true)
    if dropped:
        copies = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in true]
        del graph.input[:]
        graph.input.extend(copies)
    return dropped
