"""From a plan's repairs to encodings: which remedies, in which order, on which model.

Repairs are applied in the order of `REPAIRS`, whatever order they were tried in. Those in
`FOLLOWING` walk through the model on images, so that each layer makes up for what those before it
lose; all others, and a rough form of the bias's correction, follow from what calibration saw.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from quantize.calibrate import calibrate
from quantize.deadline import NEVER, Deadline
from quantize.errors import EngineError
from quantize.graph.layers import absorbed, constants_of, layers, with_constants
from quantize.graph.view import View
from quantize.plan import Encoding, Encodings, Plan, Statistics
from quantize.repair.channels import Moved, equalized
from quantize.repair.front import Faced, faced
from quantize.repair.grids import activation_encodings, integers_of
from quantize.repair.offline import offline
from quantize.repair.pixels import Grid, grid_of
from quantize.repair.stages import Stages, layer_means
from quantize.repair.walk import Array, Remedies, Repaired, walk

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

REPAIRS = ("equalize", "pixels", "ranges", "scales", "rounding", "bias")
"""All remedies, in the order in which they are applied."""

FOLLOWING = frozenset({"rounding", "bias"})
"""Those that make up for what the layers before lose, where the plan lets them walk."""

WALKED = 128
"""Images that the walk takes at most: enough for means and moments, few enough to hold."""

_RECOUNTED = 32


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

    @cached_property
    def plain(self) -> Ground:
        """The model as it is, with a bias in every layer that can carry one."""
        return Ground(self, with_all_biases(self.model))

    @cached_property
    def equalized(self) -> Ground:
        """The model with equalized channels, or `plain` where no pair gains by it."""
        model, moved = equalized(
            self.plain.model, self.images, pinned=self.pinned, threads=self.threads
        )
        return Ground(self, model, moved, self.plain) if moved else self.plain

    def few(self, count: int | None) -> NDArray[np.float32]:
        """So many of the images, at equal distances; None: all."""
        total = len(self.images)
        count = total if count is None else min(count, total)
        return self.images[[index * total // count for index in range(count)]]

    @cached_property
    def grid(self) -> Grid | None:
        """The grid that the images lie on, if they do."""
        return grid_of(self.images)

    @cached_property
    def stages(self) -> Stages:
        """Makes the walk's steps; keeps the sessions that several walks need."""
        return Stages(self.threads)


@dataclass(frozen=True, eq=False)
class Ground:
    """A float model that weights are rounded from, with what is found out about it once.

    Attributes:
        bench: where it stands.
        model: computes what the prepared model does; each Conv and Gemm has a bias.
        moved: what has another scale than in `before`.
        before: the ground that this one was made from by equalization, if it was.
    """

    bench: Bench
    model: onnx.ModelProto
    moved: tuple[Moved, ...] = ()
    before: Ground | None = None
    _means: dict[int | None, dict[str, NDArray[np.float64]]] = field(default_factory=dict)

    def means(self, walked: int | None) -> dict[str, NDArray[np.float64]]:
        """What each layer gives in float for the walk's images; see `layer_means`.

        Equalization multiplies a layer's channels, before and behind a Relu or Clip, and so their
        means.
        """
        if walked not in self._means:
            self._means[walked] = self._found(walked)
        return self._means[walked]

    def _found(self, walked: int | None) -> dict[str, NDArray[np.float64]]:
        if self.before is not None:
            grown = {each.layer: each.factors for each in self.moved}
            known = self.before.means(walked)
            return {name: mean * grown.get(name, 1.0) for name, mean in known.items()}
        return layer_means(self.model, self.bench.few(walked), threads=self.bench.threads)

    @cached_property
    def input_means(self) -> dict[str, NDArray[np.float64]]:
        """Mean of each channel of what each layer reads, over all calibration images."""
        grown = {each.activation: each.factors for each in self.moved}
        reads = {layer.name: layer.input for layer in layers(self.model)}
        return {
            name: mean * grown.get(reads.get(name, ""), 1.0)
            for name, mean in self.bench.statistics.means.items()
        }

    @cached_property
    def exact_ranges(self) -> dict[str, Encoding]:
        """Encodings of the activations, from exact ranges, which equalization does not change."""
        return activation_encodings(self.model, self.bench.statistics)

    @cached_property
    def best_ranges(self) -> dict[str, Encoding]:
        """Encodings of the activations, with the least squared error."""
        return activation_encodings(self.model, _recounted(self), self.bench.images)

    @property
    def rescaled(self) -> frozenset[str]:
        """Activations whose histograms are not those of the prepared model."""
        return frozenset(each.activation for each in self.moved)


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


def at_work(bench: Bench, plan: Plan) -> Plan:
    """The plan without those of its repairs that find nothing to do on this model."""
    idle = set()
    if "equalize" in plan.repairs and not bench.equalized.moved:
        idle.add("equalize")
    if "pixels" in plan.repairs and bench.grid is None:
        idle.add("pixels")
    return replace(plan, repairs=tuple(name for name in plan.repairs if name not in idle))


