import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

import quantize
from conftest import CLASSES, SIZE, TinyJob, tree
from models import prepared, tiny_dataset, tiny_resnet
from quantize import candidates, load_config, pipeline
from quantize.engines import inc
from quantize.errors import ConfigError, DataError, OutputError, RunFolderError

BUILT = {
    "best.onnx",
    "candidates",
    "changed.csv",
    "classes.csv",
    "config.yaml",
    "journal.jsonl",
    "layers.csv",
    "lock",
    "outcomes.npz",
    "statistics",
    "plan.json",
    "report.html",
    "report.json",
    "summary.txt",
}
"""What a finished run leaves in its folder, besides encodings where a repair was chosen."""

NO_DATASETS = """\
model: {name: tiny, framework: onnxrt_qdq}
quantization: {engine: onnxruntime, calibration: {sampling_size: 16}}
evaluation:
  accuracy: {metric: {topk: 1}}
  performance: {warmup: 1, iteration: 6}
tuning: {accuracy_criterion: {relative: 0.1}, speed_floor: 0}
"""


def without_measured(report):
    return {key: value for key, value in report.items() if key != "measured"}


def contents(folder):
    return {path.name for path in folder.iterdir()} - {"encodings.npz"}


def plan_of(job):
    return json.loads((job.run / "plan.json").read_text())


def journal(job):
    return [json.loads(line) for line in (job.run / "journal.jsonl").read_text().splitlines()]


def spoiled(images, count=16):
    """Images, the first of a scale that leaves the true ones no more than a few int8 steps."""
    scale = np.float32(3000)
    return [(x * scale if i < count else x, label) for i, (x, label) in enumerate(images)]


def arrays(seed, per_class=6):
    items = tiny_dataset(CLASSES, per_class, SIZE, seed)
    return list(zip(prepared(items), [label for _, label in items], strict=True))


@pytest.fixture(scope="module")
def bare(tmp_path_factory, tiny_model):
    """A model and a configuration that names no images."""
    job = TinyJob(tmp_path_factory.mktemp("bare"))
    onnx.save(tiny_model, job.model)
    job.config.write_text(NO_DATASETS)
    return job


# ------------------------------------------------------------------------- what it gives


def test_a_met_goal_gives_the_output_and_the_evidence(done):
    job, result = done
    assert result.verdict.outcome == "met"
    assert result.output == job.output
    assert result.run == job.run
    assert job.output.read_bytes() == (job.run / "best.onnx").read_bytes()
    assert result.report == json.loads((job.run / "report.json").read_text())
    onnx.checker.check_model(onnx.load(job.output), full_check=True)


def test_the_run_folder_holds_what_the_contract_lists(done):
    job, result = done
    assert contents(job.run) == BUILT
    assert load_config(job.run / "config.yaml") == job.settings()
    assert plan_of(job) == result.report["int8_model"]["plan"]
    assert (job.run / "summary.txt").read_text().splitlines()[-1].startswith("GOAL MET")
    events = [entry["event"] for entry in journal(job)]
    assert (events[0], events[-1]) == ("begin", "end")
    assert "trial" in events


def test_outcomes_say_what_each_model_answered_on_each_image(done):
    job, result = done
    with np.load(job.run / "outcomes.npz", allow_pickle=False) as outcomes:
        assert set(outcomes) == {"digest", "label", "float_top5", "int8_top5"}
        images = result.verdict.images
        assert outcomes["digest"].shape == outcomes["label"].shape == (images,)
        assert outcomes["float_top5"].shape == (images, CLASSES)
        right = outcomes["float_top5"][:, 0] == outcomes["label"]
        assert right.mean() == result.verdict.float_top1


def test_the_int8_file_declares_the_float_files_inputs_and_outputs(done):
    job, _ = done
    made, given = onnx.load(job.output), onnx.load(job.model)
    assert list(made.graph.input) == list(given.graph.input)
    assert list(made.graph.output) == list(given.graph.output)


def test_nothing_is_printed_and_the_working_directory_stays_clean(job, capfd, monkeypatch):
    elsewhere = job.folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    job.tune()
    assert capfd.readouterr() == ("", "")
    assert list(elsewhere.iterdir()) == []


def test_progress_is_told_to_its_end_stage_by_stage(job):
    steps = []
    job.tune(on_progress=steps.append)
    stages = list(dict.fromkeys(step.stage for step in steps))
    expected = ["fingerprint", "read", "search", "calibrate", "verify", "benchmark", "layers"]
    assert stages == expected
    last = {step.stage: step for step in steps}
    assert all(step.done == step.total for step in last.values())
    assert last["verify"].total == 60


