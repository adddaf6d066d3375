"""`--with-preprocessing`: a file that takes an image as decoded, and the proof that it does."""

from __future__ import annotations

import numpy as np
import onnx

from quantize.bundle.front import with_preprocessing
from quantize.conversion.pictures import FEW, Pictures, Size, grey_level, steps_of
from quantize.conversion.proof import Check, agreement
from quantize.data.transforms import Pipeline
from quantize.errors import BundleError, ConversionError, ModelError
from quantize.graph.expose import with_outputs
from quantize.graph.io import to_bytes
from quantize.graph.view import View, opset
from quantize.runtime import Session, cores

_STEP = "with preprocessing"
_OLDEST = 13
_ROUNDING = 1.001
_MOST_LEVELS = 2
_WITHIN_ONE = 0.999
"""Share of values. Pillow rounds twice, in fixed point: where both are ties, it adds up to two."""


def with_front(model: onnx.ModelProto, recipe: Pipeline, size: Size) -> onnx.ModelProto:
    """A copy that takes one uint8 [height,width,3] RGB image.

    Args:
        model: takes float32 [N,C,H,W].
        recipe: how images are prepared.
        size: (C, H, W).

    Raises:
        ModelError: the preprocessing has no operators, or the model takes no float32 or is older
            than they are.
    """
    kind = View(model.graph).inputs[0].type.tensor_type.elem_type
    if opset(model) < _OLDEST:
        raise ModelError(
            f"preprocessing needs operators of opset {_OLDEST}, not {opset(model)}",
            f"give --opset {_OLDEST} or newer, or drop --with-preprocessing",
        )
    if kind != onnx.TensorProto.FLOAT:
        raise ModelError("preprocessing gives float32 images", "drop --float16-io")
    try:
        return with_preprocessing(model, steps_of(recipe), size)
    except BundleError as error:
        raise ModelError(error.message, "drop --with-preprocessing") from error


def prove_front(
    model: onnx.ModelProto, joined: onnx.ModelProto, recipe: Pipeline, pictures: Pictures
) -> Check:
    """Show that images arrive as our own preprocessing prepares them.

    Args:
        model: takes prepared images.
        joined: the same with the operators in front.
        recipe: what they stand for.
        pictures: the images.

    Raises:
        ConversionError: pixels are off by more than one grey level, but for a few by two.
    """
    data, output = View(model.graph).inputs[0].name, model.graph.output[0].name
    exposed = Session(to_bytes(with_outputs(joined, [data])), threads=cores(), name=_STEP)
    plain = Session(to_bytes(model), threads=cores())
    off, answers = [], []
    for image in pictures.decoded[:FEW]:
        values = dict(zip(exposed.outputs, exposed.run(image), strict=True))  # type: ignore[arg-type]
        prepared = recipe(image)
        level = np.maximum(grey_level(recipe, image), np.finfo(np.float32).tiny)
        off.append(np.abs(values[data][0] - prepared) / level)
        own = dict(zip(plain.outputs, plain.run(prepared[None]), strict=True))
        answers.append(agreement(own[output], values[output]))
    worst, near = float(np.max(off)), float(np.mean(np.less_equal(off, _ROUNDING)))
    if not (worst <= _MOST_LEVELS * _ROUNDING and near >= _WITHIN_ONE):
        raise ConversionError(
            f"{_STEP}: the first layer that differs is the image {data!r}, by {worst:.2g} grey"
            " levels",
            "nothing was written; please report this preprocessing",
        )
    note = f"{100 * near:.2f} % of the pixels within one grey level, all within {worst:.2f}"
    return Check(_STEP, len(answers), None, float(np.mean(answers)), note=note)
