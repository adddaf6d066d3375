"""From a plan's repairs to encodings: which remedies, in which order, on which model.

Repairs are applied in the order of `REPAIRS`, whatever order they were tried in.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from quantize.calibrate import calibrate
from quantize.deadline import NEVER, Deadline
from quantize.errors import EngineError
from quantize.graph.expose import channel_high_of, mean_square_of, with_channel_extremes
from quantize.graph.io import to_bytes
from quantize.graph.layers import (
    Layer,
    absorbed,
    absorbed_limits,
    alone,
    constants_of,
    layers,
    with_constants,
)
from quantize.graph.points import quantization_points
from quantize.graph.view import View
from quantize.plan import Encoding, Encodings, Plan, Range, Statistics
from quantize.repair.columns import conv_columns, matrix_columns
from quantize.repair.equalize import Channels, equalize, scaled_constants
from quantize.repair.front import Faced, faced
from quantize.repair.ranges import mse_optimal
from quantize.repair.walk import Array, Columns, Remedies, Repaired, Step, walk
from quantize.runtime import Operator, Session

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

REPAIRS = ("equalize", "pixels", "ranges", "scales", "rounding", "bias")
"""All remedies, in the order in which they are applied."""

FOLLOWING = frozenset({"rounding", "bias"})
"""Those that make up for what the layers before lose, so that it matters which stay float."""

WALKED = 64
"""Images that the walk takes: enough for means and moments, few enough to hold."""

_PIECE = 8
_SAMPLED = 200_000


@dataclass(frozen=True, eq=False)
class Bench:
    """What repairs work on.

    Attributes:
        model: the prepared float model.
        statistics: of its tensors, over all calibration images.
        images: float32 [N,C,H,W], at most `WALKED` of them.
        threads: of each session.
        pinned: nodes that the user keeps float; no repair touches them.
        deadline: when the work breaks off.
    """

    model: onnx.ModelProto
    statistics: Statistics
    images: NDArray[np.float32]
    threads: int
    pinned: frozenset[str] = frozenset()
    deadline: Deadline = NEVER


@dataclass(frozen=True, eq=False)
class Repairs:
    """What the repairs decided, for every layer that could become int8.

    Attributes:
        encodings: scales of activations and weights, repaired weights and biases.
        weights: layer -> name of its weight.
        floats: layer -> weight and bias as they are for a layer that stays float: equalized,
            but not rounded.
        attached: layer -> names of further constants, which go where the layer stays float.
    """

    encodings: Encodings
    weights: Mapping[str, str]
    floats: Mapping[str, tuple[Array, Array | None]]
    attached: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def leaving(self, keep_float: Iterable[str]) -> Encodings:
        """The encodings with these layers left float."""
        tensors = dict(self.encodings.tensors)
        constants, biases = dict(self.encodings.constants), dict(self.encodings.biases)
        for name in keep_float:
            if name in self.weights:
                tensors.pop(self.weights[name], None)
                for other in self.attached.get(name, ()):
                    constants.pop(other)
                weight, bias = self.floats[name]
                constants[self.weights[name]] = weight
                if bias is not None:
                    biases[name] = bias
        return Encodings(tensors, constants, biases)


def repair(bench: Bench, plan: Plan) -> Repairs:
    """Work out all that the plan's repairs decide.

    Args:
        bench: what to work on.
        plan: its `repairs`, scheme and `keep_float` count; only for the repairs in `FOLLOWING`
            does it matter to the other layers what stays float.

    Returns:
        Scales of activations and weights, repaired weights and biases.

    Raises:
        EngineError: a repair is unknown, or a node cannot be run by itself.
    """
    unknown = sorted(set(plan.repairs) - set(REPAIRS))
    if unknown:
        raise EngineError(f"there is no repair {unknown[0]!r}", f"use {', '.join(REPAIRS)}")
    model = _with_all_biases(bench.model)
    if "equalize" in plan.repairs:
        model, moved = _equalized(model, bench)
        bench = replace(bench, statistics=_recounted(model, moved, bench))
    encodings = _activations(model, bench, by_error="ranges" in plan.repairs)
    floats = bench.pinned.union(plan.keep_float)
    front = faced(model, bench.images, floats) if "pixels" in plan.repairs else None
    plain = model
    if front is not None:
        model = front.model
        del encodings[front.image]
        encodings[front.tensor] = front.encoding
    remedies = Remedies(
        scales="scales" in plan.repairs,
        rounding="rounding" in plan.repairs,
        bias="bias" in plan.repairs,
    )
    before = absorbed(model)
    with threadpool_limits(limits=1, user_api="blas"):  # its sums differ between thread counts
        walked = walk(
            {View(model.graph).inputs[0].name: bench.images},
            _steps(model, bench, floats),
            {name: encoding for name, encoding in encodings.items() if name not in before},
            remedies,
            limit=63 if plan.scheme.reduce_range else 127,
            deadline=bench.deadline,
        )
    return _gathered(plain, encodings, walked, plan.keep_float, front)


def plain_encodings(model: onnx.ModelProto, statistics: Statistics) -> Encodings:
    """The activations' encodings from exact ranges; weights are left to the engine."""
    bench = Bench(model, statistics, np.zeros((0,), np.float32), 1)
    return Encodings(_activations(model, bench, by_error=False), {}, {})


