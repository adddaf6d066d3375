"""Caffe2 models come in: the real ResNet-50 predict net, in both forms; faults are found."""

import dataclasses
import json
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

from caffe2_nets import FORMS, binary, complaint, fill, from_text, init_net, net, op, write
from graphs import answers, noise
from quantize.conversion import caffe2_operators
from quantize.conversion.caffe2 import import_caffe2
from quantize.errors import ModelError
from quantize.graph.prepare import prepare
from quantize.graph.view import signature
from quantize.probe import run_once

REAL = Path(__file__).parents[2] / "shared" / "real-graphs"
PREDICT, INFO = REAL / "caffe2-resnet50-predict_net.pbtxt", REAL / "caffe2-resnet50-value_info.json"
LIGHT = Path(onnx.__file__).parent / "backend/test/data/light/light_resnet50.onnx"
real = pytest.mark.skipif(not PREDICT.exists(), reason="../shared/real-graphs is not here")


@cache
def real_net():
    return from_text(PREDICT.read_text())


def trained(divisor=1, seed=0):
    """Weights for the real predict net, its channels divided; statistics of no trained net."""
    rng = np.random.default_rng(seed)
    channels, blobs = {"gpu_0/data": 3}, {}
    for step in real_net().op:
        first, made = step.input[0], step.output[0]
        channels[made] = channels[first]
        if step.type == "Conv":
            stage = int(made[9]) - 2 if "/res" in made else 0
            wide = made.endswith(("branch2c", "branch1"))
            count = 64 * 2**stage * (4 if wide else 1) // divisor
            kernel = next(a.i for a in step.arg if a.name == "kernel")
            shape = count, channels[first], kernel, kernel
            scale = np.sqrt(2 / np.prod(shape[1:]))
            blobs[step.input[1]] = rng.normal(0, scale, shape).astype(np.float32)
            channels[made] = count
        if step.type == "SpatialBN":
            for blob, low in zip(step.input[1:], (0.1, -0.5, -0.5, 0.6), strict=True):
                blobs[blob] = rng.uniform(low, low + 1, channels[made]).astype(np.float32)
        if step.type == "FC":
            shape = 1000, channels[first]
            blobs[step.input[1]] = rng.normal(0, 0.02, shape).astype(np.float32)
            blobs[step.input[2]] = rng.normal(0, 0.5, 1000).astype(np.float32)
    return blobs


@cache
def slim_blobs():
    return trained(divisor=16)


@cache
def slim_init(form):
    return FORMS[form](init_net(**slim_blobs()))


def slim(folder, form):
    """The real predict net with a sixteenth of its channels, imported from one form."""
    predict, init = write(folder, FORMS[form](real_net()), slim_init(form))
    if form == "text":
        predict = PREDICT
    return import_caffe2(predict, init, INFO)


def worst(made, images, last=None):
    """Largest difference over (the last) tensors, each as a share of its largest reference."""
    model = onnx.ModelProto.FromString(made.model.SerializeToString())
    reference = made.reference(images)
    names = list(reference)[-(last or 0) :]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    inferred = onnx.shape_inference.infer_shapes(model)
    got = answers(inferred, images, plain=last is None)
    distances = {}
    for name, value in zip(names, got, strict=True):
        want = reference[name]
        assert value.shape == want.shape
        distances[name] = float(np.abs(value - want).max() / np.abs(want).max())
    return max(distances.values())


# -------------------------------------------------------------------- the real ResNet-50


@real
@pytest.mark.parametrize("form", sorted(FORMS))
def test_the_real_resnet50_in_each_form(tmp_path, form):
    made = slim(tmp_path, form)
    images = noise(1, 3, 224, 224)
    assert worst(made, images) <= 1e-4
    chances = made.reference(images)["gpu_0/softmax_1"]
    assert 1.5 / 1000 < chances.max() < 0.5  # neither all alike nor all on one


@real
def test_the_real_resnet50_takes_eight_images(tmp_path):
    assert worst(slim(tmp_path, "binary"), noise(8, 3, 224, 224, seed=1), last=2) <= 1e-4


@real
def test_every_form_gives_the_same_model(tmp_path):
    models = [slim(tmp_path, form).model for form in FORMS]
    assert models[0] == models[1] == models[2]


