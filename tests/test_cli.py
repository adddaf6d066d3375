import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
import typer

import quantize
from conftest import CLASSES, SIZE, tree
from quantize import cli as command_line
from quantize.cli import tuning
from quantize.cli.options import configuration
from quantize.cli.options import seconds as seconds_of
from quantize.console import PlainFormatter, ProgressPrinter, printable
from quantize.errors import Interrupted
from quantize.plan import Progress
from quantize.runtime import cpu
from quantize.strategy import TRIED

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(quantize.__file__).parent.parent)}


def parsed(answer):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(answer.out, parse_constant=refuse)


def config(job):
    return ("--config", str(job.config))


# ------------------------------------------------------------------------------- the root


def test_the_version(cli):
    answer = cli("--version")
    assert (answer.code, answer.out) == (0, f"quantize {quantize.__version__}\n")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_every_verb(cli, flag):
    answer = cli(flag)
    assert answer.code == 0
    for verb in (
        "tune",
        "verify",
        "evaluate",
        "benchmark",
        "predict",
        "inspect",
        "demo",
        "release",
        "check",
        "convert",
    ):
        assert f"\n  {verb} " in answer.out


@pytest.mark.parametrize(
    "verb",
    [
        "tune",
        "verify",
        "evaluate",
        "benchmark",
        "predict",
        "inspect",
        "release",
        "check",
        "convert",
    ],
)
def test_every_verb_has_help_and_json(cli, verb):
    answer = cli(verb, "--help")
    assert answer.code == 0
    assert "--json" in answer.out


def test_help_of_tune_tells_the_exit_codes(cli):
    assert "0 met, 2 bad input, 3 not met" in " ".join(cli("tune", "--help").out.split())


def test_help_loads_nothing_heavy():
    program = (
        "import sys\nfrom quantize import cli\nsys.argv = ['quantize', '--help']\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'onnx', 'onnxruntime', 'PIL', 'pydantic', 'scipy', 'yaml'}\n"
        "print(*sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert "Usage" in finished.stdout
    assert finished.stderr == "\n"


@pytest.mark.parametrize(
    "arguments",
    [(), ("tuna",), ("tune",), ("tune", "m.onnx"), ("inspect", "--jsn", "m.onnx"), ("--wrong",)],
)
def test_wrong_usage_is_exit_2(cli, arguments):
    answer = cli(*arguments)
    assert answer.code == 2
    assert "Usage" in answer.out + answer.err


# ---------------------------------------------------------------------------------- tune


def test_tune_for_people(job, cli):
    answer = cli(*job.arguments())
    assert answer.code == 0
    assert answer.err == ""
    lines = answer.out.splitlines()
    assert str(job.output) in lines[0]
    assert f"{job.run}/report.json" in lines[1]
    assert lines[2:] == (job.run / "summary.txt").read_text().splitlines()
    assert lines[-1].startswith("GOAL MET: top-1 drop")
    assert lines[-1].endswith(cpu().isa)


def test_tune_for_machines(job, cli):
    answer = cli(*job.arguments("--json"))
    content = parsed(answer)
    assert answer.code == 0
    assert content.pop("files") == {"output": str(job.output), "run": str(job.run)}
    assert content == json.loads((job.run / "report.json").read_text())


def test_tune_that_misses_its_goal(job, cli):
    answer = cli(*job.arguments("--json", "--set=tuning.speed_floor=50"))
    assert answer.code == 3
    content = parsed(answer)
    assert content["files"]["output"] is None
    assert content["verdict"]["exit_code"] == 3
    again = cli(*job.arguments("--set=tuning.speed_floor=50"))
    assert again.code == 3
    assert "no output, since the goal is not met" in again.out
    assert "GOAL NOT MET" in again.out.splitlines()[-1]


def test_tune_that_cannot_decide(job, cli):
    goal = "--set=tuning.accuracy_criterion={relative: 0.01, confidence: 0.95}"
    answer = cli(*job.arguments(goal))
    assert answer.code == 4
    assert answer.out.splitlines()[-1].startswith("UNDECIDED: ")


def test_the_last_setting_counts(job, cli):
    key = "--set=quantization.calibration.sampling_size"
    content = parsed(cli(*job.arguments(f"{key}=20", f"{key}=12", "--dry-run", "--json")))
    assert content["calibration"] == 12


def test_a_dry_run_writes_nothing_and_tells_the_price(job, cli):
    job.output.write_bytes(b"older")
    before = tree(job.folder)
    answer = cli(*job.arguments("--dry-run"))
    assert answer.code == 0
    assert "every input is fine" in answer.out
    assert "calibration 16, search 8, holdout 60" in answer.out
    assert "minutes" in answer.out
    content = parsed(cli(*job.arguments("--dry-run", "--json")))
    assert (content["calibration"], content["search"], content["holdout"]) == (16, 8, 60)
    repairs = len(TRIED)
    # The first, the plain one, one a repair, one on images.
    assert content["candidates"] == 2 + repairs + 1
    walk = 16 * 5
    assert content["image_runs"] == 16 + (2 + repairs + 1) * 8 + walk + 3 * 8 + 8 + 2 * 60
    assert content["memory_bytes"] > 2**20
    assert 0 < content["minutes"] < 1
    assert content["cache_bytes"] == (16 + 8) * 3 * SIZE * SIZE  # a byte a value
    assert tree(job.folder) == before


def test_quiet_is_quiet_and_progress_is_plain_lines_elsewhere(job, cli):
    arguments = [a for a in job.arguments() if a != "--quiet"]
    answer = cli(*arguments)
    lines = answer.err.splitlines()
    assert "fingerprint: 24 of 24 images" in lines
    assert "verify: 60 of 60 images" in lines
    assert "\r" not in answer.err
    assert "\x1b" not in answer.err
    assert cli(*arguments, "--quiet").err == ""
    assert cli(*arguments, "--json").err == ""


def test_verbose_logs_what_is_done(job):
    arguments = job.arguments()
    finished = subprocess.run(
        [sys.executable, "-m", "quantize", "--verbose", *arguments],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "INFO: prepare: folded 3 BatchNormalization into Conv" in finished.stderr


# -------------------------------------------------------------------------------- budgets


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("20m", 1200), ("2h", 7200), ("1.5m", 90), ("0.1h", 360)],
)
def test_budgets(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "0", "-1m", "soon", "m", "nan", "inf", "infh", "1d", "0.5s", "1e400", "1 h 2 m"]
)
def test_budgets_that_are_no_time(text, job, cli):
    with pytest.raises(typer.BadParameter, match="is no time"):
        seconds_of(text)
    answer = cli(*job.arguments(f"--budget={text}"))
    assert answer.code == 2
    assert "write 90s, 20m or 2h" in " ".join(answer.err.split())


