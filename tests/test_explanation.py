"""`quantize explain`: a run in words, two runs side by side, and every file that is no report."""

import contextlib
import copy
import csv
import io
import json
import math
import os
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import quantize
from quantize.errors import RunFolderError
from quantize.explanation import explain
from quantize.plan import LayerRow
from quantize.report.account import (
    WIDTH,
    decibels,
    middle,
    next_step,
    percent,
    rungs,
    without_vnni,
    worst,
)
from quantize.report.difference import difference
from quantize.report.reading import read_account
from quantize.report.tables import CHANGE_COLUMNS, as_csv


def plan(*repairs, engine="onnxruntime", keep=(), **scheme):
    return {
        "engine": engine,
        "format": "qdq",
        "scheme": {
            "weight_granularity": "per_channel",
            "method": "minmax",
            "reduce_range": False,
            **scheme,
        },
        "repairs": list(repairs),
        "keep_float": list(keep),
        "encodings_sha256": None,
    }


def trial(made, sqnr_db, gain_db=None, *, accepted=False, note=""):
    probe = None if sqnr_db is None else {"sqnr_db": sqnr_db, "agreement": 0.9}
    return {
        "plan": {"key": "0", **made},
        "probe": probe,
        "gain_db": gain_db,
        "accepted": accepted,
        "note": note,
    }


def layer(name, sqnr_db, noise_share, *, share=0.25, ratio=3.0, saturation=0.0):
    return {
        "name": name,
        "operator": "Conv",
        "int8": True,
        "share_of_multiply_adds": share,
        "sqnr_db": sqnr_db,
        "noise_share": noise_share,
        "weight_range_ratio": ratio,
        "saturation_share": saturation,
    }


def change(number, label=0, float_=0, int8=1, right="float"):
    return {
        "image": f"{number:03d}.png",
        "digest": f"{number:064x}",
        "label": label,
        "float": float_,
        "int8": int8,
        "right": right,
    }


TRIALS = [
    trial(plan(engine="inc"), None, note="failed: it crashed"),
    trial(plan(), 15.5),
    trial(plan("bias"), 23.8, 8.3),
    trial(plan("bias", "equalize"), 23.5, -0.3),
    trial(plan("bias", "rounding"), 25.25, 1.45, accepted=True),
]
LAYERS = [
    layer("stem", 40.1, 0.05),
    layer("stage1/depthwise", 30.3, 0.41, share=0.008, ratio=1953.5, saturation=2e-5),
    layer("exact", None, 0.0),
    layer("left float", None, None, saturation=None, ratio=None),
    layer("head", 32.25, 0.26, ratio=2e13),
]
CLASSES = [
    {
        "class": 2,
        "images": 10,
        "float_right": 9,
        "int8_right": 7,
        "lost": 2,
        "gained": 0,
        "drop_points": 20.0,
    },
    {
        "class": 0,
        "images": 10,
        "float_right": 9,
        "int8_right": 10,
        "lost": 0,
        "gained": 1,
        "drop_points": -10.0,
    },
]


def report():
    """A report with known figures; only the keys that `explain` reads."""
    return copy.deepcopy(
        {
            "schema_version": 1,
            "verdict": {
                "outcome": "unmet",
                "reason": "top-1 drop 1.75 points where 0.83 are allowed",
                "images": 400,
                "more_images": None,
                "instruction_set": "x86-64 AVX512-VNNI",
                "goal": {
                    "kind": "relative",
                    "tolerance": 0.01,
                    "confidence": None,
                    "speed_floor": 1.1,
                },
            },
            "float_model": {"sha256": "f" * 64, "bytes": 1000},
            "int8_model": {
                "bytes": 265,
                "int8_share_of_multiply_adds": 0.995,
                "plan": plan("bias", "rounding"),
            },
            "data": {"holdout": {"sha256": "d" * 64}},
            "search": {"stopped": "no candidate met the goal", "trials": TRIALS},
            "accuracy": {
                "float": {"top1": 0.835},
                "int8": {"top1": 0.8175},
                "drop_points": 1.75,
                "drop_interval_points": [-0.3, 4.08],
            },
            "fidelity": {"sqnr_db": 25.04, "agreement": 0.9625},
            "layers": LAYERS,
            "changed": {"images": 2, "first": [change(1), change(2, 2, 2, 0, "float")]},
            "classes": CLASSES,
            "measured": {
                "cpu": {"saturates": False},
                "latency": {
                    "float_ms": 20.0,
                    "int8_ms": 10.5,
                    "ratio": 1.91,
                    "low": 1.85,
                    "high": 1.95,
                },
                "trials": [{"seconds": float(index)} for index in range(len(TRIALS))],
            },
        }
    )


