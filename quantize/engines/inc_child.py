"""Runs Intel Neural Compressor on one job folder: `python -m quantize.engines.inc_child FOLDER`.

Started by `quantize.engines.inc` alone, in its own process group, with the job folder as its
working directory; only here is neural_compressor imported. Reads job.json and
calibration-*.npy, asks over one pipe and hears answers over the other, one JSON value a line:

    {"kind": "baseline"}                            -> {"accuracy": 0.91}
    {"kind": "candidate", "file": "int8-001.onnx"}  -> {"accuracy": 0.90}, in a loop only
    {"kind": "finished"}
    {"kind": "failed", "cause": "one line"}

INC may print, exit, reseed and leave files as it likes: nobody else lives here.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

_FLOAT = {"weight": {"dtype": ["fp32"]}, "activation": {"dtype": ["fp32"]}}
_MARKS = (
    "_quantized",
    "_scale",
    "_zero_point",
    "_dequantized",
    "_QuantizeInput",
    "_QuantizeLinear",
    "_DequantizeLinear",
    "_MatMul",
)
"""How INC ends the names of its own tensors: it finds them again by these endings."""

_BY_FIT = ("Unexpected exception", "Specified timeout or max trials is reached")
"""How the log lines begin that INC's `fit` writes when it has swallowed something."""

_LONGEST_CAUSE = 600


class Refusal(Exception):  # noqa: N818 - its text alone is the cause
    """The job cannot be done as asked; the text says why."""


