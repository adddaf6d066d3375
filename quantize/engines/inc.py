"""Intel Neural Compressor 2.6, the engine: its quantizer and its tuning loops, from outside.

INC runs in a child process (`inc_child`), because inside ours it would set environment
variables, reseed the random generators, write into the working directory, swallow Ctrl-C and
exit. Here is the other end: a job folder goes in, int8 files come out.

    parent                                        child (own process group, own folder)
    job.json, calibration-*.npy  ── files ──────> reads them, runs INC
    evaluate(file), on_trial     <── requests ─── {"kind": "baseline" | "candidate" | ...}
    {"accuracy": 0.91}           ─── answers ───> gives it to INC

Both pipes carry one JSON value a line. A child that loses its parent ends itself; a parent that
is interrupted ends the child's whole group.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import logging
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from math import gcd
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from quantize.deadline import NEVER, Deadline
from quantize.errors import EngineError, ModelError
from quantize.files import cannot_write, make_folder, sha256
from quantize.plan import Goal, Plan

log = logging.getLogger(__name__)

StrategyName = Literal["basic", "bayesian", "exhaustive", "random", "mse_v2"]
OpConfig = Mapping[str, Mapping[str, Sequence[str | float]]]
"""INC's form: {"weight": {"dtype": ["int8"], "granularity": [...]}, "activation": {...}}."""

INSTALL = "install it with: pip install 'quantize[inc]'"
_WITHOUT = "set quantization.engine to onnxruntime to go without it"
_BOUNDS = {
    "neural-compressor": ((2, 6), (2, 7)),  # 3.x has no ONNX Runtime backend
    "numpy": ((0,), (2,)),
    "onnx": ((0,), (1, 19)),  # INC imports onnx.mapping
    "setuptools": ((0,), (81,)),  # INC imports pkg_resources
}
_MODULES = ("neural_compressor", "pkg_resources", "six")
_GRACE_S = 0.5
_POLL_S = 1.0
_LOG_TAIL = 1 << 16


# ------------------------------------------------------------------------- the nouns


@dataclass(frozen=True)
class Rules:
    """What the user's configuration asks of single operators, in INC's 2.x form.

    A key of `op_names` that is the name of a node in the file means that node; any other key is
    a regular expression that matches whole names, those in the file or those that INC gives
    (`fc_MatMul` for a Gemm `fc`). Later keys win. Python's `re` reads the expressions, so those
    of an untrusted file are to be resolved to names before.

    Attributes:
        op_types: operator type pattern -> configuration; `.*` is model-wise, so it comes first.
        op_names: node name pattern -> configuration.
        recipes: INC's switches, such as `first_conv_or_matmul_quantization`.
    """

    op_types: Mapping[str, OpConfig] = field(default_factory=dict)
    op_names: Mapping[str, OpConfig] = field(default_factory=dict)
    recipes: Mapping[str, bool] = field(default_factory=dict)


NO_RULES = Rules()


@dataclass(frozen=True)
class Loop:
    """How one of INC's tuning loops runs.

    Attributes:
        strategy: which loop.
        goal: what a candidate has to reach, by INC's point rule: with the float model's
            accuracy b, at least b (1 - tolerance) where relative, b - tolerance where absolute,
            b - (1 - tolerance) where agreement. Confidence and speed floor are not INC's.
        sampling_sizes: numbers of calibration images to try, in order.
        max_trials: most candidates; `mse_v2` is held to it too, which INC alone does not do.
        timeout_s: seconds from the call, the evaluations' own time included; 0 = no limit. A
            running evaluation is not cut short. INC would go on after a success until the time
            is over, hoping for one that its clock calls faster; here the goal ends the loop.
        seed: of the random choices.
    """

    strategy: StrategyName
    goal: Goal
    sampling_sizes: Sequence[int] = (100,)
    max_trials: int = 100
    timeout_s: float = 0
    seed: int = 1978

    def least(self, baseline: float) -> float:
        """The accuracy that meets the goal, given the float model's (same unit)."""
        if self.goal.kind == "relative":
            return baseline * (1 - self.goal.tolerance)
        return baseline - self.absolute_tolerance

    @property
    def absolute_tolerance(self) -> float:
        """The tolerated difference, for the kinds that are not relative (a ratio)."""
        return 1 - self.goal.tolerance if self.goal.kind == "agreement" else self.goal.tolerance


