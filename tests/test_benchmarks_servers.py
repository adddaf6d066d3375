"""Runtimes in processes of their own, and rounds that interleave them."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import accuracy, latency
from benchmarks.cases import CASES, Ready
from benchmarks.latency import Rounds, Setting
from benchmarks.peers import AGAIN, FLOAT, OURS, PEERS, Made
from benchmarks.servers import Server, ServerError
from benchmarks.standing import Span, ratio
from models import labels_of, prepared, tiny_dataset

OPENVINO = next(peer for peer in PEERS if peer.runtime == "openvino")
RIVAL = next(peer for peer in PEERS if peer.rival)


@pytest.fixture(scope="module")
def case(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("case")
    files = [folder / name for name in ("float.onnx", "calibration.npy", "holdout.npy")]
    items = tiny_dataset(4, 5, 16, seed=5)
    onnx.save(tiny_model, files[0])
    for file in files[1:]:
        np.save(file, prepared(items))
    np.save(folder / "labels.npy", labels_of(items))
    return Ready(
        *(CASES[0], folder, files[0], files[0], folder / "job.yaml"),
        *(files[1], files[2], folder / "labels.npy", "data"),
    )


@pytest.fixture
def server(tmp_path):
    with Server(Path(sys.executable), "onnxruntime", tmp_path, seconds=30) as running:
        yield running


def fake(folder, body, seconds=30.0):
    """A server whose other end is this script."""
    script = folder / "fake.py"
    script.write_text(f"import sys, time, json, os\n{body}\n")
    return Server(Path(sys.executable), "onnxruntime", folder, seconds=seconds, script=script)


def test_all_files_have_a_row_and_those_that_ran_the_same_rounds(case, server):
    nothing = case.folder / "nothing.onnx"
    files = [
        Made(OURS, case.model),
        Made(AGAIN, case.model),
        Made(FLOAT, case.model),
        Made(RIVAL, nothing),
        Made(OPENVINO, case.model),
        Made(replace(RIVAL, key="unmade"), None, "failed: why"),
    ]
    servers = {"onnxruntime": server}
    rows = latency.measure(case, files, servers, Setting(3, 1), Rounds(7, 20.0))
    assert [row["peer"] for row in rows] == [made.peer.key for made in files]
    assert [len(row.get("rounds_s", ())) for row in rows] == [7, 7, 7, 0, 0, 0]
    assert rows[0]["ms"]["value"] > 0
    assert "ratio" not in rows[0]
    assert rows[1]["standing"] in ("ahead", "equal", "behind")
    told = [row["failed"] for row in rows[3:]]
    assert "doesn't exist" in told[0] or "No such file" in told[0] or "nothing.onnx" in told[0]
    assert told[1:] == ["failed: openvino is not installed", "failed: why"]
    assert len({row["id"] for row in rows}) == len(rows)


def test_rounds_end_with_the_time_but_not_before_there_is_an_interval(case, server):
    files, passed = [Made(OURS, case.model)], iter(range(0, 10_000, 100))
    rounds = Rounds(1000, 750.0)
    rows = latency.measure(
        case, files, {"onnxruntime": server}, Setting(1, 1), rounds, lambda: next(passed)
    )
    assert len(rows[0]["rounds_s"]) == latency.LEAST_ROUNDS + 1


@pytest.mark.parametrize(
    ("done", "seconds", "width", "over"),
    [
        (5, 99.0, 0.0, False),  # no interval yet
        (6, 4.0, 0.0, False),  # narrow, but too early
        (6, 5.1, 0.019, True),
        (6, 5.1, 0.021, False),
        (6, 30.1, 0.5, True),  # out of time
        (50, 0.1, 0.5, True),  # all rounds done
    ],
)
def test_rounds_end_when_all_intervals_are_narrow(done, seconds, width, over):
    wide = [Span(2.0, 2.0, 2.0), Span(1.0, 1.0 - width / 2, 1.0 + width / 2)]
    assert Rounds(50, 30.0, enough=5.0).over(done, seconds, lambda: wide) is over


def test_narrow_intervals_hold_the_truth_as_often_as_others():
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        ours, theirs = rng.lognormal(0, 0.015, (2, 100))
        done = next(
            done
            for done in range(1, 101)
            if latency.FULL.over(done, 0.4 * done, lambda: [ratio(ours[:done], theirs[:done])])  # noqa: B023
        )
        held += ratio(ours[:done], theirs[:done]).standing(1.0) == "equal"
    assert held / 300 >= 0.93


def test_scores_are_those_of_the_holdout_whatever_the_batch(case, server):
    rows = accuracy.measure(
        case, [Made(FLOAT, case.model), Made(OURS, case.model)], {"onnxruntime": server}, 1
    )
    assert [row["peer"] for row in rows] == ["ours"]
    assert (rows[0]["images"], rows[0]["agreement"]) == (20, 1.0)
    assert rows[0]["sqnr_db"] is None
    assert rows[0]["drop"]["value"] == 0
    assert not list(case.folder.glob("scores-*"))


def test_without_the_float_file_there_is_no_figure(case, server):
    files = [Made(FLOAT, case.folder / "nothing.onnx"), Made(OURS, case.model)]
    rows = accuracy.measure(case, files, {"onnxruntime": server}, 1)
    assert rows[0]["failed"].startswith("float32 failed: ")


def test_figures_tell_who_is_ahead():
    rng = np.random.default_rng(0)
    exact = rng.normal(size=(500, 10)).astype(np.float32)
    scores = {
        "float": exact,
        "ours": exact + rng.normal(size=exact.shape).astype(np.float32) * 0.05,
        "them": exact + rng.normal(size=exact.shape).astype(np.float32) * 0.5,
    }
    labels = exact.argmax(axis=1)
    seen = accuracy.figures(scores, "them", labels, trained=True)
    assert {name: span["standing"] for name, span in seen["against"].items()} == {
        "agreement": "ahead",
        "sqnr_db": "ahead",
        "top1": "ahead",
    }
    assert seen["drop"]["value"] == pytest.approx(100 * (1 - seen["agreement"]))
    assert seen["sqnr_db"] == pytest.approx(6, abs=0.5)
    assert "against" not in accuracy.figures(scores, "ours", labels, trained=True)
    assert "drop" not in accuracy.figures(scores, "them", labels, trained=False)


NOISY = """
class Core:
    def read_model(self, path):
        print("reading", path, flush=True)
        return self
    def reshape(self, shape):
        self.shape = shape
    def compile_model(self, model, device, settings):
        assert (device, settings["INFERENCE_NUM_THREADS"]) == ("CPU", 2)
        return self
    def create_infer_request(self):
        return self
    def infer(self, feeds, share_inputs):
        print("{}")
        assert list(feeds[0].shape) == self.shape
        self.data = feeds[0].sum(axis=(2, 3))
    def get_output_tensor(self, index):
        return self
