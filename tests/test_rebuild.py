"""`apply` with the encodings of a run: that run's model, and no other."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from conftest import CLASSES, SIZE
from models import tiny_resnet
from quantize.calibrate import calibrate
from quantize.errors import DataError
from quantize.files import npz_bytes, sha256
from quantize.graph.prepare import prepare
from quantize.job import open_job
from quantize.npz import unpack
from quantize.plan import Encoding, Encodings, Plan, Scheme
from quantize.probe import run_once
from quantize.rebuild import apply, read_encodings, read_plan
from quantize.remedies import plain_encodings


@pytest.fixture
def made(done):
    job, _ = done
    plan = read_plan(job.run / "plan.json")
    return job, plan, read_encodings(job.run / "encodings.npz", plan)


def saved(folder, **options):
    path = folder / "other.onnx"
    onnx.save(tiny_resnet(**{"size": SIZE, "classes": CLASSES, **options}), path)
    return path


@pytest.fixture
def retrained(done, tmp_path):
    """The same network with other weights."""
    model = onnx.load(done[0].model)
    tensor = model.graph.initializer[0]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 2, tensor.name))
    onnx.save(model, tmp_path / "other.onnx")
    return tmp_path / "other.onnx"


def older(run, folder):
    """A copy of a run's encodings as versions wrote them that did not name the float file."""
    file = folder / "encodings.npz"
    encodings = Encodings.from_arrays(unpack((run / "encodings.npz").read_bytes()))
    file.write_bytes(npz_bytes(replace(encodings, source=None).to_arrays()))
    return file


def test_the_model_of_the_run_gives_the_same_bytes(made, tmp_path):
    job, plan, encodings = made
    assert encodings.source == sha256(job.model)
    again = apply(job.model, plan, tmp_path / "again.onnx", encodings=encodings)
    assert again.read_bytes() == job.output.read_bytes()


def test_the_same_network_with_other_weights_is_told_by_the_encodings(made, retrained, cli):
    job, _, _ = made
    alone = retrained.parent / "alone"
    alone.mkdir()
    for name in ("plan.json", "encodings.npz"):
        shutil.copy(job.run / name, alone)
    files = ("--plan", alone / "plan.json", "--encodings", alone / "encodings.npz")
    answer = cli("apply", retrained, *files, "-o", alone / "out.onnx")
    assert answer.code == 2
    assert answer.err == (
        f"quantize: error: the encodings are of another model than {retrained}: of sha256"
        f" {sha256(job.model)[:12]}, and this is {sha256(retrained)[:12]}; give the float model of"
        " the run that made them, or apply the plan with --config\n"
    )
    assert not (alone / "out.onnx").exists()
    assert cli("apply", job.model, *files, "-o", alone / "out.onnx").code == 0


def test_of_older_encodings_the_report_says_which_model_they_are_of(made, retrained, tmp_path):
    job, plan, _ = made
    file = older(job.run, tmp_path)
    shutil.copy(job.run / "report.json", tmp_path)
    encodings = read_encodings(file, plan)
    with pytest.raises(DataError, match=r"of another model than .*other\.onnx: of sha256 \w{12}"):
        apply(retrained, plan, tmp_path / "out.onnx", encodings=encodings)


REPORTS = [None, "", "[]", "{}", '{"float_model": 1}', '{"float_model": {"sha256": "x"}}']


@pytest.mark.parametrize("content", REPORTS)
def test_of_older_encodings_without_a_report_nobody_says(made, tmp_path, content):
    job, plan, _ = made
    file = older(job.run, tmp_path)
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    assert read_encodings(file, plan).source is None


def test_a_layer_of_another_shape_is_named(made, tmp_path):
    _, plan, encodings = made
    wider = saved(tmp_path, classes=CLASSES + 3)
    encodings = replace(encodings, source=None)
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


@pytest.mark.parametrize(
    ("part", "value", "wrong"),
    [
        ("scale", np.nan, "is not finite"),
        ("scale", np.inf, "is not finite"),
        ("scale", 0, "is not above 0"),
        ("scale", -1, "is not above 0"),
        ("point", 256, "has more than 8 bits"),
        ("point", -129, "has more than 8 bits"),
        ("bias", np.nan, "is not finite"),
    ],
)
def test_encodings_that_no_run_can_have_written_are_refused(made, tmp_path, part, value, wrong):
    job, plan, _ = made
    arrays = unpack((job.run / "encodings.npz").read_bytes())
    arrays["bias:fc_fwd"] = np.zeros(3, np.float32)
    name = next(key for key in arrays if key.startswith(f"{part}:"))
    arrays[name] = np.array([value, -1]) if part == "point" else np.full(1, value, np.float32)
    (tmp_path / "encodings.npz").write_bytes(npz_bytes(arrays))
    with pytest.raises(DataError, match=rf"encodings\.npz cannot be used: .* {wrong}"):
        read_encodings(tmp_path / "encodings.npz", replace(plan, encodings_sha256=None))


