import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

import models
from families import COUNTS

SHARED = Path(__file__).parents[2] / "shared"
GLUON_SYMBOL = SHARED / "real-graphs" / "mxnet-resnet18_v1-symbol.json"

ZOO_BYTES = 102_576_593  # of resnet50-v1-12.onnx


@pytest.fixture(scope="module")
def resnet50():
    return models.resnet50_v1()


def operators(model):
    return Counter(node.op_type for node in model.graph.node)


def parameters(model):
    return sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)


def constant(model, name):
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    return numpy_helper.to_array(tensor)


def images_of(classes, per_class, size, seed):
    return models.prepared(models.tiny_dataset(classes, per_class, size, seed))


# ------------------------------------------------------------------------ ResNet v1


def assert_counts(model, depth):
    floats, convolutions, norms, relus, adds, initializers, nodes = COUNTS[f"{depth}-v1"]
    assert operators(model) == {
        "Conv": convolutions,
        "BatchNormalization": norms,
        "Relu": relus,
        "Add": adds,
        "MaxPool": 1,
        "GlobalAveragePool": 1,
        "Flatten": 1,
        "Gemm": 1,
    }
    assert len(model.graph.node) == nodes
    assert len(model.graph.initializer) == initializers
    assert parameters(model) == floats


def test_resnet50_has_the_counts_of_the_zoo(resnet50):
    assert_counts(resnet50, 50)


@pytest.mark.parametrize(
    "depth", [18, 34, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (101, 152))]
)
def test_other_depths_have_the_counts_of_the_zoo(depth):
    model = models.resnet_v1(depth, images=images_of(4, 2, 32, seed=0))
    assert_counts(model, depth)
    onnx.checker.check_model(model, full_check=True)


def test_resnet50_has_the_size_of_the_zoo_file(resnet50):
    assert resnet50.ByteSize() == pytest.approx(ZOO_BYTES, rel=1e-3)


def test_resnet50_has_the_interface_of_the_zoo(resnet50):
    onnx.checker.check_model(resnet50, full_check=True)
    assert resnet50.graph.name == "mxnet_converted_model"
    assert [opset.version for opset in resnet50.opset_import] == [12]
    dimensions = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*resnet50.graph.input, *resnet50.graph.output)
    }
    assert dimensions == {
        "data": ["N", 3, 224, 224],
        "resnetv17_dense0_fwd": ["N", 1000],
    }


def test_resnet50_puts_strides_and_biases_where_gluon_v1_has_them(resnet50):
    for node in resnet50.graph.node:
        if node.op_type != "Conv" or "stage" not in node.name:
            continue
        attributes = {a.name: list(a.ints) for a in node.attribute}
        stage, layer = node.name.removeprefix("resnetv17_stage").split("_")[:2]
        index = int(layer.removeprefix("conv"))
        downsamples = index == 3
        first_of_stage = index == 0
        strided = stage != "1" and (first_of_stage or downsamples)
        assert attributes["strides"] == ([2, 2] if strided else [1, 1]), node.name
        biased = attributes["kernel_shape"] == [1, 1] and not downsamples
        assert len(node.input) == (3 if biased else 2), node.name


def test_resnet50_equals_a_real_gluon_graph_node_by_node(resnet50):
    if not GLUON_SYMBOL.exists():
        pytest.skip("real graphs are not at ../shared")
    gluon = json.loads(GLUON_SYMBOL.read_text())["nodes"]
    names = [node["name"].replace("resnetv10_", "resnetv17_") for node in gluon]
    expected = [
        (names[i], [names[source[0]] for source in node["inputs"]])
        for i, node in enumerate(gluon)
        if node["op"] not in ("null", "FullyConnected")
    ]
    ours = [
        (node.name, list(node.input))
        for node in resnet50.graph.node
        if node.op_type not in ("Flatten", "Gemm")
    ]
    assert ours == expected


def test_resnet50_answers_differ_and_stay_in_scale(resnet50):
    images = images_of(8, 1, 224, seed=7)
    logits, deepest = models.run(
        resnet50, images, ["resnetv17_dense0_fwd", "resnetv17_stage4_activation2"]
    )
    assert logits.shape == (8, 1000)
    assert len(set(logits.argmax(axis=1))) >= 3
    assert 0.3 < deepest.std() < 3


def test_initializers_are_inputs_where_asked_for():
    images = images_of(4, 2, 32, seed=0)
    model = models.resnet_v1(18, opset=7, images=images, initializers_as_inputs=True)
    onnx.checker.check_model(model, full_check=True)
    names = {tensor.name for tensor in model.graph.initializer}
    assert model.ir_version == 3
    assert [value.name for value in model.graph.input if value.name not in names] == ["data"]
    assert len(model.graph.input) == len(names) + 1
    spatial = [a.i for n in model.graph.node for a in n.attribute if a.name == "spatial"]
    assert spatial == [1] * 20


