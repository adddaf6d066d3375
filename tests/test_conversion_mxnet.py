"""Whole networks of MXNet, old and new, real and made here; and files that lie."""

import json
import struct
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphs import noise
from mxnet_files import Net, classic_resnet, gluon_v1, gluon_v2, params_bytes
from quantize.conversion.mxnet import import_mxnet
from quantize.errors import ModelError, QuantizeError
from quantize.graph.view import signature
from quantize.runtime import Session

REAL = Path(__file__).parents[2] / "shared/real-graphs/mxnet-resnet18_v1-symbol.json"
TOLERANCE = 1e-4


def distance(model, imported, images):
    """Greatest difference of any tensor that both have, each against its own greatest value."""
    both = onnx.ModelProto()
    both.CopyFrom(model)
    reference = imported.reference(images)
    declared = {value.name for value in both.graph.output}
    both.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(name) for name in reference if name not in declared
    )
    names = [value.name for value in both.graph.output]
    outputs = Session(both.SerializeToString()).run(images)
    worst = 0.0
    for name, got in zip(names, outputs, strict=True):
        assert got.shape == reference[name].shape, name
        worst = max(worst, abs(got - reference[name]).max() / abs(reference[name]).max())
    return float(worst)


def declared(model):
    return [
        [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim]
        for value in (model.graph.input[0], model.graph.output[0])
    ]


def counts(model):
    kinds = Counter(node.op_type for node in model.graph.node)
    return [kinds[k] for k in ("Conv", "BatchNormalization", "Relu", "Add")] + [
        len(model.graph.node),
        len(model.graph.initializer),
    ]


# ------------------------------------------------------------------------- the real file


def real_values():
    """Parameters for the real symbol, as its `__shape__` attributes ask for them."""
    rng, values = np.random.default_rng(0), {}
    for node in json.loads(REAL.read_text())["nodes"]:
        text = node.get("attrs", {}).get("__shape__")
        if node["op"] != "null" or not text:
            continue
        name, shape = node["name"], tuple(int(s) for s in text.strip("(),").split(","))
        if name.endswith("weight"):
            value = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        elif name.endswith(("gamma", "var")):
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = rng.normal(0, 0.2, shape)
        values[("aux:" if "running" in name else "arg:") + name] = value.astype(np.float32)
    return values


@pytest.mark.skipif(not REAL.exists(), reason="../shared/real-graphs is not there")
def test_the_real_gluon_symbol_with_parameters_of_every_version(tmp_path):
    values, params, models = real_values(), tmp_path / "net.params", []
    for header in range(4):
        params.write_bytes(params_bytes(values, header))
        imported = import_mxnet(REAL, params)
        models.append(imported.model.SerializeToString(deterministic=True))
    assert len(set(models)) == 1
    onnx.checker.check_model(imported.model)
    assert counts(imported.model) == [53, 53, 49, 16, 175, 299]
    names = [node.name for node in imported.model.graph.node]
    assert names[0] == "resnetv10_conv0_fwd"
    assert names[-3:] == ["resnetv10_pool1_fwd", "flatten_473", "resnetv10_dense0_fwd"]
    assert declared(imported.model) == [["N", 3, "height", "width"], ["N", 1000]]
    assert imported.model.graph.name == "mxnet_converted_model"
    images = noise(2, 3, 48, 64)
    assert distance(imported.model, imported, images) < TOLERANCE
    node_of(imported.model, "Conv", 1).input[2] = "resnetv10_stage1_conv4_bias"
    assert distance(imported.model, imported, images) > 2 * TOLERANCE


# ------------------------------------------------------------------------ networks made here