def test_the_budget_is_the_timeout(job, cli):
    assert cli(*job.arguments("--budget=2h")).code == 0
    assert "timeout: 7200" in (job.run / "config.yaml").read_text()


def test_the_budget_is_for_what_comes_before_the_run_too(job, cli, monkeypatch):
    def settings(*given, **options):
        time.sleep(1.1)
        return configuration(*given, **options)

    monkeypatch.setattr(tuning, "configuration", settings)
    answer = cli(*job.arguments("--budget=1s"))
    assert answer.code == 3
    assert "the time budget is spent" in answer.err
    assert not job.output.exists()


# ------------------------------------------------------------------- verify and evaluate


def test_verify(done, cli):
    job, result = done
    arguments = ("verify", job.model, job.output, *config(job))
    answer = cli(*arguments, "--quiet")
    assert answer.code == 0
    assert answer.out.splitlines()[-1].startswith("GOAL MET")
    content = parsed(cli(*arguments, "--json"))
    assert content["exit_code"] == 0
    assert content["float_top1"] == result.verdict.float_top1
    assert content["images"] == 60
    missed = cli(*arguments, "--json", "--set=tuning.speed_floor=50")
    assert (missed.code, parsed(missed)["outcome"]) == (3, "unmet")


def test_verify_of_a_model_with_itself_is_exact(done, cli):
    job, _ = done
    arguments = ("verify", job.model, job.model, *config(job))
    assert parsed(cli(*arguments, "--json"))["fidelity"]["sqnr_db"] is None
    assert "output SQNR exact" in cli(*arguments, "--quiet").out


def test_verify_of_a_stranger(done, cli, tmp_path):
    job, _ = done
    stranger = onnx.load(job.output)
    stranger.graph.output[0].name = "other"
    for node in stranger.graph.node:
        node.output[:] = ["other" if name == "logits" else name for name in node.output]
    onnx.save(stranger, tmp_path / "stranger.onnx")
    answer = cli("verify", job.model, tmp_path / "stranger.onnx", *config(job), "--quiet")
    assert answer.code == 2
    assert "compare a float model with the int8 model made from it" in answer.err
    assert answer.err.count("\n") == 1


