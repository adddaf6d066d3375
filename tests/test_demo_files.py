import errno
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from onnx import numpy_helper
from PIL import Image

from quantize.demo import files as demo
from quantize.errors import OutputError

SHIPPED = Path(demo.__file__).parent

MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return demo.write_files(tmp_path_factory.mktemp("demo") / "job")


@pytest.fixture(scope="module")
def network():
    return onnx.load(SHIPPED / "digits.onnx")


@pytest.fixture
def few_digits(monkeypatch):
    """A fiftieth of the images, for tests that are about files alone."""
    every = demo.load_digits()
    digits = demo.Digits(every.images[::50], every.labels[::50], every.evaluation[::50])
    monkeypatch.setattr(demo, "load_digits", lambda: digits)


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def images_under(root):
    pixels, labels = [], []
    for path in sorted(root.glob("*/*.png")):
        with Image.open(path) as image:
            assert image.mode == "RGB"
            pixels.append(np.asarray(image))
        labels.append(int(path.parent.name))
    return np.stack(pixels), np.array(labels)


# --------------------------------------------------------------------- what is shipped


def test_shipped_files_are_small():
    assert (SHIPPED / "digits.onnx").stat().st_size < 500_000
    assert (SHIPPED / "digits.npz").stat().st_size < 150_000


def test_digits_are_those_of_scikit_learn_halved_by_order():
    datasets = pytest.importorskip("sklearn.datasets")
    bunch = datasets.load_digits()
    digits = demo.load_digits()
    np.testing.assert_array_equal(digits.images, bunch.images)
    np.testing.assert_array_equal(digits.labels, bunch.target)
    np.testing.assert_array_equal(digits.evaluation, np.arange(1797) >= 898)


def test_no_image_is_in_both_halves():
    digits = demo.load_digits()
    trained, evaluated = (
        {image.tobytes() for image in digits.images[digits.evaluation == half]}
        for half in (False, True)
    )
    assert len(evaluated) >= 800
    assert not trained & evaluated


def test_network_is_an_unfused_residual_network_of_opset_13(network):
    onnx.checker.check_model(network, full_check=True)
    assert (network.ir_version, network.opset_import[0].version) == (8, 13)
    counts = Counter(node.op_type for node in network.graph.node)
    assert counts["Conv"] == counts["BatchNormalization"] == 8
    assert counts["Add"] == 3
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*network.graph.input, *network.graph.output)
    }
    assert shapes == {"image": ["N", 3, 32, 32], "logits": ["N", 10]}


def test_network_is_wide_enough_for_fast_int8_and_small_enough_to_ship(network):
    weights = {tensor.name: tensor.dims for tensor in network.graph.initializer}
    outputs = [weights[n.input[1]][0] for n in network.graph.node if n.op_type == "Conv"]
    assert min(outputs) >= 32
    assert sum(int(np.prod(dims)) for dims in weights.values()) <= 120_000


def test_network_parameters_are_finite_and_trained(network):
    for tensor in network.graph.initializer:
        array = numpy_helper.to_array(tensor)
        assert np.isfinite(array).all(), tensor.name
        assert array.std() > 0, tensor.name


# ------------------------------------------------------------------------- enlargement


def test_values_reach_from_black_to_white():
    assert (demo.enlarge(np.zeros((8, 8), np.uint8)) == 0).all()
    assert (demo.enlarge(np.full((8, 8), 16, np.uint8)) == 255).all()


def test_enlarging_is_bilinear_with_half_pixel_centres():
    digit = np.random.default_rng(0).integers(0, 17, (8, 8)).astype(np.uint8)
    grey = np.floor(digit.astype(float) * 255 / 16 + 0.5)
    centres = (np.arange(32) + 0.5) / 4 - 0.5
    rows = np.stack([np.interp(centres, np.arange(8), column) for column in grey.T], axis=1)
    expected = np.stack([np.interp(centres, np.arange(8), row) for row in rows])
    large = demo.enlarge(digit)
    assert (large.shape, large.dtype) == ((32, 32, 3), np.uint8)
    for channel in range(3):
        np.testing.assert_allclose(large[:, :, channel], expected, atol=1)


# ----------------------------------------------------------------------------- writing


def test_both_folders_hold_every_class(written):
    for root in (written.calibration_root, written.evaluation_root):
        assert sorted(path.name for path in root.iterdir()) == [str(d) for d in range(10)]
    _, calibration = images_under(written.calibration_root)
    assert np.bincount(calibration).tolist() == [50] * 10
    _, evaluation = images_under(written.evaluation_root)
    np.testing.assert_array_equal(
        np.bincount(evaluation), np.bincount(demo.load_digits().labels[898:])
    )