def test_what_the_caller_raises_in_its_progress_callback_comes_out(job):
    class StopError(Exception):
        pass

    def stop(step):
        if step.stage == "calibrate":
            raise StopError

    with pytest.raises(StopError):
        job.tune(on_progress=stop)
    assert not job.output.exists()


def test_the_public_functions_are_those_of_the_package(done):
    job, _ = done
    assert quantize.tune is pipeline.tune
    verdict = quantize.verify(job.model, job.output, job.settings())
    assert verdict.outcome == "met"
    seen = quantize.evaluate(job.output, job.settings())
    assert (seen.images, seen.accuracy()) == (60, verdict.int8_top1)
    assert quantize.benchmark(job.model, job.output, job.settings()).rounds == 6


def test_verify_judges_the_images_that_tune_judged(done):
    job, result = done
    seen = quantize.verify(job.model, job.output, job.settings())
    assert (seen.images, seen.drop) == (result.verdict.images, result.verdict.drop)
    assert seen.fidelity == result.verdict.fidelity


# ------------------------------------------------------------- images from any iterable


class Again:
    """A re-iterable that is no list."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


def test_images_may_be_paths_with_labels(job):
    def listed(root):
        return [(str(p), int(p.parent.name)) for p in sorted(root.glob("*/*.png"))]

    # No holdout image lies in the folders of the configuration's own datasets.
    moved = job.evaluation.rename(job.folder / "moved")
    result = job.tune(calibration=listed(job.calibration), evaluation=Again(listed(moved)))
    assert result.verdict.outcome == "met"
    assert result.verdict.images == 60


def test_images_may_be_uint8_arrays_that_the_transforms_prepare(job):
    shutil.rmtree(job.calibration)
    shutil.rmtree(job.evaluation)
    result = job.tune(
        calibration=tiny_dataset(CLASSES, 4, SIZE, seed=2),
        evaluation=Again(tiny_dataset(CLASSES, 15, SIZE, seed=3)),
    )
    assert result.verdict.images == 60
    assert result.verdict.float_top1 > 0.8


def test_uint8_arrays_and_files_of_the_same_pixels_are_judged_alike(job, done):
    _, from_files = done
    result = job.tune(evaluation=tiny_dataset(CLASSES, 15, SIZE, seed=3))
    assert result.verdict.drop == from_files.verdict.drop
    assert result.verdict.float_top1 == from_files.verdict.float_top1


def test_images_may_be_prepared_float32_without_any_configured_dataset(bare, tmp_path):
    result = pipeline.tune(
        bare.model,
        load_config(bare.config),
        tmp_path / "int8.onnx",
        calibration=Again(arrays(2)),
        evaluation=arrays(3, per_class=15),
    )
    assert result.verdict.outcome == "met"
    assert result.report["data"]["holdout"]["preprocessing"] == []


def test_unlabelled_images_are_judged_by_agreement(bare, tmp_path):
    result = pipeline.tune(
        bare.model,
        load_config(bare.config, ["tuning.accuracy_criterion.agreement=0.9"]),
        tmp_path / "int8.onnx",
        calibration=[(array, None) for array, _ in arrays(2)],
        evaluation=[(array, None) for array, _ in arrays(3)],
    )
    assert result.verdict.outcome == "met"
    assert result.verdict.drop is None
    assert result.report["accuracy"] is None
    assert "agreement" in result.verdict.reason


def test_random_weights_are_judged_by_agreement_even_on_labelled_images(job):
    onnx.save(tiny_resnet(16, SIZE, CLASSES, seed=5), job.model)
    with pytest.raises(DataError, match="no better than chance"):
        job.tune()
    result = job.tune("tuning.accuracy_criterion.agreement=0.8")
    assert result.verdict.outcome == "met"


def test_a_goal_on_labels_without_labels_is_refused_before_anything_is_written(bare, tmp_path):
    with pytest.raises(DataError, match="10 of 24 images to verify on have no label"):
        pipeline.tune(
            bare.model,
            load_config(bare.config),
            tmp_path / "int8.onnx",
            calibration=arrays(2),
            evaluation=[(a, None if i < 10 else k) for i, (a, k) in enumerate(arrays(3))],
        )
    assert list(tmp_path.iterdir()) == []


def test_without_images_from_anywhere_the_configuration_is_to_blame(bare, tmp_path):
    with pytest.raises(ConfigError, match=r"quantization\.calibration\.dataloader is missing"):
        pipeline.tune(bare.model, load_config(bare.config), tmp_path / "int8.onnx")


# -------------------------------------------------------------------- goals and verdicts


@pytest.mark.parametrize("goal", ["relative=0.1", "absolute=0.1", "agreement=0.9"])
def test_every_kind_of_goal_can_be_met(job, goal):
    result = job.tune(f"tuning.accuracy_criterion.{goal}")
    assert result.verdict.exit_code == 0
    assert result.report["verdict"]["goal"]["kind"] == goal.split("=")[0]


@pytest.mark.parametrize("goal", ["relative=0.05", "absolute=0.05", "agreement=0.98"])
def test_every_kind_of_goal_can_be_missed(job, goal):
    result = job.tune(f"tuning.accuracy_criterion.{goal}", calibration=spoiled(arrays(2)))
    assert result.verdict.outcome == "unmet"
    assert result.verdict.exit_code == 3
    assert result.output is None
    assert not job.output.exists()
    assert contents(job.run) == BUILT
    assert not any(trial["accepted"] for trial in result.report["search"]["trials"])


def test_the_holdout_refuses_what_unlike_search_images_accept(job):
    result = job.tune(calibration=spoiled(arrays(2), count=24))
    assert any(trial["accepted"] for trial in result.report["search"]["trials"])
    assert result.verdict.exit_code == 3


def test_the_candidate_that_the_search_accepts_is_the_one_that_ships(done):
    _, result = done
    (accepted,) = (trial for trial in result.report["search"]["trials"] if trial["accepted"])
    shipped = dict(result.report["int8_model"]["plan"])
    del shipped["encodings_sha256"]  # known once it was made
    assert {key: accepted["plan"][key] for key in shipped} == shipped


MINMAX = "quantization.model_wise={activation: {algorithm: [minmax]}}"
KL = "quantization.model_wise={activation: {algorithm: [kl, percentile]}}"


@pytest.mark.parametrize(
    ("relative", "asked", "repairs"),
    [
        (0.5, (), ["bias", "ranges"]),
        (0.5, (MINMAX,), ["bias"]),
        (0.5, (KL,), ["bias"]),
        (0.05, (), []),  # so few search images could show no candidate to meet it
    ],
)
def test_the_first_candidate_has_the_repairs_that_take_no_time(job, relative, asked, repairs):
    result = job.tune(f"tuning.accuracy_criterion.relative={relative}", *asked)
    trials = result.report["search"]["trials"]
    assert trials[0]["plan"]["repairs"] == repairs
    assert trials[0]["plan"]["walked"] == (0 if repairs else None)
    assert (len(trials) == 1) is bool(repairs)


def test_with_few_images_a_confidence_leaves_the_verdict_open(job):
    result = job.tune("tuning.accuracy_criterion={relative: 0.01, confidence: 0.95}")
    assert result.verdict.outcome == "undecided"
    assert result.verdict.exit_code == 4
    assert result.verdict.more_images > result.verdict.images
    assert not job.output.exists()


def test_a_confidence_that_the_images_can_bear_is_met(job):
    result = job.tune("tuning.accuracy_criterion={relative: 0.2, confidence: 0.95}")
    assert result.verdict.outcome == "met"


def test_an_absurd_speed_floor_beats_everything(job):
    job.output.write_bytes(b"older")
    result = job.tune(
        "tuning.speed_floor=50",
        "tuning.accuracy_criterion={relative: 0.01, confidence: 0.95}",
    )
    assert result.verdict.exit_code == 3
    assert "the speed floor of 50x is missed" in result.verdict.reason
    assert not any(trial["accepted"] for trial in result.report["search"]["trials"])
    assert not job.output.exists()


def test_qoperator_is_written_where_the_framework_asks_for_it(job):
    job.tune("model.framework=onnxrt_qlinearops")
    kinds = {node.op_type for node in onnx.load(job.output).graph.node}
    assert "QLinearConv" in kinds


# ------------------------------------------------------------------ older files and runs


def test_an_older_output_is_renamed(job):
    job.output.write_bytes(b"older")
    job.tune()
    assert (job.folder / "int8.onnx.old").read_bytes() == b"older"
    assert job.output.read_bytes() == (job.run / "best.onnx").read_bytes()


def test_an_older_output_is_renamed_even_if_the_goal_is_missed(job):
    job.output.write_bytes(b"older")
    job.tune(calibration=spoiled(arrays(2)))
    assert not job.output.exists()
    assert (job.folder / "int8.onnx.old").read_bytes() == b"older"


def test_the_input_model_is_never_what_an_older_output_is_renamed_to(job):
    model = job.model.rename(job.folder / "int8.onnx.old")
    job.output.write_bytes(b"older")
    with pytest.raises(OutputError, match="that is the input model"):
        pipeline.tune(model, job.settings(), job.output)
    assert job.output.read_bytes() == b"older"


def test_a_finished_run_is_verified_again_without_a_search(job):
    first = job.tune()
    trials = [entry for entry in journal(job) if entry["event"] == "trial"]
    told = []
    again = job.tune(on_progress=told.append)
    assert "calibrate" not in {step.stage for step in told}
    assert "verify" in {step.stage for step in told}
    assert [entry for entry in journal(job) if entry["event"] == "trial"] == trials
    assert without_measured(again.report) == without_measured(first.report)
    assert again.report["measured"]["earlier_run"] == "finished"
    assert "only verified again" in (job.run / "summary.txt").read_text()
    assert job.output.exists()


def test_another_goal_calibrates_no_second_time_but_another_version_does(job, monkeypatch):
    told = []
    job.tune()
    again = job.tune("tuning.accuracy_criterion.relative=0.2", on_progress=told.append)
    assert again.report["measured"]["earlier_run"] == "new"
    assert "calibrate" not in {step.stage for step in told}
    monkeypatch.setattr(candidates, "versions", lambda: {"pillow": "0.1"})
    job.tune("tuning.accuracy_criterion.relative=0.3", on_progress=told.append)
    assert "calibrate" in {step.stage for step in told}


@pytest.mark.parametrize("error", [np.linalg.LinAlgError("singular"), MemoryError(), KeyError("x")])
def test_a_candidate_that_crashes_is_told_with_its_cause_and_the_others_go_on(
    job, monkeypatch, error
):
    make = candidates.Workshop.make

    def failing(workshop, plan):
        if "scales" in plan.repairs and plan.walked == 0:
            raise error
        return make(workshop, plan)

    monkeypatch.setattr(candidates.Workshop, "make", failing)
    result = job.tune("tuning.accuracy_criterion.relative=0.05")  # undecidable: all are tried
    failed = [trial for trial in result.report["search"]["trials"] if trial["note"]]
    told = [trial["note"] for trial in failed if trial["note"].startswith("failed: ")]
    assert told == [f"failed: {type(error).__name__}: {error}".rstrip(": ")]
    assert len(result.report["search"]["trials"]) > 5
    assert (job.run / "best.onnx").exists()


def test_a_candidate_that_was_tampered_with_is_made_again(job):
    job.tune()
    good = (job.run / "best.onnx").read_bytes()
    candidates = (job.run / "candidates").glob("*.onnx")
    candidate = next(path for path in candidates if path.read_bytes() == good)
    candidate.write_bytes(good[:-1])
    job.tune()
    assert candidate.read_bytes() == good
    assert job.output.read_bytes() == good


def test_fresh_starts_over(job):
    job.tune()
    (job.run / "candidates" / "stale").write_text("left over")
    told = []
    job.tune(fresh=True, on_progress=told.append)
    assert "calibrate" in {step.stage for step in told}
    assert contents(job.run) == BUILT
    assert not (job.run / "candidates" / "stale").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda job: job.tune("tuning.accuracy_criterion.relative=0.2"),
        lambda job: job.tune(evaluation=arrays(7)),
        lambda job: (onnx.save(tiny_resnet(8, SIZE, CLASSES), job.model), job.tune(GOAL)),
    ],
    ids=["goal", "images", "model"],
)
def test_another_job_puts_the_older_run_folder_aside(job, change):
    job.tune()
    before = tree(job.run)
    change(job)
    aside = tree(job.folder / "int8.onnx.run.old1")
    assert aside["journal.jsonl"] == before["journal.jsonl"]
    assert aside["report.json"] == before["report.json"]
    assert (job.run / "journal.jsonl").read_bytes() != before["journal.jsonl"]


GOAL = "tuning.accuracy_criterion.agreement=0.5"


def test_a_refused_job_leaves_the_older_run_and_output_as_they_are(job):
    job.tune()
    before = tree(job.folder)
    with pytest.raises(ConfigError, match="matches none of the model's"):
        job.tune("quantization.op_wise={no_such_node: {weight: {dtype: fp32}}}")
    with pytest.raises(DataError, match="no better than chance"):
        job.tune(evaluation=[(array, (k + 1) % 4) for array, k in arrays(3, 15)])
    assert tree(job.folder) == before


def test_a_folder_of_other_things_is_no_run_folder(job):
    private = job.folder / "private"
    private.mkdir()
    (private / "thesis.txt").write_text("years of work")
    (private / "lock").write_text("mine")
    with pytest.raises(RunFolderError, match=r"thesis\.txt"):
        job.tune(f"tuning.workspace.path={private}")
    assert tree(private) == {"thesis.txt": b"years of work", "lock": b"mine"}


def test_the_workspace_of_the_configuration_is_the_run_folder(job):
    result = job.tune("tuning.workspace.path=deep/er/ws")
    assert result.run == job.folder / "deep/er/ws"
    assert contents(result.run) == BUILT
    assert not job.run.exists()


# -------------------------------------------------------------- other processes, and kills

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(quantize.__file__).parent.parent)}


def start(job, *more, cores=None, **environment):
    """The job in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "quantize", *job.arguments(), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**ENVIRONMENT, **environment},
        preexec_fn=cores and (lambda: os.sched_setaffinity(0, cores)),
    )