@real
def test_the_names_and_counts_of_the_model_zoo(tmp_path):
    made = slim(tmp_path, "binary")
    graph = made.model.graph
    kinds = [node.op_type for node in graph.node]
    counts = {kind: kinds.count(kind) for kind in kinds}
    assert counts == {
        "Conv": 53, "BatchNormalization": 53, "Relu": 49, "Add": 16, "MaxPool": 1,
        "AveragePool": 1, "Flatten": 1, "Gemm": 1, "Softmax": 1,
    }  # fmt: skip
    seen = signature(made.model)
    assert (seen.input, seen.output) == ("gpu_0/data_0", "gpu_0/softmax_1")
    assert (seen.batch, seen.channels, seen.height, seen.classes) == (None, 3, 224, 1000)
    made_names = {name for node in graph.node for name in node.output}
    assert {"gpu_0/conv1_1", "gpu_0/res_conv1_bn_1", "gpu_0/res_conv1_bn_2"} <= made_names
    assert "gpu_0/res2_0_branch2c_bn_3" in made_names  # normalized, added to, cut at zero
    assert {"gpu_0/conv1_w_0", "gpu_0/pred_b_0"} <= {tensor.name for tensor in graph.initializer}
    onnx.checker.check_model(made.model, full_check=True)
    assert made.model.opset_import[0].version == 13
    ready = prepare(made.model, run_once, (3, 224, 224))
    assert "BatchNormalization" not in {node.op_type for node in ready.model.graph.node}
    assert ready.free_batch


@real
def test_without_value_info_the_size_is_assumed_and_said(tmp_path):
    predict, init = write(tmp_path, real_net(), init_net(**slim_blobs()))
    made, known = import_caffe2(predict, init), import_caffe2(predict, init, INFO)
    assert made.model == known.model
    assert any("assumed images of 3x224x224" in step for step in made.steps)
    assert not any("assumed" in step for step in known.steps)
    info = tmp_path / "value_info.json"
    info.write_text(json.dumps({"gpu_0/data": [1, [1, 3, 256, 256]]}))
    with pytest.raises(ModelError, match=r"FC \(which makes 'gpu_0/pred'\) has weights of"):
        import_caffe2(predict, init, info)


