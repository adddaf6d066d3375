"""Where we are behind: every row is told, by model and by cause; a runtime can be the cause."""

import pytest

from benchmarks.behind import by_cause, by_model, entries
from benchmarks.causes import Causes

NOBODY = Causes()


def time_row(case, peer, threads, ms, *, ratio=None, standing="behind"):
    row = {
        "id": f"latency/{case}/{peer}/batch1/threads{threads}",
        "case": case,
        "peer": peer,
        "batch": 1,
        "threads": threads,
        "rival": peer == "them",
        "ms": {"value": ms},
    }
    return row if ratio is None else row | {"ratio": {"value": ratio}, "standing": standing}


@pytest.fixture
def results():
    """Behind everywhere on one model, in one setting of the other."""
    rows = []
    for case, threads, ratio in (("a", 1, 0.5), ("a", 2, 0.6), ("b", 1, 1.5), ("b", 2, 0.7)):
        standing = "ahead" if ratio > 1 else "behind"
        rows += [
            time_row(case, "ours", threads, 1.0),
            time_row(case, "them", threads, ratio, ratio=ratio, standing=standing),
        ]
    return {
        "cases": {"a": {"name": "A"}, "b": {"name": "B"}},
        "peers": {"ours": {"name": "quantize"}, "them": {"name": "Them", "runtime": "fast"}},
        "latency": rows,
        "accuracy": [],
        "tuning": [],
    }


def add_twin(results, ms):
    """Our file in their runtime, in every setting."""
    results["peers"]["ours-fast"] = {"name": "there"}
    for row in [row for row in results["latency"] if row["peer"] == "them"]:
        twin = time_row(row["case"], "ours-fast", row["threads"], ms * row["ms"]["value"])
        results["latency"].append(twin)


def test_times_of_one_cause_are_one_line_that_names_every_setting(results):
    found = entries(results, NOBODY)
    assert by_model(found) == [
        [
            *("A", "Them", "time, batch on threads: 1 on 1, 1 on 2"),
            *("0.50 to 0.60 times as fast", "not known yet"),
        ],
        [
            *("B", "Them", "time, batch on threads: 1 on 2"),
            *("0.70 times as fast", "not known yet"),
        ],
    ]
    assert by_cause(found) == [
        ["Them", "time", "A (all); B (1 on 2)", "0.50 to 0.70 times as fast", "not known yet"]
    ]


def test_another_cause_is_another_line(results):
    found = entries(results, Causes((("latency/a/them/*/threads1", "one thread"),)))
    assert [line[2:] for line in by_cause(found)] == [
        ["A (1 on 1)", "0.50 times as fast", "one thread"],
        ["A (1 on 2); B (1 on 2)", "0.60 to 0.70 times as fast", "not known yet"],
    ]


@pytest.mark.parametrize(("share", "known"), [(0.98, True), (1.04, True), (1.06, False)])
def test_a_runtime_in_which_our_file_is_as_fast_is_the_cause(results, share, known):
    add_twin(results, share)
    runtime = "the runtime, not the file: run there, quantize's takes"
    expected = f"{runtime} {share:.2f} to {share:.2f} of its time" if known else "not known yet"
    assert {one.cause for one in entries(results, NOBODY)} == {expected}


def test_what_people_found_goes_before_the_runtime(results):
    add_twin(results, 1.0)
    found = entries(results, Causes((("latency/a/*", "they said so"),)))
    assert [one.cause == "they said so" for one in found] == [True, True, False]


def test_a_twin_that_failed_explains_nothing(results):
    add_twin(results, 1.0)
    for row in results["latency"]:
        if row["peer"] == "ours-fast":
            del row["ms"]
            row["failed"] = "why"
    assert {one.cause for one in entries(results, NOBODY)} == {"not known yet"}


def test_accuracy_and_tuning_keep_their_units_apart(results):
    results["latency"] = []
    behind = {"value": -2.0, "standing": "behind"}
    results["accuracy"] = [
        {
            "id": f"accuracy/{case}/them",
            "case": case,
            "peer": "them",
            "rival": True,
            "against": {"sqnr_db": behind, "top1": {"value": 1.0, "standing": "ahead"}},
        }
        for case in "ab"
    ]
    results["tuning"] = [
        {
            "id": f"tuning/{case}/ours",
            "case": case,
            "goal": "g",
            "share": 1.5,
            "asked": asked,
            "standing": "behind",
        }
        for case, asked in (("a", 0.2), ("b", 1.25))
    ]
    assert by_cause(entries(results, NOBODY)) == [
        ["Them", "SQNR", "A; B", "-2.00 dB", "not known yet"],
        *(
            [
                *("INC `basic`", "time of tuning", f"{model}, g"),
                *(f"1.50 of its time, at most {asked} asked", "not known yet"),
            ]
            for model, asked in (("A", 0.2), ("B", 1.25))
        ),
    ]
