"""The page and the excerpt, from results that were written down."""

import copy
import json
import platform
import sys

import pytest

from benchmarks import machine, page
from benchmarks.__main__ import main
from benchmarks.causes import Causes
from benchmarks.suite import PARTS, Plan, Suite, our_failures
from benchmarks.tables import BEGIN, END, MarkerError

CAUSES = Causes((("latency/small/them/*", "its kernels"),))


def latency_row(peer, threads, ms, ratio=None, rival=False):
    row = {
        "id": f"latency/small/{peer}/batch1/threads{threads}",
        "case": "small",
        "peer": peer,
        "batch": 1,
        "threads": threads,
        "rival": rival,
        "ms": {"value": ms, "low": ms - 0.1, "high": ms + 0.1},
    }
    if ratio is None:
        return row
    standing = "ahead" if ratio > 1 else "behind"
    return row | {
        "ratio": {"value": ratio, "low": ratio - 0.01, "high": ratio + 0.01},
        "standing": standing,
    }


@pytest.fixture
def results():
    names = {"ours": "quantize", "float": "float32", "them": "Them", "broken": "Broken"}
    gone = {"rival": True, "failed": "failed: a | b\nline"}
    rows = []
    for threads, their in ((1, 2.0), (2, 0.5)):
        rows += [
            latency_row("ours", threads, 1.0),
            latency_row("float", threads, 3.0, 3.0 if threads == 1 else 0.9),  # no rival
            latency_row("them", threads, their, their, rival=True),
            {**latency_row("broken", threads, 1.0), **gone},
        ]
        del rows[-1]["ms"]
    accuracy = {"case": "small", "images": 100, "agreement": 0.99, "sqnr_db": 30.0}
    span = {"value": 0.5, "low": -0.1, "high": 1.0}
    behind = {"value": -2.0, "low": -3.0, "high": -1.0, "standing": "behind"}
    tuned = {"case": "small", "goal": "relative: 0.01", "evaluations": 5.25, "calibrations": 1}
    tuned |= {"agreement": 0.99, "sqnr_db": None, "speed": None, "ended": "exit 3"}
    return {
        "quick": False,
        "arguments": "--only small",
        "seconds": 90.0,
        "machine": {**machine.describe(), "load": 0.5, "load_after": 1.5},
        "cases": {
            "small": {"name": "Small | net", "goal": "relative: 0.01"},
            "absent": {"name": "Absent", "goal": "relative: 0.01", "failed": "not here"},
        },
        "peers": {
            key: {"name": name, "environment": "x", "runtime": "onnxruntime"}
            for key, name in names.items()
        },
        "made": [{"case": "small", "peer": "ours", "seconds": 1.0, "note": "exit 3: not released"}],
        "latency": rows,
        "accuracy": [
            {**accuracy, "id": "accuracy/small/ours", "peer": "ours", "rival": False, "drop": span},
            {
                **accuracy,
                "id": "accuracy/small/them",
                "peer": "them",
                "rival": True,
                "against": {"agreement": behind, "sqnr_db": {**span, "standing": "equal"}},
            },
            {"id": "accuracy/small/broken", "case": "small", "peer": "broken", **gone},
        ],
        "tuning": [
            {
                "id": "tuning/small/ours",
                "peer": "ours",
                **tuned,
                "seconds": 10.0,
                "peak_bytes": 3 << 20,
                "share": 1.5,
                "share_of_loop": 1.75,
                "asked": 1.25,
                "bound": False,
                "standing": "behind",
            },
            {
                "id": "tuning/small/inc-basic",
                "case": "small",
                "peer": "inc-basic",
                "goal": "relative: 0.01",
                "failed": "failed: it died",
            },
        ],
        "spent": {"files": 12.0, "data_path": 60.0},
        "scripts": {"growth": {"failed": "no"}, "data_path": {"markdown": "| x |\n"}},
    }


