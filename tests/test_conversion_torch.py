"""A state dict comes in: the right network, the right numbers, and nothing that runs code."""

import pickle
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from graphs import noise, ops
from models import run, with_outputs
from quantize.conversion.torch import import_torch
from quantize.conversion.torch_resnet import Layout, shapes
from quantize.errors import ModelError
from states import bfloat16, program, safetensors, state_dict

STATE = state_dict(18)


@pytest.fixture
def write(tmp_path):
    def writing(state, **rest):
        path = tmp_path / "weights.bin"
        path.write_bytes(safetensors(state, **rest))
        return path

    return writing


def outputs_of(imported, images):
    """Every tensor that onnxruntime computes, by name."""
    names = [node.output[0] for node in imported.model.graph.node]
    model = with_outputs(imported.model, names)
    model.graph.input[0].name = "data"
    model.graph.node[0].input[0] = "data"
    return dict(zip(names, run(model, images, names), strict=True))


def assert_same(imported, images, tolerance=1e-4):
    seen, expected = outputs_of(imported, images), imported.reference(images)
    assert list(seen) == list(expected)
    for name, value in expected.items():
        assert seen[name].shape == value.shape
        assert np.abs(seen[name] - value).max() <= tolerance * np.abs(value).max(), name


@pytest.mark.parametrize(
    "depth", [18, 50, *(pytest.param(d, marks=pytest.mark.slow) for d in (34, 101, 152))]
)
def test_onnx_and_numpy_agree_in_every_tensor(write, depth):
    imported = import_torch(write(state_dict(depth)))
    onnx.checker.check_model(imported.model, full_check=True)
    assert_same(imported, noise(2, 3, 40, 40))


@pytest.mark.parametrize(
    ("depth", "nodes"),
    [(18, 69), (34, 125)]
    + [pytest.param(*case, marks=pytest.mark.slow) for case in ((50, 175), (101, 345), (152, 515))],
)
def test_the_depth_is_told_by_the_names(write, depth, nodes):
    imported = import_torch(write(state_dict(depth, classes=7)))
    assert len(ops(imported.model)) == nodes
    shape = imported.model.graph.output[0].type.tensor_type.shape
    assert [d.dim_param or d.dim_value for d in shape.dim] == ["N", 7]
    assert any(f"ResNet-{depth}" in step for step in imported.steps)


def test_float_parameters_are_those_of_torchvision():
    published = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}
    for depth, parameters in published.items():
        learned = {n: s for n, s in shapes(Layout(depth, 3, 1000)).items() if "running" not in n}
        assert sum(int(np.prod(shape)) for shape in learned.values()) == parameters


def test_prefixes_of_wrappers_are_taken_off(write):
    wrapped = {f"state_dict.module.{name}": value for name, value in STATE.items()}
    imported = import_torch(write(wrapped), depth=18)
    assert imported.steps[1] == "took the prefix 'state_dict.module.' off every name"
    plain = import_torch(write(STATE))
    assert imported.model.SerializeToString() == plain.model.SerializeToString()


def test_half_precision_becomes_float32(write):
    halves = {n: v.astype(np.float16) if v.dtype.kind == "f" else v for n, v in STATE.items()}
    cut = {n: bfloat16(v) if v.dtype.kind == "f" else v for n, v in STATE.items()}
    for state in (halves, cut):
        imported = import_torch(write(state))
        kinds = {tensor.data_type for tensor in imported.model.graph.initializer}
        assert kinds == {onnx.TensorProto.FLOAT}
        assert_same(imported, noise(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"layer2.1.bn1.bias": None}, "without 'layer2.1.bn1.bias'"),
        ({"fc.weight": np.zeros((10, 511), "f")}, r"\[10, 511\], where a ResNet-18"),
        ({"conv1.weight": np.zeros((64, 3, 3, 3), "f")}, r"\[64, 3, 3, 3\], where"),
        ({"layer1.0.se.fc.weight": np.zeros(3, "f")}, "layer1.0.se.fc.weight' is in no ResNet-18"),
        ({"bn1.running_var": -np.ones(64, "f")}, "negative variance"),
        ({"bn1.bias": np.full(64, np.nan, "f")}, "NaN or infinity"),
        ({"bn1.bias": np.full(64, 1e300)}, "NaN or infinity"),
        ({"bn1.bias": np.zeros(64, np.int64)}, "no floats"),
        ({"layer4.2.conv1.weight": np.zeros((1, 1, 1, 1), "f")}, r"\(2, 2, 2, 3\) blocks"),
        (dict.fromkeys([n for n in STATE if n.startswith("layer")]), "it has no `layer1.0.`"),
        (dict.fromkeys(STATE), "no state dict"),
    ],
)
def test_another_network_is_refused_by_name(write, change, complaint):
    state = {name: value for name, value in {**STATE, **change}.items() if value is not None}
    with pytest.raises(ModelError, match=complaint):
        import_torch(write(state))


