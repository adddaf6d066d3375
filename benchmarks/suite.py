"""One run of all parts: files are made, then timed, then judged, case by case."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import accuracy, latency, machine, process_tree, tuning
from benchmarks.cases import CASES, ROOT, Case, CaseError, Ready, ready
from benchmarks.environments import (
    NNCF,
    PROJECT,
    Environment,
    InstallError,
    installed,
    interpreter,
    reason,
    without_folders,
)
from benchmarks.latency import Setting
from benchmarks.peers import (
    AGAIN,
    FLOAT,
    OURS,
    Made,
    RuntimeName,
    choose,
    environment_of,
    make,
    make_ours,
)
from benchmarks.raw import write_raw
from benchmarks.servers import Server
from quantize.engines import inc
from quantize.errors import QuantizeError
from quantize.files import make_folder
from quantize.runtime import cores

PARTS = ("latency", "accuracy", "tuning", "scripts")
SCRIPTS = ("calibration", "data_path", "growth")
"""Parts with a script of their own, which prints Markdown:
`benchmarks/NAME.py --shared FOLDER [--quick] --json FILE`."""

BATCHES = (1, 8, 32)
SCRIPT_SECONDS = 1500.0
_ANSWER_SECONDS = 1200.0
_TUNING_SECONDS = 150.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Attributes:
        quick: the short form: few cases, few rounds, peers that need no install.
        peers: keys that were asked for, with commas.
        only: cases whose key contains this.
        parts: some of `PARTS`.
        shared: folder of models and images.
        output: where results and working files go.
        environments: folder of the peers' environments.
        said: the arguments, for the page.
    """

    quick: bool
    peers: str
    only: str
    parts: tuple[str, ...]
    shared: Path
    output: Path
    environments: Path
    said: str = ""

    def cases(self) -> list[Case]:
        """Those of this run.

        Raises:
            ValueError: there is none.
        """
        quick = [case for case in CASES if case.quick or not self.quick]
        found = [case for case in (CASES if self.only else quick) if self.only in case.key]
        if not found:
            raise ValueError(f"--only: no case has {self.only!r} in its key")
        return found