def test_the_page_holds_every_part(results):
    text = page.whole(results, CAUSES)
    assert "Load 0.5 before, 1.5 after." in text
    assert "took 1.5 minutes (data path 1.0, files 0.2)." in text
    assert (
        "| Small \\| net | 1 | 1 | 1 | 3 | 3.00 | Them | 2 | 2.00 (1.99 to 2.01) | ahead |" in text
    )
    assert (
        "| Small \\| net | 1 | 2 | 1 | 3 | 0.90 | Them | 0.5 | 0.50 (0.49 to 0.51) | behind |"
        in text
    )
    assert "| Broken | did not run | did not run |" in text
    assert "## Data path\n\n| x |" in text
    assert "## Growth\n\nDid not run: no." in text
    assert "1.50 (at most 1.25): behind" in text
    assert "random weights" in text


def test_every_row_that_is_behind_stands_there_with_its_cause(results):
    text = page.whole(results, CAUSES)
    behind = text[text.index("## Where quantize is behind") : text.index("## What did not run")]
    lines = behind.strip().splitlines()[4:]
    assert lines == [
        "| Small \\| net | Them | time, batch on threads: 1 on 2 | 0.50 times as fast"
        " | its kernels |",
        "| Small \\| net | Them | equal answers | -2.00 points | not known yet |",
        "| Small \\| net, relative: 0.01 | INC `basic` | time of tuning"
        " | 1.50 of its time, at most 1.25 asked | not known yet |",
    ]


def test_the_excerpt_shows_data_path_and_growth(results):
    text = page.excerpt(results, CAUSES)
    assert "**Data path**, images a second from JPEG files" in text
    assert "what is possible:\n\n| x |" in text
    assert "**Growth** of time and memory with the number of images:\n\nDid not run: no." in text


def test_the_excerpt_has_a_line_for_each_model(results):
    text = page.excerpt(results, CAUSES)
    assert (
        "| Small \\| net | 1 | 3.00 | Them | 2.00 (1.99 to 2.01) | 1 / 0 / 1"
        " | 0.50; 99.0 %; 30.0 dB |" in text
    )
    assert (
        "| Small \\| net | relative: 0.01 | 10.0 / did not run | 1.50 (at most 1.25): behind;"
        " 1.75 of its loop alone"
        " | 5.25 / did not run | 3 / did not run | 99.0 %; exact / did not run"
        " | exit 3 / did not run |" in text
    )
    assert "| Them | time | Small \\| net (1 on 2) | 0.50 times as fast | its kernels |" in text


def test_a_model_whose_peers_all_failed_still_has_its_line(results):
    results["latency"] = [row for row in results["latency"] if row["peer"] != "them"]
    results["accuracy"], results["tuning"] = [], results["tuning"][:1]
    text = page.excerpt(results, CAUSES)
    assert "| Small \\| net | 1 | 3.00 | none ran |  | 0 / 0 / 0 |  |" in text
    assert "| 10.0 / did not run |" in text


def test_noise_is_what_our_file_does_against_itself(results):
    assert "Noise:" not in page.whole(results, CAUSES)
    results["peers"]["ours-again"] = {"name": "again"}
    for threads, ratio, standing in ((1, 0.99, "behind"), (2, 1.004, "equal")):
        row = latency_row("ours-again", threads, 1.0, ratio) | {"standing": standing}
        results["latency"].insert(4 if threads == 1 else len(results["latency"]), row)
    said = "is 0.990 to 1.004 times as fast, and called equal in 1 of 2 settings"
    assert said in page.whole(results, CAUSES)
    assert said in page.excerpt(results, CAUSES)


def test_what_did_not_run_says_how_once(results):
    text = page.whole(results, CAUSES)
    lines = text[text.index("## What did not run") :].strip().splitlines()[4:]
    assert lines == [
        "| case | Absent | not here |",
        "| latency, Small \\| net | Broken | failed: a \\| b line |",
        "| accuracy, Small \\| net | Broken | failed: a \\| b line |",
        "| tuning, Small \\| net | INC `basic` | failed: it died |",
        "| file, Small \\| net | quantize | exit 3: not released |",
    ]


def test_nothing_behind_and_nothing_measured_are_said(results):
    for part in ("latency", "accuracy", "tuning", "made"):
        results[part] = []
    del results["spent"]
    del results["cases"]["absent"]
    text = page.whole(results, CAUSES)
    assert "Nowhere in this run." in text
    assert "Everything ran." in text
    assert text.count("Not measured in this run.") == 3


