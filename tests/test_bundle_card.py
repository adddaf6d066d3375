"""The card: its front matter for machines, its program run, and names from files in it."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from quantize.bundle import snippet
from quantize.bundle.card import card
from quantize.bundle.contract import Contract
from quantize.bundle.facts import Facts
from quantize.bundle.model import Ports
from quantize.bundle.samples import Samples
from quantize.bundle.writing import release
from quantize.data.images import decode
from quantize.data.steps import Rescale
from quantize.data.transforms import Pipeline, Preset
from quantize.measure import predictor
from quantize.plan import Plan
from test_bundle_front import GREY, RECIPES, SIZES, picture
from test_report_cpus import emulated

NAME = "float-int8"


@pytest.fixture(scope="module")
def text(released):
    return (released.folder / "README.md").read_text(encoding="utf-8")


def facts_of(report, contract=None, **changes):
    """What the card is made of, without a release."""
    contract = contract or Contract(({"Rescale": {}},), "data", (3, 16, 16), "scores", 4, False, 0)
    made = Facts(
        name="x",
        license=None,
        dataset=None,
        report=report,
        plan=Plan("onnxruntime", "qdq"),
        contract=contract,
        ports=Ports(
            [{"name": "data", "shape": ["N", 3, 16, 16], "type": ""}], [], 13, "1.8", False
        ),
        samples=Samples("synthetic", [], []),
        isa="isa",
        timing={},
        model={"file": "x.onnx", "verified": {"bytes": 10}},
        with_preprocessing=None,
        float_file=None,
    )
    return replace(made, **changes)


def front_matter(text):
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def test_front_matter_has_what_model_hubs_read(done, text):
    seen = front_matter(text)
    assert seen["license"] == "apache-2.0"
    assert seen["pipeline_tag"] == "image-classification"
    assert seen["library_name"] == "onnx"
    assert seen["base_model"] == "float"
    assert seen["datasets"] == ["imagefolder"]
    assert "int8" in seen["tags"]
    metrics = {m["name"]: m["value"] for m in seen["model-index"][0]["results"][0]["metrics"]}
    accuracy = done[1].report["accuracy"]
    assert metrics["top-1, int8"] == pytest.approx(accuracy["int8"]["top1"], abs=1e-6)
    assert metrics["top-1 drop in points"] == pytest.approx(accuracy["drop_points"], abs=1e-6)


def test_the_hubs_own_parser_accepts_it(text):
    hub = pytest.importorskip("huggingface_hub")
    seen = hub.ModelCard(text).data
    assert seen.license == "apache-2.0"
    assert seen.pipeline_tag == "image-classification"
    assert seen.model_name == NAME
    kinds = {result.metric_type for result in seen.eval_results}
    assert kinds == {"accuracy", "accuracy_drop", "agreement"}
    assert all(result.task_type == "image-classification" for result in seen.eval_results)


def test_the_first_screen_says_what_and_where_it_holds(done, text):
    screen = text.split("---\n", 2)[2].split("## Use")[0]
    assert "**Verdict:** goal met" in screen
    assert done[1].report["verdict"]["instruction_set"] in screen
    assert "saturate" in screen
    assert len(screen.splitlines()) < 15


@pytest.mark.parametrize(
    ("reduce_range", "saturates", "words"),
    [
        (True, True, "7 bits"),
        (False, True, "which the figures include"),
        (False, False, "can cost"),
    ],
)
def test_saturation_elsewhere_is_told_as_it_is(done, reduce_range, saturates, words):
    report = json.loads(json.dumps(done[1].report))
    report["int8_model"]["plan"]["scheme"]["reduce_range"] = reduce_range
    report["measured"]["cpu"]["saturates"] = saturates
    for row in report["layers"]:
        row["overflow_possible_share"] = 0.25
    told = card(facts_of(report))
    assert words in told
    others = {"7 bits", "which the figures include", "can cost"} - {words}
    assert not any(other in told for other in others)


def test_a_file_that_cannot_overflow_says_so_on_the_first_screen(done):
    report = json.loads(json.dumps(done[1].report))
    for row in report["layers"]:
        row["overflow_possible_share"] = 0 if row["int8"] else None
    screen = card(facts_of(report)).split("---\n", 2)[2].split("## Use")[0]
    assert "no sum of two products can leave 16 bits" in screen
    assert "saturate" not in screen


def test_the_first_screen_names_each_processor_with_its_verdict(done):
    report = json.loads(json.dumps(done[1].report))
    report["measured"]["cpus"] = [emulated("unmet")]
    screen = card(facts_of(report)).split("---\n", 2)[2].split("## Use")[0]
    assert "**This model did not meet its goal** (goal not met, Haswell (emulated))" in screen
    assert "Haswell (emulated), 120 images: not met" in screen
    assert "**Verdict:** goal met" in screen
    report["measured"]["cpus"] = [emulated("met")]
    screen = card(facts_of(report)).split("---\n", 2)[2].split("## Use")[0]
    assert "did not meet" not in screen
    assert "Haswell (emulated), 120 images: met" in screen


def test_the_first_screen_says_where_nothing_else_was_run(done):
    report = json.loads(json.dumps(done[1].report))
    report["measured"]["cpu"]["saturates"] = False
    for row in report["layers"]:
        row["overflow_possible_share"] = 0.25
    screen = card(facts_of(report)).split("---\n", 2)[2].split("## Use")[0]
    isa = report["verdict"]["instruction_set"]
    assert f"measured on {isa} only: nothing was run on x86 CPUs without VNNI" in screen


def test_how_to_verify_and_what_that_finds(text):
    assert "quantize verify . --images IMAGES --digest SHA256" in text
    assert "Without it only accidents are found" in text
    assert "synthetic images" in text


@pytest.mark.parametrize("outcome", ["unmet", "undecided"])
def test_what_was_not_met_stands_first(done, outcome):
    report = json.loads(json.dumps(done[1].report))
    report["verdict"]["outcome"] = outcome
    body = card(facts_of(report)).split("---\n", 2)[2].strip().splitlines()
    assert body[2].startswith("> **This model did not meet its goal**")
    assert "**Verdict:** goal **not" in "\n".join(body)


def test_without_labels_the_accuracy_is_not_claimed(done):
    report = {**done[1].report, "accuracy": None}
    told = card(facts_of(report))
    assert "the accuracy is not known" in told
    assert "top-1 |" not in told
    metrics = front_matter(told)["model-index"][0]["results"][0]["metrics"]
    assert [metric["type"] for metric in metrics] == ["agreement"]


NASTY = 'a"\n---\nlicense: evil\n# x `y` | z </script><script>alert(1)</script>\x1b[2J\u202e'


def test_names_from_files_are_harmless(done):
    report = json.loads(json.dumps(done[1].report))
    report["float_model"]["file"] = NASTY + ".onnx"
    report["int8_model"]["stayed_float"] = [NASTY]
    report["data"]["notes"] = [NASTY]
    report["measured"]["cpu"]["name"] = NASTY
    report["versions"][NASTY] = NASTY
    contract = Contract(({"Rescale": {}},), NASTY, (3, 16, 16), NASTY, 4, False, 0)
    told = card(facts_of(report, contract))
    assert told.count("\n---\n") == 1
    assert not any(mark in told for mark in ("\x1b", "\u202e"))
    prose = re.sub(r"(`+)(?:(?!\1).)+?\1", "", told)
    assert "<script>" not in prose
    assert "</script>" not in prose
    assert front_matter(told)["license"] == "unknown"
    assert re.fullmatch(r"[A-Za-z0-9._-]+", front_matter(told)["base_model"])
    for line in told.splitlines():
        if line.startswith("|") and "file" not in line:
            assert line.count("|") in (3, 4)


def program_of(text):
    return re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]


def test_the_program_runs_without_this_package(done, released, text, tmp_path):
    image = sorted(done[0].evaluation.rglob("*.png"))[7]
    shutil.copy(released.folder / f"{NAME}.onnx", tmp_path)
    (tmp_path / "quantize.py").write_text("raise ImportError('not here')")
    (tmp_path / "use.py").write_text(program_of(text))
    finished = subprocess.run(
        [sys.executable, "use.py", image], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    seen = re.findall(r"class=(\d) probability=([\d.]+)", finished.stdout)
    loader = done[0].settings().evaluation.accuracy.dataloader
    batch = Pipeline(loader.transforms)(decode(image))[None]
    scores = predictor(released.folder / f"{NAME}.onnx")(batch)[0].astype(np.float64)
    shares = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    assert [int(index) for index, _ in seen] == list(np.argsort(-shares))
    assert [float(share) for _, share in seen] == pytest.approx(sorted(shares)[::-1], abs=1e-4)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("size", SIZES[:2])
def test_the_program_prepares_images_as_we_do(done, tmp_path, monkeypatch, recipe, size):
    pipeline = Pipeline(RECIPES[recipe])
    contract = Contract(tuple(pipeline.describe()), "data", (3, 16, 16), "scores", 4, False, 0)
    text = snippet.program(facts_of(done[1].report, contract)).split("session =")[0]
    Image.fromarray(picture(*size)).save(tmp_path / "x.png")
    monkeypatch.setattr(sys, "argv", ["use.py", str(tmp_path / "x.png")])
    names = {}
    exec(text.replace("import onnxruntime\n", ""), names)
    wanted = pipeline(picture(*size))
    assert names["image"][0].shape == wanted.shape
    assert np.abs(names["image"][0] - wanted).max() <= GREY * 1.001


def test_a_model_of_fixed_batch_is_fed_with_copies(done):
    ports = Ports([{"name": "data", "shape": [4, 3, 16, 16], "type": ""}], [], 13, "1.8", True)
    contract = Contract(
        tuple(Pipeline((Preset("squash224", size=16),)).describe()),
        "data", (3, 16, 16), "scores", 4, True, 0,
    )  # fmt: skip
    text = snippet.program(facts_of(done[1].report, contract, ports=ports))
    assert "image = np.repeat(image, 4, 0)" in text
    assert "shares = scores" in text
    assert "image})[0][0]\n" in text


@pytest.mark.parametrize(
    ("engine", "repairs", "says"),
    [
        ("onnxruntime", ["bias"], "activations: uint8, kl ranges\n"),
        ("onnxruntime", ["bias", "ranges"], "activations: uint8, mse ranges\n"),
        ("inc", [], "activations: uint8\n"),
    ],
)
def test_the_card_tells_the_ranges_that_are_ours(done, tmp_path, engine, repairs, says):
    run = Path(shutil.copytree(done[1].run, tmp_path / "run"))
    report = json.loads((run / "report.json").read_text())
    report["int8_model"]["plan"] |= {"engine": engine, "repairs": repairs}
    report["int8_model"]["plan"]["scheme"]["method"] = "kl"
    (run / "report.json").write_text(json.dumps(report))
    made = release(run, done[0].model, tmp_path / "out")
    assert says in (made.folder / "README.md").read_text()


def test_pooled_scores_become_a_row(done):
    outputs = [{"name": "scores", "shape": ["N", 4, 1, 1], "type": ""}]
    inputs = [{"name": "data", "shape": ["N", 3, 16, 16], "type": ""}]
    ports = Ports(inputs, outputs, 13, "1.8", True)
    contract = Contract(
        tuple(Pipeline((Preset("squash224", size=16),)).describe()),
        "data", (3, 16, 16), "scores", 4, True, 0,
    )  # fmt: skip
    text = snippet.program(facts_of(done[1].report, contract, ports=ports))
    assert "image})[0][0].ravel()\n" in text


def test_a_run_on_prepared_images_says_that_the_preprocessing_is_unknown(done, tmp_path):
    run = Path(shutil.copytree(done[1].run, tmp_path / "run"))
    report = json.loads((run / "report.json").read_text())
    report["data"]["holdout"]["preprocessing"] = []
    (run / "report.json").write_text(json.dumps(report))
    made = release(run, done[0].model, tmp_path / "out")
    told = (made.folder / "README.md").read_text()
    assert "how is not known to it" in told
    assert "PIL" not in program_of(told)


def test_rescale_is_told_with_its_number(text):
    assert Pipeline((Rescale(),)).describe() == [{"Rescale": {}}]
    assert "1. `Rescale`, x / 255" in text
