"""What every importer hands over: the ONNX model, and the source's own arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

Tensors = Mapping[str, NDArray[np.float32]]
"""Tensor name -> value, in the order in which they are computed."""

Reference = Callable[[NDArray[np.float32]], Tensors]
"""images float32 [N,C,H,W] -> the outputs, and as many tensors on the way as it can name."""


@dataclass(frozen=True, eq=False)
class Imported:
    """A model as it came in.

    Attributes:
        model: ONNX of opset 13 or newer, float32, with the batch axis free where the source
            allows it.
        reference: what the source computes, worked out from the source's own graph and never from
            `model`. It names a tensor as `model` does, so that the first that differs can be told.
        steps: what was done to it on the way in, one line each.
    """

    model: onnx.ModelProto
    reference: Reference
    steps: tuple[str, ...]
