"""The exact pixels of `quantize.repair.pixels` as a float model that computes the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from quantize.graph.front import (
    Front,
    factor_of,
    first_convolution,
    needs_padding,
    pixels_of,
    shift_of,
    with_front,
)
from quantize.graph.layers import constants_of, with_constants
from quantize.graph.view import View
from quantize.plan import Encoding
from quantize.repair.pixels import Grid, compensated, exact

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Faced:
    """A model whose pixels fall on integers.

    Attributes:
        model: the float model, with the front's nodes.
        layer: name of the first convolution.
        image: name of the input.
        tensor: what the convolution reads: the input itself where it needs no nodes.
        encoding: of that tensor.
        constants: of the nodes, by name.
    """

    model: onnx.ModelProto
    layer: str
    image: str
    tensor: str
    encoding: Encoding
    constants: dict[str, NDArray[np.float32]]

    def mean(self, of_image: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean of each channel of what the convolution reads, given that of the image; [C]."""
        factor = self.constants.get(factor_of(self.image))
        shift = self.constants.get(shift_of(self.image))
        scaled = of_image if factor is None else of_image * factor.reshape(-1)
        return scaled if shift is None else scaled + shift.reshape(-1)


def faced(model: onnx.ModelProto, grid: Grid, floats: frozenset[str]) -> Faced | None:
    """Give a model the front that its images ask for.

    Args:
        model: every convolution has a bias.
        grid: that the images lie on.
        floats: nodes that stay float.

    Returns:
        None where no int8 convolution alone reads the image.
    """
    conv = first_convolution(model)
    if conv is None or conv.bias is None or conv.name in floats:
        return None
    image = View(model.graph).inputs[0].name
    done = exact(grid, padded=any(conv.pads))
    factor, shift = _shaped(done.factor), _shaped(done.shift)
    if factor is None and shift is None:
        return Faced(model, conv.name, image, image, done.encoding, {})
    values = constants_of(model)
    weight, bias = compensated(done, values[conv.weight], values[conv.bias])
    front = Front(factor, shift, needs_padding(conv, shift, float(done.encoding.scale)))
    moved = with_constants(model, {conv.weight: weight}, {conv.name: bias})
    return Faced(
        with_front(moved, front)[0],
        conv.name,
        image,
        pixels_of(image),
        done.encoding,
        front.constants(image),
    )


def _shaped(values: NDArray[np.float64] | None) -> NDArray[np.float32] | None:
    return None if values is None else values.astype(np.float32).reshape(1, -1, 1, 1)
