"""The verb `track`: a finished run, and its release, become one run of an MLflow experiment."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from quantize.bundle.opening import opened
from quantize.checked_json import Value
from quantize.errors import BundleError, RunFolderError
from quantize.files import is_folder, sha256
from quantize.report.reading import read_report
from quantize.tracking.record import Record, record_of
from quantize.tracking.store import Store, without_password

EXPERIMENT = "quantize"

_FILES = (
    "report.json",
    "report.html",
    "summary.txt",
    "plan.json",
    "encodings.npz",
    "layers.csv",
    "changed.csv",
    "classes.csv",
    "best.onnx",
)
"""Of the run folder: nothing with a path of this machine, as config.yaml and the journal have."""


@dataclass(frozen=True)
class Tracked:
    """Where a run was recorded.

    Attributes:
        uri: of the store, without a password.
        experiment: its name.
        run_id: of MLflow.
        name: of the run.
        known: whether the very same was recorded before, so that nothing was written.
    """

    uri: str
    experiment: str
    run_id: str
    name: str
    known: bool

    def to_json(self) -> dict[str, str | bool]:
        """All of it as JSON values."""
        return {
            "uri": self.uri,
            "experiment": self.experiment,
            "run_id": self.run_id,
            "name": self.name,
            "known": self.known,
        }

    def lines(self) -> list[str]:
        """The same for people."""
        known = ["           it was recorded before: nothing was written"] if self.known else []
        return [
            f"store      {self.uri}",
            f"run        {self.run_id} ({self.name}) of experiment {self.experiment}",
            *known,
        ]


def track(
    run: str | Path,
    *,
    uri: str,
    experiment: str = EXPERIMENT,
    bundle: str | Path | None = None,
    name: str | None = None,
) -> Tracked:
    """Record a finished run in an MLflow tracking store.

    Whatever its verdict, a run is worth recording: the tags say which it is. The very same run and
    bundle are recorded once; a recording that was interrupted is made again.

    Args:
        run: the run folder.
        uri: of the store, such as `sqlite:///mlflow.db` or an http address.
        experiment: its name; made where there is none.
        bundle: a release of this run, folder or archive, to go along.
        name: of the run; None: the bundle's name, or the float file's.

    Raises:
        RunFolderError: no run, an unfinished or damaged one.
        BundleError: the bundle is unsafe, damaged or of another run.
        TrackingError: MLflow is missing, or the store cannot be used.
    """
    folder = Path(run)
    report = read_report(folder)
    if not is_folder(folder):
        raise RunFolderError(f"{folder} is no run folder", "name the folder, not a file in it")
    with _bundle(bundle, report) as (files, released):
        called = name or released or report.at("float_model", "file").text()
        record = _keyed(record_of(report, called), report.file, files)
        with Store(uri) as store:
            run_id, known = store.record(experiment, record, _artifacts(folder, files))
    return Tracked(without_password(uri), experiment, run_id, record.name, known)


@contextlib.contextmanager
def _bundle(path: str | Path | None, report: Value) -> Iterator[tuple[Path | None, str | None]]:
    """The folder and the name of a release of this run, or nothing."""
    if path is None:
        yield None, None
        return
    with opened(Path(path)) as bundle:
        manifest, _ = bundle.described()
        verified = manifest.at("model", "verified", "sha256").digest()
        if verified != report.at("int8_model", "sha256").digest():
            raise BundleError(
                f"{path} is no release of this run: its model is another one",
                "name the run that it was made from",
            )
        yield bundle.folder, manifest.at("name").text()


def _keyed(record: Record, report: Path, bundle: Path | None) -> Record:
    """The record with a key that the same files get again."""
    sums = sha256(bundle / "SHA256SUMS") if bundle else ""
    key = hashlib.sha256(f"{sha256(report)} {sums} {record.name}".encode()).hexdigest()
    released = {"quantize.bundle_digest": sums} if bundle else {}
    return replace(record, tags={**record.tags, **released, "quantize.key": key})


def _artifacts(run: Path, bundle: Path | None) -> dict[str, Path]:
    """Folder in MLflow or empty -> file or folder here."""
    found = {
        f"run/{name}": run / name
        for name in _FILES
        if (run / name).is_file() and not (bundle and name == "best.onnx")  # it is in there
    }
    return {**found, **({"bundle": bundle} if bundle else {})}
