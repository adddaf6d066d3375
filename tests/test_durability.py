"""Kills and time budgets at any moment: nothing finished is repeated, the bytes are the same."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import quantize
from conftest import CLASSES, SIZE, TinyJob
from models import labels_of, prepared, tiny_dataset
from quantize import deadline, pipeline
from quantize.data import loader
from quantize.engines import inc
from quantize.errors import BudgetError, Interrupted

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(quantize.__file__).parent.parent)}
LADDER = ("tuning.accuracy_criterion.relative=0.05",)
"""Eight search images cannot decide about it, so the search tries every repair."""


def evidence(job, report):
    """All that has to be equal after an undisturbed run and a disturbed one."""
    kept = {key: value for key, value in report.items() if key != "measured"}
    names = ("best.onnx", "plan.json", "outcomes.npz")
    files = {name: (job.run / name).read_bytes() for name in names}
    encodings = job.run / "encodings.npz"
    return kept, files, encodings.read_bytes() if encodings.exists() else None


def trials(job):
    """How often each step of a trial was finished: (plan, whether judged, and timed) -> times."""
    lines = (job.run / "journal.jsonl").read_text().splitlines()
    entries = [entry for entry in map(json.loads, lines) if entry["event"] == "trial"]
    return Counter(
        (json.dumps(e["plan"], sort_keys=True), e["outcome"] is None, e["latency"] is None)
        for e in entries
    )


@pytest.fixture(scope="module")
def ladder(template, tmp_path_factory):
    """The whole ladder climbed once, undisturbed."""
    files = TinyJob(Path(shutil.copytree(template.folder, tmp_path_factory.mktemp("l") / "job")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUANTIZE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return files, files.tune(*LADDER)


# ----------------------------------------------------------------------------- predictions


class Stop:
    """Interrupts at the n-th step of a stage."""

    def __init__(self, stage, at):
        self.stage, self.left = stage, at

    def __call__(self, step):
        self.left -= step.stage == self.stage
        if self.left == 0:
            raise Interrupted


@pytest.mark.parametrize(("stage", "at"), [("search", 1), ("verify", 1), ("verify", 5)])
def test_answers_of_an_evaluation_cut_short_are_used_again(job, ladder, stage, at):
    with pytest.raises(Interrupted):
        job.tune(*LADDER, on_progress=Stop(stage, at))
    again = job.tune(*LADDER)
    assert evidence(job, again.report) == evidence(ladder[0], ladder[1].report)
    reused = again.report["measured"]["reused"]
    assert reused["answers"] >= 8  # at least the batch before
    assert ladder[1].report["measured"]["reused"] == {"trials": 0, "answers": 0, "float_answers": 0}
    count = f"{reused['trials']} candidates and {reused['answers']} answers of an earlier run"
    assert count in (job.run / "summary.txt").read_text()
    assert not (job.run / "answers").exists()


def test_a_verdict_cut_short_runs_only_the_images_that_are_left(job):
    with pytest.raises(Interrupted):
        job.tune(on_progress=Stop("verify", 5))  # batches of 8: 40 of 60 images are done
    told = []
    job.tune(on_progress=told.append)
    seen = [step.done for step in told if step.stage == "verify"]
    assert seen == [48, 56, 60]


def test_a_run_that_goes_on_decodes_no_calibration_or_search_image_again(job, monkeypatch):
    decoded = Counter()
    decode = loader.decode
    monkeypatch.setattr(
        loader, "decode", lambda p: decoded.update([p.name + p.parent.parent.name]) or decode(p)
    )
    with pytest.raises(Interrupted):
        job.tune(on_progress=Stop("verify", 1))
    assert any((job.run / "samples").iterdir())
    before = decoded.copy()
    job.tune()
    again = {name for name in decoded if decoded[name] > before[name] > 0}
    assert not {name for name in again if name.endswith("calibration")}
    assert not (job.run / "samples").exists()


def test_fresh_uses_no_answer_again(job):
    with pytest.raises(Interrupted):
        job.tune(on_progress=Stop("verify", 5))
    again = job.tune(fresh=True)
    assert again.report["measured"]["reused"] == {"trials": 0, "answers": 0, "float_answers": 0}


@pytest.mark.inc
def test_a_loop_of_incs_repeats_no_finished_evaluation(job):
    if inc.available() is not None:
        pytest.skip("without Intel Neural Compressor")
    loop = (
        "quantization.engine=inc",
        "tuning.strategy.name=exhaustive",
        "tuning.exit_policy.max_trials=3",
        "tuning.accuracy_criterion.absolute=0.000001",
    )
    # Calibration images of a scale that leaves the true ones no more than a few int8 steps.
    items = tiny_dataset(CLASSES, 6, SIZE, 2)
    scales = [np.float32(3000)] * 16 + [np.float32(1)] * (len(items) - 16)
    images = zip(prepared(items), scales, labels_of(items), strict=True)
    bad = [(image * scale, int(label)) for image, scale, label in images]
    whole = TinyJob(Path(shutil.copytree(job.folder, job.folder.parent / "whole")))
    expected = whole.tune(*loop, calibration=bad)
    assert len(expected.report["search"]["trials"]) == 3
    images = expected.report["data"]["search"]["images"]
    with pytest.raises(Interrupted):
        job.tune(*loop, calibration=bad, on_progress=Stop("search", 3))  # float, two candidates
    again = job.tune(*loop, calibration=bad)
    assert evidence(job, again.report) == evidence(whole, expected.report)
    assert again.report["measured"]["reused"]["answers"] == 3 * images


# ---------------------------------------------------------------------------------- budget


class Ticking:
    """A clock that moves only when it is read, one second each time."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        self.now += 1
        return self.now