@pytest.mark.parametrize(
    ("make", "depth", "counted"),
    [
        (gluon_v1, 18, [20, 20, 17, 8, 69, 102]),
        (gluon_v1, 34, [36, 36, 33, 16, 125, 182]),
        (gluon_v1, 50, [53, 53, 49, 16, 175, 299]),
        (gluon_v1, 101, [104, 104, 100, 33, 345, 588]),
        (gluon_v1, 152, [155, 155, 151, 50, 515, 877]),
        (gluon_v2, 18, [20, 19, 18, 8, 69, 99]),
        (gluon_v2, 34, [36, 35, 34, 16, 125, 179]),
        (gluon_v2, 50, [53, 51, 50, 16, 174, 260]),
        (gluon_v2, 101, [104, 102, 101, 33, 344, 515]),
        (gluon_v2, 152, [155, 153, 152, 50, 514, 770]),
    ],
)
def test_every_resnet_of_the_zoo(tmp_path, make, depth, counted):
    """Eighth as wide as the real ones, layer for layer the same."""
    imported = import_mxnet(*make(depth, classes=10, width=8).write(tmp_path))
    onnx.checker.check_model(imported.model, full_check=True)
    assert counts(imported.model) == counted
    assert distance(imported.model, imported, noise(1, 3, 40, 40)) < TOLERANCE


@pytest.mark.parametrize(("make", "parameters"), [(gluon_v1, 11_699_112), (gluon_v2, 11_695_796)])
def test_the_real_width(tmp_path, make, parameters):
    imported = import_mxnet(*make(18).write(tmp_path))
    held = [numpy_helper.to_array(t) for t in imported.model.graph.initializer]
    assert sum(a.size for a in held if a.dtype == np.float32) == parameters
    assert distance(imported.model, imported, noise(1, 3, 64, 64)) < TOLERANCE


@pytest.mark.parametrize(
    ("options", "version", "header"),
    [
        ({"spelling": "param", "entries": 2, "legacy": True}, None, 0),
        ({"spelling": "attr", "entries": 2}, 900, 1),
        ({"spelling": "attr"}, 1001, 1),
        ({"spelling": "attrs"}, 10500, 2),
    ],
)
def test_symbols_of_the_days_before_gluon(tmp_path, options, version, header):
    imported = import_mxnet(
        *classic_resnet(**options).write(tmp_path, version=version, header=header)
    )
    onnx.checker.check_model(imported.model, full_check=True)
    assert [v.name for v in imported.model.graph.output] == ["softmax"]
    assert signature(imported.model).classes == 10
    assert signature(imported.model).batch is None
    assert "took gamma as 1 in 1 BatchNorm, as fix_gamma says" in imported.steps
    images = noise(2, 3, 28, 28)
    assert distance(imported.model, imported, images) < TOLERANCE
    scores = Session(imported.model.SerializeToString()).run(images)[0]
    assert np.allclose(scores.sum(1), 1, atol=1e-5)


def test_each_image_is_its_own(tmp_path):
    imported = import_mxnet(*classic_resnet().write(tmp_path))
    session, images = Session(imported.model.SerializeToString()), noise(8, 3, 32, 24)
    alone = np.concatenate([session.run(images[i : i + 1])[0] for i in range(8)])
    assert np.allclose(session.run(images)[0], alone, atol=1e-6)


def test_two_imports_give_the_same_bytes(tmp_path):
    files = classic_resnet().write(tmp_path)
    one, other = (import_mxnet(*files).model.SerializeToString() for _ in range(2))
    assert one == other
    assert str(tmp_path).encode() not in one


def test_the_reference_follows_the_order_of_the_symbol(tmp_path):
    imported = import_mxnet(*classic_resnet().write(tmp_path))
    made = [node.output[0] for node in imported.model.graph.node]
    assert list(imported.reference(noise(1, 3, 16, 16))) == made


# ----------------------------------------------------------------------------- planted faults


def node_of(model, operator, number=0):
    return [node for node in model.graph.node if node.op_type == operator][number]


def set_attribute(node, name, value):
    for attribute in node.attribute:
        if attribute.name == name:
            attribute.CopyFrom(onnx.helper.make_attribute(name, value))


def set_values(model, name, values):
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(values, np.float32), name))


def forget_epsilon(model, net):
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            set_attribute(node, "epsilon", 0.0)


def believe_gamma(model, net):
    set_values(model, "bn_data_gamma", net.values["arg:bn_data_gamma"])


def swap_branches(model, net):
    add = node_of(model, "Add")
    add.input[1] = add.input[0]


def shift_windows(model, net):
    set_attribute(node_of(model, "Conv"), "pads", [0, 0, 2, 2])


