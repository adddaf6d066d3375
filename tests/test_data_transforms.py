"""Transforms, presets and the pipeline: exact arithmetic, and errors that say what to add."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from quantize.data import steps
from quantize.data.images import decode
from quantize.data.resize import UnfitImage
from quantize.data.transforms import TRANSFORMS, Pipeline, Preset
from quantize.errors import DataError

SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "imagenet-sample"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PRESETS = ("zoo_snippet", "short_side", "squash224", "squash256", "published")

YAML_STEPS = (
    steps.Rescale(),
    steps.Resize(256),
    steps.CenterCrop(224),
    steps.Normalize(MEAN, STD),
    steps.Transpose((2, 0, 1)),
    steps.Cast("float32"),
)


def noise(height=40, width=60, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def photographs(count):
    if not SAMPLE.is_dir():
        pytest.skip("needs ../shared/data/imagenet-sample")
    return sorted(SAMPLE.glob("*.JPEG"))[:count]


# ---------------------------------------------------------------------------- pixel anchors


@pytest.mark.parametrize("recipe", [YAML_STEPS, *((Preset(name),) for name in PRESETS)])
@pytest.mark.parametrize(
    ("pixel", "expected"),
    [(0, (-2.1179, -2.0357, -1.8044)), (255, (2.2489, 2.4286, 2.6400))],
)
def test_black_and_white_come_out_as_published(recipe, pixel, expected):
    image = Pipeline(recipe)(np.full((300, 400, 3), pixel, np.uint8))
    assert image.dtype == np.float32
    assert image.flags.c_contiguous
    assert image.shape[0] == 3
    np.testing.assert_allclose(image.mean(axis=(1, 2)), expected, atol=1e-4)
    assert np.ptp(image, axis=(1, 2)).max() < 1e-5


def test_channels_stay_red_green_blue():
    red = np.zeros((224, 224, 3), np.uint8)
    red[..., 0] = 255
    image = Pipeline((Preset("zoo_snippet"),))(red)
    np.testing.assert_allclose(image[:, 0, 0], [2.2489, -2.0357, -1.8044], atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999))
def test_the_zoo_snippet_is_equal_bit_for_bit(seed):
    image = noise(9, 7, seed=seed)
    chw = image.transpose(2, 0, 1)
    expected = np.zeros(chw.shape, np.float32)
    for channel in range(3):
        expected[channel] = (chw[channel] / 255 - MEAN[channel]) / STD[channel]
    np.testing.assert_array_equal(Pipeline((Preset("zoo_snippet"),))(image), expected)


# ---------------------------------------------------------------------------------- presets


def standardized(image):
    return ((image / 255 - MEAN) / STD).transpose(2, 0, 1).astype(np.float32)


@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (256, 256), (301, 300), (300, 301)])
def test_presets_follow_their_sources(shape):
    image = noise(*shape)
    ratio = 256 / min(shape)
    longer = round(ratio * max(shape))
    size = (longer, 256) if shape[1] > shape[0] else (256, longer)
    upright = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    top, left = upright.shape[0] // 2 - 112, upright.shape[1] // 2 - 112
    expected = {
        "short_side": standardized(upright[top : top + 224, left : left + 224]),
        "squash224": standardized(cv2.resize(image, (224, 224))),
        "squash256": standardized(cv2.resize(image, (256, 256))[16:240, 16:240]),
        "published": standardized(cv2.resize(image / 255, (256, 256))[16:240, 16:240] * 255),
    }
    for name, wanted in expected.items():
        # One grey level is 0.0175 here: where OpenCV uses IPP it may round to the next one.
        np.testing.assert_allclose(
            Pipeline((Preset(name),))(image), wanted, atol=1e-4 if name == "published" else 0.018
        )
    short = Pipeline((Preset("short_side"),))(image)
    np.testing.assert_allclose(short, expected["short_side"], atol=1e-6)


def test_preset_options():
    image = noise(64, 96)
    plain = Preset("squash256", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), size=32, resize=32)
    expected = (cv2.resize(image, (32, 32)).transpose(2, 0, 1) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(Pipeline((plain,))(image), expected, atol=0.008)
    assert Pipeline((Preset("short_side", size=112),))(image).shape == (3, 112, 112)
    assert Preset("squash256").steps[0] == steps.Resize(256)
    assert Preset("squash256", size=64).steps[0] == steps.Resize(73)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": 0}, "size 0"),
        ({"size": 224, "resize": 200}, "resize 200 is smaller than size 224"),
        ({"mean": (0.5,)}, "mean has 1 values"),
        ({"std": (0.5, 0.5, 0.0)}, "std"),
    ],
)
def test_wrong_preset_options_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        Preset("short_side", **options)


def test_short_side_has_to_come_first():
    with pytest.raises(DataError, match="make the preset the first transform"):
        Pipeline((steps.Rescale(), Preset("short_side")))(noise())


# ------------------------------------------------------------------------------- transforms


def test_rescale_is_float32():
    scaled = steps.Rescale()(noise())
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled, noise().astype("float32") / 255.0)


def test_resize_takes_width_before_height_as_published():
    assert steps.Resize((30, 20))(noise()).shape == (20, 30, 3)
    assert steps.Resize(25)(noise()).shape == (25, 25, 3)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 30), st.integers(1, 30), st.data())
def test_centre_crop_starts_at_half_the_rest(rows, columns, data):
    height, width = data.draw(st.integers(1, rows)), data.draw(st.integers(1, columns))
    image = noise(rows, columns)
    top, left = (rows - height) // 2, (columns - width) // 2
    np.testing.assert_array_equal(
        steps.CenterCrop((height, width))(image), image[top : top + height, left : left + width]
    )


@pytest.mark.parametrize("size", [61, 41, (41, 20), (20, 61)])
def test_a_crop_larger_than_the_image_is_unfit(size):
    with pytest.raises(UnfitImage, match="put Resize before CenterCrop"):
        steps.CenterCrop(size)(noise(40, 60))


def test_normalize_is_float64_and_takes_one_value_for_all():
    image = noise()
    result = steps.Normalize(MEAN, STD)(image)
    assert result.dtype == np.float64
    np.testing.assert_array_equal(result, (image - np.array(MEAN)) / np.array(STD))
    np.testing.assert_array_equal(steps.Normalize((3.0,), (2.0,))(image), (image - 3.0) / 2.0)
    only_mean = steps.Normalize((123.68, 116.78, 103.94))(image)
    np.testing.assert_array_equal(only_mean, image - np.array([123.68, 116.78, 103.94]))


def test_normalize_works_on_crops_that_are_views():
    image = noise()
    np.testing.assert_array_equal(
        steps.Normalize(MEAN, STD)(image[3:9, 5:20]), steps.Normalize(MEAN, STD)(image)[3:9, 5:20]
    )


def test_normalize_behind_transpose_is_refused_with_the_cure():
    with pytest.raises(DataError, match="put Normalize before Transpose"):
        Pipeline((steps.Transpose((2, 0, 1)), steps.Normalize(MEAN, STD)))(noise())


def test_transpose_of_other_axes_is_refused():
    with pytest.raises(DataError, match="one entry per axis"):
        steps.Transpose((1, 0))(noise())


@pytest.mark.parametrize("dtype", ["uint8", "float16", "int64", "bool"])
def test_cast_behaves_as_astype_and_never_warns(dtype):
    image = np.array([[[0.0, 300.7, -2.5, np.nan, 1e30]]])
    with np.errstate(all="ignore"):
        expected = image.astype(dtype)
    np.testing.assert_array_equal(steps.Cast(dtype)(image), expected)


def test_align_image_channel():
    grey = noise()[:, :, 0]
    assert steps.AlignImageChannel()(grey).shape == (40, 60, 3)
    np.testing.assert_array_equal(
        steps.AlignImageChannel()(noise(channels=4)), noise(channels=4)[:, :, :3]
    )
    for image in (noise(), steps.Rescale()(noise())):
        np.testing.assert_allclose(
            steps.AlignImageChannel(1)(image)[:, :, 0],
            cv2.cvtColor(image, cv2.COLOR_RGB2GRAY),
            rtol=1e-5,
        )
    with pytest.raises(DataError, match="cannot make 4 channels from 3"):
        steps.AlignImageChannel(4)(noise())


def test_boxes():
    image = noise()
    np.testing.assert_array_equal(steps.CropToBoundingBox(2, 3, 10, 20)(image), image[2:12, 3:23])
    with pytest.raises(UnfitImage, match="row 42"):
        steps.CropToBoundingBox(2, 3, 40, 20)(image)
    box = steps.CropResize(x=3, y=2, width=20, height=10, size=(8, 6))
    np.testing.assert_array_equal(box(image), steps.Resize((8, 6))(image[2:12, 3:23]))
    beyond = steps.CropResize(x=50, y=30, width=99, height=99, size=8)
    np.testing.assert_array_equal(beyond(image), steps.Resize(8)(image[30:, 50:]))
    with pytest.raises(UnfitImage, match="outside"):
        steps.CropResize(x=60, y=0, width=5, height=5, size=8)(image)


def test_to_array_does_nothing():
    image = noise()
    assert steps.ToArray()(image) is image


def test_resize_crop_imagenet_keeps_the_swapped_proportions():
    # 100 x 200 becomes 512 rows x 256 columns, not 256 x 512: columns shrink, rows stretch.
    image = np.zeros((100, 200, 3), np.uint8)
    image[:, 100:] = 255
    result = steps.ResizeCropImagenet(224, 224)(image)
    assert result.shape == (3, 224, 224)
    assert result.dtype == np.float32
    edge = np.abs(np.diff(result[0].mean(axis=0))).argmax()
    assert edge == pytest.approx(111, abs=1)
    rows_of_a_wide_gradient = np.repeat(np.arange(100, dtype=np.uint8), 200).reshape(100, 200, 1)
    tall = steps.ResizeCropImagenet(224, 224, std_value=(1.0,) * 3)(
        np.repeat(rows_of_a_wide_gradient, 3, axis=2)
    )
    # 512 output rows over 100 source rows, of which the crop shows 224.
    assert np.ptp(tall[0]) * 255 == pytest.approx(100 * 224 / 512, abs=1)


@pytest.mark.parametrize(
    ("construct", "said"),
    [
        (lambda: steps.Resize(0), "size 0 is not above 0"),
        (lambda: steps.Resize((5, -1)), "size -1"),
        (lambda: steps.CenterCrop(-3), "size -3"),
        (lambda: steps.Normalize(MEAN, (0.1, 0.2, 1e-7)), "std .* must be at least 1e-06"),
        (lambda: steps.Normalize(MEAN, (1.0, 1.0)), "mean has 3 values and std 2"),
        (lambda: steps.Normalize((), (1.0,)), "a value per channel"),
        (lambda: steps.Normalize((float("nan"),), (1.0,)), "finite"),
        (lambda: steps.Transpose((0, 1, 3)), "perm .* is no order of the axes 0 to 2"),
        (lambda: steps.Transpose((0, 0, 1)), "perm"),
        (lambda: steps.AlignImageChannel(5), "dim 5"),
        (lambda: steps.CropToBoundingBox(-1, 0, 1, 1), "offset_height -1"),
        (lambda: steps.CropToBoundingBox(0, 0, 0, 1), "target_height 0"),
        (lambda: steps.CropResize(0, 0, 0, 1, 3), "width 0"),
        (lambda: steps.ResizeCropImagenet(0, 1), "height 0"),
        (lambda: steps.ResizeWithAspectRatio(1, 1, 0.0), "scale 0.0"),
        (lambda: steps.BilinearImagenet(1, 1, 1.5), "central_fraction 1.5"),
        (lambda: steps.RandomCrop(0), "size 0"),
        (lambda: steps.RandomResizedCrop(8, scale=(1.0, 0.5)), "scale"),
    ],
)
def test_wrong_options_are_refused_on_construction(construct, said):
    with pytest.raises(ValueError, match=said):
        construct()


# --------------------------------------------------------------------------------- pipeline


@pytest.mark.parametrize(
    "step",
    [
        steps.RandomCrop(8),
        steps.RandomResizedCrop(8),
        steps.RandomHorizontalFlip(),
        steps.RandomVerticalFlip(),
        steps.ResizeCropImagenet(8, 8, random_crop=True),
    ],
)
def test_random_transforms_load_and_are_refused_at_use(step):
    pipeline = Pipeline((steps.Rescale(), step))
    said = f"{type(step).__name__}.* is random.*use Resize and CenterCrop"
    with pytest.raises(DataError, match=said):
        pipeline.check()
    with pytest.raises(DataError, match=said):
        step(noise())


def test_what_is_not_random_passes_the_check():
    Pipeline((*YAML_STEPS, steps.ResizeCropImagenet(8, 8), Preset("published"))).check()


def test_a_missing_transpose_is_named():
    with pytest.raises(DataError, match=r"\[224, 224, 3\].*Transpose: \{perm: \[2, 0, 1\]\}"):
        Pipeline(YAML_STEPS[:4])(noise(300, 300))


def test_models_that_take_channels_last_get_them():
    image = Pipeline((steps.Resize(8), steps.Rescale()), channels_last=True)(noise())
    assert image.shape == (8, 8, 3)


def test_two_axes_are_refused_with_the_transform_to_add():
    grey = noise()[:, :, 0]
    with pytest.raises(DataError, match="AlignImageChannel"):
        Pipeline(())(grey)


def test_complex_results_are_refused_with_the_transform_to_add():
    with pytest.raises(DataError, match=r"complex128.*Cast"):
        Pipeline(())(np.zeros((3, 8, 8), np.complex128))


def test_images_that_are_prepared_already_need_no_steps():
    prepared = np.arange(24, dtype=np.uint8).reshape(3, 2, 4)
    result = Pipeline(())(prepared)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, prepared)


def test_keys_tell_recipes_apart_and_are_stable():
    recipes = [YAML_STEPS, YAML_STEPS[1:], (Preset("published"),), (Preset("squash256"),)]
    recipes.append((Preset("squash256", mean=(0.5, 0.5, 0.5)),))
    recipes.append((steps.Normalize(), steps.Cast("float32")))
    recipes.append((steps.Cast("float32"), steps.Normalize()))
    keys = [Pipeline(recipe).key() for recipe in recipes]
    assert len(set(keys)) == len(recipes)
    assert Pipeline(tuple(dataclasses.replace(step) for step in YAML_STEPS)).key() == keys[0]
    script = (
        "from quantize.data.transforms import Pipeline, Preset;"
        "print(Pipeline((Preset('published'),)).key())"
    )
    other = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert other.stdout.strip() == keys[2]


def test_describe_reads_like_the_yaml_file():
    described = Pipeline(YAML_STEPS).describe()
    assert described[1] == {"Resize": {"size": 256, "interpolation": "bilinear"}}
    assert described[4] == {"Transpose": {"perm": [2, 0, 1]}}
    assert json.loads(json.dumps(described)) == described


def test_every_name_of_the_yaml_files_is_a_frozen_dataclass():
    for name, transform in TRANSFORMS.items():
        assert transform.__name__ == name
        assert dataclasses.is_dataclass(transform)
        assert transform.__dataclass_params__.frozen


# ---------------------------------------------------------- against Neural Compressor itself

PARITY = {
    "Rescale": (steps.Rescale(), "transform.RescaleTransform()"),
    "Resize": (steps.Resize(256), "transform.ResizeTransform(256)"),
    "Resize pair": (steps.Resize((200, 120)), "transform.ResizeTransform([200, 120])"),
    "Resize nearest": (
        steps.Resize(256, "nearest"),
        "transform.ResizeTransform(256, interpolation='nearest')",
    ),
    "Resize bicubic": (
        steps.Resize(256, "bicubic"),
        "transform.ResizeTransform(256, interpolation='bicubic')",
    ),
    "CenterCrop": (steps.CenterCrop((60, 50)), "transform.CenterCropTransform([60, 50])"),
    "Normalize": (
        steps.Normalize(MEAN, STD),
        f"transform.NormalizeTransform({list(MEAN)}, {list(STD)})",
    ),
    "CropResize": (
        steps.CropResize(5, 6, 70, 60, (40, 30)),
        "transform.CropResizeTransform(5, 6, 70, 60, [40, 30])",
    ),
    "ResizeCropImagenet": (
        steps.ResizeCropImagenet(224, 224, mean_value=MEAN),
        f"imagenet_transform.ONNXResizeCropImagenetTransform(224, 224, mean_value={list(MEAN)})",
    ),
    "ResizeWithAspectRatio": (
        steps.ResizeWithAspectRatio(224, 224),
        "imagenet_transform.ResizeWithAspectRatio(224, 224)",
    ),
    "BilinearImagenet": (
        steps.BilinearImagenet(224, 224),
        "imagenet_transform.OnnxBilinearImagenetTransform(224, 224)",
    ),
}

# Neural Compressor changes the process that imports it, so it gets one of its own.
THEIRS = """
import sys
import numpy as np
from neural_compressor.data.transforms import imagenet_transform, transform
images = np.load(sys.argv[1])
results = {}
for line in sys.stdin.read().splitlines():
    name, construct = line.split("|")
    step = eval(construct)
    for key in images.files:
        results[f"{name}/{key}"] = step((images[key], 0))[0]