def test_evaluate(done, cli):
    job, result = done
    arguments = ("evaluate", job.output, *config(job))
    assert cli(*arguments, "--quiet").out.splitlines() == [
        "images 60",
        f"top-1  {100 * result.verdict.int8_top1:.2f} %",
        "top-5  100.00 %",
    ]
    content = parsed(cli(*arguments, "--json"))
    top1 = result.verdict.int8_top1
    assert content == {"model": "int8.onnx", "images": 60, "top1": top1, "top5": 1.0}


def test_evaluate_without_labels(job, cli):
    flat = job.folder / "flat"
    flat.mkdir()
    for image in job.evaluation.glob("*/*.png"):
        shutil.copy(image, flat)
    place = "evaluation.accuracy.dataloader.dataset.ImageFolder.root=flat"
    answer = cli("evaluate", job.model, *config(job), "--set", place, "--quiet")
    assert answer.code == 2
    assert "the evaluation images have no labels" in answer.err


# ----------------------------------------------------------------------------- benchmark


def test_benchmark_of_one_file(done, cli):
    job, _ = done
    lines = cli("benchmark", job.model, *config(job), "--quiet").out.splitlines()
    assert lines[0].startswith("Latency: ")
    assert lines[1].startswith("Throughput: ")
    content = parsed(cli("benchmark", job.model, *config(job), "--json"))
    assert content["model"] == "float.onnx"
    assert content["milliseconds"] > 0
    assert content["timing"] == {
        "threads": 1,
        "asked": 1,
        "warm_up": 1,
        "rounds": 6,
        "seconds": 20.0,
    }


def test_benchmark_of_two_files(done, cli):
    job, _ = done
    assert "int8 is" in cli("benchmark", job.model, job.output, *config(job), "--quiet").out
    content = parsed(cli("benchmark", job.model, job.output, *config(job), "--json"))
    assert content["low"] <= content["ratio"] <= content["high"]
    assert content["rounds"] == 6
    assert content["cpu"]["isa"] == cpu().isa


def test_fewer_threads_than_asked_are_said_so(done, cli):
    job, _ = done
    asked = "evaluation.performance.configs.cores_per_instance=4096"
    answer = cli("benchmark", job.model, *config(job), "--set", asked, "--quiet")
    assert f"{cpu().cores} threads (4096 asked)" in answer.out


# ------------------------------------------------------------------------------- predict


@pytest.fixture
def names(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("n01 zero\nn02 one\n\x1b]0;owned\x07\nthree\n")
    return file


def test_predict_gives_probabilities_and_names(done, cli, names):
    job, _ = done
    images = [min((job.evaluation / name).iterdir()) for name in ("001", "003")]
    arguments = ("predict", job.output, *images, *config(job), "--names", names)
    content = parsed(cli(*arguments, "--json"))
    assert content["model"] == "int8.onnx"
    assert [seen["image"] for seen in content["images"]] == list(map(str, images))
    for seen in content["images"]:
        shares = [guess["probability"] for guess in seen["classes"]]
        assert len(shares) == CLASSES
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1)
    best = content["images"][0]["classes"][0]
    assert (best["index"], best["name"]) == (1, "n02 one")
    lines = cli(*arguments).out.splitlines()
    assert lines[0] == str(images[0])
    assert lines[1].split(maxsplit=2) == [f"{100 * best['probability']:.2f}", "%", "n02 one"]


def test_predict_without_names_gives_numbers(done, cli):
    job, _ = done
    image = min((job.evaluation / "002").iterdir())
    content = parsed(cli("predict", job.model, image, *config(job), "--json"))
    assert content["images"][0]["classes"][0]["name"] == "2"


def test_control_characters_in_names_do_not_reach_the_terminal(done, cli, names, tmp_path):
    job, _ = done
    image = tmp_path / "a\x1b[2Jb\nc.png"
    shutil.copy(next((job.evaluation / "002").iterdir()), image)
    answer = cli("predict", job.model, image, *config(job), "--names", names)
    assert answer.code == 0
    assert "\x1b" not in answer.out
    assert "\x07" not in answer.out
    assert "�]0;owned�" in answer.out
    missing = cli("predict", job.model, f"{image}x", *config(job))
    assert missing.code == 2
    assert "\x1b" not in missing.err
    assert missing.err.count("\n") == 1


