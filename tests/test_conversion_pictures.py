"""Images to prove conversions on, and the preprocessing that was asked for."""

import numpy as np
import pytest

from models import tiny_dataset, write_image_folder
from quantize.conversion.pictures import FEW, NOISE, grey_level, pictures, recipe_of
from quantize.data.steps import Cast, Normalize, Rescale, Resize, Transpose
from quantize.data.transforms import Pipeline, Preset
from quantize.errors import ConfigError, DataError, ModelError

SIZE = (3, 24, 32)
STD = (0.2, 0.3, 0.4)
RECIPE = Pipeline(
    (Resize((32, 24)), Rescale(), Normalize((0.5,), STD), Transpose((2, 0, 1)), Cast("float32"))
)


def test_synthetic_images_differ_and_are_the_same_each_time():
    seen, again = (pictures(SIZE, None, None, 10) for _ in range(2))
    assert seen.kind == "synthetic"
    assert seen.prepared.shape == (10, *SIZE)
    assert seen.prepared.dtype == np.float32
    assert len({image.tobytes() for image in seen.decoded}) == 10
    np.testing.assert_array_equal(seen.all(), again.all())
    assert seen.few().shape == (FEW + NOISE, *SIZE)
    assert seen.all().shape == (10 + NOISE, *SIZE)
    assert -3 < seen.prepared.min() < seen.prepared.max() < 3


@pytest.mark.parametrize("recipe", [None, RECIPE])
def test_named_images_are_taken_evenly_from_the_whole_folder(tmp_path, recipe):
    items = tiny_dataset(classes=4, per_class=5, size=40)
    write_image_folder(tmp_path, items)
    seen = pictures(SIZE, tmp_path, recipe, 8)
    assert seen.kind == "named"
    assert seen.prepared.shape == (8, *SIZE)
    ordered = sorted(range(20), key=lambda i: (items[i][1], i))
    expected = [items[ordered[i * 20 // 8]][0] for i in range(8)]
    np.testing.assert_array_equal(seen.decoded, expected)
    assert len(pictures(SIZE, tmp_path, recipe, 100).decoded) == 20


def test_a_flat_folder_will_do(tmp_path):
    write_image_folder(tmp_path, [(image, 0) for image, _ in tiny_dataset(2, 2, 20)])
    assert len(pictures(SIZE, tmp_path / "000", None, 8).decoded) == 4


def test_other_channels_are_proven_on_noise(tmp_path):
    seen = pictures((1, 8, 8), None, None, 8)
    assert seen.decoded == ()
    assert seen.few().shape == (NOISE, 1, 8, 8)
    with pytest.raises(DataError, match="takes 1 channels, images have 3; drop --images"):
        pictures((1, 8, 8), tmp_path, None, 8)


def test_folders_and_images_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match="is no folder"):
        pictures(SIZE, tmp_path / "none", None, 8)
    with pytest.raises(DataError, match="holds no images"):
        pictures(SIZE, tmp_path, None, 8)
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a\.png cannot be read"):
        pictures(SIZE, tmp_path, None, 8)
    with pytest.raises(DataError, match=r"gives images .* but the model takes .*--preprocessing"):
        pictures((3, 8, 8), None, RECIPE, 8)


def test_large_images_are_fewer_and_huge_ones_none(monkeypatch):
    monkeypatch.setitem(pictures.__globals__, "_MOST_ELEMENTS", 7 * 3 * 24 * 32 + 1)
    assert len(pictures(SIZE, None, None, 100).decoded) == 7
    assert len(pictures((3, 100, 100), None, None, 100).decoded) == 1
    with pytest.raises(ModelError, match="3 x 100000 x 100000, too large to prove"):
        pictures((3, 100_000, 100_000), None, None, 1)


def test_a_preset_has_the_size_of_the_model():
    recipe = recipe_of("short_side", (3, 32, 32))
    assert recipe == Pipeline((Preset("short_side", size=32),))
    assert recipe_of(recipe, SIZE) is recipe
    assert recipe_of(None, SIZE) is None
    with pytest.raises(ModelError, match="preset short_side gives square images"):
        recipe_of("short_side", SIZE)


def test_a_yaml_file_says_it(job, tmp_path):
    recipe = recipe_of(job.config, (3, 16, 16))
    assert [type(step).__name__ for step in recipe.steps][:2] == ["Rescale", "Normalize"]
    with pytest.raises(ConfigError, match="nothing_such"):
        recipe_of("nothing_such", SIZE)
    bare = tmp_path / "bare.yaml"
    bare.write_text("model: {name: a, framework: onnxrt_qdq}\n")
    with pytest.raises(DataError, match=r"has no dataloader.*or a preset: zoo_snippet, short_side"):
        recipe_of(bare, SIZE)


def test_a_grey_level_is_one_pixel_step():
    level = grey_level(RECIPE, np.zeros((10, 10, 3), np.uint8))
    np.testing.assert_allclose(level.ravel(), 1 / 255 / np.asarray(STD), rtol=1e-4)
