"""Each operator of MXNet, converted, against formulas that stand in the test."""

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose

from graphs import noise
from mxnet_files import Net
from quantize.conversion.mxnet import import_mxnet
from quantize.conversion.mxnet_operators import CONVERSIONS
from quantize.conversion.mxnet_reference import COMPUTATIONS
from quantize.errors import ModelError
from quantize.runtime import Session


class Bench:
    """A 3x3 convolution and behind it what is tried, on images [2,3,size,size]."""

    def __init__(self, folder, *, entries=3):
        self.folder = folder
        self.net = Net(seed=3, entries=entries)
        self.images = self.net.variable("data")
        self.first = self.net.conv("first", self.images, 3, 4, pad=(1, 1))

    def imported(self, *heads):
        return import_mxnet(*self.net.write(self.folder, *heads))

    def values(self, size=6):
        """Convert and run: (what stands in front, the output), the reference being the same."""
        imported = self.imported(self.first, len(self.net.nodes) - 1)
        onnx.checker.check_model(imported.model, full_check=True)
        images = noise(2, 3, size, size)
        before, got = Session(imported.model.SerializeToString()).run(images)
        reference = imported.reference(images)
        names = [value.name for value in imported.model.graph.output]
        for name, ours in zip(names, (before, got), strict=True):
            assert_allclose(reference[name], ours, rtol=1e-4, atol=1e-5)
        return before, got


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x, axis):
    powers = np.exp(x - x.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def hard(x):
    return np.clip(0.2 * x + 0.5, 0, 1)


FORMULAS = {
    "relu": ("Activation", {"act_type": "relu"}, lambda x: np.maximum(x, 0)),
    "sigmoid": ("Activation", {"act_type": "sigmoid"}, sigmoid),
    "tanh": ("Activation", {"act_type": "tanh"}, np.tanh),
    "softrelu": ("Activation", {"act_type": "softrelu"}, lambda x: np.log1p(np.exp(x))),
    "softsign": ("Activation", {"act_type": "softsign"}, lambda x: x / (1 + abs(x))),
    "leaky": ("LeakyReLU", {}, lambda x: np.where(x > 0, x, 0.25 * x)),
    "leaky, given": ("LeakyReLU", {"slope": 0.1}, lambda x: np.where(x > 0, x, 0.1 * x)),
    "elu": (
        "LeakyReLU",
        {"act_type": "elu", "slope": 0.5},
        lambda x: np.where(x > 0, x, 0.5 * (np.exp(x) - 1)),
    ),
    "selu": (
        "LeakyReLU",
        {"act_type": "selu"},
        lambda x: 1.050701 * np.where(x > 0, x, 1.6732632 * (np.exp(x) - 1)),
    ),
    "hard sigmoid": ("hard_sigmoid", {}, hard),
    "clip": ("clip", {"a_min": "0", "a_max": "6.0"}, lambda x: np.clip(x, 0, 6)),
    "dropout": ("Dropout", {"p": 0.5}, lambda x: x),
    "cast": ("Cast", {"dtype": "float16"}, lambda x: x),
    "plus": ("_plus_scalar", {"scalar": "3"}, lambda x: x + 3),
    "minus": ("_MinusScalar", {"scalar": "3"}, lambda x: x - 3),
    "from": ("_rminus_scalar", {"scalar": "3"}, lambda x: 3 - x),
    "times": ("_mul_scalar", {"scalar": "0.5"}, lambda x: x * 0.5),
    "over": ("_div_scalar", {"scalar": "127.5"}, lambda x: x / 127.5),
    "under": ("_rdiv_scalar", {"scalar": "2"}, lambda x: 2 / x),
    "softmax": ("softmax", {}, lambda x: softmax(x, -1)),
    "softmax over channels": ("softmax", {"axis": "1"}, lambda x: softmax(x, 1)),
    "log softmax": ("log_softmax", {"axis": "1"}, lambda x: np.log(softmax(x, 1))),
    "softmax by place": ("SoftmaxOutput", {"multi_output": "True"}, lambda x: softmax(x, 1)),
    "softmax of all": ("SoftmaxOutput", {}, lambda x: softmax(x.reshape(2, -1), 1)),
    "activation of channels": ("SoftmaxActivation", {"mode": "channel"}, lambda x: softmax(x, 1)),
    "activation of all": ("SoftmaxActivation", {}, lambda x: softmax(x.reshape(2, -1), 1)),
    "logistic": ("LogisticRegressionOutput", {}, sigmoid),
    "flatten": ("Flatten", {}, lambda x: x.reshape(2, -1)),
    "reshape": ("Reshape", {"shape": "(0, -1)"}, lambda x: x.reshape(2, -1)),
    "reshape, old": ("Reshape", {"target_shape": "(0, -1)"}, lambda x: x.reshape(2, -1)),
    "reshape to parts": ("reshape", {"shape": "(-1, 2, 2, 36)"}, lambda x: x.reshape(2, 2, 2, 36)),
    "mean": ("mean", {"axis": "(2, 3)"}, lambda x: x.mean((2, 3))),
    "mean, kept": ("mean", {"axis": "3", "keepdims": "1"}, lambda x: x.mean(3, keepdims=True)),
    "expand": ("expand_dims", {"axis": "2"}, lambda x: x[:, :, None]),
    "pad": (
        "Pad",
        {"mode": "constant", "pad_width": (0, 0, 0, 0, 1, 2, 3, 0), "constant_value": "7"},
        lambda x: np.pad(x, ((0, 0), (0, 0), (1, 2), (3, 0)), constant_values=7),
    ),
    "pad with the border": (
        "pad",
        {"mode": "edge", "pad_width": "(0,0,0,0,1,1,2,2)"},
        lambda x: np.pad(x, ((0, 0), (0, 0), (1, 1), (2, 2)), mode="edge"),
    ),
    "all, largest": (
        "Pooling",
        {"global_pool": "True", "pool_type": "max", "kernel": "(7, 7)"},
        lambda x: x.max((2, 3), keepdims=True),
    ),
    "all, mean": (
        "Pooling",
        {"global_pool": "1", "pool_type": "avg"},
        lambda x: x.mean((2, 3), keepdims=True),
    ),
    "adaptive": (
        "_contrib_AdaptiveAvgPooling2D",
        {"output_size": "(1, 1)"},
        lambda x: x.mean((2, 3), keepdims=True),
    ),
    "largest by default": (
        "Pooling",
        {"kernel": "(1, 1)", "stride": "(2, 2)"},
        lambda x: x[:, :, ::2, ::2],
    ),
    "exp": ("exp", {}, np.exp),
    "abs": ("abs", {}, abs),
    "negative": ("negative", {}, np.negative),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_operators_of_one_input(bench, name):
    operator, attributes, formula = FORMULAS[name]
    bench.net.add(operator, "tried", [bench.first], **attributes)
    before, got = bench.values()
    assert_allclose(got, formula(before), rtol=1e-4, atol=1e-5)


PAIRS = {
    "elemwise_add": np.add,
    "_Plus": np.add,
    "_plus": np.add,
    "broadcast_add": np.add,
    "broadcast_plus": np.add,
    "_Minus": np.subtract,
    "elemwise_sub": np.subtract,
    "broadcast_mul": np.multiply,
    "_Mul": np.multiply,
    "elemwise_div": np.divide,
}


@pytest.mark.parametrize("operator", PAIRS)
def test_operators_of_two_inputs(bench, operator):
    other = bench.net.add("_plus_scalar", "other", [bench.first], scalar="2.5")
    bench.net.add(operator, "tried", [bench.first, other])
    before, got = bench.values()
    assert_allclose(got, PAIRS[operator](before, before + 2.5), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("operator", ["add_n", "ElementWiseSum"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_sums_of_many(bench, operator, count):
    bench.net.add(operator, "tried", [bench.first] * count, num_args=count)
    before, got = bench.values()
    assert_allclose(got, before * count, rtol=1e-5, atol=1e-6)


def test_channels_may_be_scaled_one_by_one(bench):
    pooled = bench.net.add("Pooling", "pooled", [bench.first], global_pool=True, pool_type="avg")
    bench.net.add("broadcast_mul", "tried", [bench.first, pooled])
    before, got = bench.values()
    assert_allclose(got, before * before.mean((2, 3), keepdims=True), rtol=1e-4, atol=1e-6)


def test_a_parameter_may_be_added(bench):
    offset = bench.net.variable("offset", noise(1, 4, 1, 1, seed=8))
    bench.net.add("broadcast_add", "tried", [bench.first, offset])
    before, got = bench.values()
    assert_allclose(got, before + noise(1, 4, 1, 1, seed=8), rtol=1e-5, atol=1e-6)


def test_concatenation(bench):
    bench.net.add("Concat", "tried", [bench.first, bench.first, bench.first], num_args=3)
    before, got = bench.values()
    assert_allclose(got, np.concatenate([before] * 3, 1))


def test_local_response_normalization(bench):
    bench.net.add("LRN", "tried", [bench.first], nsize="3", alpha="0.01", beta="0.75", knorm="1")
    before, got = bench.values()
    squares = np.pad(before**2, ((0, 0), (1, 1), (0, 0), (0, 0)))
    total = squares[:, :-2] + squares[:, 1:-1] + squares[:, 2:]
    assert_allclose(got, before / (1 + 0.01 / 3 * total) ** 0.75, rtol=1e-4, atol=1e-6)


def test_a_slope_for_each_channel(bench):
    slopes = np.array([0.1, 0.2, 0.3, -0.4], np.float32)
    gamma = bench.net.variable("slopes", slopes)
    bench.net.add("LeakyReLU", "tried", [bench.first, gamma], act_type="prelu")
    before, got = bench.values()
    assert_allclose(
        got, np.where(before > 0, before, before * slopes[:, None, None]), rtol=1e-5, atol=1e-6
    )


# ------------------------------------------------------------------- batch normalization


@pytest.mark.parametrize(
    ("attributes", "fixed", "epsilon"),
    [
        ({}, True, 1e-3),
        ({"fix_gamma": "True"}, True, 1e-3),
        ({"fix_gamma": "False"}, False, 1e-3),
        ({"fix_gamma": "False", "eps": "0.5"}, False, 0.5),
        ({"fix_gamma": "0", "eps": "2e-05", "use_global_stats": "True"}, False, 2e-5),
    ],
)
@pytest.mark.parametrize("operator", ["BatchNorm", "BatchNorm_v1"])
def test_batch_normalization(bench, operator, attributes, fixed, epsilon):
    bench.net.norm("bn", bench.first, 4, **attributes)
    bench.net.nodes[-1]["op"] = operator
    held = bench.net.values
    gamma, beta = held["arg:bn_gamma"], held["arg:bn_beta"]
    mean, variance = held["aux:bn_moving_mean"], held["aux:bn_moving_var"]
    variance *= np.float32(0.01)  # where eps matters
    before, got = bench.values()
    slope = (1 if fixed else gamma) / np.sqrt(variance + epsilon)
    expected = (before - mean[:, None, None]) * np.broadcast_to(slope, 4)[:, None, None]
    assert_allclose(got, expected + beta[:, None, None], rtol=1e-4, atol=1e-5)


def test_a_gamma_that_one_reads_and_one_fixes(bench):
    net = bench.net
    first = net.norm("bn", bench.first, 4, fix_gamma=False)
    read = [entry[0] for entry in net.nodes[first]["inputs"]]
    net.add("BatchNorm", "again", [first, *read[1:]], fix_gamma=True)
    before, got = bench.values()
    held = {k.split("_", 1)[1]: v[:, None, None] for k, v in net.values.items() if "bn_" in k}
    root = np.sqrt(held["moving_var"] + 1e-3)
    once = (before - held["moving_mean"]) / root * held["gamma"] + held["beta"]
    assert_allclose(got, (once - held["moving_mean"]) / root + held["beta"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"eps": "nan"}, "has eps = 'nan'"),
        ({"eps": "-5"}, "not above zero"),
        ({"axis": "3"}, "only channels at axis 1"),
        ({"fix_gamma": "perhaps"}, "neither True nor False"),
    ],
)
def test_batch_normalizations_that_make_no_sense(bench, attributes, reason):
    bench.net.norm("bn", bench.first, 4, **attributes)
    with pytest.raises(ModelError, match=reason):
        bench.imported()


# ------------------------------------------------------------------------------ windows


def windows(padded, kernel, stride, shape):
    """What each window holds, cut at the border of what is there."""
    for row in range(shape[2]):
        for column in range(shape[3]):
            top, left = row * stride, column * stride
            yield row, column, padded[:, :, top : top + kernel, left : left + kernel]


@pytest.mark.parametrize("size", [6, 7, 8])
@pytest.mark.parametrize(
    ("kind", "include"), [("max", "None"), ("avg", "True"), ("avg", "False"), ("avg", "None")]
)
@pytest.mark.parametrize("convention", ["valid", "full", None])
@pytest.mark.parametrize(("kernel", "stride", "pad"), [(3, 2, 1), (3, 2, 0), (2, 2, 0), (4, 2, 2)])
def test_pooling(bench, size, kind, include, convention, kernel, stride, pad):
    attributes = {"pooling_convention": convention} if convention else {}
    bench.net.add(
        "Pooling", "tried", [bench.first], kernel=(kernel, kernel), stride=(stride, stride),
        pad=(pad, pad), pool_type=kind, count_include_pad=include, **attributes,
    )  # fmt: skip
    before, got = bench.values(size)
    free = (size + 2 * pad - kernel) / stride
    side = 1 + int(np.ceil(free) if convention == "full" else np.floor(free))
    assert got.shape == (2, 4, side, side)
    around = ((0, 0), (0, 0), (pad, pad), (pad, pad))
    held = np.pad(before, around, constant_values=-np.inf if kind == "max" else 0)
    ones = np.ones_like(before)
    counted = np.pad(ones, around, constant_values=int(include != "False"))
    for row, column, window in windows(held, kernel, stride, got.shape):
        if kind == "max":
            expected = window.max((2, 3))
        else:
            top, left = row * stride, column * stride
            number = counted[:, :, top : top + kernel, left : left + kernel].sum((2, 3))
            expected = window.sum((2, 3)) / number
        assert_allclose(got[:, :, row, column], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"pool_type": "sum"}, "pool_type = 'sum'"),
        ({"pooling_convention": "same"}, "pooling_convention = 'same'"),
        ({"layout": "NHWC"}, "layout = 'NHWC'"),
        ({"kernel": "(3,)"}, "only operators over height and width"),
        ({"kernel": "(3, 3, 3)"}, "only operators over height and width"),
        ({"pad": "(3, 3)"}, "lie in the padding alone"),
        ({"pooling_convention": "full", "stride": "(4, 4)"}, "begin beyond the image"),
        ({"kernel": "(99999999, 1)"}, "not within"),
    ],
)
def test_poolings_that_cannot_be_converted(bench, attributes, reason):
    bench.net.add("Pooling", "tried", [bench.first], **{"kernel": (3, 3), **attributes})
    with pytest.raises(ModelError, match=reason) as caught:
        bench.imported()
    assert "node 'tried' (Pooling)" in str(caught.value)


