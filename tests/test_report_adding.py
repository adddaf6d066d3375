"""`verify --add-to RUN`: what other processors say of a run's file, in its report."""

import json
import shutil
from dataclasses import replace

import pytest

from conftest import tree
from quantize import portability
from quantize.plan import Cpu
from quantize.report import adding
from quantize.runtime import cpu


@pytest.fixture
def run(done, tmp_path):
    """A finished run's folder that may be written; its inputs stay where they are."""
    return shutil.copytree(done[0].run, tmp_path / "run")


@pytest.fixture
def verify(done, run, cli):
    job, _ = done

    def call(*more, float_model=job.model, int8_model=run / "best.onnx"):
        files = (float_model, int8_model, "--config", job.config, "--quiet")
        return cli("verify", *files, "--add-to", run, *more)

    return call


@pytest.fixture
def machine(monkeypatch):
    """Another machine than the one that the run was on."""
    there = Cpu("Old Xeon", "x86-64 AVX2", True, 8)
    monkeypatch.setattr(adding, "cpu", lambda: there)
    verify_files = portability.verify_files

    def verified(*arguments, **options):
        seen = verify_files(*arguments, **options)
        return replace(seen, verdict=replace(seen.verdict, cpu=there))

    monkeypatch.setattr(portability, "verify_files", verified)
    return there


def rows(run):
    return json.loads((run / "report.json").read_text())["measured"]["cpus"]


def refused(answer, run, before, *words):
    assert answer.code == 2
    assert answer.err.strip().count("\n") == 0
    assert all(word in answer.err for word in words), answer.err
    assert tree(run) == before


def test_an_emulated_processor_is_added_and_replaced(run, verify, stand, cli):
    stand(wrong=0.5)
    assert verify("--cpu", "haswell,epyc").code == 3
    assert [one["outcome"] for one in rows(run)] == ["unmet", "unmet"]
    assert (run / "summary.txt").read_text().splitlines()[-1].endswith("HASWELL (emulated)")
    assert "Goal not met" in (run / "report.html").read_text()
    stand(wrong=0.0)
    assert verify("--cpu", "haswell").code == 0
    assert [(one["cpu"]["name"], one["outcome"]) for one in rows(run)] == [
        ("EPYC (emulated)", "unmet"),
        ("HASWELL (emulated)", "met"),
    ]
    told = cli("explain", run).out
    assert "seen on 60 holdout images, EPYC (emulated)" in " ".join(told.split())
    assert "HASWELL (emulated), 60 images: met" in " ".join(told.split())


def test_another_machine_adds_itself(run, verify, machine, cli):
    assert verify().code == 0
    (one,) = rows(run)
    assert (one["cpu"]["name"], one["emulated"], one["against_here"]) == ("Old Xeon", False, None)
    assert "x86-64 AVX2 (Old Xeon), 60 images: met" in " ".join(cli("explain", run).out.split())


def test_the_rest_of_the_report_stays(run, verify, stand):
    before = tree(run)
    verify("--cpu", "haswell")
    after = tree(run)
    assert {name for name in after if after[name] != before.get(name)} == {
        "report.html",
        "report.json",
        "summary.txt",
    }
    one, two = (json.loads(files["report.json"]) for files in (before, after))
    two["measured"]["cpus"] = []
    assert one == two


def test_the_processor_of_the_run_has_nothing_to_add(run, verify):
    assert json.loads((run / "report.json").read_text())["measured"]["cpu"]["isa"] == cpu().isa
    refused(verify(), run, tree(run), "has this processor's verdict already", "--cpu")


def test_other_files_goals_and_images_are_refused(done, run, verify, stand):
    before, job = tree(run), done[0]
    to = ("--cpu", "haswell")
    refused(verify(*to, int8_model=job.model), run, before, "did not verify")
    refused(verify(*to, float_model=run / "none.onnx"), run, before, "did not verify")
    refused(verify(*to, "--set", "tuning.speed_floor=1"), run, before, "was asked for another goal")
    fewer = ("--set", "evaluation.accuracy.iteration=4")
    refused(verify(*to, *fewer), run, before, "was verified on other images")


def test_what_is_no_finished_run_is_refused(done, cli, tmp_path):
    job, _ = done
    files = ("verify", job.model, job.output, "--config", job.config, "--add-to")
    for place in (tmp_path, tmp_path / "none", job.run / "report.json"):
        answer = cli(*files, place)
        assert answer.code == 2
        assert answer.err.strip().count("\n") == 0
    assert list(tmp_path.iterdir()) == []
