"""Relu and Clip: in front of what passes values on, and where rounding cannot stand for them."""

import numpy as np
import onnx
import pytest

from graphs import answers, build, noise, ops
from quantize.graph.activations import ahead, must_stay

POOL = "MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>"
LIMITS = {"low": np.float32(0), "high": np.float32(0.5), "one": np.float32(1)}


def model_of(nodes, output="float[N,A,B,C] y"):
    text = f"(float[N,4,6,6] x) => ({output}) {{ c = Conv(x, w) {nodes} }}"
    read = {name: value for name, value in LIMITS.items() if name in nodes}
    model = build(text, w=(4, 4, 1, 1), **read)
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}{index}"
    return model


def moved(model):
    """Move, check the graph and its outputs; the count of edits."""
    images = noise(2, 4, 6, 6)
    before = answers(model, images, plain=True)
    count = ahead(model)
    onnx.checker.check_model(model, full_check=True)
    for old, new in zip(before, answers(model, images, plain=True), strict=True):
        np.testing.assert_array_equal(new, old)
    return count


@pytest.mark.parametrize(
    ("nodes", "order"),
    [
        (f"p = {POOL}(c) y = Relu(p)", ["Conv", "Relu", "MaxPool"]),
        (f"p = {POOL}(c) y = Clip(p, low, high)", ["Conv", "Clip", "MaxPool"]),
        (
            "t = Transpose<perm=[0,2,3,1]>(c) r = Relu(t) y = Transpose<perm=[0,3,1,2]>(r)",
            ["Conv", "Relu", "Transpose", "Transpose"],
        ),
        (
            f"t = Transpose<perm=[0,1,3,2]>(c) p = {POOL}(t) r = Relu(p) y = Abs(r)",
            ["Conv", "Relu", "Transpose", "MaxPool", "Abs"],
        ),
    ],
)
def test_they_move_to_what_made_the_values(nodes, order):
    model = model_of(nodes)
    assert moved(model) == 1
    assert ops(model) == order


def test_one_behind_a_flatten_moves_and_two_move_in_their_order():
    model = model_of("f = Flatten(c) y = Relu(f)", "float[N,144] y")
    assert moved(model) == 1
    assert ops(model) == ["Conv", "Relu", "Flatten"]
    model = model_of(f"p = {POOL}(c) r = Relu(p) y = Clip(r, low, high)")
    assert moved(model) == 2
    assert ops(model) == ["Conv", "Relu", "Clip", "MaxPool"]


@pytest.mark.parametrize(
    "nodes",
    [
        "y = Relu(c)",
        f"p = {POOL}(c) r = Relu(p) y = Add(r, p)",
        f"p = {POOL}(c) r = Relu(p) q = {POOL}(c) y = Add(r, q)",
        f"p = {POOL}(x) r = Relu(p) d = {POOL}(c) y = Add(r, d)",
        "a = AveragePool<kernel_shape=[2,2]>(c) y = Relu(a)",
        "p = MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(c) y = Relu(p)",
        "h = ReduceMax<keepdims=0>(c) p = Transpose<perm=[0,1,3,2]>(c) y = Clip(p, low, h)",
    ],
)
def test_they_stay_where_something_else_would_change(nodes):
    model = model_of(nodes)
    before = model.SerializeToString()
    assert moved(model) == 0
    assert model.SerializeToString() == before


def test_outputs_of_the_graph_are_kept():
    model = model_of(f"p = {POOL}(c) y = Relu(p)", "float[N,4,3,3] y, float[N,4,3,3] p")
    assert moved(model) == 0


@pytest.mark.parametrize(
    ("nodes", "qdq", "qoperator"),
    [
        ("y = Relu(c)", [], []),
        ("y = Clip(c, low, high)", [], []),
        ("a = Add(c, c) y = Relu(a)", [], []),
        ("y = Clip(c, one)", ["Clip1"], ["Clip1"]),
        ("h = ReduceMax<keepdims=0>(c) y = Clip(c, low, h)", ["Clip2"], ["Clip2"]),
        ("r = Relu(c) y = Add(r, c)", [], ["Relu1"]),
        ("r = Relu(c) y = Clip(r, low, high)", [], ["Clip2"]),
        (f"p = {POOL}(c) y = Relu(p)", [], ["Relu2"]),
        ("r = Relu(x) y = Add(r, c)", [], ["Relu1"]),
    ],
)
def test_which_a_quantizer_would_lose(nodes, qdq, qoperator):
    model = model_of(nodes)
    assert must_stay(model, passing_on=False) == qdq
    assert must_stay(model, passing_on=True) == qoperator
