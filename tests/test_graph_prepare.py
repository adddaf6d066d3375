"""From whatever was exported to what engines understand, computing the same."""

import numpy as np
import onnx
import pytest

from graphs import answers, build, noise, norm, ops
from models import tiny_resnet
from quantize.errors import ModelError
from quantize.graph.prepare import OLDEST_OPSET, TARGET_OPSET, prepare
from quantize.graph.view import View, opset, signature
from quantize.probe import run_once

SIZE = (3, 16, 16)
POOLED = "p = GlobalAveragePool(c) f = Flatten(p) y = MatMul(f, v)"


def check(model, size=SIZE, run=run_once):
    """Prepare, and hold the copy to what the module promises of every model."""
    before = model.SerializeToString()
    ready = prepare(model, run, size)
    assert model.SerializeToString() == before
    onnx.checker.check_model(ready.model, full_check=True)
    assert opset(ready.model) == max(TARGET_OPSET, opset(model))
    names = [node.name for node in ready.model.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    assert len(View(ready.model.graph).inputs) == len(ready.model.graph.input)
    assert "BatchNormalization" not in ops(ready.model)
    assert ready.free_batch == (signature(ready.model).batch is None)
    images = noise(4, *size, seed=5)
    np.testing.assert_allclose(
        run_once(ready.model, images), run(model, images), rtol=1e-4, atol=1e-4
    )
    return ready


@pytest.mark.parametrize("version", range(OLDEST_OPSET, 18))
@pytest.mark.parametrize("listed", [False, True])
def test_every_opset_from_7_on_is_prepared(version, listed):
    model = tiny_resnet(opset=version, initializers_as_inputs=listed)
    ready = check(model)
    assert ready.free_batch
    count = len(model.graph.initializer)
    assert (f"took {count} initializers out of the inputs" in ready.steps) == listed
    assert "folded 3 BatchNormalization into Conv" in ready.steps
    assert (f"converted opset {version} to 13" in ready.steps) == (version < 13)


@pytest.mark.parametrize("version", [9, 13])
def test_shapes_and_types_of_all_tensors_are_known(version):
    ready = check(tiny_resnet(opset=version))
    known = {value.name for value in ready.model.graph.value_info}
    made = {name for node in ready.model.graph.node for name in node.output}
    assert made <= known | {"logits"}


def test_only_constants_that_are_read_remain():
    graph = check(tiny_resnet()).model.graph
    assert {t.name for t in graph.initializer} <= View(graph).consumers.keys()


@pytest.mark.parametrize("version", [1, 6])
def test_an_opset_too_old_is_refused_with_the_cure(version):
    model = tiny_resnet(opset=7)
    model.opset_import[0].version = version
    with pytest.raises(ModelError, match=f"opset {version}.*; upgrade it first: quantize convert"):
        prepare(model, run_once, SIZE)


def test_an_opset_that_does_not_convert_is_an_error_of_the_model():
    model = tiny_resnet(opset=9)
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ModelError, match="opset 9 cannot be converted to 13"):
        prepare(model, run_once, SIZE)


def test_a_quantized_model_is_refused():
    model = tiny_resnet()
    model.graph.node.add(op_type="QuantizeLinear", input=["data", "s", "z"], output=["q"])
    with pytest.raises(ModelError, match="already quantized"):
        prepare(model, run_once, SIZE)


# ------------------------------------------------------------------- oddities of nodes


def test_empty_optional_inputs_are_trimmed():
    model = build(
        f"""(float[N,3,16,16] x) => (float[N,5] y) {{
        a = Pad(x, pads, "") b = Clip(a, low, "") c = Conv(b, w, "") {POOLED} }}""",
        pads=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        low=np.array(0, np.float32),
        w=(4, 3, 3, 3),
        v=(4, 5),
    )
    ready = check(model)
    assert "removed 3 empty optional inputs" in ready.steps
    assert all(all(node.input) for node in ready.model.graph.node)


def test_an_empty_input_before_a_given_one_stays():
    model = build(
        f'(float[N,3,16,16] x) => (float[N,5] y) {{ b = Clip(x, "", hi) c = Conv(b, w) {POOLED} }}',
        hi=np.array(0.5, np.float32),
        w=(4, 3, 3, 3),
        v=(4, 5),
    )
    assert list(check(model).model.graph.node[0].input) == ["x", "", "hi"]


def test_nodes_without_or_with_a_taken_name_get_one():
    model = tiny_resnet()
    nodes = model.graph.node
    assert [nodes[i].op_type for i in (0, 2, 3, 5, 8)] == ["Conv", "Relu", "Conv", "Relu", "Add"]
    # Once BatchNormalization is gone, the unnamed Add is node 5 and the second twin is node 2.
    for index, name in ((0, "Add_5"), (2, "twin"), (3, "twin"), (5, "Conv_2"), (8, "")):
        nodes[index].name = name

    def run(model, images):  # onnxruntime refuses namesakes
        copy = onnx.ModelProto.FromString(model.SerializeToString())
        for node in copy.graph.node:
            node.name = ""
        return run_once(copy, images)

    ready = check(model, run=run)
    names = [node.name for node in ready.model.graph.node]
    assert names[:6] == ["Add_5", "twin", "Conv_2_1", "Conv_2", "conv2_fwd", "Add_5_1"]