# ----------------------------------------------------------------------- equalization


def equalized(model: onnx.ModelProto, bench: Bench) -> onnx.ModelProto:
    """A copy that computes the same with equalized channels; see `repair.equalize`."""
    return _equalized(model, bench)[0]


def rounded_from(bench: Bench, plan: Plan) -> tuple[onnx.ModelProto, Statistics]:
    """The float model whose weights the plan's repairs round, with the histograms that suit it.

    It computes what the prepared one does. An activation whose channels were equalized has no
    histogram here.
    """
    model, moved = _with_all_biases(bench.model), set[str]()
    if "equalize" in plan.repairs:
        model, moved = _equalized(model, bench)
    if "pixels" in plan.repairs:
        front = faced(model, bench.images, bench.pinned.union(plan.keep_float))
        model = model if front is None else front.model
    histograms = {n: h for n, h in bench.statistics.histograms.items() if n not in moved}
    return model, replace(bench.statistics, histograms=histograms)


def _equalized(model: onnx.ModelProto, bench: Bench) -> tuple[onnx.ModelProto, set[str]]:
    """The copy, and the activations whose channels changed their scale."""
    moved_activations: set[str] = set()
    pairs = _pairs(model, bench.pinned)
    seen = _channels(model, [between for _, between, _ in pairs], bench)
    values = constants_of(model)
    for first, between, second in pairs:
        depthwise = second.group > 1
        channels = 0 if depthwise else 1 - second.axis
        weight = np.moveaxis(values[second.weight], (second.axis, 1 - second.axis), (0, 1))
        chosen = equalize(seen[between], weight, depthwise=depthwise)
        if chosen.exponent == 0:
            continue
        log.info("equalize: %s with exponent %g", between, chosen.exponent)
        moved_activations.add(between)
        bias = values[first.bias] if first.bias else None
        grown, moved, shrunk = scaled_constants(
            chosen.factors,
            (values[first.weight], bias),
            values[second.weight],
            axes=(first.axis, channels),
        )
        values[first.weight], values[second.weight] = grown, shrunk
        if first.bias and moved is not None:
            values[first.bias] = moved
    changed = {layer.weight: values[layer.weight] for layer in layers(model)}
    biases = {layer.name: values[layer.bias] for layer in layers(model) if layer.bias}
    return with_constants(model, changed, biases), moved_activations


def _recounted(model: onnx.ModelProto, moved: set[str], bench: Bench) -> Statistics:
    """The statistics with new histograms of these activations; their ranges stay."""
    if not (moved & bench.statistics.histograms.keys()):
        return bench.statistics
    now = calibrate(model, [bench.images], threads=bench.threads).histograms
    fresh = {name: now[name] for name in moved if name in now}
    return replace(bench.statistics, histograms={**bench.statistics.histograms, **fresh})


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


def _channels(model: onnx.ModelProto, names: list[str], bench: Bench) -> dict[str, Channels]:
    """What each named activation's channels do on the walk's images."""
    session = Session(to_bytes(with_channel_extremes(model, names)), threads=bench.threads)
    halves: tuple[dict[str, Channels], dict[str, Channels]] = ({}, {})
    done = [0, 0]
    for start in range(0, len(bench.images), _PIECE):
        which = start // _PIECE % 2
        seen = halves[which]
        piece = bench.images[start : start + _PIECE]
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


# --------------------------------------------------------------------------- the walk


def _activations(model: onnx.ModelProto, bench: Bench, *, by_error: bool) -> dict[str, Encoding]:
    """Encodings of all activations that int8 rounds; one absorbed has that of its Relu."""
    found: dict[str, Encoding] = {}
    image = View(model.graph).inputs[0].name
    for name in quantization_points(model):
        span = bench.statistics.ranges[name]
        if by_error and name == image:
            span = off_the_grid(span, bench.images)
        elif by_error and name in bench.statistics.histograms:
            span = mse_optimal(span, bench.statistics.histograms[name])
        found[name] = encoding_of(span)
    for before, behind in absorbed(model).items():
        if behind in found:
            found[before] = found[behind]
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
    integers = np.clip(np.rint(values / encoding.scale) + encoding.zero_point, 0, 255)
    return float(np.square((integers - encoding.zero_point) * encoding.scale - values).mean())