def walks(plan: Plan) -> bool:
    """Whether the plan's repairs walk through the model on images."""
    return plan.walked != 0 and not FOLLOWING.isdisjoint(plan.repairs)


def repair(bench: Bench, plan: Plan) -> Repairs:
    """Work out all that the plan's repairs decide.

    Args:
        bench: what to work on.
        plan: its `repairs`, scheme, `walked` and `keep_float` count; only where it `walks` does it
            matter to the other layers what stays float.

    Returns:
        Scales of activations and weights, repaired weights and biases.

    Raises:
        EngineError: a repair is unknown, is left without the images that it needs, or a node
            cannot be run by itself.
    """
    unknown = sorted(set(plan.repairs) - set(REPAIRS))
    if unknown:
        raise EngineError(f"there is no repair {unknown[0]!r}", f"use {', '.join(REPAIRS)}")
    if "rounding" in plan.repairs and plan.walked == 0:
        raise EngineError("the repair 'rounding' needs images", "leave out `walked`, which is 0")
    ground = bench.equalized if "equalize" in plan.repairs else bench.plain
    encodings = dict(ground.best_ranges if "ranges" in plan.repairs else ground.exact_ranges)
    front = None
    if "pixels" in plan.repairs and bench.grid is not None:
        front = faced(ground.model, bench.grid, bench.pinned.union(plan.keep_float))
    if front is not None:
        del encodings[front.image]
        encodings[front.tensor] = front.encoding
    done = (_walked if walks(plan) else _offline)(bench, ground, plan, encodings, front)
    return _gathered(ground.model, encodings, done, plan.keep_float, front)


def _remedies(plan: Plan) -> Remedies:
    return Remedies(
        scales="scales" in plan.repairs,
        rounding="rounding" in plan.repairs,
        bias="bias" in plan.repairs,
    )


def _limit(plan: Plan) -> int:
    return 63 if plan.scheme.reduce_range else 127


def _walked(
    bench: Bench,
    ground: Ground,
    plan: Plan,
    encodings: Mapping[str, Encoding],
    front: Faced | None,
) -> dict[str, Repaired]:
    """Each layer as it is repaired on images."""
    model = ground.model if front is None else front.model
    before = absorbed(model)
    seen = {name: encoding for name, encoding in encodings.items() if name not in before}
    image = View(model.graph).inputs[0].name
    images = bench.few(plan.walked)
    given = integers_of(images, seen[image]) if image in seen else images
    with threadpool_limits(limits=1, user_api="blas"):  # its sums differ between thread counts
        return walk(
            {image: given},
            bench.stages.steps(model, seen, bench.pinned.union(plan.keep_float)),
            ground.means(plan.walked),
            _remedies(plan),
            limit=_limit(plan),
            deadline=bench.deadline,
            portable=plan.scheme.portable,
        )


def _offline(
    bench: Bench,
    ground: Ground,
    plan: Plan,
    encodings: Mapping[str, Encoding],
    front: Faced | None,
) -> dict[str, Repaired]:
    """Each layer as it is repaired by what calibration saw."""
    means = dict(ground.input_means)
    if front is not None and front.layer in means:
        means[front.layer] = front.mean(means[front.layer])
    return offline(
        ground.model if front is None else front.model,
        encodings,
        means,
        _remedies(plan),
        floats=bench.pinned.union(plan.keep_float),
        limit=_limit(plan),
        portable=plan.scheme.portable,
    )


def plain_encodings(model: onnx.ModelProto, statistics: Statistics) -> Encodings:
    """The activations' encodings from exact ranges; weights are left to the engine."""
    return Encodings(activation_encodings(model, statistics), {}, {})


def rounded_from(bench: Bench, plan: Plan) -> tuple[onnx.ModelProto, Statistics]:
    """The float model whose weights the plan's repairs round, with the histograms that suit it.

    It computes what the prepared one does. An activation whose channels were equalized has no
    histogram here.
    """
    ground = bench.equalized if "equalize" in plan.repairs else bench.plain
    model = ground.model
    if "pixels" in plan.repairs and bench.grid is not None:
        front = faced(model, bench.grid, bench.pinned.union(plan.keep_float))
        model = model if front is None else front.model
    known = bench.statistics.histograms.items()
    histograms = {name: counts for name, counts in known if name not in ground.rescaled}
    return model, replace(bench.statistics, histograms=histograms)


def _recounted(ground: Ground) -> Statistics:
    """The statistics with new histograms of what has another scale; ranges stay."""
    bench = ground.bench
    known, counted = bench.statistics, ground.rescaled & bench.statistics.histograms.keys()
    if not counted:
        return known
    now = calibrate(ground.model, [bench.few(_RECOUNTED)], threads=bench.threads).histograms
    fresh = {name: now[name] for name in counted if name in now}
    return replace(known, histograms={**known.histograms, **fresh})


def with_all_biases(model: onnx.ModelProto) -> onnx.ModelProto:
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