STOPPED_AT = """\
import sys, time
from pathlib import Path
from quantize import cli, {module} as room
ready = Path(sys.argv.pop(1))
def stop(*args, **kwargs):
    ready.touch()
    time.sleep(60)
room.{name} = stop
cli.main()
"""


def started_up_to(job, module, name):
    """The job in a process of its own, once it has come to this function, where it hangs."""
    ready = job.folder.parent / f"{name}.ready"
    ready.unlink(missing_ok=True)
    program = STOPPED_AT.format(module=module, name=name)
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(ready), *job.arguments()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    deadline = time.monotonic() + 60
    while not ready.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


@pytest.mark.parametrize(
    ("kind", "code", "word"),
    [
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGKILL, -9, ""),
    ],
)
def test_an_interrupted_run_leaves_nothing_half_and_continues(job, done, kind, code, word):
    job.output.write_bytes(b"older")
    process = started_up_to(job, "pipeline", "keep_best")  # the search is over, the rest is not
    process.send_signal(kind)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert out == ""
    assert err == (f"quantize: {word}; the same command continues\n" if word else "")
    assert not job.output.exists()
    assert not list(job.folder.rglob(".quantize.*"))
    assert "end" not in [entry["event"] for entry in journal(job)]

    told = []
    result = job.tune(on_progress=told.append)
    assert "calibrate" not in {step.stage for step in told}
    assert result.report["measured"]["earlier_run"] == "continued"
    assert without_measured(result.report) == without_measured(done[1].report)
    assert job.output.read_bytes() == done[0].output.read_bytes()
    assert contents(job.run) <= BUILT | {"samples"}


