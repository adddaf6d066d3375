import os

import numpy as np
import onnx
import pytest
from PIL import Image

from conftest import CLASSES, SIZE
from models import prepared, tiny_dataset
from quantize import classify
from quantize.classify import predict, read_names, softmax
from quantize.config import load_config
from quantize.errors import DataError, ModelError
from quantize.runtime import Session


@pytest.fixture
def image(tmp_path):
    """A file, and its pixels as the network reads them."""
    items = tiny_dataset(CLASSES, 1, SIZE, seed=12)[1:2]
    path = tmp_path / "image.png"
    Image.fromarray(items[0][0]).save(path)
    return path, prepared(items)


def test_softmax_is_a_distribution_without_overflow():
    logits = np.array([[0.0, 0.0], [np.log(3), 0.0], [1e30, 0.0], [-1e30, -1e30]], np.float32)
    expected = [[0.5, 0.5], [0.75, 0.25], [1, 0], [0.5, 0.5]]
    np.testing.assert_allclose(softmax(logits), expected, atol=1e-7)
    assert softmax(logits).dtype == np.float64


def test_guesses_are_the_softmax_of_the_logits_best_first(job, image):
    path, pixels = image
    (guesses,) = predict(job.model, [path], job.settings())
    logits = Session(job.model).predict(pixels)[0].astype(float)
    shares = np.exp(logits) / np.exp(logits).sum()
    assert [g.index for g in guesses] == np.argsort(-shares).tolist()
    np.testing.assert_allclose([g.probability for g in guesses], np.sort(shares)[::-1], rtol=1e-5)
    assert [g.name for g in guesses] == [str(g.index) for g in guesses]


def test_a_model_that_gives_probabilities_is_not_squashed_twice(job, image, tmp_path):
    model = onnx.load(job.model)
    softmax_node = onnx.helper.make_node("Softmax", ["logits"], ["p"], name="p", axis=1)
    model.graph.node.append(softmax_node)
    model.graph.output[0].name = "p"
    onnx.save(model, tmp_path / "p.onnx")
    plain, with_softmax = (
        predict(path, [image[0]], job.settings())[0] for path in (job.model, tmp_path / "p.onnx")
    )
    assert with_softmax == plain


def test_int8_and_several_images(done):
    job, _ = done
    images = sorted((job.evaluation / "000").iterdir())[:3]
    answers = predict(job.output, images, job.settings(), ["zero", "one"])
    assert len(answers) == 3
    for guesses in answers:
        names = {g.index: g.name for g in guesses}
        assert names == {0: "zero", 1: "one", 2: "2", 3: "3"}
        assert sum(g.probability for g in guesses) == pytest.approx(1)


def test_no_more_than_five_classes(job, image, monkeypatch):
    logits = np.arange(8, dtype=np.float32)[None]
    monkeypatch.setattr(classify, "predictor", lambda _, **options: lambda _: logits)
    (guesses,) = predict(job.model, [image[0]], job.settings())
    assert [g.index for g in guesses] == [7, 6, 5, 4, 3]
    assert sum(g.probability for g in guesses) < 1


def test_scores_that_are_no_numbers(job, image, monkeypatch):
    logits = np.array([[1, np.nan]], np.float32)
    monkeypatch.setattr(classify, "predictor", lambda _, **options: lambda _: logits)
    with pytest.raises(ModelError, match="gives NaN or infinity for"):
        predict(job.model, [image[0]], job.settings())


def test_the_calibration_loader_serves_where_there_is_no_other(job, image):
    text = job.config.read_text()
    start, end = text.index("    dataloader:\n", text.index("evaluation:")), text.index("  perf")
    job.config.write_text(text[:start] + text[end:])
    assert predict(job.model, [image[0]], job.settings())


def test_without_a_loader_the_preprocessing_is_unknown(job, image):
    job.config.write_text("model: {name: x, framework: onnxrt_qdq}\n")
    with pytest.raises(DataError, match="the preprocessing is unknown"):
        predict(job.model, [image[0]], load_config(job.config))


def test_an_image_of_another_size_names_the_transform(job, tmp_path):
    Image.new("RGB", (SIZE + 1, SIZE)).save(tmp_path / "large.png")
    with pytest.raises(ModelError, match="check that the transform gives the shape"):
        predict(job.model, [tmp_path / "large.png"], job.settings())


def test_names_are_lines(tmp_path):
    file = tmp_path / "names"
    file.write_text("n01440764 tench, Tinca tinca\n\nßtraße\n", encoding="utf-8")
    assert read_names(file) == ["n01440764 tench, Tinca tinca", "", "ßtraße"]


def test_names_that_cannot_be_read(tmp_path, monkeypatch):
    file = tmp_path / "names"
    with pytest.raises(DataError, match="cannot be read"):
        read_names(file)
    file.write_bytes(b"\xff\xff")
    with pytest.raises(DataError, match="cannot be read"):
        read_names(file)
    with pytest.raises(DataError, match="no regular file"):
        read_names(tmp_path)
    monkeypatch.setattr(classify, "_LARGEST_NAMES", 1)
    with pytest.raises(DataError, match="larger than 16 MiB"):
        read_names(file)


def test_a_pipe_for_names_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="no regular file"):
        read_names(tmp_path / "pipe")
