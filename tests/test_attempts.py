"""A candidate that kills the process is skipped at last; a user's kill never counts against one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import quantize
from quantize.attempts import CRASH, MOST_DEATHS

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(quantize.__file__).parent.parent)}
ENVIRONMENT.pop("PYTHONFAULTHANDLER", None)

RUN = """
import os, signal, sys
from pathlib import Path
from quantize import attempts
from quantize.errors import EngineError, Interrupted
from quantize.journal import RunFolder
from quantize.plan import Plan
from quantize.search import Hands

folder, how, kills, answered = sys.argv[1:]
attempts._memory_kills = lambda: int(kills)

def make(plan):
    if how == "stop":
        raise Interrupted
    if how == "see":
        return Path("made")
    answers = Path(folder) / "answers"
    answers.mkdir(exist_ok=True)
    with (answers / "judge-x.rows").open("a") as file:
        file.write(answered)
    ends = {"crash": signal.SIGSEGV, "abort": signal.SIGABRT, "kill": signal.SIGKILL}
    os.kill(os.getpid(), ends[how])

no = lambda *_: None
hands = Hands(make, no, no, no, no, True, no, no, no)
with RunFolder(Path(folder)) as run:
    run.begin("key")
    try:
        with attempts.Attempts(run) as known:
            print(known.watched(hands, no).make(Plan("onnxruntime", "qdq")))
    except (EngineError, Interrupted) as error:
        print(error)
"""


@pytest.fixture
def attempt(tmp_path):
    """Makes a candidate in a process of its own; what that ended with, and what it printed."""

    def once(how, kills=0, answered=""):
        given = [str(tmp_path / "run"), how, str(kills), answered]
        done = subprocess.run(
            [sys.executable, "-c", RUN, *given],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout.strip()

    return once


SKIPPED = (0, f"the process ended {MOST_DEATHS} times while it was made; skipped; "
    "--fresh tries it again")  # fmt: skip


def test_what_crashes_again_and_again_is_skipped_from_then_on(attempt, tmp_path):
    ends = [attempt(how)[0] for how in ("crash", "abort", "crash")]
    assert ends == [-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGSEGV]
    assert attempt("see") == SKIPPED
    assert attempt("see") == SKIPPED
    assert not (tmp_path / "run" / CRASH).exists()


def test_a_users_kills_are_never_counted(attempt):
    for _ in range(MOST_DEATHS + 1):
        assert attempt("kill")[0] == -signal.SIGKILL
    assert attempt("see") == (0, "made")


def test_kills_for_want_of_memory_are_known_by_the_kernels_count(attempt):
    for kills in range(MOST_DEATHS):
        assert attempt("kill", kills)[0] == -signal.SIGKILL
    assert attempt("see", MOST_DEATHS) == SKIPPED


def test_a_kill_between_two_crashes_does_not_make_them_forgotten(attempt):
    for how in ("crash", "kill", "crash", "kill", "crash"):
        attempt(how)
    assert attempt("see") == SKIPPED


@pytest.mark.parametrize("way", ["answers", "stop"])
def test_a_death_after_a_step_forward_is_the_first_again(attempt, way):
    for _ in range(MOST_DEATHS - 1):
        attempt("crash")
    if way == "stop":
        assert attempt("stop") == (0, "interrupted")
        attempt("crash")
    else:
        attempt("crash", answered="row")
    assert attempt("see") == (0, "made")


# --------------------------------------------------------------------------- a whole run

TUNE = """
import os, signal, sys
from quantize import candidates
from quantize.cli import main

make = candidates.ort.quantize

def crashing(model, statistics, plan, encodings):
    if plan.repairs == ("bias",):
        os.kill(os.getpid(), signal.SIGSEGV)
    return make(model, statistics, plan, encodings)

candidates.ort.quantize = crashing
main()
"""


def test_a_run_gets_past_a_candidate_that_crashes(job):
    goal = "tuning.accuracy_criterion.relative=0.05"  # too few images to decide: all are tried
    command = [sys.executable, "-c", TUNE, *job.arguments("--set", goal)]
    ends = [
        subprocess.run(command, env=ENVIRONMENT, capture_output=True, timeout=300, check=False)
        for _ in range(MOST_DEATHS + 1)
    ]
    assert [end.returncode for end in ends[:-1]] == [-signal.SIGSEGV] * MOST_DEATHS
    assert ends[-1].returncode in (0, 3, 4), ends[-1].stderr
    report = json.loads((job.run / "report.json").read_text())
    notes = [trial["note"] for trial in report["search"]["trials"]]
    assert [note for note in notes if "skipped" in note] == [f"failed: {SKIPPED[1]}"]
    assert report["search"]["trials"][-1]["plan"]["repairs"] != ["bias"]
    assert not (job.run / CRASH).exists()
