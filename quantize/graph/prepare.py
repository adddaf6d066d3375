"""From whatever was exported to what the engines understand, on a working copy.

Opset >= 13 (per-channel QDQ needs it), no initializers among the inputs, constants and
BatchNormalization folded, batch axis free, every node named. What the graph computes stays the
same, and that is checked by running it before and after.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import onnx

from quantize.errors import ModelError
from quantize.graph import activations, fold, normalization, operands, padding
from quantize.graph.batch import TOLERANCE, Run, distance, free_batch, noise
from quantize.graph.fitness import check_fit
from quantize.graph.nodes import constants_out_of_inputs
from quantize.graph.order import sort_nodes
from quantize.graph.upgrade import to_opset
from quantize.graph.view import opset, refuse_quantized, signature

log = logging.getLogger(__name__)

TARGET_OPSET = 13
OLDEST_OPSET = 7
_LEAST_IR = 8


@dataclass(frozen=True, eq=False)
class Prepared:
    """A model that is ready to quantize.

    Attributes:
        model: the working copy.
        steps: what was changed, one line each.
        free_batch: whether it takes any batch size.
    """

    model: onnx.ModelProto
    steps: tuple[str, ...]
    free_batch: bool


def prepare(original: onnx.ModelProto, run: Run, size: tuple[int, int, int]) -> Prepared:
    """Make the working copy.

    Args:
        original: the float model; not changed.
        run: how to run a model, for the check.
        size: (C, H, W) of the images to check with.

    Returns:
        The copy, with the list of what was done to it.

    Raises:
        ModelError: quantized already, opset below 7, unfit as `check_fit` says, a conversion that
            fails, or a copy that does not compute what the original does.
    """
    refuse_quantized(original)
    model, steps = onnx.ModelProto(), []
    model.CopyFrom(original)
    sort_nodes(model.graph)
    steps += _inputs(model)
    model, upgraded = _upgrade(model)
    steps += upgraded
    steps += _simplify(model)
    batch = signature(model).batch
    if batch is not None:
        model, freed = free_batch(model, batch, run, size)
        steps += freed
    model = _infer_shapes(model)
    check_fit(model)
    steps += _convolve_norms(model)
    _check(original, model, run, size)
    for step in steps:
        log.info("prepare: %s", step)
    return Prepared(model, tuple(steps), signature(model).batch is None)


def _inputs(model: onnx.ModelProto) -> list[str]:
    dropped = constants_out_of_inputs(model.graph)
    model.ir_version = max(model.ir_version, _LEAST_IR)
    return [f"took {dropped} initializers out of the inputs"] if dropped else []


def _upgrade(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    version = opset(model)
    if version >= TARGET_OPSET:
        return model, []
    if version < OLDEST_OPSET:
        raise ModelError(
            f"the model has opset {version}, and onnxruntime runs {OLDEST_OPSET} or newer",
            "upgrade it first: quantize convert",
        )
    return to_opset(model, TARGET_OPSET), [f"converted opset {version} to {TARGET_OPSET}"]


def _simplify(model: onnx.ModelProto) -> list[str]:
    done = [
        (fold.sums(model), "spelled {} Sum as Add"),
        (_trim_optional_inputs(model), "removed {} empty optional inputs"),
        (fold.constants(model), "folded {} constant nodes"),
        (fold.identities(model), "removed {} Identity and Dropout nodes"),
        (fold.channel_factors(model), "folded {} Mul and Add into BatchNormalization"),
        (fold.batch_normalizations(model), "folded {} BatchNormalization into Conv"),
        (padding.into_windows(model), "folded {} Pad into Conv or MaxPool"),
        (padding.without_borders(model), "told {} AveragePool that they have no borders"),
        (activations.ahead(model), "moved {} Relu or Clip ahead of pooling and reshaping"),
        (operands.plain_gemms(model), "put alpha, beta or the form of {} Gemm into constants"),
        (operands.own_biases(model), "gave {} layers a bias of their own"),
        (_name_nodes(model), "named {} nodes"),
    ]
    fold.unused_initializers(model)
    return [text.format(count) for count, text in done if count]


def _convolve_norms(model: onnx.ModelProto) -> list[str]:
    turned = normalization.as_convolutions(model)
    if turned:
        fold.unused_initializers(model)
    return [f"turned {turned} BatchNormalization into Conv of 1x1"] if turned else []


def _trim_optional_inputs(model: onnx.ModelProto) -> int:
    """Trailing empty names mean "not given"; INC's QOperator writer breaks on them at Pad."""
    trimmed = 0
    for node in model.graph.node:
        while node.input and not node.input[-1]:
            del node.input[-1]
            trimmed += 1
    return trimmed


def _name_nodes(model: onnx.ModelProto) -> int:
    """Engines address nodes by name: every name exists, once."""
    taken: set[str] = set()
    named = 0
    declared = {node.name for node in model.graph.node}
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            name, tries = f"{node.op_type}_{index}", 0
            while name in declared or name in taken:
                tries += 1
                name = f"{node.op_type}_{index}_{tries}"
            node.name = name
            named += 1
        taken.add(node.name)
    return named


def _infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    del model.graph.value_info[:]
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:  # inference raises whatever its C++ side does
        raise ModelError(f"shapes cannot be inferred: {error}", "export the model again") from error


def _check(
    original: onnx.ModelProto, prepared: onnx.ModelProto, run: Run, size: tuple[int, int, int]
) -> None:
    images = noise(size, count=signature(original).batch or 2)
    before, after = run(original, images), run(prepared, images)
    if not np.isfinite(before).all():
        raise ModelError("the float model gives NaN or infinity", "check its weights")
    far = distance(before, after)
    if not far <= TOLERANCE:
        raise ModelError(
            f"preparing changed the model's outputs by {far:.2g} of their largest value",
            "please report this model's operators",
        )
