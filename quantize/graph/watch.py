"""What to fetch from a running model so that the statistics of every float tensor follow.

Fetching costs more than looking: onnxruntime keeps images in blocks of channels, and to lay them
out again takes as long as to count them. So a Relu or Clip of a fetched tensor is not fetched
(its values are those of the other, clipped), nor is one that only holds the same values in
another shape; and what has four axes is fetched with the channels last, which is nearest to those
blocks. To fetch one that another operator would have swallowed costs that fusion, but its range
is asked for anyway.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx

from quantize.graph.expose import float_tensors, with_outputs
from quantize.graph.layers import clip_limits, layers
from quantize.graph.view import View, dims

_SAME_VALUES = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_CHANNELS_LAST = (0, 2, 3, 1)


@dataclass(frozen=True)
class Clipped:
    """A tensor as another one's values between two limits.

    Attributes:
        source: a tensor that is fetched.
        low: lower limit, a float32 value or minus infinity.
        high: upper limit, a float32 value or infinity.
        same_axes: whether both have the same shape.
    """

    source: str
    low: float = -math.inf
    high: float = math.inf
    same_axes: bool = True

    def clip(self, value: float) -> float:
        """What becomes of a value of the source."""
        return min(max(value, self.low), self.high)

    def then(self, low: float, high: float) -> Clipped:
        """Clipped once more."""
        again = Clipped(self.source, low, high)
        return Clipped(self.source, again.clip(self.low), again.clip(self.high), self.same_axes)


@dataclass(frozen=True)
class Fetched:
    """A tensor that is fetched.

    Attributes:
        tensor: its name in the model.
        channels_last: whether it is wanted as (N,H,W,C) instead of (N,C,H,W).
        output: the graph output that carries it so, or None for the input, which is at hand.
    """

    tensor: str
    channels_last: bool
    output: str | None


@dataclass(frozen=True)
class LayerInput:
    """What a layer reads.

    Attributes:
        layer: its name.
        values: its input, by way of a fetched tensor.
        channels_last: which form of the fetched tensor has the layer's channels as its last axis.
    """

    layer: str
    values: Clipped
    channels_last: bool


@dataclass(frozen=True, eq=False)
class Watch:
    """A model that gives what is needed, and what follows from it.

    Attributes:
        model: a copy with more outputs.
        tensors: all float tensors, in graph order, the input first.
        fetched: the tensors that arrive; in both forms if layers differ in what they want.
        derived: every other float tensor.
        inputs: of the layers.
    """

    model: onnx.ModelProto
    tensors: tuple[str, ...]
    fetched: tuple[Fetched, ...]
    derived: Mapping[str, Clipped]
    inputs: tuple[LayerInput, ...]


def watch(model: onnx.ModelProto) -> Watch:
    """Work out what to fetch.

    Args:
        model: prepared, shapes inferred; not changed.
    """
    tensors = float_tensors(model)
    floats = frozenset(tensors)
    rank = _ranks(model)
    known = layers(model)
    derived = _derived(model, tensors)
    for layer in known:  # a mean over positions needs the layer's own axes
        if layer.input in derived and not derived[layer.input].same_axes:
            del derived[layer.input]
    inputs = tuple(
        LayerInput(
            layer.name, derived.get(layer.input, Clipped(layer.input)), layer.op_type == "Conv"
        )
        for layer in known
        if layer.input in floats
    )
    asked: dict[str, set[bool]] = {}
    for each in inputs:
        asked.setdefault(each.values.source, set()).add(each.channels_last)
    wanted = [
        (name, last)
        for name in tensors
        if name not in derived
        for last in sorted(asked.get(name, {rank.get(name) == len(_CHANNELS_LAST)}))
    ]
    copy, fetched = with_fetched(model, wanted)
    return Watch(copy, tuple(tensors), fetched, derived, inputs)


def with_fetched(
    model: onnx.ModelProto, wanted: Iterable[tuple[str, bool]]
) -> tuple[onnx.ModelProto, tuple[Fetched, ...]]:
    """A copy of the model that also gives the named tensors.

    Args:
        model: not changed.
        wanted: (tensor, whether its four axes are wanted with the channels last).
    """
    copy = with_outputs(model, [])
    view = View(model.graph)
    given = set(view.outputs)
    fetched = tuple(_fetch(copy, view, given, name, channels_last=last) for name, last in wanted)
    return copy, fetched


def _derived(model: onnx.ModelProto, tensors: list[str]) -> dict[str, Clipped]:
    """Every tensor whose values follow from another's, by way of the first that do not."""
    view, floats = View(model.graph), frozenset(tensors)
    derived: dict[str, Clipped] = {}
    for node in model.graph.node:
        if node.output[0] not in floats or not floats.intersection(node.input[:1]):
            continue
        before = derived.get(node.input[0], Clipped(node.input[0]))
        limits = clip_limits(view, node)
        if limits is not None:
            derived[node.output[0]] = before.then(*limits)
        elif node.op_type in _SAME_VALUES:
            derived[node.output[0]] = Clipped(before.source, before.low, before.high, False)
    return derived


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    known = ((v.name, dims(v)) for v in (*model.graph.value_info, *model.graph.output))
    return {name: len(shape) for name, shape in known if shape is not None}


def _fetch(
    model: onnx.ModelProto, view: View, given: set[str], name: str, *, channels_last: bool
) -> Fetched:
    """Add the output that carries a tensor, unless it is the input or in `given`; adds to that."""
    if name not in view.producers:
        return Fetched(name, channels_last, None)
    output = name
    if channels_last:
        output = f"quantize.seen.{len(model.graph.output)}"
        model.graph.node.append(
            onnx.helper.make_node(
                "Transpose", [name], [output], name=output, perm=list(_CHANNELS_LAST)
            )
        )
    if output not in given:
        given.add(output)
        model.graph.output.append(onnx.ValueInfoProto(name=output))
    return Fetched(name, channels_last, output)