@pytest.fixture
def place(tmp_path):
    """Writes a report into a run folder of its own."""

    def write(content, name="int8.onnx.run"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / "report.json").write_text(text)
        return folder

    return write


def lines(folder, *other, names=None):
    return explain(folder, *other).lines(names)


# ------------------------------------------------------------------------------- one run


IN_WORDS = """\
verdict    GOAL NOT MET: top-1 drop 1.75 points where 0.83 are allowed; seen on 400 holdout
           images, x86-64 AVX512-VNNI
holds for  measured on x86-64 AVX512-VNNI only: nothing was run on x86 CPUs without VNNI, and the
           weights do not prove that they add up the same
asked      lose at most 1 % of the float top-1; 1.1x as fast
top-1      float 83.50 %, int8 81.75 %
int8       99.5 % of the multiply-adds are int8, the file has 0.265 of the size, 1.91x as fast
           (1.85 to 1.95)
closeness  96.25 % equal answers, output SQNR 25.0 dB

what each rung brought                       SQNR      gain  seconds
   1  inc qdq                                                    0.0  failed: it crashed
   2  onnxruntime qdq                     15.5 dB                1.0  kept
   3  + bias                              23.8 dB   +8.3 dB      2.0  kept
   4  + equalize                          23.5 dB   -0.3 dB      3.0  left out: it loses SQNR
   5  + rounding                          25.2 dB   +1.4 dB      4.0  ships
ended      no candidate met the goal

layers, each int8 by itself, worst first       SQNR  of noise  mult.-adds  range ratio  saturated
  stage1/depthwise                          30.3 dB    41.0 %       0.8 %        1,954    <0.01 %
  head                                      32.2 dB    26.0 %      25.0 %        2e+13     0.00 %
  stem                                      40.1 dB     5.0 %      25.0 %          3.0     0.00 %
  exact                                       exact     0.0 %      25.0 %          3.0     0.00 %
  1 not measured: they are float, or the time was over

images that changed their answer: 2 of 400 (* is right)
  image                 label                   float                   int8
  001.png               ant                     ant *                   bee
  002.png               crab                    crab *                  ant

classes that lost most                       images     float      int8          drop
  crab                                           10    90.0 %    70.0 %   20.0 points

next       stage1/depthwise makes 41 % of the noise with 0.8 % of the multiply-adds: leave it
           float (quantization.op_wise)
"""


def test_a_run_in_words(place):
    assert lines(place(report()), names=["ant", "bee", "crab"]) == IN_WORDS.splitlines()


def test_no_line_is_too_wide_whatever_the_names(place):
    content = report()
    long = "a/very/long/name/of/a/layer/" * 6
    content["layers"][1]["name"] = content["search"]["stopped"] = long
    content["changed"]["first"][0]["image"] = long
    content["search"]["trials"][1]["plan"]["keep_float"] = [long]
    content["search"]["trials"][2]["note"] = content["verdict"]["reason"] = long * 3
    for names in (None, [long] * 3):
        one, two = place(content), place(report(), "other.run")
        assert max(map(len, lines(one, names=names))) <= WIDTH
        assert max(map(len, lines(one, two, names=names))) <= 100


def test_a_real_run_in_words(done):
    job, result = done
    told = lines(job.run)
    assert told[0].startswith("verdict    GOAL MET: top-1 drop")
    text = "\n".join(told)
    assert text.count("ships") == 1
    for row in result.report["layers"]:
        assert f"  {row['name']} " in text
    assert f"images that changed their answer: {result.report['changed']['images']} of 60" in text
    content = explain(job.run / "report.json").to_json()
    assert content["worst_layers"][0]["name"] == worst_by_hand(result.report)
    assert content["outcome"] == "met"
    assert len(content["rungs"]) == len(result.report["search"]["trials"])


def worst_by_hand(content):
    return min(content["layers"], key=lambda row: row["sqnr_db"])["name"]


def account(place, content, name="int8.onnx.run"):
    return read_account(place(content, name))


