"""The declared batch: a number, or any."""

import onnx
import pytest

from graphs import noise
from models import tiny_resnet
from quantize.conversion.batch import with_batch
from quantize.conversion.proof import EXACT, prove, traced
from quantize.errors import ModelError
from quantize.graph.view import dims


def declared(model):
    return [dims(v)[0] for v in (*model.graph.input, *model.graph.output)]


@pytest.mark.parametrize(("batch", "expected"), [(1, 1), (8, 8), ("free", None)])
def test_any_batch_from_a_free_one(batch, expected):
    model = onnx.shape_inference.infer_shapes(tiny_resnet())
    made = with_batch(model, batch)
    assert declared(made) == [expected] * 2
    assert declared(model) == [None] * 2
    assert not made.graph.value_info
    onnx.checker.check_model(made, full_check=True)
    prove("batch", traced(model), made, noise(10, 3, 16, 16), EXACT)


@pytest.mark.parametrize("batch", [2, "free"])
def test_a_fixed_graph_takes_no_other(batch):
    with pytest.raises(ModelError, match="the graph computes 4 images at once and no other"):
        with_batch(tiny_resnet(batch=4), batch)
    assert declared(with_batch(tiny_resnet(batch=4), 4)) == [4, 4]


@pytest.mark.parametrize("batch", [0, -1, 1025])
def test_numbers_that_are_no_batch(batch):
    with pytest.raises(ModelError, match="is not from 1 to 1024"):
        with_batch(tiny_resnet(), batch)