def test_the_short_form_says_that_it_shows_no_speed(results):
    results["quick"] = True
    assert "it shows that all runs, not how fast" in page.whole(results, CAUSES)


def test_the_pages_follow_from_the_raw_results(results, tmp_path):
    (tmp_path / "docs").mkdir()
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    page.publish(results, CAUSES, tmp_path)
    raw = json.loads((tmp_path / "docs" / "benchmarks.json").read_text())
    assert page.whole(raw, CAUSES) + "\n" == (tmp_path / "docs" / "benchmarks.md").read_text()
    text = readme.read_text()
    assert text.startswith(f"before\n{BEGIN}\n\n")
    assert text.endswith(f"\n\n{END}\nafter\n")
    assert "old" not in text
    assert "its kernels" in text


def test_without_a_place_in_the_readme_nothing_is_written(results, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(MarkerError):
        page.publish(results, CAUSES, tmp_path)
    assert list((tmp_path / "docs").iterdir()) == []


def test_only_failures_of_ours_are_ours(results):
    assert our_failures(results) == []
    broken = copy.deepcopy(results)
    broken["latency"][0]["failed"] = "why"
    assert our_failures(broken) == ["latency/small/ours/batch1/threads1: why"]


# ---------------------------------------------------------------------- the command


def plan(tmp_path, **changes):
    asked = {"quick": True, "peers": "", "only": "", "parts": PARTS, "shared": tmp_path}
    return Plan(**{**asked, "output": tmp_path, "environments": tmp_path, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": ("latency", "beauty")}, "--parts: 'beauty' is none of: latency, accuracy"),
        ({"only": "nosuch"}, "--only: no case has 'nosuch'"),
        ({"peers": "nobody"}, "--peers: 'nobody' is none of"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        Suite(plan(tmp_path, **changes))


def test_a_run_without_its_models_ends_with_rows_that_say_so(tmp_path):
    asked = plan(tmp_path, only="resnet20", parts=("latency", "tuning"), shared=tmp_path / "none")
    said = []
    results = Suite(asked).run(said.append)
    assert results["cases"]["resnet20"]["failed"].endswith("resnet20-cifar10.onnx is not here")
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert "is not here" in page.whole(results, CAUSES)
    assert said == ["resnet20: model and images"]


def test_a_case_that_is_only_tuned_is_left_alone_without_tuning(tmp_path):
    said = []
    asked = plan(tmp_path, only="mobilenet-0.005", parts=("accuracy",), shared=tmp_path / "none")
    Suite(asked).run(said.append)
    assert said == []


def test_a_script_of_its_own_gives_what_it_prints_and_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.suite.ROOT", tmp_path)
    (tmp_path / "benchmarks").mkdir()
    suite = Suite(plan(tmp_path))
    script = tmp_path / "benchmarks" / "growth.py"
    assert suite._script("growth") == {"failed": "benchmarks/growth.py is not here"}
    script.write_text(
        "import sys; _, shared, quick, flag, file = sys.argv[1:]; assert quick == '--quick'\n"
        "print('| table |'); print('noise', file=sys.stderr); open(file, 'w').write('[1]')"
    )
    found = suite._script("growth")
    assert (found["markdown"], found["results"]) == ("| table |\n", [1])
    script.write_text("raise SystemExit('no images')")
    assert suite._script("growth") == {"failed": "exit 1: no images"}


@pytest.mark.parametrize("text", [None, "{", "[1]"])
def test_results_that_cannot_be_read_are_one_line(tmp_path, monkeypatch, capsys, text):
    file = tmp_path / "results.json"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--from", str(file)])
    assert main() == 2
    told = capsys.readouterr().err
    assert told.startswith("benchmarks: ")
    assert len(told.splitlines()) == 1


def test_the_machine_is_described_without_its_name():
    seen = machine.describe()
    assert seen["cores"] >= 1
    assert seen["packages"]["onnxruntime"]
    assert platform.node() not in json.dumps(seen) or len(platform.node()) < 4
