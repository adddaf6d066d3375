"""`quantize track`: a run in a real MLflow store, recorded once, or refused in one line."""

import contextlib
import http.server
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import quantize
from quantize.bundle.sums import SUMS, write_sums
from quantize.errors import BundleError, Interrupted, QuantizeError, RunFolderError, TrackingError
from quantize.report.reading import read_report
from quantize.tracking import store as door
from quantize.tracking.record import record_of
from quantize.tracking.store import Store, without_password

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # it would ask the network on import
mlflow = pytest.importorskip(
    "mlflow", reason="mlflow is not installed: pip install 'quantize[mlflow]'"
)


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A store that only has its tables: making them takes seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    with Store(f"sqlite:///{path}") as store:
        store._experiment("other")
    return path


@pytest.fixture
def uri(empty, tmp_path):
    return f"sqlite:///{shutil.copy(empty, tmp_path / 'mlflow.db')}"


@pytest.fixture
def run(done, tmp_path):
    """A copy of the finished run that a test may edit."""
    return Path(shutil.copytree(done[1].run, tmp_path / "int8.onnx.run"))


def client(uri):
    return mlflow.MlflowClient(tracking_uri=uri)


def rows(uri, table):
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        return list(database.execute(f"select * from {table}"))


def edit_report(run, change):
    report = json.loads((run / "report.json").read_text())
    change(report)
    (run / "report.json").write_text(json.dumps(report))


# ------------------------------------------------------------------------- what is recorded


def test_parameters_metrics_and_tags_are_those_of_the_report(done, uri):
    made = quantize.track(done[1].run, uri=uri, experiment="tiny")
    seen, report = client(uri).get_run(made.run_id), done[1].report
    data = seen.data
    assert seen.info.status == "FINISHED"
    assert client(uri).get_experiment(seen.info.experiment_id).name == "tiny"
    assert data.params["goal.tolerance"] == "0.1"
    assert data.params["goal.confidence"] == "none"
    assert data.params["plan.engine"] == "onnxruntime"
    assert data.params["data.holdout_images"] == "60"
    assert data.params["version.quantize"] == quantize.__version__
    assert data.params["int8_model.sha256"] == report["int8_model"]["sha256"]
    assert data.metrics["accuracy.drop_points"] == report["accuracy"]["drop_points"]
    assert data.metrics["fidelity.agreement"] == report["fidelity"]["agreement"]
    assert data.metrics["latency.ratio"] == report["measured"]["latency"]["ratio"]
    assert data.tags["quantize.outcome"] == "met"
    assert data.tags["quantize.exit_code"] == "0"
    assert data.tags["quantize.reason"] == report["verdict"]["reason"]
    assert data.tags["mlflow.note.content"].startswith("Goal met: ")
    assert (seen.info.end_time - seen.info.start_time) / 1000 == pytest.approx(
        report["measured"]["seconds"]
    )


def test_every_candidate_is_a_step(run, uri):
    """Two of them: as recorded, and one that failed."""

    def add(report):
        failed = {"fidelity": None, "probe": None, "top1": None, "drop_points": None}
        accepted = [trial["accepted"] for trial in report["search"]["trials"]].index(True)
        first = report["search"]["trials"][accepted]
        report["search"]["trials"] = [first, {**first, **failed, "accepted": False}]
        clock = report["measured"]["trials"][accepted]
        report["measured"]["trials"] = [clock, {**clock, "latency": None, "seconds": 7}]

    edit_report(run, add)
    made = quantize.track(run, uri=uri)
    report = json.loads((run / "report.json").read_text())
    trial, clock = report["search"]["trials"][0], report["measured"]["trials"][0]
    wanted = {
        "sqnr_db": trial["fidelity"]["sqnr_db"],
        "agreement": trial["fidelity"]["agreement"],
        "top1": trial["top1"],
        "drop_points": trial["drop_points"],
        "latency_ratio": clock["latency"]["ratio"],
    }
    for key, value in wanted.items():
        (point,) = client(uri).get_metric_history(made.run_id, f"trial.{key}")
        assert (point.value, point.step) == (value, 1), key
    history = client(uri).get_metric_history(made.run_id, "trial.accepted")
    assert [(point.value, point.step) for point in history] == [(1, 1), (0, 2)]
    history = client(uri).get_metric_history(made.run_id, "trial.seconds")
    assert [point.step for point in history] == [1, 2]
    assert history[1].value == 7


