"""The shell scripts as a user calls them: flags, the choice of Python, exit codes."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import quantize
from conftest import CLASSES, SIZE
from models import tiny_dataset, write_imagenet_raw

ROOT = Path(quantize.__file__).parent.parent
SCRIPTS = ROOT / "scripts"
TUNE = SCRIPTS / "run_tuning.sh"
BENCHMARK = SCRIPTS / "run_benchmark.sh"

pytestmark = pytest.mark.skipif(not TUNE.is_file(), reason="the scripts are not in the package")


@pytest.fixture
def spy(tmp_path):
    """A Python that has quantize, and only tells what it was called with."""
    return command(
        tmp_path / "spy" / "python",
        'case " $* " in *" -c "*) exit 0 ;; esac\nprintf "<%s>\\n" "$@"\nexit ${CODE:-0}',
    )


@pytest.fixture
def bare(tmp_path):
    """A Python that has no quantize."""
    return command(tmp_path / "bare" / "python", "exit 1")


def command(path, body):
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def run(script, *arguments, python=None, path=None, cwd=None, **environment):
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHON", "PYTHONPATH")}
    if python is not None:
        environment["PYTHON"] = str(python)
    if path is not None:
        environment["PATH"] = f"{path}:/usr/bin:/bin"
    return subprocess.run(
        [str(script), *map(str, arguments)],
        env={**kept, **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def told(answer):
    """What the spy was called with, after the options of Python itself."""
    assert answer.returncode == 0, answer.stderr
    words = [line[1:-1] for line in answer.stdout.splitlines()]
    assert words[:3] == ["-P", "-m", "quantize"]
    return words[3:]


def usage(answer, *says):
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert "usage: run_" in answer.stderr
    for words in says:
        assert words in answer.stderr


def test_shellcheck_finds_nothing():
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:/usr/bin:/bin")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    scripts = sorted(map(str, SCRIPTS.glob("*.sh")))
    found = subprocess.run(
        [shellcheck, "-x", *scripts], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.stdout == ""
    assert found.returncode == 0


# ------------------------------------------------------------------------- flags of tuning

PLAIN = ("--input_model=m.onnx", "--config=c.yaml", "--output_model=o.onnx")
CALLED = ["tune", "--config=c.yaml", "--output=o.onnx", "--", "m.onnx"]


def test_flags_with_equals_or_with_a_blank(spy):
    assert told(run(TUNE, *PLAIN, python=spy)) == CALLED
    apart = [word for flag in PLAIN for word in flag.split("=")]
    assert told(run(TUNE, *apart, python=spy)) == CALLED


def test_blanks_and_equals_in_values(spy):
    called = told(
        run(
            TUNE,
            "--input_model=a dir/the model=1.onnx",
            "--output_model",
            "o ut=put.onnx",
            "--config=c d.yaml",
            "--set=tuning.accuracy_criterion.relative=0.02",
            "--set",
            "model.name=a b=c",
            python=spy,
        )
    )
    assert called == [
        "tune",
        "--config=c d.yaml",
        "--output=o ut=put.onnx",
        "--set=tuning.accuracy_criterion.relative=0.02",
        "--set=model.name=a b=c",
        "--",
        "a dir/the model=1.onnx",
    ]


def test_every_other_flag(spy):
    flags = (
        "--dataset_location=d",
        "--label_path=l.txt",
        "--quant_format=QDQ",
        "--budget=20m",
        "--fresh",
        "--dry_run",
    )
    expected = ["--dataset-location=d", "--label-path=l.txt", "--quant-format=QDQ", "--budget=20m"]
    called = told(run(TUNE, *PLAIN, *flags, python=spy))
    assert called[3:-2] == [*expected, "--fresh", "--dry-run"]


def test_a_model_whose_name_begins_with_a_dash(spy):
    called = told(run(TUNE, "--input_model=-m.onnx", *PLAIN[1:], python=spy))
    assert called[-2:] == ["--", "-m.onnx"]


@pytest.mark.parametrize("blank", [" ", "", "\t", "  "])
def test_a_lone_blank_is_tolerated(spy, blank):
    assert told(run(TUNE, PLAIN[0], blank, *PLAIN[1:], blank, python=spy)) == CALLED


def test_the_model_zoos_command_pasted_with_blanks_after_its_backslashes(spy, tmp_path):
    pasted = tmp_path / "pasted.sh"
    pasted.write_text(
        f"bash '{TUNE}' --input_model=m.onnx \\  # model path as *.onnx\n"
        "                   --config=c.yaml \\\n"
        "                   --output_model=o.onnx\n"
    )
    # Bash ends the command at the comment; the lone blank before it is not to blame.
    first = run("/bin/bash", pasted, python=spy).stderr
    assert first.startswith("run_tuning.sh: missing: --config --output_model\nusage: ")
    pasted.write_text(
        f"bash '{TUNE}' --input_model=m.onnx \\  --config=c.yaml \\\n"
        "                   \\  --output_model=o.onnx \\ \n"
    )
    assert told(run("/bin/bash", pasted, python=spy)) == CALLED


@pytest.mark.parametrize("script", [TUNE, BENCHMARK])
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "missing"),
        (("--help",), ""),
        (("--imput_model=m",), "unknown argument: --imput_model=m"),
        (("m.onnx",), "unknown argument: m.onnx"),
        (("--input_model=m.onnx",), "missing"),
        (("--input_model",), "--input_model needs a value"),
        (("--input_model=",), "--input_model needs a value"),
        (("--input_model", "--config=c.yaml"), "--input_model needs a value"),
        (("--input_model ", "m"), "unknown argument"),
        (("--input_model --config", "m"), "unknown argument"),
    ],
)
def test_wrong_flags_show_the_usage(spy, script, arguments, says):
    usage(run(script, *arguments, python=spy), says)


def test_a_switch_takes_no_value(spy):
    usage(run(TUNE, *PLAIN, "--fresh=yes", python=spy))


def test_without_config_a_dataset_goes_with_the_published_recipe(spy):
    called = told(run(TUNE, PLAIN[0], PLAIN[2], "--dataset_location=d", python=spy))
    recipe = Path(called[1].removeprefix("--config="))
    assert recipe.resolve() == ROOT / "configs" / "resnet50_v1_5.yaml"


# ---------------------------------------------------------------------- flags of benchmark


@pytest.mark.parametrize(
    ("mode", "verb"),
    [
        ((), "benchmark"),
        (("--mode=performance",), "benchmark"),
        (("--mode", "accuracy"), "evaluate"),
    ],
)
def test_modes_of_the_benchmark(spy, mode, verb):
    called = told(run(BENCHMARK, *PLAIN[:2], *mode, python=spy))
    assert called == [verb, "--config=c.yaml", "--", "m.onnx"]


def test_benchmark_flags_of_2x(spy):
    flags = ("--dataset_location", "d", "--label_path=l.txt")
    called = told(run(BENCHMARK, *PLAIN[:2], *flags, "--mode=accuracy", python=spy))
    assert called[2:-2] == ["--dataset-location=d", "--label-path=l.txt"]


def test_another_mode_shows_the_usage(spy):
    usage(run(BENCHMARK, *PLAIN[:2], "--mode=speed", python=spy), "not speed")


# ---------------------------------------------------------------------- the choice of Python


def test_python_from_the_environment_comes_first(spy, bare):
    assert told(run(TUNE, *PLAIN, python=spy, path=bare.parent)) == CALLED


def test_python_from_the_environment_without_quantize_is_no_choice(spy, bare):
    answer = run(TUNE, *PLAIN, python=bare, path=spy.parent)
    assert answer.returncode == 2
    assert f"PYTHON={bare} has no quantize; install it there" in answer.stderr


def test_python_from_the_environment_that_does_not_exist(spy):
    answer = run(TUNE, *PLAIN, python="/no/such/python", path=spy.parent)
    assert answer.returncode == 2
    assert "PYTHON=/no/such/python is no command" in answer.stderr


def test_python_on_the_path_comes_second(spy):
    assert told(run(TUNE, *PLAIN, path=spy.parent)) == CALLED


@pytest.fixture
def checkout(tmp_path):
    """The scripts in a checkout without an environment of its own."""
    place = tmp_path / "a check out"
    shutil.copytree(SCRIPTS, place / "scripts")
    return place


def test_the_environment_of_the_checkout_comes_third(checkout, spy, bare):
    (checkout / ".venv" / "bin").mkdir(parents=True)
    spy.rename(checkout / ".venv" / "bin" / "python")
    assert told(run(checkout / "scripts/run_tuning.sh", *PLAIN, path=bare.parent)) == CALLED


def test_without_any_python_it_says_how_to_install(checkout, bare):
    answer = run(checkout / "scripts/run_tuning.sh", *PLAIN, path=bare.parent)
    assert answer.returncode == 2
    assert "no Python with quantize found; install it: make install" in answer.stderr
    assert list(checkout.rglob(".venv")) == []


def test_files_in_the_current_directory_do_not_hide_packages(tmp_path):
    """Such as a checkout's own folder, where it is called quantize."""
    (tmp_path / "quantize").mkdir()
    (tmp_path / "quantize" / "__init__.py").write_text("raise SystemExit(7)")
    (tmp_path / "numpy.py").write_text("raise SystemExit(7)")
    answer = run(TUNE, *PLAIN, python=sys.executable, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert answer.returncode == 2
    assert "configuration c.yaml does not exist" in answer.stderr


@pytest.mark.parametrize("code", [0, 1, 3, 4, 130])
def test_exit_codes_pass_through(spy, code):
    assert run(TUNE, *PLAIN, python=spy, CODE=str(code)).returncode == code
    assert run(BENCHMARK, *PLAIN[:2], python=spy, CODE=str(code)).returncode == code


# -------------------------------------------------------------------------------- for real


def test_the_flags_of_2x_give_the_bytes_of_the_same_yaml(job):
    """Images and labels by flag; the labels are `../val.txt` where they are not given."""
    images = job.folder / "data set" / "images"
    write_imagenet_raw(images, tiny_dataset(CLASSES, 15, SIZE, seed=3))
    labels = (images / "val.txt").rename(images.parent / "val.txt")
    flags = (f"--input_model={job.model}", f"--config={job.config}")
    real = {"python": sys.executable, "PYTHONPATH": str(ROOT)}

    by_flag = run(
        TUNE,
        *flags,
        f"--output_model={job.folder / 'by flag.onnx'}",
        f"--dataset_location={images}",
        "--quant_format=QOperator",
        **real,
    )
    assert by_flag.returncode == 0, by_flag.stderr

    content = yaml.safe_load(job.config.read_text())
    content["model"]["framework"] = "onnxrt_qlinearops"
    dataset = {"ImagenetRaw": {"data_path": str(images), "image_list": str(labels)}}
    content["quantization"]["calibration"]["dataloader"]["dataset"] = dataset
    content["evaluation"]["accuracy"]["dataloader"]["dataset"] = dataset
    job.config.write_text(yaml.safe_dump(content, sort_keys=False))
    result = job.tune()
    assert result.output.read_bytes() == (job.folder / "by flag.onnx").read_bytes()


def test_the_benchmark_measures(done):
    job, _ = done
    flags = (f"--input_model={job.output}", f"--config={job.config}")
    real = {"python": sys.executable, "PYTHONPATH": str(ROOT)}
    speed = run(BENCHMARK, *flags, **real)
    assert speed.returncode == 0
    assert speed.stdout.startswith("Latency: ")
    accuracy = run(BENCHMARK, *flags, "--mode=accuracy", **real)
    assert accuracy.returncode == 0
    assert accuracy.stdout.startswith("images 60\ntop-1  ")
