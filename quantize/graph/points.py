"""Which tensors int8 rounds on a grid of their own: those need the best ranges.

This follows onnxruntime's quantizer. An arithmetic node's result has a grid, and so has what it
reads from a node that stays float. A result that only a Relu or Clip reads has none: the end of
the integers' range does what the Relu or Clip did. Nodes that only move data pass the grid of
their input on.
"""

from __future__ import annotations

import onnx

from quantize.graph.expose import float_tensors
from quantize.graph.layers import absorbed

ARITHMETIC = frozenset(
    {
        "Add",
        "AveragePool",
        "Concat",
        "Conv",
        "Gemm",
        "GlobalAveragePool",
        "LeakyRelu",
        "MatMul",
        "Mul",
    }
)
"""What gives its result a range of its own."""

_ENDS = frozenset({"Clip", "Relu"})
"""On integers where their input is, on floats where it is not."""

_MOVERS = frozenset(
    {
        "Flatten",
        "MaxPool",
        "Pad",
        "Reshape",
        "Resize",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)


def quantization_points(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the tensors that an int8 model may round, in graph order.

    They are the input; the results of Add, AveragePool, Concat, Conv, Gemm, GlobalAveragePool,
    LeakyRelu, MatMul and Mul unless only a Relu or Clip reads them; those of Relu and Clip; and
    whatever these read that comes from another operator, such as Sigmoid.

    Args:
        model: a prepared float model.
    """
    floats = float_tensors(model)
    known, gone = set(floats), absorbed(model)
    points, on_grid = {floats[0]}, {floats[0]}
    for node in model.graph.node:
        reads = [name for name in node.input if name in known]
        if node.op_type in ARITHMETIC:
            points.update(name for name in reads if name not in on_grid)
            on_grid.update(reads)
        elif not (node.op_type in _ENDS | _MOVERS and on_grid.intersection(reads[:1])):
            continue
        on_grid.update(node.output)
        if node.op_type not in _MOVERS:
            points.update(name for name in node.output if name not in gone)
    return tuple(name for name in floats if name in points)
