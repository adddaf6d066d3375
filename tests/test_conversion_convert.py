"""The door: every way in and out together, from the command line, and what it never does."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import quantize
from conftest import tree
from models import tiny_dataset, tiny_resnet, write_image_folder
from mxnet_files import classic_resnet
from quantize.conversion import convert as door
from quantize.conversion import way
from quantize.conversion.imported import Imported
from quantize.conversion.proof import traced
from quantize.errors import ConversionError, QuantizeError
from quantize.graph import io
from quantize.graph.view import dims, opset
from quantize.runtime import Session


@pytest.fixture(scope="module")
def net():
    return tiny_resnet(softmax=True)


@pytest.fixture
def files(tmp_path, net, monkeypatch):
    """A source, an output, and an importer that only reads."""

    def read(source):
        model = io.load(source.path)
        return Imported(model, traced(model), ("read",))

    monkeypatch.setattr(door, "import_model", read)
    onnx.save(net, tmp_path / "net.onnx")
    return tmp_path / "net.onnx", tmp_path / "out.onnx"


def spoil(monkeypatch, name, node, operator):
    """Let one step of the way put another operator in place of a node's."""
    honest = getattr(way, name)

    def sabotaged(*arguments, **options):
        made = honest(*arguments, **options)
        model = made[0] if isinstance(made, tuple) else made
        next(n for n in model.graph.node if n.name == node).op_type = operator
        return made

    monkeypatch.setattr(way, name, sabotaged)


def test_all_that_goes_together(files, tmp_path):
    source, output = files
    items = [(image, label) for image, label in tiny_dataset(size=30)]
    write_image_folder(tmp_path / "images", items)
    made = quantize.convert(
        source,
        output,
        opset=17,
        float16=True,
        batch=1,
        with_preprocessing=True,
        preprocessing="short_side",
        external_data=True,
        images=tmp_path / "images",
    )
    assert made.files == (output, tmp_path / "out.onnx.data")
    assert (made.kind, made.opset, made.images) == ("onnx", 17, "named")
    steps = ["import", "batch 1", "float16", "opset 13 to 17", "with preprocessing"]
    assert [check.step for check in made.proof] == steps
    assert [check.images for check in made.proof] == [4, 4, 42, 4, 2]
    assert made.steps[0] == "read"
    model = io.load(output)
    assert opset(model) == 17
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    scores = Session(output).run(items[0][0])[0]
    assert scores.shape == (1, 4)
    assert scores.sum() == pytest.approx(1, abs=1e-2)


def test_a_source_with_arithmetic_of_its_own(tmp_path):
    """No onnxruntime on the other side: MXNet's operators in numpy."""
    symbol, params = classic_resnet((1, 1), (4, 4, 8)).write(tmp_path / "net")
    params = params.rename(tmp_path / "weights")
    made = quantize.convert(
        symbol, tmp_path / "out.onnx", weights=params, opset=17, batch=2, image_size=(224, 240)
    )
    assert made.kind == "mxnet"
    assert [check.step for check in made.proof][1:] == ["image size", "batch 2", "opset 13 to 17"]
    assert 0 < made.proof[1].distance < 1e-4  # numpy takes the new size, too
    assert made.proof[1].note == ""
    assert dims(io.load(tmp_path / "out.onnx").graph.input[0]) == [2, 3, 224, 240]


def test_for_people_and_for_machines(files, cli):
    source, output = files
    answer = cli("convert", source, "-o", output, "--batch", "2", "--check", "axon")
    assert answer.code == 0
    assert answer.err.splitlines() == ["import: 4 of 4 images", "batch 2: 4 of 4 images"]
    lines = answer.out.splitlines()
    assert lines[0] == f"files      {output}"
    assert lines[-1] == "images     synthetic ones and noise, since no --images were given"
    assert "proof      import: within" in answer.out
    assert "           batch 2: equal to the last bit" in answer.out
    assert dims(onnx.load(output).graph.input[0])[0] == 2
    answer = cli("convert", source, "-o", output, "--float16", "--float16-io", "--json")
    told = json.loads(answer.out)
    assert told["files"] == [str(output)]
    assert [c["step"] for c in told["proof"]["checks"]] == ["import", "float16"]
    assert told["proof"]["checks"][1]["distance"] < 1e-2
    assert onnx.load(output).graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16


def test_another_size_from_the_command_line(files, cli):
    source, output = files
    answer = cli("convert", source, "-o", output, "--image-size", "224x256", "--json")
    assert answer.code == 0
    assert dims(io.load(output).graph.input[0]) == [None, 3, 224, 256]
    assert "only one that it takes" in json.loads(answer.out)["proof"]["checks"][1]["note"]


