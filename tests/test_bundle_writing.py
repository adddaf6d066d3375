"""`quantize release`: what is written, where it is refused, and that its bytes repeat."""

import hashlib
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import quantize
from conftest import tree
from quantize.bundle.model import unstamped_sha256
from quantize.bundle.writing import release
from quantize.data.images import decode
from quantize.data.transforms import Pipeline
from quantize.errors import ModelError, OutputError, RunFolderError, UnmetError
from quantize.files import TEMPORARY
from quantize.runtime import cpu

NAME = "float-int8"


def read(folder, name):
    return json.loads((folder / name).read_text())


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def run(done, tmp_path):
    """A copy of the finished run that a test may edit."""
    return Path(shutil.copytree(done[1].run, tmp_path / "run"))


def edit_report(run, change):
    report = read(run, "report.json")
    change(report)
    (run / "report.json").write_text(json.dumps(report))


def unmet(report):
    report["verdict"]["outcome"] = "unmet"


# ---------------------------------------------------------------------------- what is written


def test_the_files_of_a_release(released):
    sets = [f"test_data_set_{i}/{end}_0.pb" for i in range(3) for end in ("input", "output")]
    files = {str(p.relative_to(released.folder)) for p in released.folder.rglob("*") if p.is_file()}
    assert files == {
        "ONNX_HUB_MANIFEST.json",
        "README.md",
        "SHA256SUMS",
        f"{NAME}-float.onnx",
        f"{NAME}-with-preprocessing.onnx",
        f"{NAME}.onnx",
        f"{NAME}.tar.gz",
        "manifest.json",
        "preprocess.json",
        "report.html",
        *sets,
    }
    assert released.archive == released.folder.parent / f"{NAME}-bundle.tar.gz"
    with tarfile.open(released.archive) as archive:
        assert {m.name for m in archive} == {f"{NAME}/{file}" for file in files}
    with tarfile.open(released.folder / f"{NAME}.tar.gz") as archive:
        assert sorted(m.name for m in archive) == [
            f"{NAME}/{NAME}.onnx",
            *(f"{NAME}/{file}" for file in sets),
        ]
    assert not list(released.folder.parent.glob(f"{TEMPORARY}*"))


def test_sha256sum_accepts_it(released):
    found = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=released.folder, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    assert found.stdout.count(": OK\n") == 15
    assert released.digest == sha(released.folder / "SHA256SUMS")


def test_the_model_is_the_verified_one_with_metadata_behind_it(done, released):
    best = (done[1].run / "best.onnx").read_bytes()
    content = (released.folder / f"{NAME}.onnx").read_bytes()
    manifest = read(released.folder, "manifest.json")
    assert content[: len(best)] == best
    assert manifest["model"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert manifest["model"]["verified"] == {
        "sha256": hashlib.sha256(best).hexdigest(),
        "bytes": len(best),
    }
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model)
    props = {prop.key: prop.value for prop in model.metadata_props}
    added = {key for key in props if key.startswith("quantize.")}
    assert added == {
        f"quantize.{key}" for key in ("float_sha256", "goal", "plan", "preprocess", "version")
    }
    assert json.loads(props["quantize.preprocess"]) == read(released.folder, "preprocess.json")
    assert json.loads(props["quantize.goal"])["tolerance"] == 0.1
    assert json.loads(props["quantize.plan"]) == read(done[1].run, "plan.json")
    assert props["quantize.float_sha256"] == sha(done[0].model)
    assert props["quantize.version"] == quantize.__version__
    kept = [prop for prop in model.metadata_props if prop.key not in added]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    assert model == onnx.load_from_string(best)


def test_more_than_metadata_behind_the_verified_bytes_is_found(done, released):
    size = (done[1].run / "best.onnx").stat().st_size
    content = (released.folder / f"{NAME}.onnx").read_bytes()
    other = onnx.ModelProto(graph=onnx.GraphProto(name="other"))
    with pytest.raises(quantize.BundleError, match="more than the verified bytes"):
        unstamped_sha256(content + other.SerializeToString(), size)


