"""What both directions share: which operators come in two forms, and names that are free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

if TYPE_CHECKING:
    from numpy.typing import NDArray

QUANTIZED = "_quant"
"""What onnxruntime's quantizer adds to the name of a node on integers."""

MICROSOFT = "com.microsoft"

# Operators of one activation, or of two, whose form on integers takes (x, scale, zero point) for
# each of them and then the result's scale and zero point: float form -> form on integers.
PLAIN = {
    "Add": "QLinearAdd",
    "AveragePool": "QLinearAveragePool",
    "GlobalAveragePool": "QLinearGlobalAveragePool",
    "LeakyRelu": "QLinearLeakyRelu",
    "Mul": "QLinearMul",
    "Sigmoid": "QLinearSigmoid",
}

FLOAT_FORMS = {name: op for op, name in PLAIN.items()}
"""The other way round."""

MOVING = frozenset(
    {"Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
)
"""Give some of the values that they get, and take integers as they are."""


class Names:
    """The names of a graph's tensors, and new ones beside them."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.taken = {name for node in graph.node for name in (*node.input, *node.output)}
        self.taken.update(tensor.name for tensor in graph.initializer)
        self.taken.update(value.name for value in (*graph.input, *graph.output))

    def new(self, wanted: str) -> str:
        """That name, or one like it that is free."""
        while wanted in self.taken:
            wanted += "_"
        self.taken.add(wanted)
        return wanted

    def constant(self, wanted: str, value: NDArray[Any] | np.generic) -> str:
        """Add a constant; its name."""
        name = self.new(wanted)
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def copied_attributes(node: onnx.NodeProto, *, without: frozenset[str] = frozenset()) -> Any:
    """A node's attributes for another node."""
    return [a for a in node.attribute if a.name not in without]


def replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Give a graph these nodes, without any DequantizeLinear that nobody reads any more."""
    read = {name for node in nodes for name in node.input}
    read.update(value.name for value in graph.output)
    kept = [n for n in nodes if n.op_type != "DequantizeLinear" or n.output[0] in read]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(copies)
