"""The preprocessing as ONNX operators against our own, on images of several sizes."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from quantize.bundle.contract import expanded
from quantize.bundle.front import with_preprocessing
from quantize.bundle.samples import _picture
from quantize.data.steps import (
    AlignImageChannel,
    BilinearImagenet,
    Cast,
    CenterCrop,
    CropResize,
    CropToBoundingBox,
    Normalize,
    Rescale,
    Resize,
    ResizeCropImagenet,
    ResizeWithAspectRatio,
    ToArray,
    Transpose,
)
from quantize.data.transforms import Pipeline, Preset
from quantize.errors import BundleError
from quantize.graph.expose import with_outputs
from quantize.graph.io import to_bytes
from quantize.runtime import Session

STD = (0.229, 0.224, 0.225)
END = (Rescale(), Normalize((0.485, 0.456, 0.406), STD), Transpose((2, 0, 1)), Cast())
SIZES = [(61, 83), (83, 61), (64, 64), (40, 100), (24, 24)]
GREY = 1 / 255 / min(STD)


def network(size=16, batch="N", opset=13):
    data = helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, 3, size, size])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 3])
    nodes = [
        helper.make_node("GlobalAveragePool", ["data"], ["pool"], "pool"),
        helper.make_node("Flatten", ["pool"], ["scores"], "flatten"),
    ]
    graph = helper.make_graph(nodes, "net", [data], [scores])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def picture(height, width, seed=0):
    """Smooth areas with hard edges on them, as photographs have."""
    image = _picture(height, width, seed)
    image[height // 3 : height // 2, width // 4 : width // 2] = (250, 5, 120)
    image[:, width // 2 : width // 2 + 2] = 0
    return image


def seen_by_model(steps, image, size=16, opset=13):
    pipeline = Pipeline(steps)
    made = with_preprocessing(network(size, opset=opset), expanded(pipeline), (3, size, size))
    onnx.checker.check_model(made)
    session = Session(to_bytes(with_outputs(made, ["data"])))
    values = dict(zip(session.outputs, session.run(image), strict=True))
    return values["data"][0], values["scores"], pipeline(image)


RECIPES = {
    "short_side": (Preset("short_side", size=16, resize=18),),
    "squash224": (Preset("squash224", size=16),),
    "squash256": (Preset("squash256", size=16, resize=18),),
    "published": (Preset("published", size=16, resize=18),),
    "bilinear": (ToArray(), AlignImageChannel(3), Resize((16, 16)), *END),
    "nearest": (Resize(16, "nearest"), *END),
    "bicubic": (Resize(16, "bicubic"), *END),
    "enlarged": (Resize((40, 150)), CenterCrop(16), *END),
    "float": (Rescale(), Resize(16), Normalize((0.5,), STD), Transpose((2, 0, 1)), Cast()),
    "imagenet": (ResizeCropImagenet(16, 16, resize_side=18, mean_value=(0.4, 0.5, 0.6)),),
    "area": (ResizeWithAspectRatio(16, 16), CenterCrop(16), *END),
    "area enlarged": (ResizeWithAspectRatio(90, 90), CenterCrop(16), *END),
    "box": (CropToBoundingBox(3, 5, 16, 16), *END),
    "box and resize": (CropResize(2, 3, 50, 20, 16), *END),
    "bilinear_imagenet": (BilinearImagenet(16, 16, mean_value=(0.1, 0.2, 0.3)), END[2]),
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("size", SIZES)
def test_equal_to_our_own_within_one_grey_level(recipe, size):
    seen, scores, wanted = seen_by_model(RECIPES[recipe], picture(*size))
    assert seen.shape == wanted.shape
    assert np.abs(seen - wanted).max() <= GREY * 1.001
    assert np.abs(seen - wanted).mean() <= GREY / 4
    np.testing.assert_allclose(scores[0], seen.mean(axis=(1, 2)), atol=1e-4)


def test_an_image_of_the_models_size_needs_no_resize():
    seen, _, wanted = seen_by_model((Preset("zoo_snippet"),), picture(16, 16))
    np.testing.assert_allclose(seen, wanted, atol=1e-5)


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_any_opset_of_the_model_will_do(opset):
    seen, _, wanted = seen_by_model(RECIPES["short_side"], picture(50, 70), opset=opset)
    assert np.abs(seen - wanted).max() <= GREY * 1.001


def test_it_takes_an_image_as_decoded_and_only_standard_operators():
    made = with_preprocessing(network(), expanded(Pipeline(RECIPES["squash224"])), (3, 16, 16))
    image = made.graph.input[0].type.tensor_type
    assert image.elem_type == TensorProto.UINT8
    assert [d.dim_param or d.dim_value for d in image.shape.dim] == ["height", "width", 3]
    assert {node.domain for node in made.graph.node} == {""}
    assert [v.name for v in made.graph.output] == ["scores"]


def test_names_of_the_model_are_not_taken():
    model = network()
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "image"
    made = with_preprocessing(model, expanded(Pipeline(RECIPES["squash224"])), (3, 16, 16))
    onnx.checker.check_model(made)
    assert made.graph.input[0].name == "image_1"


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        ((AlignImageChannel(1), *END), "AlignImageChannel"),
        ((Rescale(), Cast("uint8"), END[2]), "Cast to uint8"),
        ((Transpose((1, 0, 2)), *END), "Transpose"),
        ((Rescale(), Transpose((2, 0, 1)), Normalize((1.0, 2.0, 3.0), STD)), "Normalize"),
        ((Rescale(), Cast()), "channels last"),
    ],
)
def test_what_has_no_operators_is_refused_by_name(steps, name):
    with pytest.raises(BundleError, match=name):
        with_preprocessing(network(), steps, (3, 16, 16))


def test_a_fixed_batch_is_refused():
    with pytest.raises(BundleError, match="4 images at once"):
        with_preprocessing(network(batch=4), END, (3, 16, 16))


def test_an_image_that_is_too_small_fails_instead_of_giving_a_wrong_answer():
    made = with_preprocessing(network(), (CenterCrop(16), *END), (3, 16, 16))
    session = Session(to_bytes(made))
    assert session.run(picture(20, 20))[0].shape == (1, 3)
    with pytest.raises(Exception, match="Reshape"):
        session.run(picture(15, 40))
