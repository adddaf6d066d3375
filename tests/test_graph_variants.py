"""One layer rounded, all else float: against the same thing done by hand."""

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from graphs import answers, build, noise
from models import tiny_resnet
from quantize.graph.apart import apart
from quantize.graph.layers import constants_of, with_constants
from quantize.graph.prepare import prepare
from quantize.graph.rounded import Rounded
from quantize.graph.variants import with_variants as in_parts
from quantize.probe import run_once

IMAGES = noise(3, 3, 16, 16)


@pytest.fixture(scope="module")
def ready():
    return prepare(tiny_resnet(), run_once, (3, 16, 16)).model


def with_variants(model, layers):
    """The copy as one model, and the outputs."""
    parts, outputs = in_parts(apart(model), layers)
    whole = ModelProto()
    whole.CopyFrom(parts.model)
    for tensor in whole.graph.initializer:
        if tensor.name in parts.constants:
            value = parts.constants[tensor.name]
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return whole, outputs


def changed(model, name, scale=0.02, zero_point=100, seed=0):
    """A layer as some int8 file might hold it."""
    node = next(node for node in model.graph.node if node.name == name)
    values, rng = constants_of(model), np.random.default_rng(seed)
    weight, bias = (values[n] for n in node.input[1:3])
    weight = (weight * rng.uniform(0.9, 1.1, weight.shape)).astype(np.float32)
    return Rounded(f"{name}_quant", weight, bias + np.float32(0.1), scale, zero_point, 0, 255)


def grid(values, held):
    rounded = np.clip(np.rint(values / np.float32(held.scale)) + held.zero_point, 0, 255)
    return (rounded - held.zero_point).astype(np.float32) * np.float32(held.scale)


def test_a_variant_of_the_first_layer_is_the_model_with_its_constants_on_rounded_images(ready):
    held = changed(ready, "conv0_fwd")
    copy, outputs = with_variants(ready, {"conv0_fwd": held})
    names = [value.name for value in copy.graph.output]
    seen = dict(zip(names, answers(copy, IMAGES), strict=True))
    node = next(node for node in ready.graph.node if node.name == "conv0_fwd")
    by_hand = with_constants(ready, {node.input[1]: held.weight}, {"conv0_fwd": held.bias})
    np.testing.assert_array_equal(seen["logits"], answers(ready, IMAGES)[0])
    expected = answers(by_hand, grid(IMAGES, held))[0]
    assert np.abs(expected - seen["logits"]).max() > 1e-3
    np.testing.assert_allclose(seen[outputs["conv0_fwd"]], expected, rtol=1e-5, atol=1e-6)
    assert np.abs(grid(IMAGES, held) - IMAGES).max() > 0.4  # some are cut off


def test_what_goes_round_the_layer_stays_float(ready):
    """conv1 reads relu0, and so does the Add behind conv2: that one must not be rounded."""
    model = build(
        """(float[N,3,16,16] x) => (float[N,3,16,16] y) {
            [r] r = Relu(x)
            [c] h = Conv<pads=[1,1,1,1]>(r, w, b)
            [a] y = Add(h, r)
        }""",
        w=(3, 3, 3, 3),
        b=(3,),
    )
    held = changed(model, "c", scale=0.3, zero_point=0)
    copy, outputs = with_variants(model, {"c": held})
    exact, seen = answers(copy, IMAGES)
    assert list(outputs) == ["c"]
    alone = build(
        "(float[N,3,16,16] r) => (float[N,3,16,16] h) { h = Conv<pads=[1,1,1,1]>(r, w, b) }",
        w=held.weight,
        b=held.bias,
    )
    reads = np.maximum(IMAGES, 0)
    expected = answers(alone, grid(reads, held))[0] + reads
    np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(seen - exact).max() > 1e-2


def test_variants_do_not_disturb_each_other(ready):
    held = {name: changed(ready, name, seed=i) for i, name in enumerate(("conv1_fwd", "logits"))}
    together, outputs = with_variants(ready, held)
    names = [value.name for value in together.graph.output]
    seen = dict(zip(names, answers(together, IMAGES), strict=True))
    for name, one in held.items():
        alone, (output,) = with_variants(ready, {name: one})[0], outputs.keys() & {name}
        np.testing.assert_array_equal(seen[outputs[output]], answers(alone, IMAGES)[1])
    assert np.abs(seen[outputs["conv1_fwd"]] - seen[outputs["logits"]]).max() > 1e-3


def test_the_model_itself_is_not_changed(ready):
    parts = apart(ready)
    before, names = parts.model.SerializeToString(deterministic=True), list(parts.constants)
    in_parts(parts, {"conv0_fwd": changed(ready, "conv0_fwd")})
    assert parts.model.SerializeToString(deterministic=True) == before
    assert list(parts.constants) == names


def test_the_weights_of_a_layer_stand_beside_the_copy_and_are_not_copied(ready):
    held = changed(ready, "conv1_fwd")
    copy, _ = in_parts(apart(ready), {"conv1_fwd": held})
    added = [value for value in copy.constants.values() if value is held.weight]
    assert len(added) == 1


def test_a_layer_without_a_bias_may_get_one_and_a_matmul_cannot():
    model = build(
        """(float[N,3] x) => (float[N,2] y) {
            [m] h = MatMul(x, v)
            [g] y = Gemm(h, w)
        }""",
        v=np.eye(3, dtype=np.float32),
        w=(3, 2),
    )
    values, bias = constants_of(model), np.float32([10, 20])
    copy, outputs = with_variants(
        model,
        {
            "g": Rounded("g", values["w"], bias, 1.0, 0, -1000, 1000),
            "m": Rounded("m", values["v"], np.float32([1, 2, 3]), 1.0, 0, -1000, 1000),
        },
    )
    images = np.float32([[1, -2, 3]])
    exact, first, second = answers(copy, images)
    assert list(outputs) == ["g", "m"]
    np.testing.assert_allclose(first, exact + bias, rtol=1e-6)
    np.testing.assert_allclose(second, exact, rtol=1e-6)


def test_a_layer_that_the_scores_do_not_depend_on_has_no_output():
    model = build(
        """(float[N,3,4,4] x) => (float[N,3,4,4] y) {
            [c] unused = Conv(x, w, b)
            [r] y = Relu(x)
        }""",
        w=(3, 3, 1, 1),
        b=(3,),
    )
    copy, outputs = with_variants(model, {"c": changed(model, "c")})
    assert outputs == {}
    assert len(copy.graph.output) == 1


def test_a_layer_whose_result_a_subgraph_reads_has_no_output():
    model = build(
        """(float[N,3,4,4] x) => (float[N,3,4,4] y) {
            [c] h = Conv(x, w, b)
            [i] y = If<then_branch = g1 () => (float[N,3,4,4] s) { s = Relu(h) },
                       else_branch = g2 () => (float[N,3,4,4] t) { t = Identity(h) }>(flag)
        }""",
        w=(3, 3, 1, 1),
        b=(3,),
        flag=np.asarray(True),
    )
    assert with_variants(model, {"c": changed(model, "c")})[1] == {}
