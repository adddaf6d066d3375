from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import gcd
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from quantize.engines import inc, inc_child
from quantize.errors import EngineError, ModelError, OutputError
from quantize.graph.prepare import prepare
from quantize.plan import Goal, Plan, Scheme

REASON = inc.available()
needs_inc = [
    pytest.mark.inc,
    pytest.mark.skipif(REASON is not None, reason=f"without INC: {REASON}"),
]
SHARED = Path(__file__).parent.parent.parent / "shared"
QDQ, QOPERATOR = Plan("inc", "qdq"), Plan("inc", "qoperator")
NEVER = inc.Loop("basic", Goal(0.01), (8, 16), max_trials=5)


# ------------------------------------------------------------------------ the network


class Net:
    """A small residual classifier, [N,3,16,16] -> [N,10]."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, *shape: int) -> str:
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 100
        values = self.random.standard_normal(shape) * np.sqrt(2 / fan_in)
        self.constants.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def node(self, kind: str, name: str, *inputs: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}_out"], name, **attributes))
        return f"{name}_out"

    def conv(self, name: str, source: str, channels: int, out: int = 8) -> str:
        weight = self.constant(f"{name}.weight", out, channels, 3, 3)
        bias = self.constant(f"{name}.bias", out)
        return self.node("Conv", name, source, weight, bias, pads=[1] * 4, kernel_shape=[3, 3])

    def model(self, logits: str) -> onnx.ModelProto:
        self.nodes[-1].output[0] = logits
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 16, 16])],
            [helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["N", 10])],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.checker.check_model(model)
        return model


def residual_net(*, gemm: bool = True, pad: bool = False) -> onnx.ModelProto:
    net = Net()
    start = "image"
    if pad:  # with its optional third input empty, as torch exports it
        net.constants.append(numpy_helper.from_array(np.zeros(8, np.int64), "pads"))
        net.constants.append(numpy_helper.from_array(np.array([1, 1]), "axes"))
        start = net.node("Relu", "relu0", net.conv("conv0", "image", 3, 3))
        start = net.node("Pad", "pad", start, "pads", "")
    one = net.node("Relu", "relu1", net.conv("conv1", start, 3))
    two = net.node("Relu", "relu2", net.conv("conv2", one, 8))
    three = net.node("Add", "add", net.conv("conv3", two, 8), one)
    four = net.node("Relu", "relu4", net.conv("conv4", net.node("Relu", "relu3", three), 8))
    flat = net.node("Flatten", "flatten", net.node("GlobalAveragePool", "gap", four))
    if gemm:
        net.node("Gemm", "fc", flat, net.constant("w", 10, 8), net.constant("b", 10), transB=1)
    else:
        product = net.node("MatMul", "fc", flat, net.constant("w", 8, 10))
        net.node("Add", "fc_bias", product, net.constant("b", 10))
    return net.model("logits")


def save(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / "float.onnx"
    onnx.save(model, path)
    return path


def images(count: int = 20, batch: int = 8, size: int = 16) -> Iterator[NDArray[np.float32]]:
    pixels = np.random.default_rng(1).standard_normal((count, 3, size, size)).astype(np.float32)
    return (pixels[start : start + batch] for start in range(0, count, batch))


def outputs(path: Path, count: int = 200) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(2).standard_normal((count, 3, 16, 16)).astype(np.float32)
    return session.run(None, {session.get_inputs()[0].name: pixels})[0]


def sqnr_db(floats: NDArray[np.float32], ints: NDArray[np.float32]) -> float:
    return float(10 * np.log10((floats**2).mean() / ((floats - ints) ** 2).mean()))


def nodes_of(path: Path) -> dict[str, onnx.NodeProto]:
    return {node.name: node for node in onnx.load(path).graph.node}


def is_float(node: onnx.NodeProto) -> bool:
    return not node.op_type.startswith("QLinear") and not any(
        name.endswith("_dequantized") for name in node.input
    )


def falling() -> Callable[[Path], float]:
    """An evaluation that likes the float model and nothing else."""
    answers = iter([1.0, *np.linspace(0.5, 0.4, 200).tolist()])
    return lambda path: next(answers)


# ----------------------------------------------------------------- processes, on Linux


def children(parent: int) -> list[int]:
    """Processes whose parent is `parent`, zombies included."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until(condition: Callable[[], object], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


