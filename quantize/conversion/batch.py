"""`--batch`: the number of images that the file declares to take at once."""

from __future__ import annotations

from typing import Literal

import onnx

from quantize.errors import ModelError
from quantize.graph.view import MOST_BATCH, View, dims

Batch = int | Literal["free"]

FREE = "N"
"""Name of the axis where any number of images is taken."""


def with_batch(model: onnx.ModelProto, batch: Batch) -> onnx.ModelProto:
    """A copy that declares this batch.

    Args:
        model: as it was imported: its batch is free wherever the source allows it.
        batch: how many images, or `free`.

    Raises:
        ModelError: the graph works for another fixed batch alone, or the number is none.
    """
    if batch != "free" and not 1 <= batch <= MOST_BATCH:
        raise ModelError(f"a batch of {batch} is not from 1 to {MOST_BATCH}", "give another")
    view = View(model.graph)
    declared = (dims(view.inputs[0]) or [None])[0]
    if declared is not None and declared != batch:
        raise ModelError(
            f"the graph computes {declared} images at once and no other number", "drop --batch"
        )
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in (*View(copy.graph).inputs, *copy.graph.output):
        declare_batch(value, batch)
    del copy.graph.value_info[:]  # they declare the batch, too
    return copy


def declare_batch(value: onnx.ValueInfoProto, batch: Batch) -> None:
    """Set the first axis of an input or output, where its shape is known."""
    shape = value.type.tensor_type.shape
    if not shape.dim:
        return
    if batch == "free":
        shape.dim[0].dim_param = FREE
    else:
        shape.dim[0].dim_value = batch
