"""Who takes part, and how the maker of a file is run."""

from dataclasses import replace

import pytest

from benchmarks import peers
from benchmarks.cases import CASES, MIXED, CaseError, Ready, mixed, ready
from benchmarks.environments import PROJECT, Environment, InstallError
from benchmarks.peers import OURS, PEERS, choose, environment_of, make, make_ours
from benchmarks.process_tree import Ended

WRITES = """
import json, sys
job = json.loads(open(sys.argv[1]).read())
print("made for", job["input"], job["format"])
open(job["output"], "w").write("int8")
"""


@pytest.fixture
def maker(tmp_path, monkeypatch):
    """A peer of this environment, whose script is what the test says."""
    monkeypatch.setattr(peers, "CHILDREN", tmp_path)

    def write(text):
        (tmp_path / "by_test.py").write_text(text)
        return replace(OURS, key="test", maker="by_test", format="QDQ")

    return write


@pytest.fixture
def case(tmp_path):
    return Ready(CASES[0], tmp_path, *[tmp_path / "x"] * 6, "data")


def test_keys_and_environments_are_told_apart():
    keys = [peer.key for peer in PEERS]
    assert len(set(keys)) == len(keys)
    assert {"ours", "ours-again", "float", "onnxruntime", "inc-qdq", "nncf-openvino"} < set(keys)
    for peer in PEERS:
        assert not peer.maker or (peers.CHILDREN / f"{peer.maker}.py").is_file()
        assert environment_of(peer, quick=False) == peer.environment


def test_the_short_form_installs_nothing_unless_it_is_asked_to():
    short = choose("", quick=True)
    assert all(environment_of(peer, quick=True) == PROJECT for peer in short)
    assert {"ours", "float", "onnxruntime", "inc-qdq"} <= {peer.key for peer in short}
    asked = {peer.key for peer in choose("nncf-onnx", quick=True)}
    assert asked == {"ours", "ours-again", "float", "nncf-onnx"}
    assert choose("", quick=False) == choose("all", quick=True) == PEERS


def test_an_unknown_peer_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="'nobody' is none of: onnxruntime, inc-qdq"):
        choose("onnxruntime,nobody", quick=False)


def test_a_maker_gets_its_job_and_its_file_is_found(case, maker):
    made = make(maker(WRITES), case, case.folder, quick=True)
    assert made.path.read_text() == "int8"
    assert made.seconds > 0
    assert (case.folder / "test" / "log.txt").read_text() == "made for data QDQ\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("raise ValueError('no such\\nformat')", "failed: format"),
        ("import os; os.abort()", "failed: it said nothing"),
        ("pass", "failed: it said nothing"),
        ("print('gave up')", "failed: gave up"),
    ],
)
def test_a_maker_that_fails_is_a_note_and_no_older_file_is_taken(case, maker, text, why):
    make(maker(WRITES), case, case.folder, quick=True)
    made = make(maker(text), case, case.folder, quick=True)
    assert (made.path, made.note) == (None, why)


def test_a_maker_never_finds_what_an_earlier_run_left(case, maker):
    """One peer keeps weights in a file beside its own and refuses to write over it."""
    beside = f"{WRITES}open(job['output'] + '_data', 'x')"
    for _ in range(2):
        assert make(maker(beside), case, case.folder, quick=True).note == ""


def test_a_maker_ends(case, maker, monkeypatch):
    monkeypatch.setattr(peers, "MAKE_SECONDS", 0.5)
    made = make(maker("import time; time.sleep(60)"), case, case.folder, quick=True)
    assert (made.path, made.note) == (None, "failed: not within 0.5 s")


def test_an_environment_that_cannot_be_made_is_a_note(case, monkeypatch, maker):
    def failing(environment, root):
        raise InstallError("not installed: why")

    monkeypatch.setattr(peers, "interpreter", failing)
    peer = replace(maker(WRITES), environment=Environment("x", ()), in_project=False)
    assert make(peer, case, case.folder, quick=False).note == "not installed: why"


@pytest.mark.parametrize(
    ("code", "best", "file", "note"),
    [
        (0, False, "ours.onnx", ""),
        (3, True, "ours.onnx.run/best.onnx", "exit 3: the best candidate, not released"),
        (4, True, "ours.onnx.run/best.onnx", "exit 4: the best candidate, not released"),
        (3, False, None, "failed: why"),
        (2, True, None, "failed: why"),
        (None, True, None, "failed: not within 1800 s"),
    ],
)
def test_our_file_is_the_command_s(case, monkeypatch, code, best, file, note):
    def command(words, folder, seconds):
        assert words[1:4] == ["-m", "quantize", "tune"]
        return Ended(code, "", "INFO: x\nwhy\n", 1.0, None)

    monkeypatch.setattr(peers, "run", command)
    if best:
        (case.folder / "ours.onnx.run").mkdir()
        (case.folder / "ours.onnx.run" / "best.onnx").touch()
    made = make_ours(case)
    assert (made.path, made.note) == (file and case.folder / file, note)


def test_a_case_without_its_model_says_so(tmp_path):
    case = next(case for case in CASES if case.key == "resnet20")
    with pytest.raises(CaseError, match=r"nowhere/models/resnet20-cifar10\.onnx is not here"):
        ready(case, tmp_path / "nowhere", tmp_path)


def test_the_digits_need_nothing_but_the_package(tmp_path):
    found = ready(CASES[0], tmp_path / "nowhere", tmp_path)
    assert found.input == "image"
    assert found.upgraded == found.model
    assert all(path.is_file() for path in (found.calibration, found.holdout, found.labels))
    listed = (found.folder / MIXED).read_text().splitlines()
    assert [line.split()[1] for line in listed[:20]] == list("0123456789") * 2
    assert len(listed) == len(list((found.folder / "calibration").rglob("*.png")))


def test_a_mixed_list_takes_a_class_after_the_other_and_loses_nothing(tmp_path):
    for name, count in (("b", 3), ("a", 1)):
        (tmp_path / name).mkdir()
        for number in range(count):
            (tmp_path / name / f"{number}.png").touch()
    assert mixed(tmp_path) == "a/0.png 0\nb/0.png 1\nb/1.png 1\nb/2.png 1\n"


def test_every_case_has_a_key_of_its_own():
    assert len({case.key for case in CASES}) == len(CASES)
    assert sum(case.quick for case in CASES) >= 2
