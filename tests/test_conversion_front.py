"""Files that take images as decoded: the proof that they see what we would give them."""

import numpy as np
import pytest

from models import tiny_resnet
from quantize.conversion.float16 import to_float16
from quantize.conversion.front import prove_front, with_front
from quantize.conversion.pictures import pictures, recipe_of
from quantize.data.steps import AlignImageChannel, Rescale, Transpose
from quantize.data.transforms import Pipeline
from quantize.errors import ConversionError, ModelError
from quantize.runtime import Session

SIZE = (3, 16, 16)
MODEL = tiny_resnet()
RECIPE = recipe_of("short_side", SIZE)


@pytest.mark.parametrize("opset", [13, 18])
def test_images_arrive_as_prepared(opset):
    model = tiny_resnet(opset=opset)
    joined = with_front(model, RECIPE, SIZE)
    seen = pictures(SIZE, None, RECIPE, 8)
    check = prove_front(model, joined, RECIPE, seen)
    assert (check.images, check.agreement) == (2, 1.0)
    assert "of the pixels within one grey level" in check.line()
    image = seen.decoded[0]
    scores = Session(joined.SerializeToString()).run(image)[0]
    np.testing.assert_allclose(
        scores, Session(model.SerializeToString()).run(RECIPE(image)[None])[0], atol=0.05
    )


def test_another_preprocessing_is_found():
    joined = with_front(MODEL, recipe_of("squash256", SIZE), SIZE)
    seen = pictures(SIZE, None, RECIPE, 4)
    with pytest.raises(ConversionError, match="the first layer that differs is the image 'data'"):
        prove_front(MODEL, joined, RECIPE, seen)


def test_a_recipe_that_does_not_resize_is_proven_too():
    recipe = Pipeline((Rescale(), Transpose((2, 0, 1))))
    joined = with_front(MODEL, recipe, SIZE)
    prove_front(MODEL, joined, recipe, pictures(SIZE, None, recipe, 4))


def test_what_cannot_stand_in_front_is_refused():
    with pytest.raises(ModelError, match="needs operators of opset 13, not 9"):
        with_front(tiny_resnet(opset=9), RECIPE, SIZE)
    half, _ = to_float16(MODEL, ports=True)
    with pytest.raises(ModelError, match="drop --float16-io"):
        with_front(half, RECIPE, SIZE)
    with pytest.raises(ModelError, match=r"takes 4 images at once.*drop --with-preprocessing"):
        with_front(tiny_resnet(batch=4), RECIPE, SIZE)
    grey = Pipeline((AlignImageChannel(1), Rescale(), Transpose((2, 0, 1))))
    with pytest.raises(ModelError, match="AlignImageChannel to 1 channels"):
        with_front(MODEL, grey, SIZE)
