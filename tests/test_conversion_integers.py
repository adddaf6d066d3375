"""int8 between two forms: the same integers, bit for bit."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models import tiny_resnet
from quantize.conversion.integers import check_integers, with_format
from quantize.errors import ConversionError, ModelError


def holding(**weights):
    """A model with these constants; nothing else is looked at."""
    model = onnx.ModelProto()
    for name, value in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


W = np.arange(-12, 12, dtype=np.int8).reshape(2, 3, 2, 2)
M = np.arange(6, dtype=np.int8).reshape(2, 3)


def test_names_and_transposed_matrices_do_not_matter():
    before = holding(w=W, m=M, zero=np.zeros(2, np.int8), scale=np.ones((2, 2), np.float32))
    after = holding(other=np.ascontiguousarray(M.T), w_quantized=W)
    assert check_integers(before, after) == 2


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"w": W + np.int8(1)},
        {"w": W.reshape(2, 3, 4)},
        {"w": W.astype(np.uint8)},
        {"m": W[:, :, 0, 0]},
        {"w": np.ascontiguousarray(W.transpose(0, 1, 3, 2))},
    ],
)
def test_one_changed_integer_is_found_by_name(other):
    with pytest.raises(ConversionError, match="the integers of weight 'w' are not those"):
        check_integers(holding(w=W), holding(**other))


def test_a_weight_counts_once():
    with pytest.raises(ConversionError, match="'again'"):
        check_integers(holding(w=W, again=W), holding(w=W))


def test_a_float_model_has_no_format():
    with pytest.raises(ModelError, match="is not int8, so it has no format; quantize it first"):
        with_format(tiny_resnet(), "qdq")