# --------------------------------------------------------------- without INC: the door


def test_what_is_missing_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert inc.available() == (
        "Intel Neural Compressor cannot be imported: there is no module neural_compressor"
    )
    with pytest.raises(EngineError, match=r"pip install 'quantize\[inc\]'"):
        inc.require()


@pytest.mark.parametrize(
    ("package", "version", "fine"),
    [
        ("neural-compressor", "2.6", True),
        ("neural-compressor", "2.6.1", True),
        ("neural-compressor", "3.1", False),
        ("neural-compressor", "2.5.1", False),
        ("numpy", "1.26.4", True),
        ("numpy", "2.0.0rc1", False),
        ("onnx", "1.18.0", True),
        ("onnx", "1.19.0", False),
        ("setuptools", "80.9.0", True),
        ("setuptools", "81.0.0", False),
    ],
)
def test_only_versions_that_work_together_are_available(
    monkeypatch: pytest.MonkeyPatch, package: str, version: str, fine: bool
) -> None:
    installed = {"neural-compressor": "2.6", "numpy": "1.26.4", "onnx": "1.18.0"}
    installed |= {"setuptools": "80.0", package: version}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(importlib.metadata, "version", installed.__getitem__)
    reason = inc.available()
    assert (reason is None) == fine
    assert fine or f"found {version}" in str(reason)


def test_asking_does_not_import_inc() -> None:
    code = "import sys; from quantize.engines import inc; inc.available();"
    code += "print(sorted(m for m in sys.modules if m.startswith('neural_')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=4),
    st.integers(1, 64),
)
@settings(deadline=None, max_examples=50)
def test_the_batch_divides_every_sampling_size(sizes: list[int], most: int) -> None:
    batch = inc._even_batch(sizes, most)
    assert 1 <= batch <= most
    assert all(size % batch == 0 for size in sizes)
    assert not any(gcd(*sizes) % larger == 0 for larger in range(batch + 1, most + 1))


@pytest.mark.parametrize(
    ("goal", "least"),
    [
        (Goal(0.01, "relative"), 0.792),
        (Goal(0.01, "absolute"), 0.79),
        (Goal(0.98, "agreement"), 0.78),
    ],
)
def test_the_point_rule(goal: Goal, least: float) -> None:
    assert inc.Loop("basic", goal).least(0.8) == pytest.approx(least)


@pytest.mark.parametrize(
    ("status", "output", "cause"),
    [
        (-signal.SIGSEGV, "", "its process was ended by SIGSEGV"),
        (-signal.SIGKILL, "", "its process was ended by SIGKILL, as when memory runs out"),
        (1, "Traceback\n  File x\nImportError: no cv2\n\n", "last words: ImportError: no cv2"),
        (3, "MemoryError\nsomething after", "last words: MemoryError"),
        (0, "2026 [WARNING] enough\n", "status 0; its last words: 2026 [WARNING] enough"),
        (None, "", "its process closed the line"),
    ],
)
def test_a_silent_death_is_explained(status: int | None, output: str, cause: str) -> None:
    assert cause in inc.cause_of_death(status, output)


def test_options_that_inc_does_not_know_leave_the_choice_open() -> None:
    asked = {
        "weight": {"dtype": ["int8"], "algorithm": ["kl"], "bit": [7.0]},
        "activation": {"algorithm": ["kl", "unheard_of"], "compute_dtype": ["uint8"]},
    }
    kept = {"weight": {"dtype": ["int8"]}, "activation": {"algorithm": ["kl"]}}
    assert inc._known(asked) == kept


def test_given_scales_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inc, "available", lambda: None)
    path = save(tmp_path, residual_net())
    with pytest.raises(EngineError, match="computes every scale itself"):
        inc.quantize_default(path, images(), Plan("inc", "qdq", encodings_sha256="0"), tmp_path)
    with pytest.raises(EngineError, match="has no mse ranges; write this plan with the onnx"):
        inc.quantize_default(path, images(), Plan("inc", "qdq", Scheme(method="mse")), tmp_path)


def test_bad_inputs_end_before_a_child_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inc, "available", lambda: None)
    path = save(tmp_path, residual_net())
    with pytest.raises(ModelError, match="does not exist"):
        inc.quantize_default(tmp_path / "none.onnx", images(), QDQ, tmp_path)
    with pytest.raises(EngineError, match="at least one calibration image"):
        inc.quantize_default(path, iter(()), QDQ, tmp_path)
    with pytest.raises(OutputError, match="cannot write"):
        inc.quantize_default(path, images(), QDQ, path / "below-a-file")
    assert [entry.name for entry in tmp_path.iterdir()] == ["float.onnx"]


