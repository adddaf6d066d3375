"""Second moments are those of the layer's true input columns."""

import time

import numpy as np
import onnx
import pytest

from graphs import answers, build, noise
from models import prepared, resnet50_v1, tiny_dataset
from quantize.errors import DataError, ModelError
from quantize.graph.expose import with_outputs
from quantize.graph.layers import constants_of, layers
from quantize.graph.prepare import prepare
from quantize.moments import second_moments
from quantize.probe import run_once
from quantize.runtime import Session

IMAGES = noise(5, 4, 9, 7)


def model_of(text, **constants):
    model = onnx.shape_inference.infer_shapes(build(text, **constants))
    for node in model.graph.node:
        node.name = node.output[0]
    return model


def network(**attributes):
    """A Conv between others, with the given attributes; W [6,8/group,3,2]."""
    written = ", ".join(f"{name}={value}" for name, value in attributes.items())
    group = attributes.get("group", 1)
    return model_of(
        f"""(float[N,4,9,7] x) => (float[N,3] y) {{
        a = Conv<kernel_shape=[1,1]>(x, k) r = Relu(a)
        c = Conv<kernel_shape=[3,2]{", " + written if written else ""}>(r, w)
        g = GlobalAveragePool(c) f = Flatten(g) y = Gemm(f, v) }}""",
        k=(8, 4, 1, 1),
        w=(8, 8 // group, 3, 2),
        v=(8, 3),
    )


def moments_of_all(model, layer, images=IMAGES):
    """By running: with a unit weight for each k in turn, outputs are the columns' k-th values."""
    width = constants_of(model)[layer.weight].reshape(-1).size // (8 if layer.name == "c" else 1)
    columns = []
    for k in range(width):
        weight = np.zeros((layer.group, width), np.float32)
        weight[:, k] = 1
        kernel = constants_of(model)[layer.weight].shape[1:]
        attributes = next(n for n in model.graph.node if n.name == layer.name).attribute
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("Conv", ["r", "w"], ["c"])],
            "one",
            [onnx.helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, None)],
            [onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, None)],
            [onnx.numpy_helper.from_array(weight.reshape(layer.group, *kernel), "w")],
        )
        graph.node[0].attribute.extend(attributes)
        alone = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=8)
        read = answers(with_outputs(model, [layer.input]), images)[1]
        columns.append(answers(alone, read)[0].transpose(1, 0, 2, 3).reshape(layer.group, -1))
    stacked = np.stack(columns, axis=1).astype(np.float64)  # [G,K,P]
    found = stacked @ stacked.transpose(0, 2, 1) / stacked.shape[2]
    return found[0] if layer.group == 1 else found


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"pads": "[1,0,1,1]"},
        {"pads": "[2,1,0,3]", "strides": "[2,3]"},
        {"dilations": "[2,3]", "pads": "[1,1,1,1]"},
        {"group": 2, "pads": "[1,1,1,1]"},
        {"group": 8, "strides": "[1,2]"},
    ],
)
def test_with_every_position_they_are_those_of_the_convolution_itself(attributes):
    model = network(**attributes)
    layer = next(layer for layer in layers(model) if layer.name == "c")
    found = second_moments(model, [IMAGES], ["c"], positions=10**6, threads=1)["c"]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, moments_of_all(model, layer), rtol=1e-5, atol=1e-6)


def test_matrix_products_read_rows():
    model = model_of(
        """(float[N,4,9,7] x) => (float[N,4,9,2] z, float[N,3] y) {
        z = MatMul(x, m) g = GlobalAveragePool(x) f = Flatten(g) y = Gemm(f, v) }""",
        m=(7, 2),
        v=(4, 3),
    )
    found = second_moments(model, [IMAGES[:2], IMAGES[2:]], ["y", "z"], positions=36, threads=1)
    rows = IMAGES.reshape(-1, 7).astype(np.float64)
    np.testing.assert_allclose(found["z"], rows.T @ rows / len(rows), rtol=1e-5, atol=1e-6)
    means = IMAGES.mean(axis=(2, 3), dtype=np.float64)
    np.testing.assert_allclose(found["y"], means.T @ means / 5, rtol=1e-5, atol=1e-7)
    assert list(found) == ["y", "z"]
    assert len(found) == 2


