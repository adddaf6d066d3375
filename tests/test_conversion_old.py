"""ONNX of any age: what came in and what comes out compute the same, tensor by tensor."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphs import answers, build, noise, norm, ops
from models import prepared, tiny_dataset, tiny_resnet
from old_models import AGES, light, old_resnet18, striped
from quantize import load_config, tune
from quantize.calibrate import calibrate
from quantize.conversion.old import downgrade, import_onnx, upgrade
from quantize.engines import ort
from quantize.errors import ModelError
from quantize.graph import io
from quantize.graph.coverage import coverage
from quantize.graph.expose import with_outputs
from quantize.graph.head import expose_logits
from quantize.graph.prepare import prepare
from quantize.graph.view import View, opset, signature
from quantize.plan import Plan, Scheme
from quantize.probe import run_once, shapes_of
from quantize.runtime import cpu

FAST = ("shufflenet", "squeezenet")
SLOW = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "vgg19",
    "zfnet512",
)
EXACT = 1e-4


@pytest.fixture
def come_in(tmp_path):
    """Imports a model from a file."""

    def run(model):
        onnx.save(model, tmp_path / "old.onnx")
        return import_onnx(tmp_path / "old.onnx")

    return run


def differences(model, expected, images):
    """Tensor -> largest difference over max|expected|, of those that both name, in order."""
    made = {name for node in model.graph.node for name in node.output}
    shared = [name for name in expected if name in made]
    found = answers(with_outputs(model, shared), images)
    names = [v.name for v in with_outputs(model, shared).graph.output]
    assert set(shared) <= set(names)
    values = dict(zip(names, found, strict=True))
    return {name: far(expected[name], values[name]) for name in shared}


def far(expected, found):
    assert found.shape == expected.shape
    return float(np.abs(expected - found).max() / (np.abs(expected).max() or 1))


def check(model, expected, images):
    """Valid, equal everywhere, and the answers tell images apart."""
    onnx.checker.check_model(model, full_check=True)
    seen = differences(model, expected, images)
    output = model.graph.output[0].name
    assert output in seen
    assert {name: d for name, d in seen.items() if d > EXACT} == {}
    scores = expected[output].reshape(len(images), -1)
    assert np.abs(scores[0] - scores[1]).max() > 0.01 * np.abs(scores).max()
    return seen


# --------------------------------------------------------------------- the grid of opsets


@pytest.fixture(scope="module")
def today():
    """What the youngest spelling answers, by onnxruntime."""
    images = noise(3, 3, 32, 32, seed=4)
    model = old_resnet18(12)
    return images, np.concatenate([answers(model, one[None])[0] for one in images])


@pytest.mark.parametrize(
    ("version", "declared"), [*((age, 1) for age in AGES), (3, "N"), (9, "N"), (12, "N")]
)
def test_resnet18_of_every_age(come_in, today, version, declared):
    original = old_resnet18(version, declared=declared)
    onnx.checker.check_model(original)  # its spelling is of its time
    came = come_in(original)
    images, answer = today
    expected = came.reference(images)
    np.testing.assert_allclose(expected["prob"], answer, atol=2e-5)
    seen = check(came.model, expected, images)
    assert opset(came.model) == 13
    assert len(seen) == len(original.graph.node)
    assert len(View(came.model.graph).inputs) == len(came.model.graph.input) == 1
    assert signature(came.model).batch is None
    assert f"converted opset {version} to 13" in came.steps
    assert "freed the batch axis, fixed to 1 before" in came.steps
    newer, _ = upgrade(came.model, 17)
    assert opset(newer) == 17
    check(newer, expected, images)
    older = downgrade(came.model, 7)
    assert opset(older) == 7
    check(older, expected, images)
    again, _ = upgrade(older)
    check(again, expected, images)


@pytest.mark.parametrize("version", [3, 6])
def test_onnxruntime_refuses_what_the_reference_computes(version):
    with pytest.raises(Exception, match="NOT_IMPLEMENTED"):
        answers(old_resnet18(version), noise(1, 3, 32, 32))


# --------------------------------------------------------------- the graphs of the package


def lights(names, *marks):
    return [pytest.param(name, marks=marks) for name in names]


@pytest.mark.parametrize("name", [*lights(FAST), *lights(SLOW, pytest.mark.slow)])
def test_light_graphs_are_equal_before_and_after(come_in, name):
    came = come_in(light(name))
    images = striped(2)
    expected = came.reference(images)
    check(came.model, expected, images)
    newer, _ = upgrade(came.model, 17)
    check(newer, expected, images)
    assert "Constant" not in ops(came.model)
    assert came.model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_softmax_of_pooled_scores_stays_one_node(come_in):
    """[N,K,1,1]: what looks for the scores before the last Softmax finds them."""
    graph = come_in(light("squeezenet")).model.graph
    assert [node.op_type for node in graph.node][-2:] == ["GlobalAveragePool", "Softmax"]


def sabotages(graph):
    """Each kind of node, changed as a wrong conversion would: (what, how)."""

    def weights(node):
        tensor = next(t for t in graph.initializer if t.name == node.input[1])
        value = numpy_helper.to_array(tensor) * np.float32(1.01)
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))

    def turned(node):
        node.op_type = "Sigmoid"

    def first_only(node):
        node.op_type = "Identity"
        del node.input[1:]
        del node.attribute[:]

    def pads(node):
        kept = [a for a in node.attribute if a.name != "pads"]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("auto_pad", "SAME_UPPER")])

    return {
        "Conv": weights,
        "BatchNormalization": weights,
        "Gemm": weights,
        "Mul": weights,
        "Relu": turned,
        "Add": first_only,
        "Softmax": first_only,
        "MaxPool": pads,
    }


@pytest.mark.parametrize("kind", sabotages(onnx.GraphProto()))
@pytest.mark.parametrize("version", [3, 9])
def test_a_sabotaged_node_is_seen_where_it_stands(come_in, kind, version):
    came = come_in(old_resnet18(version))
    node = next(n for n in came.model.graph.node if n.op_type == kind)
    output = node.output[0]
    sabotages(came.model.graph)[kind](node)
    images = noise(2, 3, 32, 32)
    seen = differences(came.model, came.reference(images), images)
    wrong = [name for name, difference in seen.items() if difference > EXACT]
    assert wrong[0] == output
    assert "prob" in wrong


def test_a_sabotaged_light_graph_is_seen(come_in):
    came = come_in(light("squeezenet"))
    node = next(n for n in came.model.graph.node if n.op_type == "Concat")
    node.input[:] = list(reversed(node.input))
    images = striped(2)
    seen = differences(came.model, came.reference(images), images)
    assert next(name for name, d in seen.items() if d > EXACT) == node.output[0]
    assert seen[came.model.graph.output[0].name] > EXACT


# ------------------------------------------------------------------------- quantized


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet50", 54),
        ("inception_v1", 58),
        ("inception_v2", 70),
        ("densenet121", 183),  # 62 normalizations in front of convolutions became some
        ("vgg19", 19),
        ("squeezenet", 26),
    ],
)
def test_light_graphs_quantize_and_run(come_in, name, layers):
    came = come_in(light(name))
    float_model = prepare(came.model, run_once, (3, 224, 224)).model
    images = striped()
    statistics = calibrate(float_model, [images[:4], images[4:]], threads=1)
    exact = run_once(expose_logits(float_model), images)
    for form in ("qdq", "qoperator"):
        made = ort.quantize(float_model, statistics, Plan("onnxruntime", form, Scheme()))
        onnx.checker.check_model(made)
        seen = coverage(made, lambda names: shapes_of(made, names, (3, 224, 224)))  # noqa: B023
        assert [layer.int8 for layer in seen.layers] == [True] * layers
        assert len(io.to_bytes(made)) < 0.29 * len(io.to_bytes(float_model))
        found = run_once(expose_logits(made), images)
        noise_power = ((exact - found) ** 2).mean() / (exact**2).mean()
        assert noise_power < (0.6 if cpu().saturates else 0.3)
        if name == "resnet50":
            assert not {"Relu", "Sum"} & set(ops(made))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_light_graph_with_pooled_scores_is_tuned(come_in, tmp_path):
    """[N,1000,1,1] all the way: the file that ships gives them as the float one does."""
    io.save(come_in(light("squeezenet")).model, tmp_path / "float.onnx")
    criterion = "tuning: {accuracy_criterion: {agreement: 0.5}, speed_floor: 0}"
    (tmp_path / "job.yaml").write_text(
        "model: {name: squeezenet, framework: onnxrt_qdq}\n"
        "quantization: {engine: onnxruntime, calibration: {sampling_size: 8}}\n"
        "evaluation: {performance: {iteration: 3, configs: {cores_per_instance: 1}}}\n"
        f"{criterion}\n"
    )

    def given(seed):
        items = tiny_dataset(classes=8, per_class=2, size=224, seed=seed)
        return [(image, None) for image in prepared(items)]

    result = tune(
        tmp_path / "float.onnx",
        load_config(tmp_path / "job.yaml"),
        tmp_path / "int8.onnx",
        calibration=given(2),
        evaluation=given(3),
    )
    assert result.verdict.outcome == "met"
    made = io.load(result.output)
    assert answers(made, striped(2))[0].shape == (2, 1000, 1, 1)
    assert signature(made).classes == 1000


# ---------------------------------------------------------------------------- as it came


@pytest.mark.parametrize("version", [13, 17, 21])
def test_a_new_file_passes_through(come_in, version):
    original = tiny_resnet(opset=version)
    came = come_in(original)
    assert came.model.SerializeToString() == original.SerializeToString()
    assert came.steps == ()
    images = noise(3, 3, 16, 16)
    check(came.model, came.reference(images), images)


def test_the_original_is_not_changed():
    original = old_resnet18(3)
    before = original.SerializeToString()
    upgrade(original)
    assert original.SerializeToString() == before


def test_an_older_target_leaves_the_opset():
    model, steps = upgrade(tiny_resnet(opset=17), 13)
    assert (opset(model), steps) == (17, ())


def test_every_newer_opset():
    images = noise(2, 3, 16, 16)
    original = tiny_resnet(opset=9, softmax=True)
    expected = answers(original, images)[0]
    for target in range(10, onnx.defs.onnx_opset_version() + 1):
        model, steps = upgrade(original, target)
        assert steps == (f"converted opset 9 to {target}",)
        onnx.checker.check_model(model, full_check=True)
        assert model.ir_version >= onnx.helper.find_min_ir_version_for(model.opset_import)
        np.testing.assert_allclose(answers(model, images)[0], expected, atol=1e-6)
    with pytest.raises(ModelError, match="opset 9 cannot be converted to 99"):
        upgrade(original, 99)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_reference_takes_any_number_where_the_file_takes_two(come_in, count):
    came = come_in(tiny_resnet(batch=2, opset=9))
    images = noise(count, 3, 16, 16)
    expected = came.reference(images)
    assert {len(value) for value in expected.values()} == {count}
    assert max(differences(came.model, expected, images).values()) < EXACT


def test_images_that_influence_each_other_keep_their_batch(come_in):
    came = come_in(
        build(
            """(float[2,3,16,16] x) => (float[2,3,16,16] y) {
            m = ReduceMean<axes=[0], keepdims=1>(x) y = Sub(x, m) }""",
            opset=9,
        )
    )
    assert came.steps[-1] == "kept the fixed batch of 2"
    images = noise(4, 3, 16, 16)
    expected = images - images.reshape(2, 2, 3, 16, 16).mean(axis=1).repeat(2, axis=0)
    np.testing.assert_allclose(came.reference(images)["y"], expected, atol=1e-6)


# ------------------------------------------------------------------------ spatial and size

NORMALIZED = """(float[N,3,4,4] x) => (float[N,3,4,4] y) {
r = Relu(x) y = BatchNormalization<spatial=0, epsilon=0.001>(r, gamma, beta, mean, var) }"""


@pytest.mark.parametrize("version", [6, 7, 8])
@pytest.mark.parametrize("elements", [False, True])
def test_spatial_0(come_in, version, elements):
    values = norm(48 if elements else 3)
    if elements:
        values = {name: value.reshape(3, 4, 4) for name, value in values.items()}
    came = come_in(build(NORMALIZED, opset=version, ir=3, **values))
    assert came.steps[0] == "rewrote 1 BatchNormalization with spatial=0"
    images = noise(2, 3, 4, 4)
    g, b, m, v = (values[k] if elements else values[k].reshape(3, 1, 1) for k in values)
    expected = (np.maximum(images, 0) - m) / np.sqrt(v + 0.001) * g + b
    found = came.reference(images)
    np.testing.assert_allclose(found["y"], expected, atol=1e-5)
    check(came.model, found, images)


def test_spatial_0_with_flat_elements_is_refused(come_in):
    model = build(NORMALIZED, opset=8, **norm(48))
    with pytest.raises(ModelError, match="BatchNormalization 'y' has spatial=0"):
        come_in(model).reference(noise(1, 3, 4, 4))


@pytest.mark.parametrize(
    ("version", "text", "constants"),
    [
        (7, 'Upsample<mode="nearest", scales=[1.0, 1.0, 2.0, 2.0]>(x)', {}),
        (9, 'Upsample<mode="linear">(x, s)', {"s": np.float32([1, 1, 2, 2])}),
        (9, 'Upsample<mode="nearest">(x, s)', {"s": np.float32([1, 1, 3, 2])}),
        (10, 'Resize<mode="linear">(x, s)', {"s": np.float32([1, 1, 0.5, 1.5])}),
        (10, 'Resize<mode="nearest">(x, s)', {"s": np.float32([1, 1, 0.5, 2])}),
        (4, 'Upsample<mode="nearest", height_scale=2.0, width_scale=3.0>(x)', {}),
        (6, "Clip<min=-0.5, max=0.25>(x)", {}),
        (3, "Pad<pads=[0,0,1,2,0,0,0,1], value=1.5>(x)", {}),
        (6, 'Pad<pads=[0,0,1,2,0,0,0,1], mode="reflect">(x)', {}),
        (6, 'Pad<pads=[0,0,1,2,0,0,0,1], mode="edge">(x)', {}),
        (5, "LogSoftmax(x)", {}),
        (5, "Softmax<axis=2>(x)", {}),
        (8, "Softmax(x)", {}),
        (6, "PRelu(x, s)", {"s": np.float32([0.1, 0.2, -0.3])}),
        (6, "PRelu(x, s)", {"s": np.float32([0.1])}),
        (6, "LRN<size=3, alpha=0.5>(x)", {}),
        (6, "ReduceMean<axes=[2, 3]>(x)", {}),
    ],
)
def test_operators_whose_form_changed(come_in, version, text, constants):
    before = "" if version < 7 else "a = Relu(x)"
    model = build(f"(float[N,3,4,4] x) => (float y) {{ y = {text} {before} }}", opset=version)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    came = come_in(model)
    images = noise(2, 3, 4, 4)
    expected = came.reference(images)
    check(came.model, expected, images)
    newer, _ = upgrade(came.model, 18)
    check(newer, expected, images)


@pytest.mark.parametrize("version", [3, 6, 9, 12])
def test_squeeze_and_unsqueeze_take_axes_as_input_later(come_in, version):
    model = build(
        """(float[N,3,4,4] x) => (float[N,3] y) {
        p = GlobalAveragePool(x) s = Squeeze<axes=[2, 3]>(p) u = Unsqueeze<axes=[1]>(s)
        y = Squeeze<axes=[1]>(u) }""",
        opset=version,
    )
    came = come_in(model)
    images = noise(2, 3, 4, 4)
    check(came.model, came.reference(images), images)
    assert {len(n.input) for n in came.model.graph.node} == {1, 2}


# ----------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("version", [0, 1, 2])
def test_an_opset_below_3_is_refused(come_in, version):
    model = old_resnet18(3)
    model.opset_import[0].version = version
    with pytest.raises(ModelError, match=rf"opset {version}, .* known from 3 on; export"):
        come_in(model)


@pytest.mark.parametrize("version", [3, 9, 13])
def test_an_unknown_operator_is_named_with_its_node(come_in, version):
    model = old_resnet18(version if version < 13 else 12)
    model.opset_import[0].version = version
    model.graph.node[4].op_type = "NoSuchOperator"
    model.graph.node[4].name = "the-culprit"
    with pytest.raises(ModelError, match="NoSuchOperator") as caught:
        come_in(model)
    assert "\n" not in str(caught.value)
    if version < 13:
        assert "the-culprit" in str(caught.value)


@pytest.mark.parametrize(
    "inputs", ["(float[N,3,4] x)", "(int64[N,3,4,4] x)", "(float[N,3,4,4] x, float[N,3,4,4] z)"]
)
@pytest.mark.parametrize("version", [5, 9, 13])
def test_what_takes_no_image_is_refused(come_in, inputs, version):
    model = build(f"{inputs} => (float[N,3,4,4] y) {{ y = Relu(x) }}", opset=version)
    with pytest.raises(ModelError, match=r"no single float32 input \[N,C,H,W\]; export"):
        come_in(model)


@pytest.mark.parametrize(
    ("version", "batch", "node"),
    [
        (9, 10**6, "Flatten(x)"),
        (9, "N", "Reshape(x, flat)"),
        (3, "N", "Reshape<shape=[1000000, -1]>(x)"),
    ],
)
def test_a_batch_of_a_million_takes_no_memory(come_in, version, batch, node):
    model = build(
        f"(float[{batch},3,16,16] x) => (float[N,768] y) {{ y = {node} }}",
        opset=version,
        flat=np.array([10**6, -1]),
    )
    with pytest.raises(ModelError, match="takes 1000000 images at once; export it with a free"):
        come_in(model)


def test_a_cut_file_is_refused(tmp_path):
    content = io.to_bytes(old_resnet18(3))
    rng = np.random.default_rng(0)
    path = tmp_path / "cut.onnx"
    for size in rng.integers(1, len(content) - 1, 40):
        path.write_bytes(content[:size])
        with pytest.raises(ModelError) as caught:
            import_onnx(path).reference(noise(1, 3, 32, 32))
        assert "\n" not in str(caught.value)


def test_flipped_bytes_end_in_a_model_or_one_line(tmp_path):
    """No crash of another kind, whatever stands in the file."""
    content = io.to_bytes(old_resnet18(3, width=1, size=16))
    graph = len(content) - 20_000  # nodes, names and attributes, not only weights
    rng = np.random.default_rng(1)
    path, said = tmp_path / "flipped.onnx", []
    for _ in range(150):
        changed = bytearray(content)
        for place in rng.integers(0, max(graph, len(content) // 3), 3):
            changed[place] = rng.integers(256)
        path.write_bytes(changed)
        try:
            import_onnx(path).reference(noise(1, 3, 16, 16))
        except ModelError as error:
            said.append(str(error))
    assert len(said) > 30
    assert not [line for line in said if "\n" in line]
