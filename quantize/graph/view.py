"""Looking at a graph: who makes a tensor, who reads it, and what the model takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

from quantize.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

QUANTIZED_OPS = frozenset(
    {
        "ConvInteger",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "DynamicQuantizeMatMul",
        "MatMulBnb4",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QGemm",
        "QLinearAdd",
        "QLinearAveragePool",
        "QLinearConcat",
        "QLinearConv",
        "QLinearConvTranspose",
        "QLinearGlobalAveragePool",
        "QLinearLeakyRelu",
        "QLinearMatMul",
        "QLinearMul",
        "QLinearReduceMean",
        "QLinearSigmoid",
        "QLinearSoftmax",
        "QLinearWhere",
        "QuantizeLinear",
    }
)

MOST_BATCH = 1024


@dataclass(frozen=True)
class Signature:
    """What an image classifier takes and gives.

    Attributes:
        input: name of the image input, float32 [N,C,H,W].
        channels: C, or None where the file leaves it open; likewise height and width.
        output: name of the scores, float32 [N,K]; [N,K,1,1] where a pooling gives them.
        classes: K, or None where the file does not say.
        batch: the declared batch size, or None where it is free.
    """

    input: str
    channels: int | None
    height: int | None
    width: int | None
    output: str
    classes: int | None
    batch: int | None


class View:
    """Index of one graph; valid as long as the graph is not edited."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph

    @cached_property
    def initializers(self) -> dict[str, onnx.TensorProto]:
        """Name -> constant tensor."""
        return {tensor.name: tensor for tensor in self.graph.initializer}

    @cached_property
    def producers(self) -> dict[str, onnx.NodeProto]:
        """Tensor name -> the node that makes it."""
        return {name: node for node in self.graph.node for name in node.output if name}

    @cached_property
    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """Tensor name -> the nodes that read it, once for each."""
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for name in dict.fromkeys(node.input):
                if name:
                    readers.setdefault(name, []).append(node)
        return readers

    @cached_property
    def outputs(self) -> frozenset[str]:
        """Names of the graph's outputs."""
        return frozenset(value.name for value in self.graph.output)

    @cached_property
    def captured(self) -> frozenset[str]:
        """Names that subgraphs read: from here as well, unless they make them themselves."""
        return frozenset(name for node in self.graph.node for name in captures(node))

    @cached_property
    def inputs(self) -> list[onnx.ValueInfoProto]:
        """The true inputs: old files list their initializers among them."""
        return [value for value in self.graph.input if value.name not in self.initializers]

    def constant(self, name: str) -> NDArray[np.generic] | None:
        """The value of an initializer, or None if `name` is not one."""
        tensor = self.initializers.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """The node that reads `name`, if nothing else does, no subgraph and no graph output."""
        readers = self.consumers.get(name, [])
        alone = len(readers) == 1 and name not in self.outputs and name not in self.captured
        return readers[0] if alone else None


def captures(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node's subgraphs read, their own tensors among them."""
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from (value.name for value in graph.output)
            for inner in graph.node:
                yield from inner.input
                yield from captures(inner)


def opset(model: onnx.ModelProto) -> int:
    """The version of the ai.onnx operators; 0 where the model imports none."""
    return next((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def dims(value: onnx.ValueInfoProto) -> list[int | None] | None:
    """The declared shape, None for each open dimension; None where no shape is declared."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [
        int(d.dim_value) if d.WhichOneof("value") == "dim_value" and d.dim_value > 0 else None
        for d in tensor.shape.dim
    ]


def signature(model: onnx.ModelProto, name: str = "model") -> Signature:
    """Check that a model is an image classifier and say what it takes and gives.

    Args:
        model: any ONNX model.
        name: how errors call it.

    Raises:
        ModelError: not exactly one float32 [N,C,H,W] input and one float32 output, [N,K] or
            [N,K,1,1], or a fixed batch of more than `MOST_BATCH`.
    """
    view = View(model.graph)
    image, scores = _only(view.inputs, name, "input"), _only(model.graph.output, name, "output")
    for value in (image, scores):
        if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            raise ModelError(
                f"{name}: {value.name!r} is not float32", "export the model with float32 tensors"
            )
    shape = dims(image)
    if shape is None or len(shape) != 4:
        raise ModelError(
            f"{name} is not an image classifier: input {image.name!r} is not [N,C,H,W]"
        )
    given = dims(scores)
    if given is not None and (len(given) < 2 or any(size != 1 for size in given[2:])):
        raise ModelError(
            f"{name} is not an image classifier: output {scores.name!r} is not [N,K] scores"
        )
    if shape[0] is not None and shape[0] > MOST_BATCH:
        raise ModelError(
            f"{name} takes {shape[0]} images at once", "export it with a free batch axis"
        )
    return Signature(
        image.name, shape[1], shape[2], shape[3], scores.name, given[1] if given else None, shape[0]
    )


def refuse_quantized(model: onnx.ModelProto, name: str = "model") -> None:
    """Raise ModelError if the model has quantized operators already."""
    found = sorted({node.op_type for node in model.graph.node} & QUANTIZED_OPS)
    if found:
        raise ModelError(
            f"{name} is already quantized (it has {', '.join(found)})", "give the float model"
        )


def _only(values: list[onnx.ValueInfoProto], name: str, what: str) -> onnx.ValueInfoProto:
    if len(values) != 1:
        names = ", ".join(repr(v.name) for v in values[:5]) or "none"
        raise ModelError(
            f"{name} is not an image classifier: it has {len(values)} {what}s ({names}), not one",
            "export the classifier with one image input and one score output",
        )
    return values[0]
