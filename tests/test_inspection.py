import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from conftest import CLASSES, SIZE
from quantize.errors import ModelError
from quantize.files import sha256
from quantize.inspection import inspect

KEYS = {
    "bytes",
    "file",
    "inputs",
    "int8_share_of_multiply_adds",
    "multiply_adds",
    "operators",
    "opset",
    "outputs",
    "parameters",
    "problem",
    "sha256",
    "stayed_float",
}
MULTIPLY_ADDS = SIZE * SIZE * 9 * (3 * 16 + 16 * 16 + 16 * 16) + 16 * CLASSES
"""Three convolutions of 3x3 to 16 channels, and the classifier."""


def test_a_float_model(job):
    seen = inspect(job.model)
    assert (seen.opset, seen.size) == (13, job.model.stat().st_size)
    assert seen.sha256 == sha256(job.model)
    assert seen.inputs == (("data", [None, 3, SIZE, SIZE]),)
    assert seen.outputs == (("logits", [None, CLASSES]),)
    assert dict(seen.operators)["Conv"] == 3
    assert seen.operators[0][1] == 3
    assert seen.operators[-1][1] == 1
    parameters = 9 * 16 * (3 + 16 + 16) + 3 * 4 * 16 + 16 * CLASSES + CLASSES
    assert seen.parameters == parameters
    assert seen.problem == ""
    assert seen.coverage.int8_share == 0


def test_its_json(job):
    content = json.loads(json.dumps(inspect(job.model).to_json(), allow_nan=False))
    assert set(content) == KEYS
    assert content["multiply_adds"] == MULTIPLY_ADDS
    assert content["file"] == "float.onnx"
    assert content["inputs"] == [{"name": "data", "shape": [None, 3, SIZE, SIZE]}]
    assert len(content["stayed_float"]) == 4


def test_its_lines(job):
    lines = inspect(job.model).lines()
    assert lines[0].startswith("model      float.onnx, 0.02 MiB, opset 13")
    assert f"input      data [any, 3, {SIZE}, {SIZE}]" in lines
    assert f"output     logits [any, {CLASSES}]" in lines
    assert f"{MULTIPLY_ADDS / 1e6:,.1f} million multiply-adds" in lines[-1]
    assert not [line for line in lines if line.startswith("float ")]


@pytest.mark.parametrize("framework", ["onnxrt_qdq", "onnxrt_qlinearops"])
def test_an_int8_model_in_both_formats(job, framework):
    job.tune(f"model.framework={framework}")
    content = inspect(job.output).to_json()
    assert content["int8_share_of_multiply_adds"] == 1
    assert content["multiply_adds"] == MULTIPLY_ADDS
    assert content["stayed_float"] == []


def test_what_stayed_float_is_named(job):
    job.tune("quantization.op_wise={conv1_fwd: {weight: {dtype: fp32}}}")
    seen = inspect(job.output)
    assert seen.to_json()["stayed_float"] == ["conv1_fwd"]
    assert seen.lines()[-1] == "float      conv1_fwd"
    share = 1 - SIZE * SIZE * 9 * 16 * 16 / MULTIPLY_ADDS
    assert seen.coverage.int8_share == pytest.approx(share)


def model_of(node, shape, **constants):
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    y.type.tensor_type.ClearField("shape")
    domains = {"", node.domain}
    graph = helper.make_graph([node], "g", [x], [y], tensors)
    opsets = [helper.make_opsetid(domain, 13 if not domain else 1) for domain in sorted(domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_a_model_that_does_not_run_is_shown_all_the_same(tmp_path):
    file = tmp_path / "m.onnx"
    onnx.save(model_of(helper.make_node("Rattle", ["x"], ["y"], domain="odd"), [1, 3, 8, 8]), file)
    seen = inspect(file)
    assert seen.operators == (("odd.Rattle", 1),)
    assert seen.coverage is None
    assert seen.lines()[-1].startswith("it does not run: ")
    assert seen.to_json()["problem"]
    assert set(seen.to_json()) == KEYS
    assert "output     y of any shape" in seen.lines()


def test_a_model_that_takes_no_images(tmp_path):
    weight = np.ones((4, 2), np.float32)
    file = tmp_path / "m.onnx"
    onnx.save(model_of(helper.make_node("MatMul", ["x", "w"], ["y"]), [1, 4], w=weight), file)
    seen = inspect(file)
    assert seen.inputs == (("x", [1, 4]),)
    assert "not [N,C,H,W]" in seen.problem


def test_a_file_that_is_no_model(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        inspect(tmp_path / "none.onnx")
