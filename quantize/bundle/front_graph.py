"""A graph under construction: one image on its way through operators, [1,C,H,W] float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from quantize.errors import BundleError

_PLACE = "preprocess/"


class Graph:
    """Collects nodes and constants under names that the model does not use.

    Args:
        taken: names of the model.

    Attributes:
        nodes: in order.
        constants: initializers.
        image: name of the image now, float32 [1,C,H,W] whatever the transforms think.
        channels: C.
        channels_last: whether the transforms see [H,W,C] now.
        integers: whether our own preprocessing holds 8 bits now.
    """

    def __init__(self, taken: set[str]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.image = ""
        self.channels = 3
        self.channels_last = True
        self.integers = True
        self._taken = set(taken)
        self._known: dict[tuple[str, bytes, tuple[int, ...]], str] = {}

    def unique(self, wanted: str) -> str:
        """A name that nothing has yet."""
        name, number = wanted, 1
        while name in self._taken:
            name, number = f"{wanted}_{number}", number + 1
        self._taken.add(name)
        return name

    def start(self, image: str) -> None:
        """Turn uint8 [H,W,3] into float32 [1,3,H,W]."""
        pixels = self.add("Cast", image, to=TensorProto.FLOAT)
        self.image = self.add(
            "Unsqueeze", self.add("Transpose", pixels, perm=[2, 0, 1]), self.vector([0])
        )

    def finish(self, name: str, size: tuple[int, int, int]) -> None:
        """Give the image the model's input name; another size fails here."""
        shape = self.vector([1, *size])
        node = helper.make_node("Reshape", [self.image, shape], [name])
        node.name = self.unique(f"{_PLACE}Reshape")
        self.nodes.append(node)

    # ------------------------------------------------------------------------- operators

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """One node; returns its output."""
        output = self.unique(f"{_PLACE}{operator}")
        self.nodes.append(
            helper.make_node(operator, list(inputs), [output], name=output, **attributes)
        )
        return output

    def scale(self, operator: str, value: float) -> None:
        """The image with one number."""
        self.image = self.add(operator, self.image, self._constant(np.float32(value)))

    def per_channel(self, operator: str, values: tuple[float, ...]) -> None:
        """The image with one number, or one per channel of [H,W,C].

        Raises:
            BundleError: the channels are not last, so that numpy would take columns for them.
        """
        if len(values) == 1:
            self.scale(operator, values[0])
            return
        if not self.channels_last or len(values) != self.channels:
            raise BundleError(
                "transform Normalize after Transpose: this cannot be expressed as ONNX operators",
                "release without --with-preprocessing",
            )
        numbers = np.asarray(values, np.float32).reshape(1, -1, 1, 1)
        self.image = self.add(operator, self.image, self._constant(numbers))

    def eight_bits(self) -> None:
        """Round and saturate, where our own preprocessing holds 8 bits."""
        if self.integers:
            limits = (self._constant(np.float32(0)), self._constant(np.float32(255)))
            self.image = self.add("Clip", self.add("Round", self.image), *limits)

    def crop(self, top: str, left: str, height: int, width: int) -> None:
        """Cut out a box that has to lie in the image: else the model fails here."""
        bottom = self.integer("Add", top, self.whole(height))
        right = self.integer("Add", left, self.whole(width))
        self.cut(top, left, bottom, right)
        shape = self.vector([1, self.channels, height, width])
        self.image = self.add("Reshape", self.image, shape)

    def cut(self, top: str, left: str, bottom: str, right: str) -> None:
        """Cut out a box as far as it lies in the image; limits are int64 [1]."""
        starts = self.add("Concat", top, left, axis=0)
        ends = self.add("Concat", bottom, right, axis=0)
        self.image = self.add("Slice", self.image, starts, ends, self.vector([2, 3]))

    # --------------------------------------------------------------------------- numbers

    def rows(self) -> str:
        """H as int64 [1]."""
        return self._side(2)

    def columns(self) -> str:
        """W as int64 [1]."""
        return self._side(3)

    def whole(self, value: int) -> str:
        """A constant as int64 [1]."""
        return self.vector([value])

    def vector(self, values: list[int]) -> str:
        """A constant as int64 [n]."""
        return self._constant(np.asarray(values, np.int64))

    def single(self, value: float) -> str:
        """A constant as float32 []."""
        return self._constant(np.float32(value))

    def double(self, value: float) -> str:
        """A constant as float64 [1]: sizes are computed as Python does."""
        return self._constant(np.asarray([value], np.float64))

    def as_double(self, name: str) -> str:
        """int64 -> float64."""
        return self.add("Cast", name, to=TensorProto.DOUBLE)

    def real(self, operator: str, left: str, right: str) -> str:
        """Arithmetic on float64 [1]."""
        return self.add(operator, left, right)

    def integer(self, operator: str, left: str, right: str) -> str:
        """Arithmetic on int64 [1]; Div of what is not negative cuts off."""
        return self.add(operator, left, right)

    def least(self, left: str, right: str) -> str:
        """The smaller of two int64 [1]."""
        return self.add("Min", left, right)

    def cut_off(self, name: str) -> str:
        """float64 -> int64, fractions cut off."""
        return self.add("Cast", name, to=TensorProto.INT64)

    def rounded(self, name: str) -> str:
        """float64 -> int64, halves to even as Python rounds."""
        return self.cut_off(self.add("Round", name))

    def _side(self, axis: int) -> str:
        shape = self.add("Shape", self.image)
        return self.add("Slice", shape, self.vector([axis]), self.vector([axis + 1]))

    def _constant(self, value: NDArray[np.generic] | np.generic) -> str:
        array = np.asarray(value)
        key = (array.dtype.str, array.tobytes(), array.shape)
        if key not in self._known:
            self._known[key] = self.unique(f"{_PLACE}constant")
            self.constants.append(numpy_helper.from_array(array, self._known[key]))
        return self._known[key]