# -------------------------------------------------------------- without INC: the child


def test_heirs_are_found_through_renamed_and_merged_nodes() -> None:
    before = residual_net(gemm=False).graph
    after = onnx.GraphProto()
    after.CopyFrom(before)
    product, bias = after.node[-2], after.node[-1]
    product.name, bias.name = "fc/Fusion_MatMul", "fc/Fusion_Add"
    product.output[0] = bias.input[0] = "logits_MatMul"
    heirs = dict(
        zip([node.name for node in before.node], inc_child.heirs_of(before, after), strict=True)
    )
    assert heirs["conv2"] == {"conv2"}
    assert heirs["fc"] == heirs["fc_bias"] == {"fc/Fusion_MatMul", "fc/Fusion_Add"}


def test_a_folded_constant_has_no_heir() -> None:
    net = Net()
    net.constants.append(numpy_helper.from_array(np.array([0, -1]), "shape"))
    target = net.node("Identity", "same", "shape")
    net.node("Reshape", "flat", "image", target)
    net.node("MatMul", "fc", "flat_out", net.constant("w", 768, 10))
    before = net.model("logits").graph
    after = onnx.GraphProto()
    after.CopyFrom(before)
    del after.node[0]
    after.initializer[0].name = target
    assert inc_child.heirs_of(before, after) == [set(), {"flat"}, {"fc"}]


def test_float_nodes_come_after_the_users_rules() -> None:
    int8 = {"weight": {"dtype": ["int8"]}}
    heirs = {"a.b": {"a.b"}, "fc": {"fc_MatMul", "fc_Add"}, "axb": {"axb"}, "gone": set()}
    rules = inc_child.node_rules({"a.b": int8, "f.": int8, "gone": int8}, ["fc"], heirs)
    assert list(rules) == [r"a\.b", r"(?:f.)|fc_Add|fc_MatMul", "fc_Add", "fc_MatMul"]
    assert rules["fc_Add"]["weight"] == {"dtype": ["fp32"]}


COLLIDING = {"conv2.weight": "conv1.weight_scale", "conv2_out": "logits_MatMul"}
"""Names of the net -> names that INC makes itself for the tensors of other nodes."""


def colliding_net(*, gemm: bool = True) -> onnx.ModelProto:
    model = residual_net(gemm=gemm)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [COLLIDING.get(name, name) for name in names]
    for tensor in model.graph.initializer:
        tensor.name = COLLIDING.get(tensor.name, tensor.name)
    return model


def test_names_like_incs_own_are_changed_and_the_answers_are_not(tmp_path: Path) -> None:
    model = colliding_net()
    model.graph.node[4].name = "conv2_quant"
    free = inc_child.with_free_names(model)
    names = {name for node in free.graph.node for name in [*node.input, *node.output]}
    assert {"conv1.weight_scale_", "logits_MatMul_"} <= names
    assert not names & set(COLLIDING.values())
    assert "conv2_quant_" in {node.name for node in free.graph.node}
    onnx.checker.check_model(free)
    onnx.save(free, tmp_path / "free.onnx")
    np.testing.assert_array_equal(
        outputs(save(tmp_path, model), 4), outputs(tmp_path / "free.onnx", 4)
    )


def test_a_changed_signature_is_refused(tmp_path: Path) -> None:
    made = residual_net()
    made.graph.output[0].name = "probabilities"
    with pytest.raises(inc_child.Refusal, match=r"changed the outputs .*logits.*probabilities"):
        inc_child.write(made, residual_net(), tmp_path, 1)
    assert not list(tmp_path.iterdir())


