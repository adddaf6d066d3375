"""`--image-size`: another height and width, where the graph allows them.

Weights of a convolutional classifier with global pooling know nothing of the image's size; a fixed
pooling window or a constant shape does. What allows it is found out by running it.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from quantize.conversion.imported import Reference
from quantize.conversion.proof import EXACT, Check, Runner, agreement, distance, prove
from quantize.errors import ConversionError, ModelError, QuantizeError
from quantize.graph.view import View

LEAST = 224
MOST = 4096

Sides = tuple[int, int]
"""(height, width) in pixels."""


def check_sides(sides: Sides) -> None:
    """Raise ModelError unless both sides are from `LEAST` to `MOST`."""
    if not all(LEAST <= side <= MOST for side in sides):
        raise ModelError(
            f"an image size of {sides[0]}x{sides[1]} is not from {LEAST} to {MOST}",
            f"these networks need {LEAST} pixels or more each way",
        )


def with_size(model: onnx.ModelProto, sides: Sides) -> onnx.ModelProto:
    """A copy that declares this height and width; whether it computes them is not looked at."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    shape = View(copy.graph).inputs[0].type.tensor_type.shape
    for axis, side in zip(shape.dim[2:], sides, strict=True):
        axis.dim_value = side
    del copy.graph.value_info[:]  # they follow from the old size
    return copy


def prove_size(
    source: Reference,
    model: onnx.ModelProto,
    images: NDArray[np.float32],
    resized: NDArray[np.float32],
) -> Check:
    """Show that a model with another size is still the same network.

    Args:
        source: what the model was made from, perhaps for the old size alone.
        model: declares the new size.
        images: float32 [N,C,H,W] of the old size.
        resized: float32 [N,C,H',W'] of the new one.

    Raises:
        ConversionError: at the old size it computes something else, or at the new one its images
            change each other's scores.
        ModelError: the graph does not allow the new size; says why.
    """
    old = with_size(model, (images.shape[2], images.shape[3]))
    prove("image size", source, old, images, EXACT)
    output = model.graph.output[0].name
    try:
        run = Runner(model, [output])
        together = run(resized)[output]
        alone = np.concatenate([run(one[None])[output] for one in resized])
    except ModelError as error:
        raise _refused(resized, error.message) from error
    classes = Runner(old, [output])(images[:1])[output].shape[1:]
    if together.shape != (len(resized), *classes):
        raise _refused(resized, f"{len(resized)} images give scores {list(together.shape)}")
    far = distance(alone, together)
    if far > EXACT.tolerance:
        raise ConversionError(
            f"image size: an image's scores change with its neighbours, by {far:.2g}",
            "nothing was written; keep the size that the model declares",
        )
    try:
        return prove("image size", source, model, resized, EXACT)
    except ConversionError:
        raise
    except QuantizeError:  # a file that declares its size takes no other
        note = "compared with the source at its own size, the only one that it takes"
        return Check("image size", len(resized), None, agreement(alone, together), note=note)


def _refused(images: NDArray[np.float32], why: str) -> ModelError:
    height, width = images.shape[2:]
    return ModelError(
        f"the graph does not allow {height}x{width} images: {why}",
        "keep the size that the model declares",
    )
