"""Caffe2 operators as ONNX: what onnxruntime then computes is what Caffe2 would."""

import numpy as np
import pytest

from caffe2_nets import complaint, init_net, net, op, write
from graphs import answers, noise
from quantize.conversion import caffe2_operators
from quantize.conversion.caffe2 import import_caffe2
from quantize.errors import ModelError


def rand(*shape, seed=1):
    return np.random.default_rng(seed).normal(0, 0.5, shape).astype(np.float32)


def norms(channels, prefix="bn"):
    rng = np.random.default_rng(channels)
    values = {f"{prefix}_{part}": rng.normal(0, 1, channels) for part in ("s", "b", "rm")}
    return {**values, f"{prefix}_riv": rng.uniform(0.1, 4, channels)}


def imported(folder, *operators, size=(3, 9, 8), outputs=(), **blobs):
    predict, init = write(folder, net(*operators, outputs=outputs), init_net(**blobs))
    info = folder / "value_info.json"
    info.write_text(f'{{"data": [1, [1, {size[0]}, {size[1]}, {size[2]}]]}}')
    return import_caffe2(predict, init, info)


def equal(made, count=2, seed=0, images=None):
    """Every output of the ONNX model against the reference's tensor of that name."""
    shape = [d.dim_value for d in made.model.graph.input[0].type.tensor_type.shape.dim[1:]]
    images = noise(count, *shape, seed=seed) if images is None else images
    reference = made.reference(images)
    for value, got in zip(made.model.graph.output, answers(made.model, images), strict=True):
        want = reference[value.name]
        assert got.shape == want.shape
        declared = [d.dim_value for d in value.type.tensor_type.shape.dim[1:]]
        assert list(got.shape[1:]) == declared
        assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
    return got


def kinds(made):
    return [node.op_type for node in made.model.graph.node]


def refused(folder, *operators, words, **given):
    with pytest.raises(ModelError) as caught:
        imported(folder, *operators, **given)
    text = str(caught.value)
    assert text.isprintable()
    for word in words:
        assert word in text, text


# ------------------------------------------------------------------------- convolutions

SPELLINGS = [
    {},
    {"stride": 2},
    {"strides": [2, 1]},
    {"stride_h": 1, "stride_w": 2},
    {"pad": 1},
    {"pads": [0, 1, 2, 1]},
    {"pad_t": 2, "pad_l": 0, "pad_b": 1, "pad_r": 1},
    {"dilation": 2, "pad": 2},
    {"dilations": [1, 2]},
    {"dilation_h": 2, "dilation_w": 1},
    {"legacy_pad": 1},
    {"order": "NCHW", "exhaustive_search": 1, "ws_nbytes_limit": 1 << 20, "use_cudnn": 1},
]


@pytest.mark.parametrize("given", SPELLINGS, ids=lambda given: "-".join(given) or "plain")
def test_a_convolution_in_every_spelling(tmp_path, given):
    conv = op("Conv", "data w b", "y", kernel=3, **given)
    equal(imported(tmp_path, conv, w=rand(4, 3, 3, 3), b=rand(4)))


@pytest.mark.parametrize(
    "kernel", [{"kernels": [3, 2]}, {"kernel_h": 3, "kernel_w": 2}], ids=["list", "parts"]
)
def test_a_kernel_that_is_not_square(tmp_path, kernel):
    equal(imported(tmp_path, op("Conv", "data w", "y", **kernel), w=rand(4, 3, 3, 2)))


def test_groups(tmp_path):
    conv = op("Conv", "data w b", "y", kernel=3, group=2)
    equal(imported(tmp_path, conv, size=(4, 6, 6), w=rand(6, 2, 3, 3), b=rand(6)))


# ----------------------------------------------------------------------- the other ones


def test_the_inverse_variance_is_the_variance(tmp_path):
    bn = op("SpatialBN", "data bn_s bn_b bn_rm bn_riv", "y", is_test=1, epsilon=1e-3)
    made, values = imported(tmp_path, bn, **norms(3)), norms(3)
    got = equal(made)
    wide = {name: value.reshape(1, 3, 1, 1) for name, value in values.items()}
    slope = wide["bn_s"] / np.sqrt(wide["bn_riv"] + 1e-3)
    want = (noise(2, 3, 9, 8) - wide["bn_rm"]) * slope + wide["bn_b"]
    np.testing.assert_allclose(got, want, atol=1e-5)


POOLS = [
    {"kernel": 2, "stride": 2},
    {"kernel": 3, "stride": 2, "pad": 1},
    {"kernels": [3, 2], "pads": [1, 0, 0, 1]},
    {"global_pooling": 1},
    {"global_pooling": 1, "kernel": 7},
    {"kernel": 3, "stride": 2, "legacy_pad": 3},
    {"kernel": 2, "stride": 2, "legacy_pad": 3},
    {"kernel": 3, "stride": 2, "pad": 1, "legacy_pad": 3},
    {"kernel": 3, "stride": 3, "pad": 1, "legacy_pad": 3},
]


