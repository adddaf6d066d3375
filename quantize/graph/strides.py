"""Strides of 1x1 convolutions, taken over by the layers before: the same numbers, fewer of them.

A convolution of size 1x1 and stride 2 reads every other pixel, so whatever made the others worked
in vain: a tenth of all products of ResNet-50 v1. Where all readers of a tensor skip pixels, what
makes it can leave them out: elementwise nodes pass the stride on, a 1x1 convolution too, a larger
one takes it over, and where somebody else reads all pixels a pooling of size 1x1 picks them. Each
number that is left is computed as it was. OpenVINO does it by itself, but between the halves of a
DequantizeLinear: docs/openvino.md.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx
from onnx import helper

from quantize.graph.nodes import attribute, give, unused_name
from quantize.graph.view import View, opset

_UNARY = frozenset({"Clip", "DequantizeLinear", "LeakyRelu", "QuantizeLinear", "Relu"})
_PICTURES = frozenset({"AveragePool", "BatchNormalization", "Conv", "MaxPool"})
_SINCE = 12
"""From here on MaxPool takes integers."""

_DEEPEST = 32
"""Sums, one behind the other, that are looked through."""


class _Edit:
    """One edit: the stride of all readers of a tensor, moved as far ahead as it goes.

    Args:
        graph: edited in place.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.view = View(graph)
        self.before: dict[str, list[onnx.NodeProto]] = defaultdict(list)

    def take(self, name: str) -> int:
        """Move the stride of the 1x1 convolutions that read a tensor, if nobody else does.

        Args:
            name: of the tensor.

        Returns:
            How many convolutions gave their stride away.
        """
        readers = self.view.consumers.get(name, [])
        strides = {tuple(_strides(reader)) for reader in readers}
        if len(strides) != 1 or not all(_point(each) and each.input[0] == name for each in readers):
            return 0
        stride = list(strides.pop())
        shared = name in self.view.outputs or name in self.view.captured
        if max(stride) == 1 or shared or not self._moves(name):
            return 0
        for reader in readers:
            give(reader, strides=[1] * len(stride))
        self._push(name, stride)
        return len(readers)

    def finish(self) -> None:
        """Put each new node ahead of the one that reads it."""
        nodes = [
            onnx.NodeProto.FromString(each.SerializeToString())
            for node in self.graph.node
            for each in (*self.before[node.output[0]], node)
        ]
        del self.graph.node[:], self.graph.value_info[:]
        self.graph.node.extend(nodes)

    def _push(self, name: str, stride: list[int]) -> None:
        """Have a tensor made at every `stride`-th pixel only."""
        node = self.view.producers[name]
        if node.op_type == "Conv" and not (_point(node) and self._passes(node.input[0])):
            own = _strides(node)
            give(node, strides=[a * b for a, b in zip(own, stride, strict=True)])
            return
        pictures = 2 if node.op_type == "Add" else 1
        for each in dict.fromkeys(node.input[:pictures]):
            if self._passes(each):
                self._push(each, stride)
            else:
                self._pick(node, each, stride)

    def _pick(self, node: onnx.NodeProto, name: str, stride: list[int]) -> None:
        """Let a node read some pixels of a tensor, by a pooling of the integers it comes from."""
        rounded = self._rounded(name)
        read = rounded.input[0] if rounded is not None else name
        picked = unused_name(self.graph, f"{read}.picked.{node.output[0]}")
        size = [1] * len(stride)
        pool = helper.make_node(
            "MaxPool", [read], [picked], picked, kernel_shape=size, strides=stride
        )
        new = [pool]
        if rounded is not None:
            copy = onnx.NodeProto.FromString(rounded.SerializeToString())
            copy.input[0] = picked
            copy.name = copy.output[0] = picked = f"{picked}.float"
            new.append(copy)
        self.before[node.output[0]] += new
        for at, each in enumerate(node.input):
            if each == name:
                node.input[at] = picked

    def _rounded(self, name: str) -> onnx.NodeProto | None:
        """The DequantizeLinear that makes a tensor of 8-bit integers."""
        node = self.view.producers.get(name)
        if node is None or node.op_type != "DequantizeLinear" or len(node.input) < 3:
            return None
        zero = self.view.constant(node.input[2])
        return node if zero is not None and zero.dtype in (np.int8, np.uint8) else None

    def _passes(self, name: str, deep: int = 0) -> bool:
        alone = self.view.only_reader(name) is not None
        return alone and deep < _DEEPEST and self._moves(name, deep)

    def _moves(self, name: str, deep: int = 0) -> bool:
        """Whether a convolution is reached through nodes that nobody else waits for."""
        node = self.view.producers.get(name)
        while node is not None and node.op_type in _UNARY:
            name = node.input[0]
            node = self.view.producers.get(name) if self.view.only_reader(name) else None
        if node is None:
            return False
        if node.op_type == "Add":
            pictures = all(self._picture(each) for each in node.input)
            return pictures and any(self._passes(each, deep + 1) for each in node.input)
        return node.op_type == "Conv" and _padded_by_number(node)

    def _picture(self, name: str) -> bool:
        """Whether a tensor has pixels, whoever reads it: others cannot be pooled."""
        looked, names = set[str](), [name]
        while names:
            if (at := names.pop()) in looked or (node := self.view.producers.get(at)) is None:
                continue
            looked.add(at)
            if node.op_type in _PICTURES:
                return True
            if node.op_type in _UNARY or node.op_type == "Add":
                names += node.input[: 2 if node.op_type == "Add" else 1]
        return False


def advance(model: onnx.ModelProto) -> int:
    """Move strides ahead, as far as they go.

    Args:
        model: float or QDQ; edited in place.

    Returns:
        How many 1x1 convolutions gave theirs away.
    """
    if opset(model) < _SINCE:
        return 0
    count = 0
    edit = _Edit(model.graph)
    for name in list(edit.view.consumers):
        if given := edit.take(name):
            edit.finish()
            edit = _Edit(model.graph)
            count += given
    return count


def _point(node: onnx.NodeProto) -> bool:
    """Whether a node reads single pixels and none beyond the edge."""
    kernel = attribute(node, "kernel_shape") or [0]
    pads = attribute(node, "pads") or [0]
    return node.op_type == "Conv" and max(kernel) == 1 and not any(pads) and _padded_by_number(node)


def _padded_by_number(node: onnx.NodeProto) -> bool:
    """Whether a longer stride leaves the padding as it is, which SAME computes from it."""
    return attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID")


def _strides(node: onnx.NodeProto) -> list[int]:
    return list(attribute(node, "strides") or [1] * len(attribute(node, "kernel_shape") or [0, 0]))
