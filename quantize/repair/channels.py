"""Cross-layer equalization of a model: which pairs there are, and their constants afterwards."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from quantize.graph.expose import channel_high_of, mean_square_of, with_channel_extremes
from quantize.graph.io import to_bytes
from quantize.graph.layers import Layer, absorbed, constants_of, layers, with_constants
from quantize.graph.view import View
from quantize.repair.equalize import Channels, equalize, scaled_constants
from quantize.runtime import Session

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

_PIECE = 8


@dataclass(frozen=True, eq=False)
class Moved:
    """What equalization changed between two layers.

    Attributes:
        activation: whose channels have another scale now.
        layer: that makes it.
        factors: of the channels, float64 [C].
    """

    activation: str
    layer: str
    factors: NDArray[np.float64]


def equalized(
    model: onnx.ModelProto,
    images: NDArray[np.float32],
    *,
    pinned: frozenset[str] = frozenset(),
    threads: int = 1,
) -> tuple[onnx.ModelProto, tuple[Moved, ...]]:
    """A copy that computes the same with equalized channels; see `repair.equalize`.

    Args:
        model: every convolution has a bias.
        images: float32 [N,C,H,W], which show what the channels do.
        pinned: layers that nothing may touch.
        threads: of the session.

    Returns:
        The copy, and what changed its scale in it.
    """
    moved: list[Moved] = []
    pairs = _pairs(model, pinned)
    seen = _channels(model, [between for _, between, _ in pairs], images, threads)
    values = constants_of(model)
    for first, between, second in pairs:
        depthwise = second.group > 1
        channels = 0 if depthwise else 1 - second.axis
        weight = np.moveaxis(values[second.weight], (second.axis, 1 - second.axis), (0, 1))
        chosen = equalize(seen[between], weight, depthwise=depthwise)
        if chosen.exponent == 0:
            continue
        log.info("equalize: %s with exponent %g", between, chosen.exponent)
        moved.append(Moved(between, first.name, chosen.factors))
        bias = values[first.bias] if first.bias else None
        grown, grown_bias, shrunk = scaled_constants(
            chosen.factors,
            (values[first.weight], bias),
            values[second.weight],
            axes=(first.axis, channels),
        )
        values[first.weight], values[second.weight] = grown, shrunk
        if first.bias and grown_bias is not None:
            values[first.bias] = grown_bias
    changed = {layer.weight: values[layer.weight] for layer in layers(model)}
    biases = {layer.name: values[layer.bias] for layer in layers(model) if layer.bias}
    return with_constants(model, changed, biases), tuple(moved)


def _pairs(model: onnx.ModelProto, pinned: frozenset[str]) -> list[tuple[Layer, str, Layer]]:
    """(layer, activation, layer) where only a Relu or Clip from 0 stands between them."""
    view = View(model.graph)
    known = {layer.name: layer for layer in layers(model) if layer.name not in pinned}
    pairs = []
    for before, between in absorbed(model).items():
        first, reader = view.producers[before], view.only_reader(between)
        if reader is None or first.name not in known or reader.name not in known:
            continue
        one, two = known[first.name], known[reader.name]
        outputs, per_group = view.initializers[two.weight].dims[:2]
        ordinary = two.group == 1 or (two.group == outputs and per_group == 1)
        both = one.op_type == "Conv" and two.op_type == "Conv" and ordinary
        if both and _starts_at_zero(view, view.producers[between]):
            pairs.append((one, between, two))
    return pairs


def _starts_at_zero(view: View, activation: onnx.NodeProto) -> bool:
    if activation.op_type == "Relu":
        return True
    low = view.constant(activation.input[1]) if len(activation.input) > 1 else None
    return low is not None and float(np.asarray(low)) == 0.0


def _channels(
    model: onnx.ModelProto, names: list[str], images: NDArray[np.float32], threads: int
) -> dict[str, Channels]:
    """What each named activation's channels do on these images."""
    exposed = to_bytes(with_channel_extremes(model, names))
    session = Session(exposed, threads=threads, spin=False)
    halves: tuple[dict[str, Channels], dict[str, Channels]] = ({}, {})
    done = [0, 0]
    for start in range(0, len(images), _PIECE):
        which = start // _PIECE % 2
        seen = halves[which]
        piece = images[start : start + _PIECE]
        values = dict(zip(session.outputs, session.run(piece), strict=True))
        done[which] += len(piece)
        for index, name in enumerate(names):
            now = Channels(
                values[channel_high_of(index)].astype(np.float64),
                values[mean_square_of(index)].astype(np.float64),
            )
            share = len(piece) / done[which]
            seen[name] = seen[name].merge(now, share) if name in seen else now
    first, second = halves[0], halves[1] or halves[0]
    return {name: first[name].with_room(second[name]) for name in names}