def main(folder: Path) -> None:
    """Do the job of a folder and leave the process, whatever INC's threads still do."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    line = Line(job["requests"], job["answers"], folder)
    try:
        run(job, folder, line)
    except BaseException as error:  # INC calls exit(0) where it fails
        traceback.print_exception(error)
        with suppress(OSError):
            line.say({"kind": "failed", "cause": one_line(error)})
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def run(job: Mapping[str, Any], folder: Path, line: Line) -> None:
    """Let INC work: one candidate for a default job, as many as its loop wants for a tuning."""
    original = onnx.load(job["model"])
    missing = set(job["keep_float"]) - {node.name for node in original.graph.node}
    if missing:
        raise Refusal(f"node {min(missing)!r} is to stay float, but no node is called so")

    from neural_compressor import quantization
    from neural_compressor.utils.utility import set_random_seed, set_workspace

    ear = Ear()
    logging.getLogger("neural_compressor").addHandler(ear)
    set_workspace(str(folder / "workspace"))
    set_random_seed(job.get("seed", 1978))
    model = with_free_names(original)
    config = configuration(job)
    resolve_names(job, config, original, model)
    mend_pad()
    mend_strategies()
    tuning = job["task"] == "tune"
    result = quantization.fit(
        model,
        config,
        calib_dataloader=Images(folder, job["batch_size"]),
        eval_func=evaluation(original, folder, line) if tuning else None,
    )
    if ear.cause is not None or (result is None and not tuning):
        raise Refusal(ear.cause or ear.warning or "it returned no model and no reason")
    if tuning:
        line.say({"kind": "finished"})
    else:
        line.say({"kind": "candidate", "file": write(result.model, original, folder, 1)})


def evaluation(
    original: onnx.ModelProto, folder: Path, line: Line
) -> Callable[[onnx.ModelProto], float]:
    """The function by which INC has models judged: the first is the float model."""
    count = 0

    def evaluate(model: onnx.ModelProto) -> float:
        nonlocal count
        count += 1
        if count == 1:
            return line.ask({"kind": "baseline"})
        return line.ask({"kind": "candidate", "file": write(model, original, folder, count - 1)})

    return evaluate


# -------------------------------------------------------------------------- the line


class Line:
    """Both pipes to the parent. When the parent is gone, so are this process and its group.

    Args:
        requests: file descriptor to write to.
        answers: file descriptor to read from.
        folder: the job folder, removed when the parent is gone.
    """

    def __init__(self, requests: int, answers: int, folder: Path) -> None:
        for descriptor in (requests, answers):
            os.set_inheritable(descriptor, False)
        self._requests = os.fdopen(requests, "w", encoding="utf-8")
        self._answers: queue.SimpleQueue[float] = queue.SimpleQueue()
        threading.Thread(target=self._listen, args=(answers, folder), daemon=True).start()

    def say(self, message: Mapping[str, str]) -> None:
        """Send one message."""
        self._requests.write(json.dumps(message) + "\n")
        self._requests.flush()

    def ask(self, message: Mapping[str, str]) -> float:
        """Send one message and wait for its answer."""
        self.say(message)
        return self._answers.get()

    def _listen(self, answers: int, folder: Path) -> None:
        with os.fdopen(answers, encoding="utf-8") as stream:
            for answer in stream:
                self._answers.put(json.loads(answer)["accuracy"])
        shutil.rmtree(folder, ignore_errors=True)
        os.killpg(0, signal.SIGKILL)


class Ear(logging.Handler):
    """Hears in INC's log what INC hides: `fit` logs any exception or exit, then returns None.

    Attributes:
        cause: the first exception that `fit` swallowed, one line, or None.
        warning: the last warning or error that says something.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.cause: str | None = None
        self.warning: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Note a record, and the exception that is being handled while it is logged."""
        swallowed, text = sys.exc_info()[1], " ".join(record.getMessage().split())
        if not text.startswith(_BY_FIT):
            self.warning = text
        elif swallowed is not None and self.cause is None:
            self.cause = one_line(swallowed)
            if isinstance(swallowed, SystemExit):
                self.cause = f"{self.warning or 'no reason given'} (it called exit)"


def one_line(error: BaseException) -> str:
    """An exception as one line of bounded length."""
    text = " ".join(str(error).split())
    if not isinstance(error, Refusal):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= _LONGEST_CAUSE else text[:_LONGEST_CAUSE] + " ..."


# ------------------------------------------------------------------------- the model


class Images:
    """The calibration images in batches of one size, as INC's loaders give them.

    Args:
        folder: holds calibration-*.npy, float32 [n,C,H,W] each.
        batch_size: images per batch; the last may be smaller.
    """

    def __init__(self, folder: Path, batch_size: int) -> None:
        self.batch_size = batch_size
        self._files = sorted(folder.glob("calibration-*.npy"))

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], None]]:
        """Pairs of float32 [N,C,H,W] and no label."""
        waiting: list[NDArray[np.float32]] = []
        for file in self._files:
            for image in np.load(file, mmap_mode="r", allow_pickle=False):
                waiting.append(image)
                if len(waiting) == self.batch_size:
                    yield np.stack(waiting), None
                    waiting = []
        if waiting:
            yield np.stack(waiting), None


def with_free_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which no inner name ends like those that INC makes.

    A tensor `w_scale` would become the scale of `w`, or be left out because "it exists".
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    if any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        return copy  # names also live in the subgraph
    fixed = {value.name for value in [*graph.input, *graph.output]}
    used = fixed | {tensor.name for tensor in graph.initializer}
    used |= {name for node in graph.node for name in node.output}
    renamed: dict[str, str] = {}
    for name in sorted(used - fixed):
        if name.endswith(_MARKS):
            free = name + "_"
            while free in used:
                free += "_"
            used.add(free)
            renamed[name] = free
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
        if node.name.endswith("_quant"):
            node.name += "_"
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    if renamed:
        del graph.value_info[:]
    return copy


def write(model: onnx.ModelProto, original: onnx.ModelProto, folder: Path, number: int) -> str:
    """Write what INC made, in one order and with the float model's signature; its file name.

    Raises:
        Refusal: inputs or outputs are not those of the float model.
    """
    made = onnx.ModelProto.FromString(model.SerializeToString())
    constants = {tensor.name for tensor in original.graph.initializer}
    inputs = [value for value in original.graph.input if value.name not in constants]
    for side, have, want in (
        ("inputs", made.graph.input, inputs),
        ("outputs", made.graph.output, original.graph.output),
    ):
        if _signature(have) != _signature(want):
            raise Refusal(f"it changed the {side} from {_signature(want)} to {_signature(have)}")
        declared = list(want)
        del have[:]
        have.extend(declared)
    ordered = sorted(made.graph.initializer, key=lambda tensor: tensor.name)
    tensors = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in ordered]
    del made.graph.initializer[:]
    made.graph.initializer.extend(tensors)
    del made.graph.value_info[:]
    domains = {node.domain for node in made.graph.node} | {""}
    imports = {(opset.domain, opset.version) for opset in made.opset_import}
    del made.opset_import[:]
    made.opset_import.extend(
        onnx.helper.make_opsetid(domain, version)
        for domain, version in sorted(imports)
        if domain in domains
    )
    name = f"int8-{number:03d}.onnx"
    (folder / name).write_bytes(made.SerializeToString(deterministic=True))
    return name


def _signature(values: Any) -> list[tuple[str, int]]:
    return [(value.name, value.type.tensor_type.elem_type) for value in values]


# ----------------------------------------------------------------- INC's configuration


def configuration(job: Mapping[str, Any]) -> Any:
    """INC's configuration object for a job, without the rules for single nodes.

    `quant_level` 1 is what makes a strategy the one that was named: the default would first
    try to call a model with float convolutions a success.
    """
    from neural_compressor.config import AccuracyCriterion, PostTrainingQuantConfig, TuningCriterion

    return PostTrainingQuantConfig(
        domain="cv",
        quant_format=job["format"],
        calibration_sampling_size=job["sampling_sizes"],
        op_type_dict=job["op_types"],
        reduce_range=job["reduce_range"],
        recipes=job["recipes"],
        quant_level=1,
        accuracy_criterion=AccuracyCriterion(
            criterion=job.get("criterion", "relative"),
            tolerable_loss=float(job.get("tolerance", 0.01)),
        ),
        tuning_criterion=TuningCriterion(
            strategy=job.get("strategy", "basic"), timeout=0, max_trials=job.get("max_trials", 1)
        ),
    )


def resolve_names(
    job: Mapping[str, Any], config: Any, original: onnx.ModelProto, model: onnx.ModelProto
) -> None:
    """Have the rules for single nodes filled in as soon as INC's own names are known.

    INC optimises the graph first, which renames nodes (a Gemm `fc` becomes `fc_MatMul` and
    `fc_Add`, a MatMul with its Add `fc/MatMulAddFusion_MatMul`): a rule made before that would
    silently match nothing.
    """
    from neural_compressor.adaptor.onnxrt import ONNXRUNTIMEAdaptor

    names = [node.name for node in original.graph.node]
    before = onnx.GraphProto()
    before.CopyFrom(model.graph)
    query = ONNXRUNTIMEAdaptor.query_fw_capability

    def query_then_resolve(adaptor: Any, float_model: Any) -> Any:
        capability = query(adaptor, float_model)
        heirs = heirs_of(before, adaptor.pre_optimized_model.model.graph)
        named: dict[str, set[str]] = {}
        for name, node_heirs in zip(names, heirs, strict=True):
            named.setdefault(name, set()).update(node_heirs)
        config.op_name_dict = node_rules(job["op_names"], job["keep_float"], named)
        return capability

    ONNXRUNTIMEAdaptor.query_fw_capability = query_then_resolve


def heirs_of(before: onnx.GraphProto, after: onnx.GraphProto) -> list[set[str]]:
    """For each node of `before`, the names of the nodes of `after` that do its work.

    They are found by the tensors that both graphs have: from the node's output, or the nearest
    one downstream that survived, back to tensors that existed before.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in before.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    known = {name for node in before.node for name in [*node.input, *node.output]}
    makers = {name: node for node in after.node for name in node.output}
    constants = {tensor.name for tensor in after.initializer}

    def heirs(node: onnx.NodeProto) -> set[str]:
        found: set[str] = set()
        forward, backward, seen = list(node.output), [], set()
        while forward:
            name = forward.pop()
            if name in seen or name in constants:
                continue
            seen.add(name)
            if name in makers:
                backward.append(name)
            else:
                forward += [out for reader in readers.get(name, []) for out in reader.output]
        while backward:
            maker = makers[backward.pop()]
            found.add(maker.name)
            backward += [n for n in maker.input if n in makers and n not in known]
        return found

    return [heirs(node) for node in before.node]


