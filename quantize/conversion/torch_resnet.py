"""Torchvision's ResNet-18 to -152 as ONNX: which one a state dict holds, and its graph.

A state dict has no graph; the one that is built here is torchvision's own, version 1.5, with the
stride of a bottleneck on its 3x3 convolution.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from quantize.errors import ModelError

Weights = Mapping[str, NDArray[np.float32]]
"""Names of a state dict -> arrays, float32."""

EPSILON = 1e-5
"""Of every BatchNormalization, in torchvision."""

INPUT, OUTPUT = "input", "output"

_SIDE = 224
_STAGES = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
_NORM = ("weight", "bias", "running_mean", "running_var")
_IGNORED = ".num_batches_tracked"


@dataclass(frozen=True)
class Layout:
    """Which ResNet it is.

    Attributes:
        depth: 18, 34, 50, 101 or 152.
        channels: of the image.
        classes: of the scores.
    """

    depth: int
    channels: int
    classes: int

    @property
    def bottleneck(self) -> bool:
        """Whether a block is 1x1, 3x3, 1x1 rather than two 3x3."""
        return self.depth >= 50

    @property
    def features(self) -> int:
        """How many values the classifier reads."""
        return 2048 if self.bottleneck else 512

    def blocks(self) -> Iterator[Block]:
        """All blocks, from the image to the scores."""
        before = 64
        for stage, count in enumerate(_STAGES[self.depth], start=1):
            width = 32 << stage
            out = 4 * width if self.bottleneck else width
            for index in range(count):
                stride = 2 if index == 0 and stage > 1 else 1
                yield Block(f"layer{stage}.{index}", before, width, out, stride)
                before = out


@dataclass(frozen=True)
class Block:
    """One residual block.

    Attributes:
        name: its place in the state dict.
        before: channels that it reads.
        width: channels within.
        out: channels that it gives.
        stride: 2 where it halves the image.
    """

    name: str
    before: int
    width: int
    out: int
    stride: int

    @property
    def shortcut(self) -> bool:
        """Whether a convolution of its own leads past the block."""
        return self.before != self.out or self.stride != 1

    def convolutions(self, *, bottleneck: bool) -> tuple[tuple[int, int, int, int], ...]:
        """(channels given, channels read, kernel, stride) of each, in order."""
        if not bottleneck:
            return (self.width, self.before, 3, self.stride), (self.out, self.width, 3, 1)
        return (
            (self.width, self.before, 1, 1),
            (self.width, self.width, 3, self.stride),
            (self.out, self.width, 1, 1),
        )


def layout_of(state: Mapping[str, NDArray[Any]], depth: int | None, source: str) -> Layout:
    """Which ResNet a state dict holds, every name and shape of it checked.

    Args:
        state: names without prefix -> arrays.
        depth: the depth that it must have, or None.
        source: how errors call the file.

    Raises:
        ModelError: it is another network, or an array is missing, too many, or of another shape.
    """
    found = _depth(state, source)
    if depth is not None and depth != found:
        raise ModelError(
            f"{source} holds a ResNet-{found}, not a ResNet-{depth}", "leave the depth out"
        )
    first, last = (state.get(name) for name in ("conv1.weight", "fc.weight"))
    channels = first.shape[1] if first is not None and first.ndim == 4 else 3
    classes = len(last) if last is not None and last.ndim == 2 else 1000
    layout = Layout(found, channels, classes)
    _refuse_kin(state, layout, source)
    expected = shapes(layout)
    for name, shape in expected.items():
        if name not in state:
            raise ModelError(
                f"{source} holds a ResNet-{found} without {name!r}", "save the whole state dict"
            )
        if state[name].shape != shape:
            raise ModelError(
                f"{source}: {name!r} is of shape {list(state[name].shape)}, where a ResNet-{found}"
                f" of torchvision has {list(shape)}",
                "export the model to ONNX with torch instead",
            )
    more = next((n for n in state if n not in expected and not n.endswith(_IGNORED)), None)
    if more is not None:
        raise ModelError(
            f"{source}: {more[:100]!r} is in no ResNet-{found} of torchvision",
            "export the model to ONNX with torch instead",
        )
    return layout


def shapes(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every array that the network reads."""
    found: dict[str, tuple[int, ...]] = {"conv1.weight": (64, layout.channels, 7, 7)}
    found |= _norm_shapes("bn1", 64)
    for block in layout.blocks():
        sizes = block.convolutions(bottleneck=layout.bottleneck)
        for index, (given, read, kernel, _) in enumerate(sizes, start=1):
            found[f"{block.name}.conv{index}.weight"] = (given, read, kernel, kernel)
            found |= _norm_shapes(f"{block.name}.bn{index}", given)
        if block.shortcut:
            found[f"{block.name}.downsample.0.weight"] = (block.out, block.before, 1, 1)
            found |= _norm_shapes(f"{block.name}.downsample.1", block.out)
    found["fc.weight"] = (layout.classes, layout.features)
    found["fc.bias"] = (layout.classes,)
    return found


