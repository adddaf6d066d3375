"""A model with its large constants apart: a session takes them as they lie in memory.

To write weights into a message and parse them again takes longer than to run a few images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

_KINDS = frozenset({TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8})
_LARGE = 1 << 8
"""Values. Smaller ones stay: onnxruntime looks into shapes and scales when it loads a model."""


@dataclass(frozen=True, eq=False)
class Apart:
    """A model in two parts.

    Attributes:
        model: declares its large constants as lying elsewhere; whoever edits or copies it moves
            no weights.
        constants: name -> value of each of them.
    """

    model: onnx.ModelProto
    constants: dict[str, NDArray[Any]]

    @property
    def size(self) -> int:
        """Bytes of both together."""
        inside = int(self.model.ByteSize())
        return inside + sum(value.nbytes for value in self.constants.values())


def apart(model: onnx.ModelProto) -> Apart:
    """Take the large constants out of a model.

    Args:
        model: any, with all its constants; not changed.
    """
    graph = model.graph
    light = onnx.ModelProto(
        ir_version=model.ir_version,
        opset_import=model.opset_import,
        functions=model.functions,
        graph=onnx.GraphProto(
            name=graph.name,
            node=graph.node,
            input=graph.input,
            output=graph.output,
            value_info=graph.value_info,
            sparse_initializer=graph.sparse_initializer,
        ),
    )
    parts = Apart(light, {})
    for tensor in graph.initializer:
        if not _is_large(tensor):
            light.graph.initializer.append(tensor)
        else:
            _keep(parts, tensor, numpy_helper.to_array(tensor))
    return parts


def place(parts: Apart, name: str, value: NDArray[np.float32]) -> None:
    """Add a constant to a model in two parts, in place; a large one is not copied."""
    declared = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=value.shape)
    if _is_large(declared):
        _keep(parts, declared, value)
    else:
        parts.model.graph.initializer.append(numpy_helper.from_array(value, name))


def _is_large(tensor: TensorProto) -> bool:
    return tensor.data_type in _KINDS and math.prod(tensor.dims) >= _LARGE


def _keep(parts: Apart, tensor: TensorProto, value: NDArray[Any]) -> None:
    """Declare a tensor as lying elsewhere, and keep its value beside the model."""
    declared = parts.model.graph.initializer.add(
        name=tensor.name,
        data_type=tensor.data_type,
        dims=tensor.dims,
        data_location=TensorProto.EXTERNAL,
    )
    declared.external_data.add(key="location", value="memory")
    parts.constants[tensor.name] = value
