"""Changed images, classes and layers: as values, in report.json and as CSV."""

import csv
import io
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.candidates import Workshop
from quantize.errors import BudgetError, ModelError
from quantize.evaluation import Comparison
from quantize.explanation import explain
from quantize.plan import NO_LABEL, Evaluation, Fidelity, LayerRow
from quantize.rebuild import apply, read_encodings, read_plan
from quantize.report.changes import Change, ClassDrop, changes, class_drops
from quantize.report.evidence import probed
from quantize.report.tables import CHANGE_COLUMNS, Tables, as_csv

LAYER = LayerRow("conv", "Conv", True, 0.25, math.inf, 0.0, None, 0.125)


def compared(labels, float_, int8):
    """Both models' best classes of images called 00.., 01.., of five classes."""
    digests = tuple(f"{index:02d}" * 32 for index in range(len(labels)))
    sides = (
        Evaluation(digests, np.asarray(top, np.int64)[:, None], np.asarray(labels, np.int64))
        for top in (float_, int8)
    )
    return Comparison(*sides, Fidelity(20.0, 0.5))


SEEN = compared(
    labels=[0, 0, 0, 1, 1, 2, 2, 3],
    float_=[0, 0, 4, 1, 1, 2, 0, 0],
    int8=[0, 4, 0, 2, 2, 2, 4, 0],
)


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


# --------------------------------------------------------------------------- the changes


def test_changed_images_are_told_in_order_with_who_is_right():
    found = changes(SEEN, {"01" * 32: "a.png", "03" * 32: "b.png"})
    assert found == [
        Change("a.png", "01" * 32, 0, 0, 4, "float"),
        Change("02" * 6, "02" * 32, 0, 4, 0, "int8"),
        Change("b.png", "03" * 32, 1, 1, 2, "float"),
        Change("04" * 6, "04" * 32, 1, 1, 2, "float"),
        Change("06" * 6, "06" * 32, 2, 0, 4, "neither"),
    ]


def test_without_a_label_nobody_is_right_and_no_class_loses():
    bare = compared([0, NO_LABEL], [0, 1], [0, 2])
    (change,) = changes(bare, {})
    assert (change.label, change.right) == (None, None)
    assert class_drops(bare) is None


def test_classes_come_worst_first():
    found = class_drops(SEEN)
    assert found == [
        ClassDrop(1, images=2, float_right=2, int8_right=0, lost=2, gained=0),
        ClassDrop(0, images=3, float_right=2, int8_right=2, lost=1, gained=1),
        ClassDrop(2, images=2, float_right=1, int8_right=1, lost=0, gained=0),
        ClassDrop(3, images=1, float_right=0, int8_right=0, lost=0, gained=0),
    ]
    assert [drop.drop_points for drop in found] == [100, 0, 0, 0]


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_classes_add_up_to_the_whole(rows):
    seen = compared(*zip(*rows, strict=True))
    drops = class_drops(seen)
    assert sum(drop.images for drop in drops) == len(rows)
    for side, right in (("float_right", seen.float_.right), ("int8_right", seen.int8.right)):
        assert sum(getattr(drop, side) for drop in drops) == right.sum()
    points = [drop.drop_points for drop in drops]
    assert points == sorted(points, reverse=True)
    for drop in drops:
        assert drop.lost - drop.gained == drop.float_right - drop.int8_right
    found = changes(seen, {})
    assert len(found) == (seen.float_.predicted != seen.int8.predicted).sum()
    assert sum(change.right == "float" for change in found) == sum(drop.lost for drop in drops)


# ----------------------------------------------------------------------------- the tables


def gathered(seen=SEEN, layers=(LAYER,)):
    return Tables(tuple(layers), tuple(changes(seen, {})), tuple(class_drops(seen)))


def test_the_report_lists_what_differs():
    content = gathered().to_json()
    assert content["changed"]["images"] == 5
    assert content["changed"]["first"][0] == {
        "image": "01" * 6,
        "digest": "01" * 32,
        "label": 0,
        "float": 0,
        "int8": 4,
        "right": "float",
    }
    assert [drop["class"] for drop in content["classes"]] == [1, 0]
    assert content["classes"][0]["drop_points"] == 100
    (layer,) = content["layers"]
    assert layer["name"] == "conv"
    assert layer["share_of_multiply_adds"] == 0.25
    assert layer["saturation_share"] == 0.125


def test_the_report_lists_a_hundred_images_and_the_table_all():
    seen = compared([0] * 130, [0] * 130, [1] * 130)
    found = gathered(seen)
    assert found.to_json()["changed"]["images"] == 130
    assert len(found.to_json()["changed"]["first"]) == 100
    assert len(rows_of(found.files()["changed.csv"])) == 130


def test_csv_has_every_class_and_the_same_names():
    files = gathered().files()
    assert sorted(files) == ["changed.csv", "classes.csv", "layers.csv"]
    content = gathered().to_json()
    assert [row["class"] for row in rows_of(files["classes.csv"])] == ["1", "0", "2", "3"]
    for key, file in (("layers", "layers.csv"), ("classes", "classes.csv")):
        assert list(content[key][0]) == list(rows_of(files[file])[0])
    assert list(content["changed"]["first"][0]) == list(CHANGE_COLUMNS)
    assert rows_of(files["changed.csv"])[4]["right"] == "neither"


