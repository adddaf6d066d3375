"""A small job that is ready to run: a trained network, images in class folders, a YAML file."""

import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import trustme

from https_server import serving
from models import (
    fit_head,
    labels_of,
    prepared,
    tiny_dataset,
    tiny_resnet,
    write_image_folder,
)
from quantize import cli as command_line
from quantize import load_config, pipeline, portability
from quantize.bundle.writing import release
from quantize.deadline import NEVER
from quantize.runtime import Session

CLASSES = 4
SIZE = 16

YAML = """\
model: {name: tiny, framework: onnxrt_qdq}
quantization:
  engine: onnxruntime
  calibration:
    sampling_size: 16
    dataloader:
      batch_size: 8
      dataset: {ImageFolder: {root: calibration}}
      transform: &pixels
        Rescale:
        Normalize: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}
        Transpose: {perm: [2, 0, 1]}
        Cast: {dtype: float32}
evaluation:
  accuracy:
    metric: {topk: 1}
    dataloader:
      batch_size: 8
      dataset: {ImageFolder: {root: evaluation}}
      transform: *pixels
  performance: {warmup: 1, iteration: 6, configs: {cores_per_instance: 1}}
tuning:
  accuracy_criterion: {relative: 0.1}
  speed_floor: 0
"""
"""The network is too small for int8 to be faster, so nothing is asked of the speed."""


@dataclass(frozen=True)
class TinyJob:
    """Files of a job in a folder of their own."""

    folder: Path

    @property
    def model(self):
        return self.folder / "float.onnx"

    @property
    def config(self):
        return self.folder / "job.yaml"

    @property
    def output(self):
        return self.folder / "int8.onnx"

    @property
    def run(self):
        return self.folder / "int8.onnx.run"

    @property
    def calibration(self):
        return self.folder / "calibration"

    @property
    def evaluation(self):
        return self.folder / "evaluation"

    def settings(self, *overrides):
        return load_config(self.config, overrides)

    def tune(self, *overrides, **options):
        return pipeline.tune(self.model, self.settings(*overrides), self.output, **options)

    def arguments(self, *more):
        """The command line of `tune` for this job."""
        files = (str(self.model), "--config", str(self.config), "-o", str(self.output))
        return ("tune", *files, "--quiet", *map(str, more))


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory):
    """Fixtures that last longer than a test leave the user's cache alone, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUANTIZE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test reads or writes the user's cache, nor another test's."""
    monkeypatch.setenv("QUANTIZE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def tiny_model():
    """A tiny residual network whose head fits four classes of striped images."""
    training = tiny_dataset(CLASSES, 40, SIZE, seed=1)
    return fit_head(tiny_resnet(16, SIZE, CLASSES), prepared(training), labels_of(training))


@pytest.fixture(scope="session")
def template(tmp_path_factory, tiny_model):
    """The job's files, to be copied, never run."""
    files = TinyJob(tmp_path_factory.mktemp("template"))
    onnx.save(tiny_model, files.model)
    write_image_folder(files.calibration, tiny_dataset(CLASSES, 6, SIZE, seed=2))
    write_image_folder(files.evaluation, tiny_dataset(CLASSES, 15, SIZE, seed=3))
    files.config.write_text(YAML)
    return files


@pytest.fixture
def job(template, tmp_path):
    """A fresh copy of the job, nothing run yet."""
    return TinyJob(Path(shutil.copytree(template.folder, tmp_path / "job")))


@pytest.fixture(scope="session")
def done(template, tmp_path_factory):
    """A copy of the job that was run once, with its result; only to be read."""
    files = TinyJob(Path(shutil.copytree(template.folder, tmp_path_factory.mktemp("done") / "job")))
    return files, files.tune()


@pytest.fixture(scope="session")
def released(done, tmp_path_factory):
    """A release of that run with everything in it; only to be read."""
    files, result = done
    return release(
        result.run,
        files.model,
        tmp_path_factory.mktemp("released") / "bundle",
        license="Apache-2.0",
        include_float=True,
        with_preprocessing=True,
    )


class Stand:
    """In place of an emulator: the int8 file's own scores, turned round for some images."""

    wrong = 0.0
    pause = 0.0
    saturates = True

    def __init__(self, model, name, deadline=NEVER):
        deadline.check()
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
    """No processor is emulated; whatever is asked for answers as it is told to."""
    monkeypatch.setattr(portability, "Emulator", Stand)
    monkeypatch.setattr(portability, "processor", str.upper)

    def change(**values):
        for name, value in values.items():
            monkeypatch.setattr(Stand, name, value)

    return change


@dataclass(frozen=True)
class Answer:
    """What a command answered."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(capfd, monkeypatch):
    """The command line, in this process."""

    def run(*arguments):
        handlers = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}
        monkeypatch.setattr(sys, "argv", ["quantize", *map(str, arguments)])
        capfd.readouterr()
        try:
            with pytest.raises(SystemExit) as stop:
                command_line.main()
        finally:
            for kind, handler in handlers.items():
                signal.signal(kind, handler)
        out, err = capfd.readouterr()
        return Answer(stop.value.code or 0, out, err)

    return run


def tree(folder):
    """Every path below a folder, with the bytes of files: to see that nothing changed."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """A certificate authority and its file."""
    made = trustme.CA()
    file = tmp_path_factory.mktemp("ca") / "ca.pem"
    made.cert_pem.write_to_path(file)
    return made, file


@pytest.fixture
def direct(monkeypatch):
    """No proxy of this machine."""
    for name in ("https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def site(authority, monkeypatch, direct):
    """A server whose certificate is trusted here."""
    made, file = authority
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with serving(made.issue_cert("localhost")) as running:
        yield running