def node_rules(
    rules: Mapping[str, Any], keep_float: list[str], heirs: Mapping[str, set[str]]
) -> dict[str, Any]:
    """The rules for single nodes in INC's names: the user's in order, then the float nodes.

    Args:
        rules: a node's name in the file, or a pattern of names there or in INC -> configuration.
        keep_float: names of nodes in the file.
        heirs: node name in the file -> INC's names for it.
    """
    resolved: dict[str, Any] = {}
    for pattern, settings in rules.items():
        exact = pattern in heirs
        names = [pattern] if exact else [name for name in heirs if re.fullmatch(pattern, name)]
        aliases = sorted({re.escape(heir) for name in names for heir in heirs[name]})
        keys = aliases if exact else [f"(?:{pattern})", *aliases]
        if keys:
            resolved["|".join(keys)] = settings
    for name in keep_float:
        for heir in sorted(heirs[name]):
            resolved.pop(re.escape(heir), None)
            resolved[re.escape(heir)] = _FLOAT
    return resolved


def mend_pad() -> None:
    """Give a Pad's output the scale of its input where the Pad itself becomes int8.

    INC gives the output the range that calibration saw, and then moves the integers over as
    they are. The two differ behind a Slice, as in the shortcuts of a CIFAR ResNet.
    """
    from neural_compressor.adaptor.ox_utils.operators.pad import PadOperator

    quantize = PadOperator.quantize

    def quantize_with_one_scale(operator: Any) -> None:
        if operator.quantizer.mode == "qdq":
            quantize(operator)
            return
        operator.quantizer.quantize_inputs(operator.node, [0])
        operator.quantizer.quantize_outputs(operator.node, direct_int8=True)
        operator.node.name += "_quant"

    PadOperator.quantize = quantize_with_one_scale


