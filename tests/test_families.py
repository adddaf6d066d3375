"""The generators of the zoo's ResNets: their counts, and that they are what they are called."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import families
import models
from quantize import load_config, tune

SMALL = models.prepared(models.tiny_dataset(classes=8, per_class=1, size=32, seed=0))


QUICK = {"18-v1", "18-v2", "50-caffe2"}


def assert_counts(model, topology):
    floats, convolutions, norms, relus, adds, initializers, nodes = families.COUNTS[topology]
    seen = Counter(node.op_type for node in model.graph.node)
    constants = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    assert sum(array.size for array in constants if array.dtype == np.float32) == floats
    assert (seen["Conv"], seen["BatchNormalization"]) == (convolutions, norms)
    assert (seen["Relu"], seen["Add"] + seen["Sum"]) == (relus, adds)
    assert sum(array.dtype == np.float32 for array in constants) == initializers
    assert len(model.graph.node) == nodes


def cut(model, size):
    """The same file for smaller images."""
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size
    return model


@pytest.mark.parametrize("topology", sorted(QUICK))
def test_counts_are_those_of_the_zoo(topology):
    model = families.make(topology, 7, images=SMALL)
    assert_counts(model, topology)
    onnx.checker.check_model(model)


@pytest.mark.slow
@pytest.mark.parametrize("topology", sorted(families.COUNTS.keys() - QUICK))
def test_counts_of_the_deep_ones_are_those_of_the_zoo(topology):
    assert_counts(families.make(topology, 7, images=SMALL), topology)


def test_the_zoo_has_sixteen_float_files():
    names = [member.name for member in families.ZOO]
    assert len(set(names)) == 16
    assert {"18-v1-7", "152-v2-7", "50-v1-12", "50-caffe2-v1-3", "50-caffe2-v1-9"} <= set(names)


def test_v2_normalises_before_each_convolution_and_once_at_either_end():
    model = families.resnet_v2(50, images=SMALL)
    nodes = model.graph.node
    producers = {node.output[0]: node for node in nodes}
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    assert all(len(conv.input) == 2 for conv in convolutions)
    before = Counter(producers[conv.input[0]].op_type for conv in convolutions)
    assert before == {"BatchNormalization": 1, "Relu": 52}
    assert nodes[0].op_type == "BatchNormalization"
    assert nodes[0].input[0] == "data"
    strided = {
        conv.name: list(next(a.ints for a in conv.attribute if a.name == "kernel_shape"))
        for conv in convolutions
        if next(a.ints for a in conv.attribute if a.name == "strides")[0] == 2
    }
    assert Counter(map(tuple, strided.values())) == {(7, 7): 1, (3, 3): 3, (1, 1): 3}


def test_caffe2_has_the_words_of_its_opset():
    old = families.resnet50_caffe2(opset=3, images=SMALL)
    words = {node.op_type: {a.name for a in node.attribute} for node in old.graph.node}
    assert words["BatchNormalization"] >= {"consumed_inputs", "is_test", "spatial"}
    assert words["Reshape"] == {"shape"}
    assert words["Gemm"] == {"transB", "broadcast"}
    assert words["Relu"] == {"consumed_inputs"}


def test_caffe2_gives_probabilities_of_one_image():
    image = models.prepared(models.tiny_dataset(classes=1, per_class=1, size=224))
    model = families.resnet50_caffe2(opset=9, images=SMALL)
    onnx.checker.check_model(model)
    words = {node.op_type: {a.name for a in node.attribute} for node in model.graph.node}
    assert words["BatchNormalization"] == {"epsilon", "momentum"}
    assert words["Reshape"] == set()
    model.graph.input[0].name = "data"
    model.graph.node[0].input[0] = "data"
    scores = models.run(model, image)[0]
    assert scores.shape == (1, 1000)
    assert abs(scores.sum() - 1) <= 1e-5


def test_answers_of_v2_differ_and_stay_in_scale():
    model = cut(families.resnet_v2(18, images=SMALL), 32)
    scores = models.run(model, SMALL)[0]
    assert len(set(scores.argmax(axis=1))) > 1
    assert 0.1 < np.abs(scores).max() < 100


# ------------------------------------------------------------ they quantize, in small

JOB = """\
model: {{name: family, framework: {framework}}}
quantization:
  engine: onnxruntime
  calibration: {{sampling_size: 48}}
evaluation:
  accuracy: {{metric: {{topk: 1}}}}
  performance: {{warmup: 1, iteration: 4, configs: {{cores_per_instance: 1}}}}
tuning: {{accuracy_criterion: {{agreement: 0.8}}, speed_floor: 0}}
"""
"""Small images show structure and agreement; speed is the benchmark's, at 224x224."""


def unlabelled(images):
    return [(image, None) for image in images]


@pytest.mark.parametrize(
    ("topology", "framework"), [("18-v1", "onnxrt_qoperator"), ("18-v2", "onnxrt_qdq")]
)
def test_the_eighteen_layer_nets_become_int8_as_a_whole(tmp_path, topology, framework):
    calibration = models.prepared(models.tiny_dataset(16, 3, 32, seed=0))
    evaluation = models.prepared(models.tiny_dataset(16, 2, 32, seed=5))
    before = cut(families.make(topology, 7, images=calibration[:16]), 32)
    onnx.save(before, tmp_path / "float.onnx")
    (tmp_path / "job.yaml").write_text(JOB.format(framework=framework))
    result = tune(
        tmp_path / "float.onnx",
        load_config(tmp_path / "job.yaml"),
        tmp_path / "int8.onnx",
        calibration=unlabelled(calibration),
        evaluation=unlabelled(evaluation),
    )
    assert result.output
    assert families.faults(before, onnx.load(result.output)) == []


def test_a_float_file_has_every_fault():
    before = families.make("18-v1", 7, images=SMALL)
    renamed = onnx.ModelProto()
    renamed.CopyFrom(before)
    renamed.graph.output[0].name = "other"
    seen = families.faults(before, renamed)
    assert len(seen) == 4
    assert "20 of 20 Conv are float" in seen
    assert "17 Relu are left" in seen
    assert "inputs or outputs changed" in seen
