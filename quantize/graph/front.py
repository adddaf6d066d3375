"""A few float nodes between the image and the first convolution, so that pixels fall on integers.

The first convolution then reads `<image>.pixels`. Their constants are called `<image>.factor` and
`<image>.shift`, and whoever has them can build the same nodes again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from quantize.graph.layers import Layer, layers
from quantize.graph.view import View


@dataclass(frozen=True, eq=False)
class Front:
    """What happens to the image: padding, times `factor`, plus `shift`; each may be missing.

    Attributes:
        factor: float32 [1,C,1,1], or None.
        shift: float32 [1,C,1,1], or None.
        pad: whether the convolution's zero padding comes first, as a node of its own.
    """

    factor: NDArray[np.float32] | None
    shift: NDArray[np.float32] | None
    pad: bool

    def constants(self, image: str) -> dict[str, NDArray[np.float32]]:
        """The nodes' constants by name."""
        named = {factor_of(image): self.factor, shift_of(image): self.shift}
        return {name: value for name, value in named.items() if value is not None}


def pixels_of(image: str) -> str:
    """Name of what the first convolution reads."""
    return f"{image}.pixels"


def factor_of(image: str) -> str:
    """Name of the constant that the image is multiplied with."""
    return f"{image}.factor"


def shift_of(image: str) -> str:
    """Name of the constant that is added to it then."""
    return f"{image}.shift"


def front_of(
    model: onnx.ModelProto,
    constants: Mapping[str, NDArray[np.float32]],
    step: NDArray[np.float32] | None,
) -> Front | None:
    """The front whose constants are given, or None.

    Args:
        model: the float model, without a front.
        constants: by name, among others.
        step: of the integers that the pixels fall on, or None where they have none.
    """
    image = View(model.graph).inputs[0].name
    factor, shift = (constants.get(name) for name in (factor_of(image), shift_of(image)))
    conv = first_convolution(model)
    if conv is None or step is None or (factor is None and shift is None):
        return None
    return Front(factor, shift, needs_padding(conv, shift, float(step)))


def needs_padding(conv: Layer, shift: NDArray[np.float32] | None, step: float) -> bool:
    """Whether the convolution's own padding would be off by more than half a step.

    It pads with 0, and 0 of the image is `shift` now.
    """
    return any(conv.pads) and shift is not None and bool(np.abs(shift).max() > 0.5001 * step)


def first_convolution(model: onnx.ModelProto) -> Layer | None:
    """The ungrouped Conv that alone reads the image, or None.

    Also None where the model uses a name that a front would need.
    """
    view = View(model.graph)
    image = view.inputs[0].name
    reader = view.only_reader(image)
    taken = {*view.initializers, *view.producers}
    if reader is None or taken & {pixels_of(image), factor_of(image), shift_of(image)}:
        return None
    found = (layer for layer in layers(model) if layer.name == reader.name)
    return next((f for f in found if f.op_type == "Conv" and f.group == 1), None)


def with_front(model: onnx.ModelProto, front: Front) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """A copy with the front's nodes; the convolution's weight and bias are the caller's matter.

    Args:
        model: its `first_convolution` is not None.
        front: at least a factor or a shift.

    Returns:
        The copy, and the names of the nodes that were added.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    image = View(copy.graph).inputs[0].name
    conv = next(node for node in copy.graph.node if image in node.input)
    nodes: list[onnx.NodeProto] = []
    at = image
    if front.pad:
        nodes.append(_padding(copy, conv, at))
        at = nodes[-1].output[0]
    for op, name, value in (
        ("Mul", factor_of(image), front.factor),
        ("Add", shift_of(image), front.shift),
    ):
        if value is not None:
            copy.graph.initializer.append(numpy_helper.from_array(value, name))
            made = f"{name}.output"
            nodes.append(onnx.helper.make_node(op, [at, name], [made], name=made))
            at = made
    nodes[-1].output[0] = pixels_of(image)
    conv.input[0] = pixels_of(image)
    rest = [onnx.NodeProto.FromString(node.SerializeToString()) for node in copy.graph.node]
    del copy.graph.node[:]
    copy.graph.node.extend([*nodes, *rest])
    copy.graph.value_info.extend(
        onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None)
        for node in nodes
    )
    return copy, tuple(node.name for node in nodes)


def _padding(model: onnx.ModelProto, conv: onnx.NodeProto, image: str) -> onnx.NodeProto:
    """The convolution's zero padding as a node; the convolution loses it."""
    pads = next(attribute for attribute in conv.attribute if attribute.name == "pads")
    top, left, bottom, right = pads.ints
    conv.attribute.remove(pads)
    name, made = f"{image}.pads", f"{image}.padded"
    amounts = np.asarray([0, 0, top, left, 0, 0, bottom, right], np.int64)
    model.graph.initializer.append(numpy_helper.from_array(amounts, name))
    return onnx.helper.make_node("Pad", [image, name], [made], name=made)