def test_the_manifest_tells_what_the_run_found(done, released):
    manifest, report = read(released.folder, "manifest.json"), done[1].report
    assert manifest["verdict"] == report["verdict"]
    assert manifest["latency"] == report["measured"]["latency"]
    right = manifest["accuracy"]["right"]
    assert right["float"]["top1"] - right["int8"]["top1"] == (
        report["accuracy"]["lost"] - report["accuracy"]["gained"]
    )
    assert manifest["data"]["holdout"]["sha256"] == report["data"]["holdout"]["sha256"]
    assert manifest["licenses"] == {"model": "apache-2.0"}
    assert manifest["check"]["instruction_set"] == cpu().isa
    for name, entry in manifest["files"].items():
        path = released.folder / name
        assert entry == {"sha256": sha(path), "bytes": path.stat().st_size}
    assert set(manifest["files"]) == {
        str(p.relative_to(released.folder)) for p in released.folder.rglob("*") if p.is_file()
    } - {"manifest.json", "SHA256SUMS"}


def test_the_test_data_are_tensors_with_the_models_names(released):
    model = onnx.load(released.folder / f"{NAME}.onnx")
    for end, value in (("input", model.graph.input[0]), ("output", model.graph.output[0])):
        content = (released.folder / "test_data_set_1" / f"{end}_0.pb").read_bytes()
        tensor = TensorProto.FromString(content)
        assert tensor.name == value.name
        assert numpy_helper.to_array(tensor).shape[0] == 1
    assert tensor.doc_string == f"made on {cpu().isa}"


def test_images_that_the_user_names_become_test_data(done, tmp_path):
    images = sorted(done[0].evaluation.rglob("*.png"))[:2]
    made = release(done[1].run, done[0].model, tmp_path / "out", samples=images)
    assert len(list(made.folder.glob("test_data_set_*"))) == 2
    check = read(made.folder, "manifest.json")["check"]
    assert check["samples"] == "named"
    assert check["samples_sha256"] == [sha(path) for path in images]
    pixels = numpy_helper.to_array(
        TensorProto.FromString((made.folder / "test_data_set_0" / "input_0.pb").read_bytes())
    )
    loader = done[0].settings().evaluation.accuracy.dataloader
    np.testing.assert_array_equal(pixels[0], Pipeline(loader.transforms)(decode(images[0])))
    assert "from images that the releaser chose" in (made.folder / "README.md").read_text()


def test_nothing_that_ships_tells_of_this_machine(done, released):
    private = [str(done[0].folder), str(Path.home()), str(Path(quantize.__file__).parent)]
    private += ["/tmp/", "/home/", socket.gethostname()] if len(socket.gethostname()) > 6 else []
    for path in released.folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        if path.name.endswith(".tar.gz"):
            with tarfile.open(path) as archive:
                content = b"".join(archive.extractfile(m).read() for m in archive)
        for text in private:
            assert text.encode() not in content, (path.name, text)


def test_descriptions_of_the_float_model_do_not_ship(job, tmp_path):
    """Exporters write stack traces into them."""
    model = onnx.load(job.model)
    for node in model.graph.node:
        node.doc_string = 'File "/srv/anna/model.py", line 3'
    model.graph.input[0].doc_string = "/srv/anna/input"
    model.metadata_props.add(key="source", value="/srv/anna/weights.pt")
    onnx.save(model, job.model)
    result = job.tune()
    with pytest.raises(quantize.BundleError, match=r"float model .* tells of the machine"):
        release(result.run, job.model, tmp_path / "refused", include_float=True)
    assert not (tmp_path / "refused").exists()
    made = release(result.run, job.model, tmp_path / "bundle", with_preprocessing=True)
    for path in made.folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert b"anna" not in content, path.name
    node = onnx.load(result.run / "best.onnx").graph.node[0]
    assert node.name
    assert not node.doc_string


def test_a_node_named_by_a_home_is_not_released(done, run, tmp_path):
    """An older best.onnx, or a name, which cannot be taken away."""
    model = onnx.load(run / "best.onnx")
    model.graph.node[0].name = "/home/anna/conv"
    onnx.save(model, run / "best.onnx")
    edit_report(run, lambda r: r["int8_model"].update(sha256=sha(run / "best.onnx")))
    message = refused(quantize.BundleError, run, done[0].model, tmp_path)
    assert "best.onnx tells of the machine that made it: the name of node '/home/anna" in message


