"""The bench: images at equal distances, biases everywhere, and means that follow equalization."""

import numpy as np
import pytest

from graphs import answers, build, noise
from quantize.calibrate import calibrate
from quantize.graph.layers import layers
from quantize.graph.prepare import prepare
from quantize.probe import run_once
from quantize.repair.bench import Bench, with_all_biases
from quantize.repair.stages import layer_means

IMAGES = noise(7, 3, 6, 6)


def network(spread):
    """Two convolutions and a MatMul; the second takes back what is `spread` between channels."""
    scale = np.geomspace(1, spread, 4, dtype=np.float32).reshape(-1, 1, 1, 1)
    model = build(
        """(float[N,3,6,6] x) => (float[N,2] y) {
            [a] h = Conv(x, w)
            [r] r = Relu(h)
            [c] k = Conv(r, v)
            [p] q = GlobalAveragePool(k)
            [f] z = Flatten(q)
            [m] y = MatMul(z, u)
        }""",
        w=noise(4, 3, 3, 3, seed=1) * scale,
        v=noise(3, 4, 2, 2, seed=2) / scale.reshape(1, -1, 1, 1),
        u=(3, 2),
    )
    return prepare(model, run_once, (3, 6, 6)).model


def bench_of(spread, **options):
    model = network(spread)
    return Bench(model, calibrate(model, [IMAGES], threads=1), IMAGES, 1, **options)


@pytest.mark.parametrize(
    ("count", "taken"), [(None, range(7)), (9, range(7)), (3, (0, 2, 4)), (1, (0,)), (0, ())]
)
def test_few_images_are_at_equal_distances(count, taken):
    np.testing.assert_array_equal(bench_of(1).few(count), IMAGES[list(taken)])


def test_every_layer_that_can_carry_a_bias_has_one_and_nothing_else_changes():
    model = network(1)
    before = model.SerializeToString()
    made = with_all_biases(model)
    assert {layer.name: layer.bias is not None for layer in layers(made)} == {
        "a": True, "c": True, "m": False,
    }  # fmt: skip
    assert model.SerializeToString() == before
    np.testing.assert_array_equal(answers(made, IMAGES)[0], answers(model, IMAGES)[0])


def test_where_no_pair_may_be_equalized_the_model_stays_as_it_is():
    pinned = bench_of(50, pinned=frozenset({"a"}))
    assert pinned.equalized is pinned.plain


@pytest.mark.parametrize("walked", [None, 3])
def test_the_means_of_equalized_layers_are_known_without_a_run(walked, monkeypatch):
    bench = bench_of(50)
    ground = bench.equalized
    assert {each.layer for each in ground.moved} == {"a"}
    assert ground.rescaled == {"r"}
    bench.plain.means(walked)

    def refuse(*_, **__):
        raise AssertionError("ran again")

    monkeypatch.setattr("quantize.repair.bench.layer_means", refuse)
    found = ground.means(walked)
    exact = layer_means(ground.model, bench.few(walked), threads=1)
    assert found.keys() == exact.keys()
    for name, mean in exact.items():
        np.testing.assert_allclose(found[name], mean, rtol=1e-4, atol=1e-5)