@pytest.mark.parametrize(
    "fault", [forget_epsilon, believe_gamma, swap_branches, shift_windows], ids=lambda f: f.__name__
)
def test_planted_faults_are_seen(tmp_path, fault):
    net = classic_resnet()
    net.values["aux:bn1_moving_var"] *= 1e-2  # as in channels that hardly say anything
    imported = import_mxnet(*net.write(tmp_path))
    images = noise(2, 3, 24, 24)
    assert distance(imported.model, imported, images) < TOLERANCE
    fault(imported.model, net)
    assert distance(imported.model, imported, images) > 2 * TOLERANCE


# --------------------------------------------------------------------------- sizes of images


def small(*, channels=3, side=None, features=None):
    """A strided convolution, and all that it gives into a fully connected layer."""
    net = Net()
    attributes = {} if side is None else {"__shape__": (1, channels, side, side)}
    x = net.conv("c", net.variable("data", **attributes), channels, 2, 3, stride=(2, 2), pad=(1, 1))
    net.dense("fc", net.add("Flatten", "f", [x]), features, 5)
    return net


@pytest.mark.parametrize(("side", "features"), [(224, 112), (32, 16), (28, 14), (49, 25)])
def test_a_fully_connected_layer_tells_the_size(tmp_path, side, features):
    net = small(features=2 * features**2)
    imported = import_mxnet(*net.write(tmp_path))
    assert declared(imported.model)[0] == ["N", 3, side, side]
    assert imported.steps[-1] == f"took images of {side} x {side}"
    assert distance(imported.model, imported, noise(1, 3, side, side)) < TOLERANCE


def test_the_symbol_may_tell_the_size(tmp_path):
    net = small(channels=1, side=20, features=2 * 10 * 10)
    assert declared(import_mxnet(*net.write(tmp_path)).model)[0] == ["N", 1, 20, 20]


def test_images_of_another_size_fail_in_one_line(tmp_path):
    imported = import_mxnet(*small(features=2 * 16 * 16).write(tmp_path))
    with pytest.raises(ModelError, match=r"node 'fc' \(FullyConnected\) fails on \[1, 72\]"):
        imported.reference(noise(1, 3, 12, 12))


def test_features_that_no_image_gives(tmp_path):
    with pytest.raises(ModelError, match=r"no square image .* 'fc' takes"):
        import_mxnet(*small(features=7).write(tmp_path))


def test_a_declared_size_that_does_not_suit(tmp_path):
    with pytest.raises(ModelError, match="node 'fc' cannot be converted: it takes 7"):
        import_mxnet(*small(side=20, features=7).write(tmp_path))


def test_inputs_that_are_no_images(tmp_path):
    net = Net()
    net.dense("fc", net.variable("data"), 20, 5)
    with pytest.raises(ModelError, match=r"how many channels .* cannot be told"):
        import_mxnet(*net.write(tmp_path))
    net.nodes[0]["attrs"] = {"__shape__": "(1, 20)"}
    with pytest.raises(ModelError, match="has 2 dimensions"):
        import_mxnet(*net.write(tmp_path))


def doubling(count, **attributes):
    """Channels that double again and again, which takes no weights and soon all memory."""
    net = Net()
    x = net.conv("c", net.variable("data", **attributes), 3, 4)
    for number in range(count):
        x = net.add("Concat", f"twice{number}", [x, x])
    return net


@pytest.mark.parametrize("count", [20, 70])
def test_tensors_that_no_memory_holds(tmp_path, count):
    with pytest.raises(ModelError, match=r"is too large|too small|do not suit"):
        import_mxnet(*doubling(count).write(tmp_path))


@pytest.mark.parametrize("side", ["9999999", "999999999999999999"])
def test_images_that_no_memory_holds(tmp_path, side):
    net = doubling(0, __shape__=f"(1, 3, {side}, {side})")
    with pytest.raises(ModelError, match=r"is too large|too small"):
        import_mxnet(*net.write(tmp_path))