def spent(job, budget):
    """What a run with a time budget complains of, or None where it came to its end."""
    try:
        job.tune(*LADDER, budget)
    except BudgetError as error:
        return str(error)
    return None


@pytest.mark.parametrize("seconds", [1, 4, 9, 14, 20, 40, 80, 120, 160])
def test_a_budget_is_a_hard_end_that_keeps_the_best(job, ladder, monkeypatch, seconds):
    budget = f"tuning.exit_policy.timeout={seconds}"
    clock = Ticking()
    with monkeypatch.context() as patch:
        patch.setattr(deadline, "time", clock)
        told = spent(job, budget)
    if told is not None:
        assert "the time budget" in told
        assert "more time" in told
    unverified = told is not None and "unverified, is" in told
    assert (job.run / "best.onnx").exists() == (told is None or unverified)
    assert clock.now < seconds + 12  # each look at the clock is one second
    # More time continues it, as if it had never been cut.
    again = job.tune(*LADDER, "tuning.exit_policy.timeout=0")
    assert evidence(job, again.report) == evidence(ladder[0], ladder[1].report)
    assert max(trials(job).values()) == 1


# ----------------------------------------------------------------------------------- kills


def started(job):
    """The whole ladder in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "quantize", *job.arguments(*(f"--set={key}" for key in LADDER))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )


@pytest.mark.slow
def test_twenty_kills_at_random_moments(template, ladder, tmp_path):
    """Each moment is drawn from the time that an undisturbed run takes here."""
    chance = random.Random(20)
    begin = time.monotonic()
    whole = TinyJob(Path(shutil.copytree(template.folder, tmp_path / "whole")))
    process = started(whole)
    process.communicate(timeout=600)
    assert process.returncode == ladder[1].verdict.exit_code
    usual = time.monotonic() - begin
    kills = jobs = 0
    while kills < 20:
        jobs += 1
        job = TinyJob(Path(shutil.copytree(template.folder, tmp_path / f"job{jobs}")))
        process = started(job)
        while kills < 20:
            try:
                process.wait(timeout=chance.uniform(0, usual))
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate(timeout=60)
                kills += 1
                process = started(job)
        _, error = process.communicate(timeout=600)
        assert process.returncode == ladder[1].verdict.exit_code, error
        report = json.loads((job.run / "report.json").read_text())
        assert evidence(job, report) == evidence(ladder[0], ladder[1].report)
        assert max(trials(job).values()) == 1
        assert pipeline.run_path(job.settings(*LADDER), job.output) == job.run
    print(f"{kills} kills in {jobs} runs")