def test_the_written_model_imports_only_what_it_uses(tmp_path: Path) -> None:
    made = residual_net()
    made.opset_import.extend([helper.make_opsetid("com.microsoft", 1)])
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "other"
    name = inc_child.write(made, residual_net(), tmp_path, 7)
    written = onnx.load(tmp_path / name)
    assert name == "int8-007.onnx"
    assert [opset.domain for opset in written.opset_import] == [""]
    assert written.graph.input[0] == residual_net().graph.input[0]


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ValueError("no scale for\n x"), "ValueError: no scale for x"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (SystemExit(0), "sampling size does not fit (it called exit)"),
    ],
)
def test_what_fit_swallows_is_heard(error: BaseException, cause: str) -> None:
    ear, log = inc_child.Ear(), logging.getLogger("test.ear")
    log.propagate = False
    log.addHandler(ear)
    try:
        log.warning("sampling size does\n not fit")
        try:
            raise error
        except BaseException as swallowed:
            log.error("Unexpected exception %r happened during tuning.", swallowed)
        log.error("Specified timeout or max trials is reached! Exit.")
    finally:
        log.removeHandler(ear)
    assert ear.cause == cause
    assert ear.warning == "sampling size does not fit"


def test_the_loader_gives_batches_of_one_size(tmp_path: Path) -> None:
    for index, batch in enumerate(images(20, 8)):
        np.save(tmp_path / f"calibration-{index:05d}.npy", batch)
    given_back = [batch for batch, _ in inc_child.Images(tmp_path, 6)]
    assert [len(batch) for batch in given_back] == [6, 6, 6, 2]
    np.testing.assert_array_equal(np.concatenate(given_back), np.concatenate(list(images(20, 8))))


# ------------------------------------------------------------- with INC: one candidate


def surroundings() -> dict[str, object]:
    """All of this process that INC is known to touch."""
    return {
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "files": sorted(Path.cwd().rglob("*")),
        "random": random.getstate(),
        "numpy": [str(part) for part in np.random.get_state()],  # noqa: NPY002
        "warnings": list(warnings.filters),
        "signals": [signal.getsignal(number) for number in signal.valid_signals()],
        "logging": list(logging.getLogger().handlers),
        "threads": threading.active_count(),
        "modules": "neural_compressor" in sys.modules,
        "children": children(os.getpid()),
    }


@pytest.fixture(scope="module")
def float_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model"), residual_net())


@dataclass(frozen=True)
class Made:
    """INC's default candidate, and this process before and after."""

    plan: Plan
    path: Path
    before: dict[str, object]
    after: dict[str, object]


@pytest.fixture(scope="module", params=[QDQ, QOPERATOR], ids=lambda plan: plan.format)
def made(
    request: pytest.FixtureRequest, float_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Made:
    folder = tmp_path_factory.mktemp("default")
    (folder / "here").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "here")
        patch.setenv("HOME", str(folder / "here"))
        patch.delenv("XDG_CACHE_HOME", raising=False)
        before = surroundings()
        path = inc.quantize_default(float_file, images(), request.param, folder / "out")
        return Made(request.param, path, before, surroundings())


