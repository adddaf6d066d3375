"""The grids that int8 rounds activations to: uint8, one scale and zero point a tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from quantize.graph.layers import absorbed
from quantize.graph.points import quantization_points
from quantize.graph.view import View, captures
from quantize.plan import Encoding, Method, Range, Statistics
from quantize.repair.ranges import by_method

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx
    from numpy.typing import NDArray

_SAMPLED = 200_000


def activation_encodings(
    model: onnx.ModelProto,
    statistics: Statistics,
    method: Method = "minmax",
    images: NDArray[np.float32] | None = None,
) -> dict[str, Encoding]:
    """Encodings of all activations that int8 rounds; one absorbed has that of its Relu.

    The input and what has no histogram keep their exact ranges: no pixel is an outlier.

    Args:
        model: a prepared float model.
        statistics: of its tensors.
        method: how a range follows from its histogram.
        images: float32 [N,C,H,W]: the input's range is moved off their grid; None: it is not.
    """
    found: dict[str, Encoding] = {}
    image = View(model.graph).inputs[0].name
    for name in quantization_points(model):
        span = statistics.ranges[name]
        if name == image:
            span = span if images is None else off_the_grid(span, images)
        elif name in statistics.histograms:
            span = by_method(method, span, statistics.histograms[name])
        found[name] = encoding_of(span)
    for before, behind in absorbed(model).items():
        if behind in found:
            found[before] = found[behind]
    return found


def units(model: onnx.ModelProto, encodings: Mapping[str, Encoding]) -> dict[str, float]:
    """The scale of the integers that each activation is held in; 0 where it is held in float.

    A node behind which nothing is rounded passes on the unit of what it reads first.

    Args:
        model: a prepared float model.
        encodings: of the activations that int8 rounds.
    """
    view = View(model.graph)
    own = {name: float(encoding.scale) for name, encoding in encodings.items()}
    found = {value.name: own.get(value.name, 0.0) for value in view.inputs}
    for node in model.graph.node:
        named = (*node.input, *captures(node))
        passed_on = next((found[name] for name in named if name in found), 0.0)
        found |= {name: own.get(name) or passed_on for name in node.output if name}
    return found


def off_the_grid(span: Range, images: NDArray[np.float32]) -> Range:
    """The input's range, up to 2 % wider, with the least squared rounding error.

    Pixels have few values. Where these fall half way between two integers, as those of [-1, 1] do,
    each is off by half a step; a slightly larger step spreads them.

    Args:
        span: exact range.
        images: float32 [N,C,H,W].
    """
    values = images.reshape(-1)[:: max(1, images.size // _SAMPLED)]
    wider = [Range(span.low * grow, span.high * grow) for grow in np.linspace(1.0, 1.02, 41)]
    return min(wider, key=lambda tried: _rounding_error(values, encoding_of(tried)))


def _rounding_error(values: NDArray[np.float32], encoding: Encoding) -> float:
    integers = integers_of(values, encoding).astype(np.float32)
    return float(np.square((integers - encoding.zero_point) * encoding.scale - values).mean())


def integers_of(values: NDArray[np.float32], encoding: Encoding) -> NDArray[np.uint8]:
    """What int8 makes of an activation: clip(rint(x / scale) + zero point, 0, 255), uint8."""
    integers: NDArray[np.float32] = np.rint(values / np.float32(encoding.scale))
    integers += np.float32(encoding.zero_point)
    return np.clip(integers, 0, 255, out=integers).astype(np.uint8)


def encoding_of(span: Range) -> Encoding:
    """uint8: scale = (high - low) / 255 with 0 inside, zero point = rint(-low / scale)."""
    low, high = min(span.low, 0.0), max(span.high, 0.0)
    scale = np.float32((high - low) / 255 or 1.0)
    return Encoding(np.asarray(scale), int(np.clip(np.rint(-low / float(scale)), 0, 255)))
