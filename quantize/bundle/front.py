"""The preprocessing as ONNX operators in front of the model: a uint8 HWC image in, scores out.

Values stay float32 between the steps. Where our own preprocessing keeps 8 bits, a Round and a Clip
stand, so both agree within one grey level. Only ai.onnx operators that opset 13 knows are used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
from onnx import TensorProto, helper

from quantize.bundle.front_graph import Graph
from quantize.bundle.front_resize import resize
from quantize.data import presets, steps
from quantize.data.steps import Transform
from quantize.errors import BundleError
from quantize.graph.view import View, dims

_HALF = 0.5


def with_preprocessing(
    model: onnx.ModelProto, transforms: tuple[Transform, ...], size: tuple[int, int, int]
) -> onnx.ModelProto:
    """A model that takes one image as decoded, uint8 [height,width,3] RGB.

    Args:
        model: takes float32 [N,C,H,W].
        transforms: in order, presets expanded.
        size: (C, H, W) that they give.

    Raises:
        BundleError: a transform has no operators; names it.
    """
    view = View(model.graph)
    target = view.inputs[0]
    batch = (dims(target) or [None])[0]
    if batch not in (None, 1):
        raise _refused(f"the model takes {batch} images at once")
    taken = {name for node in model.graph.node for name in (*node.input, *node.output)}
    graph = Graph(taken | {node.name for node in model.graph.node})
    image = graph.unique("image")
    graph.start(image)
    for step in transforms:
        _OPERATORS.get(type(step), _unknown)(graph, step)
    if graph.channels_last:
        raise _refused("the transforms leave the channels last")
    graph.finish(target.name, size)
    return _joined(model, graph, image, target)


def _joined(
    model: onnx.ModelProto, graph: Graph, image: str, target: onnx.ValueInfoProto
) -> onnx.ModelProto:
    joined = onnx.ModelProto()
    joined.CopyFrom(model)
    nodes = list(joined.graph.node)
    del joined.graph.node[:]
    joined.graph.node.extend([*graph.nodes, *nodes])
    joined.graph.initializer.extend(graph.constants)
    inputs = [value for value in joined.graph.input if value.name != target.name]
    del joined.graph.input[:]
    shape: list[str | int | None] = ["height", "width", 3]
    joined.graph.input.add().CopyFrom(
        helper.make_tensor_value_info(image, TensorProto.UINT8, shape)
    )
    joined.graph.input.extend(inputs)
    if joined.ir_version < 4:  # there every constant is listed as an input, too
        joined.graph.input.extend(
            helper.make_tensor_value_info(c.name, c.data_type, list(c.dims))
            for c in graph.constants
        )
    for output in joined.graph.output:
        first = output.type.tensor_type.shape.dim
        if first and first[0].WhichOneof("value") == "dim_param":
            first[0].dim_value = 1
    return joined


# --------------------------------------------------------------------------- one a transform


def _nothing(graph: Graph, step: Any) -> None:
    pass


def _rescale(graph: Graph, step: Any) -> None:
    graph.scale("Div", 255.0)
    graph.integers = False


def _normalize(graph: Graph, step: steps.Normalize) -> None:
    for operator, values in (("Sub", step.mean), ("Div", step.std)):
        graph.per_channel(operator, values)
    graph.integers = False


def _cast(graph: Graph, step: steps.Cast) -> None:
    if step.dtype in ("float32", "float64"):
        graph.integers = False
    elif not (step.dtype == "uint8" and graph.integers):
        raise _refused(f"transform Cast to {step.dtype}")


def _transpose(graph: Graph, step: steps.Transpose) -> None:
    if step.perm == (2, 0, 1) and graph.channels_last:
        graph.channels_last = False
    elif step.perm != (0, 1, 2):
        raise _refused(f"transform Transpose {list(step.perm)}")


def _align(graph: Graph, step: steps.AlignImageChannel) -> None:
    if step.dim != graph.channels:
        raise _refused(f"transform AlignImageChannel to {step.dim} channels")


def _resize(graph: Graph, step: steps.Resize) -> None:
    width, height = _pair(step.size)
    resize(graph, graph.whole(height), graph.whole(width), step.interpolation)


def _centre_crop(graph: Graph, step: steps.CenterCrop) -> None:
    _centre(graph, *_pair(step.size))


def _box(graph: Graph, step: steps.CropToBoundingBox) -> None:
    top, left = step.offset_height, step.offset_width
    graph.crop(graph.whole(top), graph.whole(left), step.target_height, step.target_width)


def _crop_resize(graph: Graph, step: steps.CropResize) -> None:
    limits = (step.y, step.x, step.y + step.height, step.x + step.width)
    graph.cut(*map(graph.whole, limits))
    _resize(graph, steps.Resize(step.size, step.interpolation))


def _short_side(graph: Graph, step: presets.ResizeShortSide) -> None:
    rows, columns = graph.rows(), graph.columns()
    ratio = graph.real("Div", graph.double(step.size), graph.as_double(graph.least(rows, columns)))
    sides = [graph.rounded(graph.real("Mul", ratio, graph.as_double(s))) for s in (rows, columns)]
    resize(graph, sides[0], sides[1], "antialias")


def _imagenet(graph: Graph, step: steps.ResizeCropImagenet) -> None:
    rows, columns = graph.rows(), graph.columns()
    scale = graph.real(
        "Div", graph.double(step.resize_side), graph.as_double(graph.least(rows, columns))
    )
    height, width = (graph.cut_off(graph.real("Mul", graph.as_double(s), scale))
                     for s in (columns, rows))  # swapped, as published  # fmt: skip
    resize(graph, height, width, "bilinear")
    _centre(graph, step.height, step.width)
    _rescale(graph, step)
    _normalize(graph, steps.Normalize(step.mean_value, step.std_value))
    graph.channels_last = False


def _aspect(graph: Graph, step: steps.ResizeWithAspectRatio) -> None:
    rows, columns = graph.rows(), graph.columns()
    height = graph.whole(int(100.0 * step.height / step.scale))
    width = graph.whole(int(100.0 * step.width / step.scale))
    tall = graph.integer("Greater", rows, columns)
    longer = [
        graph.cut_off(
            graph.real(
                "Div",
                graph.real("Mul", graph.as_double(side), graph.as_double(long)),
                graph.as_double(short),
            )
        )
        for side, long, short in ((height, rows, columns), (width, columns, rows))
    ]
    resize(
        graph,
        graph.add("Where", tall, longer[0], height),
        graph.add("Where", tall, width, longer[1]),
        "area",
    )


def _bilinear_imagenet(graph: Graph, step: steps.BilinearImagenet) -> None:
    limits = []
    for side in (graph.rows(), graph.columns()):
        whole = graph.as_double(side)
        kept = graph.real("Mul", whole, graph.double(step.central_fraction))
        margin = graph.real("Div", graph.real("Sub", whole, kept), graph.double(2))
        limits.append((graph.cut_off(margin), side))
    (top, rows), (left, columns) = limits
    bottom, right = graph.integer("Sub", rows, top), graph.integer("Sub", columns, left)
    graph.cut(top, left, bottom, right)
    _rescale(graph, step)
    resize(graph, graph.whole(step.height), graph.whole(step.width), "bilinear")
    graph.scale("Sub", _HALF)
    graph.scale("Mul", 2.0)
    graph.per_channel("Sub", step.mean_value)
    graph.scale("Mul", step.scale)


def _centre(graph: Graph, height: int, width: int) -> None:
    starts = [
        graph.integer("Div", graph.integer("Sub", side, graph.whole(wanted)), graph.whole(2))
        for side, wanted in ((graph.rows(), height), (graph.columns(), width))
    ]
    graph.crop(starts[0], starts[1], height, width)


def _unknown(graph: Graph, step: Any) -> None:
    raise _refused(f"transform {type(step).__name__}")


_OPERATORS: dict[type, Callable[[Graph, Any], None]] = {
    presets.ResizeShortSide: _short_side,
    presets.UnitRange: _rescale,
    steps.AlignImageChannel: _align,
    steps.BilinearImagenet: _bilinear_imagenet,
    steps.Cast: _cast,
    steps.CenterCrop: _centre_crop,
    steps.CropResize: _crop_resize,
    steps.CropToBoundingBox: _box,
    steps.Normalize: _normalize,
    steps.Rescale: _rescale,
    steps.Resize: _resize,
    steps.ResizeCropImagenet: _imagenet,
    steps.ResizeWithAspectRatio: _aspect,
    steps.ToArray: _nothing,
    steps.Transpose: _transpose,
}


def _pair(size: steps.Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _refused(what: str) -> BundleError:
    return BundleError(
        f"{what}: this cannot be expressed as ONNX operators in front of the model",
        "release without --with-preprocessing",
    )