@pytest.mark.parametrize(
    ("step", "node", "operator", "flags"),
    [
        ("with_batch", "relu1", "Abs", ("--batch", "2")),
        ("with_opset", "relu2", "Tanh", ("--opset", "17")),
        ("to_float16", "relu1", "Sigmoid", ("--float16",)),
        ("with_size", "relu0", "Sigmoid", ("--image-size", "224x224")),
    ],
)
def test_a_sabotaged_step_is_exit_3_and_writes_nothing(
    files, cli, monkeypatch, step, node, operator, flags
):
    source, output = files
    output.write_bytes(b"older")
    before = tree(source.parent)
    spoil(monkeypatch, step, node, operator)
    answer = cli("convert", source, "-o", output, "--quiet", *flags)
    assert (answer.code, answer.out) == (3, "")
    assert len(answer.err.splitlines()) == 1
    assert answer.err.startswith("quantize: error: ")
    assert f"the first layer that differs is '{node}' ({operator})" in answer.err
    assert tree(source.parent) == before


def test_a_sabotaged_import_names_the_layer(files, monkeypatch, net):
    source, output = files

    def spoiled(given):
        model = io.load(given.path)
        next(n for n in model.graph.node if n.name == "add").op_type = "Sub"
        return Imported(model, traced(net), ())

    monkeypatch.setattr(door, "import_model", spoiled)
    with pytest.raises(ConversionError, match=r"^import: .* layer that differs is 'add' \(Sub\)"):
        quantize.convert(source, output)
    assert not output.exists()


def test_an_int8_form_with_another_integer_is_found(files, monkeypatch):
    """The other form is written elsewhere; here one integer of it changes."""
    source, output = files
    model = io.load(source)
    weight = np.arange(-8, 8, dtype=np.int8).reshape(4, 4)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(model, source)
    monkeypatch.setattr(way, "with_format", lambda given, _: given)
    made = quantize.convert(source, output, format="qdq")
    assert "kept the integers of 1 weights, bit for bit" in made.steps
    assert made.proof[1].agreement == 1.0

    def changed(given, _):
        other = onnx.ModelProto()
        other.CopyFrom(given)
        other.graph.initializer[-1].CopyFrom(onnx.numpy_helper.from_array(weight + 1, "w"))
        return other

    monkeypatch.setattr(way, "with_format", changed)
    with pytest.raises(ConversionError, match="the integers of weight 'w'"):
        quantize.convert(source, output, format="qoperator")


def test_axon_names_what_it_cannot_load(files, cli):
    source, output = files
    model = io.load(source)
    next(n for n in model.graph.node if n.name == "relu1").op_type = "Ceil"
    next(n for n in model.graph.node if n.name == "relu0").op_type = "Mish"
    model.opset_import[0].version = 18
    onnx.save(model, source)
    answer = cli("convert", source, "-o", output, "--check", "axon")
    assert answer.code == 3
    assert "AxonOnnx cannot load the model: Mish at relu0;" in answer.err
    assert not output.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--batch", "0"), "write 8 or free"),
        (("--batch", "many"), "write 8 or free"),
        (("--image-size", "224"), "write height and width as 256x320"),
        (("--image-size", "100x224"), "is not from 224 to 4096"),
        (("--format", "int8"), "'int8' is not qdq or qoperator"),
        (("--format", "qdq"), "the model is not int8"),
        (("--check", "tflite"), "'tflite' is not axon"),
        (("--opset", "5"), "opset 5 is not from 7"),
        (("--float16-io",), "--float16-io needs --float16"),
        (("--with-preprocessing",), "needs --preprocessing"),
        (("--weights", "x.params"), "drop --weights"),
        (("--images", "nowhere"), "is no folder"),
        (("--preprocessing", "nowhere.yaml"), "nowhere.yaml"),
    ],
)
def test_bad_wishes_are_exit_2_and_write_nothing(files, cli, flags, message):
    source, output = files
    before = tree(source.parent)
    answer = cli("convert", source, "-o", output, *flags)
    assert answer.code == 2
    assert message in " ".join(answer.err.split())
    assert "Traceback" not in answer.err
    assert tree(source.parent) == before


def test_the_source_is_not_its_own_output(files, cli):
    source, _ = files
    before = source.read_bytes()
    answer = cli("convert", source, "-o", source)
    assert (answer.code, "is the source; name another file" in answer.err) == (2, True)
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.graph.input.add().CopyFrom(m.graph.input[0]), "no image classifier"),
        (lambda m: m.graph.input[0].type.tensor_type.shape.dim.pop(), "no image classifier"),
        (
            lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 9999),
            "takes 9999 images at once",
        ),
        (
            lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.DOUBLE),
            "is not float32",
        ),
    ],
)
def test_what_is_no_classifier_is_refused(files, change, message):
    source, output = files
    model = io.load(source)
    change(model)
    onnx.save(model, source)
    with pytest.raises(QuantizeError, match=message) as caught:
        quantize.convert(source, output)
    assert caught.value.exit_code == 2
    assert not output.exists()


def test_the_same_bytes_twice_and_elsewhere(files, tmp_path):
    source, output = files
    other = tmp_path / "elsewhere"
    other.mkdir()
    quantize.convert(source, output, float16=True, opset=18)
    quantize.convert(source, other / "out.onnx", float16=True, opset=18)
    assert output.read_bytes() == (other / "out.onnx").read_bytes()
    assert str(tmp_path).encode() not in output.read_bytes()