def encoding_of(span: Range) -> Encoding:
    """uint8: scale = (high - low) / 255 with 0 inside, zero point = rint(-low / scale)."""
    low, high = min(span.low, 0.0), max(span.high, 0.0)
    scale = np.float32((high - low) / 255 or 1.0)
    return Encoding(np.asarray(scale), int(np.clip(np.rint(-low / float(scale)), 0, 255)))


def _steps(model: onnx.ModelProto, bench: Bench, floats: frozenset[str]) -> list[Step]:
    known = {layer.name: layer for layer in layers(model) if layer.name not in floats}
    values, limits = constants_of(model), absorbed_limits(model)
    made = {View(model.graph).inputs[0].name}
    steps = []
    for node in model.graph.node:
        layer = known.get(node.name)
        inputs = tuple(dict.fromkeys(name for name in node.input if name in made))
        replaced = {layer.weight, *([layer.bias] if layer.bias else [])} if layer else set()
        operator = Operator(
            to_bytes(alone(model, node, {*inputs, *replaced})),
            threads=bench.threads,
            name=node.name,
        )
        outputs = tuple(name for name in node.output if name)
        made.update(outputs)
        run = partial(_run, operator, values, layer)
        if layer is None:
            steps.append(Step(inputs, outputs, run))
            continue
        matrix = layer.matrix(values[layer.weight])
        bias = values[layer.bias] if layer.bias else np.zeros(len(matrix), np.float32)
        steps.append(
            Step(
                inputs,
                outputs,
                run,
                layer=layer.name,
                weight=matrix,
                bias=bias,
                columns=_columns(layer, len(matrix)),
                has_bias=layer.bias is not None,
                limits=limits.get(layer.output, (-math.inf, math.inf)),
            )
        )
    return steps


def _run(
    operator: Operator,
    values: Mapping[str, Array],
    layer: Layer | None,
    activations: Mapping[str, Array],
    weight: Array | None,
    bias: Array | None,
) -> list[Array]:
    """Run one node in pieces; a layer's weight and bias are fed, replaced where given."""
    constants: dict[str, Array] = {}
    if layer is not None:
        own = values[layer.weight]
        constants[layer.weight] = own if weight is None else layer.tensor(weight, own.shape)
        if layer.bias:
            constants[layer.bias] = values[layer.bias] if bias is None else bias
    return operator.run({n: activations[n] for n in operator.inputs if n in activations}, constants)


def _columns(layer: Layer, outputs: int) -> Columns:
    if layer.op_type != "Conv":
        return partial(matrix_columns, outputs=outputs)
    return partial(
        conv_columns,
        kernel=layer.kernel,
        strides=layer.strides,
        dilations=layer.dilations,
        pads=layer.pads,
        group=layer.group,
        outputs=outputs,
    )


def _with_all_biases(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every Conv and Gemm has a bias, zero where it had none."""
    values = constants_of(model)
    missing = {
        layer.name: np.zeros(len(layer.matrix(values[layer.weight])), np.float32)
        for layer in layers(model)
        if layer.bias is None and layer.op_type != "MatMul"
    }
    return with_constants(model, {}, missing)


def _gathered(
    model: onnx.ModelProto,
    encodings: dict[str, Encoding],
    walked: Mapping[str, Repaired],
    keep_float: Iterable[str],
    front: Faced | None,
) -> Repairs:
    """All of it; `model` is the one that the layers left float belong to, without a front."""
    constants: dict[str, Array] = {} if front is None else dict(front.constants)
    biases: dict[str, Array] = {}
    floats: dict[str, tuple[Array, Array | None]] = {}
    values = constants_of(model)
    known = [layer for layer in layers(model) if layer.name in walked]
    for layer in known:
        done = walked[layer.name]
        constants[layer.weight] = layer.tensor(done.matrix, values[layer.weight].shape)
        encodings[layer.weight] = Encoding(done.scale, 0, layer.axis)
        floats[layer.name] = (values[layer.weight], values[layer.bias] if layer.bias else None)
        if layer.bias:
            biases[layer.name] = done.bias
    weights = {layer.name: layer.weight for layer in known}
    kept = set(keep_float) - walked.keys()
    for layer in (layer for layer in layers(model) if layer.name in kept):
        constants[layer.weight] = values[layer.weight]  # perhaps equalized
        if layer.bias:
            biases[layer.name] = values[layer.bias]
    attached = {} if front is None else {front.layer: tuple(front.constants)}
    return Repairs(Encodings(encodings, constants, biases), weights, floats, attached)