@dataclass(frozen=True)
class IncTrial:
    """One candidate that INC had evaluated.

    Attributes:
        path: the int8 file; trials of equal bytes share one.
        accuracy: what the evaluation answered.
        seconds: from INC's last answer to this one: making and evaluating.
        note: empty, or which earlier trial had the same bytes and was not evaluated again.
    """

    path: Path
    accuracy: float
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class IncResult:
    """What a tuning loop left.

    Attributes:
        trials: every candidate, in order.
        chosen: the last one that met the goal (the only one, save for `mse_v2`, which goes on
            to put nodes back to int8), or None.
        reason: why the loop ended, one line.
        baseline: the float model's accuracy, or None if the time was over before.
    """

    trials: tuple[IncTrial, ...]
    chosen: Path | None
    reason: str
    baseline: float | None


# ---------------------------------------------------------------------------- asking


def available() -> str | None:
    """Why INC cannot be used here, in one line; None if it can. INC is not imported for it."""
    if os.name != "posix":
        return "Intel Neural Compressor is run in a POSIX process group, which this system lacks"
    for module in _MODULES:
        if importlib.util.find_spec(module) is None:
            return f"Intel Neural Compressor cannot be imported: there is no module {module}"
    for package, (least, below) in _BOUNDS.items():
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return f"Intel Neural Compressor 2.6 needs {package}, which is not installed"
        if not least <= _numbers(version) < below:
            wanted = ".".join(map(str, below))
            return f"Intel Neural Compressor 2.6 needs {package}<{wanted}, found {version}"
    return None


def require() -> None:
    """Make sure that INC can be used.

    Raises:
        EngineError: it cannot; the message says why, the cure how to install it.
    """
    reason = available()
    if reason is not None:
        raise EngineError(reason, INSTALL)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


# ------------------------------------------------------------------------- the verbs


def quantize_default(
    model: Path,
    calibration: Iterable[NDArray[np.float32]],
    plan: Plan,
    folder: Path,
    *,
    rules: Rules = NO_RULES,
    deadline: Deadline = NEVER,
) -> Path:
    """Write INC's default candidate: its calibration, its quantizer, no loop, no evaluation.

    Equal inputs give equal bytes. INC's `kl` is `minmax` in effect (its histogram has as many
    bins as int8 has steps), and its `percentile` is fixed at 99.999.

    Args:
        model: the float model, opset >= 13 (INC writes per-tensor weights below).
        calibration: batches float32 [N,C,H,W], read once and kept on disk meanwhile.
        plan: format, scheme and the nodes that stay float.
        folder: where the file goes; made if missing. Nothing else is left there.
        rules: the user's own.
        deadline: when INC is ended.

    Returns:
        The int8 file, `inc-<key of the plan>.onnx`.

    Raises:
        EngineError: INC is missing, cannot do what the plan asks, or failed; the message holds
            the true cause.
        ModelError: there is no such file.
        OutputError: the folder cannot be written.
        BudgetError: the deadline passed.
    """
    if plan.scheme.method == "mse":
        raise EngineError(
            "Intel Neural Compressor has no mse ranges",
            "write this plan with the onnxruntime engine, or with minmax, kl or percentile",
        )
    job = _job(model, plan, rules)
    scheme = {
        "weight": {"granularity": [plan.scheme.weight_granularity]},
        "activation": {"algorithm": [plan.scheme.method]},
    }
    job["op_types"] = {_EVERY_TYPE: scheme, **job["op_types"]}
    target = folder / f"inc-{plan.key}.onnx"
    with _job_folder(folder) as work:
        images, batch = _write_calibration(calibration, work, None)
        job |= {"task": "default", "sampling_sizes": [images], "batch_size": batch}
        with _child(work, job) as child:
            message = child.receive(None if deadline == NEVER else deadline.at)
            if message["kind"] == "late":
                deadline.check()
            if message["kind"] == "failed":
                raise _failure(model, message["cause"])
            _keep(work / message["file"], target)
    return target