@pytest.mark.parametrize(
    ("shape", "kin"), [((128, 4, 3, 3), "ResNeXt"), ((128, 128, 3, 3), "Wide ResNet")]
)
def test_kin_are_refused_by_name(write, shape, kin):
    with pytest.raises(ModelError, match=kin):
        import_torch(write({**state_dict(50), "layer1.0.conv2.weight": np.zeros(shape, "f")}))


def test_another_depth_than_asked_for_is_refused(write):
    with pytest.raises(ModelError, match="holds a ResNet-18, not a ResNet-34"):
        import_torch(write(STATE), depth=34)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "cut short"),
        (b"hello, this is no model at all, and never was", "neither safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "LFS pointer"),
        (b"PK\x03\x04" + b"\0" * 100, "damaged archive"),
    ],
)
def test_other_files_are_refused(tmp_path, content, complaint):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=complaint):
        import_torch(path)
    with pytest.raises(ModelError, match="No such file"):
        import_torch(tmp_path / "nothing.pth")
    with pytest.raises(ModelError, match="cannot be read"):
        import_torch(tmp_path)


# ----------------------------------------------------------------------------- .pt2


def test_a_program_without_pickles_comes_in(tmp_path, write):
    imported = import_torch(program(tmp_path / "x.pt2", STATE))
    assert imported.steps[0] == "read 122 arrays from an exported program, whose graph was not read"
    plain = import_torch(write(STATE))
    assert imported.model.SerializeToString() == plain.model.SerializeToString()


@pytest.mark.parametrize(
    ("rest", "complaint"),
    [
        ({"more": {"data/sample_inputs/model.pt": b"PK"}}, "sample_inputs/model.pt' is pickled"),
        ({"more": {"data/constants/custom_obj_0": b""}}, "custom_obj_0' is pickled"),
        ({"more": {"data/aotinductor/model/x.so": b""}}, "x.so' may be code"),
        ({"more": {"extra/x.py": b""}}, "x.py' may be code"),
        ({"more": {"byteorder": b"big"}}, "not little-endian"),
        ({"change": {"fc.bias": {"use_pickle": True}}}, "'fc.bias' is pickled"),
        ({"change": {"fc.bias": {"use_pickle": 0}}}, "'fc.bias' is pickled"),
        ({"change": {"fc.bias": {"path_name": "weight_0"}}}, "asks for 40"),
        ({"change": {"fc.bias": {"path_name": "../../x"}}}, "damaged or unusual"),
        ({"change": {"fc.bias": {"tensor_meta": None}}}, "damaged or unusual"),
        ({"compression": zipfile.ZIP_DEFLATED}, "is compressed"),
    ],
)
def test_a_program_that_is_more_than_data_is_refused(tmp_path, rest, complaint):
    small = {name: STATE[name] for name in ("conv1.weight", "fc.bias")}
    with pytest.raises(ModelError, match=complaint):
        import_torch(program(tmp_path / "x.pt2", small, **rest))


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        (["a/serialized_exported_program.json", "a/serialized_state_dict.pt"], "is pickled"),
        (["a/code/x.py", "a/constants.pkl", "a/data.pkl"], "TorchScript"),
        (["word/document.xml"], "none of torch's"),
    ],
)
def test_other_archives_are_refused(tmp_path, members, complaint):
    path = tmp_path / "x"
    with zipfile.ZipFile(path, "w") as archive:
        for name in members:
            archive.writestr(name, b"{}")
    with pytest.raises(ModelError, match=complaint):
        import_torch(path)


@pytest.mark.parametrize("place", range(0, 60, 7))
def test_a_damaged_program_is_one_error(tmp_path, place):
    path = program(tmp_path / "x.pt2", {"fc.bias": STATE["fc.bias"]})
    content = bytearray(path.read_bytes())
    for start in (0, 200, len(content) - 80):
        content[start + place] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ModelError):
        import_torch(path)


# ----------------------------------------------------------------------------- .pth


class _Code:
    def __reduce__(self):
        return print, ("this ran",)


def test_a_pickle_is_never_loaded_without_torch(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "x.pth"
    path.write_bytes(pickle.dumps(_Code()))
    with pytest.raises(ModelError, match=r"needs torch to be read.*quantize\[torch\]"):
        import_torch(path)
    assert capsys.readouterr().out == ""


def test_a_torch_with_known_holes_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(__version__="2.5.1+cpu"))
    path = tmp_path / "x.pth"
    path.write_bytes(pickle.dumps(_Code()))
    with pytest.raises(ModelError, match=r"torch 2.5.1\+cpu has known holes"):
        import_torch(path)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch is not installed: pip install '.[torch]'")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("nested", ["", "state_dict", "model"])
def test_a_pth_comes_in(torch, tmp_path, write, zipped, nested):
    state = {name: torch.from_numpy(value) for name, value in STATE.items()}
    content = {nested: state, "epoch": 3} if nested else state
    path = tmp_path / "x.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    plain = import_torch(write(STATE))
    assert import_torch(path).model.SerializeToString() == plain.model.SerializeToString()


