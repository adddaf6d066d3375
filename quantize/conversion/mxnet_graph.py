"""The ONNX graph while MXNet's nodes are turned into it, one after the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from quantize.conversion.mxnet_symbol import Node
from quantize.errors import ModelError

Array = NDArray[np.float32]
Shape = tuple[int | None, ...]
"""None where any size will do."""

OPSET = 13
_IR = 8
_NAME = "mxnet_converted_model"  # as the model zoo's files call it
_MOST_BYTES = 2**31 - (1 << 20)


class Graph:
    """Nodes and constants as they are added; no two tensors get the same name.

    Args:
        names: those of the symbol's tensors, which nothing else may take.

    Attributes:
        flat: tensors that are known to be [N,K].
        alike: tensors whose node wants inputs of equal shapes.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.flat: set[str] = set()
        self.alike: set[str] = set()
        self._taken = set(names)
        self._constants: dict[str, NDArray[Any]] = {}

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node, called as its output; returns that name."""
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def inner(self, name: str) -> str:
        """A name like this one for a tensor that MXNet does not have."""
        fresh, tries = name, 0
        while fresh in self._taken:
            tries += 1
            fresh = f"{name}_{tries}"
        self._taken.add(fresh)
        return fresh

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """An initializer of this name, or of one like it where this one holds something else."""
        held = self._constants.get(name)
        if held is values:
            return name
        if held is not None and not (held.shape == values.shape and np.array_equal(held, values)):
            return self.constant(self.inner(name), values)
        self._constants[name] = values
        return name

    def extra(self, name: str, values: NDArray[Any]) -> str:
        """An initializer that MXNet does not have."""
        return self.constant(self.inner(name), values)

    def skeleton(self, image: str, heads: list[str]) -> onnx.ModelProto:
        """The model with weights that are declared but not there, to work out shapes cheaply."""
        small, inputs = [], [helper.make_tensor_value_info(image, TensorProto.FLOAT, None)]
        for name, values in self._constants.items():
            if values.dtype == np.float32 and values.ndim:
                shape = list(values.shape)
                inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
            else:
                small.append(numpy_helper.from_array(values, name))
        outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in heads]
        return _model(helper.make_graph(self.nodes, _NAME, inputs, outputs, small))

    def finish(
        self, image: onnx.ValueInfoProto, heads: list[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        """The model.

        Raises:
            ModelError: it would be larger than a file can be.
        """
        if sum(values.nbytes for values in self._constants.values()) > _MOST_BYTES:
            raise ModelError("the model is larger than 2 GiB", "convert a smaller model")
        tensors = [numpy_helper.from_array(v, name) for name, v in self._constants.items()]
        return _model(helper.make_graph(self.nodes, _NAME, [image], heads, tensors))


@dataclass(frozen=True, eq=False)
class Operand:
    """What a node reads.

    Attributes:
        name: of the tensor.
        values: of a parameter, float32; None for what is computed, and for the image.
    """

    name: str
    values: Array | None


@dataclass(frozen=True, eq=False)
class Site:
    """One node that is to be converted, where it stands.

    Attributes:
        graph: what it is added to.
        node: the node.
        index: its place in the symbol.
        operands: what it reads, labels left out.
    """

    graph: Graph
    node: Node
    index: int
    operands: tuple[Operand, ...]

    def emit(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        """Add the node that makes this node's tensor."""
        return self.graph.add(operator, inputs, self.node.name, **attributes)

    def data(self, position: int = 0) -> str:
        """The tensor at one input; a parameter becomes an initializer."""
        operand = self.operands[position]
        if operand.values is not None:
            return self.graph.constant(operand.name, operand.values)
        return operand.name

    def weight(self, position: int, shape: Shape) -> Array:
        """The parameter at one input.

        Raises:
            ModelError: it is computed, or has another shape.
        """
        operand = self.operands[position]
        if operand.values is None:
            raise self.refused(f"its weight {operand.name!r} is computed by another node")
        found = operand.values.shape
        if len(found) != len(shape) or any(
            want not in (None, size) for want, size in zip(shape, found, strict=True)
        ):
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise self.refused(
                f"its weight {operand.name!r} has shape {list(found)}, not [{wanted}]"
            )
        return operand.values

    def parameter(self, position: int, shape: Shape) -> str:
        """The parameter at one input, as an initializer; see `weight`."""
        return self.graph.constant(self.operands[position].name, self.weight(position, shape))

    def expect(self, *counts: int) -> None:
        """Raise ModelError unless the node reads one of these numbers of inputs."""
        if len(self.operands) not in counts:
            wanted = " or ".join(map(str, counts))
            raise self.refused(f"it reads {len(self.operands)} inputs, not {wanted}")

    @property
    def flat(self) -> bool:
        """Whether its first input is known to be [N,K]."""
        return self.operands[0].name in self.graph.flat

    def refused(self, reason: str) -> ModelError:
        """The error for this node."""
        return ModelError(f"{self.node.attributes.place} cannot be converted: {reason}")


def _model(graph: onnx.GraphProto) -> onnx.ModelProto:
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="quantize"
    )
    model.ir_version = _IR
    return model