# ----------------------------------------------------------------------- small ones


@pytest.mark.parametrize("opset", [7, 9, 12, 13, 17, 21])
def test_tiny_resnet_runs_at_any_opset(opset):
    model = models.tiny_resnet(opset=opset)
    onnx.checker.check_model(model, full_check=True)
    counts = operators(model)
    assert [counts[op] for op in ("Conv", "BatchNormalization", "Relu", "Add")] == [3, 3, 3, 1]
    answers = models.run(model, images_of(4, 5, 16, seed=3))[0].argmax(axis=1)
    assert len(set(answers)) == 4


def test_tiny_resnet_is_the_same_for_the_same_seed():
    first, again, other = (models.tiny_resnet(seed=seed) for seed in (1, 1, 2))
    assert first.SerializeToString() == again.SerializeToString()
    assert first.SerializeToString() != other.SerializeToString()


def test_tiny_resnet_takes_a_fixed_batch_and_softmax():
    model = models.tiny_resnet(classes=3, size=24, batch=2, softmax=True)
    (probabilities,) = models.run(model, images_of(2, 1, 24, seed=0))
    assert probabilities.shape == (2, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [2, 3, 24, 24]


def test_channels_have_unequal_scales():
    model = models.tiny_resnet(channels=32)
    gamma = constant(model, "bn1_gamma")
    assert gamma.max() / gamma.min() > 3


def test_running_statistics_are_those_of_the_images():
    model = models.tiny_resnet()
    images = images_of(4, 20, 16, seed=5)
    models.set_batch_statistics(model, images)
    names = ["bn0_fwd", "bn1_fwd", "bn2_fwd"]
    for name, values in zip(names, models.run(model, images, names), strict=True):
        layer = name.removesuffix("_fwd")
        mean, deviation = values.mean(axis=(0, 2, 3)), values.std(axis=(0, 2, 3))
        np.testing.assert_allclose(mean, constant(model, f"{layer}_beta"), atol=1e-3)
        np.testing.assert_allclose(deviation, constant(model, f"{layer}_gamma"), rtol=1e-3)


def test_a_fitted_head_is_right_on_new_images():
    model = models.tiny_resnet()
    train, test = (models.tiny_dataset(per_class=50, seed=seed) for seed in (1, 2))
    fitted = models.fit_head(model, models.prepared(train), models.labels_of(train))

    def accuracy(model):
        answers = models.run(model, models.prepared(test))[0].argmax(axis=1)
        return (answers == models.labels_of(test)).mean()

    assert accuracy(fitted) > 0.8
    assert accuracy(model) < 0.6  # fitting changed a copy


# --------------------------------------------------------------------------- images


def test_images_are_seeded_and_classes_take_turns():
    first, again, other = (models.tiny_dataset(3, 2, 16, seed=seed) for seed in (1, 1, 2))
    assert [label for _, label in first] == [0, 1, 2, 0, 1, 2]
    for (a, _), (b, _), (c, _) in zip(first, again, other, strict=True):
        assert a.shape == (16, 16, 3)
        assert a.dtype == np.uint8
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()


def test_prepared_images_are_normalised_channels_first():
    black, white = np.zeros((2, 4, 3), np.uint8), np.full((2, 4, 3), 255, np.uint8)
    values = models.prepared([(black, 0), (white, 0)])
    assert values.shape == (2, 3, 2, 4)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values[0, :, 0, 0], [-2.1179, -2.0357, -1.8044], atol=1e-4)
    np.testing.assert_allclose(values[1, :, 1, 3], [2.2489, 2.4286, 2.6400], atol=1e-4)


def test_image_folder_holds_the_images_by_class(tmp_path):
    items = models.tiny_dataset(classes=3, per_class=2, size=8)
    root = models.write_image_folder(tmp_path / "images", items)
    assert sorted(path.name for path in root.iterdir()) == ["000", "001", "002"]
    for position, (image, label) in enumerate(items):
        with Image.open(root / f"{label:03d}" / f"{position:05d}.png") as file:
            np.testing.assert_array_equal(np.asarray(file), image)


def test_imagenet_raw_lists_names_and_labels(tmp_path):
    items = models.tiny_dataset(classes=3, per_class=2, size=8)
    list_file = models.write_imagenet_raw(tmp_path / "raw", items)
    lines = [line.split() for line in list_file.read_text().splitlines()]
    assert [int(label) for _, label in lines] == [label for _, label in items]
    for (name, _), (image, _) in zip(lines, items, strict=True):
        with Image.open(list_file.parent / name) as file:
            np.testing.assert_array_equal(np.asarray(file), image)