ODD = '</script><script>alert(1)</script>\x1b[2J\u202e"|`'


def test_odd_names_are_harmless_from_the_model_to_the_bundle(job, cli, tmp_path):
    """Of nodes, of the input, of the output and of the file."""
    model = onnx.load(job.model)
    names = {model.graph.input[0].name: f"in{ODD}", model.graph.output[0].name: f"out{ODD}"}
    for value in (model.graph.input[0], model.graph.output[0]):
        value.name = names[value.name]
    for number, node in enumerate(model.graph.node):
        node.name = f"{number}{ODD}"
        for ends in (node.input, node.output):
            for place, name in enumerate(ends):
                ends[place] = names.get(name, name)
    source = job.folder / "a <script>\x1b[2J'.onnx"
    onnx.save(model, source)
    bundle = tmp_path / "bundle"
    told = [
        cli("tune", source, "--config", job.config, "-o", job.output, "--release", bundle),
        cli("explain", job.run),
        cli("check", bundle),
        cli("verify", bundle, "--images", job.evaluation, "--float", source),
    ]
    for answer in told:
        assert answer.code == 0, answer.err
        assert not {"\x1b", "\u202e"} & set(answer.out + answer.err)
    texts = [p for p in bundle.rglob("*") if p.suffix in (".md", ".html", ".json")]
    assert len(texts) == 5
    for path in texts:
        text = path.read_text()
        assert not {"\x1b", "\u202e"} & set(text), path.name
        if path.suffix == ".md":  # what stands in a code span is no markup
            text = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", text, flags=re.DOTALL)
        assert path.suffix == ".json" or "<script" not in text, path.name
    assert {p.name for p in bundle.glob("*.onnx")} == {"a-script-2J-int8.onnx"}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_onnx_hub_loads_it_by_its_manifest(released, tmp_path, monkeypatch, capsys):
    hub = pytest.importorskip("onnx.hub", reason="newer onnx has no hub client")
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(released.folder))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(hub, "_get_base_url", lambda repo, lfs=False: address)
        hub.set_dir(str(tmp_path))
        model = hub.load(NAME, silent=True)
        folder = Path(hub.download_model_with_test_data(NAME, silent=True))
        info = hub.get_model_info(NAME)
        (tmp_path / f"{info.model_sha}_{NAME}.onnx").write_bytes(b"other")
        with pytest.raises(AssertionError, match="SHA256"):
            hub.load(NAME, silent=True)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert model == onnx.load(released.folder / f"{NAME}.onnx")
    assert (folder / f"{NAME}.onnx").read_bytes() == (released.folder / f"{NAME}.onnx").read_bytes()
    assert (folder / "test_data_set_2" / "output_0.pb").is_file()
    assert info.opset == model.opset_import[0].version
    assert info.metadata["io_ports"]["inputs"][0]["type"] == "tensor(float)"


# ------------------------------------------------------------------------------ same bytes