@pytest.mark.parametrize(
    ("image", "says"), [("nothing.png", "nothing.png"), (".", "it is a folder")]
)
def test_predict_on_no_image(done, cli, tmp_path, image, says):
    job, _ = done
    answer = cli("predict", job.model, tmp_path / image, *config(job))
    assert answer.code == 2
    assert says in answer.err


def test_predict_with_names_that_are_no_text(done, cli, tmp_path):
    job, _ = done
    (tmp_path / "names").write_bytes(b"\xff\xfe\xff")
    image = next((job.evaluation / "002").iterdir())
    for names in ("names", "missing"):
        answer = cli("predict", job.model, image, *config(job), "--names", tmp_path / names)
        assert answer.code == 2
        assert "cannot be read" in answer.err


# ------------------------------------------------------------------------------- inspect


def test_inspect_a_float_model(done, cli):
    job, _ = done
    out = cli("inspect", job.model).out
    assert "opset 13" in out
    assert f"input      data [any, 3, {SIZE}, {SIZE}]" in out
    assert "0.0 % of them int8" in out
    content = parsed(cli("inspect", job.model, "--json"))
    assert content["operators"]["Conv"] == content["operators"]["BatchNormalization"] == 3
    assert content["inputs"] == [{"name": "data", "shape": [None, 3, SIZE, SIZE]}]
    assert content["outputs"] == [{"name": "logits", "shape": [None, CLASSES]}]
    assert content["int8_share_of_multiply_adds"] == 0
    assert content["problem"] is None


def test_inspect_an_int8_model(done, cli):
    job, result = done
    assert "100.0 % of them int8" in cli("inspect", job.output).out
    content = parsed(cli("inspect", job.output, "--json"))
    assert content["sha256"] == result.report["int8_model"]["sha256"]
    assert content["int8_share_of_multiply_adds"] == 1
    assert content["stayed_float"] == []


def test_inspect_a_file_that_is_no_model(cli, tmp_path):
    (tmp_path / "x.onnx").write_text("no model")
    answer = cli("inspect", tmp_path / "x.onnx")
    assert answer.code == 2
    assert answer.err.count("\n") == 1


# -------------------------------------------------------- terminals, pipes, log lines


