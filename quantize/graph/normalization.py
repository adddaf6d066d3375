"""BatchNormalization that cannot vanish into a convolution before it becomes one of its own.

Left alone it is float amidst int8 layers, and so is the Relu behind it; pre-activation networks
have one in front of every block. As a convolution both become int8, and as each channel has a
single weight, rounding that to 8 bits costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

from quantize.graph.fold import norm_lines
from quantize.graph.view import View, dims

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Lines = tuple[NDArray[np.float32], NDArray[np.float32]]


def as_convolutions(model: onnx.ModelProto) -> int:
    """Turn each BatchNormalization over images into a 1x1 Conv with one group per channel.

    Not one that reads the graph's input: as the scores are not rounded at the one end, the image
    is not rounded twice at the other.

    Args:
        model: opset 13 or newer, with inferred shapes; edited in place.

    Returns:
        How many were turned.
    """
    view = View(model.graph)
    declared = {value.name: dims(value) for value in model.graph.value_info}
    images = {value.name for value in view.inputs}
    turned = 0
    for node in model.graph.node:
        if node.op_type != "BatchNormalization" or node.input[0] in images:
            continue
        lines = norm_lines(view, node)
        shape = declared.get(node.input[0])
        if lines is None or shape is None or len(shape) != 4:
            continue
        _turn(model.graph, node, lines)
        turned += 1
    return turned


def _turn(graph: onnx.GraphProto, node: onnx.NodeProto, lines: Lines) -> None:
    """Make the node a Conv of the same name, in its place."""
    slope, offset = lines
    taken = {tensor.name for tensor in graph.initializer}
    taken.update(name for other in graph.node for name in other.output)
    names = []
    for kind, value in (("slope", slope.reshape(-1, 1, 1, 1)), ("offset", offset)):
        name = f"{node.output[0]}.{kind}"
        while name in taken:
            name += "_"
        graph.initializer.append(numpy_helper.from_array(value, name))
        names.append(name)
    conv = onnx.helper.make_node(
        "Conv",
        [node.input[0], *names],
        [node.output[0]],
        name=node.name,
        group=len(slope),
        kernel_shape=[1, 1],
    )
    node.CopyFrom(conv)