# ------------------------------------------------------------------------ with weights


@pytest.mark.parametrize(("groups", "dilate", "bias"), [(1, 1, True), (2, 1, False), (4, 2, True)])
def test_convolutions(bench, groups, dilate, bias):
    bench.net.conv(
        "tried", bench.first, 4 // groups, 8, (3, 2), bias=bias, num_group=groups,
        dilate=(dilate, dilate), stride=(2, 1), pad=(2, 0),
    )  # fmt: skip
    before, got = bench.values()
    weight, padded = (
        bench.net.values["arg:tried_weight"],
        np.pad(before, [(0, 0)] * 2 + [(2, 2), (0, 0)]),
    )
    offset = bench.net.values["arg:tried_bias"] if bias else np.zeros(8)
    for channel in range(8):
        first = channel // (8 // groups) * (4 // groups)
        part = padded[:, first : first + 4 // groups]
        for row in range(got.shape[2]):
            taps = part[:, :, row * 2 : row * 2 + 2 * dilate + 1 : dilate]
            for column in range(got.shape[3]):
                window = taps[:, :, :, column : column + dilate + 1 : dilate]
                expected = (window * weight[channel]).sum((1, 2, 3)) + offset[channel]
                assert_allclose(got[:, channel, row, column], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("flattened", [True, False])
def test_fully_connected_layers(bench, bias, flattened):
    bench.net.variable("unused")
    data = bench.net.add("Pooling", "p", [bench.first], global_pool=True, pool_type="avg")
    if flattened:
        data = bench.net.add("Flatten", "f", [data])
    bench.net.dense("tried", data, 4, 5, bias=bias)
    before, got = bench.values()
    held = bench.net.values
    expected = before.mean((2, 3)) @ held["arg:tried_weight"].T
    assert_allclose(got, expected + (held["arg:tried_bias"] if bias else 0), rtol=1e-4, atol=1e-5)
    assert [n.op_type for n in bench.imported().model.graph.node].count("Flatten") == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_filter": "0"}, "num_filter = '0': it is not within"),
        ({"num_filter": "9" * 30}, "not a whole number"),
        ({"num_filter": "5"}, r"its weight 'tried_weight' has shape \[8, 4, 3, 3\], not \[5, any"),
        ({"kernel": "(5, 5)"}, r"not \[8, any, 5, 5\]"),
        ({"num_group": "3"}, "8 filters do not make 3 groups"),
        ({"num_group": "2"}, "takes 8 channels or features and gets 4"),
        ({"no_bias": "False"}, "reads 2 inputs, not 3"),
        ({"layout": "NHWC"}, "layout = 'NHWC'"),
        ({"kernel": "(3,)"}, "only operators over height and width"),
        ({"pad": "(-1, 0)"}, "not within"),
        ({"stride": "(0, 1)"}, "not within"),
        ({"kernel": ""}, "not a tuple"),
    ],
)
def test_convolutions_that_cannot_be_converted(bench, changes, reason):
    bench.net.conv("tried", bench.first, 4, 8)
    bench.net.nodes[-1]["attrs"].update(changes)
    with pytest.raises(ModelError, match=reason) as caught:
        bench.imported()
    assert "'tried'" in str(caught.value)
    assert "\n" not in str(caught.value)