def test_the_drop_of_a_candidate_is_that_of_its_images(done):
    """Whole images, as float's top-1 that follows from it is."""
    trial = next(t for t in done[1].report["search"]["trials"] if t["accepted"])
    right = trial["images"] * (trial["top1"] + trial["drop_points"] / 100)
    assert 0 < right <= trial["images"]
    assert right == pytest.approx(round(right))


def test_the_files_are_artifacts_beside_the_database(done, uri, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    made = quantize.track(done[1].run, uri=uri)
    names = {one.path for one in client(uri).list_artifacts(made.run_id, "run")}
    assert names >= {"run/report.json", "run/report.html", "run/best.onnx", "run/layers.csv"}
    assert names.isdisjoint({"run/config.yaml", "run/journal.jsonl", "run/lock"})
    kept = tmp_path / "mlruns" / made.run_id / "artifacts" / "run" / "best.onnx"
    assert kept.read_bytes() == (done[1].run / "best.onnx").read_bytes()
    assert not list(Path.cwd().iterdir())
    content = b"".join(p.read_bytes() for p in kept.parent.iterdir())
    assert str(done[0].folder).encode() not in content


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_a_bundle_goes_along(done, released, uri, form):
    made = quantize.track(done[1].run, uri=uri, bundle=getattr(released, form))
    seen = client(uri)
    assert made.name == "float-int8"
    assert seen.get_run(made.run_id).data.tags["quantize.bundle_digest"] == released.digest
    names = {one.path for one in seen.list_artifacts(made.run_id, "bundle")}
    assert names >= {f"bundle/{SUMS}", "bundle/float-int8.onnx", "bundle/test_data_set_0"}
    run = {one.path for one in seen.list_artifacts(made.run_id, "run")}
    assert "run/report.json" in run
    assert "run/best.onnx" not in run


def test_an_unmet_run_is_recorded_as_such(run, uri, cli):
    edit_report(run, lambda r: r["verdict"].update(outcome="unmet", exit_code=3))
    answer = cli("track", run, "--uri", uri, "--json")
    assert answer.code == 0
    made = json.loads(answer.out)
    assert client(uri).get_run(made["run_id"]).data.tags["quantize.outcome"] == "unmet"


def test_the_same_run_is_recorded_once(run, uri, cli):
    first = cli("track", run, "--uri", uri)
    again = cli("track", run, "--uri", uri)
    assert (first.code, again.code) == (0, 0)
    assert "it was recorded before" in again.out
    assert first.out.split()[3] == again.out.split()[3]
    assert len(rows(uri, "runs")) == 1
    edit_report(run, lambda r: r["measured"].update(seconds=1))
    assert not quantize.track(run, uri=uri).known
    assert len(rows(uri, "runs")) == 2


def test_the_environment_names_the_store(done, uri, cli, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert cli("track", done[1].run).code == 0
    assert len(rows(uri, "runs")) == 1
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert cli("track", done[1].run).code == 2


def test_names_are_harmless_and_bounded(run):
    def spoil(report):
        report["float_model"]["file"] = "\x1b[2J" + "x" * 5000
        report["search"]["stopped"] = "a\nb\u202ec"

    edit_report(run, spoil)
    record = record_of(read_report(run), "n" * 900)
    assert len(record.name) == 500
    assert len(record.params["float_model.file"]) == 500
    assert "\x1b" not in record.params["float_model.file"]
    assert record.tags["quantize.stopped"] == "a b\N{REPLACEMENT CHARACTER}c"


# ------------------------------------------------------------------------- nobody else is told

SILENT = """
import os, socket, sys
asked = []
def refuse(self, address):
    asked.append(address)
    raise OSError("no network")
socket.socket.connect = refuse
socket.getaddrinfo = lambda *a, **k: asked.append(a) or []
before = dict(os.environ)
import quantize
quantize.track(sys.argv[1], uri=sys.argv[2])
import time
time.sleep(1)
assert dict(os.environ) == before, set(os.environ) ^ set(before)
print("asked", asked)
"""


def test_nothing_is_sent_anywhere_and_nothing_is_said(done, uri, tmp_path):
    """In a process that does not look like a test or a CI job, where telemetry would be on."""
    kept = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    kept["PYTHONPATH"] = str(Path(quantize.__file__).parent.parent)
    finished = subprocess.run(
        [sys.executable, "-c", SILENT, str(done[1].run), uri],
        cwd=tmp_path, env=kept, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "asked []\n"
    assert finished.stderr == ""


# ------------------------------------------------------------------------- refused, in one line


def refused(error, *arguments, **options):
    with pytest.raises(error) as caught:
        quantize.track(*arguments, **options)
    assert isinstance(caught.value, QuantizeError)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("", "is no address"),
        ("mlruns", "is no address"),
        ("ftp://x", "is no address"),
        ("sqlite://", "keeps nothing"),
        ("sqlite:///:memory:", "keeps nothing"),
        ("sqlite:///no/such/folder/x.db", "create the folder first"),
        ("http://\x1b[2J", "is no address"),
        ("nosuch+dialect://x", "is no address"),
        ("postgresql+nosuch://u:secret@localhost/x", "cannot be used"),
    ],
)
def test_addresses_that_are_none(done, address, says):
    message = refused(QuantizeError, done[1].run, uri=address)
    assert says in message
    assert "secret" not in message


def test_a_file_that_is_no_database_is_left_alone(done, tmp_path):
    path = tmp_path / "thesis.txt"
    path.write_text("mine, and longer than a header")
    assert "is no SQLite database" in refused(TrackingError, done[1].run, uri=f"sqlite:///{path}")
    assert path.read_text() == "mine, and longer than a header"


class Refusing(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"<html>go away\x1b[2J</html>" * 100
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_a_server_that_refuses_or_is_not_there(done, cli, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://me:secret@127.0.0.1:{server.server_port}"
    try:
        there = cli("track", done[1].run, "--uri", address)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    gone = cli("track", done[1].run, "--uri", address)
    for answer in (there, gone):
        assert answer.code == 2
        assert len(answer.err.splitlines()) == 1
        assert len(answer.err) < 600
        assert "secret" not in answer.err
        assert "\x1b" not in answer.err
    assert "403" in there.err


def test_runs_and_bundles_that_cannot_be_recorded(done, run, released, uri, tmp_path):
    assert "does not exist" in refused(RunFolderError, tmp_path / "none", uri=uri)
    refused(RunFolderError, done[1].run / "report.json", uri=uri)
    assert "there is no" in refused(BundleError, run, uri=uri, bundle=run)
    other = Path(shutil.copytree(released.folder, tmp_path / "other"))
    (other / "README.md").write_text("other")
    assert "was changed" in refused(BundleError, run, uri=uri, bundle=other)
    (other / SUMS).unlink()
    write_sums(other)
    edit_report(run, lambda r: r["int8_model"].update(sha256="0" * 64))
    assert "no release of this run" in refused(BundleError, run, uri=uri, bundle=other)
    edit_report(run, lambda r: r["measured"].update(finished="yesterday"))
    assert "measured.finished is not a time" in refused(RunFolderError, run, uri=uri)
    (run / "report.json").unlink()
    assert "is not finished" in refused(RunFolderError, run, uri=uri)
    assert rows(uri, "runs") == []


def test_a_deleted_experiment_is_named(done, uri):
    seen = client(uri)
    seen.delete_experiment(seen.create_experiment("gone"))
    assert "is deleted" in refused(TrackingError, done[1].run, uri=uri, experiment="gone")


@pytest.mark.parametrize(
    ("error", "status", "raised"),
    [
        (OSError(28, "No space left on device"), "FAILED", TrackingError),
        (Interrupted(143), "KILLED", Interrupted),
    ],
)
def test_what_breaks_off_is_marked_and_made_again(done, uri, monkeypatch, error, status, raised):
    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(mlflow.MlflowClient, "log_artifact", fail)
        with pytest.raises(raised):
            quantize.track(done[1].run, uri=uri)
    again = quantize.track(done[1].run, uri=uri)
    assert not again.known
    seen = client(uri).search_runs([client(uri).get_run(again.run_id).info.experiment_id])
    assert sorted(one.info.status for one in seen) == sorted(["FINISHED", status])


def test_without_mlflow_the_line_says_how_to_get_it(done, uri, cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    answer = cli("track", done[1].run, "--uri", uri)
    assert answer.code == 2
    assert "pip install 'quantize[mlflow]'" in answer.err


def test_settings_are_put_back(monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")
    before = dict(os.environ)
    with contextlib.suppress(ZeroDivisionError), door._settings():
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "7"
        raise ZeroDivisionError
    assert dict(os.environ) == before


def test_passwords_are_not_shown():
    assert without_password("http://a:b@c:1/d") == "http://***@c:1/d"
    assert without_password("sqlite:///x@y.db") == "sqlite:///x@y.db"
    assert door._scrubbed("no a%40b, no a@b", "http://u:a%40b@c") == "no ***, no ***"