class TestDefaultCandidate:
    pytestmark = needs_inc

    def test_the_caller_is_as_it_was(self, made: Made) -> None:
        assert made.after == made.before
        assert list(made.path.parent.iterdir()) == [made.path]

    def test_agrees_with_float(self, made: Made, float_file: Path) -> None:
        floats, ints = outputs(float_file), outputs(made.path)
        assert sqnr_db(floats, ints) > 25
        assert (floats.argmax(1) == ints.argmax(1)).mean() > 0.9

    def test_every_convolution_is_int8_per_channel(self, made: Made) -> None:
        model = onnx.load(made.path)
        kind = "Conv" if made.plan.format == "qdq" else "QLinearConv"
        convolutions = [node for node in model.graph.node if node.op_type == kind]
        assert [node.name for node in convolutions] == [f"conv{i}_quant" for i in (1, 2, 3, 4)]
        assert not any(map(is_float, convolutions))
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        assert constants["conv2.weight_quantized"].data_type == TensorProto.INT8
        assert list(constants["conv2.weight_scale"].dims) == [8]

    def test_the_signature_is_kept_and_only_used_domains_are_imported(
        self, made: Made, float_file: Path
    ) -> None:
        model, original = onnx.load(made.path), onnx.load(float_file).graph
        assert list(model.graph.input) == list(original.input)
        assert list(model.graph.output) == list(original.output)
        domains = {opset.domain for opset in model.opset_import}
        assert domains == ({""} if made.plan.format == "qdq" else {"", "com.microsoft"})

    def test_equal_inputs_give_equal_bytes(
        self, made: Made, float_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        differences = {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "2", "TZ": "Asia/Tokyo"}
        for name, value in differences.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        again = inc.quantize_default(float_file, images(20, 5), made.plan, Path("again"))
        assert again.read_bytes() == made.path.read_bytes()


class TestPlan:
    pytestmark = needs_inc

    @pytest.mark.parametrize("kind", ["qdq", "qoperator"])
    def test_float_nodes_and_rules_reach_renamed_nodes_and_colliding_names_do_no_harm(
        self, kind: str, tmp_path: Path
    ) -> None:
        gemm = kind == "qdq"  # INC makes fc_MatMul of a Gemm, fc/MatMulAddFusion_MatMul else
        scheme = Scheme(weight_granularity="per_tensor", reduce_range=True)
        plan = Plan("inc", kind, scheme, keep_float=("conv2", "fc"))
        rules = inc.Rules(
            op_names={
                "conv3": {"weight": {"granularity": ["per_channel"], "bit": [7.0]}},
                "conv[12]": {"activation": {"dtype": ["int8", "uint8"]}},
            },
            recipes={"first_conv_or_matmul_quantization": False},
        )
        path = inc.quantize_default(
            save(tmp_path, colliding_net(gemm=gemm)), images(), plan, tmp_path, rules=rules
        )
        nodes = nodes_of(path)
        floats = {name for name, node in nodes.items() if node.op_type in ("Conv", "MatMul")}
        fc = "fc_MatMul" if gemm else "fc/MatMulAddFusion_MatMul"
        assert {"conv1", "conv2", fc} <= floats
        assert all(is_float(nodes[name]) for name in ("conv1", "conv2", fc))
        assert not floats & {"conv3", "conv4"}
        constants = {t.name: t for t in onnx.load(path).graph.initializer}
        assert list(constants["conv3.weight_scale"].dims) == [8]
        assert list(constants["conv4.weight_scale"].dims) in ([], [1])
        seven_bits = numpy_helper.to_array(constants["conv4.weight_quantized"])
        assert 60 <= np.abs(seven_bits.astype(int)).max() <= 64
        assert sqnr_db(outputs(tmp_path / "float.onnx"), outputs(path)) > 20

    def test_a_node_that_is_not_there_cannot_stay_float(
        self, float_file: Path, tmp_path: Path
    ) -> None:
        plan = Plan("inc", "qdq", keep_float=("conv9",))
        with pytest.raises(EngineError, match="'conv9' is to stay float, but no node is called"):
            inc.quantize_default(float_file, images(), plan, tmp_path)


class TestFailure:
    pytestmark = needs_inc

    def test_a_broken_model_is_the_cause(self, tmp_path: Path) -> None:
        path = tmp_path / "float.onnx"
        path.write_bytes(residual_net().SerializeToString()[:-500])
        with pytest.raises(EngineError, match=r"failed on float\.onnx: DecodeError"):
            inc.quantize_default(path, images(), QDQ, tmp_path)
        assert list(tmp_path.iterdir()) == [path]

    def test_an_exception_that_inc_swallows_is_the_cause(self, tmp_path: Path) -> None:
        path = save(tmp_path, residual_net(pad=True))
        with pytest.raises(EngineError) as caught:
            inc.quantize_default(path, images(), QOPERATOR, tmp_path)
        assert "ValueError: Quantization parameters are not specified" in caught.value.message
        assert "timeout" not in caught.value.message
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.slow
    def test_images_of_the_wrong_size_are_the_cause(self, float_file: Path, tmp_path: Path) -> None:
        with pytest.raises(EngineError, match="Got invalid dimensions for input"):
            inc.quantize_default(float_file, images(size=20), QDQ, tmp_path)


# --------------------------------------------------------------- with INC: its own loops


class TestLoop:
    pytestmark = needs_inc

    def test_every_candidate_of_a_hopeless_loop_is_kept(
        self, float_file: Path, tmp_path: Path
    ) -> None:
        asked: list[Path] = []
        told: list[inc.IncTrial] = []
        answer = falling()

        def evaluate(path: Path) -> float:
            asked.append(path)
            assert path == float_file or np.isfinite(outputs(path, 2)).all()
            return answer(path)

        result = inc.tune(
            float_file,
            images(),
            evaluate,
            loop=NEVER,
            plan=QDQ,
            folder=tmp_path / "trials",
            on_trial=told.append,
        )
        assert result.baseline == 1.0
        assert result.chosen is None
        assert result.reason == "no candidate met the goal in 5 trials: max_trials (5) is reached"
        assert list(result.trials) == told
        assert len(told) == 5
        assert asked == [float_file, *dict.fromkeys(trial.path for trial in told)]
        assert sorted((tmp_path / "trials").iterdir()) == sorted(set(asked[1:]))
        twins = [trial for trial in told if trial.note]
        assert twins  # the kl candidate of INC is its minmax one
        for twin in twins:
            assert twin.note == f"same bytes as {twin.path.stem}"
            assert twin.accuracy == next(t.accuracy for t in told if t.path == twin.path)
        assert all(trial.seconds > 0 for trial in told)

    def test_the_goal_ends_the_loop_after_every_node_was_quantized(
        self, float_file: Path, tmp_path: Path
    ) -> None:
        answers = iter([0.8, 0.7, 0.7919, 0.7921])
        result = inc.tune(
            float_file,
            images(),
            lambda path: next(answers),
            loop=inc.Loop("basic", Goal(0.01), (16,), max_trials=9),
            plan=QOPERATOR,
            folder=tmp_path,
        )
        assert [trial.accuracy for trial in result.trials] == [0.7, 0.7919, 0.7921]
        assert result.chosen == result.trials[-1].path
        assert result.reason == f"goal met by {result.trials[-1].path.stem}"
        kinds = [node.op_type for node in onnx.load(result.trials[0].path).graph.node]
        assert kinds.count("QLinearConv") == 4

    @pytest.mark.slow
    @pytest.mark.parametrize("strategy", ["random", "bayesian", "exhaustive", "mse_v2"])
    def test_a_loop_runs_to_its_limit_and_the_seed_repeats_it(
        self, strategy: inc.StrategyName, float_file: Path, tmp_path: Path
    ) -> None:
        loop = inc.Loop(strategy, Goal(0.01), (8, 16), max_trials=14, seed=7)

        def run(name: str) -> list[bytes]:
            result = inc.tune(
                float_file, images(), falling(), loop=loop, plan=QDQ, folder=tmp_path / name
            )
            assert result.reason.endswith("14 trials: max_trials (14) is reached")
            return [trial.path.read_bytes() for trial in result.trials]

        one = run("one")
        assert len(set(one)) >= 6
        assert run("two") == one

    @pytest.mark.slow
    def test_mse_v2_chooses_the_last_that_met_the_goal(
        self, float_file: Path, tmp_path: Path
    ) -> None:
        def evaluate(path: Path) -> float:
            ints = [node for node in onnx.load(path).graph.node if node.name.endswith("_quant")]
            return 1.0 - 0.004 * sum(node.op_type in ("Conv", "MatMul") for node in ints)

        result = inc.tune(
            float_file,
            images(),
            evaluate,
            loop=inc.Loop("mse_v2", Goal(0.01), (16,), max_trials=40),
            plan=QDQ,
            folder=tmp_path,
        )
        met = [trial for trial in result.trials if trial.accuracy >= 0.99]
        assert result.chosen == met[-1].path
        assert met[-1].accuracy == pytest.approx(0.992)

    def test_what_the_evaluation_raises_comes_out_and_no_child_stays(
        self, float_file: Path, tmp_path: Path
    ) -> None:
        class OutOfImagesError(Exception):
            pass

        error = OutOfImagesError("disk unplugged")

        def evaluate(path: Path) -> float:
            raise error

        before = children(os.getpid())
        with pytest.raises(OutOfImagesError) as caught:
            inc.tune(float_file, images(), evaluate, loop=NEVER, plan=QDQ, folder=tmp_path / "out")
        assert caught.value is error
        assert caught.value.__cause__ is None
        assert children(os.getpid()) == before
        assert not list((tmp_path / "out").iterdir())

    @linux
    def test_a_killed_child_is_noticed_and_the_candidates_stay(
        self, float_file: Path, tmp_path: Path
    ) -> None:
        answer = falling()
        before = children(os.getpid())

        def evaluate(path: Path) -> float:
            if path.stem == "trial-002":
                (child,) = set(children(os.getpid())).difference(before)
                os.kill(child, signal.SIGKILL)
            return answer(path)

        result = inc.tune(float_file, images(), evaluate, loop=NEVER, plan=QDQ, folder=tmp_path)
        assert len(result.trials) == 2
        assert result.reason == (
            "no candidate met the goal in 2 trials: INC failed: its process was ended by SIGKILL,"
            " as when memory runs out"
        )

    def test_the_time_limit_ends_the_loop(self, float_file: Path, tmp_path: Path) -> None:
        started = time.monotonic()
        result = inc.tune(
            float_file,
            images(),
            falling(),
            loop=inc.Loop("basic", Goal(0.01), (16,), timeout_s=1),
            plan=QDQ,
            folder=tmp_path,
        )
        assert time.monotonic() - started < 20
        assert result.reason == "no candidate met the goal in 0 trials: the time of 1 s is over"
        assert result.baseline is None


# ------------------------------------------------------------------ with INC: interruption


def start_job(float_file: Path, folder: Path, evaluate: str) -> subprocess.Popen[str]:
    """A process that tunes; `evaluate` is the body of its evaluation."""
    code = f"""
        import signal, sys, time
        import numpy as np
        from pathlib import Path
        from quantize.engines import inc
        from quantize.plan import Goal, Plan

        # Whoever starts the tests in the background may have had SIGINT ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)

        def evaluate(path):
            {evaluate}

        pixels = np.zeros((4, 3, 16, 16), np.float32)
        print("starting", flush=True)
        try:
            inc.tune(Path(sys.argv[1]), [pixels], evaluate, folder=Path(sys.argv[2]),
                     loop=inc.Loop("basic", Goal(0.01)), plan=Plan("inc", "qdq"))
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            sys.exit(130)
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(float_file), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@linux
class TestInterruption:
    pytestmark = needs_inc

    @pytest.mark.parametrize(
        ("evaluate", "ready"),
        [("return 1.0", "starting"), ("print('asked', flush=True); time.sleep(60)", "asked")],
        ids=["while INC starts", "while the parent evaluates"],
    )
    def test_ctrl_c_ends_parent_and_child(
        self, evaluate: str, ready: str, float_file: Path, tmp_path: Path
    ) -> None:
        with start_job(float_file, tmp_path / "out", evaluate) as job:
            assert job.stdout is not None
            while job.stdout.readline().strip() != ready:
                pass
            assert wait_until(lambda: children(job.pid), 5)
            group = children(job.pid)
            time.sleep(0.3)
            job.send_signal(signal.SIGINT)
            job.wait(10)
            assert job.stdout.read().strip() == "interrupted"
        assert job.returncode == 130
        assert not any(map(alive, group))
        assert not list((tmp_path / "out").iterdir())

    @pytest.mark.parametrize("ready", ["starting", "asked"])
    def test_a_child_without_parent_ends_itself_and_clears_its_folder(
        self, ready: str, float_file: Path, tmp_path: Path
    ) -> None:
        evaluate = "print('asked', flush=True); time.sleep(60)"
        with start_job(float_file, tmp_path / "out", evaluate) as job:
            assert job.stdout is not None
            while job.stdout.readline().strip() != ready:
                pass
            assert wait_until(lambda: children(job.pid), 5)
            (child,) = children(job.pid)
            job.kill()
        assert wait_until(lambda: not alive(child), 5)
        assert not list((tmp_path / "out").iterdir())


# ----------------------------------------------------------------------- the real network


def run(model: onnx.ModelProto, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: pixels})[0]


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "models").exists(), reason="no shared models")
class TestResNet20:
    pytestmark = needs_inc

    @pytest.mark.parametrize("plan", [QDQ, QOPERATOR], ids=lambda plan: plan.format)
    def test_all_nineteen_convolutions_are_quantized(self, plan: Plan, tmp_path: Path) -> None:
        model = onnx.load(SHARED / "models" / "resnet20-cifar10.onnx")
        path = save(tmp_path, prepare(model, run, (3, 32, 32)).model)
        made = inc.quantize_default(path, images(100, 10, 32), plan, tmp_path)
        convolutions = [n for n in onnx.load(made).graph.node if n.op_type.endswith("Conv")]
        assert len(convolutions) == 19
        assert not any(map(is_float, convolutions))
        assert made.stat().st_size < 0.35 * path.stat().st_size
        pixels = np.random.default_rng(3).standard_normal((50, 3, 32, 32)).astype(np.float32)
        assert sqnr_db(run(model, pixels), run(onnx.load(made), pixels)) > 25
