import json
import re
import socket
from dataclasses import replace
from pathlib import Path

import pytest

import quantize
from conftest import SIZE, TinyJob
from models import tiny_dataset
from quantize import candidates
from quantize.errors import ModelError
from quantize.plan import Cpu, Fidelity, Latency, Plan, Scheme
from quantize.report.summary import summary
from quantize.report.values import finite
from quantize.report.verdict import (
    closeness_line,
    latency_lines,
    latency_to_json,
    verdict_lines,
    verdict_to_json,
)
from quantize.runtime import cpu

DOCUMENT = Path(quantize.__file__).parent.parent / "docs" / "report.md"

IMAGES = {
    "images",
    "preprocessing",
    "sha256",
    "unreadable",
    "unreadable.first",
    "unreadable.images",
}
PLAN = {
    "encodings_sha256",
    "engine",
    "format",
    "keep_float",
    "repairs",
    "scheme",
    "scheme.method",
    "scheme.portable",
    "scheme.reduce_range",
    "scheme.weight_granularity",
    "walked",
}
LATENCY = {"float_ms", "high", "int8_ms", "low", "ratio", "rounds", "threads", "threads_asked"}


def under(prefix, keys):
    return {prefix} | {f"{prefix}.{key}" for key in keys}


KEYS = (
    {"schema_version", "prepare"}
    | under("tool", {"name", "version"})
    | {"versions"}
    | under(
        "verdict", {"exit_code", "images", "instruction_set", "more_images", "outcome", "reason"}
    )
    | under("verdict.goal", {"confidence", "kind", "speed_floor", "tolerance"})
    | under("float_model", {"bytes", "file", "opset", "sha256"})
    | under("float_model.input", {"name", "size"})
    | under("float_model.output", {"classes", "name"})
    | under("int8_model", {"bytes", "int8_share_of_multiply_adds", "opset", "sha256"})
    | under("int8_model.convolutions", {"all", "int8"})
    | {"int8_model.stayed_float"}
    | under("int8_model.plan", PLAN)
    | under("data", {"duplicates", "notes"})
    | under("data.calibration", IMAGES)
    | under("data.search", {*IMAGES, "is_calibration"})
    | under("data.holdout", IMAGES)
    | under("search", {"stopped", "strategy"})
    | under(
        "search.trials", {"accepted", "drop_points", "gain_db", "images", "note", "outcome", "top1"}
    )
    | under("search.trials.probe", {"agreement", "sqnr_db"})
    | under("search.trials.fidelity", {"agreement", "sqnr_db"})
    | under("search.trials.plan", {*PLAN, "key"})
    | under("accuracy", {"drop_interval_points", "drop_points", "drop_ratio", "gained", "lost"})
    | under("accuracy.float", {"top1", "top5"})
    | under("accuracy.int8", {"top1", "top5"})
    | under("fidelity", {"agreement", "agreement_interval", "sqnr_db"})
    | under("layers", {"int8", "name", "noise_share", "operator", "saturation_share"})
    | under("layers", {"share_of_multiply_adds", "sqnr_db", "weight_range_ratio"})
    | under("layers", {"overflow_possible_share", "overflow_share"})
    | under("changed", {"first", "images"})
    | {"classes"}
    | under("measured", {"earlier_run", "finished", "passes_over_search_set", "reused", "seconds"})
    | under("measured.reused", {"answers", "float_answers", "trials"})
    | under("measured.cpu", {"cores", "isa", "name", "saturates"})
    | {"measured.cpus"}
    | under("measured.latency", LATENCY)
    | under("measured.trials", {"plan", "seconds"})
    | under("measured.trials.latency", LATENCY)
)
"""The keys of schema version 1: to take one away, raise the version."""

OPEN = ("versions", "preprocessing", "unreadable.first")
"""Below these stand names, not keys."""


def keys_of(value, path=""):
    if isinstance(value, dict):
        for key, item in value.items():
            here = f"{path}.{key}" if path else key
            yield here
            if not here.endswith(OPEN):
                yield from keys_of(item, here)
    elif isinstance(value, list):
        for item in value:
            yield from keys_of(item, path)


def texts_of(value):
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from texts_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts_of(item)
    elif isinstance(value, str):
        yield value


@pytest.fixture
def report(done):
    """A copy to edit."""
    return json.loads((done[0].run / "report.json").read_text())


# -------------------------------------------------------------------------------- the schema


def test_the_keys_are_those_of_the_schema_version(report):
    assert report["schema_version"] == 1
    assert set(keys_of(report)) == KEYS


