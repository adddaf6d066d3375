"""One pass over the calibration images: what values does each tensor take?

A few images at a time go through the model; the tensors that it gives are looked at and dropped,
so that memory does not grow with the number of images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quantize.errors import ModelError
from quantize.graph.io import to_bytes
from quantize.graph.points import quantization_points
from quantize.graph.watch import Clipped, Fetched, LayerInput, Watch, watch
from quantize.histogram import Counter, clipped, every
from quantize.plan import Range, Statistics
from quantize.runtime import Session

if TYPE_CHECKING:
    import onnx

_MOST_IMAGES = 16
_MOST_VALUES = 1 << 22
"""How many values are held at once, unless one image has more."""

_CHUNK = 1 << 16
_MOST_ROWS = 1 << 12
"""How many values a float32 sum may have: more would cost digits."""


def calibrate(
    model: onnx.ModelProto, batches: Iterable[NDArray[np.float32]], *, threads: int
) -> Statistics:
    """Ranges of every float tensor, histograms of those that int8 rounds, means of layer inputs.

    Neither the batch size nor the number of threads changes any of it.

    Args:
        model: a prepared float model.
        batches: images float32 [N,C,H,W].
        threads: threads of the session.

    Returns:
        Exact ranges; histograms of all values of a tensor, or of an even share where it is large
        (`quantize.histogram.every`); means over all images and positions.

    Raises:
        ModelError: a tensor holds NaN or infinity on these images, or the model fails on them.
    """
    plan = watch(model)
    name = "the calibration graph"
    session = Session(to_bytes(plan.model), threads=threads, name=name, spin=False)
    seen = _Seen(plan, frozenset(quantization_points(model)))
    for batch in batches:
        for images, count in _pieces(session, batch, seen):
            values = dict(zip(session.outputs, session.run(images), strict=True))
            with np.errstate(invalid="ignore"):  # NaN is looked for, and reported
                seen.add(images, values, count)
    return seen.statistics()


def _pieces(
    session: Session, batch: NDArray[np.float32], seen: _Seen
) -> Iterator[tuple[NDArray[np.float32], int]]:
    """The batch as few images at a time, each piece with how many images of it count."""
    start = 0
    while start < len(batch):
        part = batch[start : start + (session.batch or seen.images_at_once)]
        start += len(part)
        for piece in session.pieces(part):
            yield piece, len(part)


class _Seen:
    """What was seen so far.

    Attributes:
        images_at_once: how many images may run together.
    """

    def __init__(self, plan: Watch, points: frozenset[str]) -> None:
        self.images_at_once = 1
        self._plan = plan
        self._points = points
        self._counter = Counter()
        counted = points | {of.source for name, of in plan.derived.items() if name in points}
        ways: dict[tuple[str, bool], set[Clipped]] = {}
        for reads in plan.inputs:
            ways.setdefault(_form(reads), set()).add(reads.values)
        self._tallies: dict[tuple[str, bool], _Tally] = {}
        for each in plan.fetched:
            form = each.tensor, each.channels_last
            again = (each.tensor, not each.channels_last) in self._tallies
            counter = self._counter if each.tensor in counted and not again else None
            self._tallies[form] = _Tally(each, counter, ways.get(form, set()))
        self._images = 0

    def add(
        self, images: NDArray[np.float32], values: dict[str, NDArray[np.float32]], count: int
    ) -> None:
        """Look at the first `count` images of one run; empties `values`."""
        size = 0
        for tally in self._tallies.values():
            output = tally.of.output
            value = np.atleast_1d(images if output is None else values.pop(output))
            if output is None and tally.of.channels_last:
                value = np.moveaxis(value, 1, -1)
            # What has no axis for the images counts whole, as one image.
            value = value[:count] if len(value) == len(images) else value[None]
            tally.add(np.ascontiguousarray(value))
            size += value.size
        self._images += count
        at_once = _MOST_VALUES * count // max(1, size)
        self.images_at_once = max(1, min(_MOST_IMAGES, at_once))

    def statistics(self) -> Statistics:
        """Everything, the derived tensors included."""
        if not self._images:
            return Statistics({}, 0)
        spans = {name: tally.span for (name, _), tally in self._tallies.items()}
        ranges, histograms = {}, {}
        for name in self._plan.tensors:
            of = self._plan.derived.get(name, Clipped(name))
            span = spans[of.source]
            ranges[name] = Range(of.clip(span.low), of.clip(span.high))
            if name in self._points:
                histograms[name] = clipped(self._counter.counts(of.source), of.low, of.high)
        means = {
            each.layer: self._tallies[_form(each)].mean(each.values) for each in self._plan.inputs
        }
        return Statistics(ranges, self._images, histograms, means)


def _form(reads: LayerInput) -> tuple[str, bool]:
    return reads.values.source, reads.channels_last


class _Tally:
    """What was seen of one fetched tensor.

    Args:
        of: the tensor.
        counter: counts its values, or None.
        ways: how layers read it.

    Attributes:
        span: its range so far.
    """

    def __init__(self, of: Fetched, counter: Counter | None, ways: set[Clipped]) -> None:
        self.of = of
        self.span = Range(math.inf, -math.inf)
        self._counter = counter
        self._sums: dict[Clipped, NDArray[np.float64]] = {way: np.zeros(1) for way in ways}
        self._rows = 0

    def add(self, value: NDArray[np.float32]) -> None:
        """Look at float32 [N,...,C], contiguous.

        In pieces that stay in the processor's cache: whole images, or a part of one. Sums of each
        piece are float32, those of several float64; so they do not depend on N.
        """
        rows = value.reshape(len(value), -1, value.shape[-1])
        images, positions, channels = rows.shape
        self._rows += images * positions
        at_once = max(1, min(_MOST_ROWS, _CHUNK // channels))
        whole = max(1, at_once // positions)
        for image in range(0, images, whole):
            some = rows[image : image + whole]
            for start in range(0, positions, at_once):
                self._look(some[:, start : start + at_once])
            if self._counter is not None:
                taken = some[:, :: every(positions, channels)]
                self._counter.add(self.of.tensor, taken.reshape(-1))

    def mean(self, way: Clipped) -> NDArray[np.float64]:
        """float64 [C]: over all rows."""
        return self._sums[way] / self._rows

    def _look(self, rows: NDArray[np.float32]) -> None:
        flat = rows.reshape(-1)
        low, high = float(flat.min()), float(flat.max())  # both NaN if anything is
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ModelError(
                f"tensor {self.of.tensor!r} is not finite on the calibration images",
                "check the preprocessing and the model's weights",
            )
        self.span = self.span.merge(Range(low, high))
        for way in self._sums:
            for total in _clip(rows, way).sum(axis=1):
                self._sums[way] = self._sums[way] + total


def _clip(values: NDArray[np.float32], way: Clipped) -> NDArray[np.float32]:
    if way.low > -math.inf:
        values = np.maximum(values, np.float32(way.low))
    return np.minimum(values, np.float32(way.high)) if way.high < math.inf else values