def test_a_rung_ships_is_kept_or_says_why_not(place):
    content = report()
    content["int8_model"]["plan"] = plan("bias", keep=("a", "b"))
    content["search"]["trials"] = [
        trial(plan(engine="inc"), 14.0),
        trial(plan(), 15.5),
        trial(plan("bias"), 23.8, 8.3),
        trial(plan("bias", keep=("a",)), 24.0, 0.2, note="drop 2 points"),
        trial(plan("bias", keep=("a", "b")), 25.0, 1.2, accepted=True),
        trial(plan("bias", keep=("a", "b", "c")), 25.0, 1.2, accepted=True),
    ]
    content["measured"]["trials"] *= 2
    told = rungs(account(place, content))
    assert [(one.label, one.kept, one.why) for one in told] == [
        ("inc qdq", False, "left out: another candidate was closer to float"),
        ("onnxruntime qdq", True, "kept"),
        ("+ bias", True, "kept"),
        ("1 float: a", False, "drop 2 points"),
        ("2 float: a, b", True, "ships"),
        ("3 float: a, b, c", False, "fewer suffice"),
    ]


def test_a_first_candidate_with_repairs_says_so_and_the_ladder_starts_anew(place):
    content = report()
    content["int8_model"]["plan"] = plan("bias", "pixels", "ranges")
    content["search"]["trials"] = [
        trial(plan("bias", "ranges"), 24.0, note="drop 2 points"),
        trial(plan(), 15.5),
        trial(plan("bias"), 23.8, 8.3),
        trial(plan("bias", "pixels"), 24.8, 1.0),
        trial(plan("bias", "pixels", "ranges"), 25.0, 0.2, accepted=True),
    ]
    told = rungs(account(place, content))
    assert [(one.label, one.why) for one in told] == [
        ("onnxruntime qdq + bias + ranges", "left out: drop 2 points"),
        ("onnxruntime qdq", "kept"),
        ("+ bias", "kept"),
        ("+ pixels", "kept"),
        ("+ ranges", "ships"),
    ]
    content["int8_model"]["plan"] = plan("bias", "ranges")
    content["search"]["trials"] = content["search"]["trials"][:1]
    (only,) = rungs(account(place, content))
    assert (only.label, only.why) == ("onnxruntime qdq + bias + ranges", "ships")


def test_what_was_tried_behind_a_first_candidate_that_ships_is_left_out(place):
    content = report()
    content["int8_model"]["plan"] = plan("bias", "ranges")
    content["search"]["trials"] = [
        trial(plan("bias", "ranges"), 24.0, accepted=True),
        trial(plan(), 15.5),
        trial(plan("bias"), 23.8, 8.3),
    ]
    told = rungs(account(place, content))
    assert [(one.label, one.kept) for one in told] == [
        ("onnxruntime qdq + bias + ranges", True),
        ("onnxruntime qdq", False),
        ("+ bias", False),
    ]


def test_nodes_left_float_behind_another_engines_candidate_are_counted(place):
    content = report()
    content["int8_model"]["plan"] = plan("bias", keep=("a",))
    content["search"]["trials"] = [
        trial(plan(), 15.5),
        trial(plan("bias"), 23.8, 8.3),
        trial(plan(engine="inc"), 14.0),
        trial(plan("bias", keep=("a", "b")), 25.0, 1.2, accepted=True),
        trial(plan("bias", keep=("a",)), 24.0, 0.2, accepted=True),
    ]
    told = rungs(account(place, content))
    assert [(one.label, one.why) for one in told[3:]] == [
        ("2 float: a, b", "fewer suffice"),
        ("1 float: a", "ships"),
    ]


def test_nodes_that_the_user_pins_float_are_no_step(place):
    content = report()
    content["int8_model"]["plan"] = plan("bias", keep=("pin",))
    content["search"]["trials"] = [
        trial(plan(keep=("pin",)), 15.5),
        trial(plan("bias", keep=("pin",)), 23.8, 8.3, accepted=True),
    ]
    told = rungs(account(place, content))
    assert [(one.label, one.why) for one in told] == [
        ("onnxruntime qdq", "kept"),
        ("+ bias", "ships"),
    ]


