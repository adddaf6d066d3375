"""The grid of 8-bit images, found in their values, and the integers that it gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.repair.pixels import compensated, exact, grid_of

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CAFFE = ((123.68, 116.78, 103.94), (1.0, 1.0, 1.0))


def every_pixel():
    """uint8 [2,3,16,16]: each channel has all 256 values, in an order of its own."""
    rng = np.random.default_rng(0)
    return (
        np.stack([rng.permutation(512) % 256 for _ in range(3)])
        .reshape(3, 2, 16, 16)
        .swapaxes(0, 1)
    )


def normalised(pixels, mean, std, largest=255):
    shape = (1, 3, 1, 1)
    values = pixels / largest - np.reshape(mean, shape)
    return (values / np.reshape(std, shape)).astype(np.float32)


def integers(images, done):
    """What QuantizeLinear makes of them, in float32 as it computes."""
    values = images
    if done.factor is not None:
        values = values * done.factor.astype(np.float32).reshape(1, -1, 1, 1)
    if done.shift is not None:
        values = values + done.shift.astype(np.float32).reshape(1, -1, 1, 1)
    steps = values / np.float32(done.encoding.scale)
    assert np.abs(steps - np.rint(steps)).max() < 0.02  # none is near a half
    return np.clip(np.rint(steps) + done.encoding.zero_point, 0, 255).astype(int)


# ------------------------------------------------------------------------------- grid


def test_steps_and_the_place_of_zero_follow_from_the_values():
    grid = grid_of(normalised(every_pixel(), *IMAGENET))
    np.testing.assert_allclose(grid.step, [1 / 255 / s for s in IMAGENET[1]], rtol=1e-6)
    np.testing.assert_allclose(grid.zero, [255 * m for m in IMAGENET[0]], rtol=1e-5)
    assert grid.last.tolist() == [255, 255, 255]


def test_missing_values_leave_gaps():
    pixels = every_pixel()
    pixels = np.where(pixels % 5 == 0, 7, pixels)
    grid = grid_of(normalised(pixels, *HALF))
    np.testing.assert_allclose(grid.step, 2 / 255, rtol=1e-6)
    assert grid.last.tolist() == [253, 253, 253]


@pytest.mark.parametrize(
    "images",
    [
        np.random.default_rng(0).normal(size=(2, 3, 16, 16)),
        every_pixel() ** 2,
        every_pixel() * 300,
        np.sqrt(every_pixel()),
        np.where(every_pixel() < 255, every_pixel(), 255.4),
        np.where(every_pixel() < 255, every_pixel(), 256),
        np.zeros((2, 3, 16, 16)),
        np.full((2, 3, 16, 16), np.nan),
        np.zeros((0, 3, 16, 16)),
        np.zeros((2, 0, 16, 16)),
    ],
    ids=["real", "squares", "coarse", "roots", "beside", "257", "one", "nan", "none", "empty"],
)
def test_values_that_are_no_pixels_have_no_grid(images, request):
    found = grid_of(images.astype(np.float32))
    assert (found is None) == (request.node.callspec.id != "coarse")


def test_one_channel_without_a_grid_is_enough():
    images = normalised(every_pixel(), *IMAGENET)
    images[:, 2] = np.random.default_rng(0).normal(size=images[:, 2].shape)
    assert grid_of(images) is None


# --------------------------------------------------------------------------- integers


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    ("recipe", "largest"), [(HALF, 255), (IMAGENET, 255), (CAFFE, 1)], ids=["half", "zoo", "caffe"]
)
def test_each_pixel_keeps_an_integer_of_its_own(recipe, largest, padded):
    pixels = every_pixel()
    images = normalised(pixels, *recipe, largest)
    done = exact(grid_of(images), padded=padded)
    assert (integers(images, done) == pixels).all()


def test_one_step_for_all_channels_needs_no_factor():
    done = exact(grid_of(normalised(every_pixel(), *HALF)), padded=True)
    assert done.factor is None
    np.testing.assert_allclose(np.abs(done.shift), 1 / 255, rtol=1e-4)  # half a step
    assert float(done.encoding.scale) == pytest.approx(2 / 255)
    assert exact(grid_of(normalised(every_pixel(), *CAFFE, 1)), padded=True).factor is None


def test_pixels_that_are_integers_need_nothing():
    done = exact(grid_of((every_pixel() / 255).astype(np.float32)), padded=True)
    assert (done.factor, done.shift, done.encoding.zero_point) == (None, None, 0)


def test_values_that_no_image_had_have_room_at_both_ends():
    pixels = every_pixel() % 56 + 100
    for recipe, padded in ((HALF, True), (HALF, False), (IMAGENET, False)):
        images = normalised(pixels, *recipe)
        seen = integers(images, exact(grid_of(images), padded=padded))
        assert (seen.min(), seen.max()) in {(99, 154), (100, 155)}


@settings(deadline=None, max_examples=30)
@given(
    mean=st.tuples(*[st.floats(0, 1)] * 3),
    std=st.tuples(*[st.floats(0.05, 1)] * 3),
    padded=st.booleans(),
)
def test_whatever_the_normalisation(mean, std, padded):
    pixels = every_pixel()
    images = normalised(pixels, mean, std)
    assert (integers(images, exact(grid_of(images), padded=padded)) == pixels).all()


# ----------------------------------------------------------------------- compensation


@pytest.mark.parametrize("recipe", [HALF, IMAGENET])
def test_the_first_layer_computes_the_same(recipe):
    images = normalised(every_pixel(), *recipe)
    done = exact(grid_of(images), padded=True)
    rng = np.random.default_rng(1)
    weight, bias = rng.normal(size=(4, 3, 1, 1)), rng.normal(size=4)
    moved, offset = compensated(done, weight.astype(np.float32), bias.astype(np.float32))
    assert (moved.dtype, offset.dtype) == (np.float32, np.float32)
    real = (integers(images, done) - done.encoding.zero_point) * float(done.encoding.scale)
    seen = np.einsum("nchw,mc->nmhw", real, moved[:, :, 0, 0]) + offset.reshape(1, -1, 1, 1)
    wanted = np.einsum("nchw,mc->nmhw", images, weight[:, :, 0, 0]) + bias.reshape(1, -1, 1, 1)
    np.testing.assert_allclose(seen, wanted, atol=1e-4)