def tune(
    model: Path,
    calibration: Iterable[NDArray[np.float32]],
    evaluate: Callable[[Path], float],
    *,
    loop: Loop,
    plan: Plan,
    folder: Path,
    rules: Rules = NO_RULES,
    on_trial: Callable[[IncTrial], None] | None = None,
) -> IncResult:
    """Run one of INC's tuning loops on our data, with our evaluation.

    The loop itself chooses granularity and calibration method, within `rules`; of the plan it
    takes the format, `reduce_range` and the nodes that stay float.

    Args:
        model: the float model, opset >= 13.
        calibration: batches float32 [N,C,H,W]; no more are read than the largest sampling size.
        evaluate: file -> accuracy, higher is better. Asked first for `model` itself, the
            baseline, then once for each candidate that differs from those before. What it
            raises ends INC and comes out unchanged.
        loop: strategy, goal and limits.
        plan: see above.
        folder: where the candidates stay, as `trial-001.onnx` and so on; made if missing.
        rules: the user's own.
        on_trial: told after each candidate.

    Returns:
        All candidates, which one met the goal, and why the loop ended. A failure of INC after
        the first candidate is such a reason, not an error.

    Raises:
        EngineError: INC is missing, or failed before the first candidate.
        ModelError: there is no such file.
        OutputError: the folder cannot be written.
    """
    deadline = time.monotonic() + loop.timeout_s if loop.timeout_s else None
    job = _job(model, plan, rules)
    with _job_folder(folder) as work:
        images, batch = _write_calibration(calibration, work, max(loop.sampling_sizes))
        sizes = list(dict.fromkeys(min(size, images) for size in loop.sampling_sizes))
        job |= {
            "task": "tune",
            "sampling_sizes": sizes,
            "batch_size": _even_batch(sizes, batch),
            "strategy": loop.strategy,
            "max_trials": loop.max_trials,
            "criterion": "relative" if loop.goal.kind == "relative" else "absolute",
            "tolerance": loop.goal.tolerance
            if loop.goal.kind == "relative"
            else loop.absolute_tolerance,
            "seed": loop.seed,
        }
        with _child(work, job) as child:
            record = _Record(model, work, folder, evaluate, on_trial)
            ending = _follow(child, record, loop, deadline)
    return record.result(loop, ending)


_EXHAUSTED = "INC has nothing more to try"


def _follow(child: _Child, record: _Record, loop: Loop, deadline: float | None) -> str:
    """Answer the child until it or a limit ends the loop; returns why it ended."""
    while True:
        message = child.receive(deadline)
        if message["kind"] == "late":
            return f"the time of {loop.timeout_s:g} s is over"
        if message["kind"] == "finished":
            return _EXHAUSTED
        if message["kind"] == "failed":
            if not record.trials:
                raise _failure(record.model, message["cause"])
            return f"INC failed: {message['cause']}"
        if message["kind"] == "baseline":
            child.answer(record.judge_baseline())
            continue
        trial = record.judge(message["file"])
        if len(record.trials) >= loop.max_trials:
            return f"max_trials ({loop.max_trials}) is reached"
        child.answer(trial.accuracy)


class _Record:
    """The candidates of one loop, judged and kept."""

    def __init__(
        self,
        model: Path,
        work: Path,
        folder: Path,
        evaluate: Callable[[Path], float],
        on_trial: Callable[[IncTrial], None] | None,
    ) -> None:
        self.model = model
        self.trials: list[IncTrial] = []
        self.baseline: float | None = None
        self._work, self._folder = work, folder
        self._evaluate, self._on_trial = evaluate, on_trial
        self._by_content: dict[str, IncTrial] = {}
        self._since = time.monotonic()

    def judge_baseline(self) -> float:
        self.baseline = float(self._evaluate(self.model))
        self._since = time.monotonic()
        return self.baseline

    def judge(self, file: str) -> IncTrial:
        """Keep the child's file and have it evaluated, unless its bytes were evaluated before."""
        content = sha256(self._work / file)
        twin = self._by_content.get(content)
        if twin is None:
            path = self._folder / f"trial-{len(self.trials) + 1:03d}.onnx"
            _keep(self._work / file, path)
            accuracy, note = float(self._evaluate(path)), ""
        else:
            (self._work / file).unlink()
            path, accuracy, note = twin.path, twin.accuracy, f"same bytes as {twin.path.stem}"
        now = time.monotonic()
        trial = IncTrial(path, accuracy, now - self._since, note)
        self._since = now
        self._by_content.setdefault(content, trial)
        self.trials.append(trial)
        if self._on_trial:
            self._on_trial(trial)
        return trial

    def result(self, loop: Loop, ending: str) -> IncResult:
        met = [
            trial
            for trial in self.trials
            if self.baseline is not None and trial.accuracy >= loop.least(self.baseline)
        ]
        if met:
            reason = f"goal met by {met[-1].path.stem}"
            if ending != _EXHAUSTED:
                reason += f"; {ending}"
        else:
            count = len(self.trials)
            reason = f"no candidate met the goal in {count} trial{'s' * (count != 1)}: {ending}"
        return IncResult(tuple(self.trials), met[-1].path if met else None, reason, self.baseline)