def to_onnx(weights: Weights, layout: Layout) -> onnx.ModelProto:
    """The network as ONNX of opset 13; weights keep the names of the state dict."""
    net = _Net(weights)
    x = net.relu("relu", net.conv_norm("conv1", "bn1", INPUT, 7, 2))
    x = net.node("MaxPool", "maxpool", [x], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])
    for block in layout.blocks():
        x = _block(net, block, x, bottleneck=layout.bottleneck)
    x = net.node("Flatten", "flatten", [net.node("GlobalAveragePool", "avgpool", [x])], axis=1)
    net.node("Gemm", OUTPUT, [x, "fc.weight", "fc.bias"], transB=1)
    image: list[str | int | None] = ["N", layout.channels, _SIDE, _SIDE]
    graph = helper.make_graph(
        net.nodes,
        f"resnet{layout.depth}",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", layout.classes])],
        [numpy_helper.from_array(weights[name], name) for name in shapes(layout)],
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
        producer_name="quantize",
    )


@dataclass
class _Net:
    """Collects nodes; each is called as the tensor that it makes."""

    weights: Weights
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def node(self, op: str, name: str, inputs: list[str], **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def relu(self, name: str, x: str) -> str:
        return self.node("Relu", name, [x])

    def conv_norm(self, conv: str, norm: str, x: str, kernel: int, stride: int) -> str:
        y = self.node(
            "Conv",
            conv,
            [x, f"{conv}.weight"],
            kernel_shape=[kernel, kernel],
            pads=[kernel // 2] * 4,
            strides=[stride, stride],
        )
        inputs = [y, *(f"{norm}.{part}" for part in _NORM)]
        return self.node("BatchNormalization", norm, inputs, epsilon=EPSILON)


def _block(net: _Net, block: Block, x: str, *, bottleneck: bool) -> str:
    y = x
    sizes = block.convolutions(bottleneck=bottleneck)
    for index, (_, _, kernel, stride) in enumerate(sizes, start=1):
        conv, norm = f"{block.name}.conv{index}", f"{block.name}.bn{index}"
        y = net.conv_norm(conv, norm, y, kernel, stride)
        if index < len(sizes):
            y = net.relu(f"{block.name}.relu{index}", y)
    if block.shortcut:
        past = f"{block.name}.downsample"
        x = net.conv_norm(f"{past}.0", f"{past}.1", x, 1, block.stride)
    return net.relu(f"{block.name}.relu", net.node("Add", f"{block.name}.add", [y, x]))


def _norm_shapes(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{part}": (channels,) for part in _NORM}


def _depth(state: Mapping[str, NDArray[Any]], source: str) -> int:
    """By the blocks of the four stages, and how many convolutions one has."""
    seen: dict[int, set[int]] = {stage: set() for stage in (1, 2, 3, 4)}
    for name in state:
        place = re.match(r"layer([1-4])\.(\d{1,3})\.", name)
        if place:
            seen[int(place[1])].add(int(place[2]))
    counts = tuple(len(found) for found in seen.values())
    bottleneck = "layer1.0.conv3.weight" in state
    for depth, stages in _STAGES.items():
        if counts == stages and bottleneck == (depth >= 50):
            return depth
    known = ", ".join(str(depth) for depth in _STAGES)
    what = f"its four stages have {counts} blocks" if any(counts) else "it has no `layer1.0.`"
    raise ModelError(
        f"{source} is no state dict of a ResNet of torchvision ({known}): {what}",
        "export the model to ONNX with torch instead",
    )


def _refuse_kin(state: Mapping[str, NDArray[Any]], layout: Layout, source: str) -> None:
    """ResNeXt and Wide ResNet have the same names, and other shapes."""
    middle = state.get("layer1.0.conv2.weight")
    if not layout.bottleneck or middle is None or middle.ndim != 4:
        return
    kin = ""
    if middle.shape[0] != middle.shape[1]:
        kin = "a ResNeXt, whose convolutions have groups"
    elif middle.shape[0] != 64:
        kin = "a Wide ResNet"
    if kin:
        raise ModelError(
            f"{source} holds {kin}, of which nothing is known here",
            "export the model to ONNX with torch instead",
        )