def test_the_worst_layers_come_first_and_the_unmeasured_not_at_all(place):
    known = worst(account(place, report()).layers)
    assert [row.name for row in known] == ["stage1/depthwise", "head", "stem", "exact"]
    assert known[-1].sqnr_db == math.inf


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"outcome": "undecided", "more_images": 3200}, "about 3,200 images in all would decide"),
        ({"outcome": "undecided"}, "more images will hardly decide"),
        ({"outcome": "met"}, "stage1/depthwise makes 41 % of the noise .*: start there"),
        ({"outcome": "unmet"}, r"leave it float \(quantization.op_wise\)"),
    ],
)
def test_what_would_help_next(place, changes, says):
    content = report()
    content["verdict"] |= changes
    assert re.search(says, next_step(account(place, content)))


def test_what_would_help_next_where_it_is_too_slow(place):
    content = report()
    content["measured"]["latency"]["low"] = 1.05
    assert "all of the arithmetic is int8 already" in next_step(account(place, content))
    content["int8_model"]["int8_share_of_multiply_adds"] = 0.6
    assert "40 % of the multiply-adds are float" in next_step(account(place, content))
    content["verdict"]["outcome"] = "met"
    assert "too slow" not in next_step(account(place, content))


def test_what_would_help_next_where_no_layer_stands_out(place):
    content = report()
    content["layers"] = [layer(f"l{i}", 40.0 + i, 0.1) for i in range(10)]
    assert "no layer makes more than 10 %" in next_step(account(place, content))
    content["layers"] = [layer("l", None, 0.0)]
    assert "no layer loses anything" in next_step(account(place, content))
    content["layers"] = [layer("l", None, None)]
    assert "give the run more time" in next_step(account(place, content))
    assert "layers     none was measured" in "\n".join(lines(place(content)))


def test_a_run_without_labels_speed_and_changes(place):
    content = report()
    content["accuracy"] = content["classes"] = content["measured"]["latency"] = None
    content["changed"] = {"images": 0, "first": []}
    content["fidelity"] = {"sqnr_db": None, "agreement": 1}
    text = "\n".join(lines(place(content)))
    assert "classes    not told: the images have no labels" in text
    assert "output SQNR exact" in text
    both = lines(place(content), place(report(), "other.run"))
    assert "output SQNR                        exact                           25.0 dB" in both
    assert "x as fast (" not in text
    assert text.count("image ") == 0


def test_more_changed_images_and_classes_than_are_shown(place):
    content = report()
    content["changed"] = {"images": 250, "first": [change(i) for i in range(100)]}
    content["classes"] = [{**CLASSES[0], "class": i} for i in range(14)]
    content["layers"] = [layer(f"l{i}", 30.0 + i, 0.1) for i in range(13)]
    told = lines(place(content))
    assert "  and 240 more in changed.csv" in told
    assert "  and 4 more in classes.csv" in told
    assert "  and 3 more in layers.csv" in told


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (math.inf, "exact"), (-0.01, "0.0 dB"), (12.34, "12.3 dB")],
)
def test_decibels(value, text):
    assert decibels(value) == text


def test_percent_and_middle():
    assert [percent(v, 2) for v in (None, 0, 1e-9, 0.5)] == ["", "0.00 %", "<0.01 %", "50.00 %"]
    assert middle("abcdefghij", 10) == "abcdefghij"
    assert middle("abcdefghijk", 10) == "abcde…hijk"


# ------------------------------------------------------------------------------ two runs


SIDE_BY_SIDE = """\
                                   first                           second
verdict                            unmet                           met
drop, points                       1.75                            1.75
  repairs                          bias, rounding                  equalize
  nodes left float                 none                            stem
  + bias                           +8.3 dB, 2.0 s, kept            +8.3 dB, 2.0 s, left out
  inc qdq                          failed, 0.0 s, left out         failed, 0.0 s, left out
  + rounding                       +1.4 dB, 4.0 s, ships           -
  stage1/depthwise                 30.3 dB                         36.3 dB
images whose answer changed: 1 in both runs, 1 only in the first, 1 only in the second
    001.png                     ant                   ant                   bee
    007.png                     bee                   ant                   bee
"""


def test_two_runs_side_by_side(place):
    second = report()
    second["verdict"] |= {"outcome": "met"}
    second["int8_model"]["plan"] = plan("equalize", keep=("stem",))
    second["search"]["trials"][4] = trial(plan("equalize", keep=("stem",)), 26.0, 1.0)
    second["layers"][1] |= {"sqnr_db": 36.3}
    second["layers"][0] |= {"sqnr_db": 41.0}
    second["changed"] = {"images": 2, "first": [change(2, 2, 2, 0), change(7, 1, 0, 1, "int8")]}
    told = lines(place(report(), "a.run"), place(second, "b.run"), names=["ant", "bee", "crab"])
    text = "\n".join(told)
    assert "WARNING" not in text
    for row in SIDE_BY_SIDE.splitlines():
        assert row in told, row
    assert "  engine" not in text
    assert "  stem " not in text