# --------------------------------------------------------------------------- the job

_EVERY_TYPE = "(?:.*)"
"""Matches every operator type, and is no key that a user's model-wise rule would have."""


def _job(model: Path, plan: Plan, rules: Rules) -> dict[str, Any]:
    """What every job says, as JSON values.

    Raises:
        EngineError: INC is missing or cannot do what the plan asks.
        ModelError: there is no such file.
    """
    require()
    if plan.encodings_sha256 is not None:
        raise EngineError(
            "Intel Neural Compressor computes every scale itself and cannot take given ones",
            "write this plan with the onnxruntime engine",
        )
    if not model.is_file():
        raise ModelError(f"model {model} does not exist", "check the path")
    return {
        "model": str(model.resolve()),
        "format": "QDQ" if plan.format == "qdq" else "QOperator",
        "reduce_range": plan.scheme.reduce_range,
        "keep_float": list(plan.keep_float),
        "op_types": {name: _known(config) for name, config in rules.op_types.items()},
        "op_names": {name: _known(config) for name, config in rules.op_names.items()},
        "recipes": dict(rules.recipes),
    }


def _known(config: OpConfig) -> dict[str, dict[str, list[str | float]]]:
    """What INC's schema takes of a rule: as in INC 1.x, an unknown option leaves the choice open.

    The 1.x keys `bit` and `compute_dtype`, and `kl` weights, would else be an error.
    """
    return {
        part: {
            key: known
            for key, values in settings.items()
            if (known := [value for value in values if value in _OPTIONS[part].get(key, ())])
        }
        for part, settings in config.items()
    }


_GRANULARITY = ("per_channel", "per_tensor")
_DTYPES = ("int8", "uint8", "fp32", "bf16", "fp16")
_OPTIONS: Mapping[str, Mapping[str, Sequence[str | float]]] = {
    "weight": {
        "granularity": _GRANULARITY,
        "scheme": ("asym", "sym"),
        "dtype": _DTYPES,
        "algorithm": ("minmax",),
    },
    "activation": {
        "granularity": _GRANULARITY,
        "scheme": ("asym", "sym"),
        "dtype": _DTYPES,
        "algorithm": ("minmax", "kl", "placeholder", "percentile"),
    },
}


@contextmanager
def _job_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder inside `folder`, so that finished files can be renamed out of it."""
    make_folder(folder)
    try:
        work = tempfile.TemporaryDirectory(
            prefix=".inc-", dir=folder.resolve(), ignore_cleanup_errors=True
        )
    except OSError as error:
        raise cannot_write(folder, error) from error
    with work as name:
        yield Path(name)


def _write_calibration(
    batches: Iterable[NDArray[np.float32]], folder: Path, most: int | None
) -> tuple[int, int]:
    """Write the images where the child finds them: their number, and that of the first batch.

    Raises:
        EngineError: there is no image.
        OutputError: the disk is full or the folder cannot be written.
    """
    sizes: list[int] = []
    for batch in batches:
        images = np.ascontiguousarray(batch, dtype=np.float32)
        if images.ndim != 4:
            raise ValueError(f"calibration batches are [N,C,H,W], not {list(images.shape)}")
        images = images if most is None else images[: most - sum(sizes)]
        try:
            np.save(folder / f"calibration-{len(sizes):05d}.npy", images, allow_pickle=False)
        except OSError as error:
            raise cannot_write(folder.parent, error) from error
        sizes.append(len(images))
        if most is not None and sum(sizes) >= most:
            break
    if not sum(sizes):
        raise EngineError(
            "Intel Neural Compressor needs at least one calibration image",
            "check the calibration dataset",
        )
    return sum(sizes), max(sizes)


def _even_batch(sizes: Sequence[int], most: int) -> int:
    """The largest batch of at most `most` images that divides all sampling sizes.

    INC counts whole batches: with any other it would calibrate on more images than asked.
    """
    common = gcd(*sizes)
    return max(size for size in range(1, most + 1) if common % size == 0)


def _keep(source: Path, target: Path) -> None:
    try:
        source.replace(target)
    except OSError as error:
        raise cannot_write(target, error) from error


def _failure(model: Path, cause: str) -> EngineError:
    return EngineError(f"Intel Neural Compressor failed on {model.name}: {cause}", _WITHOUT)


# ------------------------------------------------------------------------- the child


@contextmanager
def _child(folder: Path, job: Mapping[str, Any]) -> Iterator[_Child]:
    """Start the child on a job folder; however the block ends, so does the child's group."""
    with ExitStack() as ours, ExitStack() as theirs:
        requests, child_requests = os.pipe()
        ours.callback(os.close, requests)
        theirs.callback(os.close, child_requests)
        child_answers, answers = os.pipe()
        ours.callback(os.close, answers)
        theirs.callback(os.close, child_answers)
        pipes = {"requests": child_requests, "answers": child_answers}
        with _files_for_child(folder, {**job, **pipes}) as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "quantize.engines.inc_child", str(folder)],
                cwd=folder,
                env=_environment(folder),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(child_requests, child_answers),
                process_group=0,
            )
        ours.callback(_end, process)
        theirs.close()
        yield _Child(process, requests, answers, folder / "log")


