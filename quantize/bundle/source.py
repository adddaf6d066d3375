"""What a release is made from: a finished run, and the float model that it started with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from quantize.bundle.contract import Contract
from quantize.bundle.model import Ports, parse, ports
from quantize.bundle.parent import check_parent
from quantize.checked_json import Value
from quantize.config import Config, load_config
from quantize.errors import BundleError, RunFolderError, UnmetError
from quantize.files import is_folder
from quantize.plan import TOP_K, Outcome
from quantize.report.reading import read_account, read_report

_AGAIN = "run the same tune command again: a finished run is only verified anew"
_OTHER = "name the file that was tuned; if it changed since, tune again"
_BEST = "best.onnx"


@dataclass(frozen=True, eq=False)
class Source:
    """A run that can be released.

    Attributes:
        run: its folder.
        model: the float file, the very one that the run started from.
        report: of the run, checked as it is read.
        config: as the run used it.
        best: bytes of the file that was verified.
        ports: what that file takes and gives.
        contract: the preprocessing and the scores.
        outcome: the worst of all processors.
    """

    run: Path
    model: Path
    report: Value
    config: Config
    best: bytes
    ports: Ports
    contract: Contract
    outcome: Outcome

    @property
    def met(self) -> bool:
        """Whether the run met its goal on every processor."""
        return self.outcome == "met"

    @property
    def top_k(self) -> int:
        """How many classes `top5` counts: fewer than five where there are fewer."""
        return min(TOP_K, self.contract.classes)


def open_run(run: Path, model: Path, *, allow_unmet: bool) -> Source:
    """Open a run folder for release.

    Args:
        run: a run folder.
        model: the float model.
        allow_unmet: release it even if the goal was not met.

    Raises:
        RunFolderError: no run, an unfinished or damaged one.
        ModelError: the float model is not the one of the run.
        UnmetError: the goal was not met.
    """
    account = read_account(run)
    if not is_folder(run):
        raise RunFolderError(f"{run} is no run folder", "name the folder, not a file in it")
    report = read_report(run)
    best = _read_best(run, report)
    check_parent(model, report, "the run", _OTHER)
    counts = account.decisive
    if counts.outcome != "met" and not allow_unmet:
        where = f" on {counts.label}" if account.outcome == "met" else ""
        raise UnmetError(
            f"run {run} did not meet its goal{where}: {counts.reason}",
            "tune again, or release it all the same with --allow-unmet",
        )
    config = load_config(run / "config.yaml")
    found = ports(parse(best, _BEST))
    contract = _contract(report, config, found)
    return Source(run, model, report, config, best, found, contract, counts.outcome)


def _read_best(run: Path, report: Value) -> bytes:
    try:
        best = (run / _BEST).read_bytes()
    except OSError as error:
        raise RunFolderError(
            f"{run / _BEST} cannot be read: {error.strerror}", "run the same tune command again"
        ) from error
    if hashlib.sha256(best).hexdigest() != report.at("int8_model", "sha256").digest():
        raise RunFolderError(f"{run / _BEST} is not the file that the run verified", _AGAIN)
    return best


def _contract(report: Value, config: Config, found: Ports) -> Contract:
    steps = report.at("data", "holdout", "preprocessing")
    size = [item.count(1 << 16) for item in report.at("float_model", "input", "size").items()]
    if len(size) != 3:
        raise report.at("float_model", "input", "size").wrong("[C, H, W]")
    contract = Contract(
        tuple(item.value for item in steps.items()),
        report.at("float_model", "input", "name").text(),
        (size[0], size[1], size[2]),
        report.at("float_model", "output", "name").text(),
        report.at("float_model", "output", "classes").count(1 << 24),
        found.probabilities,
        config.evaluation.accuracy.label_shift,
    )
    try:
        contract.pipeline()
    except BundleError as error:
        raise RunFolderError(f"the run's preprocessing: {error.message}", _AGAIN) from error
    return contract