def test_the_same_run_twice_differs_in_nothing(place):
    one, two = account(place, report(), "a.run"), account(place, report(), "b.run")
    found = difference(one, two)
    assert (found.warnings, found.plan, found.layers, found.unpaired) == ((), (), (), 0)
    assert (found.changes.first, found.changes.second, found.changes.both) == ((), (), 2)
    told = lines(place(report(), "a.run"), place(report(), "b.run"))
    assert "plan       the same" in told
    assert "layers     none of both differs by more than 1 dB" in told


@pytest.mark.parametrize(
    ("changed", "rows"),
    [
        ({"method": "kl"}, (("activation ranges", "minmax", "kl"),)),
        (
            {"engine": "inc"},
            (("engine", "onnxruntime", "inc"), ("activation ranges", "minmax", "INC's")),
        ),
    ],
)
def test_other_ranges_of_the_activations_are_told(place, changed, rows):
    other = report()
    other["int8_model"]["plan"] = plan("bias", "rounding", **changed)
    same = report()
    same["int8_model"]["plan"] = plan("bias", "ranges", **changed)
    assert account(place, same, "c").plan.ranges == (None if "engine" in changed else "mse")
    assert difference(account(place, report(), "a"), account(place, other, "b")).plan == rows


def test_a_report_without_a_method_is_of_exact_ranges(place):
    older = report()
    del older["int8_model"]["plan"]["scheme"]["method"]
    assert account(place, older, "a").plan == account(place, report(), "b").plan


def edited(*path, value):
    content = report()
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return content


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (edited("float_model", "sha256", value="0"), "the float models are not the same"),
        (edited("data", "holdout", "sha256", value="0"), "the holdout images or their"),
        (edited("verdict", "instruction_set", value="NEON"), "the other on NEON"),
        (edited("verdict", "goal", "tolerance", value=0.5), "to lose at most 50 %"),
        (edited("verdict", "goal", "confidence", value=0.95), "95 % sure"),
    ],
)
def test_runs_that_cannot_be_compared_say_so(place, other, says):
    told = explain(place(report(), "a.run"), place(other, "b.run"))
    warned = [line for line in told.lines() if line.startswith("WARNING")]
    assert len(warned) == 1
    content = told.to_json()["difference"]
    assert not content["comparable"]
    assert says in content["warnings"][0]
    if "holdout" in says:
        assert content["changed"] is None
        assert "changed    not compared: the images are not the same" in told.lines()


def test_layers_of_other_models_are_counted_not_compared(place):
    other = report()
    other["layers"] = [layer("elsewhere", 10.0, 1.0), LAYERS[0]]
    found = difference(account(place, report(), "a.run"), account(place, other, "b.run"))
    assert (found.layers, found.unpaired) == ((), 5)


def test_all_changed_images_are_compared_where_the_table_has_them(place):
    first, second = report(), report()
    known = [change(i) for i in range(130)]
    for content, some in ((first, known), (second, known[5:])):
        content["changed"] = {"images": len(some), "first": some[:100]}
    one, two = place(first, "a.run"), place(second, "b.run")
    assert "of the first hundred of each" in "\n".join(lines(one, two))
    for folder, some in ((one, known), (two, known[5:])):
        (folder / "changed.csv").write_text(as_csv(CHANGE_COLUMNS, some))
    found = difference(read_account(one), read_account(two)).changes
    assert (len(found.first), len(found.second), found.both, found.whole) == (5, 0, 125, True)
    assert found.first[0].name == "000.png"
    (one / "changed.csv").write_text("image,digest\n=1\n")
    assert not difference(read_account(one), read_account(two)).changes.whole


@pytest.mark.parametrize("broken", ["", "\0", "a" * 200_000, "image\n" * 130, "label,float\n1,x\n"])
def test_a_broken_table_is_left_aside(place, broken):
    content = report()
    content["changed"] = {"images": 130, "first": [change(i) for i in range(100)]}
    folder = place(content)
    (folder / "changed.csv").write_text(broken)
    assert len(read_account(folder).changes) == 100


# --------------------------------------------------------------------- what is no report


