"""Every resize against OpenCV itself."""

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quantize.data import resize as module
from quantize.data.resize import MAX_RESIZED_PIXELS, UnfitImage, check_resized, resize
from quantize.errors import DataError

CODES = {
    "bilinear": cv2.INTER_LINEAR,
    "nearest": cv2.INTER_NEAREST,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
}
SIDE = st.integers(1, 70)


@pytest.fixture(params=[False, True], ids=["plain", "ipp"])
def ipp(request):
    """OpenCV with and without Intel's IPP, which rounds differently."""
    if request.param and not cv2.ipp.useIPP():
        pytest.skip("this OpenCV has no IPP")
    before = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(request.param)
    yield request.param
    cv2.ipp.setUseIPP(before)


def picture(height, width, channels, dtype, seed=0):
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 256, (height, width, channels))
    return levels.astype(np.uint8) if dtype == np.uint8 else (levels / 255).astype(dtype)


def opencv(image, height, width, method):
    resized = cv2.resize(image, (width, height), interpolation=CODES[method])
    return resized.reshape(height, width, image.shape[2])


@pytest.mark.parametrize("method", CODES)
@settings(deadline=None, max_examples=60)
@given(height=SIDE, width=SIDE, rows=SIDE, columns=SIDE, channels=st.sampled_from([1, 3]))
@example(height=40, width=60, rows=20, columns=30, channels=3)  # halves: OpenCV averages blocks
@example(height=30, width=60, rows=10, columns=12, channels=3)  # whole factors, not equal
@example(height=20, width=60, rows=40, columns=30, channels=3)  # one axis grows, one shrinks
@example(height=1, width=1, rows=9, columns=7, channels=3)
@example(height=9, width=7, rows=1, columns=1, channels=1)
@example(height=9, width=7, rows=9, columns=7, channels=3)
def test_bytes_come_out_as_from_opencv(method, height, width, rows, columns, channels):
    image = picture(height, width, channels, np.uint8)
    cv2.ipp.setUseIPP(False)
    try:
        expected = opencv(image, rows, columns, method)
    finally:
        cv2.ipp.setUseIPP(True)

    result = resize(image, rows, columns, method)

    assert result.dtype == np.uint8
    difference = np.abs(result.astype(int) - expected)
    assert difference.max() <= (0 if method in ("bilinear", "nearest") else 1)
    assert (difference > 0).sum() <= 2 + difference.size // 100  # sums that end on a half


@pytest.mark.parametrize("method", CODES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(deadline=None, max_examples=40)
@given(height=SIDE, width=SIDE, rows=SIDE, columns=SIDE, channels=st.sampled_from([1, 3]))
@example(height=40, width=60, rows=20, columns=30, channels=3)
@example(height=30, width=60, rows=10, columns=12, channels=3)
@example(height=20, width=60, rows=40, columns=30, channels=3)
def test_floats_come_out_as_from_opencv(method, dtype, height, width, rows, columns, channels):
    image = picture(height, width, channels, dtype)

    result = resize(image, rows, columns, method)

    assert result.dtype == dtype
    np.testing.assert_allclose(result, opencv(image, rows, columns, method), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", CODES)
def test_real_sizes_come_out_as_from_opencv_with_and_without_ipp(method, ipp):
    image = picture(375, 500, 3, np.uint8)
    for rows, columns in [(256, 256), (256, 341), (600, 224)]:
        difference = np.abs(
            resize(image, rows, columns, method).astype(int) - opencv(image, rows, columns, method)
        )
        assert difference.max() <= 1, ipp


@pytest.mark.parametrize("method", CODES)
@pytest.mark.parametrize("shape", [(20_000, 20), (20, 20_000)])
def test_very_long_images_come_out_as_from_opencv(method, shape):
    image = picture(*shape, 3, np.uint8)
    difference = np.abs(
        resize(image, 256, 256, method).astype(int) - opencv(image, 256, 256, method)
    )
    assert difference.max() <= 1


@pytest.mark.parametrize("method", CODES)
def test_chunks_do_not_show(method, monkeypatch):
    image = picture(50, 40, 3, np.uint8)
    whole = resize(image, 33, 70, method)
    monkeypatch.setattr(module, "_CHUNK", 500)
    np.testing.assert_array_equal(resize(image, 33, 70, method), whole)


def test_the_image_itself_is_left_alone():
    image = picture(30, 40, 3, np.float32)
    before = image.copy()
    for method in CODES:
        resize(image, 15, 20, method)
        resize(image, 17, 23, method)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("image", [np.zeros((4, 4, 3), np.int64), np.zeros((4, 4), np.uint8)])
def test_other_arrays_are_refused_with_a_cure(image):
    with pytest.raises(DataError, match=r"cannot resize an array.*before Transpose"):
        resize(image, 2, 2, "bilinear")


def test_results_beyond_memory_are_refused_before_any_is_taken():
    check_resized(10_000, MAX_RESIZED_PIXELS // 10_000)
    with pytest.raises(UnfitImage, match="256000000 x 256 pixels"):
        resize(picture(1, 1, 3, np.uint8), 256, 256_000_000, "area")
