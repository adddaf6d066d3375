"""Running working copies once: for checks and for shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from quantize.errors import ModelError
from quantize.graph.apart import apart
from quantize.graph.expose import with_outputs
from quantize.graph.io import to_bytes
from quantize.graph.view import View, dims, signature
from quantize.runtime import Session

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

_MOST_ELEMENTS = 3 * 100_000_000


def run_once(model: onnx.ModelProto, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Load a model, predict, forget it: for checks of working copies."""
    return Session(to_bytes(model)).predict(images)


def shapes_of(
    model: onnx.ModelProto, names: list[str], size: tuple[int, int, int] | None = None
) -> dict[str, tuple[int, ...]]:
    """Shapes of the named tensors when one image runs through the model.

    Args:
        model: any classifier.
        names: of tensors.
        size: (C, H, W) of the image; None: what the model declares.

    Raises:
        ModelError: the model does not run.
    """
    light = apart(model)
    session = Session(
        to_bytes(with_outputs(light.model, names)), constants=light.constants, optimize=False
    )
    image = np.zeros((session.batch or 1, *(size or image_size(model))), np.float32)
    values = dict(zip(session.outputs, session.run(image), strict=True))
    return {name: (1, *values[name].shape[1:]) for name in names}


def image_size(model: onnx.ModelProto) -> tuple[int, int, int]:
    """(C, H, W) that the model declares; open sizes are taken as 3 channels and 224 pixels.

    Raises:
        ModelError: its first input is not [N,C,H,W], or too large for an image.
    """
    inputs = View(model.graph).inputs
    shape = dims(inputs[0]) if inputs else []
    if shape is None:
        shape = [None] * 4
    if len(shape) != 4:
        raise ModelError("the model is not an image classifier: its input is not [N,C,H,W]")
    channels, height, width = (
        given or usual for given, usual in zip(shape[1:], (3, 224, 224), strict=True)
    )
    if channels * height * width > _MOST_ELEMENTS:
        raise ModelError(f"the model takes images of {channels} x {height} x {width}, too large")
    return channels, height, width


def noise_image(model: onnx.ModelProto) -> NDArray[np.float32]:
    """One seeded noise image of the declared size, float32 [1,C,H,W]: time does not depend on it.

    Raises:
        ModelError: the model is no image classifier.
    """
    signature(model)
    return np.random.default_rng(0).standard_normal((1, *image_size(model)), dtype=np.float32)
