"""The only door to onnxruntime sessions: threads, predictors, and what this processor is."""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from quantize.errors import ModelError
from quantize.plan import Cpu

Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""images float32 [N,C,H,W] -> logits float32 [N,K]."""

MOST_STREAMS = 4
"""Each stream holds a batch and the activations of one."""

_ISA_BY_FLAG = (  # best first: (flag in /proc/cpuinfo, name, saturates)
    ("amx_int8", "x86-64 AMX-INT8", False),
    ("avx512_vnni", "x86-64 AVX512-VNNI", False),
    ("avx_vnni", "x86-64 AVX-VNNI", False),
    ("avx512bw", "x86-64 AVX512 without VNNI", True),
    ("avx2", "x86-64 AVX2 without VNNI", True),
    ("sse4_1", "x86-64 SSE4.1", True),
    ("i8mm", "AArch64 I8MM", False),
    ("asimddp", "AArch64 dot product", False),
    ("asimd", "AArch64 NEON", False),
)


class Session:
    """One model, loaded.

    Args:
        model: a file or serialized bytes.
        constants: those that serialized bytes declare as lying elsewhere; they are not copied.
        threads: threads inside one operator.
        name: how errors call the model.
        arena: whether onnxruntime keeps memory between runs: faster for many runs of one model,
            but dozens of models that are kept would hold gigabytes.
        fuse: whether nodes between DequantizeLinear and QuantizeLinear may run on integers.
        spin: whether threads without work wait in a loop: one image is done sooner, but whoever
            works beside them, such as threads that decode, gets a core less.
        optimize: whether nodes are fused and weights laid out anew: not worth it for one run.

    Raises:
        ModelError: onnxruntime refuses the model; the message holds its reason.
    """

    def __init__(
        self,
        model: Path | bytes,
        *,
        constants: Mapping[str, NDArray[Any]] | None = None,
        threads: int = 1,
        name: str = "",
        arena: bool = True,
        fuse: bool = True,
        spin: bool = True,
        optimize: bool = True,
    ) -> None:
        self.name = name or (str(model) if isinstance(model, Path) else "the model")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_cpu_mem_arena = arena
        # Threads that spin after a run would slow the other session of an interleaved pair.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if not spin:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not fuse:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        if not optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._constants = _lent(constants or {}, options)
            self._session = onnxruntime.InferenceSession(
                str(model) if isinstance(model, Path) else model,
                options,
                providers=["CPUExecutionProvider"],
            )
            inputs = self._session.get_inputs()
            shapes = [value.shape for value in inputs]  # fails where an axis' name is no text
        except Exception as error:  # onnxruntime's exceptions share no base class but this
            raise ModelError(f"{self.name} does not load: {_first_line(error)}") from error
        if not inputs:
            raise ModelError(f"{self.name} takes no input", "give an image classifier")
        self.inputs = [value.name for value in inputs]
        self.input = self.inputs[0]
        self.outputs = [value.name for value in self._session.get_outputs()]
        declared = shapes[0]
        self.batch = declared[0] if declared and isinstance(declared[0], int) else None

    def run(self, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """All outputs for images float32 [N,C,H,W]; N must suit a fixed batch axis.

        Raises:
            ModelError: the model fails on this input.
        """
        return self.run_feeds({self.input: images})

    def run_feeds(self, feeds: Mapping[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """All outputs for any number of inputs, by name.

        Raises:
            ModelError: the model fails on these.
        """
        try:
            outputs: list[NDArray[np.float32]] = self._session.run(None, dict(feeds))
        except Exception as error:
            shape = list(feeds[self.input].shape) if self.input in feeds else "missing"
            raise ModelError(
                f"{self.name} fails on images {shape}: {_first_line(error)}",
                "check that the transform gives the shape that the model takes",
            ) from error
        return outputs

    def pieces(self, images: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """The images as the batch axis takes them; the last is repeated to fill a fixed batch."""
        if self.batch is None or self.batch == len(images):
            yield images
            return
        for start in range(0, len(images), self.batch):
            piece = images[start : start + self.batch]
            filling = np.repeat(piece[-1:], self.batch - len(piece), axis=0)
            yield np.concatenate([piece, filling])

    def predict(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """The first output, [N,K], for any N.

        Raises:
            ModelError: the model fails on this input or gives no [N,K] scores.
        """
        scores = [self._scores(self.run(piece)[0], len(piece)) for piece in self.pieces(images)]
        return np.concatenate(scores)[: len(images)]

    def _scores(self, scores: NDArray[np.float32], images: int) -> NDArray[np.float32]:
        # Where a pooling gives the scores they are [N,K,1,1].
        if scores.ndim < 2 or len(scores) != images or math.prod(scores.shape[2:]) != 1:
            raise ModelError(
                f"{self.name} is not an image classifier: {images} images give scores of shape"
                f" {list(scores.shape)}, not [{images},K]"
            )
        return scores.reshape(scores.shape[:2])


class Streams:
    """A model that several threads may ask at once, each with its share of the cores.

    Two runs of one thread take less time than one run of two, and leave no core waiting.

    Args:
        model: a file or serialized bytes.
        name: how errors call the model.
        at_once: how many threads may ask; None: one for each core, up to `MOST_STREAMS`.

    Attributes:
        at_once: that number.

    Raises:
        ModelError: onnxruntime refuses the model.
    """

    def __init__(self, model: Path | bytes, *, name: str = "", at_once: int | None = None) -> None:
        self.at_once = at_once or min(cores(), MOST_STREAMS)
        threads = math.ceil(cores() / self.at_once)
        self._session = Session(model, threads=threads, name=name, spin=self.at_once == 1)

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """The first output, [N,K], for any N.

        Raises:
            ModelError: the model fails on this input or gives no [N,K] scores.
        """
        return self._session.predict(images)


class Operator:
    """A few nodes as a model of their own, run on images a few at a time.

    Nothing is kept between runs, and nodes between DequantizeLinear and QuantizeLinear stay float.
    A piece of the images is the work of one thread: a network has many small layers, and to divide
    each of them takes longer than its work.

    Args:
        model: serialized.
        threads: how many pieces are run at once.
        name: how errors call the node.

    Raises:
        ModelError: onnxruntime refuses the node.
    """

    _VALUES = 1 << 18
    """Of the largest input: so many at a time, unless one image has more."""

    _PIECES = 4
    """At least, whatever the number of threads: what a node gives may depend on its batch."""

    def __init__(self, model: bytes, *, threads: int, name: str) -> None:
        self._session = Session(model, name=f"node {name}", arena=False, fuse=False)
        self._threads = threads

    def pieces(self, images: Sequence[NDArray[Any]]) -> list[list[NDArray[Any]]]:
        """Each output for whole activations, as pieces along the first axis.

        Args:
            images: the inputs in order, [N,...].

        Raises:
            ModelError: the node fails.
        """
        count = max(len(value) for value in images)
        fits = self._VALUES * count // max(1, *(value.size for value in images))
        at_once = max(1, min(fits, math.ceil(count / self._PIECES)))
        made = self.each(
            [value[start : start + at_once] for value in images]
            for start in range(0, count, at_once)
        )
        return [list(parts) for parts in zip(*made, strict=True)]

    def each(self, pieces: Iterable[Sequence[NDArray[Any]]]) -> list[list[NDArray[Any]]]:
        """All outputs for each of these inputs, several at a time.

        Raises:
            ModelError: the node fails.
        """
        return list(_workers(self._threads).map(self.once, pieces))

    def once(self, values: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """All outputs for the inputs in order, at once."""
        return self._session.run_feeds(dict(zip(self._session.inputs, values, strict=True)))


@lru_cache(maxsize=1)
def _workers(threads: int) -> ThreadPoolExecutor:
    """The threads of all operators: they start when there is work, and then stay."""
    return ThreadPoolExecutor(threads, thread_name_prefix="node")


def cores() -> int:
    """How many cores affinity and the control group let this process use, at least 1."""
    available = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, min(available, _cgroup_cores()))


def _cgroup_cores() -> int:
    """The quota of cgroup v2 or v1 in whole cores, rounded up; no quota is very many."""
    for quota_file, period_file in (
        ("/sys/fs/cgroup/cpu.max", None),
        ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
    ):
        try:
            words = Path(quota_file).read_text().split()
            if period_file:
                words.append(Path(period_file).read_text().strip())
            quota, period = float(words[0]), float(words[1])
        except (OSError, ValueError, IndexError):
            continue
        if quota > 0 and period > 0:
            return math.ceil(quota / period)
    return 1 << 16


@lru_cache(maxsize=1)
def cpu() -> Cpu:
    """This processor and the instruction set that decides its int8 arithmetic."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        text = ""
    flags = set(" ".join(re.findall(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)).split())
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    name = model.group(1).strip() if model else platform.processor() or platform.machine()
    for flag, isa, saturates in _ISA_BY_FLAG:
        if flag in flags:
            return Cpu(name, isa, saturates, cores())
    return Cpu(name, platform.machine() or "unknown", False, cores())


def _lent(
    constants: Mapping[str, NDArray[Any]], options: onnxruntime.SessionOptions
) -> list[onnxruntime.OrtValue]:
    """Lend constants to a session, which needs what is returned as long as it lives."""
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in constants.values()]
    if values:
        options.add_external_initializers(list(constants), values)
    return values


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text.splitlines()[0])[:400]
