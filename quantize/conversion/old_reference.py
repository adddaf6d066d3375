"""What an ONNX file computes as it came, every tensor by name: the measure of its conversion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from quantize.conversion.imported import Reference
from quantize.conversion.old_operators import evaluate
from quantize.errors import ModelError
from quantize.graph.expose import with_outputs
from quantize.graph.io import to_bytes
from quantize.graph.nodes import attribute, drop
from quantize.graph.order import sort_nodes
from quantize.graph.view import QUANTIZED_OPS, View, opset
from quantize.runtime import Session

Values = Mapping[str, NDArray[Any]]
_Run = Callable[[NDArray[np.float32]], Values]

_OLDEST_RUN = 7
"""onnxruntime refuses older opsets."""


def reference(original: onnx.ModelProto, batch: int | None) -> Reference:
    """Run a model as it came: by onnxruntime, or below opset 7 by numpy.

    Args:
        original: any opset from 3 on; not changed.
        batch: how many images it takes at once, or None if any number.

    Returns:
        images float32 [N,C,H,W], any N -> the float32 tensors that depend on them, in the order
        in which they are computed. With a fixed batch those without a batch axis are left out.

    Raises:
        ModelError: the model does not load, now; or fails, when it runs.
    """
    run = _by_numpy(original) if opset(original) < _OLDEST_RUN else _by_runtime(original)

    def measured(images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        pieces = [_cut(run(piece), count) for piece, count in _pieces(images, batch)]
        names = [name for name in pieces[0] if all(name in piece for piece in pieces)]
        if len(pieces) == 1:
            return dict(pieces[0])
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in names}

    def _cut(values: Values, count: int) -> dict[str, NDArray[np.float32]]:
        real = {name: value for name, value in values.items() if value.dtype == np.float32}
        if batch is None:
            return real
        return {name: v[:count] for name, v in real.items() if v.ndim and len(v) == batch}

    return measured


def _pieces(
    images: NDArray[np.float32], batch: int | None
) -> list[tuple[NDArray[np.float32], int]]:
    """The images as the model takes them, the last repeated to fill; how many are wanted of it."""
    if batch is None:
        return [(images, len(images))]
    found = []
    for start in range(0, len(images), batch):
        piece = images[start : start + batch]
        filling = np.repeat(piece[-1:], batch - len(piece), axis=0)
        found.append((np.concatenate([piece, filling]), len(piece)))
    return found


def _by_runtime(original: onnx.ModelProto) -> _Run:
    """Every tensor as an output of onnxruntime; the declared ones alone where it refuses that.

    Those are enough of an int8 file, too: asked for all, the runtime fuses less, and rounds some
    halves to the other side.
    """
    runnable = onnx.ModelProto()
    runnable.CopyFrom(original)
    _ordinary_normalization(runnable.graph)
    int8 = any(node.op_type in QUANTIZED_OPS for node in runnable.graph.node)
    follows = [] if int8 else _follows(runnable.graph)
    try:
        session = Session(to_bytes(with_outputs(runnable, follows)), arena=False)
    except ModelError:
        session = Session(to_bytes(runnable), arena=False)
    order = {name: index for index, name in enumerate(follows)}

    def run(images: NDArray[np.float32]) -> Values:
        values = dict(zip(session.outputs, session.run(images), strict=True))
        return {name: values[name] for name in sorted(values, key=lambda n: order.get(n, -1))}

    return run


def _ordinary_normalization(graph: onnx.GraphProto) -> None:
    """spatial=0 with one parameter for each channel: runtimes refuse it, exporters meant 1."""
    view = View(graph)
    for node in graph.node:
        if node.op_type == "BatchNormalization" and attribute(node, "spatial", 1) == 0:
            scale = view.initializers.get(node.input[1])
            if scale is not None and len(scale.dims) == 1:
                drop(node, "spatial")


def _follows(graph: onnx.GraphProto) -> list[str]:
    """The tensors that depend on the input, in order; no masks of Dropout."""
    view = View(graph)
    known = {value.name for value in view.inputs}
    found = []
    for node in graph.node:
        if not known.isdisjoint(node.input):
            outputs = node.output[:1] if node.op_type == "Dropout" else node.output
            names = [name for name in outputs if name]
            known.update(names)
            found += names
    return found


def _by_numpy(original: onnx.ModelProto) -> _Run:
    """Node by node, as the graph says."""
    ordered = onnx.ModelProto()
    ordered.CopyFrom(original)
    sort_nodes(ordered.graph)
    view = View(ordered.graph)
    constants = {name: numpy_helper.to_array(t) for name, t in view.initializers.items()}
    follows = set(_follows(ordered.graph))
    _check_single(ordered.graph)

    def run(images: NDArray[np.float32]) -> Values:
        values: dict[str, NDArray[Any]] = {**constants, view.inputs[0].name: images}
        made = {}
        for node in ordered.graph.node:
            lost = next((name for name in node.input if name and name not in values), None)
            if lost is not None:
                raise ModelError(f"the model reads {lost!r}, which nothing makes")
            value = evaluate(node, [values[name] for name in node.input if name])
            values[node.output[0]] = value
            if node.output[0] in follows:
                made[node.output[0]] = value
        return made

    return run


def _check_single(graph: onnx.GraphProto) -> None:
    counts = Counter(name for node in graph.node for name in node.output if name)
    twice = next((name for name, count in counts.items() if count > 1), None)
    if twice is not None or not all(node.output for node in graph.node):
        raise ModelError(f"the model makes {twice or 'nothing'!r} in two places")