def test_a_size_is_not_looked_for_without_end(tmp_path):
    net = Net()
    x = net.conv("c", net.variable("data"), 3, 2)
    for number in range(3000):
        x = net.add("relu", f"r{number}", [x])
    net.dense("fc", x, 7, 5)
    start = time.monotonic()
    with pytest.raises(ModelError, match="no square image"):
        import_mxnet(*net.write(tmp_path))
    assert time.monotonic() - start < 60


# ------------------------------------------------------------------------------- parameters


@pytest.fixture
def net():
    return classic_resnet(units=(1,), filters=(4, 4))


def refused(net, folder, reason):
    with pytest.raises(ModelError, match=reason) as caught:
        import_mxnet(*net.write(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_weight_is_named(net, tmp_path):
    del net.values["arg:conv0_weight"]
    refused(net, tmp_path, "net-0000.params does not hold 'conv0_weight', which")


def test_missing_statistics_are_named_and_counted(net, tmp_path):
    del net.values["aux:bn_data_moving_mean"], net.values["aux:bn_data_moving_var"]
    refused(net, tmp_path, "does not hold 'bn_data_moving_mean' and 1 more")


def test_the_parameters_of_another_network(net, tmp_path):
    net.values = {"arg:features.0.weight": np.ones(3, np.float32)}
    refused(net, tmp_path, "does not hold .* more, .* exported with this symbol")


def test_a_shape_that_the_symbol_contradicts(net, tmp_path):
    net.nodes[1]["attrs"] = {"__shape__": "(5,)"}
    assert net.nodes[1]["name"] == "bn_data_gamma"
    refused(net, tmp_path, r"'bn_data_gamma' has shape \[3\], and the symbol declares \[5\]")


def test_a_shape_that_the_symbol_leaves_open(net, tmp_path):
    net.nodes[1]["attrs"] = {"__shape__": "(0,)"}
    import_mxnet(*net.write(tmp_path))


def test_layers_that_do_not_suit_each_other(net, tmp_path):
    net.values["arg:fc1_weight"] = np.ones((10, 9), np.float32)
    refused(net, tmp_path, "node 'fc1' cannot be converted: it takes 9 .* gets 4")


def test_branches_of_unequal_shape(tmp_path):
    net = Net()
    data = net.variable("data")
    branches = [net.conv(name, data, 3, given) for name, given in (("a", 4), ("b", 1))]
    net.add("elemwise_add", "sum", branches)
    refused(net, tmp_path, "node 'sum' .* shapes")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(net, tmp_path, value):
    net.values["arg:conv0_weight"][0, 0, 0, 0] = value
    refused(net, tmp_path, "'conv0_weight' holds numbers that are not finite")


def test_a_fixed_gamma_may_hold_anything_but_its_variance_may_not(net, tmp_path):
    net.values["arg:bn_data_gamma"][:] = 0
    import_mxnet(*net.write(tmp_path))
    net.values["aux:bn_data_moving_var"][0] = -1
    refused(net, tmp_path, "'bn_data' .* its variance and eps are not above zero")


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_floats_become_float32(net, tmp_path, kind):
    net.values = {name: value.astype(kind) for name, value in net.values.items()}
    imported = import_mxnet(*net.write(tmp_path))
    assert any(np.dtype(kind).name in step for step in imported.steps)
    assert distance(imported.model, imported, noise(1, 3, 16, 16)) < TOLERANCE


def test_numbers_that_float32_cannot_hold(net, tmp_path):
    net.values["arg:conv0_weight"] = net.values["arg:conv0_weight"].astype(np.float64) * 1e60
    refused(net, tmp_path, "not finite")


def test_integers_are_no_weights(net, tmp_path):
    net.values["arg:conv0_weight"] = np.ones((4, 3, 3, 3), np.int8)
    refused(net, tmp_path, "'conv0_weight' holds int8")


def test_a_symbol_without_an_input(net, tmp_path):
    net.values["arg:data"] = np.ones((1, 3, 8, 8), np.float32)
    refused(net, tmp_path, "the symbol has no input")


def test_two_inputs(tmp_path):
    net = Net()
    net.add("elemwise_add", "sum", [net.variable("left"), net.variable("right")])
    refused(net, tmp_path, "does not hold 'right'")


# ------------------------------------------------------------------------------------ outputs


def test_a_loss_at_the_end_gives_the_output_its_name(tmp_path):
    net = Net()
    x = net.conv("c", net.variable("data"), 3, 4)
    net.add("LinearRegressionOutput", "scores", [net.add("Flatten", "f", [x]), net.variable("y")])
    imported = import_mxnet(*net.write(tmp_path))
    assert [node.op_type for node in imported.model.graph.node] == ["Conv", "Flatten", "Identity"]
    assert imported.model.graph.output[0].name == "scores"
    assert distance(imported.model, imported, noise(1, 3, 6, 6)) < TOLERANCE


def test_more_than_one_output(net, tmp_path):
    files = net.write(tmp_path, len(net.nodes) - 1, 5, 5)
    names = [value.name for value in import_mxnet(*files).model.graph.output]
    assert names == ["softmax", net.nodes[5]["name"]]


def test_an_output_that_is_not_computed(net, tmp_path):
    with pytest.raises(ModelError, match=r"'data' is not computed|computes nothing"):
        import_mxnet(*net.write(tmp_path, 0, len(net.nodes) - 1))


def test_tensors_that_onnx_needs_take_no_name_of_the_symbol(tmp_path):
    net = Net()
    x = net.conv("c", net.variable("data"), 3, 4)
    x = net.add("Pooling", "flatten_7", [x], global_pool=True, pool_type="avg")
    net.dense("fc", x, 4, 5)
    imported = import_mxnet(*net.write(tmp_path))
    outputs = [node.output[0] for node in imported.model.graph.node]
    assert len(set(outputs)) == len(outputs) == 4
    assert distance(imported.model, imported, noise(1, 3, 6, 6)) < TOLERANCE


# ----------------------------------------------------------------------------------- hostile


def attack(folder, count, seed):
    """Valid JSON and valid parameters with attributes, operators and links changed at random."""
    rng = np.random.default_rng(seed)
    net = classic_resnet(units=(1,), filters=(4, 4))
    symbol, params = net.write(folder)
    whole = net.symbol()
    texts = [
        "-1",
        "0",
        "(0, 0)",
        "(9999, 9999)",
        "nan",
        "1e38",
        "None",
        "True",
        "",
        "(",
        "avg",
        "7",
    ]
    operators = sorted({n["op"] for n in net.nodes} | {"Reshape", "Concat", "mean", "clip", "LRN"})
    done = 0
    for _ in range(count):
        graph = json.loads(json.dumps(whole))
        for _ in range(rng.integers(1, 4)):
            node = graph["nodes"][rng.integers(len(graph["nodes"]))]
            kind = rng.integers(4)
            if kind == 0 and node.get("attrs"):
                key = list(node["attrs"])[rng.integers(len(node["attrs"]))]
                node["attrs"][key] = texts[rng.integers(len(texts))]
            elif kind == 1:
                node["op"] = operators[rng.integers(len(operators))]
            elif kind == 2 and node["inputs"]:
                entry = node["inputs"][rng.integers(len(node["inputs"]))]
                entry[0] = int(rng.integers(len(graph["nodes"])))
            elif kind == 3:
                graph["heads"] = [[int(rng.integers(len(graph["nodes"]))), 0, 0]]
        symbol.write_text(json.dumps(graph))
        try:
            imported = import_mxnet(symbol, params)
        except QuantizeError:
            continue
        done += 1
        onnx.checker.check_model(imported.model)
    assert 0 < done < count


def test_damaged_networks_are_refused_or_converted(tmp_path):
    attack(tmp_path, 100, seed=1)


@pytest.mark.slow
def test_many_damaged_networks(tmp_path):
    attack(tmp_path, 10_000, seed=2)


def test_huge_declared_weights_are_refused_before_they_are_made(net, tmp_path):
    symbol, params = net.write(tmp_path)
    content = bytearray(params.read_bytes())
    struct.pack_into("<q", content, 24 + 12, 2**40)
    params.write_bytes(content)
    with pytest.raises(ModelError, match="cut short or damaged"):
        import_mxnet(symbol, params)