def mend_strategies() -> None:
    """Put right what two of INC's strategies get wrong.

    `random` first lists the product of all nodes' options (which fills any memory on a real
    network), and the list holds one configuration over and over. `bayesian` indexes past the
    list of sampling sizes.
    """
    from neural_compressor.strategy.bayesian import BayesianTuneStrategy
    from neural_compressor.strategy.random import RandomTuneStrategy
    from neural_compressor.strategy.utils.tuning_sampler import OpWiseTuningSampler

    def draw(strategy: Any) -> Iterator[dict[Any, Any]]:
        space = strategy.tuning_space
        sizes = space.root_item.get_option_by_name("calib_sampling_size").options
        kinds, _, initial = strategy.initial_tuning_cfg()
        sampler = OpWiseTuningSampler(space, [], [], kinds, initial)
        options = sampler.get_opwise_candidate()
        while True:  # INC counts the trials
            drawn = {op: choices[np.random.choice(len(choices))] for op, choices in options.items()}  # noqa: NPY002 - INC seeds this generator
            drawn["calib_sampling_size"] = sizes[np.random.choice(len(sizes))]  # noqa: NPY002
            yield drawn

    convert = BayesianTuneStrategy._params_to_tune_configs

    def convert_within(strategy: Any, params: Any) -> Any:
        name = "calib_sampling_size"
        if params is not None and name in params:
            sizes = strategy.tuning_space.root_item.get_option_by_name(name).options
            params = {**params, name: min(int(params[name]), len(sizes) - 1)}
        return convert(strategy, params)

    RandomTuneStrategy.next_tune_cfg = draw
    BayesianTuneStrategy._params_to_tune_configs = convert_within


if __name__ == "__main__":
    main(Path(sys.argv[1]))