"""


def test_a_runtime_that_prints_does_not_spoil_the_answers(case, tmp_path, monkeypatch):
    (tmp_path / "openvino.py").write_text(NOISY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = Made(OPENVINO, case.model)
    with Server(Path(sys.executable), "openvino", tmp_path, seconds=30) as server:
        servers = {"openvino": server}
        rows = latency.measure(case, [made], servers, Setting(32, 2), Rounds(6, 9.0))
        assert len(rows[0]["rounds_s"]) == 6
        found = accuracy._scores(case, made, servers, 2)
    np.testing.assert_allclose(found, np.load(case.holdout).sum(axis=(2, 3)), rtol=1e-6)


# ------------------------------------------------------------------- when it goes wrong


def test_what_the_other_end_cannot_do_is_said_and_it_lives_on(server):
    with pytest.raises(ServerError, match="KeyError"):
        server.ask("run", key="none", untimed=0, repeats=1)
    assert server.ask("drop") == {}


def test_an_answer_may_come_in_pieces(tmp_path):
    body = "for line in sys.stdin:\n    print(json.dumps({'x': 1})[:4], end='', flush=True)\n"
    body += "    time.sleep(0.05); print(json.dumps({'x': 1})[4:], flush=True)"
    with fake(tmp_path, body) as server:
        assert [server.ask("a"), server.ask("b")] == [{"x": 1}] * 2


def test_a_dead_process_is_one_line(tmp_path):
    with fake(tmp_path, "sys.stdin.readline(); os._exit(3)") as server:
        with pytest.raises(ServerError, match=r"^onnxruntime ended: exit 3$"):
            server.ask("load")
        with pytest.raises(ServerError, match=r"^onnxruntime ended before$"):
            server.ask("load")


def test_a_process_that_does_not_answer_is_ended(tmp_path):
    with fake(tmp_path, "time.sleep(60)", seconds=0.3) as server:
        with pytest.raises(ServerError, match=r"did not answer in 0.3 s"):
            server.ask("load")
        assert server._process.poll() is not None