def test_a_line_that_a_kill_cut_off_does_no_harm(job, done):
    job.tune()
    text = (job.run / "journal.jsonl").read_bytes()
    (job.run / "journal.jsonl").write_bytes(text[: len(text) * 2 // 3])
    result = job.tune()
    assert result.report["measured"]["earlier_run"] == "continued"
    assert without_measured(result.report) == without_measured(done[1].report)


def test_a_second_process_is_sent_away(job):
    process = started_up_to(job, "pipeline", "accept")
    try:
        before = tree(job.folder)
        second = start(job)
        _, err = second.communicate(timeout=60)
        assert second.returncode == 2
        assert "is in use by another run" in err
        assert len(err.splitlines()) == 1
        assert tree(job.folder) == before
    finally:
        process.kill()
        process.communicate()


# -------------------------------------------------------------------------- same bytes


def test_the_same_inputs_give_the_same_bytes_anywhere(job, done):
    """In another process and folder, on one core or all, under any hash seed."""
    first, result = done
    outcomes = (first.run / "outcomes.npz").read_bytes()
    moved = TinyJob(Path(shutil.copytree(job.folder, job.folder.parent / "an other place")))
    all_cores = os.sched_getaffinity(0)
    for files, seed, available in ((job, "0", all_cores), (moved, "4711", {min(all_cores)})):
        process = start(files, "--fresh", PYTHONHASHSEED=seed, cores=available)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert files.output.read_bytes() == first.output.read_bytes()
        report = json.loads((files.run / "report.json").read_text())
        assert without_measured(report) == without_measured(result.report)
        assert (files.run / "outcomes.npz").read_bytes() == outcomes


def test_batch_size_decides_nothing(job, done):
    job.config.write_text(job.config.read_text().replace("batch_size: 8", "batch_size: 3"))
    result = job.tune(fresh=True)
    assert job.output.read_bytes() == done[0].output.read_bytes()
    assert without_measured(result.report) == without_measured(done[1].report)


# ------------------------------------------------------------------------ odd but sane models


def test_a_model_with_open_height_and_width_takes_the_size_of_the_images(job):
    model = onnx.load(job.model)
    for axis, name in ((2, "H"), (3, "W")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    onnx.save(model, job.model)
    result = job.tune()
    assert result.verdict.outcome == "met"
    assert result.report["float_model"]["input"]["size"] == [3, SIZE, SIZE]
    declared = onnx.load(job.output).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param for d in declared[2:]] == ["H", "W"]


def fixed_size_model():
    """Open height and width on paper, while Reshape and Gemm hold for one size alone."""
    rng = np.random.default_rng(0)
    make = onnx.helper
    nodes = [
        make.make_node("Conv", ["data", "w"], ["c"], name="c", kernel_shape=[4, 4], strides=[4, 4]),
        make.make_node("Relu", ["c"], ["r"], name="r"),
        make.make_node("Reshape", ["r", "shape"], ["flat"], name="reshape"),
        make.make_node("Gemm", ["flat", "fc"], ["logits"], name="fc", transB=1),
    ]
    values = {
        "w": rng.standard_normal((8, 3, 4, 4)),
        "fc": rng.standard_normal((CLASSES, 8 * (SIZE // 4) ** 2)),
    }
    constants = [onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in values.items()]
    constants.append(onnx.numpy_helper.from_array(np.array([1, -1]), "shape"))
    sizes = {"data": [1, 3, "H", "W"], "logits": [1, CLASSES]}
    ends = {
        name: make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in sizes.items()
    }
    graph = make.make_graph(nodes, "fixed", [ends["data"]], [ends["logits"]], constants)
    return make.make_model(graph, opset_imports=[make.make_opsetid("", 13)], ir_version=8)


def test_a_batch_of_one_with_reshape_and_sizes_open_on_paper_only(job):
    onnx.save(fixed_size_model(), job.model)
    result = job.tune("tuning.accuracy_criterion.agreement=0.8")
    assert result.verdict.outcome == "met"
    assert result.report["int8_model"]["convolutions"] == {"int8": 1, "all": 1}
    shape = onnx.load(job.output).graph.input[0].type.tensor_type.shape
    assert shape.dim[0].dim_value == 1


def test_probabilities_are_judged_by_the_logits_behind_them(job, tiny_model, done):
    model = onnx.ModelProto()
    model.CopyFrom(tiny_model)
    model.graph.node.append(
        onnx.helper.make_node("Softmax", ["logits"], ["probabilities"], name="softmax", axis=1)
    )
    model.graph.output[0].name = "probabilities"
    onnx.save(model, job.model)
    result = job.tune()
    assert result.verdict.outcome == "met"
    assert result.verdict.fidelity.sqnr_db == pytest.approx(done[1].verdict.fidelity.sqnr_db, abs=1)
    images = prepared(tiny_dataset(CLASSES, 1, SIZE, seed=9))
    session = quantize.runtime.Session(job.output)
    assert session.run(images)[0].sum(axis=1) == pytest.approx(np.ones(len(images)), abs=1e-2)


@pytest.mark.inc
def test_a_finished_loop_of_incs_is_not_repeated(job, monkeypatch):
    if inc.available() is not None:
        pytest.skip("without Intel Neural Compressor")
    overrides = ("quantization.engine=inc", "tuning.strategy.name=basic")
    first = job.tune(*overrides, "tuning.accuracy_criterion.relative=0.2")
    monkeypatch.setattr("quantize.strategy.inc_loop", None)
    again = job.tune(*overrides, "tuning.accuracy_criterion.relative=0.2")
    assert without_measured(again.report) == without_measured(first.report)
    assert again.report["search"]["trials"]


# ----------------------------------------------------------------------------------- logs


def test_notes_on_the_data_are_logged_and_reported(job, caplog):
    one_class = [(array, 0) for array, label in arrays(2, 20) if label == 0]
    with caplog.at_level(logging.WARNING):
        result = job.tune(calibration=one_class)
    note = "all 16 calibration images are of class 0"
    assert note in caplog.text
    assert note in result.report["data"]["notes"]
    assert note in (job.run / "summary.txt").read_text()
