"""More channels of zeros, where onnxruntime's int8 kernels are slow with fewer.

Its depthwise kernel works on 16 channels at a time and takes a slow path for the rest: on a
112x112 image 24 channels take about twice as long as 32. A first convolution that reads 3
channels gathers 3 bytes at a time; with 4 it takes half the time. Channels whose weights are 0
change no output, to the last bit. What other sizes gain was measured, too: a 7x7 kernel nothing.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from quantize.graph.nodes import attribute
from quantize.graph.view import View

_ALIGNED = 16
_PIXEL = 4
_SMALL_KERNEL = 9
_PASSING = frozenset({"Clip", "DequantizeLinear", "QuantizeLinear", "Relu"})
_CONV = frozenset({"Conv", "QLinearConv"})


def widen(model: onnx.ModelProto) -> int:
    """Add channels of zeros where int8 gets faster by it.

    Args:
        model: int8, QDQ or QOperator; edited in place.

    Returns:
        How many depthwise and first convolutions were widened.
    """
    view = View(model.graph)
    count = 0
    for node in list(model.graph.node):
        chain = _around_depthwise(view, node)
        if chain is not None:
            before, behind = chain
            more = -_outputs(view, node) % _ALIGNED
            for each in (before, node):
                _pad_outputs(view, each, more)
            _pad_inputs(view, behind, more)
            next(a for a in node.attribute if a.name == "group").i += more
            count += 1
    first = _first(view)
    if first is not None:
        _pad_image(model.graph, view, first)
        count += 1
    if count:
        del model.graph.value_info[:]
    return count


def _around_depthwise(
    view: View, node: onnx.NodeProto
) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """The convolutions before and behind a depthwise one that can be widened with it."""
    outputs = _outputs(view, node)
    if outputs % _ALIGNED == 0 or _group(node) != outputs or not _padable(view, node):
        return None
    before, behind = _before(view, node), _behind(view, node)
    if before is None or behind is None:
        return None
    fit = all(_group(each) == 1 and _padable(view, each) for each in (before, behind))
    return (before, behind) if fit and _outputs(view, before) == outputs else None


def _before(view: View, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """The convolution whose result this one alone reads."""
    name = node.input[0]
    while view.only_reader(name) is not None:
        source = view.producers.get(name)
        if source is None or source.op_type in _CONV:
            return source
        if source.op_type not in _PASSING:
            return None
        name = source.input[0]
    return None


def _behind(view: View, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """The convolution that alone reads this one's result."""
    reader = view.only_reader(node.output[0])
    while reader is not None and reader.op_type in _PASSING:
        reader = view.only_reader(reader.output[0])
    return reader if reader is not None and reader.op_type in _CONV else None


def _first(view: View) -> onnx.NodeProto | None:
    """The convolution that reads the rounded image alone, if it is small and has 3 channels."""
    for node in view.producers.values():
        if node.op_type not in _CONV or not _padable(view, node) or _group(node) != 1:
            continue
        shape = view.initializers[_constants(view, node)[0]].dims
        source = _rounding(view, node)
        if source is None or shape[1] != _PIXEL - 1 or np.prod(shape[2:]) > _SMALL_KERNEL:
            continue
        if view.only_reader(source.output[0]) is not None and _from_input(view, source):
            return node
    return None


