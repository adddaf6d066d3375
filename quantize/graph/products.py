"""The products of an int8 file: which integers each layer multiplies, in the kernel's order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from quantize.graph.nodes import attribute
from quantize.graph.view import View

_QLINEAR = frozenset({"QLinearConv", "QGemm", "QLinearMatMul"})
_FLOAT = frozenset({"Conv", "Gemm", "MatMul"})


@dataclass(frozen=True, eq=False)
class Products:
    """A layer of an int8 file that multiplies uint8 by int8.

    Attributes:
        node: its name in the int8 file.
        input: the uint8 tensor that it reads.
        zero_point: the integer of 0.0 there, which fills the borders.
        weights: int8 [G,M/G,K] in kernel order, as the file has them, with channels of zeros.
        convolution: whether the input is [N,C,H,W], else [...,K].
        kernel: (height, width); strides, dilations likewise.
        strides: of the convolution.
        dilations: of the convolution.
        pads: (top, left, bottom, right), or None where they follow from the size of the image.
    """

    node: str
    input: str
    zero_point: int
    weights: NDArray[np.int8]
    convolution: bool = False
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] | None = (0, 0, 0, 0)

    @property
    def paired(self) -> bool:
        """Whether its products are added in pairs: those of a depthwise convolution are not."""
        groups, rows, _ = self.weights.shape
        one_in = self.weights.shape[2] == self.kernel[0] * self.kernel[1]
        return not (self.convolution and groups > 1 and rows == 1 and one_in)

    def columns(
        self, value: NDArray[np.uint8], most: int
    ) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int8]]]:
        """What each group multiplies: uint8 [P,K] at P positions, by int8 [M/G,K].

        Args:
            value: the input, uint8 [N,C,H,W] or [...,K].
            most: positions that are taken, at equal distances.
        """
        if not self.convolution:
            rows = value.reshape(-1, value.shape[-1])
            yield rows[_spread(len(rows), most)], self.weights[0]
            return
        if self.pads is None:
            return
        windows = self._windows(value, self.pads)
        images, height, width = windows.shape[:3]
        image, spot = np.divmod(_spread(images * height * width, most), height * width)
        taken = windows[image, spot // width, spot % width]  # [P,kH,kW,C]
        own = taken.shape[-1] // len(self.weights)
        for group, weights in enumerate(self.weights):
            some = taken[..., group * own : (group + 1) * own]
            yield some.reshape(len(some), -1), weights

    def _windows(
        self, value: NDArray[np.uint8], pads: tuple[int, int, int, int]
    ) -> NDArray[np.uint8]:
        """What each position of a convolution sees of [N,C,H,W]: a view [N,H,W,kH,kW,C]."""
        top, left, bottom, right = pads
        images, channels, height, width = value.shape
        shape = (images, top + height + bottom, left + width + right, channels)
        # Channels innermost, as a position is read: few long pieces instead of many single values.
        wide = np.full(shape, self.zero_point, np.uint8)
        wide[:, top : top + height, left : left + width] = value.transpose(0, 2, 3, 1)
        reach = tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))
        windows: NDArray[Any] = sliding_window_view(wide, reach, (1, 2))  # type: ignore[call-overload]  # numpy's stub has one axis
        windows = windows[:, :: self.strides[0], :: self.strides[1]]
        windows = windows[..., :: self.dilations[0], :: self.dilations[1]]
        return windows.transpose(0, 1, 2, 4, 5, 3)


def products(model: onnx.ModelProto) -> tuple[Products, ...]:
    """The layers of an int8 file, QDQ or QOperator, in graph order.

    Left out is what reads or holds other integers than uint8 and int8, a convolution that is not
    over two dimensions, and a Gemm that turns what it reads.
    """
    view = View(model.graph)
    found = (_products(view, node) for node in model.graph.node)
    return tuple(one for one in found if one is not None)


def _products(view: View, node: onnx.NodeProto) -> Products | None:
    names = _operands(view, node)
    if names is None:
        return None
    image, point, weight = names
    zero, integers = view.constant(point), view.constant(weight)
    if integers is None or integers.dtype != np.int8:
        return None
    if point and (zero is None or zero.dtype != np.uint8 or zero.size != 1):
        return None
    lowest = 0 if zero is None else int(zero.reshape(()))
    if "Conv" in node.op_type:
        return _convolution(node, image, lowest, integers) if integers.ndim == 4 else None
    if integers.ndim != 2 or attribute(node, "transA", 0):
        return None
    turned = attribute(node, "transB", 0)
    rows = np.asarray(integers if turned else integers.T, np.int8)
    return Products(node.name, image, lowest, np.ascontiguousarray(rows)[None])


def _operands(view: View, node: onnx.NodeProto) -> tuple[str, str, str] | None:
    """Names of the integers that come in, of their zero point, and of the weight's integers."""
    if node.op_type in _QLINEAR:
        return node.input[0], node.input[2], node.input[3]
    if node.op_type not in _FLOAT:
        return None
    image, weight = (view.producers.get(name) for name in node.input[:2])
    if image is None or weight is None:
        return None
    if not image.op_type == weight.op_type == "DequantizeLinear":
        return None
    return image.input[0], (*image.input[2:3], "")[0], weight.input[0]


def _convolution(
    node: onnx.NodeProto, image: str, zero_point: int, integers: NDArray[Any]
) -> Products:
    known: dict[str, Any] = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    groups = int(known.get("group", 1))
    rows = integers.transpose(0, 2, 3, 1).reshape(groups, len(integers) // groups, -1)
    fixed = known.get("auto_pad", b"NOTSET") == b"NOTSET"
    return Products(
        node.name,
        image,
        zero_point,
        np.ascontiguousarray(rows),
        convolution=True,
        kernel=(integers.shape[2], integers.shape[3]),
        strides=tuple(known.get("strides") or (1, 1)),
        dilations=tuple(known.get("dilations") or (1, 1)),
        pads=tuple(known.get("pads") or (0, 0, 0, 0)) if fixed else None,
    )


def _spread(total: int, most: int) -> NDArray[np.int64]:
    """At most so many of `total` places, at equal distances."""
    count = min(total, most)
    return np.arange(count, dtype=np.int64) * total // max(1, count)
