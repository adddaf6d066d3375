"""A recipe by way of its table gives the very bits of its steps, one after the other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.data import steps, transforms
from quantize.data.levels import divide
from quantize.data.presets import Preset
from quantize.data.transforms import Pipeline
from quantize.errors import DataError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CHW = steps.Transpose((2, 0, 1))
NORMALIZE = steps.Normalize(MEAN, STD)
FLOAT = steps.Cast("float32")


def image(height=20, width=30, seed=0, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def by_steps(recipe, pixels):
    result = pixels
    for step in recipe:
        result = step(result)
    return np.ascontiguousarray(result, np.float32)


def same(recipe, pixels, *, channels_last=False):
    pipeline = Pipeline(tuple(recipe), channels_last)
    expected = by_steps(recipe, pixels)
    got = pipeline(pixels)
    assert (got.dtype, got.shape) == (np.float32, expected.shape)
    assert got.flags.c_contiguous
    assert got.tobytes() == expected.tobytes()
    return pipeline


DIVIDED = {
    "cifar": (steps.Rescale(), NORMALIZE, CHW, FLOAT),
    "normal last": (steps.Resize(9), NORMALIZE, FLOAT, CHW),
    "raw": (CHW, FLOAT),
    "bare": (CHW,),
    "crop": (steps.Resize((12, 16)), steps.CenterCrop(8), steps.Rescale(), NORMALIZE, CHW),
    "scaled behind": (steps.CropResize(1, 2, 9, 8, 6), CHW, steps.Rescale()),
    "turned": (steps.Rescale(), steps.Transpose((1, 0, 2)), steps.Transpose((2, 1, 0))),
    "half": (steps.Cast("float16"), CHW),
    "wraps": (steps.Cast("int8"), steps.Rescale(), CHW),
    "grey": (steps.AlignImageChannel(1), steps.Normalize((0.5,), (0.25,)), CHW),
    "box": (steps.CropToBoundingBox(1, 2, 8, 9), steps.ToArray(), steps.Rescale(), CHW),
    "mxnet": (steps.ResizeCropImagenet(8, 9, resize_side=12, mean_value=MEAN),),
    "aspect": (steps.ResizeWithAspectRatio(8, 8), steps.CenterCrop(8), steps.Rescale(), CHW),
    "short": (Preset("short_side", size=8, resize=10),),
    "squash": (Preset("squash224", size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.4, 0.3)),),
    "notebook": (Preset("squash256", size=8, resize=9),),
    "snippet": (Preset("zoo_snippet"),),
}
WHOLE = {
    "published": (Preset("published", size=8, resize=9),),
    "float resize": (steps.Rescale(), steps.Resize(9), CHW),
    "mean of columns": (CHW, steps.Normalize((0.1,), (0.2,))),
    "tensorflow": (steps.BilinearImagenet(8, 8), CHW),
    "crop behind": (steps.Rescale(), steps.CenterCrop(8), CHW),
}


@pytest.mark.parametrize("name", DIVIDED)
def test_pixels_and_a_table_give_the_bits_of_the_steps(name):
    for seed, size in enumerate([(20, 30), (31, 17), (24, 24)]):
        pipeline = same(DIVIDED[name], image(*size, seed))
        assert pipeline.in_pixels
        assert pipeline.begin(image(*size, seed)).dtype == np.uint8


@pytest.mark.parametrize("name", WHOLE)
def test_other_recipes_stay_as_they_are(name):
    pipeline = same(WHOLE[name], image())
    assert not pipeline.in_pixels
    assert pipeline.begin(image()).dtype == np.float32


def test_channels_may_stay_last():
    same((steps.Rescale(), NORMALIZE), image(), channels_last=True)


def test_grey_images_of_one_channel():
    same((steps.Rescale(), CHW), image(28, 28, channels=1))


values = st.floats(-300, 300, allow_nan=False)
spreads = st.floats(1e-6, 300)
arithmetic = st.one_of(
    st.just(steps.Rescale()),
    st.builds(
        steps.Normalize,
        st.tuples(values, values, values),
        st.one_of(st.tuples(spreads), st.tuples(spreads, spreads, spreads)),
    ),
    st.builds(steps.Cast, st.sampled_from(["float32", "float64", "float16", "int16", "uint8"])),
)


@given(st.lists(arithmetic, max_size=4), st.booleans(), st.integers(0, 9))
@settings(deadline=None)
def test_any_arithmetic_is_the_same(chosen, first, seed):
    recipe = (*chosen, CHW) if first else (*chosen[:1], CHW, *chosen[1:])
    same([s for s in recipe if first or not isinstance(s, steps.Normalize)], image(6, 7, seed))


def test_every_level_of_every_channel_is_looked_up():
    ramp = np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, axis=2)
    same(DIVIDED["cifar"], ramp)


def test_recipes_that_differ_behind_the_pixels_share_them():
    one, two = (Pipeline((Preset("short_side", mean=(m, m, m)),)) for m in (0.1, 0.2))
    assert one.key() != two.key()
    assert one.begun_key() == two.begun_key()
    assert one.begun_key() != Pipeline((Preset("short_side", size=200),)).begun_key()
    assert one.begun_key() != Pipeline((Preset("published"),)).begun_key()


@pytest.mark.parametrize("recipe", [(Preset("short_side"),), (steps.RandomCrop(4), CHW)])
def test_pixels_of_another_decoder_are_not_taken(monkeypatch, recipe):
    """A run that was cut short may be continued with another Pillow."""
    one = Pipeline(recipe)
    begun, whole = one.begun_key(), one.key()
    monkeypatch.setattr(transforms, "DECODER", "Pillow 0.1")
    assert one.begun_key() != begun
    assert one.key() == whole  # a recipe is what it is


def test_a_recipe_of_another_form_is_not_divided():
    assert divide((steps.RandomCrop(4), CHW)) is None
    assert divide((steps.ResizeCropImagenet(4, 4, random_crop=True),)) is None
    assert divide((steps.Rescale(), steps.Transpose((1, 0)))) is None


def test_errors_name_the_image_not_the_table():
    with pytest.raises(DataError, match=r"mean has 3 values for an image \[20, 30, 1\]"):
        Pipeline((NORMALIZE, CHW))(image(channels=1))
    with pytest.raises(DataError, match=r"\[20, 30, 3\] of float64, so channels come last"):
        Pipeline((NORMALIZE,))(image())
