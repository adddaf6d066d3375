"""Which layers lose most: one row per layer with weights, each measured by itself.

"By itself" means that one layer alone computes with what the int8 file holds (its integers times
scale, its bias, its input rounded to the int8 file's grid) while all else stays float.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from quantize.evaluation import sqnr_db
from quantize.graph.apart import Apart, apart
from quantize.graph.coverage import Coverage, coverage
from quantize.graph.expose import with_outputs
from quantize.graph.head import expose_logits
from quantize.graph.io import to_bytes
from quantize.graph.rounded import Rounded, rounded_layers, rows_of
from quantize.graph.variants import with_variants
from quantize.graph.view import View
from quantize.histogram import EDGES
from quantize.plan import LayerRow, OnProgress, Progress, Statistics
from quantize.probe import shapes_of
from quantize.runtime import Session

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

_MOST_AT_ONCE = 8
_MOST_BYTES = 1 << 30
"""How many layers one session measures, and how much as many models as layers may hold.

What onnxruntime fuses hangs on how many there are, and with it the last digits of a row.
"""

_MOST_VALUES = 1 << 16
"""Of the images that go through a model together: of small ones several read a weight once."""


def layer_table(
    model: onnx.ModelProto,
    int8_model: onnx.ModelProto,
    images: NDArray[np.float32],
    statistics: Statistics | None = None,
    *,
    threads: int = 1,
    expired: Callable[[], bool] = lambda: False,
    on_progress: OnProgress | None = None,
) -> tuple[LayerRow, ...]:
    """One row per layer with weights, in graph order.

    A layer alone is seen in the scores, so that all nodes behind it are copied for it, and run
    once more on every image: with the depth this grows as layers times nodes, and so does its
    time. Whoever calls bounds it by the number of images. All else grows with the nodes.

    Args:
        model: the float model whose weights were rounded: prepared, and equalized if they were.
        int8_model: the int8 file, QDQ or QOperator.
        images: float32 [N,C,H,W], a few; none leaves the SQNR out.
        statistics: of `model` over the calibration images. Where it has no histogram of a layer's
            input, the values that are cut off are counted on `images`.
        threads: of each session.
        expired: asked every few layers and images; once it says yes, the layers that are not
            done have no SQNR.
        on_progress: told every few layers.

    Returns:
        The rows; equal inputs give equal numbers, whatever the number of threads.

    Raises:
        ModelError: a model does not run on these images.
    """
    size: tuple[int, int, int] = images.shape[1:]  # type: ignore[assignment]
    seen = coverage(model, lambda names: shapes_of(model, names, size))
    held = rounded_layers(model, int8_model)
    reads = {node.name: node.input[0] for node in model.graph.node if node.name in held}
    known = statistics or Statistics({}, 0)
    told = {name: read for name, read in reads.items() if read in known.histograms}
    counted = {name: read for name, read in reads.items() if name not in told}
    measured: dict[str, _Sums] = {}
    light = apart(model)
    light = replace(light, model=expose_logits(light.model))
    for some in _groups(held, light) if len(images) else ():
        if expired():
            break
        measured |= _measured(light, some, images, counted, threads, expired)
        if on_progress:
            on_progress(Progress("layers", len(measured), len(held), "layers"))
    cut = {name: sums.saturation for name, sums in measured.items()}
    cut |= {name: cut_off(held[name].limits, read, known) for name, read in told.items()}
    ints = _on_integers(int8_model, size)
    nodes = {layer.name: layer.name for layer in seen.layers}
    nodes |= {name: layer.node for name, layer in held.items()}
    int8 = {name: node in ints for name, node in nodes.items()}
    return _rows(seen, int8, measured, cut, weight_range_ratios(model))


def _rows(
    seen: Coverage,
    int8: Mapping[str, bool],
    measured: Mapping[str, _Sums],
    cut: Mapping[str, float | None],
    ratios: Mapping[str, float],
) -> tuple[LayerRow, ...]:
    """All that is known of each layer, by its name, as one row."""
    shares = _noise_shares(measured)
    whole = max(1, sum(layer.multiply_adds for layer in seen.layers))
    return tuple(
        LayerRow(
            name=layer.name,
            operator=layer.op_type,
            int8=int8[layer.name],
            multiply_add_share=layer.multiply_adds / whole,
            sqnr_db=measured[layer.name].sqnr_db if layer.name in measured else None,
            noise_share=shares.get(layer.name),
            weight_range_ratio=ratios.get(layer.name),
            saturation=cut.get(layer.name),
        )
        for layer in seen.layers
    )


def cut_off(limits: tuple[float, float], tensor: str, seen: Statistics) -> float:
    """Share of a tensor's values outside two limits, by its histogram (a ratio).

    Within the bin that a limit divides, values count as spread evenly; no bin reaches beyond the
    exact range, so that a grid that holds the range cuts nothing off.
    """
    counts, span = seen.histograms[tensor], seen.ranges[tensor]
    low = np.clip(EDGES[:-1], span.low, span.high)
    high = np.clip(EDGES[1:], span.low, span.high)
    inside = np.clip(high, *limits) - np.clip(low, *limits)
    width = high - low
    beyond = ((low < limits[0]) | (low > limits[1])).astype(np.float64)
    cut = 1 - np.divide(inside, width, out=1 - beyond, where=width > 0)
    return math.fsum(counts * cut) / max(1, int(counts.sum()))


def weight_range_ratios(model: onnx.ModelProto) -> dict[str, float]:
    """Layer -> largest over smallest max|w| of its output channels, those of zeros left out."""
    view = View(model.graph)
    ratios: dict[str, float] = {}
    for node in model.graph.node:
        weight = (
            view.constant(node.input[1]) if node.op_type in ("Conv", "Gemm", "MatMul") else None
        )
        if weight is None or weight.ndim < 2:
            continue
        peaks = np.abs(rows_of(node, np.asarray(weight, np.float32))).max(axis=1)
        live = peaks[peaks > 0]
        if live.size:
            ratios[node.name] = float(live.max()) / float(live.min())
    return ratios


@dataclass
class _Sums:
    """What was seen of one layer: powers of all scores, values of its input."""

    signal: float = 0.0
    noise: float = 0.0
    cut: int = 0
    values: int = 0

    def add_scores(self, exact: NDArray[np.float32], seen: NDArray[np.float32]) -> None:
        """Scores of one image, without and with the layer rounded."""
        whole = exact.astype(np.float64)
        difference = whole - seen.astype(np.float64)
        self.signal += float((whole * whole).sum())
        self.noise += float((difference * difference).sum())

    def add_input(self, seen: NDArray[np.float32], limits: tuple[float, float]) -> None:
        """What the layer reads of one image."""
        self.cut += int(np.count_nonzero((seen < limits[0]) | (seen > limits[1])))
        self.values += seen.size

    @property
    def sqnr_db(self) -> float:
        return sqnr_db(self.signal, self.noise)

    @property
    def saturation(self) -> float | None:
        return self.cut / self.values if self.values else None


def _noise_shares(measured: Mapping[str, _Sums]) -> dict[str, float]:
    """Each layer's part of all noise power; a layer without finite scores has none."""
    finite = {name: sums.noise for name, sums in measured.items() if math.isfinite(sums.noise)}
    total = math.fsum(finite.values())
    return {name: noise / total if total > 0 else 0.0 for name, noise in finite.items()}