PROGRAM = """
import os, sys
from pathlib import Path
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[2])])
import quantize
folder = Path(sys.argv[1])
job = quantize.load_config(folder / "job.yaml")
result = quantize.tune(folder / "float.onnx", job, folder / "int8.onnx")
quantize.release(result.run, folder / "float.onnx", folder / "bundle")
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_other_runs_folders_seeds_and_threads_give_the_same_bytes(template, tmp_path):
    seen = []
    for number, (seed, threads) in enumerate((("1", "1"), ("22", "2"))):
        folder = Path(shutil.copytree(template.folder, tmp_path / f"copy{number}" / "job"))
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        environment["PYTHONPATH"] = str(Path(quantize.__file__).parent.parent)
        subprocess.run(
            [sys.executable, "-c", PROGRAM, folder, threads], env=environment, check=True,
            cwd=folder,
        )  # fmt: skip
        bundle = folder / "bundle"
        seen.append((sha(bundle / f"{NAME}.onnx"), sha(bundle / f"{NAME}.tar.gz")))
    assert seen[0] == seen[1]


def test_the_same_run_gives_the_same_bundle(done, tmp_path):
    made = [release(done[1].run, done[0].model, tmp_path / x / "b") for x in _made(tmp_path, "xy")]
    assert made[0].digest == made[1].digest
    assert made[0].archive.read_bytes() == made[1].archive.read_bytes()


def _made(folder, names):
    for name in names:
        (folder / name).mkdir()
    return names


# --------------------------------------------------------------------------------- refused


def refused(error, run, model, folder, **options):
    """The release is refused, and nothing is written."""
    before = tree(folder)
    with pytest.raises(error) as caught:
        release(run, model, folder / "out", **options)
    assert tree(folder) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_float_model_is_refused(done, tmp_path):
    other = tmp_path / "float.onnx"
    other.write_bytes(done[0].model.read_bytes() + b"\x10\x01")
    assert "is not the float model of the run" in refused(ModelError, done[1].run, other, tmp_path)
    assert "does not exist" in refused(ModelError, done[1].run, tmp_path / "none", tmp_path)


def test_a_run_that_is_none_or_not_finished_is_refused(done, run, tmp_path):
    model = done[0].model
    assert "does not exist" in refused(RunFolderError, tmp_path / "none", model, tmp_path)
    (run / "report.json").unlink()
    assert "is not finished" in refused(RunFolderError, run, model, tmp_path)
    (run / "journal.jsonl").unlink()
    assert "holds no run" in refused(RunFolderError, run, model, tmp_path)


def test_another_best_file_than_the_verified_one_is_refused(done, run, tmp_path):
    (run / "best.onnx").write_bytes(done[0].model.read_bytes())
    assert "not the file that the run verified" in refused(
        RunFolderError, run, done[0].model, tmp_path
    )


def test_an_unmet_run_is_refused_unless_it_is_asked_for(done, run, tmp_path):
    edit_report(run, unmet)
    assert "--allow-unmet" in refused(UnmetError, run, done[0].model, tmp_path)
    assert UnmetError.exit_code == 3
    made = release(run, done[0].model, tmp_path / "out", allow_unmet=True)
    text = (made.folder / "README.md").read_text().split("---\n")[2]
    first = [line for line in text.splitlines() if line][1]
    assert first.startswith("> **This model did not meet its goal**")
    assert made.outcome == "unmet"


def test_what_exists_is_refused_and_replaced_whole_with_force(done, tmp_path):
    run, model, out = done[1].run, done[0].model, tmp_path / "out"
    release(run, model, out, include_float=True)
    assert "exists" in refused(OutputError, run, model, tmp_path)
    release(run, model, out, force=True)
    assert not (out / f"{NAME}-float.onnx").exists()
    assert not list(tmp_path.glob(f"{TEMPORARY}*"))


def test_force_replaces_nothing_but_a_release(done, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    assert "is no release" in refused(OutputError, done[1].run, done[0].model, tmp_path, force=True)


def test_a_failure_leaves_the_older_release(done, run, tmp_path, monkeypatch):
    release(done[1].run, done[0].model, tmp_path / "out")
    missing = [tmp_path / "missing.png"]
    message = refused(
        quantize.DataError, done[1].run, done[0].model, tmp_path, force=True, samples=missing
    )
    assert "missing.png" in message
    rename = Path.rename

    def fail(self, target):
        if str(target).endswith("-bundle.tar.gz") and self.name == "archive":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    assert "No space left" in refused(
        OutputError, done[1].run, done[0].model, tmp_path, force=True, include_float=True
    )


@pytest.mark.parametrize(
    "options", [{"name": "../x"}, {"license": "a\nb"}, {"dataset": "a b"}, {"samples": ["x"] * 101}]
)
def test_options_that_cannot_be_used_are_refused(done, tmp_path, options):
    with pytest.raises(quantize.QuantizeError):
        release(done[1].run, done[0].model, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_tune_releases_as_its_last_step(job, cli, tmp_path):
    answer = cli(*job.arguments("--release", tmp_path / "bundle"))
    assert answer.code == 0
    assert f"digest     {sha(tmp_path / 'bundle' / 'SHA256SUMS')}" in answer.out
    again = cli(*job.arguments("--release", tmp_path / "bundle"))
    assert again.code == 2
    assert "exists" in again.err


def test_tune_releases_nothing_that_is_not_met(job, cli, tmp_path):
    answer = cli(*job.arguments("--release", tmp_path / "b", "--set=tuning.speed_floor=1000"))
    assert answer.code == 3
    assert not (tmp_path / "b").exists()
