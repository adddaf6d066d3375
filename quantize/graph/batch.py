"""The batch axis: opening one that the file fixes, where each image is computed by itself."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray

from quantize.errors import ModelError
from quantize.graph.nodes import add_constant
from quantize.graph.view import View, dims

Run = Callable[[onnx.ModelProto, NDArray[np.float32]], NDArray[np.float32]]
"""Runs a model: (model, images float32 [N,C,H,W]) -> scores float32 [N,K]."""

TOLERANCE = 1e-3
"""Of the largest score: how far rounding may move the scores when a graph is rewritten."""

_MOST_ELEMENTS = 1 << 29
"""Of the images for the check: a file may declare any batch."""


def fixed_batch(model: onnx.ModelProto) -> int | None:
    """The batch size that the graph takes, or None where it takes any.

    The input's declaration says it; but a Reshape to [1, K] fixes it as well, and the model zoo
    has files that declare a free batch all the same.
    """
    view = View(model.graph)
    declared = dims(view.inputs[0]) if view.inputs else None
    if declared and declared[0] is not None:
        return declared[0]
    leading = {int(shape[0]) for shape in _shapes(view) if shape[0] > 0}
    return leading.pop() if len(leading) == 1 else None


def free_batch(
    model: onnx.ModelProto, batch: int, run: Run, size: tuple[int, int, int]
) -> tuple[onnx.ModelProto, list[str]]:
    """Open the batch axis, if the graph then computes each image by itself, and one alone.

    Args:
        model: takes `batch` images; not changed.
        batch: how many.
        run: how to run a model, for the check.
        size: (C, H, W) of the images to check with.

    Returns:
        The model with a free batch, or `model` itself, and what was done, one line.
    """
    if 2 * batch * math.prod(size) > _MOST_ELEMENTS:
        return model, [f"kept the fixed batch of {batch}"]
    freed = onnx.ModelProto()
    freed.CopyFrom(model)
    for value in (*View(freed.graph).inputs, *freed.graph.output):
        shape = value.type.tensor_type.shape
        if shape.dim:
            shape.dim[0].dim_param = "N"
    del freed.graph.value_info[:]
    _free_reshapes(freed, batch)
    images = noise(size, count=2 * batch)
    try:
        apart = np.concatenate([run(model, images[:batch]), run(model, images[batch:])])
        freely = np.concatenate([run(freed, images), run(freed, images[:1])])
    except (ModelError, ValueError):  # scores of unequal width do not concatenate
        return model, [f"kept the fixed batch of {batch}"]
    if not distance(np.concatenate([apart, apart[:1]]), freely) <= TOLERANCE:
        return model, [f"kept the fixed batch of {batch}"]
    return freed, [f"freed the batch axis, fixed to {batch} before"]


def noise(size: tuple[int, int, int], count: int) -> NDArray[np.float32]:
    """Seeded images, float32 [count,C,H,W]."""
    return np.random.default_rng(0).standard_normal((count, *size), dtype=np.float32)


def distance(reference: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Largest |other - reference| over largest |reference|; NaN and other shapes are far."""
    if other.shape != reference.shape or not np.isfinite(other).all():
        return math.inf
    largest = float(np.abs(reference).max()) or 1.0
    return float(np.abs(other - reference).max()) / largest


def _shapes(view: View) -> list[NDArray[np.generic]]:
    """The constant shapes, of two axes or more, that images are reshaped to."""
    given = [view.constant(node.input[1]) for node in _reshaping(view)]
    return [shape for shape in given if shape is not None and shape.ndim == 1 and shape.size > 1]


def _reshaping(view: View) -> list[onnx.NodeProto]:
    """The Reshape nodes whose data follows from the input: weights have no batch."""
    follows = {value.name for value in view.inputs}
    found = []
    for node in view.graph.node:
        if follows.isdisjoint(node.input):
            continue
        follows.update(node.output)
        if node.op_type == "Reshape" and len(node.input) > 1 and node.input[0] in follows:
            found.append(node)
    return found


def _free_reshapes(model: onnx.ModelProto, batch: int) -> None:
    """Reshape to [batch, ...] becomes Reshape to [0, ...], where 0 copies the input's axis."""
    view = View(model.graph)
    for node in _reshaping(view):
        target = view.constant(node.input[1])
        if target is None or target.ndim != 1 or target.size < 2 or int(target[0]) != batch:
            continue
        freed = target.copy()
        freed[0] = 0
        stem = f"{node.input[1]}.free.{node.name or node.output[0]}"
        node.input[1] = add_constant(model.graph, stem, freed)
