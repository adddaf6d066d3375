"""Decoding: what a person sees, and one line for what cannot be seen."""

import contextlib
import os
import pickle
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantize.data.images import (
    IMAGE_SUFFIXES,
    UnreadableImage,
    decode,
    encode_png,
    pillow_bilinear,
)
from quantize.errors import DataError, OutputError

SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "imagenet-sample"
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def gradient(height=6, width=8):
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 20, columns * 20, rows + columns], axis=2).astype(np.uint8)


def png_of_size(width, height):
    """A PNG whose header announces a size, with no pixels behind it."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (header, b"IDAT" + zlib.compress(b"\0"), b"IEND")
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".ppm", ".webp"])
def test_lossless_formats_come_back_exactly(tmp_path, suffix):
    path = tmp_path / f"image{suffix}"
    Image.fromarray(gradient()).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    image = decode(path)
    np.testing.assert_array_equal(image, gradient())
    assert image.dtype == np.uint8
    assert suffix in IMAGE_SUFFIXES


@pytest.mark.parametrize("suffix", [".bmp", ".pgm", ".tif"])
def test_a_file_of_the_same_name_in_the_working_directory_is_not_read(
    tmp_path, monkeypatch, suffix
):
    """Pillow maps uncompressed grey pixels from whatever path it is told."""
    (tmp_path / "images").mkdir()
    path = tmp_path / "images" / f"same{suffix}"
    Image.new("L", (40, 40), 10).save(path)
    Image.new("L", (40, 40), 200).save(tmp_path / path.name)
    monkeypatch.chdir(tmp_path)
    assert (decode(path) == 10).all()


def test_jpeg_is_rgb(tmp_path):
    path = tmp_path / "red.JPEG"
    Image.new("RGB", (16, 16), RED).save(path)
    assert np.abs(decode(path).astype(int) - RED).max() <= 2


def test_only_the_first_frame_of_an_animation_counts(tmp_path):
    path = tmp_path / "moving.gif"
    frames = [Image.new("RGB", (5, 4), colour) for colour in (RED, BLUE)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode(path), np.full((4, 5, 3), RED))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    # Upright: a wide image, red top left, green top right, blue below.
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16], upright[:8, 16:], upright[8:] = RED, GREEN, BLUE
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned{suffix}"
    options = {".jpg": {"quality": 100, "subsampling": 0}, ".webp": {"lossless": True}}
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, **options.get(suffix, {}))

    image = decode(path)

    assert image.shape == upright.shape
    assert np.abs(image.astype(int) - upright)[[2, 2, 12], [4, 28, 16]].max() <= 8


def test_orientation_in_exif_data_that_is_damaged_is_ignored(tmp_path):
    path = tmp_path / "odd.jpg"
    Image.new("RGB", (8, 8), RED).save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0")
    assert decode(path).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("mode", "colour", "expected", "suffix"),
    [
        ("L", 124, (124, 124, 124), ".png"),
        ("1", 1, (255, 255, 255), ".png"),
        ("LA", (124, 0), (124, 124, 124), ".png"),
        ("RGBA", (10, 200, 30, 0), (10, 200, 30), ".png"),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0), ".tif"),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0), ".jpg"),
        ("YCbCr", (76, 85, 255), (254, 0, 0), ".tif"),
    ],
)
def test_other_colour_models_become_rgb(tmp_path, mode, colour, expected, suffix):
    path = tmp_path / f"image{suffix}"
    Image.new(mode, (8, 8), colour).save(path)
    image = decode(path)
    assert image.shape == (8, 8, 3)
    assert np.abs(image.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("transparency", [0, b"\x00\xff\x80"])
def test_palettes_with_transparency_become_rgb_without_a_warning(tmp_path, transparency):
    path = tmp_path / "palette.png"
    image = Image.new("P", (4, 4), 1)
    image.putpalette([*RED, *GREEN, *BLUE])
    image.save(path, transparency=transparency)
    np.testing.assert_array_equal(decode(path), np.full((4, 4, 3), GREEN))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path, suffix):
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    path = tmp_path / f"deep{suffix}"
    if suffix == ".pgm":
        path.write_bytes(b"P5 8 8 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)
    image = decode(path)
    assert np.abs(image[:, :, 1] - values / 257).max() <= 1
    assert image.min() == 0
    assert image.max() == 255
    np.testing.assert_array_equal(image[:, :, 0], image[:, :, 2])


@pytest.mark.parametrize("mode", ["F", "I"])
def test_samples_without_a_scale_are_refused(tmp_path, mode):
    path = tmp_path / "measured.tif"
    Image.new(mode, (4, 4), 3).save(path)
    with pytest.raises(UnreadableImage, match="32-bit samples have no fixed scale"):
        decode(path)


@pytest.mark.parametrize("size", [(1, 1), (20_000, 20), (20, 20_000)])
def test_extreme_shapes_work(tmp_path, size):
    path = tmp_path / "shape.png"
    Image.new("RGB", size, BLUE).save(path)
    assert decode(path).shape == (size[1], size[0], 3)


def test_too_many_pixels_are_refused_before_any_is_decoded(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of_size(100_001, 1_000))
    with pytest.raises(UnreadableImage, match="100001 x 1000 pixels, more than 100 megapixels"):
        decode(path)


def test_a_header_within_the_limit_is_not_refused_for_its_size(tmp_path):
    path = tmp_path / "hollow.png"
    path.write_bytes(png_of_size(100_000, 1_000))
    with pytest.raises(UnreadableImage) as caught:
        decode(path)
    assert "megapixels" not in str(caught.value)


def test_pillows_own_limit_neither_warns_nor_stops(tmp_path, monkeypatch):
    path = tmp_path / "small.png"
    Image.fromarray(gradient()).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        np.testing.assert_array_equal(decode(path), gradient())
    assert caught == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"GIF89a is how it starts, but", "damaged|truncated|not"),
        (b"just text, no image at all", "not a JPEG, PNG, WebP"),
        (b"\x00" * 100, "not a JPEG, PNG, WebP"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"8BPS" + b"\x00" * 40, "not a JPEG, PNG, WebP"),
    ],
)
def test_what_is_no_image_is_named_with_the_reason(tmp_path, content, reason):
    path = tmp_path / "thing.jpg"
    path.write_bytes(content)
    with pytest.raises(UnreadableImage, match=f"image thing.jpg cannot be read: .*({reason})"):
        decode(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif", ".gif", ".ppm"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files_are_unreadable(tmp_path, suffix, share):
    path = tmp_path / f"cut{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UnreadableImage, match=f"cut{suffix}"):
        decode(path)


def test_bytes_that_were_changed_never_give_another_error(tmp_path):
    rng = np.random.default_rng(1)
    path = tmp_path / "fuzzed"
    for suffix in ("jpeg", "png", "webp", "bmp", "tiff", "gif", "ppm"):
        Image.fromarray(gradient(20, 20)).save(path, format=suffix)
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(40):
            changed = whole.copy()
            changed[rng.integers(0, len(whole), 5)] = rng.integers(0, 256, 5)
            path.write_bytes(changed.tobytes())
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow says what it thinks of the metadata
                with contextlib.suppress(UnreadableImage):
                    assert decode(path).ndim == 3


def test_missing_files_folders_and_pipes_are_unreadable(tmp_path):
    with pytest.raises(UnreadableImage, match="No such file"):
        decode(tmp_path / "nowhere.jpg")
    with pytest.raises(UnreadableImage, match="folder"):
        decode(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(UnreadableImage, match="no regular file"):
        decode(tmp_path / "pipe.jpg")


def test_an_unreadable_image_is_a_data_error_that_survives_pickling():
    error = pickle.loads(pickle.dumps(UnreadableImage("a.jpg", "empty")))
    assert isinstance(error, DataError)
    assert (error.name, error.reason, error.exit_code) == ("a.jpg", "empty", 2)
    assert "replace the file" in str(error)


def test_png_round_trip_and_a_refused_path(tmp_path):
    encode_png(gradient(), tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png"), gradient())
    encode_png(gradient()[:, :, 0], tmp_path / "grey.png")
    np.testing.assert_array_equal(decode(tmp_path / "grey.png")[:, :, 2], gradient()[:, :, 0])
    with pytest.raises(OutputError):
        encode_png(gradient(), tmp_path / "nowhere" / "a.png")


def test_pillow_bilinear_is_antialiased():
    stripes = np.zeros((8, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = pillow_bilinear(stripes, 8, 8)
    assert small.shape == (8, 8, 3)
    assert 100 < small.min() <= small.max() < 155


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="needs ../shared/data/imagenet-sample")
def test_real_jpegs_decode_as_pillow_decodes_them():
    for path in sorted(SAMPLE.glob("*.JPEG"))[:10]:
        with Image.open(path) as expected:
            np.testing.assert_array_equal(decode(path), np.asarray(expected.convert("RGB")))