class Suite:
    """A run and what it has found so far.

    Args:
        plan: what to do.

    Raises:
        ValueError: the plan names a part, peer or case that does not exist.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        if unknown := set(plan.parts) - set(PARTS):
            raise ValueError(f"--parts: {min(unknown)!r} is none of: {', '.join(PARTS)}")
        self.peers = choose(plan.peers, plan.quick)
        self.cases = plan.cases()
        self.results: dict[str, Any] = {
            "quick": plan.quick,
            "arguments": without_folders(plan.said),
            "machine": machine.describe(),
            "cases": {case.key: {"name": case.name, "goal": case.goal} for case in self.cases},
            "peers": {},
            "made": [],
            "latency": [],
            "accuracy": [],
            "tuning": [],
            "scripts": {},
            "spent": {},
        }

    def run(self, say: Say) -> dict[str, Any]:
        """Everything, in turn; what is found is on disk after each step.

        Raises:
            OutputError: the output folder cannot be written.
        """
        start = time.monotonic()
        make_folder(self.plan.output)
        with self._spending("environments"):
            self._prepare_environments(say)
        for case in self.cases:
            self._case(case, say)
            self._keep(start)
        if "scripts" in self.plan.parts:
            for name in SCRIPTS:
                say(f"{name}: its own script")
                with self._spending(name):
                    self.results["scripts"][name] = self._script(name)
                self._keep(start)
        self.results["machine"]["load_after"] = machine.load()
        self._keep(start)
        return self.results

    @contextmanager
    def _spending(self, what: str) -> Iterator[None]:
        """Adds to the seconds that one kind of work takes in all cases together."""
        start = time.monotonic()
        try:
            yield
        finally:
            spent = self.results["spent"]
            spent[what] = round(spent.get(what, 0.0) + time.monotonic() - start, 1)

    def _keep(self, start: float) -> None:
        self.results["seconds"] = round(time.monotonic() - start, 1)
        write_raw(self.results, self.plan.output / "results.json")

    def _prepare_environments(self, say: Say) -> None:
        for peer in self.peers:
            environment = environment_of(peer, self.plan.quick)
            entry: dict[str, Any] = {
                "name": peer.name,
                "environment": environment.name,
                "runtime": peer.runtime,
            }
            if environment != PROJECT:
                say(f"{peer.key}: environment {environment.name}")
            try:
                python = interpreter(environment, self.plan.environments)
                entry["packages"] = [] if environment == PROJECT else installed(python)
            except InstallError as error:
                entry["failed"] = str(error)
            self.results["peers"][peer.key] = entry

    def _case(self, case: Case, say: Say) -> None:
        if not case.measured and "tuning" not in self.plan.parts:
            return
        say(f"{case.key}: model and images")
        try:
            files = ready(case, self.plan.shared, self.plan.output)
        except (CaseError, QuantizeError) as error:
            self.results["cases"][case.key]["failed"] = str(error)
            return
        try:
            self._parts(files, say)
        finally:  # the largest files; what is left says what was done
            for large in (files.calibration, files.holdout):
                large.unlink(missing_ok=True)

    def _parts(self, files: Ready, say: Say) -> None:
        case = files.case
        if case.measured and {"latency", "accuracy"}.intersection(self.plan.parts):
            self._measure(files, say)
        if "tuning" in self.plan.parts:
            say(f"{case.key}: tuning")
            with self._spending("tuning"):
                self.results["tuning"] += tuning.measure(
                    files,
                    seconds=0.0 if self.plan.quick else _TUNING_SECONDS,
                    patience=1.5 if self.plan.quick else 5.5,
                    with_inc=inc.available() is None,
                )

    def _measure(self, case: Ready, say: Say) -> None:
        with self._spending("files"):
            made = list(self._files(case, say))
        self.results["made"] += [
            {
                "case": case.case.key,
                "peer": each.peer.key,
                "seconds": each.seconds,
                "note": each.note,
            }
            for each in made
        ]
        with ExitStack() as stack:
            servers = self._servers(case.folder, stack)
            if "latency" in self.plan.parts:
                for setting in self._settings():
                    say(f"{case.case.key}: batch {setting.batch}, {setting.threads} threads")
                    rounds = latency.QUICK if self.plan.quick else latency.FULL
                    with self._spending("latency"):
                        rows = latency.measure(case, made, servers, setting, rounds)
                    self.results["latency"] += rows
            if "accuracy" in self.plan.parts:
                say(f"{case.case.key}: accuracy")
                with self._spending("accuracy"):
                    rows = accuracy.measure(case, made, servers, cores())
                self.results["accuracy"] += rows

    def _files(self, case: Ready, say: Say) -> Iterator[Made]:
        ours = Made(OURS, None, "not made")
        for peer in self.peers:
            say(f"{case.case.key}: the file of {peer.key}")
            if peer == OURS:
                ours = make_ours(case)
                yield ours
            elif peer == FLOAT:
                yield Made(FLOAT, case.model)
            elif peer.maker:
                yield make(peer, case, self.plan.environments, self.plan.quick)
            else:  # our file again, or in another runtime
                yield Made(peer, ours.path, ours.note)

    def _servers(self, folder: Path, stack: ExitStack) -> dict[RuntimeName, Server]:
        """A process for each runtime whose environment could be made."""
        wanted: dict[RuntimeName, Environment] = {"onnxruntime": PROJECT}
        if any(peer.runtime == "openvino" for peer in self.peers):
            wanted["openvino"] = NNCF
        found: dict[RuntimeName, Server] = {}
        for runtime, environment in wanted.items():
            try:
                python = interpreter(environment, self.plan.environments)
            except InstallError:  # told with the peer
                continue
            server = Server(python, runtime, folder, seconds=_ANSWER_SECONDS)
            found[runtime] = stack.enter_context(server)
        return found

    def _settings(self) -> Sequence[Setting]:
        threads = sorted({1, cores()})
        batches = BATCHES[:2] if self.plan.quick else BATCHES
        return [Setting(batch, count) for batch in batches for count in threads]

    def _script(self, name: str) -> dict[str, Any]:
        """What a script of its own prints and writes, or how it failed."""
        script = ROOT / "benchmarks" / f"{name}.py"
        if not script.is_file():
            return {"failed": f"benchmarks/{script.name} is not here"}
        file = self.plan.output / f"{name}.json"
        file.unlink(missing_ok=True)
        flags = ["--shared", str(self.plan.shared), *["--quick"] * self.plan.quick]
        command = [sys.executable, str(script), *flags, "--json", str(file)]
        ended = process_tree.run(command, ROOT, SCRIPT_SECONDS)
        if ended.code is None:
            return {"failed": f"not within {SCRIPT_SECONDS:g} s"}
        if ended.code:
            return {"failed": f"exit {ended.code}: {reason(ended.err)}"}
        return {
            "seconds": round(ended.seconds, 1),
            "markdown": ended.out,
            "results": json.loads(file.read_text()) if file.is_file() else None,
        }


def our_failures(results: Mapping[str, Any]) -> list[str]:
    """Rows of ours that failed: a peer may, we may not."""
    ours = (OURS.key, AGAIN.key, FLOAT.key)
    rows = [*results["latency"], *results["accuracy"], *results["tuning"]]
    failed = [row for row in rows if row["peer"] in ours and "failed" in row]
    return [f"{row['id']}: {row['failed']}" for row in failed]
