"""Which images a converted network takes, and whether its weights suit each other.

The symbol seldom says how large an image is. Most networks take any size, since they average over
all of it; one whose fully connected layer needs so many features takes the size that gives them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import onnx

from quantize.errors import ModelError
from quantize.graph.nodes import attribute

Dims = tuple[int | None, ...]
Size = tuple[int, int]

COMMON = (224, 299, 227, 32, 28, 64, 331, 96, 112, 128, 160, 192, 256, 320, 384, 448, 512)
"""Sides that classifiers are trained at, the likeliest first."""

_MOST_ELEMENTS = 1 << 28
"""Of one tensor of one image: a gigabyte, where the largest classifiers have a few megabytes."""

_MOST_WORK = 200_000
"""Nodes whose shapes are worked out while a size is looked for, over all sizes that are tried."""

_KEEPERS = frozenset(
    {
        "Abs", "Add", "AveragePool", "BatchNormalization", "Clip", "Div", "Elu", "Exp",
        "HardSigmoid", "LRN", "LeakyRelu", "MaxPool", "Mul", "Neg", "Pad", "Relu", "Sigmoid",
        "Softplus", "Softsign", "Sqrt", "Sub", "Tanh",
    }
)  # fmt: skip
"""Operators whose output has the channels of their input."""


@dataclass(frozen=True, eq=False)
class Settled:
    """Images and what comes of them.

    Attributes:
        channels: of an image.
        size: height and width, or None where any will do.
        shapes: of the outputs, by name; None where a dimension depends on the image.
    """

    channels: int
    size: Size | None
    shapes: dict[str, Dims]


def settle(
    skeleton: onnx.ModelProto, declared: Dims, alike: Collection[str], place: str
) -> Settled:
    """Find the images that a network takes, by working out all shapes.

    Args:
        skeleton: the model, its weights declared as inputs behind the image.
        declared: what the symbol says about the image: (N, C, H, W) with None for what it leaves
            open, or ().
        alike: outputs of nodes whose inputs must have equal shapes.
        place: how errors call the network.

    Raises:
        ModelError: weights that do not suit each other, or images that cannot be told.
    """
    weights = {value.name: _dims(value) for value in list(skeleton.graph.input)[1:]}
    channels, size = _declared(skeleton, declared, weights, place)
    shapes, unknown = _shapes(skeleton, channels, size, alike)
    if unknown is None or size is not None:
        _check_memory(shapes if size else _usual_shapes(skeleton, channels, alike, shapes), place)
        return _settled(skeleton, channels, size, shapes)
    sides = dict.fromkeys((*COMMON, *range(8, 513)))
    for side in islice(sides, max(len(COMMON), _MOST_WORK // len(skeleton.graph.node))):
        try:
            shapes, _ = _shapes(skeleton, channels, (side, side), alike)
        except ModelError:
            continue
        _check_memory(shapes, place)
        return _settled(skeleton, channels, (side, side), shapes)
    raise ModelError(
        f"{place}: no square image of up to 512 pixels a side has the features that"
        f" {unknown!r} takes",
        "check that the weights belong to this symbol",
    )


def _declared(
    skeleton: onnx.ModelProto, declared: Dims, weights: dict[str, Dims], place: str
) -> tuple[int, Size | None]:
    if declared and len(declared) != 4:
        raise ModelError(
            f"{place}: its input {skeleton.graph.input[0].name!r} has {len(declared)} dimensions",
            "convert an image classifier: its input is [N,C,H,W]",
        )
    _, channels, height, width = declared or (None, None, None, None)
    found = channels or _channels(skeleton, weights)
    if found is None:
        raise ModelError(
            f"{place}: how many channels an image has cannot be told: no layer says it",
            "convert an image classifier: its input is [N,C,H,W]",
        )
    return found, (height, width) if height and width else None


def _channels(skeleton: onnx.ModelProto, weights: dict[str, Dims]) -> int | None:
    """Channels of the image as the first weights that meet it say."""
    same = {skeleton.graph.input[0].name}
    for node in skeleton.graph.node:
        if node.input[0] not in same:
            continue
        if node.op_type == "Conv":
            taken = weights[node.input[1]][1]
            return None if taken is None else taken * int(attribute(node, "group", 1))
        if node.op_type == "BatchNormalization":
            return weights[node.input[1]][0]
        if node.op_type in _KEEPERS:
            same.add(node.output[0])
    return None


def _shapes(
    skeleton: onnx.ModelProto, channels: int, size: Size | None, alike: Collection[str]
) -> tuple[dict[str, Dims], str | None]:
    """All shapes, and the first fully connected layer whose features depend on the image."""
    model = onnx.ModelProto()
    model.CopyFrom(skeleton)
    image = model.graph.input[0].type.tensor_type.shape
    image.Clear()
    for dim in ("N", channels, *(size or ("height", "width"))):
        if isinstance(dim, str):
            image.dim.add().dim_param = dim
        else:
            image.dim.add().dim_value = dim
    inferred, failure = _inferred(model)
    values: list[Any] = [*inferred.input, *inferred.value_info, *inferred.output]
    shapes = {value.name: _dims(value) for value in values}
    unknown = None
    for node in inferred.node:
        _check(node, shapes, alike)
        if node.op_type == "Gemm" and unknown is None:
            features = shapes.get(node.input[0], ())
            unknown = node.name if len(features) != 2 or features[1] is None else None
    if failure:
        raise ModelError(
            f"the layers do not suit each other: {failure}",
            "check that the weights belong to this symbol",
        )
    return shapes, unknown


def _inferred(model: onnx.ModelProto) -> tuple[onnx.GraphProto, str]:
    """The graph with its shapes, and what is wrong with them; empty where nothing is."""
    try:
        return onnx.shape_inference.infer_shapes(model, strict_mode=True).graph, ""
    except Exception as error:  # inference raises whatever its C++ side does
        failure = " ".join(str(error).split())[:300]
    try:  # what it can tell all the same may say more clearly what is wrong
        return onnx.shape_inference.infer_shapes(model).graph, failure
    except Exception:  # as above
        return model.graph, failure


def _usual_shapes(
    skeleton: onnx.ModelProto, channels: int, alike: Collection[str], free: dict[str, Dims]
) -> dict[str, Dims]:
    """Shapes at the usual size, for a network that takes any; `free` where it takes no such."""
    try:
        return _shapes(skeleton, channels, (COMMON[0], COMMON[0]), alike)[0]
    except ModelError:
        return free


def _check_memory(shapes: dict[str, Dims], place: str) -> None:
    """Raise ModelError where running the network would take more memory than any classifier."""
    for name, dims in shapes.items():
        if math.prod(dim or 1 for dim in dims) > _MOST_ELEMENTS:
            raise ModelError(f"{place}: tensor {name!r} is too large: {_text(dims)} for an image")


def _check(node: onnx.NodeProto, shapes: dict[str, Dims], alike: Collection[str]) -> None:
    """Raise ModelError where inference is silent about sizes that differ."""
    inputs = [shapes.get(name, ()) for name in node.input]
    if any(dim is not None and dim <= 0 for dim in shapes.get(node.output[0], ())):
        raise _mismatch(node, "the image is too small for it")
    if node.op_type in ("Conv", "BatchNormalization", "Gemm"):
        given = inputs[0][1] if len(inputs[0]) > 1 else None
        if node.op_type == "BatchNormalization":
            wanted = inputs[1][0]
        else:
            wanted = inputs[1][1]
            wanted = None if wanted is None else wanted * int(attribute(node, "group", 1))
        if given is not None and given != wanted:
            raise _mismatch(node, f"it takes {wanted} channels or features and gets {given}")
    if node.output[0] in alike:
        known = [dims for dims in inputs if dims]
        for one, other in pairwise(known):
            pairs = zip(one, other, strict=False)
            if len(one) != len(other) or any(a and b and a != b for a, b in pairs):
                raise _mismatch(node, f"its inputs have shapes {_text(one)} and {_text(other)}")


def _mismatch(node: onnx.NodeProto, reason: str) -> ModelError:
    return ModelError(
        f"node {node.name!r} cannot be converted: {reason}",
        "check that the weights belong to this symbol",
    )


def _settled(
    skeleton: onnx.ModelProto, channels: int, size: Size | None, shapes: dict[str, Dims]
) -> Settled:
    heads = [value.name for value in skeleton.graph.output]
    return Settled(channels, size, {name: shapes.get(name, ()) for name in heads})


def _dims(value: onnx.ValueInfoProto) -> Dims:
    """() where nothing is known."""
    dims: Iterable[Any] = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.WhichOneof("value") == "dim_value" else None for d in dims)


def _text(dims: Dims) -> str:
    return f"[{','.join('any' if d is None else str(d) for d in dims)}]"