def test_a_reader_that_leaves_does_not_matter(done):
    job, _ = done
    process = subprocess.Popen(
        [sys.executable, "-m", "quantize", "inspect", str(job.output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    process.stdout.close()  # as `| head -0` does
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 0
    assert err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "{output}"],
        ["inspect", "{output}", "--json"],
        ["--help"],
        ["tune", "--help"],
        ["--version"],
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_standard_output_is_one_line(done, arguments, unbuffered):
    job, _ = done
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(
            [sys.executable, "-m", "quantize", *(a.format(output=job.output) for a in arguments)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT | {"PYTHONUNBUFFERED": unbuffered},
            check=False,
            timeout=60,
        )
    assert process.returncode == 2
    assert process.stderr.startswith("quantize: error: cannot write standard output: ")
    assert process.stderr.count("\n") == 1


ENDING = """\
import atexit, os, signal, sys
from quantize import cli
def kill():
    os.kill(os.getpid(), signal.{request})
class Last:
    def __del__(self, kill=kill):
        kill()
{when}
cli.main()
"""
"""Somebody asks the process to stop when its command is over."""


@pytest.mark.parametrize("request_", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("when", ["atexit.register(kill)", "last = Last()"])
@pytest.mark.parametrize(("argument", "code"), [("--version", 0), ("nosuch", 2)])
def test_who_stops_a_finished_command_is_too_late(request_, when, argument, code):
    process = subprocess.run(
        [sys.executable, "-c", ENDING.format(request=request_, when=when), argument],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
        timeout=60,
    )
    assert process.returncode == code
    assert process.stdout == (f"quantize {quantize.__version__}\n" if code == 0 else "")
    assert "Interrupt" not in process.stderr


def test_a_stop_while_an_error_is_told_is_an_interruption_like_any_other(cli, monkeypatch):
    told = []

    def complain(line):
        told.append(line)
        if len(told) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(command_line, "complain", complain)
    assert cli("inspect", "nowhere.onnx").code == 143
    assert told[1] == "quantize: terminated"


@pytest.mark.parametrize(
    ("arguments", "continues"),
    [
        (["tune"], True),
        (["--verbose", "tune"], True),
        (["fetch"], True),
        (["prepare-imagenet"], True),
        (["tune", "--dry-run"], False),
        (["verify"], False),
        (["verify", "tune"], False),
        (["convert"], False),
        ([], False),
    ],
)
def test_only_commands_that_continue_say_so(cli, monkeypatch, arguments, continues):
    def interrupted():
        raise Interrupted

    monkeypatch.setattr(command_line, "_run", interrupted)
    answer = cli(*arguments)
    assert answer.code == 130
    more = "; the same command continues" if continues else ""
    assert answer.err == f"quantize: interrupted{more}\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_do_not_matter(done, closed):
    job, _ = done
    command = f'exec "$0" -m quantize inspect "$1" {closed}'
    process = subprocess.run(
        ["/bin/sh", "-c", command, sys.executable, str(job.output)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert process.returncode == 0
    assert "Traceback" not in process.stderr


def test_a_reader_of_the_progress_that_leaves_does_not_end_the_run(job):
    arguments = [a for a in job.arguments() if a != "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-m", "quantize", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    process.stderr.close()
    out = process.stdout.read()
    process.stdout.close()
    assert process.wait(60) == 0
    assert "GOAL MET" in out


def test_printable_keeps_text_and_drops_control():
    assert printable("größe 5 µs") == "größe 5 µs"
    assert printable("a\x1b[0m\n\u202eb\udcff") == "a�[0m��b�"


def test_log_lines_are_printable_and_tracebacks_keep_their_lines():
    formatter = PlainFormatter("%(levelname)s: %(message)s")
    record = logging.LogRecord("x", logging.WARNING, "", 0, "a\nINFO: forged\x1b", (), None)
    assert formatter.format(record) == "WARNING: a�INFO: forged�"
    try:
        raise ValueError("why\x1b")
    except ValueError:
        record.exc_info = sys.exc_info()
    assert "\n" in formatter.format(record)
    assert "\x1b" not in formatter.format(record)


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_plain_progress_speaks_every_ten_seconds_and_at_the_end(capsys, clock):
    with ProgressPrinter() as printer:
        for done in range(1, 101):
            clock[0] = done * 0.5
            printer(Progress("verify", done, 100))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert lines[0] == "verify: 21 of 100 images, about 38 s left"
    assert lines[-1] == "verify: 100 of 100 images"


def test_plain_progress_starts_anew_with_each_pass(capsys, clock):
    with ProgressPrinter() as printer:
        for start in (0, 1000):
            for done in (1, 50, 100):
                clock[0] = start + done
                printer(Progress("search", done, 100))
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["search: 50 of 100 images, about 49 s left", "search: 100 of 100 images"] * 2


def test_a_terminal_gets_a_bar(job):
    """In a terminal of its own: the bar moves, and no plain line is printed."""
    pty = pytest.importorskip("pty")
    main, side = pty.openpty()
    arguments = [a for a in job.arguments() if a != "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-m", "quantize", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=side,
        env={**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(side)
    seen = b""
    try:
        while chunk := os.read(main, 1 << 16):
            seen += chunk
    except OSError:  # how a terminal ends
        pass
    os.close(main)
    assert process.wait(60) == 0
    assert b"60/60" in seen
    assert b"verify: 60 of 60" not in seen


def test_an_image_name_that_is_no_utf8(job, cli):
    """Linux allows it, and an unreadable image is named in the report."""
    odd = os.fsdecode(b"\xfe.png")
    (job.evaluation / "000" / odd).write_text("no image")
    answer = cli(*job.arguments("--set=evaluation.max_unreadable=0.5"))
    assert answer.code == 0
    assert "holdout: 1 unreadable, first �.png" in answer.out
    report = json.loads((job.run / "report.json").read_text())
    assert set(report["data"]["holdout"]["unreadable"]["first"]) == {odd}


def test_a_model_name_that_is_no_utf8_is_refused(job):
    odd = job.model.rename(job.folder / os.fsdecode(b"\xff.onnx"))
    arguments = ("tune", odd, *config(job), "-o", job.output, "--quiet")
    finished = subprocess.run(
        [sys.executable, "-m", "quantize", *arguments],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 2
    assert "Traceback" not in finished.stderr
    assert "udcff" not in finished.stderr
    assert "\ufffd.onnx does not load" in finished.stderr.splitlines()[-1]
