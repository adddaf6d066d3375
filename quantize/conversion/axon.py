"""`--check axon`: what keeps AxonOnnx 0.4 (Elixir) from loading a file.

It knows a list of operators, wants every weight in the file itself, and takes dense tensors alone.
"""

from __future__ import annotations

import onnx

from quantize.errors import ConversionError
from quantize.graph.view import View

_NAMES = """
    Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Floor Log Neg Not Reciprocal Round Sign Sin
    Sinh Sqrt Tan Tanh Add Sub Mul Div Pow Mod And Or Xor Equal Greater GreaterOrEqual Less
    LessOrEqual ArgMax ArgMin ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
    ReduceMin ReduceProd ReduceSum ReduceSumSquare Celu Elu Exp HardSigmoid LeakyRelu LogSoftmax
    Relu Selu Sigmoid Softmax Softplus Softsign HardSwish AveragePool BatchNormalization BitShift
    Cast Clip Concat Constant ConstantOfShape Conv CumSum Dropout Expand EyeLike Flatten Gather
    Gemm If InstanceNormalization LRN MatMul Max Min Sum MaxPool NonZero Pad RandomNormal
    RandomNormalLike RandomUniform RandomUniformLike Range Reshape Shape Slice Split Squeeze
    Transpose Unsqueeze Where GlobalAveragePool GlobalMaxPool GlobalLpPool Identity Erf
"""
_OPERATORS = frozenset(_NAMES.split())

_SINGLE_OUTPUT = frozenset({"BatchNormalization", "MaxPool"})


def check_axon(model: onnx.ModelProto) -> None:
    """Find out whether AxonOnnx can load a model.

    Raises:
        ConversionError: names every operator that it cannot load, with the first node of each.
    """
    found = axon_problems(model)
    if found:
        raise ConversionError(
            f"AxonOnnx cannot load the model: {'; '.join(found)}",
            "nothing was written; convert the float model, with inputs as float tensors",
        )


def axon_problems(model: onnx.ModelProto) -> list[str]:
    """One text for each operator, or use of one, that AxonOnnx does not know."""
    view = View(model.graph)
    problems: dict[str, list[str]] = {}
    for node in model.graph.node:
        for problem in _of_node(node, view):
            problems.setdefault(problem, []).append(node.name or node.output[0])
    texts = [
        f"{problem} at {names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}"
        for problem, names in problems.items()
    ]
    if model.graph.sparse_initializer:
        texts.append("sparse weights")
    strings = [t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.STRING]
    if strings:
        texts.append(f"strings in {strings[0]}")
    return texts


def _of_node(node: onnx.NodeProto, view: View) -> list[str]:
    if node.domain not in ("", "ai.onnx"):
        return [f"{node.domain}.{node.op_type}"]
    if node.op_type not in _OPERATORS:
        return [node.op_type]
    numbers = {a.name: a.i for a in node.attribute if a.type == a.INT}
    problems = []
    if node.op_type in _SINGLE_OUTPUT and any(node.output[1:]):
        problems.append(f"{node.op_type} with {len(node.output)} outputs")
    if node.op_type == "MaxPool" and numbers.get("ceil_mode", 0):
        problems.append("MaxPool with ceil_mode 1")
    if node.op_type == "Flatten" and numbers.get("axis", 1) != 1:
        problems.append(f"Flatten with axis {numbers['axis']}")
    if node.op_type == "Reshape" and len(node.input) > 1 and not _constant(node.input[1], view):
        problems.append("Reshape to a shape that is computed")
    return problems


def _constant(name: str, view: View) -> bool:
    """Whether a tensor is a weight, or comes out of a Constant node."""
    made = view.producers.get(name)
    return name in view.initializers or (made is not None and made.op_type == "Constant")
