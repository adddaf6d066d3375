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

from quantize.errors import EngineError
from quantize.graph.layers import Layer, absorbed, constants_of, layers
from quantize.graph.view import View
from quantize.plan import Encoding, Encodings, Method, Plan, Statistics
from quantize.repair.bench import Bench, Ground
from quantize.repair.front import Faced, faced
from quantize.repair.grids import activation_encodings, integers_of
from quantize.repair.offline import offline
from quantize.repair.pixels import Grid
from quantize.repair.scales import WeightForm
from quantize.repair.walk import Array, Remedies, Repaired, walk

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

REPAIRS = ("equalize", "pixels", "ranges", "scales", "rounding", "bias")
"""All remedies, in the order in which they are applied."""

FOLLOWING = frozenset({"rounding", "bias"})
"""Those that make up for what the layers before lose, where the plan lets them walk."""


@dataclass(frozen=True, eq=False)
class Workpiece:
    """What lies on the bench for one plan; each part is worked out when first asked for.

    Attributes:
        bench: what to work on.
        plan: its `repairs`, scheme, `walked` and `keep_float` count.
    """

    bench: Bench
    plan: Plan

    @property
    def ground(self) -> Ground:
        """What weights are rounded from, before the pixels' front."""
        return self.bench.equalized if "equalize" in self.plan.repairs else self.bench.plain

    @property
    def grid(self) -> Grid | None:
        """The grid of the images, where the plan keeps their pixels exact and they lie on one."""
        return self.bench.grid if "pixels" in self.plan.repairs else None

    @cached_property
    def front(self) -> Faced | None:
        """What keeps the pixels exact, or None where nothing has to, or nothing can."""
        grid = self.grid
        return None if grid is None else faced(self.ground.model, grid, self.floats)

    @property
    def model(self) -> onnx.ModelProto:
        """The float model whose weights are rounded, the front with it."""
        return self.ground.model if self.front is None else self.front.model

    @cached_property
    def encodings(self) -> Mapping[str, Encoding]:
        """Of the activations: by the plan's method, unless the repair `ranges` chooses them."""
        ground, best = self.ground, "ranges" in self.plan.repairs
        found = dict(ground.best_ranges if best else ground.plain_ranges(self.plan.scheme.method))
        if self.front is not None:
            del found[self.front.image]
            found[self.front.tensor] = self.front.encoding
        return found

    @property
    def input_means(self) -> Mapping[str, NDArray[np.float64]]:
        """Mean of each channel of what each layer reads, behind the front."""
        means = dict(self.ground.input_means)
        if self.front is not None and self.front.layer in means:
            means[self.front.layer] = self.front.mean(means[self.front.layer])
        return means

    @property
    def floats(self) -> frozenset[str]:
        """Nodes that stay float."""
        return self.bench.pinned.union(self.plan.keep_float)

    @property
    def form(self) -> WeightForm:
        """What integers and scales weights may have."""
        scheme = self.plan.scheme
        return WeightForm(
            limit=63 if scheme.reduce_range else 127,
            portable=scheme.portable,
            whole=scheme.weight_granularity == "per_tensor",
        )

    @property
    def remedies(self) -> Remedies:
        """What to do at each layer."""
        chosen = self.plan.repairs
        return Remedies(
            scales="scales" in chosen, rounding="rounding" in chosen, bias="bias" in chosen
        )

    def walked(self) -> dict[str, Repaired]:
        """Each layer as it is repaired on images."""
        bench, before = self.bench, absorbed(self.model)
        seen = {name: each for name, each in self.encodings.items() if name not in before}
        image = View(self.model.graph).inputs[0].name
        images = bench.few(self.plan.walked)
        given = integers_of(images, seen[image]) if image in seen else images
        with threadpool_limits(limits=1, user_api="blas"):  # its sums differ between thread counts
            return walk(
                {image: given},
                bench.stages.steps(self.model, seen, self.floats),
                self.ground.means(self.plan.walked),
                self.remedies,
                self.form,
                bench.deadline,
            )

    def unwalked(self) -> dict[str, Repaired]:
        """Each layer as it is repaired by what calibration saw."""
        return offline(
            self.model,
            self.encodings,
            self.input_means,
            self.remedies,
            floats=self.floats,
            form=self.form,
        )


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
    piece = Workpiece(bench, plan)
    finds = {"equalize": bool(piece.ground.moved), "pixels": piece.grid is not None}
    return replace(plan, repairs=tuple(name for name in plan.repairs if finds.get(name, True)))


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
    _check(plan)
    piece = Workpiece(bench, plan)
    return _gathered(piece, piece.walked() if walks(plan) else piece.unwalked())


def _check(plan: Plan) -> None:
    unknown = sorted(set(plan.repairs) - set(REPAIRS))
    if unknown:
        raise EngineError(f"there is no repair {unknown[0]!r}", f"use {', '.join(REPAIRS)}")
    if "rounding" in plan.repairs and plan.walked == 0:
        raise EngineError("the repair 'rounding' needs images", "leave out `walked`, which is 0")


def plain_encodings(
    model: onnx.ModelProto, statistics: Statistics, method: Method = "minmax"
) -> Encodings:
    """The activations' encodings by that method; weights are left to the engine."""
    return Encodings(activation_encodings(model, statistics, method), {}, {})


def rounded_from(bench: Bench, plan: Plan) -> tuple[onnx.ModelProto, Statistics]:
    """The float model whose weights the plan's repairs round, with the histograms that suit it.

    It computes what the prepared one does. An activation whose channels were equalized has no
    histogram here.
    """
    piece = Workpiece(bench, plan)
    known, rescaled = bench.statistics.histograms.items(), piece.ground.rescaled
    histograms = {name: counts for name, counts in known if name not in rescaled}
    return piece.model, replace(bench.statistics, histograms=histograms)


def _gathered(piece: Workpiece, repaired: Mapping[str, Repaired]) -> Repairs:
    """All of it; layers left float are those of the ground, which has no front."""
    model, front, encodings = piece.ground.model, piece.front, dict(piece.encodings)
    constants: dict[str, Array] = {} if front is None else dict(front.constants)
    biases: dict[str, Array] = {}
    floats: dict[str, tuple[Array, Array | None]] = {}
    values = constants_of(model)
    known = [layer for layer in layers(model) if layer.name in repaired]
    for layer in known:
        done = repaired[layer.name]
        constants[layer.weight] = layer.tensor(done.matrix, values[layer.weight].shape)
        encodings[layer.weight] = _of_weight(layer, done, piece.form)
        floats[layer.name] = (values[layer.weight], values[layer.bias] if layer.bias else None)
        if layer.bias:
            biases[layer.name] = done.bias
    weights = {layer.name: layer.weight for layer in known}
    kept = set(piece.plan.keep_float) - repaired.keys()
    for layer in (layer for layer in layers(model) if layer.name in kept):
        constants[layer.weight] = values[layer.weight]  # perhaps equalized
        if layer.bias:
            biases[layer.name] = values[layer.bias]
    attached = {} if front is None else {front.layer: tuple(front.constants)}
    return Repairs(Encodings(encodings, constants, biases), weights, floats, attached)


def _of_weight(layer: Layer, done: Repaired, form: WeightForm) -> Encoding:
    if form.whole:
        return Encoding(np.asarray(done.scale[0]), 0)
    return Encoding(done.scale, 0, layer.axis)
