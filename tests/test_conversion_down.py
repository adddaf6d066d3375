"""Older opsets: each operator says what it needs, or is refused by its name."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.helper import make_tensor_value_info

from graphs import answers, build, noise, ops
from models import resnet_v1, tiny_resnet
from old_models import old_resnet18
from quantize.conversion.down import downgrade, lift_constants
from quantize.conversion.old import upgrade
from quantize.errors import ModelError
from quantize.graph.view import View, opset


def lowered(model, target):
    """Go down, and hold the copy to what every one must be."""
    before = model.SerializeToString()
    older = downgrade(model, target)
    assert model.SerializeToString() == before
    onnx.checker.check_model(older, full_check=True)
    assert [(o.domain, o.version) for o in older.opset_import] == [("", target)]
    assert (older.ir_version == 3) == (target < 9)
    constants = {t.name for t in older.graph.initializer}
    listed = constants & {v.name for v in older.graph.input}
    assert listed == (constants if target < 9 else set())
    read = {name for node in older.graph.node for name in node.input}
    assert constants <= read
    return older


def same(model, target, images):
    older = lowered(model, target)
    for name, expected, found in zip(
        model.graph.output, answers(model, images), answers(older, images), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=name.name)
    return older


def node_of(text, *, version, first="", **constants):
    """One node behind a Relu, so that it reads no graph input; other nodes may stand before it."""
    model = build(
        f"(float[N,3,4,4] x) => (float y) {{ a = Relu(x) {first} y = {text} }}",
        opset=version,
        **constants,
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


@pytest.mark.parametrize("target", range(7, 18))
def test_a_resnet_at_every_opset(target):
    model = tiny_resnet(opset=17, softmax=True)
    same(model, target, noise(3, 3, 16, 16))


@pytest.mark.parametrize("target", [7, 8, 9, 12])
def test_there_and_back(target):
    model, _ = upgrade(old_resnet18(target))
    older = same(model, target, noise(1, 3, 32, 32))
    again, _ = upgrade(older)
    assert opset(again) == 13
    images = noise(1, 3, 32, 32)
    np.testing.assert_allclose(answers(again, images)[0], answers(model, images)[0], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [18, 50])
def test_the_zoo_topology_at_the_oldest(depth):
    same(resnet_v1(depth, opset=17), 7, noise(1, 3, 224, 224))


SAYABLE = [
    ("Clip(a, low, high)", {"low": np.float32(0.1), "high": np.float32(0.6)}),
    ('Clip(a, "", high)', {"high": np.float32(0.6)}),
    ("Clip(a)", {}),
    ("Pad(a, pads, one)", {"pads": np.array([0, 0, 1, 0, 0, 0, 1, 2]), "one": np.float32(1)}),
    ('Pad<mode="reflect">(a, pads)', {"pads": np.array([0, 0, 1, 0, 0, 0, 1, 2])}),
    ("Dropout(a, ratio)", {"ratio": np.float32(0.25)}),
    ("Dropout(a)", {}),
    ("Unsqueeze(a, axes)", {"axes": np.array([-1, 1])}),
    ("Squeeze(p, axes) p = GlobalAveragePool(a)", {"axes": np.array([-1, 2])}),
    ("ReduceMean<keepdims=0>(a, axes)", {"axes": np.array([-1, 2])}),
    ("ReduceSum(a, axes)", {"axes": np.array([1, -1])}),
    ("ReduceMax(a)", {}),
    ("Concat<axis=-3>(a, a)", {}),
    ("Flatten<axis=-3>(a)", {}),
    ("Softmax(a)", {}),
    ("Softmax<axis=1>(p) p = GlobalAveragePool(a)", {}),
    ("LogSoftmax<axis=-1>(a)", {}),
    ("Reshape<allowzero=0>(a, shape)", {"shape": np.array([0, -1])}),
    ("Gemm(f, w) f = Flatten(a)", {"w": (48, 5)}),
    ("MaxPool<kernel_shape=[2,2], ceil_mode=0, dilations=[1,1], storage_order=0>(a)", {}),
    ("AveragePool<kernel_shape=[2,2], ceil_mode=0, count_include_pad=1, pads=[1,1,1,1]>(a)", {}),
    ("Sum(a, x)", {}),
    ("PRelu(x, slope)", {"slope": (3, 1, 1)}),
    ("Mul(a, filled) filled = ConstantOfShape<value = float[1] {2.0}>(shape)",
     {"shape": np.array([3, 1, 1])}),
    ("Add(a, k) k = Constant<value = float[1] {2.0}>()", {}),
    ("LRN<size=3>(a)", {}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "constants"), SAYABLE)
@pytest.mark.parametrize("target", [7, 10, 12])
def test_what_an_older_opset_says_otherwise(text, constants, target):
    first, _, before = text.partition(") ")
    model = node_of(f"{first.rstrip(')')})", version=18, first=before, **constants)
    images = noise(2, 3, 4, 4)
    shape = answers(model, images)[0].shape
    dims = [f"d{axis}" for axis in range(len(shape))]
    model.graph.output[0].CopyFrom(make_tensor_value_info("y", TensorProto.FLOAT, dims))
    same(model, target, images)


@pytest.mark.parametrize(
    ("text", "constants", "why"),
    [
        ("HardSwish(a)", {}, "only operators of float classifiers can"),
        ("Softmax<axis=1>(a)", {}, "it goes along axis 1 of 4 alone"),
        ("MaxPool<kernel_shape=[2,2], ceil_mode=1, strides=[2,2]>(a)", {}, "ceil_mode is 1"),
        ("MaxPool<kernel_shape=[2,2], dilations=[2,2]>(a)", {}, "it is dilated"),
        ("AveragePool<kernel_shape=[2,2], dilations=[2,2]>(a)", {}, "it is dilated"),
        ("Clip(a, a)", {}, "its input 'a' is not constant"),
        ("Sum(a, k)", {"k": (3, 1, 1)}, "its inputs may differ in shape"),
        ("Reshape<allowzero=1>(a, shape)", {"shape": np.array([-1, 3])}, "allowzero is 1"),
        ("Dropout(a, ratio, train)", {"ratio": np.float32(0.5), "train": np.array(True)}, "trains"),
        ("Pad(a, p, v, axes)", {"p": np.array([1, 1]), "v": np.float32(0), "axes": np.array([2])},
         "it names axes"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_refused_by_name(text, constants, why):
    model = node_of(text, version=19, **constants)
    model.graph.node[1].name = "the-culprit"
    kind = text.split("(")[0].split("<")[0]
    with pytest.raises(ModelError) as caught:
        downgrade(model, 7)
    said = str(caught.value)
    assert said.startswith(f"{kind} 'the-culprit' cannot be written in opset 7: ")
    assert why in said
    assert said.endswith("; choose a newer opset")


def test_the_ratio_of_a_dropout_becomes_an_attribute():
    model = tiny_resnet(opset=13)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.25), "ratio"))
    model.graph.node[1].input[0] = "dropped"
    drop = onnx.helper.make_node("Dropout", [model.graph.node[0].output[0], "ratio"], ["dropped"])
    model.graph.node.insert(1, drop)
    older = same(model, 7, noise(2, 3, 16, 16))
    assert [a.f for a in older.graph.node[1].attribute] == [0.25]
    assert "ratio" not in View(older.graph).initializers


def test_operators_of_other_domains_are_refused():
    model = tiny_resnet(opset=17)
    model.graph.node[2].domain = "com.example"
    model.opset_import.add(domain="com.example", version=1)
    with pytest.raises(ModelError, match="Relu 'relu0' cannot be written in opset 13: only"):
        downgrade(model, 13)


@pytest.mark.parametrize(("version", "target"), [(13, 6), (13, 0), (13, 14), (9, 10)])
def test_only_from_7_to_its_own(version, target):
    with pytest.raises(ModelError, match=f"opset {version} cannot be written as opset {target}"):
        downgrade(tiny_resnet(opset=version), target)


def test_a_large_constant_is_not_written_out():
    model = node_of("Mul(a, f)", version=13, shape=np.array([1 << 20, 64]))
    fill = onnx.helper.make_node("ConstantOfShape", ["shape"], ["f"], name="vast")
    model.graph.node.insert(0, fill)
    with pytest.raises(ModelError, match=r"ConstantOfShape 'vast' .* too large for the file"):
        downgrade(model, 8)
    downgrade(model, 9)


def test_constants_are_lifted_once():
    model = node_of("Add(a, k)", version=13)
    value = numpy_helper.from_array(np.float32([2]))
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["k"], value=value))
    assert lift_constants(model.graph) == 1
    assert ops(model) == ["Relu", "Add"]
    assert View(model.graph).constant("k") == 2
    assert lift_constants(model.graph) == 0
