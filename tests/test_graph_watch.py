"""Few tensors are fetched, and what the others hold follows from them."""

import math

import numpy as np
import onnx
import pytest

from graphs import answers, build, noise
from models import tiny_resnet
from quantize.graph.expose import float_tensors, with_outputs
from quantize.graph.prepare import prepare
from quantize.graph.watch import Clipped, watch, with_fetched
from quantize.probe import run_once

LIMITS = {"low": np.array(-0.5, np.float32), "high": np.array(0.25, np.float32)}


def inferred(text, **constants):
    return onnx.shape_inference.infer_shapes(build(text, **constants))


def fetched(plan):
    return [each.tensor for each in plan.fetched]


def values_of(plan, image):
    """Every fetched tensor, axes as in the model."""
    names = [value.name for value in plan.model.graph.output]
    arrived = dict(zip(names, answers(plan.model, image), strict=True))
    found = {}
    for each in plan.fetched:
        value = image if each.output is None else arrived[each.output]
        if each.output is not None and each.channels_last:
            value = value.transpose(0, 3, 1, 2)
        found[each.tensor] = value
    return found


@pytest.mark.parametrize(
    ("text", "constants"),
    [
        ("(float[N,3,8,8] x) => (float[N,3,8,8] y) { a = Sqrt(x) b = Abs(x) y = Relu(b) }", {}),
        (
            """(float[N,3,8,8] x) => (float[N,3,8,8] y) {
            a = Clip(x, low, high) b = Relu(a) c = Clip(b, , high) y = Neg(c) }""",
            LIMITS,
        ),
        (
            """(float[N,3,8,8] x) => (float[N,192] y) {
            a = Neg(x) b = Relu(a) t = Transpose<perm=[0,2,3,1]>(b) y = Flatten(t) }""",
            {},
        ),
        ("(float[N,3,8,8] x) => (float[N,3,8,8] y) { a = Clip(x, high, low) y = Neg(a) }", LIMITS),
        (
            """(float[N,3,8,8] x) => (float[N,3,8,8] y) {
            c = Constant<value = float[1] {2.0}>() y = Mul(x, c) }""",
            {},
        ),
        (
            """(float[N,3,8,8] x) => (float[N,3,8,8] y) {
            m = ReduceMax<keepdims=0>(x) y = Clip(x, m) }""",
            {},
        ),
    ],
)
def test_all_tensors_are_fetched_or_follow(text, constants):
    model = inferred(text, **constants)
    image = np.abs(noise(2, 3, 8, 8)) - 0.25 * ("Sqrt" not in text)
    plan = watch(model)
    assert plan.tensors == tuple(float_tensors(model))
    assert {*fetched(plan), *plan.derived} == set(plan.tensors)
    assert not set(fetched(plan)) & set(plan.derived)
    known = values_of(plan, image)
    opened = with_outputs(model, list(plan.tensors[1:]))
    exact = dict(zip([v.name for v in opened.graph.output], answers(opened, image), strict=True))
    for name, of in plan.derived.items():
        value = known[of.source].clip(of.low, of.high)
        np.testing.assert_array_equal(np.sort(value.ravel()), np.sort(exact[name].ravel()))
        assert not of.same_axes or value.shape == exact[name].shape
    for name in set(known) - {"x"}:
        np.testing.assert_array_equal(known[name], exact[name])


def test_a_relu_is_not_fetched_and_no_model_is_changed():
    model = prepare(tiny_resnet(), run_once, (3, 16, 16)).model
    before = model.SerializeToString()
    plan = watch(model)
    assert fetched(plan) == [
        "data",
        "bn0_fwd",
        "bn1_fwd",
        "bn2_fwd",
        "add",
        "pool",
        "flatten",
        "logits",
    ]
    assert plan.derived["relu0"] == Clipped("bn0_fwd", 0.0, math.inf)
    assert model.SerializeToString() == before


def test_limits_add_up():
    once = Clipped("x", -1.0, 5.0)
    assert once.then(0.0, math.inf) == Clipped("x", 0.0, 5.0)
    assert once.then(6.0, 7.0) == Clipped("x", 6.0, 6.0)
    assert [once.clip(v) for v in (-3.0, 2.0, 8.0)] == [-1.0, 2.0, 5.0]


def test_layers_read_their_channels_along_the_last_axis():
    model = inferred(
        """(float[N,3,8,8] x) => (float[N,3,8,4] y, float[N,2,8,8] z) {
        a = Neg(x) r = Relu(a) y = MatMul(r, w) z = Conv<kernel_shape=[1,1]>(r, k) }""",
        w=(8, 4),
        k=(2, 3, 1, 1),
    )
    for node in model.graph.node:
        node.name = node.output[0]
    plan = watch(model)
    assert [(e.tensor, e.channels_last) for e in plan.fetched if e.tensor == "a"] == [
        ("a", False),
        ("a", True),
    ]
    assert {(e.layer, e.channels_last) for e in plan.inputs} == {("y", False), ("z", True)}


def test_a_layer_behind_a_reshape_has_its_input_fetched():
    model = inferred(
        """(float[N,3,8,8] x) => (float[N,4] y) {
        a = Neg(x) f = Flatten(a) y = Gemm(f, w) }""",
        w=(192, 4),
    )
    assert fetched(watch(model)) == ["x", "a", "f", "y"]


def test_an_output_of_the_model_is_given_once():
    model = inferred("(float[N,4] x) => (float[N,4] y) { y = Neg(x) }")
    opened, given = with_fetched(model, [("x", False), ("y", False)])
    assert [value.name for value in opened.graph.output] == ["y"]
    assert [each.output for each in given] == [None, "y"]