def test_they_are_symmetric_and_never_negative():
    found = second_moments(network(pads="[1,1,1,1]"), [IMAGES], ["a", "c", "y"], threads=1)
    for moments in found.values():
        np.testing.assert_allclose(moments, moments.T, rtol=1e-6, atol=1e-7)
        assert np.linalg.eigvalsh(moments).min() > -1e-5 * np.trace(moments)


def test_a_sample_of_positions_is_close_to_all_of_them():
    images = noise(64, 4, 9, 7)
    model = network(pads="[1,1,1,1]")
    some = second_moments(model, [images], ["c"], positions=16, threads=1)["c"]
    every = second_moments(model, [images], ["c"], positions=10**6, threads=1)["c"]
    assert np.linalg.norm(some - every) < 0.2 * np.linalg.norm(every)
    assert (some != every).any()


def test_seed_layer_and_order_of_images_choose_the_positions_and_nothing_else():
    model = network()

    def found(batches, **options):
        return second_moments(model, batches, ["c"], positions=2, **options)["c"]

    base = found([IMAGES], threads=1)
    np.testing.assert_array_equal(base, found([IMAGES[:1], IMAGES[1:]], threads=2))
    np.testing.assert_array_equal(base, found([IMAGES], threads=1))
    with_others = second_moments(model, [IMAGES], ["y", "c", "a"], positions=2, threads=1)["c"]
    np.testing.assert_array_equal(base, with_others)
    assert (base != found([IMAGES], threads=1, seed=1)).any()


def test_no_more_images_are_drawn_than_count():
    drawn = []

    def batches():
        for index in range(100):
            drawn.append(index)
            yield IMAGES[:3]

    second_moments(network(), batches(), ["c"], images=7, threads=1)
    assert len(drawn) == 3
    drawn.clear()
    second_moments(network(), batches(), ["c"], images=1000, threads=1)
    assert len(drawn) == 22  # 64 images
    some = second_moments(network(), [IMAGES], ["c"], images=3, threads=1)["c"]
    first = second_moments(network(), [IMAGES[:3]], ["c"], threads=1)["c"]
    np.testing.assert_array_equal(some, first)


def test_a_fixed_batch_counts_no_filling():
    model = network()
    fixed = onnx.ModelProto.FromString(model.SerializeToString())
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    one = second_moments(model, [IMAGES], ["c"], threads=1)["c"]
    np.testing.assert_array_equal(one, second_moments(fixed, [IMAGES], ["c"], threads=1)["c"])


def test_what_is_no_layer_is_named():
    with pytest.raises(ModelError, match="'r' is no Conv, Gemm or MatMul"):
        second_moments(network(), [IMAGES], ["c", "r"], threads=1)


def test_no_image_is_an_error():
    with pytest.raises(DataError, match="there is no image"):
        second_moments(network(), [], ["c"], threads=1)


@pytest.mark.slow
def test_those_of_a_resnet50_cost_no_multiple_of_what_they_should():
    """Processor time at one thread, all 54 layers, 64 images, plain before and after."""
    model = prepare(resnet50_v1(), run_once, (3, 224, 224)).model
    images = prepared(tiny_dataset(4, 16, 224, seed=5))
    plain = Session(model.SerializeToString(), threads=1)

    def spent(work):
        start = time.process_time()
        work()
        return time.process_time() - start

    def infer():
        for image in images:
            plain.run(image[None])

    def gather():
        names = [layer.name for layer in layers(model)]
        found = second_moments(model, [images], names, threads=1)
        assert len([found[name].shape for name in found]) == 54

    plain.run(images[:1])
    before, between, after = spent(infer), spent(gather), spent(infer)
    print(f"moments cost {2 * between / (before + after):.2f} times the plain inference")
    assert between <= 5 * (before + after) / 2  # under 3 when quiet; this only catches defects
