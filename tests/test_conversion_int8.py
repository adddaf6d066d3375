"""The two forms of int8: the same integers, the same answers."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphs import answers, build, noise, ops
from models import prepared, tiny_dataset, tiny_resnet
from quantize.calibrate import calibrate
from quantize.conversion.int8 import change_format
from quantize.engines import inc
from quantize.engines.ort import quantize
from quantize.errors import ModelError
from quantize.graph.prepare import prepare
from quantize.plan import Plan, Scheme
from quantize.probe import run_once

FORMS = ["qdq", "qoperator"]
OTHER = dict(zip(FORMS, FORMS[::-1], strict=True))

# Every operator that the engine writes on integers.
RICH = """(float[N,4,12,12] x) => (float[N,5] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
    b = Relu(a)
    c = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(b)
    d = Conv(c, w2)
    e = Clip(d, low, high)
    f = Conv(c, w3)
    g = Add(e, f)
    h = Relu(g)
    i = Concat<axis = 1>(h, c)
    j = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(i)
    k = LeakyRelu<alpha = 0.1>(j)
    l = Mul(k, j)
    m = Transpose<perm = [0, 1, 3, 2]>(l)
    n = GlobalAveragePool(m)
    o = Flatten(n)
    p = MatMul(o, w4)
    q = Relu(p)
    y = Gemm(q, w5, b5) }"""


def rich():
    shapes = {"w1": (4, 4, 3, 3), "b1": (4,), "w2": (4, 4, 1, 1), "w3": (4, 4, 1, 1)}
    limits = {"low": np.float32(0), "high": np.float32(6)}
    return build(RICH, **shapes, **limits, w4=(8, 6), w5=(6, 5), b5=(5,))


def int8(model, form, images, scheme=None):
    size = tuple(images.shape[1:])
    ready = prepare(model, run_once, size)
    statistics = calibrate(ready.model, [images], threads=1)
    return quantize(ready.model, statistics, Plan("onnxruntime", form, scheme or Scheme()))


@pytest.fixture(scope="module")
def pictures():
    return prepared(tiny_dataset(4, 8, 16, seed=3))


@pytest.fixture(scope="module")
def nets(pictures):
    """Both forms of two networks, with images."""
    images = noise(16, 4, 12, 12)
    return {
        "rich": ({form: int8(rich(), form, images) for form in FORMS}, images),
        "resnet": ({form: int8(tiny_resnet(), form, pictures) for form in FORMS}, pictures),
    }


def integers(model):
    """Integer constants of more than one element, by name."""
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return {
        name: (array.dtype, array.tobytes())
        for name, array in arrays.items()
        if array.dtype.kind in "iu" and array.size > 1 and array.any()
    }


def scales(model):
    """All scales of weights and activations, bit for bit, each once."""
    arrays = [numpy_helper.to_array(t) for t in model.graph.initializer]
    return {a.tobytes() for a in arrays if a.dtype == np.float32}


def assert_close(model, other, images):
    one, two = answers(model, images)[0], answers(other, images)[0]
    assert np.abs(one - two).max() <= 0.02 * np.abs(one).max()
    assert (one.argmax(axis=1) == two.argmax(axis=1)).mean() >= 0.99


@pytest.mark.parametrize("net", ["rich", "resnet"])
@pytest.mark.parametrize("form", FORMS)
def test_the_other_form_has_the_same_integers_and_answers(nets, net, form):
    made, images = nets[net]
    changed = change_format(made[form], OTHER[form])
    onnx.checker.check_model(changed)
    assert integers(changed) == integers(made[form])
    assert scales(changed) >= scales(made[form]) - bias_scales(made[form])
    assert_close(changed, made[form], images)


def bias_scales(model):
    """They are the product of two others, so QOperator files have none."""
    view = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    backs = [n for n in model.graph.node if n.op_type == "DequantizeLinear"]
    of_bias = [n for n in backs if n.input[0] in view and view[n.input[0]].dtype == np.int32]
    return {view[n.input[1]].tobytes() for n in of_bias}


@pytest.mark.parametrize("net", ["rich", "resnet"])
@pytest.mark.parametrize("form", FORMS)
def test_there_and_back_is_the_same_model(nets, net, form):
    made, images = nets[net]
    back = change_format(change_format(made[form], OTHER[form]), form)
    assert Counter(ops(back)) == Counter(ops(made[form]))
    assert integers(back) == integers(made[form])
    np.testing.assert_array_equal(answers(back, images)[0], answers(made[form], images)[0])


def test_qdq_has_operators_of_onnx_alone(nets):
    for made, _ in nets.values():
        changed = change_format(made["qoperator"], "qdq")
        assert {o.domain for o in changed.opset_import} <= {"", "ai.onnx"}
        assert {n.domain for n in changed.graph.node} == {""}
        assert not [op for op in ops(changed) if op.startswith("Q") and op != "QuantizeLinear"]


def test_qoperator_has_nothing_between_conversions(nets):
    changed = change_format(nets["resnet"][0]["qdq"], "qoperator")
    assert Counter(ops(changed)) == {
        "QuantizeLinear": 1,
        "QLinearConv": 3,
        "QLinearAdd": 1,
        "QLinearGlobalAveragePool": 1,
        "Flatten": 1,
        "QGemm": 1,
    }
    assert set(ops(change_format(nets["rich"][0]["qdq"], "qoperator"))) >= {
        "QLinearConcat",
        "QLinearAveragePool",
        "QLinearLeakyRelu",
        "QLinearMul",
        "QLinearMatMul",
        "MaxPool",
        "Transpose",
    }


def test_a_model_in_the_form_already_stays(nets):
    for made, images in nets.values():
        for form in FORMS:
            same = change_format(made[form], form)
            assert Counter(ops(same)) == Counter(ops(made[form]))
            np.testing.assert_array_equal(answers(same, images)[0], answers(made[form], images)[0])


def test_the_given_model_is_not_changed(nets):
    for form in FORMS:
        model = nets["rich"][0][form]
        before = model.SerializeToString()
        change_format(model, OTHER[form])
        assert model.SerializeToString() == before


def test_one_scale_for_all_channels_changes_too(pictures):
    scheme = Scheme(weight_granularity="per_tensor")
    for form in FORMS:
        made = int8(tiny_resnet(), form, pictures, scheme)
        changed = change_format(made, OTHER[form])
        assert integers(changed) == integers(made)
        assert_close(changed, made, pictures)


def test_a_layer_that_is_float_stays_float(pictures):
    ready = prepare(tiny_resnet(), run_once, (3, 16, 16))
    statistics = calibrate(ready.model, [pictures], threads=1)
    kept = next(node.name for node in ready.model.graph.node if node.op_type == "Conv")
    for form in FORMS:
        made = quantize(ready.model, statistics, Plan("onnxruntime", form, keep_float=(kept,)))
        changed = change_format(made, OTHER[form])
        assert ops(changed).count("Conv") == (1 if form == "qdq" else 3)
        assert_close(changed, made, pictures)


CUTTING = """(float[N,4,6,6] x) => (float[N,4,6,6] y) {
    q = QuantizeLinear(x, xs, xz)
    f = DequantizeLinear(q, xs, xz)
    v = DequantizeLinear<axis = 0>(w, ws)
    c = Conv(f, v)
    r = Relu(c)
    p = QuantizeLinear(r, ys, yz)
    y = DequantizeLinear(p, ys, yz) }"""


def cutting(zero, **changed):
    rng = np.random.default_rng(0)
    constants = {
        "xs": np.float32(0.02),
        "xz": np.uint8(128),
        "w": rng.integers(-127, 128, (4, 4, 1, 1)).astype(np.int8),
        "ws": np.full(4, 0.01, np.float32),
        "ys": np.float32(0.05),
        "yz": np.uint8(zero),
    }
    return build(CUTTING, **{**constants, **changed})


def test_a_relu_that_cuts_more_than_the_integers_do_stays():
    for zero, relus in ((0, 0), (128, 1)):
        model = cutting(zero)
        changed = change_format(model, "qoperator")
        assert ops(changed).count("Relu") == relus
        assert ops(changed).count("QLinearConv") == 1 - relus
        assert_close_images(model, changed)


def assert_close_images(model, changed):
    images = noise(2, 4, 6, 6)
    one, two = answers(model, images)[0], answers(changed, images)[0]
    assert np.abs(one - two).max() <= 0.05 + 1e-6  # one step


def test_a_bias_on_another_grid_stays_as_it_is():
    text = CUTTING.replace("Conv(f, v)", "Conv(f, v, u)").replace(
        "c = Conv", "u = DequantizeLinear(b, bs) c = Conv"
    )
    for scale, changes in ((0.0002, 1), (0.0003, 0)):
        model = build(
            text,
            **{t.name: numpy_helper.to_array(t) for t in cutting(0).graph.initializer},
            b=np.arange(4, dtype=np.int32) * 100,
            bs=np.float32(scale),
        )
        changed = change_format(model, "qoperator")
        assert ops(changed).count("QLinearConv") == changes
        assert_close_images(model, changed)


def test_a_result_that_is_read_as_float_too_stays_float():
    model = cutting(0)
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, ["N", 4, 6, 6])
    )
    assert "QLinearConv" not in ops(change_format(model, "qoperator"))


def test_a_missing_zero_point_is_zero():
    model = cutting(0, xz=np.uint8(0), ys=np.float32(0.05))
    for node in model.graph.node:
        if node.op_type != "Conv" and len(node.input) == 3:
            del node.input[2]
    changed = change_format(model, "qoperator")
    assert "QLinearConv" in ops(changed)
    assert_close_images(model, changed)
    assert_close_images(model, change_format(changed, "qdq"))


def test_an_old_file_is_read_as_opset_13(nets):
    made, images = nets["resnet"]
    old = onnx.ModelProto()
    old.CopyFrom(made["qoperator"])
    next(o for o in old.opset_import if o.domain == "").version = 12
    changed = change_format(old, "qdq")
    assert next(o for o in changed.opset_import if o.domain == "").version == 13
    assert_close(changed, old, images)


def test_what_is_unknown_is_named():
    with pytest.raises(ModelError, match="is not int8"):
        change_format(tiny_resnet(), "qdq")
    old = cutting(0)
    old.graph.node.add(op_type="Softmax", input=["y"], output=["z"])
    old.opset_import[0].version = 12
    with pytest.raises(ModelError, match="its Softmax may mean something else in 13"):
        change_format(old, "qdq")
    odd = cutting(0)
    odd.graph.node.add(op_type="ConvInteger", input=["q", "w"], output=["z"], name="odd")
    with pytest.raises(ModelError, match=r"ConvInteger \('odd'\) has no form in QDQ"):
        change_format(odd, "qdq")


@pytest.mark.slow
@pytest.mark.inc
@pytest.mark.skipif(inc.available() is not None, reason=str(inc.available()))
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("net", ["rich", "resnet"])
def test_what_inc_writes_changes_too(tmp_path, nets, pictures, net, form):
    images = nets[net][1]
    model = rich() if net == "rich" else tiny_resnet()
    ready = prepare(model, run_once, tuple(images.shape[1:]))
    onnx.save(ready.model, tmp_path / "float.onnx")
    plan = Plan("inc", form)
    path = inc.quantize_default(tmp_path / "float.onnx", [images], plan, tmp_path / "made")
    made = onnx.load(path)
    changed = change_format(made, OTHER[form])
    assert integers(changed).items() >= weights(made).items()
    words = set(ops(changed))
    assert "QLinearConv" in words if form == "qdq" else "QLinearConv" not in words
    assert_close(changed, made, images)


def weights(model):
    """Integer constants of two axes or more."""
    wide = {t.name for t in model.graph.initializer if len(t.dims) > 1}
    return {name: value for name, value in integers(model).items() if name in wide}


@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_model_is_one_error_or_another_model(nets, form):
    refused = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        model = onnx.ModelProto()
        model.CopyFrom(nets["rich"][0][form])
        for _ in range(rng.integers(1, 4)):
            damage(model.graph, rng)
        try:
            assert change_format(model, OTHER[form]).graph.node
        except ModelError:
            refused += 1
    assert refused > 30


def damage(graph, rng):
    node = graph.node[rng.integers(len(graph.node))]
    tensor = graph.initializer[rng.integers(len(graph.initializer))]
    kind = rng.choice(["cut", "swap", "scalar", "long", "output", "drop"])
    if kind == "cut" and node.input:
        del node.input[rng.integers(len(node.input)) :]
    elif kind == "swap" and node.input:
        node.input[rng.integers(len(node.input))] = tensor.name
    elif kind == "output":
        del node.output[:]
    elif kind == "drop":
        graph.initializer.remove(tensor)
    elif kind in ("scalar", "long"):
        shape = () if kind == "scalar" else (int(rng.integers(6)),)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        tensor.CopyFrom(numpy_helper.from_array(np.ones(shape, dtype), tensor.name))