def _rounding(view: View, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """The QuantizeLinear that makes a convolution's integers."""
    name = node.input[0]
    if node.op_type == "Conv":
        source = view.producers.get(name)
        if source is None or view.only_reader(name) is None:
            return None
        name = source.input[0]
    found = view.producers.get(name)
    return found if found is not None and found.op_type == "QuantizeLinear" else None


def _from_input(view: View, node: onnx.NodeProto) -> bool:
    """Whether only the image itself, moved and scaled, comes in."""
    name = node.input[0]
    while (source := view.producers.get(name)) is not None:
        if source.op_type not in ("Add", "Mul", "Pad"):
            return False
        name = source.input[0]
    return name in {value.name for value in view.inputs}


def _pad_image(graph: onnx.GraphProto, view: View, node: onnx.NodeProto) -> None:
    rounding = _rounding(view, node)
    if rounding is None:
        raise ValueError(f"node {node.name} reads no rounded image")
    name, wide = rounding.output[0], f"{rounding.output[0]}.wide"
    pads = np.array([0, 0, 0, 0, 0, 1, 0, 0], np.int64)
    graph.initializer.append(numpy_helper.from_array(pads, f"{wide}.pads"))
    point = np.asarray(view.constant(rounding.input[2])).reshape(())
    graph.initializer.append(numpy_helper.from_array(point, f"{wide}.zero"))
    pad = helper.make_node("Pad", [name, f"{wide}.pads", f"{wide}.zero"], [wide], name=wide)
    reader = view.only_reader(name)
    if reader is None:
        raise ValueError(f"{name} has other readers")
    reader.input[0] = wide
    graph.node.insert(list(graph.node).index(rounding) + 1, pad)
    _pad_inputs(view, node, 1)


def _group(node: onnx.NodeProto) -> int:
    return int(attribute(node, "group", 1))


def _outputs(view: View, node: onnx.NodeProto) -> int:
    """Output channels of an int8 convolution; 0 for any other node."""
    names = _constants(view, node) if node.op_type in _CONV else []
    return int(view.initializers[names[0]].dims[0]) if names else 0


def _constants(view: View, node: onnx.NodeProto) -> list[str]:
    """Names of weight, its scale and zero point, then bias, its scale and zero point.

    Empty names stand for what is missing; an empty list for a node without int8 weights.
    """
    if node.op_type == "QLinearConv":
        found = [*node.input[3:6], *node.input[8:9]]
    else:
        weight = view.producers.get(node.input[1])
        bias = view.producers.get(node.input[2]) if len(node.input) > 2 else None
        if weight is None or weight.op_type != "DequantizeLinear":
            return []
        if len(node.input) > 2 and (bias is None or bias.op_type != "DequantizeLinear"):
            return []
        found = [*weight.input, ""][:3] + ([*bias.input, ""][:3] if bias else [])
    present = [name for name in found if name]
    return found if all(name in view.initializers for name in present) else []


def _padable(view: View, node: onnx.NodeProto) -> bool:
    """Whether its int8 constants are its own, and 0 stands for 0."""
    names = _constants(view, node)
    if not names:
        return False
    point = view.constant(names[2]) if names[2] else np.zeros(1)
    return point is not None and not point.any() and all(_own(view, name) for name in names)


def _own(view: View, name: str) -> bool:
    """A constant that nobody else reads; one number for all channels may be shared."""
    if not name or int(np.prod(view.initializers[name].dims)) == 1:
        return True
    reader = view.only_reader(name)
    return reader is not None and (
        reader.op_type != "DequantizeLinear" or view.only_reader(reader.output[0]) is not None
    )


def _pad_outputs(view: View, node: onnx.NodeProto, more: int) -> None:
    for position, name in enumerate(_constants(view, node)):
        if not name:
            continue
        tensor = view.initializers[name]
        value = numpy_helper.to_array(tensor)
        if position not in (0, 3) and value.size == 1:
            continue
        # A new channel has the last scales: onnxruntime wants that of a bias to be the product.
        _replace(tensor, _padded(value, 0, more, "edge" if position in (1, 4) else "constant"))


def _pad_inputs(view: View, node: onnx.NodeProto, more: int) -> None:
    tensor = view.initializers[_constants(view, node)[0]]
    _replace(tensor, _padded(numpy_helper.to_array(tensor), 1, more))


def _padded(
    value: NDArray[np.generic], axis: int, more: int, mode: Literal["constant", "edge"] = "constant"
) -> NDArray[np.generic]:
    widths = [(0, more if index == axis else 0) for index in range(value.ndim)]
    return np.pad(value, widths, mode=mode)


def _replace(tensor: onnx.TensorProto, value: NDArray[np.generic]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), tensor.name))
