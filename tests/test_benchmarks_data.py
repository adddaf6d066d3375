"""The scripts that measure the data path: what they prepare is what they say, lines are lines."""

import importlib.util
import io
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantize.data.datasets import digest_samples
from quantize.data.images import decode

FOLDER = Path(__file__).parents[1] / "benchmarks"
SHARED = Path(__file__).parents[2] / "shared"


@cache
def script(name):
    path = FOLDER / f"{name}.py"
    if not path.exists():
        pytest.skip("benchmarks/ is not here")
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def jpeg(width=400, height=300, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((width, height)).save(file, format="JPEG", quality=90)
    return file.getvalue()


def test_images_are_distinct_files_of_equal_pixels(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        (tmp_path / "source" / name).mkdir(parents=True)
        (tmp_path / "source" / name / "x.jpg").write_bytes(jpeg(32, 32, seed))
    script("growth").write_images(tmp_path / "source", tmp_path / "many", 10)
    for name in ("a", "b"):
        files = sorted((tmp_path / "many" / name).iterdir())
        original = decode(tmp_path / "source" / name / "x.jpg")
        assert len(files) == 5
        assert all(np.array_equal(decode(file), original) for file in files)
        assert len({s.digest for s in digest_samples([(f, 0) for f in files], 1)}) == 5


def test_a_line_goes_through_its_points():
    growth = script("growth")
    points = [
        growth.Point("tune", n, 2 + 0.003 * n, 10_000_000 + 700 * n, 0) for n in (500, 5000, 50000)
    ]
    line = growth.line_of(points)
    assert line.ms_per_image == pytest.approx(3)
    assert line.seconds == pytest.approx(2)
    assert line.bytes_per_image == pytest.approx(700)
    assert "2.0 s + 3.00 ms an image | 10 MiB + 700 bytes an image" in growth.markdown(
        points, [line]
    )


def test_each_verb_has_sizes_enough_for_a_line():
    growth = script("growth")
    assert set(growth.SIZES) == {"calibrate", "tune", "verify"}
    assert all(len(sizes) >= 3 for sizes in growth.SIZES.values())
    assert growth.SIZES["tune"][-1] == growth.SIZES["verify"][-1] == 50_000


def test_all_ways_that_should_prepare_the_same_image(tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(jpeg())
    data_path = script("data_path")
    ours = data_path.PIPELINE(decode(path))
    np.testing.assert_allclose(data_path.pillow(path), ours, atol=1e-5)
    published = data_path.published(path)
    assert (published.shape, ours.shape) == ((3, 224, 224), (3, 224, 224))
    assert np.corrcoef(published.ravel(), ours.ravel())[0, 1] > 0.3  # squashed, the same picture


def test_limits_are_ratios_of_the_best_rounds():
    data_path = script("data_path")
    times = {"alone": (1, 2), "inference": (3, 6), "first": (5, 8), "cached": (4, 6)}
    ways = [
        data_path.Way(name, lambda: None, [wall, wall + 1], [core, core + 1])
        for name, (wall, core) in times.items()
    ]
    near = data_path.limits(ways)
    assert near["cached pass, of inference alone"] == 3 / 4
    assert near["first pass, core-seconds against its parts"] == 1.0
    assert near["first pass, of cores / core-seconds"] == pytest.approx(8 / data_path.cores() / 5)


def test_prepared_images_are_read_one_at_a_time_and_again_from_the_first(tmp_path):
    calibration = script("calibration")
    images = np.random.default_rng(0).random((2, *calibration.SIZE), np.float32)
    (tmp_path / calibration.IMAGES).write_bytes(images.tobytes())
    read = list(calibration.stored(tmp_path, 3))
    np.testing.assert_array_equal(np.concatenate(read), images[[0, 1, 0]])
    assert not any(isinstance(one, np.memmap) or one.base is read[0].base for one in read[1:])


def test_a_calibration_that_fails_is_a_figure_that_says_how(tmp_path):
    figure = script("calibration").measure("ours", "minmax", 1, tmp_path, 60)
    assert figure.seconds is None
    assert "images.npy" in figure.reason or "prepared.onnx" in figure.reason
    assert figure.reason in script("calibration").markdown([figure])