def light(blobs):
    """What the original converter made of the same predict net, with our weights in it."""
    model = onnx.load(LIGHT)
    graph = model.graph
    kept = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    image = next(value for value in graph.input if value.name == "gpu_0/data_0")
    flat = np.array([1, blobs["gpu_0/pred_w"].shape[1]], np.int64)
    values = {"OC2_DUMMY_1": flat, **{f"{name}_0": value for name, value in blobs.items()}}
    del graph.node[:], graph.input[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(kept)
    graph.input.append(image)
    for name, value in values.items():
        graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return model


@real
@pytest.mark.skipif(not LIGHT.exists(), reason="this onnx has no light_resnet50.onnx")
def test_the_original_converter_agrees(tmp_path):
    """Same parameters in the same places with the same attributes, and the same answers."""
    theirs, ours = light(slim_blobs()), slim(tmp_path, "binary").model
    assert len(theirs.graph.node) == len(ours.graph.node) == 176
    renamed = {"gpu_0/data_0": "gpu_0/data_0"}
    for one, other in zip(theirs.graph.node, ours.graph.node, strict=True):
        kind = {"Sum": "Add", "Reshape": "Flatten"}.get(one.op_type, one.op_type)
        assert kind == other.op_type
        read = [renamed.get(name, name) for name in one.input]
        assert read[: 1 if kind == "Flatten" else None] == list(other.input)
        renamed[one.output[0]] = other.output[0]
        mine = {a.name: onnx.helper.get_attribute_value(a) for a in other.attribute}
        for attribute in one.attribute:
            assert mine[attribute.name] == onnx.helper.get_attribute_value(attribute)
    images = noise(1, 3, 224, 224)
    want, got = answers(theirs, images)[0], answers(ours, images)[0]
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


@real
@pytest.mark.slow
def test_the_real_resnet50_at_full_width(tmp_path):
    predict, init = write(tmp_path, real_net(), init_net(**trained()))
    made = import_caffe2(predict, init, INFO)
    weights = sum(int(np.prod(tensor.dims)) for tensor in made.model.graph.initializer)
    assert weights == 25_610_152  # 25.6 million, as the zoo's file of 102,489,425 bytes holds
    assert worst(made, noise(1, 3, 224, 224)) <= 1e-4
    assert worst(made, noise(8, 3, 224, 224, seed=1), last=2) <= 1e-4


# -------------------------------------------------------------------------- small nets


def small(seed=0):
    """Two nets that use in-place blobs, a branch, and everything that ends a classifier."""
    rng = np.random.default_rng(seed)

    def some(*shape):
        return rng.normal(0, 0.5, shape).astype(np.float32)

    predict = net(
        op("Conv", "data w", "c", kernel=3, pad=1, stride=2),
        op("SpatialBN", "c bn_s bn_b bn_rm bn_riv", "bn", is_test=1, epsilon=1e-5),
        op("Relu", "bn", "bn"),
        op("Conv", "bn v", "branch", kernel=1),
        op("Sum", "branch bn", "branch"),
        op("Relu", "branch", "branch"),
        op("AveragePool", "branch", "pool", global_pooling=1),
        op("FC", "pool pred_w pred_b", "pred"),
        op("Softmax", "pred", "softmax"),
        outputs=["softmax"],
    )
    blobs = {
        "w": some(6, 3, 3, 3), "v": some(6, 6, 1, 1), "bn_s": some(6), "bn_b": some(6),
        "bn_rm": some(6), "bn_riv": rng.uniform(0.05, 0.4, 6),
        "pred_w": some(10, 6), "pred_b": some(10),
    }  # fmt: skip
    return predict, blobs


@pytest.fixture
def info(tmp_path):
    path = tmp_path / "value_info.json"
    path.write_text('{"data": [1, [1, 3, 12, 12]]}')
    return path


@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize("count", [1, 8])
def test_a_small_classifier(tmp_path, info, form, count):
    predict, blobs = small()
    made = import_caffe2(*write(tmp_path, predict, init_net(**blobs), form), info)
    assert worst(made, noise(count, 3, 12, 12)) <= 1e-6
    assert "freed the batch axis" in made.steps
    assert "left out 1 blobs of the init net that no operator reads" in made.steps


def test_a_place_holder_for_the_image_is_dropped(tmp_path, info):
    predict, blobs = small()
    holder = op("GivenTensorFill", "", "data", shape=[1, 3, 20, 16], values=[0])
    init = net(holder, *init_net(**blobs).op)
    paths = write(tmp_path, predict, init)
    made = import_caffe2(*paths)
    assert (signature(made.model).height, signature(made.model).width) == (20, 16)
    assert any("place holder" in step for step in made.steps)
    assert worst(made, noise(2, 3, 20, 16)) <= 1e-6
    assert signature(import_caffe2(*paths, info).model).height == 12


def test_a_random_fill_nobody_reads_does_no_harm(tmp_path, info):
    predict, blobs = small()
    init = net(*init_net(**blobs).op, op("XavierFill", "", "momentum", shape=[3]))
    assert worst(import_caffe2(*write(tmp_path, predict, init), info), noise(1, 3, 12, 12)) < 1e-6


# ------------------------------------------------------------------------ planted faults


def test_variance_taken_for_its_inverse_is_found(tmp_path, info, monkeypatch):
    drawn = caffe2_operators._RULES["SpatialBN"]

    def inverse(draft, step):
        drawn.draw(draft, step)
        name = f"{step.inputs[4]}_0"
        draft.constants[name] = 1 / draft.constants[name]

    rules = {**caffe2_operators._RULES, "SpatialBN": dataclasses.replace(drawn, draw=inverse)}
    monkeypatch.setattr(caffe2_operators, "_RULES", rules)
    predict, blobs = small()
    made = import_caffe2(*write(tmp_path, predict, init_net(**blobs)), info)
    assert worst(made, noise(2, 3, 12, 12)) > 0.01


def test_overwriting_ignored_is_found(tmp_path, info, monkeypatch):
    """Readers of a blob that see its first value, as if Relu and Sum had not overwritten it."""
    drawn = caffe2_operators.Draft.tensor

    def first(draft, step, position):
        seen = draft.versions
        draft.versions = {blob: min(count, 1) for blob, count in seen.items()}
        try:
            return drawn(draft, step, position)
        finally:
            draft.versions = seen

    monkeypatch.setattr(caffe2_operators.Draft, "tensor", first)
    predict, blobs = small()
    made = import_caffe2(*write(tmp_path, predict, init_net(**blobs)), info)
    assert worst(made, noise(2, 3, 12, 12)) > 0.01


def test_one_changed_weight_is_found(tmp_path, info):
    predict, blobs = small()
    made = import_caffe2(*write(tmp_path, predict, init_net(**blobs)), info)
    model = onnx.ModelProto.FromString(made.model.SerializeToString())
    tensor = next(t for t in model.graph.initializer if t.name == "pred_w_0")
    value = onnx.numpy_helper.to_array(tensor).copy()
    value[0, 0] += 0.1
    tensor.CopyFrom(onnx.numpy_helper.from_array(value, "pred_w_0"))
    assert worst(dataclasses.replace(made, model=model), noise(2, 3, 12, 12)) > 1e-4


# ----------------------------------------------------------------------------- bad input


def refused(*arguments, words):
    with pytest.raises(ModelError) as caught:
        import_caffe2(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


def test_nets_given_the_wrong_way_round(tmp_path):
    predict, blobs = small()
    first, second = write(tmp_path, predict, init_net(**blobs))
    refused(second, first, words=["predict net", "image inputs"])


def test_a_missing_weight_is_named_with_its_operator(tmp_path, info):
    predict, blobs = small()
    del blobs["v"]
    words = ["Conv", "'branch'", "'v'", "does not fill"]
    refused(*write(tmp_path, predict, init_net(**blobs)), info, words=words)


@pytest.mark.parametrize("kind", ["XavierFill", "MSRAFill", "GaussianFill", "UniformFill"])
def test_the_init_net_of_a_training_is_refused(tmp_path, info, kind):
    predict, blobs = small()
    del blobs["w"]
    init = net(*init_net(**blobs).op, op(kind, "", "w", shape=[6, 3, 3, 3]))
    words = [kind, "'w'", "at random", "trained weights"]
    refused(*write(tmp_path, predict, init), info, words=words)


def test_the_assumption_is_said_where_it_fails(tmp_path):
    predict = net(op("FC", "data w b", "y"))
    init = init_net(w=np.ones((2, 75)), b=np.ones(2))
    refused(*write(tmp_path, predict, init), words=["how many channels", "value_info.json"])
    predict = net(op("Conv", "data v", "c", kernel=1), op("FC", "c w b", "y"))
    init = init_net(w=np.ones((2, 75)), b=np.ones(2), v=np.ones((3, 3, 1, 1)))
    words = ["assumed images of 3x224x224", "[2, 75]", "value_info.json"]
    refused(*write(tmp_path, predict, init), words=words)


def test_value_info_without_floats(tmp_path, info):
    info.write_text('{"data": [2, [1, 3, 12, 12]]}')
    predict, blobs = small()
    words = [str(info), "no float32 input"]
    refused(*write(tmp_path, predict, init_net(**blobs)), info, words=words)


@pytest.mark.parametrize("which", [0, 1], ids=["predict", "init"])
def test_a_file_cut_anywhere(tmp_path, info, which):
    predict, blobs = small()
    contents = [binary(predict), binary(init_net(**blobs))]
    whole = contents[which]
    for length in range(0, len(whole), 7):
        contents[which] = whole[:length]
        paths = write(tmp_path, *contents)
        said = complaint(import_caffe2, *paths, info)
        assert "\n" not in said
        # Nothing but the counter at the end, or the declared output, may be lost unseen.
        assert said or length > len(whole) - 120


@pytest.mark.slow
def test_mutated_nets_give_a_model_or_one_line(tmp_path, info):
    mutate_nets(tmp_path, info, 3000)


def test_some_mutated_nets_give_a_model_or_one_line(tmp_path, info):
    mutate_nets(tmp_path, info, 300)


def mutate_nets(folder, info, count):
    predict, blobs = small()
    whole = binary(predict), binary(init_net(**blobs)), info.read_bytes()
    rng = np.random.default_rng(count)
    outcomes = [0, 0]
    for index in range(count):
        contents = list(whole)
        target = index % 3
        changed = bytearray(contents[target])
        for _ in range(rng.integers(1, 4)):
            changed[rng.integers(len(changed))] = rng.integers(256)
        contents[target] = bytes(changed)
        paths = write(folder, *contents[:2])
        info.write_bytes(contents[2])
        said = complaint(import_caffe2, *paths, info)
        assert "\n" not in said
        outcomes[bool(said)] += 1
    assert min(outcomes) > count // 20


def test_the_other_kind_of_scores(tmp_path, info):
    """Without declared outputs the last operator's counts; a final FC gives plain scores."""
    predict, blobs = small()
    del predict.external_output[:]
    del predict.op[-1]
    made = import_caffe2(*write(tmp_path, predict, init_net(**blobs)), info)
    assert [value.name for value in made.model.graph.output] == ["pred_1"]
    scores = made.reference(noise(2, 3, 12, 12))["pred_1"]
    predict, blobs = small()
    made = import_caffe2(*write(tmp_path, predict, init_net(**blobs)), info)
    chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    got = made.reference(noise(2, 3, 12, 12))["softmax_1"]
    np.testing.assert_allclose(got, chances, atol=1e-6)


def test_a_fill_in_the_predict_net(tmp_path, info):
    predict, blobs = small()
    predict.op.insert(0, fill("w", blobs.pop("w")))
    words = ["GivenTensorFill", "'w'", "init net second"]
    refused(*write(tmp_path, predict, init_net(**blobs)), info, words=words)
