"""`quantize check` and `quantize verify BUNDLE`, mostly as a user calls them."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

import quantize
from quantize.bundle import checking
from quantize.bundle.checking import check_bundle
from quantize.bundle.proving import verify_bundle
from quantize.bundle.sums import SUMS, write_sums
from quantize.runtime import cpu

NAME = "float-int8"


@pytest.fixture
def bundle(released, tmp_path):
    return Path(shutil.copytree(released.folder, tmp_path / "bundle"))


def edited(bundle, change):
    content = json.loads((bundle / "manifest.json").read_text())
    change(content)
    (bundle / "manifest.json").write_text(json.dumps(content))
    (bundle / SUMS).unlink()
    return write_sums(bundle)


def shifted(bundle, by):
    """Another expected output; `by` is added to the first score."""
    path = bundle / "test_data_set_1" / "output_0.pb"
    tensor = TensorProto.FromString(path.read_bytes())
    values = numpy_helper.to_array(tensor).copy()
    values[0, int(values.argmin())] += by
    made = numpy_helper.from_array(values, tensor.name)
    made.doc_string = tensor.doc_string
    path.write_bytes(made.SerializeToString())
    (bundle / SUMS).unlink()
    write_sums(bundle)


# -------------------------------------------------------------------------------------- check


@pytest.mark.parametrize("form", ["folder", "archive", "zoo"])
def test_every_form_is_checked(released, cli, form):
    path = {
        "folder": released.folder,
        "archive": released.archive,
        "zoo": released.folder / f"{NAME}.tar.gz",
    }[form]
    answer = cli("check", path)
    assert answer.code == 0
    assert answer.out.count("largest difference 0, same answer") == 3
    assert answer.out.endswith("SAME: all outputs agree\n")


def test_other_outputs_are_exit_3(bundle, cli):
    shifted(bundle, 0.01)
    answer = cli("check", bundle)
    assert answer.code == 3
    assert "test_data_set_1  largest difference 0.01, same answer, OUTSIDE" in answer.out
    assert json.loads(cli("check", bundle, "--json").out)["passed"] is False


def test_the_tolerance_is_that_of_the_manifest(bundle):
    shifted(bundle, 0.01)
    assert check_bundle(bundle).exit_code == 3
    edited(bundle, lambda c: c["check"].update(atol=0.02))
    assert check_bundle(bundle).exit_code == 0


def test_elsewhere_only_answers_are_compared(bundle, monkeypatch, cli):
    monkeypatch.setattr(checking, "cpu", lambda: replace(cpu(), isa="another"))
    shifted(bundle, 0.01)
    answer = cli("check", bundle)
    assert answer.code == 0
    assert f"made on {cpu().isa}, this is another" in answer.out
    assert answer.out.endswith("SAME: all answers agree\n")
    shifted(bundle, 1000)
    answer = cli("check", bundle)
    assert answer.code == 3
    assert "OTHER answer" in answer.out


def test_the_zoo_archive_tells_its_instruction_set(released, monkeypatch):
    monkeypatch.setattr(checking, "cpu", lambda: replace(cpu(), isa="another"))
    seen = check_bundle(released.folder / f"{NAME}.tar.gz")
    assert (seen.made_on, seen.comparable) == (cpu().isa, False)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p.unlink(), "cannot be read"),
        (lambda p: p.write_bytes(b"\xff" * 40), "no tensor"),
        (lambda p: p.write_bytes(_tensor(name="other")), "not the float32 tensor"),
        (lambda p: p.write_bytes(_tensor(values=np.zeros((1, 4), np.int32))), "not the float32"),
        (lambda p: p.write_bytes(_tensor(values=np.zeros((2, 4), np.float32))), "model gives"),
        (lambda p: p.write_bytes(_tensor(dims=[1 << 40, 1 << 20])), "damaged"),
        (lambda p: p.write_bytes(_tensor(external=True)), "in another file"),
    ],
)
def test_damaged_test_data_are_named(bundle, cli, spoil, message):
    spoil(bundle / "test_data_set_0" / "output_0.pb")
    (bundle / SUMS).unlink()
    write_sums(bundle)
    answer = cli("check", bundle)
    assert answer.code == 2
    assert message in answer.err
    assert answer.err.count("\n") == 1


def _tensor(name="logits", values=None, dims=None, external=False):
    made = numpy_helper.from_array(np.zeros((1, 4), np.float32) if values is None else values, name)
    if dims:
        made.dims[:] = dims
    if external:
        made.data_location = TensorProto.EXTERNAL
        made.external_data.add(key="location", value="/etc/passwd")
    return made.SerializeToString()


# ------------------------------------------------------------------------------------- verify


def test_with_the_float_model_the_drop_is_proven(done, released, cli):
    report = done[1].report
    answer = cli(
        "verify", released.archive, "--images", done[0].evaluation, "--float", done[0].model,
        "--digest", released.digest, "--quiet",
    )  # fmt: skip
    assert answer.code == 0
    assert report["verdict"]["images"] == 60
    drop = f"{report['accuracy']['drop_points']:.2f}"
    row = next(line for line in answer.out.splitlines() if line.startswith("drop, points"))
    assert row.split()[-2:] == [drop, drop]
    assert "GOAL MET: top-1 drop" in answer.out
    assert "without --digest" not in answer.out


def test_the_images_of_the_release_are_recognised(released, done, job):
    proof = verify_bundle(released.folder, done[0].evaluation, float_model=done[0].model)
    assert proof.same_images
    next(job.evaluation.rglob("*.png")).unlink()
    assert not verify_bundle(released.folder, job.evaluation).same_images


def test_without_the_float_model_the_drop_stays_unproven(done, released, cli):
    answer = cli("verify", released.folder, "--images", done[0].evaluation, "--quiet")
    assert answer.code == 0
    assert "ACCURACY MET: int8 top-1" in answer.out
    assert "below float as released, on the same images" in answer.out
    assert "the drop and the speed are unproven without --float" in answer.out
    assert "without --digest only accidents are found" in answer.out
    proof = verify_bundle(released.folder, done[0].evaluation)
    top1, low, high = proof.alone.top1, proof.alone.low, proof.alone.high
    n, z = proof.images, 1.959964
    centre = (top1 + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (top1 * (1 - top1) / n + z * z / (4 * n * n)) ** 0.5
    assert (low, high) == pytest.approx((centre - half, min(1, centre + half)), abs=1e-6)


def test_few_other_images_decide_nothing(bundle, job, cli):
    """59 images whose accuracy is nearly that of the release."""
    edited(bundle, lambda c: c["verdict"]["goal"].update(tolerance=0.01))
    next(job.evaluation.rglob("*.png")).unlink()
    answer = cli("verify", bundle, "--images", job.evaluation, "--quiet")
    assert answer.code == 4
    assert "UNDECIDED: int8 top-1" in answer.out
    assert "on other images, if these are alike (one-sided 95 % limits" in answer.out
    assert "more images or --float decide" in answer.out


def test_wrong_answers_to_other_images_are_exit_3(released, job, cli):
    folders = sorted(job.evaluation.iterdir())
    folders[0].rename(job.folder / "aside")
    for here, there in zip(folders[1:], folders[:-1], strict=True):
        here.rename(there)
    (job.folder / "aside").rename(folders[-1])
    answer = cli("verify", released.folder, "--images", job.evaluation, "--quiet")
    assert answer.code == 3
    assert "ACCURACY NOT MET" in answer.out


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda a: None, 0),
        (lambda a: a["right"]["int8"].update(top1=0), 2),  # counts that do not fit together
        (lambda a: a.update(lost=61), 2),
        (lambda a: a.pop("right"), 2),
    ],
)
def test_the_counts_of_the_release_are_checked(bundle, done, cli, change, code):
    edited(bundle, lambda c: change(c["accuracy"]))
    answer = cli("verify", bundle, "--images", done[0].evaluation, "--quiet")
    assert answer.code == code, answer.err


def test_a_goal_that_is_missed_on_these_images_is_exit_3(bundle, done, cli):
    edited(bundle, lambda c: c["verdict"]["goal"].update(speed_floor=1000))
    answer = cli(
        "verify", bundle, "--images", done[0].evaluation, "--float", done[0].model, "--quiet",
        "--json",
    )  # fmt: skip
    assert answer.code == 3
    assert json.loads(answer.out)["verdict"]["outcome"] == "unmet"


def test_a_flat_folder_with_labels(released, done, cli, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    lines = []
    for path in sorted(done[0].evaluation.rglob("*.png")):
        shutil.copy(path, flat / f"{path.parent.name}-{path.name}")
        lines.append(f"{path.parent.name}-{path.name} {int(path.parent.name)}\n")
    (tmp_path / "labels.txt").write_text("".join(lines))
    folder = verify_bundle(released.folder, done[0].evaluation)
    named = verify_bundle(released.folder, flat, labels=tmp_path / "labels.txt")
    assert named.alone.top1 == folder.alone.top1
    answer = cli("verify", released.folder, "--images", flat)
    assert answer.code == 2
    assert "no labels" in answer.err


@pytest.mark.parametrize("missing", ["images", "labels", "float"])
def test_what_does_not_exist_is_exit_2(released, done, cli, missing, tmp_path):
    given = {"images": done[0].evaluation, missing: tmp_path / "none"}
    flags = [text for key, value in given.items() for text in (f"--{key}", value)]
    answer = cli("verify", released.folder, *flags, "--quiet")
    assert answer.code == 2
    assert "none" in answer.err
    assert "Traceback" not in answer.err


def test_another_float_model_is_refused(released, done, cli, tmp_path):
    other = tmp_path / "other.onnx"
    other.write_bytes(done[0].model.read_bytes() + b"\x10\x01")
    answer = cli(
        "verify", released.folder, "--images", done[0].evaluation, "--float", other, "--quiet"
    )
    assert answer.code == 2
    assert "is not the float model of the bundle" in answer.err


def test_a_changed_bundle_is_exit_2_before_anything_runs(released, bundle, cli, tmp_path):
    with (bundle / f"{NAME}.onnx").open("r+b") as file:
        file.write(b"\xff")
    answer = cli("verify", bundle, "--images", tmp_path / "none", "--digest", released.digest)
    assert answer.code == 2
    assert f"{NAME}.onnx was changed" in answer.err


def test_the_two_forms_of_verify_are_kept_apart(released, done, cli, job):
    wrong = [
        ("verify", released.folder),
        ("verify", released.folder, "--images", "x", "--config", job.config),
        ("verify", job.model, job.model),
        ("verify", job.model, job.model, "--config", job.config, "--images", "x"),
        ("verify", job.model, job.model, "--config", job.config, "--digest", "x"),
    ]
    for arguments in wrong:
        answer = cli(*arguments)
        assert answer.code == 2
        assert "a bundle takes --images" in " ".join(answer.err.split())
    answer = cli("verify", job.model, done[1].output, "--config", job.config, "--quiet")
    assert answer.code == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["check"].update(rtol=-1),
        lambda c: c["check"].update(atol="x"),
        lambda c: c["verdict"]["goal"].update(kind="none"),
        lambda c: c["verdict"].update(images="many"),
        lambda c: c["accuracy"]["int8"].update(top1=2),
        lambda c: c["timing"].pop("rounds"),
        lambda c: c["data"]["holdout"].update(sha256="x"),
    ],
)
def test_a_manifest_with_wrong_values_is_exit_2(bundle, done, cli, change):
    edited(bundle, change)
    codes = {
        cli("check", bundle).code,
        cli("verify", bundle, "--images", done[0].evaluation, "--quiet").code,
    }
    assert 2 in codes
    assert codes <= {0, 2}


def test_names_in_a_manifest_do_not_steer_the_terminal(bundle, done, cli):
    edited(bundle, lambda c: c["verdict"].update(instruction_set="\x1b[2Jx"))
    answer = cli("verify", bundle, "--images", done[0].evaluation, "--quiet")
    assert answer.code == 0
    assert "\x1b" not in answer.out
    edited(bundle, lambda c: c["check"].update(instruction_set="\x1b[2Jx"))
    assert "\x1b" not in cli("check", bundle).out


def test_neither_verb_needs_inc(released, done, tmp_path):
    """From another folder, in a process where INC does not import."""
    (tmp_path / "neural_compressor.py").write_text("raise ImportError('not here')")
    source = str(Path(quantize.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), source])}
    for arguments in (
        ("check", released.archive),
        ("verify", released.archive, "--images", done[0].evaluation, "--digest", released.digest),
    ):
        finished = subprocess.run(
            [sys.executable, "-m", "quantize", *map(str, arguments)],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert finished.returncode == 0, finished.stderr
