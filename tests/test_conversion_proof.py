"""Proofs of equality: what holds, what must fail, and which layer is named."""

import math

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import numpy_helper

from graphs import build, noise
from models import tiny_resnet
from quantize.conversion.proof import (
    EXACT,
    HALF,
    INTEGERS,
    Rule,
    agreement,
    distance,
    first_difference,
    prove,
    scores_of,
    traced,
)
from quantize.errors import ConversionError, ModelError

IMAGES = noise(6, 3, 16, 16)
MODEL = tiny_resnet()


def copied(model):
    other = onnx.ModelProto()
    other.CopyFrom(model)
    return other


def spoiled(model, name, factor=1.5):
    """A copy with one weight multiplied."""
    other = copied(model)
    tensor = next(t for t in other.graph.initializer if t.name == name)
    value = numpy_helper.to_array(tensor) * np.float32(factor)
    tensor.CopyFrom(numpy_helper.from_array(value, name))
    return other


@pytest.mark.parametrize("batch", ["N", 1, 4])
@pytest.mark.parametrize("softmax", [False, True])
def test_a_model_equals_itself_whatever_its_batch(batch, softmax):
    model = tiny_resnet(batch=batch, softmax=softmax)
    check = prove("step", traced(model), model, IMAGES, EXACT)
    assert check.distance <= 1e-6
    assert (check.agreement, check.images, check.telling) == (1.0, 6, True)


@pytest.mark.parametrize(
    ("weight", "layer"),
    [
        ("conv0_weight", "'conv0_fwd' (Conv)"),
        ("bn1_beta", "'bn1_fwd' (BatchNormalization)"),
        ("conv2_weight", "'conv2_fwd' (Conv)"),
        ("fc_weight", "'logits' (Gemm)"),
    ],
)
@pytest.mark.parametrize("before", [traced, scores_of])
def test_the_first_layer_that_differs_is_named(weight, layer, before):
    other = spoiled(MODEL, weight, 3)
    with pytest.raises(ConversionError) as caught:
        prove("opset", before(MODEL), other, IMAGES, EXACT, trace=traced(MODEL))
    assert caught.value.exit_code == 3
    assert str(caught.value).startswith("opset: the outputs differ by")
    assert f"0.0001 is allowed; the first layer that differs is {layer}, by" in str(caught.value)


def test_another_operator_is_found_behind_many_equal_layers():
    other = copied(MODEL)
    node = next(n for n in other.graph.node if n.name == "relu2")
    node.op_type = "Tanh"
    with pytest.raises(ConversionError, match=r"first layer that differs is 'relu2' \(Tanh\)"):
        prove("import", traced(MODEL), other, IMAGES, EXACT)


def test_a_difference_that_softmax_hides_is_found_in_its_logits():
    """Scores far apart: probabilities are 1 and 0 whatever a layer does."""
    text = (
        "(float[N,3,16,16] x) => (float[N,2] y) { f = Flatten(x) m = MatMul(f, w) y = Softmax(m) }"
    )
    model = build(text, w=(768, 2))
    great = spoiled(model, "w", 1000)
    small = spoiled(model, "w", 1010)
    probabilities = [traced(m)(IMAGES)["y"] for m in (great, small)]
    assert distance(*probabilities) <= EXACT.tolerance
    with pytest.raises(ConversionError, match="MatMul"):
        prove("step", traced(great), small, IMAGES, EXACT)


def test_equal_scores_for_every_image_hide_nothing():
    """Dead weights behind a layer: the scores cannot tell, the layers do."""
    text = (
        "(float[N,3,16,16] x) => (float[N,2] y) { c = Mul(x, k) f = Flatten(c) y = MatMul(f, w) }"
    )
    model = build(text, k=np.float32(2), w=np.zeros((768, 2), np.float32))
    check = prove("step", traced(model), model, IMAGES, EXACT)
    assert not check.telling
    assert "the scores are the same for every image" in check.line()
    with pytest.raises(ConversionError, match="Mul"):
        prove("step", traced(model), spoiled(model, "k"), IMAGES, EXACT)


def test_a_source_that_overflows_is_an_error_of_the_source():
    model = spoiled(MODEL, "fc_weight", np.inf)
    with pytest.raises(ModelError, match="the source gives NaN or infinity as 'logits'"):
        prove("step", traced(model), model, IMAGES, EXACT)


@pytest.mark.parametrize("rule", [EXACT, HALF, INTEGERS, Rule(math.inf)])
def test_infinity_fails_every_rule(rule):
    with pytest.raises(ConversionError, match="by infinity or shape"):
        prove("step", traced(MODEL), spoiled(MODEL, "fc_weight", np.inf), IMAGES, rule)


def test_too_few_equal_answers_fail_though_scores_are_near():
    model = build(
        "(float[N,3,16,16] x) => (float[N,2] y) { f = Flatten(x) y = MatMul(f, w) }", w=(768, 2)
    )
    other = copied(model)
    value = numpy_helper.to_array(other.graph.initializer[0])[:, ::-1]
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(value.copy(), "w"))
    with pytest.raises(ConversionError, match=r"only 0\.0 % of the answers stay the same"):
        prove("format", traced(model), other, IMAGES, Rule(10, 0.99))


def test_layers_that_only_one_side_names_are_no_hindrance():
    assert first_difference(lambda _: {}, MODEL, IMAGES[:1], 0) is None
    outputs = scores_of(MODEL)
    with pytest.raises(ConversionError, match=r"the first layer that differs is .*Gemm"):
        prove("step", outputs, spoiled(MODEL, "fc_weight"), IMAGES, EXACT)


def test_outputs_that_are_no_scores():
    one = build("(float[N,3,16,16] x) => (float y) { y = ReduceMean<keepdims = 0>(x) }")
    with pytest.raises(ModelError, match="'y' is one number for all images"):
        prove("step", traced(one), one, IMAGES, EXACT)
    best = build(
        "(float[N,3,16,16] x) => (int64[N] y)"
        "{ f = Flatten(x) y = ArgMax<axis = 1, keepdims = 0>(f) }"
    )
    assert prove("step", traced(best), best, IMAGES, EXACT).distance == 0


FINITE = arrays.arrays(np.float32, (2, 3), elements=st.floats(-1e3, 1e3, width=32))


@given(FINITE, FINITE)
def test_distance_is_relative_to_the_largest(one, other):
    far = distance(one, other)
    assert distance(one, one) == 0
    assert far >= 0
    largest = np.abs(one).max() or 1.0
    assert math.isclose(far * largest, np.abs(one.astype(float) - other).max(), abs_tol=1e-3)


@given(FINITE, st.sampled_from([np.nan, np.inf, -np.inf]))
def test_what_is_not_finite_or_has_another_shape_is_far(values, bad):
    other = values.copy()
    other[0, 0] = bad
    assert distance(values, other) == math.inf
    assert distance(values, values[:1]) == math.inf
    assert agreement(values, values[:1]) == 0.0
    assert agreement(values, values) == 1.0