def test_every_key_is_documented():
    if not DOCUMENT.is_file():
        pytest.skip("the documents are not in the package")
    text = DOCUMENT.read_text()
    words = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", text))))
    assert {key.rsplit(".", 1)[-1] for key in KEYS} <= words


def test_units_hold(report):
    accuracy, measured = report["accuracy"], report["measured"]
    drop = 100 * (accuracy["float"]["top1"] - accuracy["int8"]["top1"])
    assert accuracy["drop_points"] == pytest.approx(drop)
    assert accuracy["drop_points"] == pytest.approx(
        100 * (accuracy["lost"] - accuracy["gained"]) / report["verdict"]["images"]
    )
    low, high = accuracy["drop_interval_points"]
    assert low < accuracy["drop_points"] < high
    assert 0 < accuracy["float"]["top1"] <= accuracy["float"]["top5"] <= 1
    assert 0 < report["fidelity"]["agreement"] <= 1
    assert report["float_model"]["input"]["size"] == [3, SIZE, SIZE]
    assert report["float_model"]["output"]["classes"] == 4
    latency = measured["latency"]
    assert 0 < latency["low"] <= latency["ratio"] <= latency["high"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", measured["finished"])
    assert measured["trials"][0]["plan"] == report["search"]["trials"][0]["plan"]["key"]


def test_it_is_strict_json(done):
    def refuse(constant):
        raise AssertionError(constant)

    json.loads((done[0].run / "report.json").read_text(), parse_constant=refuse)


def test_equal_outputs_have_no_number_for_their_sqnr(job, monkeypatch):
    monkeypatch.setattr("quantize.evaluation.sqnr_db", lambda *_: float("inf"))
    report = job.tune().report
    assert report["fidelity"]["sqnr_db"] is None
    assert report["search"]["trials"][0]["fidelity"]["sqnr_db"] is None
    assert report == json.loads((job.run / "report.json").read_text())


def test_what_json_has_not_is_null():
    inf, nan = float("inf"), float("nan")
    value = {"a": [1.5, inf, (nan, "inf", None, True, 3)], "b": {"c": -inf}}
    assert finite(value) == {"a": [1.5, None, [None, "inf", None, True, 3]], "b": {"c": None}}


def test_clock_and_machine_stand_under_measured_alone(report):
    seen = cpu()
    rest = {key: value for key, value in report.items() if key != "measured"}
    assert seen.name not in json.dumps(rest)
    assert report["measured"]["finished"][:10] not in json.dumps(rest)
    assert not [key for key in keys_of(rest) if key.endswith(("_ms", "seconds", "threads"))]


def test_no_place_of_this_machine_is_told(done, report):
    job, _ = done
    host = socket.gethostname()
    for text in texts_of(report):
        assert str(job.folder) not in text
        assert not text.startswith("/")
        assert not re.search(rf"\b{re.escape(host)}\b", text)


def test_no_place_is_told_by_the_note_of_a_failed_trial_either(job, monkeypatch):
    plain = Plan("onnxruntime", "qdq")
    failing = replace(plain, scheme=Scheme("per_tensor"))
    make = candidates.Workshop.make

    def fail(self, plan):
        if plan == failing:
            raise ModelError(
                f"model {self.folder}/x y.onnx does not load, see {job.model}, /opt/else/where.so"
            )
        return make(self, plan)

    monkeypatch.setattr("quantize.strategy.plans", lambda *_: (failing, plain))
    monkeypatch.setattr(candidates.Workshop, "make", fail)
    folder = TinyJob((job.folder.parent / "with a blank").resolve())
    job.folder.rename(folder.folder)
    result = folder.tune()
    trials = result.report["search"]["trials"]
    (failed,) = (trial for trial in trials if trial["note"].startswith("failed"))
    note = "failed: model candidates/x y.onnx does not load, see "
    assert failed["note"].startswith(note)
    assert str(folder.folder) not in failed["note"]
    assert failed["note"].endswith(", where.so")
    assert (failed["top1"], failed["fidelity"], failed["accepted"]) == (None, None, False)
    assert any(trial["accepted"] for trial in trials)
    assert "trial 1  onnxruntime qdq: failed: model" in (folder.run / "summary.txt").read_text()


def test_without_labels_there_is_no_accuracy(job):
    bare = [(x, None) for x, _ in tiny_dataset(4, 6, SIZE, seed=3)]
    result = job.tune(
        "tuning.accuracy_criterion.agreement=0.5",
        calibration=[(x, None) for x, _ in tiny_dataset(4, 4, SIZE, seed=2)],
        evaluation=bare,
    )
    report = result.report
    assert report["accuracy"] is None
    assert report["search"]["trials"][0]["top1"] is None
    assert set(keys_of(report)) == {k for k in KEYS if not k.startswith("accuracy.")}
    text = (job.run / "summary.txt").read_text()
    assert "accuracy   not measured: the images have no labels" in text
    assert "search 16 (the calibration images again)" in text


# ------------------------------------------------------------------------------- the summary


def test_the_last_line_is_the_verdict_and_names_the_instruction_set(report):
    last = summary(report).splitlines()[-1]
    verdict = report["verdict"]
    assert last == (
        f"GOAL MET: {verdict['reason']}; seen on 60 holdout images, {verdict['instruction_set']}"
    )
    for outcome, words in (("unmet", "GOAL NOT MET: "), ("undecided", "UNDECIDED: ")):
        verdict["outcome"] = outcome
        assert summary(report).splitlines()[-1].startswith(words)


def test_the_summary_is_short(report):
    assert len(summary(report).splitlines()) <= 24
    assert max(map(len, summary(report).splitlines())) <= 200


def line_with(text, report):
    return next(line for line in summary(report).splitlines() if text in line)


def test_the_summary_tells_what_differs_from_the_plain_case(report):
    report["data"]["duplicates"] = 3
    report["data"]["notes"] = ["all 16 calibration images are of class 0"]
    report["data"]["holdout"]["unreadable"] = {"images": 30, "first": {"a.png": "empty"}}
    report["int8_model"]["stayed_float"] = list("abcdefg")
    report["measured"]["latency"] |= {"threads": 2, "threads_asked": 4}
    report["search"]["trials"][0] |= {"accepted": False, "top1": 0.125, "note": "too low"}
    assert "3 equal images were counted once" in summary(report)
    assert "note       all 16 calibration images are of class 0" in summary(report)
    assert "holdout: 30 unreadable, first a.png" in summary(report)
    assert line_with("and 2 more", report) == "float      a, b, c, d, e and 2 more"
    assert "2 threads (4 asked, the machine has fewer)" in summary(report)
    assert line_with("trial 1", report).endswith("top-1 12.50 %, too low")


@pytest.mark.parametrize(
    ("state", "words"),
    [("new", None), ("continued", "interrupted run"), ("finished", "only verified again")],
)
def test_the_summary_tells_of_an_earlier_run(report, state, words):
    report["measured"]["earlier_run"] = state
    told = [w for w in ("interrupted run", "only verified again") if w in summary(report)]
    assert told == ([words] if words else [])


def test_a_float_model_without_a_right_answer_has_no_drop_ratio(report):
    report["accuracy"]["drop_ratio"] = None
    assert "drop ratio" not in summary(report)


def test_a_report_without_times(report):
    report["measured"]["latency"] = None
    assert "speed      not measured" in summary(report)


@pytest.mark.parametrize(
    ("sqnr", "agreement", "words"),
    [
        (31.26, 0.995, "99.50 % equal answers, output SQNR 31.3 dB"),
        (None, 1.0, "100.00 % equal answers, output SQNR exact"),
        (float("inf"), 1.0, "output SQNR exact"),
        (None, 0.3, "output SQNR undefined"),
        (float("-inf"), 0.3, "output SQNR undefined"),
    ],
)
def test_closeness(sqnr, agreement, words):
    assert words in closeness_line(sqnr, agreement)


# ----------------------------------------------------------------------- verdict and latency


def test_a_verdict_as_json_is_strict(done):
    verdict = replace(done[1].verdict, fidelity=Fidelity(float("inf"), 1.0))
    content = verdict_to_json(verdict)
    assert content["fidelity"]["sqnr_db"] is None
    assert content["exit_code"] == 0
    assert content["outcome"] == "met"
    json.dumps(content, allow_nan=False)


def test_a_verdict_as_lines_ends_with_itself(done):
    lines = verdict_lines(done[1].verdict)
    assert lines[0] == "images     60"
    assert lines[-1] == (done[0].run / "summary.txt").read_text().splitlines()[-1]


def test_a_verdict_without_labels_and_times_as_lines(done):
    bare = replace(
        done[1].verdict, drop=None, float_top1=None, int8_top1=None, latency=None, outcome="unmet"
    )
    text = "\n".join(verdict_lines(bare))
    assert "top-1      " not in text
    assert "latency" not in text
    assert "GOAL NOT MET" in text


def test_a_latency():
    seen = Latency(10.0, 4.0, 2.5, 2.4, 2.6, 4, 100, Cpu("Processor", "ISA", True, 8))
    assert "int8 is 2.50x as fast, 95 % interval 2.40 to 2.60" in latency_lines(seen)[0]
    assert latency_lines(seen)[1].endswith("Processor, ISA")
    assert latency_to_json(seen)["cpu"]["saturates"] is True
