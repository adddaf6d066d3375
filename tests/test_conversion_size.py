"""Other image sizes: where the graph allows them, and why not elsewhere."""

import numpy as np
import onnx
import pytest

from graphs import build, noise
from models import tiny_resnet
from quantize.conversion.proof import scores_of, traced
from quantize.conversion.size import check_sides, prove_size, with_size
from quantize.errors import ConversionError, ModelError
from quantize.graph.view import dims

OLD, NEW = noise(2, 3, 16, 16), noise(2, 3, 24, 40)


def test_global_pooling_allows_any_size():
    model = tiny_resnet()
    made = with_size(model, (24, 40))
    assert dims(made.graph.input[0]) == [None, 3, 24, 40]
    assert dims(model.graph.input[0]) == [None, 3, 16, 16]
    onnx.checker.check_model(made, full_check=True)
    check = prove_size(traced(model), made, OLD, NEW)
    assert "the only one that it takes" in check.note
    free = tiny_resnet()
    for axis in free.graph.input[0].type.tensor_type.shape.dim[2:]:
        axis.dim_param = axis.dim_param or "side"
        axis.ClearField("dim_value")
    check = prove_size(traced(free), made, OLD, NEW)
    assert (check.note, check.distance is not None) == ("", True)


@pytest.mark.parametrize(
    ("graph", "why"),
    [
        # a fixed window, then as many features as the old size gives
        (
            "{ p = AveragePool<kernel_shape = [8, 8], strides = [8, 8]>(x) f = Flatten(p)"
            " y = MatMul(f, w) }",
            "the converted model",
        ),
        # more pixels become more images
        (
            "{ p = AveragePool<kernel_shape = [8, 8], strides = [8, 8]>(x) f = Reshape(p, s)"
            " y = MatMul(f, w) }",
            r"2 images give scores \[4, 4\]",
        ),
    ],
)
def test_a_graph_that_knows_its_size_is_refused_with_the_reason(graph, why):
    model = build(
        f"(float[N,3,16,16] x) => (float[N,4] y) {graph}", w=(12, 4), s=np.array([-1, 12], np.int64)
    )
    resized = noise(2, 3, 16, 32)
    with pytest.raises(ModelError, match=f"the graph does not allow 16x32 images: {why}"):
        prove_size(scores_of(model), with_size(model, (16, 32)), OLD, resized)


def test_images_that_change_their_neighbours_scores_are_found():
    """[-1, 12] tells images apart at the old size; at the new one their pixels are mixed."""
    model = build(
        "(float[N,3,16,16] x) => (float[N,4] y)"
        "{ p = GlobalAveragePool(x) m = ReduceMean<axes = [0], keepdims = 1>(p)"
        " h = Shape(x) r = Slice(h, two, three) e = Equal(r, side) k = Cast<to = 1>(e)"
        " d = Sub(one, k) n = Mul(m, d) q = Add(p, n) f = Flatten(q) y = MatMul(f, w) }",
        w=(3, 4),
        two=np.array([2], np.int64),
        three=np.array([3], np.int64),
        side=np.array([16], np.int64),
        one=np.float32(1),
    )
    with pytest.raises(ConversionError, match="scores change with its neighbours"):
        prove_size(scores_of(model), with_size(model, (24, 40)), OLD, NEW)


def test_another_network_is_found_at_the_old_size():
    with pytest.raises(ConversionError, match="image size: the outputs differ"):
        prove_size(traced(tiny_resnet()), with_size(tiny_resnet(seed=1), (24, 40)), OLD, NEW)


@pytest.mark.parametrize("sides", [(223, 224), (224, 223), (0, 500), (224, 5000)])
def test_sizes_that_these_networks_do_not_take(sides):
    check_sides((224, 256))
    with pytest.raises(ModelError, match=r"is not from 224 to 4096"):
        check_sides(sides)