np.savez(sys.argv[2], **results)
"""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """Images by name, and what Neural Compressor's transforms make of them."""
    folder = tmp_path_factory.mktemp("theirs")
    images = {path.stem: decode(path) for path in photographs(6)}
    np.savez(folder / "images.npz", **images)
    lines = "\n".join(f"{name}|{construct}" for name, (_, construct) in PARITY.items())
    done = subprocess.run(
        [sys.executable, "-c", THEIRS, folder / "images.npz", folder / "results.npz"],
        input=lines,
        text=True,
        capture_output=True,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "results.npz") as results:
        return images, dict(results)


@pytest.mark.inc
@pytest.mark.parametrize("name", PARITY)
def test_photographs_come_out_as_from_neural_compressor(name, theirs):
    images, results = theirs
    step, _ = PARITY[name]
    for key, image in images.items():
        ours, wanted = step(image), results[f"{name}/{key}"]
        assert ours.shape == wanted.shape
        assert ours.dtype == wanted.dtype
        if wanted.dtype == np.uint8:
            assert np.abs(ours.astype(int) - wanted).max() <= 1
        elif name == "ResizeCropImagenet":  # one grey level at most
            assert np.abs(ours - wanted).max() <= 1.01 / 255 / min(STD)
            assert (np.abs(ours - wanted) > 1e-5).mean() < 0.05
        else:
            # OpenCV with IPP places its samples less exactly than without.
            np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=5e-5)


@pytest.mark.inc
def test_the_published_six_come_out_as_from_neural_compressor(theirs):
    images, _ = theirs
    for image in images.values():
        wanted = cv2.resize(image.astype("float32") / 255.0, (256, 256))[16:240, 16:240]
        wanted = ((wanted - MEAN) / STD).transpose(2, 0, 1).astype(np.float32)
        np.testing.assert_allclose(Pipeline(YAML_STEPS)(image), wanted, atol=1e-4)