OTHERS = [
    ("RNN", {}, "the operator is unknown"),
    ("_contrib_quantized_conv", {}, "the operator is unknown"),
    ("Activation", {}, "has no act_type"),
    ("Activation", {"act_type": "mish"}, "act_type = 'mish'"),
    ("LeakyReLU", {"act_type": "gelu"}, "act_type = 'gelu'"),
    ("Reshape", {"shape": "(-3, 0)"}, "shape"),
    ("Reshape", {"shape": "(2, -1)"}, "batch"),
    ("Reshape", {"shape": "(0, -1)", "reverse": "True"}, "reverse"),
    ("Concat", {"dim": "0"}, "dim = '0'"),
    ("mean", {}, "axis"),
    ("mean", {"axis": "(0, 1)"}, "axis"),
    ("mean", {"axis": "1", "exclude": "True"}, "exclude"),
    ("softmax", {"axis": "0"}, "mixes images"),
    ("softmax", {"temperature": "2"}, "temperature"),
    ("Cast", {"dtype": "int32"}, "dtype"),
    ("clip", {"a_min": "0"}, "has no a_max"),
    ("Pad", {"mode": "constant", "pad_width": "(0,0,1,1,0,0,0,0)"}, "only height and width"),
    ("_div_scalar", {"scalar": "0"}, "divides by zero"),
    ("_plus_scalar", {"scalar": "nan"}, "finite"),
    ("LRN", {"nsize": "4"}, "even"),
    ("elemwise_add", {}, "reads 1 inputs, not 2"),
    ("BatchNorm", {}, "reads 1 inputs, not 5"),
]


@pytest.mark.parametrize(("operator", "attributes", "reason"), OTHERS)
def test_others_are_refused_by_operator_and_name(bench, operator, attributes, reason):
    bench.net.add(operator, "tried", [bench.first], **attributes)
    with pytest.raises(ModelError, match=reason) as caught:
        bench.imported()
    assert f"node 'tried' ({operator})" in str(caught.value)


def test_a_node_that_reads_nothing_is_refused(bench):
    nothing = bench.net.add("relu", "tried", [])
    bench.net.add("elemwise_add", "sum", [bench.first, nothing])
    with pytest.raises(ModelError, match="it reads nothing"):
        bench.imported()


def test_a_weight_that_is_computed_is_refused(bench):
    weight = bench.net.variable("w", noise(4, 4, 1, 1))
    weight = bench.net.add("_mul_scalar", "scaled", [weight], scalar="2")
    bench.net.add(
        "Convolution", "tried", [bench.first, weight], kernel=(1, 1), num_filter=4, no_bias=True
    )
    with pytest.raises(ModelError, match="'scaled' is computed"):
        bench.imported()


def test_whatever_is_converted_has_a_reference():
    assert set(CONVERSIONS) == set(COMPUTATIONS)
