"""The bias's correction from means, against the means that networks really give."""

import numpy as np
import pytest

from graphs import answers, build, noise
from quantize.graph.layers import constants_of, layers, with_constants
from quantize.pairs import MOST
from quantize.plan import Encoding
from quantize.repair.offline import moved, offline
from quantize.repair.portable import partners_of, together
from quantize.repair.scales import WeightForm, chosen, nearest
from quantize.repair.walk import Remedies

IMAGES = np.abs(noise(32, 8, 6, 6, seed=3)) * np.arange(1, 9, dtype=np.float32)[:, None, None]
MEANS = IMAGES.mean(axis=(0, 2, 3), dtype=np.float64)
ENCODINGS = {"x": Encoding(np.float32(0.1), 0)}
BIAS = Remedies(bias=True)


def convolution(groups=1, taps=1, outputs=16, seed=5):
    return build(
        f"""(float[N,8,6,6] x) => (float[N,{outputs},H,W] y) {{
            [c] y = Conv<group={groups}>(x, w, b)
        }}""",
        seed=seed,
        w=(outputs, 8 // groups, taps, taps),
        b=(outputs,),
    )


def product():
    return build(
        """(float[N,8] x) => (float[N,5] y) {
            [g] y = Gemm<transB=0>(x, w, b)
        }""",
        w=(8, 5),
        b=(5,),
    )


def with_weight(model, weight):
    return with_constants(model, {"w": np.asarray(weight, np.float32)}, {})


def mean_of(model, images):
    axes = (0, 2, 3) if images.ndim == 4 else 0
    return answers(model, images)[0].mean(axis=axes, dtype=np.float64)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_a_convolutions_mean_falls_by_what_its_weights_lost(groups):
    model = convolution(groups)
    [layer] = layers(model)
    weight = constants_of(model)["w"]
    lost = np.random.default_rng(1).normal(0, 0.1, weight.shape).astype(np.float32)
    fell = mean_of(model, IMAGES) - mean_of(with_weight(model, weight - lost), IMAGES)
    np.testing.assert_allclose(moved(layer, layer.matrix(lost), MEANS), fell, atol=1e-4)


def test_taps_of_one_channel_count_together():
    """Without padding and with images that are constant, each tap sees the channel's mean."""
    model = convolution(2, taps=3)
    [layer] = layers(model)
    weight = constants_of(model)["w"]
    lost = np.random.default_rng(2).normal(0, 0.1, weight.shape).astype(np.float32)
    flat = np.broadcast_to(MEANS[:, None, None], (2, 8, 6, 6)).astype(np.float32)
    fell = mean_of(model, flat) - mean_of(with_weight(model, weight - lost), flat)
    np.testing.assert_allclose(moved(layer, layer.matrix(lost), MEANS), fell, atol=1e-4)


def test_a_product_whose_outputs_lie_on_the_second_axis():
    model = product()
    [layer] = layers(model)
    images = IMAGES[:, :, 0, 0]
    means = images.mean(axis=0, dtype=np.float64)
    weight = constants_of(model)["w"]
    lost = np.random.default_rng(3).normal(0, 0.1, weight.shape).astype(np.float32)
    fell = mean_of(model, images) - mean_of(with_weight(model, weight - lost), images)
    np.testing.assert_allclose(moved(layer, layer.matrix(lost), means), fell, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 4])
def test_the_mean_is_right_again_with_rounded_weights(groups):
    model = convolution(groups)
    exact = mean_of(model, IMAGES)
    errors = []
    for remedies in (Remedies(), BIAS):
        [done] = offline(model, ENCODINGS, {"c": MEANS}, remedies, form=WeightForm(7)).values()
        [layer] = layers(model)
        weight = layer.tensor(done.matrix, constants_of(model)["w"].shape)
        rough = with_constants(model, {"w": weight}, {"c": done.bias})
        errors.append(np.abs(mean_of(rough, IMAGES) - exact).max())
    assert errors[0] > 0.05
    assert errors[1] < 1e-4


@pytest.mark.parametrize("limit", [63, 127])
@pytest.mark.parametrize("scales", [False, True])
def test_weights_are_rounded_to_nearest(limit, scales):
    model = convolution(2, taps=3)
    [layer] = layers(model)
    [done] = offline(model, ENCODINGS, {}, Remedies(scales=scales), form=WeightForm(limit)).values()
    weight, bias = layer.matrix(constants_of(model)["w"]), constants_of(model)["b"]
    scale = chosen(weight, bias, 0.1, WeightForm(limit), by_least_squares=scales)
    np.testing.assert_array_equal(done.scale, scale)
    np.testing.assert_array_equal(done.integers, nearest(weight, scale, limit))
    np.testing.assert_array_equal(done.bias, bias)


def test_no_pair_is_too_large_where_portable():
    model = convolution(taps=3, seed=8)
    model = with_weight(model, np.abs(constants_of(model)["w"]) + 0.2)
    [layer] = layers(model)
    free, tame = (
        offline(model, ENCODINGS, {"c": MEANS}, BIAS, form=WeightForm(portable=portable))[
            "c"
        ].integers
        for portable in (False, True)
    )
    partners = partners_of(layer, free.shape)
    assert together(free.astype(np.int64), partners).max() > MOST
    assert together(tame.astype(np.int64), partners).max() <= MOST


def test_a_layer_that_stays_float_is_not_touched():
    assert offline(convolution(), ENCODINGS, {"c": MEANS}, BIAS, floats=frozenset({"c"})) == {}


def test_a_layer_of_unknown_means_keeps_its_bias():
    model = convolution()
    [done] = offline(model, ENCODINGS, {}, BIAS).values()
    np.testing.assert_array_equal(done.bias, constants_of(model)["b"])


def test_a_product_that_can_carry_no_bias_gets_none():
    model = build(
        """(float[N,8] x) => (float[N,5] y) {
            [m] y = MatMul(x, w)
        }""",
        w=(8, 5),
    )
    done = offline(model, ENCODINGS, {"m": MEANS}, BIAS)["m"]
    assert not done.bias.any()


def test_a_channel_of_tiny_weights_keeps_its_bias():
    model = convolution()
    weight = constants_of(model)["w"].copy()
    weight[3] = 1e-12
    bias = np.full(16, 4, np.float32)
    tiny = with_constants(model, {"w": weight}, {"c": bias})
    done = offline(tiny, ENCODINGS, {"c": MEANS}, BIAS)["c"]
    assert abs(done.bias[3] / (0.1 * done.scale[3])) <= 2.0**30 * 1.001