def test_nodes_in_any_order_are_sorted():
    model = tiny_resnet()
    nodes = list(reversed(model.graph.node))
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    check(model)


def test_constants_and_identities_are_folded():
    model = build(
        f"""(float[N,3,16,16] x) => (float[N,5] y) {{
        k = Constant<value = float[1] {{2.0}}>() w = Mul(raw, k) i = Identity(x) d = Dropout(i)
        b = Conv(d, w) c = BatchNormalization(b, gamma, beta, mean, var) {POOLED} }}""",
        raw=(4, 3, 3, 3),
        v=(4, 5),
        **norm(4),
    )
    ready = check(model)
    assert ops(ready.model) == ["Conv", "GlobalAveragePool", "Flatten", "MatMul"]
    assert {"folded 2 constant nodes", "removed 2 Identity and Dropout nodes"} <= set(ready.steps)


# -------------------------------------------------------------------------- batch axis


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_fixed_batch_is_freed(batch):
    ready = check(tiny_resnet(batch=batch))
    assert ready.free_batch
    assert f"freed the batch axis, fixed to {batch} before" in ready.steps
    assert run_once(ready.model, noise(5, *SIZE)).shape == (5, 4)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_reshape_to_the_fixed_batch_is_freed_with_it(batch):
    model = build(
        f"""(float[{batch},3,16,16] x) => (float[{batch},5] y) {{
        c = Conv(x, w) p = GlobalAveragePool(c) f = Reshape(p, flat) y = MatMul(f, v) }}""",
        w=(4, 3, 3, 3),
        v=(4, 5),
        flat=np.array([batch, -1]),
    )
    ready = check(model)
    assert ready.free_batch
    single = np.concatenate([answers(ready.model, one[None])[0] for one in noise(3, *SIZE)])
    np.testing.assert_allclose(run_once(ready.model, noise(3, *SIZE)), single, rtol=1e-5)


@pytest.mark.parametrize(
    "nodes",
    [
        "p = GlobalAveragePool(c) s = Squeeze(p) f = Reshape(s, flat) y = MatMul(f, v)",
        "m = ReduceMean<axes=[0], keepdims=1>(c) p = GlobalAveragePool(m) f = Flatten(p)"
        " y = MatMul(f, v)",
        "p = GlobalAveragePool(c) f = Flatten(p) e = Concat<axis=0>(f, one) g = Gather(e, at)"
        " y = MatMul(g, v)",
    ],
)
def test_a_batch_that_cannot_be_freed_is_kept(nodes):
    model = build(
        f"(float[1,3,16,16] x) => (float[1,5] y) {{ c = Conv(x, w) {nodes} }}",
        w=(4, 3, 3, 3),
        v=(4, 5),
        flat=np.array([1, 4]),
        one=(1, 4),
        at=np.array([0]),
    )
    ready = check(model)
    assert not ready.free_batch
    assert "kept the fixed batch of 1" in ready.steps
    assert signature(ready.model).batch == 1


def test_a_batch_whose_images_influence_each_other_is_kept():
    model = build(
        f"""(float[2,3,16,16] x) => (float[2,5] y) {{
        m = ReduceMean<axes=[0], keepdims=1>(x) d = Sub(x, m) c = Conv(d, w) {POOLED} }}""",
        w=(4, 3, 3, 3),
        v=(4, 5),
    )
    assert not check(model).free_batch


def test_nan_is_never_equal():
    zeros, nan = np.zeros((2, 4)), np.full((2, 4), np.nan)
    given = iter([zeros, nan])
    with pytest.raises(ModelError, match="preparing changed the model's outputs by inf"):
        prepare(tiny_resnet(), lambda *_: next(given), SIZE)
    given = iter([zeros, zeros, np.concatenate([nan, nan]), zeros[:1], zeros, zeros])
    assert not prepare(tiny_resnet(batch=2), lambda *_: next(given), SIZE).free_batch
    assert next(given, None) is None


# ---------------------------------------------------------------------------- the check


def test_a_copy_that_computes_something_else_is_refused():
    calls = []

    def run(model, images):
        calls.append(model)
        return run_once(model, images) + 0.01 * (len(calls) - 1)

    with pytest.raises(ModelError, match=r"preparing changed the model's outputs by 0\.0"):
        prepare(tiny_resnet(), run, SIZE)


def test_a_float_model_that_gives_nan_is_refused():
    model = tiny_resnet()
    weight = model.graph.initializer[0]
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] = np.nan
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    with pytest.raises(ModelError, match="gives NaN or infinity"):
        prepare(model, run_once, SIZE)


def test_a_model_that_does_not_run_is_refused():
    model = tiny_resnet()
    model.graph.node[0].attribute[0].CopyFrom(onnx.helper.make_attribute("dilations", [90, 90]))
    with pytest.raises(ModelError):
        prepare(model, run_once, SIZE)