@pytest.mark.parametrize("given", POOLS, ids=lambda given: "-".join(given))
@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("size", [(3, 9, 8), (3, 7, 10)], ids=["9x8", "7x10"])
def test_pooling(tmp_path, kind, given, size):
    equal(imported(tmp_path, op(kind, "data", "y", **given), size=size))


def test_pooling_that_counts_its_pads(tmp_path):
    pool = op("AveragePool", "data", "y", kernel=3, pad=1, count_include_pad=1)
    equal(imported(tmp_path, pool))


def test_pooling_as_caffe_has_a_last_partial_window(tmp_path):
    plain = imported(tmp_path, op("MaxPool", "data", "y", kernel=3, stride=2), size=(3, 8, 8))
    caffe = op("MaxPool", "data", "y", kernel=3, stride=2, legacy_pad=3)
    assert equal(plain).shape == (2, 3, 3, 3)
    assert equal(imported(tmp_path, caffe, size=(3, 8, 8))).shape == (2, 3, 4, 4)


def test_sums_become_additions(tmp_path):
    made = imported(tmp_path, op("Sum", "data data data", "y"))
    assert kinds(made) == ["Add", "Add"]
    np.testing.assert_allclose(equal(made), 3 * noise(2, 3, 9, 8), rtol=1e-6)
    assert kinds(imported(tmp_path, op("Sum", "data", "y"))) == ["Identity"]
    assert kinds(imported(tmp_path, op("Add", "data data", "y", broadcast=1))) == ["Add"]


def test_the_last_layers(tmp_path):
    made = imported(
        tmp_path,
        op("Dropout", "data", "data dropped_mask", is_test=1, ratio=0.5),
        op("FC", "data w b", "scores"),
        op("Softmax", "scores", "y"),
        w=rand(5, 216),
        b=rand(5),
    )
    assert kinds(made) == ["Identity", "Flatten", "Gemm", "Softmax"]
    np.testing.assert_allclose(equal(made, count=3).sum(axis=1), 1, atol=1e-6)


def test_softmax_over_channels_of_one_pixel(tmp_path):
    pooled = op("AveragePool", "data", "p", global_pooling=1)
    equal(imported(tmp_path, pooled, op("Softmax", "p", "y", axis=1)))
    refused(tmp_path, op("Softmax", "data", "y"), words=["Softmax", "'y'", "axis 1"])


def test_concatenation(tmp_path):
    made = imported(tmp_path, op("Concat", "data data", "y split", axis=1, order="NCHW"))
    assert equal(made).shape == (2, 6, 9, 8)


def test_local_response_normalization(tmp_path):
    lrn = op("LRN", "data", "y scale", size=5, alpha=0.7, beta=0.75, bias=1.5)
    equal(imported(tmp_path, lrn, size=(8, 4, 4)))
    equal(imported(tmp_path, op("LRN", "data", "y", size=3, alpha=2.0, beta=0.5)))


# ------------------------------------------------------------------- blobs overwritten


def test_overwritten_blobs_get_new_names(tmp_path):
    made = imported(
        tmp_path,
        op("Conv", "data w", "gpu_0/c", kernel=1),
        op("SpatialBN", "gpu_0/c bn_s bn_b bn_rm bn_riv", "gpu_0/c_bn", is_test=1),
        op("Relu", "gpu_0/c_bn", "gpu_0/c_bn"),
        op("Sum", "gpu_0/c_bn gpu_0/c", "gpu_0/c_bn"),
        outputs=["gpu_0/c_bn"],
        w=rand(4, 3, 1, 1),
        **norms(4),
    )
    names = [node.output[0] for node in made.model.graph.node]
    assert names == ["gpu_0/c_1", "gpu_0/c_bn_1", "gpu_0/c_bn_2", "gpu_0/c_bn_3"]
    assert [node.name for node in made.model.graph.node] == names
    assert made.model.graph.input[0].name == "data_0"
    assert "w_0" in {tensor.name for tensor in made.model.graph.initializer}
    equal(made)
    assert list(made.reference(noise(1, 3, 9, 8))) == names


def test_the_input_may_be_overwritten(tmp_path):
    made = imported(tmp_path, op("Relu", "data", "data"), op("Sum", "data data", "y"))
    assert made.model.graph.node[0].output[0] == "data_1"
    np.testing.assert_array_equal(equal(made), 2 * np.maximum(noise(2, 3, 9, 8), 0))


def test_names_that_look_like_new_ones_stay_apart(tmp_path):
    operators = [op("Relu", "data", "a"), op("Relu", "a", "a_1"), op("Sum", "a a_1 a", "a")]
    made = imported(tmp_path, *operators)
    names = [node.output[0] for node in made.model.graph.node]
    assert len(set(names)) == len(names)
    equal(made)


