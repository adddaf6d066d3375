"""The verdict elsewhere, with a stand-in for the emulator, and once with the real one."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from quantize import portability as room
from quantize.config.schema import Evaluation
from quantize.deadline import Deadline
from quantize.errors import BudgetError
from quantize.job import open_job
from quantize.portability import elsewhere, verify_on
from quantize.price import dry_run

QEMU = shutil.which("qemu-x86_64")


@pytest.fixture(scope="module")
def portable(template, tmp_path_factory):
    """A copy of the job, tuned to be portable."""
    folder = shutil.copytree(template.folder, tmp_path_factory.mktemp("portable") / "job")
    files = type(template)(folder)
    result = files.tune("quantization.portable=true")
    assert result.verdict.outcome == "met"
    return files, result


def seen(done, *overrides, cpus=("haswell",), **options):
    job, _ = done
    return verify_on(job.model, job.output, job.settings(*overrides), cpus, **options)


def test_here_is_always_in_it_and_each_processor_once(done, stand):
    found = seen(done, cpus=("native", "haswell", "haswell", "epyc"))
    assert [one.judged.cpu.name for one in found.elsewhere] == [
        "HASWELL (emulated)",
        "EPYC (emulated)",
    ]
    assert found.here.latency is not None
    assert seen(done, cpus=("native",)).elsewhere == ()


def test_the_same_scores_are_told_as_such(done, stand):
    found = seen(done)
    (there,) = found.elsewhere
    assert (there.against_here.agreement, there.against_here.sqnr_db) == (1, np.inf)
    assert there.images == found.here.images
    assert there.judged.drop == found.here.drop
    assert there.judged.latency is None
    assert found.exit_code == found.here.exit_code == 0
    assert any("identical scores" in line for line in found.lines())


def test_what_is_lost_elsewhere_is_the_exit_code(done, stand):
    stand(wrong=0.5)
    found = seen(done)
    (there,) = found.elsewhere
    assert found.here.outcome == "met"
    assert there.judged.outcome == "unmet"
    assert there.against_here.agreement < 0.9
    assert found.exit_code == 3
    assert found.to_json()["exit_code"] == 3
    assert found.to_json()["cpus"][0]["outcome"] == "unmet"


def test_a_part_of_the_images_decides_only_what_is_sure(done, stand):
    """Without a confidence the point rule would decide on four images."""
    stand(pause=0.05)
    found = seen(done, budget=0.001)
    (there,) = found.elsewhere
    assert there.images == 4 < found.here.images
    assert there.judged.goal.confidence == room.SURE
    assert there.judged.outcome == "undecided"
    assert found.exit_code == 4


def test_what_the_weights_prove_needs_no_more_images(portable, stand):
    stand(pause=0.05)
    found = seen(portable, budget=0.001)
    (there,) = found.elsewhere
    assert there.proven
    assert (there.images, there.judged.outcome) == (4, "met")
    assert there.judged.images == found.here.images
    assert "nothing can overflow" in there.judged.reason
    stand(wrong=0.9)  # a proof that the scores contradict proves nothing
    (there,) = seen(portable).elsewhere
    assert (there.proven, there.judged.outcome) == (True, "unmet")


def test_which_images_is_the_same_every_time_and_of_all_classes(done, stand):
    found = [seen(done, budget=0.001).elsewhere[0].judged.drop for _ in range(2)]
    assert found[0] == found[1]


# ---------------------------------------------------------------------------- the command


def test_the_same_time_is_given_by_default_in_a_run():
    assert Evaluation().cpus_timeout == room.BUDGET_S


def test_the_command_with_a_processor(done, stand, cli):
    job, _ = done
    files = ("verify", job.model, job.output, "--config", job.config, "--quiet")
    answer = cli(*files, "--cpu", "haswell, native", "--budget", "1m")
    assert answer.code == 0
    assert "HASWELL (emulated)" in answer.out
    answer = cli(*files, "--cpu", "haswell", "--json")
    assert json.loads(answer.out)["cpus"][0]["emulated_images"] > 0


def test_a_budget_is_for_processors(done, cli):
    job, _ = done
    answer = cli("verify", job.model, job.output, "--config", job.config, "--budget", "1m")
    assert answer.code == 2
    assert "--cpu" in answer.err


def test_without_the_emulator_it_is_one_line_before_any_work(done, cli, monkeypatch, tmp_path):
    job, _ = done
    monkeypatch.setenv("PATH", str(tmp_path))
    answer = cli("verify", job.model, job.output, "--config", job.config, "--cpu", "haswell")
    assert answer.code == 2
    assert "apt-get install qemu-user" in answer.err
    assert len(answer.err.strip().splitlines()) == 1


# ------------------------------------------------------------------------------- in a run


@pytest.fixture
def again(done, tmp_path):
    """The job in a folder that may be written."""
    return type(done[0])(shutil.copytree(done[0].folder, tmp_path / "again"))


def test_a_run_judges_each_processor_that_is_listed_without_another_search(again, stand):
    assert again.tune().report["measured"]["cpus"] == []
    result = again.tune("evaluation.cpus=haswell")
    assert (result.outcome, result.exit_code) == ("met", 0)
    assert result.output.is_file()
    (there,) = result.report["measured"]["cpus"]
    assert (there["cpu"]["name"], there["outcome"]) == ("HASWELL (emulated)", "met")
    assert there["images"] == result.verdict.images
    assert result.report["measured"]["earlier_run"] == "finished"


def test_the_exit_code_of_a_run_is_that_of_the_worst(again, stand, cli):
    stand(wrong=0.5)
    answer = cli(*again.arguments("--set", "evaluation.cpus=haswell"))
    assert answer.code == 3
    assert answer.out.splitlines()[-1].startswith("GOAL NOT MET: ")
    assert answer.out.splitlines()[-1].endswith("HASWELL (emulated)")
    assert not again.output.exists()
    answer = cli("release", again.run, "--model", again.model, "-o", again.folder / "bundle")
    assert answer.code == 3
    assert "did not meet its goal on HASWELL (emulated)" in answer.err


def test_verify_judges_those_of_the_configuration(done, stand, cli):
    stand(wrong=0.5)
    job, _ = done
    files = ("verify", job.model, job.output, "--config", job.config, "--quiet")
    assert cli(*files, "--set", "evaluation.cpus=haswell").code == 3
    assert cli(*files, "--set", "evaluation.cpus=haswell", "--cpu", "native").code == 0


@pytest.mark.skipif(QEMU is None, reason="qemu-x86_64 is not installed")
def test_an_unknown_processor_is_one_line_before_the_search(job, cli):
    answer = cli(*job.arguments("--set", "evaluation.cpus=hasswell"))
    assert answer.code == 2
    assert answer.err.strip().count("\n") == 0
    assert "evaluation.cpus: qemu-x86_64 knows no processor 'hasswell'; write Haswell" in answer.err
    assert not job.run.exists()


def test_a_run_without_the_emulator_is_one_line_before_the_search(job, cli, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for more in ((), ("--dry-run",)):
        answer = cli(*job.arguments("--set", "evaluation.cpus=haswell", *more))
        assert answer.code == 2
        assert answer.err.strip().count("\n") == 0
        assert "apt-get install qemu-user" in answer.err
    assert not job.run.exists()


def test_time_for_other_processors_is_kept_of_the_whole_time(done, stand):
    job, _ = done
    config = job.settings("evaluation.cpus=haswell", "evaluation.cpus_timeout=100")
    there = dry_run(job.model, config, job.folder / "other.onnx")
    here = dry_run(job.model, job.settings(), job.folder / "other.onnx")
    assert 90 < there.verify_seconds - here.verify_seconds < 110


def test_the_end_of_the_time_ends_the_emulation(again, stand):
    here = again.tune().verdict
    holdout = open_job(again.model, again.settings(), None).holdout
    images = replace(holdout, deadline=Deadline.after(0))
    with pytest.raises(BudgetError):
        elsewhere(again.model, again.output, images, here, ("X",), 10)


@pytest.mark.skipif(QEMU is None, reason="qemu-x86_64 is not installed")
def test_a_portable_file_is_the_same_on_a_haswell(portable):
    (there,) = seen(portable, budget=2).elsewhere
    assert there.judged.cpu.saturates
    assert there.against_here.sqnr_db == np.inf
