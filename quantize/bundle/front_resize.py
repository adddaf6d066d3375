"""Resizing as ONNX operators: Resize where it has our arithmetic, else two matrix products.

Each axis of an antialiased or averaging resize is a matrix [out,in] of weights that follows from
the two sizes, so it is computed in the graph, where the image's size is known.
"""

from __future__ import annotations

from typing import Literal

from onnx import TensorProto

from quantize.bundle.front_graph import Graph

Kind = Literal["bilinear", "nearest", "bicubic", "area", "antialias"]


def resize(graph: Graph, height: str, width: str, kind: Kind) -> None:
    """Resize the image of a graph.

    Args:
        graph: with an image [1,C,H,W].
        height: name of int64 [1].
        width: likewise.
        kind: as in `quantize.data.resize`, or `antialias` for Pillow's bilinear filter.
    """
    if kind in ("area", "antialias"):
        _by_matrices(graph, height, width, kind)
        return
    batch = graph.vector([1, graph.channels])
    sizes = graph.add("Concat", batch, height, width, axis=0)
    attributes: dict[Kind, dict[str, object]] = {
        "bilinear": {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
        "bicubic": {
            "mode": "cubic",
            "coordinate_transformation_mode": "half_pixel",
            "cubic_coeff_a": -0.75,
        },
        "nearest": {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        },
    }
    graph.image = graph.add("Resize", graph.image, "", "", sizes, **attributes[kind])
    if kind != "nearest":
        graph.eight_bits()


def _by_matrices(graph: Graph, height: str, width: str, kind: Kind) -> None:
    """Columns first, as Pillow does, which rounds in between."""
    weights = _overlap if kind == "area" else _triangle
    across = weights(graph, graph.columns(), width)
    graph.image = graph.add("MatMul", graph.image, graph.add("Transpose", across, perm=[1, 0]))
    if kind == "antialias":
        graph.eight_bits()
    down = weights(graph, graph.rows(), height)
    graph.image = graph.add("MatMul", down, graph.image)
    graph.eight_bits()


def _triangle(graph: Graph, source: str, target: str) -> str:
    """Pillow's bilinear filter: max(0, 1 - |j + 0.5 - centre| / s), rows summing to one.

    centre = (i + 0.5) in / out, s = max(1, in / out).
    """
    scale = _ratio(graph, source, target)
    half = graph.single(0.5)
    centre = graph.add("Mul", graph.add("Add", _range(graph, target), half), scale)
    position = graph.add("Add", _range(graph, source), half)
    away = graph.add("Abs", graph.add("Sub", position, _upright(graph, centre)))
    spread = graph.add("Max", scale, graph.single(1))
    weight = graph.add("Relu", graph.add("Sub", graph.single(1), graph.add("Div", away, spread)))
    return _normalized(graph, weight)


def _overlap(graph: Graph, source: str, target: str) -> str:
    """Share of source pixel j in output pixel i: max(0, min(j + 1, high) - max(j, low)).

    low = i in / out, high = (i + 1) in / out; rows are divided by their sums.
    """
    scale = _ratio(graph, source, target)
    low = _upright(graph, graph.add("Mul", _range(graph, target), scale))
    high = graph.add("Add", low, scale)
    left = _range(graph, source)
    right = graph.add("Add", left, graph.single(1))
    covered = graph.add("Sub", graph.add("Min", right, high), graph.add("Max", left, low))
    return _normalized(graph, graph.add("Relu", covered))


def _normalized(graph: Graph, weight: str) -> str:
    total = graph.add("ReduceSum", weight, graph.vector([1]), keepdims=1)
    return graph.add("Div", weight, total)


def _upright(graph: Graph, name: str) -> str:
    return graph.add("Unsqueeze", name, graph.vector([1]))


def _ratio(graph: Graph, source: str, target: str) -> str:
    """Source size over target size, float32 [1]."""
    parts = (graph.add("Cast", side, to=TensorProto.FLOAT) for side in (source, target))
    return graph.add("Div", *parts)


def _range(graph: Graph, count: str) -> str:
    """0, 1, ... count - 1 as float32 [count]."""
    axis = graph.vector([0])
    stop = graph.add("Squeeze", graph.add("Cast", count, to=TensorProto.FLOAT), axis)
    return graph.add("Range", graph.single(0), stop, graph.single(1))