def test_what_does_not_apply_is_an_empty_cell():
    (row,) = rows_of(gathered().files()["layers.csv"])
    assert (row["sqnr_db"], row["weight_range_ratio"]) == ("", "")
    assert (row["noise_share"], row["int8"]) == ("0.0", "true")
    bare = compared([NO_LABEL, 0], [0, 1], [1, 2])
    found = Tables((), tuple(changes(bare, {})), None)
    assert found.to_json()["classes"] is None
    assert rows_of(found.files()["changed.csv"])[0]["label"] == ""
    assert rows_of(found.files()["classes.csv"]) == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("=1+1.png", "'=1+1.png"),
        ("+a", "'+a"),
        ("-a", "'-a"),
        ("@a", "'@a"),
        ('a=b, "c"', 'a=b, "c"'),
        ("\ta", "\ufffda"),
        ("a\r\n=b\0", "a\ufffd\ufffd=b\ufffd"),
        ("a\udcff", "a\ufffd"),
    ],
)
def test_a_file_name_is_no_formula_and_no_row(name, told):
    seen = compared([0], [0], [1])
    text = Tables((), tuple(changes(seen, {"00" * 32: name})), None).files()["changed.csv"]
    (cell,) = (row["image"] for row in csv.DictReader(io.StringIO(text, newline="")))
    assert cell == told


@given(st.text(max_size=20))
@settings(max_examples=100, deadline=None)
def test_any_text_stays_one_cell(text):
    rows = list(csv.DictReader(io.StringIO(as_csv(("a", "b"), [{"a": text, "b": -1.5}]))))
    assert len(rows) == 1
    assert len(rows[0]["a"].removeprefix("'")) == len(text.removeprefix("'"))
    assert rows[0]["b"] == "-1.5"


# ------------------------------------------------------------------------------ of a run


def test_a_run_leaves_its_tables(done):
    job, result = done
    report = json.loads((job.run / "report.json").read_text())
    layers = rows_of((job.run / "layers.csv").read_text())
    assert [row["name"] for row in layers] == ["conv0_fwd", "conv1_fwd", "conv2_fwd", "logits"]
    assert [row["name"] for row in report["layers"]] == [row["name"] for row in layers]
    for row, cells in zip(report["layers"], layers, strict=True):
        assert row["int8"]
        assert row["sqnr_db"] == float(cells["sqnr_db"]) > 20
        assert 0 <= row["overflow_share"] <= 1
        assert 0 <= row["overflow_possible_share"] <= 1
        assert row["overflow_possible_share"] == float(cells["overflow_possible_share"])
    summary = (job.run / "summary.txt").read_text()
    assert "no VNNI    other sums on x86 CPUs without VNNI: 16 bits overflowed in" in summary
    classes = rows_of((job.run / "classes.csv").read_text())
    assert sum(int(row["images"]) for row in classes) == result.verdict.images
    with np.load(job.run / "outcomes.npz") as arrays:
        differing = (arrays["float_top5"][:, 0] != arrays["int8_top5"][:, 0]).sum()
    assert report["changed"]["images"] == differing
    assert len(rows_of((job.run / "changed.csv").read_text())) == differing


def test_a_portable_run_says_what_that_costs_and_is_rebuilt_from_its_encodings(job, tmp_path):
    result = job.tune("quantization.portable=true")
    report = result.report
    assert report["int8_model"]["plan"]["scheme"]["portable"]
    assert {row["overflow_possible_share"] for row in report["layers"]} == {0}
    beside = report["search"]["trials"][-1]
    assert not beside["plan"]["scheme"]["portable"]
    assert not beside["accepted"]
    assert "no VNNI    the same sums on x86" in (job.run / "summary.txt").read_text()
    told = "\n".join(explain(job.run).lines())
    assert "portable   weights that suit every x86 CPU cost" in told
    assert "no VNNI    no sum of two products can leave 16 bits" in told
    assert "were it not portable" in told
    plan = read_plan(job.run / "plan.json")
    encodings = read_encodings(job.run / "encodings.npz", plan)
    again = apply(job.model, plan, tmp_path / "again.onnx", encodings=encodings)
    assert again.read_bytes() == job.output.read_bytes()


def test_changed_images_have_the_names_of_their_files(job):
    """The goal tolerates much, so that a coarse file ships and answers change."""
    result = job.tune(
        "tuning.accuracy_criterion.relative=0.99",
        "quantization.model_wise={weight: {granularity: [per_tensor]}}",
        "quantization.reduce_range=true",
    )
    found = result.report["changed"]
    names = {path.name: path for path in job.evaluation.rglob("*.png")}
    rows = rows_of((job.run / "changed.csv").read_text())
    assert found["images"] == len(rows) > 0
    for row in rows:
        assert int(row["label"]) == int(names[row["image"]].parent.name)


def test_a_model_that_cannot_be_taken_apart_keeps_its_verdict(job, monkeypatch, caplog):
    def fail(*_, **__):
        raise ModelError("the graph does not load")

    monkeypatch.setattr("quantize.layer_table._measured", fail)
    result = job.tune()
    assert result.verdict.outcome == "met"
    assert job.output.exists()
    assert {row["sqnr_db"] for row in result.report["layers"]} == {None}
    assert all(row["int8"] for row in result.report["layers"])
    assert "not measured one by one: the graph does not load" in caplog.text


def test_time_that_is_over_costs_the_table_alone(job, monkeypatch):
    def late(*_):
        raise BudgetError("the time budget is spent")

    monkeypatch.setattr(Workshop, "rounded_from", late)
    result = job.tune()
    assert result.verdict.outcome == "met"
    assert {row["sqnr_db"] for row in result.report["layers"]} == {None}
    assert {row["noise_share"] for row in result.report["layers"]} == {None}


@pytest.mark.parametrize(("layers", "images"), [(1, 8), (32, 8), (50, 5), (54, 4), (200, 4)])
def test_many_layers_are_measured_on_fewer_images(layers, images):
    assert probed(layers) == images
