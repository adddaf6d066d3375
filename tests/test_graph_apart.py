"""A model in two parts: it computes what the whole one does, and no weights are moved."""

import gc
import weakref

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from graphs import answers, build, noise
from models import tiny_resnet
from quantize.errors import ModelError
from quantize.graph.apart import Apart, apart, place
from quantize.graph.io import to_bytes
from quantize.runtime import Session

IMAGES = noise(3, 3, 16, 16)


def loaded(parts, **options):
    return Session(to_bytes(parts.model), constants=parts.constants, **options)


@pytest.mark.parametrize("batch", [None, 3])
def test_the_parts_answer_as_the_whole_to_the_last_bit(batch):
    whole = tiny_resnet(batch=batch)
    parts = apart(whole)
    assert parts.constants
    np.testing.assert_array_equal(loaded(parts).run(IMAGES)[0], answers(whole, IMAGES)[0])


def test_the_model_itself_is_not_changed_and_the_other_is_light():
    whole = tiny_resnet()
    before = whole.SerializeToString(deterministic=True)
    parts = apart(whole)
    assert whole.SerializeToString(deterministic=True) == before
    assert parts.model.ByteSize() < 0.5 * len(before)
    assert parts.size == pytest.approx(len(before), rel=0.1)
    assert [t.name for t in parts.model.graph.initializer] == [
        t.name for t in whole.graph.initializer
    ]


def test_small_constants_stay_and_those_of_other_types():
    whole = build(
        """(float[N,2,16] x) => (float[N,32] y) {
            [c] h = Cast<to=1>(big)
            [a] s = Add(x, h)
            [r] y = Reshape(s, shape)
        }""",
        big=np.arange(512, dtype=np.int64)[:32].reshape(1, 2, 16),
        shape=np.asarray([0, -1], np.int64),
    )
    whole.graph.initializer.append(numpy_helper.from_array(np.arange(4096), "unread"))
    parts = apart(whole)
    assert parts.constants == {}
    assert parts.model.graph.initializer == whole.graph.initializer


def test_constants_that_a_file_lists_among_its_inputs():
    whole = tiny_resnet()
    for tensor in whole.graph.initializer:
        value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        whole.graph.input.append(value)
    session = loaded(apart(whole))
    assert session.inputs == ["data"]
    np.testing.assert_array_equal(session.run(IMAGES)[0], answers(whole, IMAGES)[0])


def test_values_that_are_no_raw_bytes():
    whole = build("(float[N,256] x) => (float[N,256] y) { [a] y = Add(x, w) }", w=(256,))
    values = numpy_helper.to_array(whole.graph.initializer[0]).tolist()
    typed = onnx.helper.make_tensor("w", TensorProto.FLOAT, [256], values)
    whole.graph.initializer[0].CopyFrom(typed)
    parts = apart(whole)
    assert parts.constants["w"].tolist() == values


def test_large_constants_are_placed_beside_and_small_ones_inside():
    parts = Apart(onnx.ModelProto(), {})
    weight, scale = np.ones((256, 2), np.float32), np.asarray(2, np.float32)
    place(parts, "weight", weight)
    place(parts, "scale", scale)
    assert parts.constants == {"weight": weight}
    first, second = parts.model.graph.initializer
    assert (first.name, list(first.dims), first.raw_data) == ("weight", [256, 2], b"")
    assert numpy_helper.to_array(second) == 2


def test_a_session_keeps_the_constants_that_were_lent_to_it():
    parts = apart(tiny_resnet())
    lent = [weakref.ref(value) for value in parts.constants.values()]
    session = loaded(parts, optimize=False)
    parts.constants.clear()
    gc.collect()
    assert all(value() is not None for value in lent)
    np.testing.assert_allclose(
        session.run(IMAGES)[0], answers(tiny_resnet(), IMAGES)[0], rtol=1e-4, atol=1e-5
    )


def test_constants_that_nobody_lends_are_an_error():
    with pytest.raises(ModelError, match="the light half does not load: "):
        Session(to_bytes(apart(tiny_resnet()).model), name="the light half")
