"""ONNX of any age comes in: opset 3 to the newest, with the oddities of its time."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from quantize.conversion.down import downgrade, lift_constants
from quantize.conversion.imported import Imported, Reference
from quantize.conversion.old_attributes import OLDEST, to_seven
from quantize.conversion.old_attributes import TARGET as SEVEN
from quantize.conversion.old_reference import reference
from quantize.errors import ModelError
from quantize.graph import io
from quantize.graph.batch import fixed_batch, free_batch
from quantize.graph.nodes import constants_out_of_inputs
from quantize.graph.order import sort_nodes
from quantize.graph.upgrade import check_operators, settle_spatial, to_opset
from quantize.graph.view import MOST_BATCH, View, dims, opset
from quantize.probe import image_size
from quantize.runtime import Session

__all__ = ["NEWEST_DEFAULT", "downgrade", "import_onnx", "upgrade"]

log = logging.getLogger(__name__)

NEWEST_DEFAULT = 13
"""What older files become: the first opset whose int8 weights have a scale for each channel."""

_LEAST_IR = 8


def import_onnx(path: Path) -> Imported:
    """Read an ONNX classifier of any age.

    Args:
        path: the file; external data beside it.

    Returns:
        The model with opset 13 or newer, no constants among its inputs and a free batch axis
        where each image is computed by itself; what the file computes as it came; the steps.

    Raises:
        ModelError: not an ONNX file, no single float32 [N,C,H,W] input, an opset below 3, or an
            operator that has no newer form: names it.
    """
    original = io.load(path)
    _check_input(original, path)
    model, steps = upgrade(original)
    batch = fixed_batch(model)
    if batch is not None and batch > MOST_BATCH:
        raise ModelError(
            f"model {path} takes {batch} images at once", "export it with a free batch axis"
        )
    measured = reference(original, batch)
    if batch is not None:
        model, freed = free_batch(model, batch, _Runs(model, measured), image_size(model))
        steps = (*steps, *freed)
    for step in steps:
        log.info("import: %s", step)
    return Imported(model, measured, steps)


def upgrade(
    original: onnx.ModelProto, target: int = NEWEST_DEFAULT
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The model in opset `target` or, where it is newer, in its own, and what was done, by lines.

    Args:
        original: any opset from 3 on; not changed.
        target: the opset wanted.

    Raises:
        ModelError: an opset below 3, or an operator that has no newer form: names it.
    """
    version = opset(original)
    if version < OLDEST:
        raise ModelError(
            f"the model has opset {version}, and what it means is known from {OLDEST} on",
            "export it again with opset 13 or newer",
        )
    if version < target:
        check_operators(original, target)
    model, steps = onnx.ModelProto(), []
    model.CopyFrom(original)
    sort_nodes(model.graph)
    _drop_masks(model.graph)
    dropped = constants_out_of_inputs(model.graph)
    if dropped:
        steps.append(f"took {dropped} initializers out of the inputs")
    model.ir_version = max(model.ir_version, _LEAST_IR)
    if version < SEVEN:
        to_seven(model)
    settled = settle_spatial(model)
    if settled:
        steps.append(f"rewrote {settled} BatchNormalization with spatial=0")
    if version < target:
        model = to_opset(model, target)
        lift_constants(model.graph)
        least = onnx.helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True)
        model.ir_version = max(model.ir_version, least)
        steps.append(f"converted opset {version} to {target}")
    _check(model)
    return model, tuple(steps)


def _drop_masks(graph: onnx.GraphProto) -> None:
    """Dropout names a mask that nobody reads, and was of another type in each age."""
    view = View(graph)
    for node in graph.node:
        if node.op_type == "Dropout" and not any(
            name in view.consumers or name in view.outputs or name in view.captured
            for name in node.output[1:]
        ):
            del node.output[1:]


def _check(model: onnx.ModelProto) -> None:
    """What comes out is valid: a file may pass every step and still mean nothing."""
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the checker has its own exceptions, and its C++ side others
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"the model is not valid ONNX: {line}", "fetch or export it again"
        ) from error


def _check_input(model: onnx.ModelProto, path: Path) -> None:
    inputs = View(model.graph).inputs
    shape = dims(inputs[0]) if len(inputs) == 1 else None
    kind = inputs[0].type.tensor_type.elem_type if inputs else None
    if shape is None or len(shape) != 4 or kind != onnx.TensorProto.FLOAT:
        raise ModelError(
            f"model {path} is not an image classifier: it has no single float32 input [N,C,H,W]",
            "export the classifier with one image input",
        )


class _Runs:
    """Runs what came in by its own reference, and the one model that was made of it.

    Args:
        model: as upgraded, computing what came in.
        measured: what came in computes.
    """

    def __init__(self, model: onnx.ModelProto, measured: Reference) -> None:
        self._model, self._measured = model, measured
        self._other: Session | None = None

    def __call__(self, model: onnx.ModelProto, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """The first output, flat for each image: some classifiers give [N,K,1,1].

        Raises:
            ModelError: the model fails, or gives no answer for each image.
        """
        if model is self._model:
            scores = self._measured(images).get(model.graph.output[0].name)
        else:  # a session takes seconds where weights are large
            self._other = self._other or Session(io.to_bytes(model), arena=False)
            scores = self._other.run(images)[0]
        if scores is None or scores.ndim == 0 or len(scores) != len(images):
            raise ModelError("the model does not give one answer for each image")
        return scores.reshape(len(images), -1)