# ---------------------------------------------------------------------------- refusals

CONV = {"w": rand(4, 3, 3, 3)}
REFUSED = [
    (op("Conv", "data w", "y", kernel=3, order="NHWC"), CONV, ["'y'", "NHWC"]),
    (op("MaxPool", "data", "y", kernel=3, order="NHWC"), {}, ["'y'", "NHWC"]),
    (op("Conv", "data w", "y", kernel=5), CONV, ["'y'", "kernel of [5, 5]", "[4, 3, 3, 3]"]),
    (op("Conv", "data w", "y", kernel=3, group=2), CONV, ["'y'", "2 groups", "3 channels"]),
    (op("Conv", "data w", "y", kernel=3, group=0), CONV, ["'y'", "0 groups"]),
    (op("Conv", "data w v", "y", kernel=3), CONV, ["needs 'v'", "init net"]),
    (op("Conv", "data v", "y", kernel=3), CONV, ["needs 'v'", "init net"]),
    (op("Conv", "data data", "y", kernel=3), CONV, ["'data' as weights"]),
    (op("Sum", "data w", "y"), CONV, ["Sum", "'y'", "weights 'w'"]),
    (op("Sum", "data v", "y"), CONV, ["Sum", "'y'", "'v'", "made before"]),
    (op("Conv", "data w b", "y", kernel=3), CONV | {"b": rand(3)}, ["'b'", "[4]", "[3]"]),
    (op("Conv", "data w", "y", kernel=3), {"w": rand(4, 2, 3, 3)}, ["'y'", "3 channels"]),
    (op("Conv", "data w", "y", kernel=3), {"w": rand(9)}, ["'y'", "[9]"]),
    (op("Conv", "data w", "y", kernel=3), {"w": np.full((4, 3, 3, 3), np.nan)}, ["NaN", "'w'"]),
    (op("Conv", "data w", "y"), CONV, ["'y'", "no kernel"]),
    (op("Conv", "data w", "y", kernel=3, kernels=[3, 3]), CONV, ["more than one way"]),
    (op("Conv", "data w", "y", kernel=3, pad_t=1), CONV, ["pad_t", "pad_l"]),
    (op("Conv", "data w", "y", kernel=3, pads=[1, 1]), CONV, ["pad [1, 1]", "4"]),
    (op("Conv", "data w", "y", kernel=3, pad=-1), CONV, ["'y'", "-1"]),
    (op("Conv", "data w", "y", kernel=3, stride=0), CONV, ["'y'", "of 0"]),
    (op("Conv", "data w", "y", kernel=3, stride=1 << 40), CONV, ["'y'", "usable"]),
    (op("Conv", "data w", "y", kernel=3, legacy_pad=2), CONV, ["legacy_pad: 2"]),
    (op("Conv", "data w", "y", kernel=3, legacy_pad=3), CONV, ["legacy_pad: 3", "pooling"]),
    (op("Conv", "data w", "y", kernel=3, legacy_pad=1, pad=1), CONV, ["legacy_pad: 1"]),
    (op("Conv", "data w", "y", kernel="x"), CONV, ["'kernel'", "no integer"]),
    (op("Conv", "data w", "y", kernel=3, strange=1), CONV, ["'strange'"]),
    (op("Conv", "data", "y", kernel=3), CONV, ["'y'", "1 inputs"]),
    (op("Conv", "data w", "", kernel=3), CONV, ["0 outputs"]),
    (op("Conv", "data w", "y z", kernel=3), CONV, ["2 outputs"]),
    (op("MaxPool", "data", "y", kernel=20), {}, ["'y'", "too small"]),
    (op("MaxPool", "data", "y", kernel=2, pad=2), {}, ["pads [2, 2, 2, 2]"]),
    (op("MaxPool", "data", "y", kernel=2, dilation=2), {}, ["dilation"]),
    (op("MaxPool", "data", "y", kernel=2, ceil_mode=1), {}, ["ceil_mode"]),
    (op("MaxPool", "data", "y", kernel=2, stride=3, legacy_pad=3), {}, ["legacy_pad: 3"]),
    (op("MaxPool", "data", "y", global_pooling=1, stride=2), {}, ["global_pooling"]),
    (op("Dropout", "data", "y"), {}, ["'y'", "is_test", "for training"]),
    (op("SpatialBN", "data bn_s bn_b bn_rm bn_riv", "y"), norms(3), ["is_test"]),
    (op("SpatialBN", "data bn_s bn_b bn_rm bn_riv", "y", is_test=1), norms(4), ["[3]", "[4]"]),
    (
        op("SpatialBN", "data bn_s bn_b bn_rm bn_riv", "y", is_test=1),
        norms(3) | {"bn_riv": -np.ones(3)},
        ["below zero", "'bn_riv'"],
    ),
    (op("FC", "data w b", "y"), {"w": rand(5, 7), "b": rand(5)}, ["[5, 7]", "[N,3,9,8]"]),
    (op("FC", "data w b", "y", axis=2), {"w": rand(5, 216), "b": rand(5)}, ["axis"]),
    (op("LRN", "data", "y", size=4), {}, ["size 4", "odd"]),
    (op("LRN", "data", "y", size=2**40 + 1), {}, ["size", "odd"]),
    (op("Conv", "data w", "y", kernel=3, pad=40_000), CONV, ["'y'", "[N,4,80007,80006]"]),
    (op("Conv", "data w", "y", kernel=3, pad=4_000), CONV, ["'y'", "too large an image"]),
    (op("Concat", "data data", "y", axis=2), {}, ["axis"]),
    (op("Swish", "data", "y"), {}, ["Swish", "'y'", "not supported", "SpatialBN"]),
    (op("\x1b[2J\nX", "data", "\x1b[2Jy"), {}, ["X", "y", "not supported"]),
    (op("Free", "data", ""), {}, ["Free", "nothing"]),
]