def _groups(held: Mapping[str, Rounded], model: Apart) -> Iterator[dict[str, Rounded]]:
    """The layers, so many at a time as one session holds."""
    at_once = max(1, min(_MOST_AT_ONCE, _MOST_BYTES // max(1, model.size)))
    names = iter(held)
    while some := list(islice(names, at_once)):
        yield {name: held[name] for name in some}


def _measured(
    model: Apart,
    layers: Mapping[str, Rounded],
    images: NDArray[np.float32],
    counted: Mapping[str, str],
    threads: int,
    expired: Callable[[], bool],
) -> dict[str, _Sums]:
    """Run float and the layers' variants side by side, a few images at a time.

    Args:
        model: the float model, its scores logits.
        layers: to round, one in each variant.
        images: float32 [N,C,H,W].
        counted: layers whose input's values are held against its limits -> that input.
        threads: of the session.
        expired: once it says yes, nothing is known of these layers.
    """
    exact = model.model.graph.output[0].name
    session, outputs = _session(model, layers, counted, threads)
    sums = {name: _Sums() for name in outputs}
    at_once = session.batch or max(1, _MOST_VALUES // images[0].size)
    for start in range(0, len(images), at_once):
        if start and expired():
            return {}
        some = images[start : start + at_once]
        piece = next(session.pieces(some))
        values = dict(zip(session.outputs, session.run(piece), strict=True))
        for index in range(len(some)):
            for name, output in outputs.items():
                sums[name].add_scores(values[exact][index], values[output][index])
            for name in counted.keys() & sums.keys():
                seen = values.get(counted[name], piece)[index]
                sums[name].add_input(seen, layers[name].limits)
    return sums


def _session(
    model: Apart, layers: Mapping[str, Rounded], counted: Mapping[str, str], threads: int
) -> tuple[Session, dict[str, str]]:
    """The model with the layers' variants, loaded, and layer -> output of its variant."""
    copy, outputs = with_variants(model, layers)
    made = View(model.model.graph).producers
    wanted = [counted[name] for name in layers if counted.get(name) in made]
    session = Session(
        to_bytes(with_outputs(copy.model, wanted)),
        constants=copy.constants,
        threads=threads,
        name="the layer table's graph",
        spin=False,
    )
    return session, outputs


def _on_integers(int8_model: onnx.ModelProto, size: tuple[int, int, int]) -> frozenset[str]:
    """Names of the int8 file's nodes that compute on integers."""
    seen = coverage(int8_model, lambda names: shapes_of(int8_model, names, size))
    return frozenset(layer.name for layer in seen.layers if layer.int8)
