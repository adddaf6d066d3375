"""Strides of 1x1 convolutions, taken over by the layers before: the same numbers, fewer of them.

A convolution of size 1x1 and stride 2 reads every other pixel, so whatever made the others worked
in vain: a tenth of all products of ResNet-50 v1. Where all readers of a tensor skip pixels, what
makes it can leave them out: elementwise nodes pass the stride on, a 1x1 convolution too, a larger
one takes it over, and where somebody else reads all pixels a pooling of size 1x1 picks them. Each
number that is left is computed as it was, to the last bit, because integers are added up: a float
convolution, whose sum depends on the order, keeps its stride. OpenVINO moves strides by itself, but
between the halves of a DequantizeLinear: docs/openvino.md.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx
from onnx import helper

from quantize.graph.coverage import is_qdq
from quantize.graph.nodes import attribute, give
from quantize.graph.view import View, opset

_CONVS = frozenset({"Conv", "QLinearConv"})
_SUMS = {"Add": (0, 1), "QLinearAdd": (0, 3)}
"""Operator -> which of its inputs are the summands."""

_ROUNDING = frozenset({"DequantizeLinear", "QuantizeLinear"})
_UNARY = _ROUNDING | {"Clip", "LeakyRelu", "QLinearLeakyRelu", "Relu"}
_WINDOWS = _CONVS | {"AveragePool", "MaxPool", "QLinearAveragePool"}
_SIDES = 2
_SINCE = 12
"""From here on MaxPool takes integers."""


class _Edit:
    """One edit: the stride of all readers of a tensor, moved as far ahead as it goes.

    Args:
        graph: sorted; edited in place.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.view = View(graph)
        self.before: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self.taken = {*self.view.producers, *self.view.initializers}
        self.taken.update(value.name for value in graph.input)
        self.moving: set[str] = set()
        self.pictures: set[str] = set()
        for node in graph.node:
            if self._is_picture(node):
                self.pictures.add(node.output[0])
            if self._moves(node):
                self.moving.add(node.output[0])

    def take(self, name: str) -> int:
        """Move the stride of the 1x1 convolutions that read a tensor, if nobody else does.

        Args:
            name: of the tensor.

        Returns:
            How many convolutions gave their stride away.
        """
        readers = self.view.consumers.get(name, [])
        strides = {tuple(_strides(reader)) for reader in readers}
        if len(strides) != 1 or not all(self._skips(reader, name) for reader in readers):
            return 0
        stride = list(strides.pop())
        shared = name in self.view.outputs or name in self.view.captured
        if max(stride) == 1 or shared or name not in self.moving:
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
        names = [name]
        while names:
            node = self.view.producers[names.pop()]
            if node.op_type in _CONVS and not (_point(node) and self._passes(node.input[0])):
                own = _strides(node)
                give(node, strides=[a * b for a, b in zip(own, stride, strict=True)])
                continue
            for each in _read(node):
                if self._passes(each):
                    names.append(each)
                else:
                    self._pick(node, each, stride)

    def _pick(self, node: onnx.NodeProto, name: str, stride: list[int]) -> None:
        """Let a node read some pixels of a tensor, by a pooling of the integers it comes from."""
        rounded = self._rounded(name)
        read = rounded.input[0] if rounded is not None else name
        picked = self._new(f"{read}.picked.{node.output[0]}")
        size = [1] * len(stride)
        pool = helper.make_node(
            "MaxPool", [read], [picked], picked, kernel_shape=size, strides=stride
        )
        new = [pool]
        if rounded is not None:
            copy = onnx.NodeProto.FromString(rounded.SerializeToString())
            copy.input[0] = picked
            copy.name = copy.output[0] = picked = self._new(f"{picked}.float")
            new.append(copy)
        self.before[node.output[0]] += new
        for at, each in enumerate(node.input):
            if each == name:
                node.input[at] = picked

    def _new(self, name: str) -> str:
        """That name, or with underscores behind it if a tensor is called so."""
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name

    def _rounded(self, name: str) -> onnx.NodeProto | None:
        """The DequantizeLinear that makes a tensor of 8-bit integers."""
        node = self.view.producers.get(name)
        if node is None or node.op_type != "DequantizeLinear" or len(node.input) < 3:
            return None
        zero = self.view.constant(node.input[2])
        return node if zero is not None and zero.dtype in (np.int8, np.uint8) else None

    def _skips(self, reader: onnx.NodeProto, name: str) -> bool:
        """Whether a node reads a tensor as the picture of a 1x1 convolution."""
        return _point(reader) and reader.input[0] == name and self._on_integers(reader)

    def _on_integers(self, node: onnx.NodeProto) -> bool:
        """Whether a convolution adds up integers: what is float depends on the order, too."""
        made = [self.view.producers.get(name) for name in node.input if name]
        rounded = all(each is not None and each.op_type == "DequantizeLinear" for each in made)
        return node.op_type == "QLinearConv" or (rounded and is_qdq(self.view, node))

    def _passes(self, name: str) -> bool:
        """Whether a tensor's one reader can have it made at fewer pixels."""
        return name in self.moving and self.view.only_reader(name) is not None

    def _moves(self, node: onnx.NodeProto) -> bool:
        """Whether a convolution is reached from here through nodes that nobody else waits for."""
        if node.op_type in _SUMS:
            read = _read(node)
            return self.pictures.issuperset(read) and any(self._passes(each) for each in read)
        if node.op_type in _CONVS:
            padded = node.output[0] in self.pictures and _padded_by_number(node)
            return padded and self._on_integers(node)
        return _elementwise(node) and self._passes(node.input[0])

    def _is_picture(self, node: onnx.NodeProto) -> bool:
        """Whether a node gives rows and columns of pixels: what does not cannot be pooled."""
        if node.op_type in _WINDOWS:
            return len(attribute(node, "kernel_shape") or []) == _SIDES
        passing = node.op_type in {*_SUMS, "BatchNormalization"} or _elementwise(node)
        return passing and not self.pictures.isdisjoint(_read(node))


def advance(model: onnx.ModelProto) -> int:
    """Move strides ahead, as far as they go.

    Args:
        model: int8, QDQ or QOperator, its nodes sorted; edited in place.

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


def _read(node: onnx.NodeProto) -> list[str]:
    """The pictures that a node reads, among scales and weights."""
    places = _SUMS.get(node.op_type, (0,))
    return list(dict.fromkeys(node.input[place] for place in places))


def _elementwise(node: onnx.NodeProto) -> bool:
    """Whether each pixel depends on itself alone: scales may differ by channel, not by row."""
    if node.op_type in _ROUNDING and attribute(node, "block_size", 0):
        return False
    return node.op_type in _UNARY and attribute(node, "axis", 1) == 1


def _point(node: onnx.NodeProto) -> bool:
    """Whether a node reads single pixels and none beyond the edge."""
    kernel = attribute(node, "kernel_shape") or [0]
    pads = attribute(node, "pads") or [0]
    alone = max(kernel) == 1 and not any(pads)
    return node.op_type in _CONVS and alone and _padded_by_number(node)


def _padded_by_number(node: onnx.NodeProto) -> bool:
    """Whether a longer stride leaves the padding as it is, which SAME computes from it."""
    return attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID")


def _strides(node: onnx.NodeProto) -> list[int]:
    return list(attribute(node, "strides") or [1] * len(attribute(node, "kernel_shape") or [0, 0]))
