"""`apply` with the encodings of a run: that run's model, and no other."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from conftest import CLASSES, SIZE
from models import tiny_resnet
from quantize.errors import DataError
from quantize.plan import Encoding
from quantize.rebuild import apply, check_source, read_encodings, read_plan


@pytest.fixture
def made(done):
    job, _ = done
    plan = read_plan(job.run / "plan.json")
    return job, plan, read_encodings(job.run / "encodings.npz", plan)


def saved(folder, **options):
    path = folder / "other.onnx"
    onnx.save(tiny_resnet(**{"size": SIZE, "classes": CLASSES, **options}), path)
    return path


def test_the_model_of_the_run_gives_the_same_bytes(made, tmp_path):
    job, plan, encodings = made
    check_source(job.model, job.run / "encodings.npz")
    again = apply(job.model, plan, tmp_path / "again.onnx", encodings=encodings)
    assert again.read_bytes() == job.output.read_bytes()


def test_the_same_network_with_other_weights_is_told_by_the_report(made, tmp_path):
    job, _, _ = made
    model = onnx.load(job.model)
    tensor = model.graph.initializer[0]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 2, tensor.name))
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(DataError, match=r"of a run that tuned another model than .*other\.onnx"):
        check_source(tmp_path / "other.onnx", job.run / "encodings.npz")


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"float_model": 1}'])
def test_without_a_report_nobody_says(made, tmp_path, content):
    job, _, _ = made
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    check_source(job.model, tmp_path / "encodings.npz")


def test_a_layer_of_another_shape_is_named(made, tmp_path):
    _, plan, encodings = made
    wider = saved(tmp_path, classes=CLASSES + 3)
    with pytest.raises(DataError, match=r"of another model than .*other\.onnx: it has no '"):
        apply(wider, plan, tmp_path / "out.onnx", encodings=encodings)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("part", ["constants", "biases", "tensors"])
def test_each_part_is_held_against_the_model(made, tmp_path, part):
    job, plan, encodings = made
    prepared = {"constants": "fc_weight", "biases": "nowhere", "tensors": "fc_weight"}[part]
    wrong = {
        "constants": np.zeros((1, 1), np.float32),
        "biases": np.zeros(2, np.float32),
        "tensors": Encoding(np.ones(99, np.float32), 0, 0),
    }[part]
    changed = replace(encodings, **{part: {**getattr(encodings, part), prepared: wrong}})
    with pytest.raises(DataError, match=f"it has no '{prepared}' like theirs"):
        apply(job.model, plan, tmp_path / "out.onnx", encodings=changed)