def test_the_public_name(done):
    assert quantize.explain(str(done[0].run)).run.outcome == "met"
    assert quantize.Explanation is type(quantize.explain(done[0].run))


def refused(path, *says):
    with pytest.raises(RunFolderError) as caught:
        explain(path)
    for words in says:
        assert words in str(caught.value)
    assert caught.value.cure


def test_places_that_are_no_run(tmp_path, done):
    refused(tmp_path / "none", "does not exist", "name a run folder")
    refused(tmp_path, "holds no run")
    refused(tmp_path / ("x" * 300), "name too long", "check the path")
    refused(done[0].output, "is no UTF-8 text")
    (tmp_path / "int8.onnx.run").mkdir()
    refused(tmp_path / "int8.onnx", "is no run folder", f"name {tmp_path}/int8.onnx.run")
    os.mkfifo(tmp_path / "report.json")
    refused(tmp_path, "is no regular file")
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "report.json").mkdir()
    refused(tmp_path / "f", "is no regular file")


def test_an_unfinished_run_is_to_be_continued(tmp_path):
    (tmp_path / "journal.jsonl").write_text('{"event": "begin", "key": "0"}\n')
    refused(tmp_path, "is not finished", "the same tune command again: it continues")


def test_a_report_that_is_too_large_is_not_read(place):
    folder = place(report())
    os.truncate(folder / "report.json", (64 << 20) + 1)
    refused(folder, "larger than 64 MiB")


@pytest.mark.parametrize("key", ["layers", "changed", "classes"])
def test_a_report_of_an_older_version_names_the_cure(place, key):
    content = report()
    del content[key]
    refused(place(content), f"no '{key}'", "run the same tune command again")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it is no JSON"),
        ("{", "it is no JSON"),
        ("[" * 100_000, "it is no JSON"),
        ('{"schema_version": NaN}', "it is no JSON"),
        ('{"schema_version": ' + "9" * 5000 + "}", "it is no JSON"),
        ('{"schema_version": ' + "9" * 400 + "}", "not a number from"),
        ("[]", "it is no JSON object"),
        ("3", "it is no JSON object"),
        ("{}", "no report of a run"),
        ('{"schema_version": 2}', "schema version 2"),
        ('{"schema_version": "1"}', "schema_version is not a number"),
        ('{"schema_version": true}', "schema_version is not a number"),
    ],
)
def test_text_that_is_no_report(place, text, says):
    refused(place(text), says)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("verdict",), [], "verdict is not an object"),
        (("verdict", "outcome"), "won", "verdict.outcome is not one of met"),
        (("verdict", "outcome"), {}, "verdict.outcome is not one of met"),
        (("verdict", "reason"), None, "verdict.reason is not a text"),
        (("verdict", "images"), -1, "verdict.images is not a number from 0"),
        (("verdict", "images"), 1.5, "verdict.images is not a whole number"),
        (("verdict", "images"), 1e200, "verdict.images is not a number from 0"),
        (("verdict", "goal", "kind"), "all", "verdict.goal.kind is not one of"),
        (("float_model", "bytes"), True, "float_model.bytes is not a number"),
        (("search", "trials"), {}, "search.trials is not a list"),
        (
            ("search", "trials", 0, "plan", "repairs"),
            [1],
            "trials[0].plan.repairs[0] is not a text",
        ),
        (("search", "trials", 0, "accepted"), 1, "trials[0].accepted is not true or false"),
        (("measured", "trials"), [], "measured.trials is not as long as search.trials"),
        (("measured", "latency"), {}, "measured.latency.float_ms is not there"),
        (("accuracy", "drop_interval_points"), [1, 2, 3], "is not an interval"),
        (("layers", 0, "sqnr_db"), "x", "layers[0].sqnr_db is not a number"),
        (("changed", "first", 0, "right"), "both", "first[0].right is not one of float"),
        (("changed", "first", 0, "int8"), None, "first[0].int8 is not a number"),
        (("classes", 0, "images"), 0, "classes is not a list of classes with images"),
    ],
)
def test_a_value_of_another_type_is_named(place, path, value, says):
    refused(place(edited(*path, value=value)), "is damaged", says)


def paths_of(value, path=()):
    yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths_of(item, (*path, key))


