"""For which processors a verdict holds: rows, what is wrong with them, and the sentences."""

import copy
import json

import pytest

from quantize.errors import RunFolderError
from quantize.plan import Cpu, Drop, Fidelity, Goal, Verdict
from quantize.report.account import account_json, account_lines
from quantize.report.cpus import Place, decisive, holds_for, places_of, row
from quantize.report.page import page
from quantize.report.reading import account_of, report_value
from quantize.report.summary import summary

HERE = Place("x86-64 AVX512-VNNI", "met", "why", 400)


def verdict(outcome="met", drop=True, **changes):
    values = {
        "outcome": outcome,
        "reason": "because",
        "goal": Goal(0.01),
        "drop": Drop(1.0, -1.0, 3.0, 2, 1, 100) if drop else None,
        "float_top1": 0.9,
        "int8_top1": 0.89,
        "float_top5": 1.0,
        "int8_top5": 1.0,
        "fidelity": Fidelity(20.0, 0.97),
        "agreement_low": 0.9,
        "agreement_high": 1.0,
        "images": 400,
        "more_images": None,
        "latency": None,
        "cpu": Cpu("Haswell (emulated)", "x86-64 Haswell, emulated", True, 1),
    }
    return Verdict(**(values | changes))


DIFFERENT = Fidelity(14.0, 0.92)


def emulated(outcome="met", against=DIFFERENT):
    return row(verdict(outcome), images=120, emulated=True, against_here=against, proven=False)


def own():
    machine = Cpu("Old Xeon", "x86-64 AVX2", True, 8)
    return row(
        verdict(cpu=machine, drop=False), images=400, emulated=False, against_here=None, proven=True
    )


def read(*rows):
    found = report_value({"measured": {"cpus": json.loads(json.dumps(rows))}})
    return places_of(found.at("measured"))


def test_what_is_written_is_read():
    one, two, three = read(emulated("unmet"), own(), emulated(against=Fidelity(float("inf"), 1.0)))
    assert one == Place("Haswell (emulated)", "unmet", "because", 120, 0.92)
    assert two == Place("x86-64 AVX2 (Old Xeon)", "met", "because", 400)
    assert (three.agreement, three.identical) == (1, True)
    assert places_of(report_value({"measured": {}}).at("measured")) == ()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("outcome", "good"),
        ("images", -1),
        ("images", "many"),
        ("emulated", 1),
        ("reason", None),
        ("cpu", {"name": "x"}),
        ("against_here", {"agreement": 2}),
        ("proven", None),
    ],
)
def test_a_damaged_row_is_named(key, value):
    with pytest.raises(RunFolderError, match=r"measured\.cpus\[0\]\."):
        read(emulated() | {key: value})


def test_the_worst_counts_and_this_processor_among_equals():
    one, two = read(emulated("undecided"), emulated("unmet"))
    assert decisive(HERE, (one, two)) is two
    assert decisive(HERE, (one,)) is one
    assert decisive(HERE, read(emulated())) is HERE
    assert decisive(HERE, ()) is HERE


def test_the_sentence_names_each_processor_with_its_images():
    told = holds_for(HERE, read(emulated("unmet"), own()), proven=False, saturates=False)
    assert told == (
        "measured on x86-64 AVX512-VNNI, 400 images: met; Haswell (emulated), 120 images: not met"
        " (92.0 % as here); x86-64 AVX2 (Old Xeon), 400 images: met"
    )


@pytest.mark.parametrize(
    ("proven", "saturates", "words"),
    [
        (True, False, "; no sum of two products can leave 16 bits"),
        (False, True, " only, where sums of two products are cut off"),
        (False, False, " only: nothing was run on x86 CPUs without VNNI"),
    ],
)
def test_where_nothing_else_was_run_it_says_what_is_known(proven, saturates, words):
    told = holds_for(HERE, (), proven=proven, saturates=saturates)
    assert told.startswith(f"measured on x86-64 AVX512-VNNI{words}")


# --------------------------------------------------------------------------- in a report


@pytest.fixture
def report(done):
    content = copy.deepcopy(done[1].report)
    content["measured"]["cpus"] = [emulated("unmet")]
    return content


def test_the_summary_ends_with_the_verdict_that_counts(report):
    lines = summary(report).splitlines()
    assert lines[-1] == "GOAL NOT MET: because; seen on 120 holdout images, Haswell (emulated)"
    assert any(line.startswith("holds for  measured on ") for line in lines)
    report["measured"]["cpus"] = []
    lines = summary(report).splitlines()
    assert lines[-1].startswith("GOAL MET: ")
    assert not any(line.startswith("holds for") for line in lines)


def test_the_page_begins_with_the_verdict_that_counts(report):
    text = page(report)
    header = text.split("<header>")[1].split("</header>")[0]
    assert 'class="verdict unmet"' in header
    assert "seen on 120 holdout images, Haswell (emulated)" in header
    assert "Holds for: measured on " in header
    assert "<title>Goal not met: " in text


def test_the_page_says_where_nothing_else_was_run(report):
    report["measured"] |= {"cpus": [], "cpu": report["measured"]["cpu"] | {"saturates": False}}
    for layer in report["layers"]:
        layer["overflow_possible_share"] = 0.1
    assert "nothing was run on x86 CPUs without VNNI" in page(report)


def test_an_account_says_what_would_help_there(report):
    run = account_of(report_value(report), "run")
    assert run.outcome == "met"
    assert run.decisive.outcome == "unmet"
    told = "\n".join(account_lines(run))
    assert "quantization.portable: true gives" in told
    report["measured"]["cpus"] = [emulated("undecided")]
    told = " ".join("\n".join(account_lines(account_of(report_value(report), "run"))).split())
    assert "not decided on 120 images: more evaluation.cpus_timeout, or" in told
    assert account_json(run)["cpus"][0]["outcome"] == "unmet"