# ------------------------------------------------------------------- plans by hand


def written(folder, content):
    """A plan.json, and how to apply it; what is no text is JSON."""
    file = folder / "plan.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_a_plan_that_leaves_out_what_is_usual_is_a_plain_one(tmp_path):
    file = written(tmp_path, {"engine": "onnxruntime", "format": "qdq"})
    assert read_plan(file) == Plan("onnxruntime", "qdq")


def test_a_plan_survives_its_file(tmp_path):
    scheme = Scheme("per_tensor", "kl", reduce_range=True, portable=True)
    plan = Plan("inc", "qoperator", scheme, ("bias",), ("b", "a"), "0" * 64, 5)
    assert read_plan(written(tmp_path, plan.to_json())) == plan


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"engine": "magic"}, "engine is not one of inc, onnxruntime"),
        ({"format": "qlinear"}, "format is not one of qdq, qoperator"),
        ({"scheme": []}, "scheme is not an object"),
        ({"scheme": {"bits": 4}}, "scheme.bits is not one of weight_granularity, method"),
        ({"scheme": {"weight_granularity": "per_row"}}, "weight_granularity is not one of per_ch"),
        ({"scheme": {"method": "best"}}, "scheme.method is not one of minmax"),
        ({"scheme": {"reduce_range": "no"}}, "scheme.reduce_range is not true or false"),
        ({"scheme": {"portable": 0}}, "scheme.portable is not true or false"),
        ({"repairs": "bias"}, "repairs is not a list"),
        ({"repairs": [["bias"]]}, "repairs[0] is not a text"),
        ({"keep_float": [1]}, "keep_float[0] is not a text"),
        ({"keep_float": [[]]}, "keep_float[0] is not a text"),
        ({"encodings_sha256": "x"}, "encodings_sha256 is not a sha256"),
        ({"walked": "all"}, "walked is not a number"),
        ({"walked": -1}, "walked is not a number from 0"),
        ({"walked": 1.5}, "walked is not a whole number"),
        ({"keepfloat": []}, "keepfloat is not one of engine, format"),
    ],
)
def test_a_value_that_no_plan_has_is_one_line_that_names_it(cli, job, tmp_path, changes, wrong):
    file = written(tmp_path, {"engine": "onnxruntime", "format": "qdq", **changes})
    answer = cli("apply", job.model, "--plan", file, "-o", tmp_path / "o", "--config", job.config)
    assert answer.code == 2
    assert wrong in answer.err
    assert answer.err.count("\n") == 1
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("content", ["", "[]", "null", "[" * 100_000, '{"engine": NaN}'])
def test_what_is_no_plan_is_one_line(tmp_path, content):
    with pytest.raises(DataError, match=r"plan\.json is damaged.*; name a plan\.json of a run"):
        read_plan(written(tmp_path, content))


def test_a_pipe_is_neither_plan_nor_encodings(made, tmp_path):
    _, plan, _ = made
    os.mkfifo(tmp_path / "pipe")
    for read in (read_plan, lambda path: read_encodings(path, plan)):
        with pytest.raises(DataError, match="no regular file"):
            read(tmp_path / "pipe")


# ----------------------------------------------------------------------- other ranges

METHODS = ("minmax", "percentile", "kl", "mse")


def constants(path):
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("method", METHODS)
def test_a_plan_of_another_method_has_that_methods_scales(cli, job, tmp_path, form, method):
    inputs = open_job(job.model, job.settings(), None)
    prepared = prepare(inputs.model.proto, run_once, inputs.model.size)
    seen = calibrate(prepared.model, inputs.calibration.arrays(), threads=1)
    wanted = plain_encodings(prepared.model, seen, method).tensors
    plan = Plan("onnxruntime", form, Scheme(method=method))
    for name in ("one", "two"):
        files = ("--plan", written(tmp_path, plan.to_json()), "--config", job.config)
        assert cli("apply", job.model, *files, "-o", tmp_path / name).code == 0
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    found = constants(tmp_path / "one")
    held = {name for name in wanted if f"{name}_scale" in found}
    assert len(held) > 4
    assert {name: found[f"{name}_scale"] for name in held} == {
        name: wanted[name].scale for name in held
    }


def test_a_tuned_file_of_another_method_is_written_again_from_its_run(job, tmp_path):
    result = job.tune(
        "quantization.model_wise.activation.algorithm=kl", "tuning.exit_policy.max_trials=1"
    )
    assert result.report["int8_model"]["plan"]["scheme"]["method"] == "kl"
    plan = read_plan(job.run / "plan.json")
    assert plan.scheme.method == "kl"
    encodings = read_encodings(job.run / "encodings.npz", plan)
    again = apply(job.model, plan, tmp_path / "again.onnx", encodings=encodings)
    assert again.read_bytes() == job.output.read_bytes()
    page = (job.run / "report.html").read_text()
    assert "kl ranges" in page
