"""`verify BUNDLE --cpu`: a release on emulated processors, with and without the float model."""

import json
import shutil

import pytest

QEMU = shutil.which("qemu-x86_64")


@pytest.fixture
def verify(released, done, cli):
    job, _ = done

    def call(*more):
        return cli("verify", released.folder, "--images", job.evaluation, "--quiet", *more)

    return call


def test_without_the_float_model_the_accuracy_there_is_judged(verify, stand):
    answer = verify("--cpu", "haswell, epyc")
    assert answer.code == 0
    assert answer.out.count("identical scores") == 2
    assert answer.out.splitlines()[-1].startswith("ACCURACY MET: ")
    stand(wrong=0.5)
    answer = verify("--cpu", "haswell", "--json")
    assert answer.code == 3
    (there,) = json.loads(answer.out)["cpus"]
    assert there["alone"]["outcome"] == "unmet"
    assert there["cpu"]["name"] == "HASWELL (emulated)"


def test_with_the_float_model_the_drop_there_is_judged(verify, stand, done):
    job, _ = done
    both = ("--float", job.model)
    assert verify(*both, "--cpu", "haswell").code == 0
    stand(wrong=0.5)
    answer = verify(*both, "--cpu", "haswell")
    assert answer.code == 3
    assert answer.out.splitlines()[-1].startswith("GOAL NOT MET: ")
    assert verify(*both).code == 0


def test_a_part_of_the_images_is_not_the_release(verify, stand):
    """A few of the images decide only as other images would."""
    stand(pause=1.1)
    answer = verify("--cpu", "haswell", "--budget", "1s", "--json")
    (there,) = json.loads(answer.out)["cpus"]
    assert there["images"] == 4
    assert there["alone"]["outcome"] == "undecided"
    assert answer.code == 4


def test_an_unknown_processor_is_one_line(verify, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    answer = verify("--cpu", "haswell")
    assert answer.code == 2
    assert "apt-get install qemu-user" in answer.err
    assert answer.err.strip().count("\n") == 0


@pytest.mark.skipif(QEMU is None, reason="qemu-x86_64 is not installed")
def test_a_release_runs_on_a_haswell(verify):
    answer = verify("--cpu", "haswell", "--budget", "2s", "--json")
    (there,) = json.loads(answer.out)["cpus"]
    assert there["cpu"]["saturates"]
    assert there["images"] >= 4