def test_halves_of_a_pth_come_in(torch, tmp_path, write):
    cut = {name: torch.from_numpy(value).to(torch.bfloat16) for name, value in STATE.items()}
    path = tmp_path / "x.pth"
    torch.save(cut, path)
    assert_same(import_torch(path), noise(1, 3, 32, 32))


def test_a_pth_with_code_is_refused_and_does_not_run(torch, tmp_path, capsys):
    for protocol, zipped in ((2, True), (2, False)):
        path = tmp_path / "x.pth"
        torch.save(
            {"conv1.weight": _Code()}, path, pickle_protocol=protocol,
            _use_new_zipfile_serialization=zipped,
        )  # fmt: skip
        with pytest.raises(ModelError, match="more than weights"):
            import_torch(path)
    path.write_bytes(pickle.dumps(_Code()))
    with pytest.raises(ModelError):
        import_torch(path)
    assert capsys.readouterr().out == ""


def test_a_view_that_pretends_to_be_large_takes_no_memory(torch, tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"conv1.weight": torch.zeros(1).expand(1 << 20, 1 << 20)}, path)
    with pytest.raises(ModelError, match="more values than the file holds"):
        import_torch(path)


def test_tensors_that_are_no_arrays_are_refused(torch, tmp_path):
    path = tmp_path / "x.pth"
    for tensor in (torch.eye(3).to_sparse(), torch.zeros(3, dtype=torch.complex64)):
        torch.save({"conv1.weight": tensor}, path)
        with pytest.raises(ModelError, match="sparse, quantized, complex"):
            import_torch(path)
    for content in ([1, 2], {"a": 1}, {"a": torch.zeros(3).untyped_storage()}):
        torch.save(content, path)
        with pytest.raises(ModelError, match="no state dict"):
            import_torch(path)


def test_cut_and_damaged_pths_are_one_error(torch, tmp_path):
    path = tmp_path / "x.pth"
    small = {"conv1.weight": torch.zeros(64, 3, 7, 7)}
    for zipped in (True, False):
        torch.save(small, path, _use_new_zipfile_serialization=zipped)
        whole = path.read_bytes()
        for length in (5, 100, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(ModelError):
                import_torch(path)


def test_torch_computes_the_same(torch, tmp_path):
    """Torch's own convolutions, on the tree that torchvision builds."""
    functional = torch.nn.functional
    for depth in (18, 50):
        state = state_dict(depth)
        path = tmp_path / f"{depth}.safetensors"
        path.write_bytes(safetensors(state))
        images = noise(2, 3, 40, 40)
        with torch.no_grad():
            expected = _forward(torch, functional, state, torch.from_numpy(images)).numpy()
        seen = import_torch(path).reference(images)["output"]
        assert np.abs(seen - expected).max() <= 1e-4 * np.abs(expected).max()


def _forward(torch, functional, state, x):
    weights = {name: torch.from_numpy(value) for name, value in state.items()}

    def unit(conv, norm, x, stride=1):
        weight = weights[f"{conv}.weight"]
        y = functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        parts = [weights[f"{norm}.{p}"] for p in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(y, *parts)

    x = functional.max_pool2d(torch.relu(unit("conv1", "bn1", x, 2)), 3, 2, 1)
    blocks = sorted({tuple(n.split(".")[:2]) for n in weights if n.startswith("layer")},
                    key=lambda b: (b[0], int(b[1])))  # fmt: skip
    for stage, index in blocks:
        name = f"{stage}.{index}"
        stride = 2 if index == "0" and stage != "layer1" else 1
        count = 3 if f"{name}.conv3.weight" in weights else 2
        y = x
        for number in range(1, count + 1):
            strided = number == (2 if count == 3 else 1)
            y = unit(f"{name}.conv{number}", f"{name}.bn{number}", y, stride if strided else 1)
            y = torch.relu(y) if number < count else y
        if f"{name}.downsample.0.weight" in weights:
            x = unit(f"{name}.downsample.0", f"{name}.downsample.1", x, stride)
        x = torch.relu(y + x)
    x = functional.adaptive_avg_pool2d(x, 1).flatten(1)
    return functional.linear(x, weights["fc.weight"], weights["fc.bias"])


def test_torchvision_computes_the_same(torch, tmp_path):
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    torch.manual_seed(0)
    for depth in (18, 50):
        net = getattr(torchvision.models, f"resnet{depth}")(num_classes=10).eval()
        path = tmp_path / f"{depth}.pth"
        torch.save(net.state_dict(), path)
        images = noise(1, 3, 40, 40)
        with torch.no_grad():
            expected = net(torch.from_numpy(images)).numpy()
        seen = import_torch(path).reference(images)["output"]
        assert np.abs(seen - expected).max() <= 1e-4 * np.abs(expected).max()


def test_importing_does_not_load_torch():
    code = "import quantize.conversion.torch, sys; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