PATHS = [path for path in paths_of(report()) if path]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(path=st.sampled_from(PATHS), value=JSON, drop=st.booleans())
@settings(max_examples=300, deadline=None)
def test_whatever_the_report_holds_there_is_an_answer_or_one_line(
    tmp_path_factory, path, value, drop
):
    content = edited(*path, value=value)
    if drop:
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
    folder = tmp_path_factory.getbasetemp() / "whatever.run"
    folder.mkdir(exist_ok=True)
    (folder / "report.json").write_text(json.dumps(content))
    with contextlib.suppress(RunFolderError):  # anything else is a defect
        found, alone = explain(folder, folder), explain(folder)
        found.to_json()
        assert all(isinstance(line, str) for e in (found, alone) for line in e.lines(["name"]))


def test_reports_that_a_disk_mixed_up(place):
    text = json.dumps(report())
    rng = random.Random(0)
    for _ in range(60):
        at, length = rng.randrange(len(text)), rng.randrange(1, 9)
        broken = text[:at] + "".join(rng.choices('{}[]",:0e-\x00', k=length)) + text[at + length :]
        with contextlib.suppress(RunFolderError):
            lines(place(broken))


# -------------------------------------------------------------------------- command line


def test_the_command_prints_a_run_and_two(place, cli):
    one, two = place(report(), "a.run"), place(report(), "b.run")
    alone = cli("explain", one)
    assert (alone.code, alone.err) == (0, "")
    assert alone.out.splitlines() == lines(one)
    both = cli("explain", one, two)
    assert both.out.splitlines() == lines(one, two)


def test_the_command_knows_class_names(place, cli, tmp_path):
    (tmp_path / "synset.txt").write_text("n01 ant\nn02 bee\nn03 crab\n")
    answer = cli("explain", place(report()), "--names", tmp_path / "synset.txt")
    assert "n03 crab *" in answer.out
    wrong = cli("explain", place(report()), "--names", tmp_path / "none.txt")
    assert wrong.code == 2
    assert wrong.err.startswith("quantize: error: class names")


def test_the_command_speaks_json(place, cli):
    content = json.loads(cli("explain", place(report()), "--json").out)
    assert content["outcome"] == "unmet"
    assert [rung["label"] for rung in content["rungs"]][-1] == "+ rounding"
    assert content["worst_layers"][-1]["sqnr_db"] is None
    both = json.loads(cli("explain", place(report()), place(report()), "--json").out)
    assert both["difference"]["comparable"] is True
    assert both["difference"]["changed"]["both"] == 2


def test_names_in_a_report_do_not_steer_the_terminal(place, cli):
    content = report()
    evil = "a\x1b[31m\rb\n\u202e"
    content["layers"][1]["name"] = content["changed"]["first"][0]["image"] = evil
    content["verdict"]["reason"] = content["search"]["trials"][0]["note"] = evil
    content["search"]["stopped"] = content["verdict"]["instruction_set"] = evil
    for arguments in ([place(content)], [place(content), place(report(), "b.run")]):
        answer = cli("explain", *arguments)
        assert answer.code == 0
        assert not any(not c.isprintable() for line in answer.out.split("\n") for c in line)


def test_what_cannot_be_explained_ends_with_one_line(cli, tmp_path):
    answer = cli("explain", tmp_path / "none")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.count("\n") == 1
    assert answer.err.startswith("quantize: error: run ")


def test_rows_of_changed_csv_are_what_the_run_wrote(done):
    text = (done[0].run / "changed.csv").read_text()
    assert next(csv.reader(io.StringIO(text))) == list(CHANGE_COLUMNS)


# ------------------------------------------------------------------------ without VNNI


def row(name, possible=None, seen=None):
    return LayerRow(name, "Conv", True, 0.5, 30.0, 0.5, 2.0, 0.0, possible, seen)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row("a"), row("b")], None),
        ([row("a", 0.0, 0.0), row("b")], "no sum of two products can leave 16 bits"),
        ([row("a", 0.1, 0.0), row("b", 0.0, 0.0)], "could leave 16 bits in 1 of 2 layers, and"),
        ([row("a", 0.1), row("b", 0.2)], "could leave 16 bits in 2 of 2 layers, and"),
        (
            [row("a", 0.1, 0.02), row("b", 0.2, 1e-7), row("c", 0.1, 0.0), row("d", 0.0, 0.0)],
            "in 2 of 4 layers on calibration images, most in a (2.00 %), and could in 3:",
        ),
    ],
)
def test_a_sentence_on_cpus_without_vnni(rows, words):
    told = without_vnni(rows)
    assert (told is None) if words is None else (words in told)
