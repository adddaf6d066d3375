"""The verdict elsewhere, with a stand-in for the emulator, and once with the real one."""

import json
import shutil
import time

import numpy as np
import pytest

from quantize import portability as room
from quantize.portability import verify_on
from quantize.runtime import Session

QEMU = shutil.which("qemu-x86_64")


class Stand:
    """In place of an emulator: the int8 file's own scores, turned round for some images."""

    wrong = 0.0
    pause = 0.0
    saturates = True

    def __init__(self, model, name):
        self.session = Session(model)
        self.random = np.random.default_rng(0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def predict(self, images):
        time.sleep(self.pause)
        scores = self.session.predict(images)
        hit = self.random.uniform(size=len(scores)) < self.wrong
        scores[hit] *= -1
        return scores


@pytest.fixture
def stand(monkeypatch):
    monkeypatch.setattr(room, "Emulator", Stand)
    monkeypatch.setattr(room, "processor", str.upper)

    def change(**values):
        for name, value in values.items():
            monkeypatch.setattr(Stand, name, value)

    return change


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
    assert [one.verdict.cpu.name for one in found.elsewhere] == [
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
    assert there.verdict.drop == found.here.drop
    assert there.verdict.latency is None
    assert found.exit_code == found.here.exit_code == 0
    assert any("identical scores" in line for line in found.lines())


def test_what_is_lost_elsewhere_is_the_exit_code(done, stand):
    stand(wrong=0.5)
    found = seen(done)
    (there,) = found.elsewhere
    assert found.here.outcome == "met"
    assert there.verdict.outcome == "unmet"
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
    assert there.verdict.goal.confidence == room.SURE
    assert there.verdict.outcome == "undecided"
    assert found.exit_code == 4


def test_what_the_weights_prove_needs_no_more_images(portable, stand):
    stand(pause=0.05)
    found = seen(portable, budget=0.001)
    (there,) = found.elsewhere
    assert there.proven
    assert (there.images, there.verdict.outcome) == (4, "met")
    assert there.verdict.images == found.here.images
    assert "nothing can overflow" in there.verdict.reason
    stand(wrong=0.9)  # a proof that the scores contradict proves nothing
    (there,) = seen(portable).elsewhere
    assert (there.proven, there.verdict.outcome) == (True, "unmet")


def test_which_images_is_the_same_every_time_and_of_all_classes(done, stand):
    found = [seen(done, budget=0.001).elsewhere[0].verdict.drop for _ in range(2)]
    assert found[0] == found[1]


# ---------------------------------------------------------------------------- the command


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


def test_a_bundle_takes_no_processor(released, cli):
    answer = cli("verify", released.folder, "--images", released.folder, "--cpu", "haswell")
    assert answer.code == 2


def test_without_the_emulator_it_is_one_line_before_any_work(done, cli, monkeypatch, tmp_path):
    job, _ = done
    monkeypatch.setenv("PATH", str(tmp_path))
    answer = cli("verify", job.model, job.output, "--config", job.config, "--cpu", "haswell")
    assert answer.code == 2
    assert "apt-get install qemu-user" in answer.err
    assert len(answer.err.strip().splitlines()) == 1


@pytest.mark.skipif(QEMU is None, reason="qemu-x86_64 is not installed")
def test_a_portable_file_is_the_same_on_a_haswell(portable):
    (there,) = seen(portable, budget=2).elsewhere
    assert there.verdict.cpu.saturates
    assert there.against_here.sqnr_db == np.inf
