import gzip
import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time

import pytest

import https_server as web
from quantize.zoo import table
from tars import tar_bytes

CONTENT = b"model" * 100
ENTRY = table.Entry("resnet-tiny", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(table, "TABLE", (*table.TABLE, ENTRY))


def test_the_list(cli):
    answer = cli("fetch", "--list")
    assert answer.code == 0
    assert len(answer.out.splitlines()) == 19
    assert "resnet50-v1-12-int8      25.8 MB  c234f309" in answer.out
    models = json.loads(cli("fetch", "--list", "--json").out)["models"]
    assert [model["bytes"] for model in models if model["name"] == "resnet50-v1-12"] == [102576593]


def test_a_model_from_a_folder(cli, tiny, tmp_path):
    (tmp_path / "resnet-tiny.onnx").write_bytes(CONTENT)
    options = ("--source", str(tmp_path), "--cache", str(tmp_path / "cache"))
    answer = cli("fetch", "resnet-tiny", *options, "-o", str(tmp_path / "out.onnx"), "--quiet")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines()[0] == f"files      {tmp_path}/out.onnx"
    (tmp_path / "resnet-tiny.onnx").unlink()
    answer = cli("fetch", "resnet-tiny", *options, "--json")
    path = tmp_path / "cache" / "zoo" / "resnet-tiny.onnx"
    assert json.loads(answer.out) == {
        "name": "resnet-tiny",
        "path": str(path),
        "bytes": 500,
        "sha256": ENTRY.sha256,
    }
    assert path.read_bytes() == (tmp_path / "out.onnx").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "name a model, or ask for --list"),
        (("resnet-tiny", "--list"), "name a model, or ask for --list"),
        (("resnet51-v1-7",), "no model is called 'resnet51-v1-7'; did you mean resnet50-v1-7?"),
        (("resnet-tiny", "--source", "http://localhost/"), "http:, which is not https"),
        (("resnet-tiny", "--source", "nowhere"), "nowhere does not exist"),
        (("resnet-tiny", "--source", ".", "-o", "no/out.onnx"), "No such file or directory"),
    ],
)
def test_fetch_says_in_one_line_what_is_wrong(cli, tiny, tmp_path, monkeypatch, arguments, reason):
    monkeypatch.chdir(tmp_path)
    answer = cli("fetch", *arguments, "--quiet", "--cache", "cache")
    assert answer.code == 2
    assert reason in " ".join(answer.err.replace("│", "").split())
    assert answer.out == ""


def test_a_fetch_that_is_terminated_is_continued(site, tmp_path):
    path = tmp_path / "cache" / "zoo" / "resnet-preproc-v1-18.onnx.part"
    site.behave["/m.onnx"] = web.stalling(bytes(1129), 500)
    command = [sys.executable, "-m", "quantize", "fetch", "resnet-preproc-v1-18"]
    command += ["--source", site.url("/m.onnx"), "--cache", str(tmp_path / "cache")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 20
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=10)[1]
    assert process.returncode == 143
    assert error.splitlines()[-1] == "quantize: terminated; the same command continues"
    assert "Traceback" not in error
    assert [p.name for p in path.parent.glob("*.onnx")] == []
    site.behave["/m.onnx"] = web.whole(bytes(1129))
    again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 2
    assert "sends a file with another sha256" in again.stderr
    assert len(again.stderr.splitlines()[-1:]) == 1
    assert not path.exists()


@pytest.fixture
def imagenet(tmp_path):
    (tmp_path / "val.tar").write_bytes(tar_bytes({"a.JPEG": b"1", "b.JPEG": b"2"}))
    wnids = ["n01440764", "n01443537"]
    value = [wnids, [("a.JPEG", wnids[1]), ("b.JPEG", wnids[0])]]
    (tmp_path / "map.pklz").write_bytes(gzip.compress(pickle.dumps(value, 0)))
    files = (str(tmp_path / "val.tar"), "--labels", str(tmp_path / "map.pklz"))
    return ("prepare-imagenet", *files, "-o", str(tmp_path / "imagenet"))


def test_imagenet_is_prepared(cli, imagenet, tmp_path):
    answer = cli(*imagenet, "--quiet")
    assert (answer.code, answer.err) == (0, "")
    assert "images     2 of 2 classes" in answer.out
    assert (tmp_path / "imagenet" / "val.txt").read_text() == (
        "n01443537/a.JPEG 1\nn01440764/b.JPEG 0\n"
    )
    seen = json.loads(cli(*imagenet, "--json").out)
    assert (seen["val"], seen["written"], seen["kept"]) == (2, 0, 2)


def test_prepare_imagenet_says_in_one_line_what_is_wrong(cli, imagenet, tmp_path):
    answer = cli(*imagenet, "--quiet", "--checksum")
    assert answer.code == 2
    assert "not the published 5f3f73da" in answer.err
    (tmp_path / "map.pklz").write_bytes(pickle.dumps([[], os.mkdir]))
    answer = cli(*imagenet, "--quiet")
    assert answer.code == 2
    assert "carries code or objects" in answer.err
    assert len(answer.err.splitlines()) == 1
    assert not (tmp_path / "imagenet").exists()
