"""Gemm without factors, biases that are vectors, and a bias for each layer."""

import numpy as np
import onnx
import pytest

from graphs import answers, build, noise
from quantize.graph.operands import own_biases, plain_gemms


def settled(rewrite, model, *shape):
    """Apply a rewrite, check the graph and its outputs; the count of edits."""
    images = noise(*shape)
    before = answers(model, images, plain=True)
    count = rewrite(model)
    onnx.checker.check_model(model, full_check=True)
    for old, new in zip(before, answers(model, images, plain=True), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5)
    return count


def gemm(attributes="", bias=(3,), width=3):
    turned = "transB=1" in attributes
    text = f"(float[N,5] x) => (float[N,{width}] y) {{ y = Gemm{attributes}(x, w, b) }}"
    weight = (width, 5) if turned else (5, width)
    return build(text, w=weight, b=np.float32(0.7) if bias == () else bias)


@pytest.mark.parametrize("turned", ["transB=0", "transB=1"])
@pytest.mark.parametrize("bias", [(3,), (1,), (), (1, 3), (1, 1)])
@pytest.mark.parametrize("factors", ["alpha=0.5", "beta=2.0", "alpha=0.5, beta=2.0"])
def test_factors_go_into_the_constants(turned, bias, factors):
    model = gemm(f"<{factors}, {turned}>", bias)
    assert settled(plain_gemms, model, 4, 5) == 1
    (node,) = model.graph.node
    assert {a.name for a in node.attribute} <= {"alpha", "beta", "transB"}
    known = {a.name: a.f for a in node.attribute if a.name != "transB"}
    assert set(known.values()) <= {1.0}
    constants = {t.name: tuple(t.dims) for t in model.graph.initializer}
    if bias == (3,) or "beta" in factors:
        assert constants[node.input[2]] == (3,)
    assert plain_gemms(model) == (0 if constants[node.input[2]] == (3,) else 1)


@pytest.mark.parametrize("bias", [(1,), (), (1, 3), (1, 1)])
def test_a_bias_of_another_form_becomes_a_vector(bias):
    model = gemm(bias=bias)
    assert settled(plain_gemms, model, 4, 5) == 1
    made = {t.name: tuple(t.dims) for t in model.graph.initializer}
    assert made[model.graph.node[0].input[2]] == (3,)


@pytest.mark.parametrize(
    ("text", "constants"),
    [
        ("(float[N,5] x) => (float[N,3] y) { y = Gemm(x, w, b) }", {"w": (5, 3), "b": (3,)}),
        ("(float[N,5] x) => (float[N,3] y) { y = Gemm(x, w) }", {"w": (5, 3)}),
        ("(float[4,5] x) => (float[4,3] y) { y = Gemm(x, w, b) }", {"w": (5, 3), "b": (4, 1)}),
        ("(float[4,5] x) => (float[4,4] y) { y = Gemm<alpha=0.5, transB=1>(x, x) }", {}),
    ],
)
def test_what_is_plain_or_not_constant_stays(text, constants):
    model = build(text, **constants)
    before = model.SerializeToString()
    assert settled(plain_gemms, model, 4, 5) == 0
    assert model.SerializeToString() == before


def test_what_another_node_reads_keeps_its_value():
    model = build(
        "(float[N,5] x) => (float[N,3] y, float[N,3] z)"
        " { y = Gemm<alpha=0.5>(x, w, b) z = Gemm(x, w, b) }",
        w=(5, 3),
        b=(3,),
    )
    assert settled(plain_gemms, model, 4, 5) == 1


SHARED = """(float[N,4,6,6] x) => (float[N,4] y) {
    c = Conv(x, v, b) d = Conv(c, u, b) p = GlobalAveragePool(d) f = Flatten(p)
    y = Gemm(f, w, b) }"""
WEIGHTS = {"v": (4, 4, 1, 1), "u": (4, 4, 1, 1), "w": (4, 4), "b": (4,)}


def biases(model):
    return [node.input[2] for node in model.graph.node if node.input[2:]]


def test_layers_that_share_a_bias_get_one_each():
    model = build(SHARED, **WEIGHTS)
    assert settled(own_biases, model, 2, 4, 6, 6) == 2
    assert len(set(biases(model))) == 3
    assert own_biases(model) == 0


def test_a_bias_that_something_else_reads_is_left_to_it():
    text = SHARED.replace("y = Gemm(f, w, b)", "g = Gemm(f, w) y = Add(g, b)")
    model = build(text, **WEIGHTS)
    assert settled(own_biases, model, 2, 4, 6, 6) == 2
    assert "b" not in biases(model)
