"""What AxonOnnx cannot load is named, operator by operator."""

import numpy as np
import onnx
import pytest

from graphs import build
from models import tiny_resnet
from quantize.conversion.axon import axon_problems, check_axon
from quantize.errors import ConversionError


@pytest.mark.parametrize("opset", [7, 13, 17])
def test_float_resnets_load(opset):
    assert axon_problems(tiny_resnet(opset=opset, softmax=True)) == []


def test_every_operator_that_does_not_load_is_named_once():
    model = build(
        "(float[N,3,16,16] x) => (float[N,3] y)"
        "{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) c = Ceil(d)"
        " e = Trilu(c) q2 = QuantizeLinear(e, s, z) d2 = DequantizeLinear(q2, s, z)"
        " p = GlobalAveragePool(d2) y = Flatten(p) }",
        s=np.float32(1),
        z=np.uint8(0),
    )
    for index, node in enumerate(model.graph.node):
        node.name = f"n{index}"
    with pytest.raises(ConversionError) as caught:
        check_axon(model)
    assert caught.value.exit_code == 3
    assert (
        "cannot load the model: QuantizeLinear at n0 and 1 more;"
        " DequantizeLinear at n1 and 1 more; Trilu at n3;" in str(caught.value)
    )


@pytest.mark.parametrize(
    ("nodes", "problem"),
    [
        ("p = MaxPool<kernel_shape = [3, 3], ceil_mode = 1>(x) y = Flatten(p)", "ceil_mode 1"),
        ("p, i = MaxPool<kernel_shape = [3, 3]>(x) y = Flatten(p)", "MaxPool with 2 outputs"),
        ("y = Flatten<axis = 2>(x)", "Flatten with axis 2"),
        ("s = Shape(x) y = Reshape(x, s)", "Reshape to a shape that is computed"),
    ],
)
def test_uses_of_known_operators_that_do_not_load(nodes, problem):
    model = build(f"(float[N,3,16,16] x) => (float[N,K] y) {{ {nodes} }}")
    assert len(axon_problems(model)) == 1
    assert problem in axon_problems(model)[0]


def test_a_constant_shape_loads():
    model = build(
        "(float[N,3,4,4] x) => (float[N,K] y)"
        "{ s = Constant<value = int64[2] {0, -1}>() a = Reshape(x, s) y = Reshape(a, t) }",
        t=np.array([0, 48], np.int64),
    )
    assert axon_problems(model) == []


def test_other_domains_strings_and_sparse_weights():
    model = build("(float[N,4] x) => (float[N,4] y) { y = Relu(x) }", t=np.array(["a"], object))
    model.graph.node[0].domain = "com.microsoft"
    model.graph.sparse_initializer.add()
    problems = axon_problems(model)
    assert problems[0].startswith("com.microsoft.Relu at ")
    assert problems[1:] == ["sparse weights", "strings in t"]
    assert isinstance(model, onnx.ModelProto)