def test_images_are_the_enlarged_digits_under_their_position(written):
    digits = demo.load_digits()
    paths = [*written.calibration_root.glob("*/*.png"), *written.evaluation_root.glob("*/*.png")]
    for path in paths[::50]:
        position = int(path.stem)
        assert digits.labels[position] == int(path.parent.name)
        assert digits.evaluation[position] == path.is_relative_to(written.evaluation_root)
        with Image.open(path) as image:
            np.testing.assert_array_equal(np.asarray(image), demo.enlarge(digits.images[position]))


def test_no_calibration_image_is_evaluated(written):
    calibration, _ = images_under(written.calibration_root)
    evaluation, _ = images_under(written.evaluation_root)
    assert not {i.tobytes() for i in calibration} & {i.tobytes() for i in evaluation}


def test_float_network_reads_unseen_digits(written):
    pixels, labels = images_under(written.evaluation_root)
    images = ((pixels.astype(np.float32) / 255 - MEAN) / STD).transpose(0, 3, 1, 2)
    session = onnxruntime.InferenceSession(written.model, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": np.ascontiguousarray(images)})
    assert (logits.argmax(axis=1) == labels).mean() >= 0.97


def test_yaml_names_both_folders_and_the_same_preprocessing_three_times(written):
    config = yaml.safe_load(written.config.read_text())
    assert config["model"] == {"name": "digits", "framework": "onnxrt_qdq"}
    calibration = config["quantization"]["calibration"]
    evaluation = config["evaluation"]
    loaders = [
        calibration["dataloader"],
        evaluation["accuracy"]["dataloader"],
        evaluation["performance"]["dataloader"],
    ]
    roots = [
        (written.config.parent / loader["dataset"]["ImageFolder"]["root"]) for loader in loaders
    ]
    assert roots == [written.calibration_root, written.evaluation_root, written.evaluation_root]
    assert calibration["sampling_size"] == 100
    for loader in loaders:
        assert list(loader["transform"]) == ["Rescale", "Normalize", "Transpose", "Cast"]
        normalize = loader["transform"]["Normalize"]
        np.testing.assert_array_equal(
            np.float32([normalize["mean"], normalize["std"]]), [MEAN, STD]
        )


def test_writing_again_changes_nothing(tmp_path, few_digits):
    demo.write_files(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    demo.write_files(tmp_path)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    before.pop(tmp_path, None)
    assert after == before


def test_every_folder_gets_the_same_bytes(written, tmp_path):
    demo.write_files(tmp_path / "not" / "there" / "yet")
    assert content(tmp_path / "not" / "there" / "yet") == content(written.model.parent)


def test_missing_pieces_come_back_and_other_files_stay(tmp_path, few_digits):
    files = demo.write_files(tmp_path)
    (tmp_path / "digits-int8.onnx").write_text("result")
    (files.calibration_root / ".DS_Store").write_text("")
    expected = content(tmp_path)
    files.config.unlink()
    files.model.unlink()
    demo.write_files(tmp_path)
    assert content(tmp_path) == expected


@pytest.mark.parametrize("name", ["digits.yaml", "evaluation/3/9999.png"])
def test_other_content_under_our_names_is_refused_and_kept(tmp_path, few_digits, name):
    demo.write_files(tmp_path)
    (tmp_path / name).write_text("mine")
    before = content(tmp_path)
    with pytest.raises(OutputError, match="remove it or name another folder"):
        demo.write_files(tmp_path)
    assert content(tmp_path) == before


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path, few_digits):
    (tmp_path / "evaluation").write_text("mine")
    with pytest.raises(OutputError, match="evaluation is there already"):
        demo.write_files(tmp_path)
    with pytest.raises(OutputError, match="cannot write"):
        demo.write_files(tmp_path / "evaluation")


def test_nothing_half_written_stays_when_the_disk_is_full(tmp_path, few_digits, monkeypatch):
    encoded = []

    def encode(array, path):
        if len(encoded) == 25:
            raise OutputError("no space")
        encoded.append(path)
        path.write_bytes(b"")

    monkeypatch.setattr(demo, "encode_png", encode)
    with pytest.raises(OutputError, match="no space"):
        demo.write_files(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_rename_is_told_in_one_line(tmp_path, few_digits, monkeypatch):
    def rename(self, target):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OutputError, match=f"cannot write {tmp_path}: Operation not permitted"):
        demo.write_files(tmp_path)
    assert list(tmp_path.iterdir()) == []
