"""What repairs work on: the float model, plain or equalized, and what is known of it once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from quantize.calibrate import calibrate
from quantize.deadline import NEVER, Deadline
from quantize.graph.layers import constants_of, layers, with_constants
from quantize.repair.channels import Moved, equalized
from quantize.repair.grids import activation_encodings
from quantize.repair.pixels import Grid, grid_of
from quantize.repair.stages import Stages, layer_means

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from quantize.plan import Encoding, Method, Statistics

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
    _plain: dict[Method, dict[str, Encoding]] = field(default_factory=dict)

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

    def plain_ranges(self, method: Method) -> dict[str, Encoding]:
        """Encodings of the activations as the method has them, none repaired.

        Exact ranges need no histograms: equalization does not change them.
        """
        if method not in self._plain:
            seen = self.bench.statistics if method == "minmax" else self._recounted
            self._plain[method] = activation_encodings(self.model, seen, method)
        return self._plain[method]

    @cached_property
    def best_ranges(self) -> dict[str, Encoding]:
        """Encodings of the activations, with the least squared error."""
        return activation_encodings(self.model, self._recounted, "mse", self.bench.images)

    @cached_property
    def _recounted(self) -> Statistics:
        """The statistics with new histograms of what has another scale; ranges stay."""
        bench = self.bench
        known, counted = bench.statistics, self.rescaled & bench.statistics.histograms.keys()
        if not counted:
            return known
        now = calibrate(self.model, [bench.few(_RECOUNTED)], threads=bench.threads).histograms
        fresh = {name: now[name] for name in counted if name in now}
        return replace(known, histograms={**known.histograms, **fresh})

    @property
    def rescaled(self) -> frozenset[str]:
        """Activations whose histograms are not those of the prepared model."""
        return frozenset(each.activation for each in self.moved)


def with_all_biases(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every Conv and Gemm has a bias, zero where it had none."""
    values = constants_of(model)
    missing = {
        layer.name: np.zeros(len(layer.matrix(values[layer.weight])), np.float32)
        for layer in layers(model)
        if layer.bias is None and layer.op_type != "MatMul"
    }
    return with_constants(model, {}, missing)
