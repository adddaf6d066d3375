"""Pad before a Conv or MaxPool that could pad by itself, as TensorFlow's exporters write it.

One operator less; and where the borders are the least number there is, so that no maximum lies in
them, 256 levels from there on would hold nothing of the image.
"""

from __future__ import annotations

import numpy as np
import onnx

from quantize.graph.nodes import attribute, drop, give, replace_nodes
from quantize.graph.view import View

_LEAST = -1e30
"""Below it a border is meant as minus infinity."""


def into_windows(model: onnx.ModelProto) -> int:
    """Fold constant borders of height and width into what alone reads them.

    Zeros into a Conv, numbers below any value into a MaxPool; edits in place.

    Args:
        model: opset 11 or newer.

    Returns:
        How many Pad are gone.
    """
    view = View(model.graph)
    gone = [index for index, pad in enumerate(model.graph.node) if _fold(view, pad)]
    if gone:
        kept = [node for i, node in enumerate(model.graph.node) if i not in set(gone)]
        replace_nodes(model.graph, kept)
    return len(gone)


def without_borders(model: onnx.ModelProto) -> int:
    """Drop what an AveragePool without borders says about them; edits in place.

    onnxruntime's int8 form takes a window that reaches over the end (`ceil_mode`) for one of
    borders, and divides by too much.

    Returns:
        How many were told.
    """
    told = 0
    for node in model.graph.node:
        if node.op_type != "AveragePool" or not attribute(node, "count_include_pad", 0):
            continue
        fixed = attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID")
        if fixed and not any(attribute(node, "pads") or ()):
            drop(node, "count_include_pad")
            told += 1
    return told


def _fold(view: View, pad: onnx.NodeProto) -> bool:
    """Move the borders of one Pad into its reader; whether that was possible."""
    borders = _borders(view, pad)
    window = view.only_reader(pad.output[0]) if borders else None
    if borders is None or window is None or list(window.input).count(pad.output[0]) != 1:
        return False
    if window.input[0] != pad.output[0] or not _takes(view, window, _value(view, pad), borders):
        return False
    own = attribute(window, "pads") or [0, 0, 0, 0]
    drop(window, "auto_pad")
    give(window, pads=[a + b for a, b in zip(own, borders, strict=True)])
    window.input[0] = pad.input[0]
    return True


def _borders(view: View, pad: onnx.NodeProto) -> tuple[int, int, int, int] | None:
    """(top, left, bottom, right) of [N,C,H,W], where nothing else is padded, or cut off."""
    if pad.op_type != "Pad" or attribute(pad, "mode", "constant") != "constant":
        return None
    given = [view.constant(name) for name in pad.input[1:2]]
    if pad.input[3:] or not given or given[0] is None or given[0].size != 2 * 4:
        return None
    values = [int(value) for value in given[0].reshape(-1)]
    if any(values[:2] + values[4:6]) or min(values) < 0:
        return None
    return values[2], values[3], values[6], values[7]


def _value(view: View, pad: onnx.NodeProto) -> float | None:
    """What the borders hold, or None where that is no constant."""
    if not any(pad.input[2:3]):
        return 0.0
    value = view.constant(pad.input[2])
    return None if value is None or value.size != 1 else float(np.asarray(value).reshape(()))


def _takes(
    view: View, window: onnx.NodeProto, value: float | None, borders: tuple[int, int, int, int]
) -> bool:
    """Whether a window of two axes pads with that value, and may pad so far."""
    own = attribute(window, "pads") or [0, 0, 0, 0]
    if value is None or len(own) != len(borders):
        return False
    if attribute(window, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return False
    if window.op_type == "Conv":
        weight = view.initializers.get(window.input[1])
        return value == 0 and weight is not None and len(weight.dims) == len(borders)
    if window.op_type != "MaxPool" or value > _LEAST or any(window.output[1:]):
        return False
    # A window amidst borders would be their value here and an error there.
    kernel = [*attribute(window, "kernel_shape"), *attribute(window, "kernel_shape")]
    wide = any(a + b >= k for a, b, k in zip(own, borders, kernel, strict=False))
    return not (wide or attribute(window, "ceil_mode", 0))
