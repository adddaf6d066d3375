"""One pass over the calibration images: what values does each tensor take?

Minimum and maximum are computed inside the graph, so that memory does not grow with the number
of images and no tensor is copied out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from quantize.errors import ModelError
from quantize.graph.expose import float_tensors, high_of, low_of, sum_of, with_extremes
from quantize.graph.io import to_bytes
from quantize.plan import Range, Statistics
from quantize.runtime import Session

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    import onnx
    from numpy.typing import NDArray


def calibrate(
    model: onnx.ModelProto, batches: Iterable[NDArray[np.float32]], *, threads: int
) -> Statistics:
    """Exact ranges of every float tensor that a node makes, and of the input.

    Args:
        model: a prepared float model.
        batches: images float32 [N,C,H,W].
        threads: threads of the session.

    Returns:
        The ranges over all images.

    Raises:
        ModelError: a tensor holds NaN or infinity on these images, or the model fails on them.
    """
    tensors = float_tensors(model)
    session = Session(
        to_bytes(with_extremes(model, tensors)), threads=threads, name="the calibration graph"
    )
    ranges: dict[str, Range] = {}
    images = 0
    for batch in batches:
        images += len(batch)
        for piece in session.pieces(batch):
            values = dict(zip(session.outputs, session.run(piece), strict=True))
            for index, name in enumerate(tensors):
                low, high, total = (
                    float(values[scalar(index)]) for scalar in (low_of, high_of, sum_of)
                )
                seen = _seen(name, low, high, total)
                ranges[name] = ranges[name].merge(seen) if name in ranges else seen
    return Statistics(ranges, images)


def _seen(name: str, low: float, high: float, total: float) -> Range:
    if not all(map(math.isfinite, (low, high, total))):
        raise ModelError(
            f"tensor {name!r} is not finite on the calibration images",
            "check the preprocessing and the model's weights",
        )
    return Range(low, high)
