"""The peers' environments, without installing anything."""

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import environments
from benchmarks.environments import PROJECT, Environment, InstallError, interpreter, reason


@pytest.fixture
def asked(monkeypatch):
    """The commands that were run; they do nothing."""
    commands = []
    monkeypatch.setattr(environments, "_run", commands.append)
    return commands


def test_the_project_s_own_environment_is_never_touched(tmp_path, asked):
    assert str(interpreter(PROJECT, tmp_path)) == sys.executable
    assert (asked, list(tmp_path.iterdir())) == ([], [])


def test_an_environment_is_made_once_and_again_for_other_pins(tmp_path, monkeypatch):
    asked = []
    one = Environment("peer", ("a==1",))
    (tmp_path / "peer").mkdir()
    (tmp_path / "peer" / "left").write_text("by an install that was cut short")

    def install(command):
        asked.append(command)
        (tmp_path / "peer").mkdir(exist_ok=True)

    monkeypatch.setattr(environments, "_run", install)
    python = interpreter(one, tmp_path)
    assert python == tmp_path / "peer" / "bin" / "python"
    assert not (tmp_path / "peer" / "left").exists()
    assert [command[1:3] for command in asked] == [["-m", "venv"], ["-m", "pip"]]
    assert asked[1][-1] == "a==1"
    interpreter(one, tmp_path)
    assert len(asked) == 2
    interpreter(Environment("peer", ("a==2",)), tmp_path)
    assert len(asked) == 4


def program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_an_install_that_fails_is_one_line_and_tried_again(tmp_path, monkeypatch):
    says = program(tmp_path / "python", "echo one >&2; echo ERROR: two >&2; echo three >&2; exit 1")
    monkeypatch.setattr(environments.sys, "executable", says)
    for _ in range(2):
        with pytest.raises(InstallError, match=r"^not installed: ERROR: two$"):
            interpreter(Environment("peer", ("a==1",)), tmp_path)
    assert not (tmp_path / "peer" / "made.json").exists()


def test_an_install_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(environments.sys, "executable", program(tmp_path / "python", "sleep 20"))
    monkeypatch.setattr(environments, "INSTALL_SECONDS", 0.1)
    with pytest.raises(InstallError, match=r"^not installed within 0.1 s$"):
        interpreter(Environment("peer", ("a==1",)), tmp_path)


def test_a_program_that_cannot_start_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(environments.sys, "executable", str(tmp_path / "none"))
    with pytest.raises(InstallError, match=r"^not installed: .*No such file"):
        interpreter(Environment("peer", ("a==1",)), tmp_path)


def test_pip_s_error_says_more_than_its_last_line():
    assert reason("x\nERROR: No matching  distribution\nhint: try\n") == (
        "ERROR: No matching distribution"
    )
    assert reason("Traceback\n  File\nValueError: why\n\n") == "ValueError: why"
    assert reason(" \n") == "it said nothing"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Load model from /home/me/x y/a.onnx failed:", "Load model from x y/a.onnx failed:"),
        ("'/tmp/a/b.json' is missing", "'b.json' is missing"),
        ("see https://example.org/a/b/c", "see https://example.org/a/b/c"),
        ("1 / 2, a/b and ../shared/models", "1 / 2, a/b and ../shared/models"),
        ("--shared=/srv/data/all --quick", "--shared=all --quick"),
    ],
)
def test_a_reason_does_not_tell_where_files_lie(text, told):
    assert reason(text) == told


@given(st.text())
def test_a_reason_is_one_short_line(text):
    said = reason(text)
    assert 0 < len(said) <= 300
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "environment",
    [
        environments.INC,
        environments.ONNXRUNTIME,
        environments.NNCF,
        environments.ONNX_NEURAL_COMPRESSOR,
    ],
)
def test_every_pin_is_exact(environment):
    assert all(pin.count("==") == 1 for pin in environment.requirements)
    names = [pin.split("==")[0] for pin in environment.requirements]
    assert len(set(names)) == len(names)
    json.dumps(names)