@pytest.mark.parametrize(
    ("operator", "blobs", "words"),
    REFUSED,
    ids=[f"{i}-{r[0].type[-9:]}" for i, r in enumerate(REFUSED)],
)
def test_what_cannot_be_kept_is_refused_by_name(tmp_path, operator, blobs, words):
    refused(tmp_path, operator, words=words, **blobs)


def test_terms_must_be_alike(tmp_path):
    pooled = op("MaxPool", "data", "p", kernel=2)
    refused(tmp_path, pooled, op("Sum", "data p", "y"), words=["'p'", "[N,3,8,7]", "[N,3,9,8]"])
    refused(tmp_path, pooled, op("Concat", "data p", "y"), words=["unlike", "[N,3,8,7]"])


def test_computed_weights_are_refused(tmp_path):
    conv = op("Conv", "data w", "w", kernel=3)
    refused(tmp_path, conv, op("Conv", "data w", "y", kernel=3), words=["'w'", "computed"], **CONV)


def test_integers_are_no_weights(tmp_path):
    fill = op("GivenTensorInt64Fill", "", "w", shape=[1, 3, 1, 1], values=[1, 2, 3])
    predict, init = write(tmp_path, net(op("Conv", "data w", "y", kernel=1)), net(fill))
    with pytest.raises(ModelError, match=r"float32 weights, and 'w' is int64"):
        import_caffe2(predict, init)


def test_an_output_that_nothing_makes(tmp_path):
    relu = op("Relu", "data", "y")
    refused(tmp_path, relu, outputs=["lost"], words=["'lost'", "no operator makes"])


# --------------------------------------------------------------------------- mutations

STRANGE = [-(2**63), -1, 0, 1, 2, 3, 7, 1 << 16, 1 << 31, 2**63 - 1, 0.0, -1.5, 1e38, "x", [2], []]
NAMES = [
    *("kernel", "kernels", "kernel_h", "stride", "strides", "dilation", "pad", "pads", "pad_t"),
    *("group", "legacy_pad", "global_pooling", "ceil_mode", "order", "axis", "is_test"),
    *("epsilon", "size", "bias", "beta"),
]


def test_some_arguments_give_a_model_or_one_line(tmp_path):
    any_arguments(tmp_path, 400)


@pytest.mark.slow
def test_any_arguments_give_a_model_or_one_line(tmp_path):
    any_arguments(tmp_path, 4_000)


def any_arguments(folder, count):
    """Operators of every kind, inputs and arguments at random."""
    rng = np.random.default_rng(count)
    blobs = {"w": rand(3, 3, 3, 3), "v": rand(3), "riv": np.ones(3), "fc": rand(4, 216)}
    outcomes = [0, 0]

    def attempt(operator):
        return imported(folder, operator, **blobs)

    for _ in range(count):
        kind = rng.choice(sorted(caffe2_operators._RULES))
        read = " ".join(rng.choice(["data", "w", "v", "riv", "fc"], rng.integers(0, 3)))
        inputs = f"data {read}" if kind != "SpatialBN" else "data v v v riv"
        names = rng.choice(NAMES, rng.integers(0, 3), replace=False)
        given = {str(name): STRANGE[rng.integers(len(STRANGE))] for name in names}
        if rng.integers(4):
            known = caffe2_operators._RULES[kind].arguments
            given = {"kernel": 3, "is_test": 1, "size": 3, **given}
            given = {name: value for name, value in given.items() if name in known}
        said = complaint(attempt, op(kind, inputs, "y", **given))
        assert "\n" not in said
        outcomes[bool(said)] += 1
    assert min(outcomes) > count // 15