def _files_for_child(folder: Path, job: Mapping[str, Any]) -> BinaryIO:
    """Write job.json; returns the log, opened for the child's output."""
    try:
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        return (folder / "log").open("wb")
    except OSError as error:
        raise cannot_write(folder.parent, error) from error


def _environment(folder: Path) -> dict[str, str]:
    """Ours, with this package importable and whatever could make two runs differ fixed."""
    path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(part for part in path if part),
        "PYTHONSAFEPATH": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONWARNINGS": "ignore",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TMPDIR": str(folder),
        "XDG_CACHE_HOME": str(folder),
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the child and all that it started, and reap it."""
    for request in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, request)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)


class _Child:
    """The running child: hears its requests, answers them, notices its death."""

    def __init__(
        self, process: subprocess.Popen[bytes], requests: int, answers: int, output: Path
    ) -> None:
        self._process, self._requests, self._answers = process, requests, answers
        self._output = output
        self._heard = b""

    def receive(self, deadline: float | None = None) -> dict[str, str]:
        """The next message: the child's own, or one in its place.

        Returns:
            `{"kind": "late"}` once `time.monotonic()` passes `deadline`;
            `{"kind": "failed", "cause": ...}` if the child failed, or died without a word.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._requests, selectors.EVENT_READ)
            while b"\n" not in self._heard:
                left = _POLL_S if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    return {"kind": "late"}
                ready = selector.select(min(left, _POLL_S))
                dead = not ready and self._process.poll() is not None and not selector.select(0)
                heard = os.read(self._requests, 1 << 16) if ready else b""
                if dead or (ready and not heard):
                    return self._failed(self._cause_of_death())
                self._heard += heard
        line, _, self._heard = self._heard.partition(b"\n")
        message: dict[str, str] = json.loads(line)
        return self._failed(message["cause"]) if message["kind"] == "failed" else message

    def answer(self, accuracy: float) -> None:
        """Tell the child what its candidate is worth."""
        with suppress(BrokenPipeError):  # its death is noticed, and explained, by receive
            os.write(self._answers, json.dumps({"accuracy": accuracy}).encode() + b"\n")

    def _failed(self, cause: str) -> dict[str, str]:
        log.debug("the end of INC's log:\n%s", self._tail())
        return {"kind": "failed", "cause": cause}

    def _cause_of_death(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        return cause_of_death(self._process.returncode, self._tail())

    def _tail(self) -> str:
        with self._output.open("rb") as file:
            file.seek(max(0, self._output.stat().st_size - _LOG_TAIL))
            return file.read().decode(errors="replace")


def cause_of_death(status: int | None, output: str) -> str:
    """Why a child ended without saying so, from its exit status and the end of its output."""
    if status is None:
        how = "its process closed the line"
    elif status < 0:
        names = {number.value: number.name for number in signal.Signals}
        how = f"its process was ended by {names.get(-status, f'signal {-status}')}"
        if -status == signal.SIGKILL:
            how += ", as when memory runs out"
    else:
        how = f"its process exited with status {status}"
    told = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in told if _ERROR_LINE.match(line)]
    last = (errors or (told if status is not None and status >= 0 else []))[-1:]
    return f"{how}; its last words: {last[0][:300]}" if last else how


_ERROR_LINE = re.compile(r"(?:[\w.]+(?:Error|Exception|Exit|Fail|Invalid\w*)\b|Fatal Python error)")
