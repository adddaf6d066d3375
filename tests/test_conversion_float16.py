"""Models in float16: what changes, what stays, and what they answer."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from graphs import build, noise, ops
from models import tiny_resnet
from quantize.conversion.float16 import to_float16
from quantize.conversion.proof import HALF, prove, traced
from quantize.errors import ConversionError, ModelError

IMAGES = noise(6, 3, 16, 16)
MODEL = tiny_resnet()


def halved(model, **options):
    """Convert, and hold the copy to what the module promises of every model."""
    before = model.SerializeToString()
    made, kept = to_float16(model, **options)
    assert model.SerializeToString() == before
    onnx.checker.check_model(made, full_check=True)
    return made, kept


def kinds(model):
    return [tensor.data_type for tensor in model.graph.initializer]


def ports(model):
    return [v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)]


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("softmax", [False, True])
def test_weights_are_halved_and_answers_stay(opset, softmax):
    model = tiny_resnet(32, opset=opset, softmax=softmax)
    made, kept = halved(model)
    assert kept == []
    assert set(kinds(made)) == {TensorProto.FLOAT16}
    assert ports(made) == [TensorProto.FLOAT] * 2
    assert [op for op in ops(made) if op != "Cast"] == ops(model)
    assert ops(made).count("Cast") == 2
    names = {t.name for t in model.graph.initializer}
    assert {t.name for t in made.graph.initializer} == names
    assert len(made.SerializeToString()) < 0.65 * len(model.SerializeToString())
    assert [v.name for v in made.graph.output] == [v.name for v in model.graph.output]
    check = prove("float16", traced(model), made, IMAGES, HALF)
    assert 0 < check.distance < 1e-2


def test_inputs_and_outputs_on_request():
    made, _ = halved(MODEL, ports=True)
    assert ports(made) == [TensorProto.FLOAT16] * 2
    assert "Cast" not in ops(made)
    prove("float16", traced(MODEL), made, IMAGES, HALF)


def test_a_constant_that_would_overflow_leaves_its_node_float32():
    model = build(
        "(float[N,3,16,16] x) => (float[N,4] y)"
        "{ g = Mul(x, great) s = Mul(g, small) f = Flatten(s) y = MatMul(f, w) }",
        great=np.float32(1e6),
        small=np.float32(1e-6),
        w=(768, 4),
    )
    made, kept = halved(model)
    assert kept == [next(n.output[0] for n in model.graph.node if "great" in n.input)]
    left = {t.name for t in made.graph.initializer if t.data_type == TensorProto.FLOAT}
    assert left == {"great"}


def test_an_activation_that_overflows_fails_the_proof_by_name():
    """1e6 times the image is beyond float16, though no constant is."""
    model = build(
        "(float[N,3,16,16] x) => (float[N,4] y)"
        "{ a = Mul(x, k) b = Mul(a, k) c = Mul(b, r) f = Flatten(c) y = MatMul(f, w) }",
        k=np.float32(1000),
        r=np.float32(1e-6),
        w=(768, 4),
    )
    for index, node in enumerate(model.graph.node):
        node.name = f"n{index}"
    made, kept = halved(model)
    assert kept == []
    with pytest.raises(ConversionError, match=r"layer that differs is 'n1' \(Mul\), by infinity"):
        prove("float16", traced(model), made, IMAGES, HALF)


def test_a_tensor_is_cast_once_and_outputs_keep_their_names():
    """An output in the middle that others read, and a node that stays beside halved ones."""
    model = build(
        "(float[N,3,16,16] x) => (float[N,768] mid, float[N,4] y)"
        "{ mid = Flatten(x) a = MatMul(mid, w) b = Mul(mid, great) c = MatMul(b, v)"
        " y = Add(a, c) }",
        great=np.float32(1e5),
        w=(768, 4),
        v=1e-5 * noise(768, 4),
    )
    made, kept = halved(model)
    assert len(kept) == 1
    assert [v.name for v in made.graph.output] == ["mid", "y"]
    assert len({name for node in made.graph.node for name in node.output}) == len(
        [name for node in made.graph.node for name in node.output]
    )
    expected, found = traced(model)(IMAGES), traced(made)(IMAGES)
    np.testing.assert_allclose(found["mid"], expected["mid"], rtol=2e-3, atol=2e-3)
    both, _ = halved(model, ports=True)
    assert ports(both) == [TensorProto.FLOAT16] * 3


def test_scales_of_resize_and_constants_in_attributes():
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    model = build(
        "(float[N,3,8,8] x) => (float[N,3,16,16] y)"
        '{ r = Resize<mode = "nearest">(x, , scales) k = Constant<value = float {2.5}>()'
        " i = Cast<to = 7>(r) j = Cast<to = 1>(i) y = Mul(j, k) }"
    )
    model.graph.initializer.append(scales)
    made, kept = halved(model)
    assert kept == []
    assert kinds(made) == [TensorProto.FLOAT]
    images = 10 * noise(2, 3, 8, 8)
    expected, found = traced(model)(images)["y"], traced(made)(images)["y"]
    assert np.mean(np.abs(expected - found) > 1e-2) < 0.01  # a rounding may cross a whole number


def test_constants_without_a_tensor_stay():
    model = build(
        "(float[N,4] x) => (float[N,4] y) { k = Constant<value_float = 2.5>() y = Mul(x, k) }"
    )
    made, kept = halved(model)
    assert len(kept) == 1
    assert "Cast" in ops(made)
    np.testing.assert_allclose(traced(made)(noise(2, 4))["y"], 2.5 * noise(2, 4), rtol=2e-3)


def test_names_that_are_taken_get_others():
    model = build("(float[N,4] x) => (float[N,4] y) { a = Mul(x, k) y = Mul(a, k) }", k=(4,))
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "x.float16"
    made, _ = halved(model)
    images = noise(2, 4)
    np.testing.assert_allclose(traced(made)(images)["y"], traced(model)(images)["y"], rtol=5e-3)


def test_a_constant_that_both_kinds_read_stays_in_both():
    model = build(
        "(float[N,4] x) => (float[N,4] y)"
        "{ a = Mul(x, k) b = Mul(k, great) c = Mul(a, b) y = Mul(c, small) }",
        k=(4,),
        great=np.float32(1e5),
        small=np.float32(1e-5),
    )
    made, _ = halved(model)
    assert {"k", "k.float16"} <= {t.name for t in made.graph.initializer}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "(float[N,4] x) => (float[N,4] y) { y = QuantizeLinear(x, s, z) }",
            "already quantized",
        ),
        (
            "(float[N,4] x, bool c) => (float[N,4] y) { y = If(c) <"
            "then_branch = t () => (float[N,4] a) { a = Identity(x) },"
            "else_branch = e () => (float[N,4] b) { b = Neg(x) }> }",
            r"node 'y' \(If\) holds a graph.*drop --float16",
        ),
    ],
)
def test_what_cannot_be_halved_is_named(text, message):
    with pytest.raises(ModelError, match=message):
        to_float16(build(text))


def test_a_type_that_nobody_knows_is_named():
    model = build("(float[N,4] x) => (float[N,4] y) { a = Relu(x) y = Relu(a) }")
    model.graph.node[0].domain = "elsewhere"
    model.opset_import.add(domain="elsewhere", version=1)
    with pytest.raises(ModelError, match="the type of 'a', which Relu makes, cannot be inferred"):
        to_float16(model)
