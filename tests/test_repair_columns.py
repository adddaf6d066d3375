"""Columns times the weight matrix are the convolution, as onnxruntime computes it."""

import numpy as np
import pytest

from graphs import answers, build, noise
from quantize.graph.layers import constants_of, layers
from quantize.plan import Encoding
from quantize.repair.columns import conv_columns, matrix_columns

CASES = {
    "plain": ({"group": 1}, (6, 4, 3, 3)),
    "1x1": ({"group": 1}, (5, 4, 1, 1)),
    "strides": ({"strides": [2, 3]}, (6, 4, 3, 3)),
    "pads": ({"pads": [1, 0, 2, 3]}, (6, 4, 3, 2)),
    "dilations": ({"dilations": [2, 3]}, (6, 4, 2, 3)),
    "groups": ({"group": 2}, (6, 2, 3, 3)),
    "depthwise": ({"group": 4, "pads": [1, 1, 1, 1]}, (4, 1, 3, 3)),
    "everything": (
        {"group": 2, "strides": [3, 2], "pads": [2, 1, 0, 3], "dilations": [2, 1]},
        (4, 2, 2, 3),
    ),
}


def convolution(name):
    attributes, shape = CASES[name]
    text = ", ".join(f"{key}={value}" for key, value in attributes.items())
    model = build(
        f"(float[N,4,H,W] x) => (float[N,M,P,Q] y) {{ [c] y = Conv<{text}>(x, w) }}", w=shape
    )
    [layer] = layers(model)
    return model, layer, layer.matrix(constants_of(model)["w"])


def columns_of(layer, x, encoding=None):
    return list(
        conv_columns(
            x,
            encoding,
            kernel=layer.kernel,
            strides=layer.strides,
            dilations=layer.dilations,
            pads=layer.pads,
            group=layer.group,
        )
    )


def products(layer, matrix, x):
    """float64 [N,P,M] from the columns of all groups."""
    parts = columns_of(layer, x)
    assert [g for groups, _ in parts for g in range(groups.start, groups.stop)] == list(
        range(layer.group)
    )
    columns = np.concatenate([columns for _, columns in parts])  # [G,P,K]
    rows = matrix.reshape(layer.group, -1, matrix.shape[1])
    whole = np.einsum("gpk,gmk->pgm", columns, rows).reshape(-1, len(matrix))
    return whole.reshape(len(x), -1, len(matrix))


@pytest.mark.parametrize("name", CASES)
def test_a_small_output_is_sampled_whole(name):
    model, layer, matrix = convolution(name)
    x = noise(3, 4, 4, 4) if name in ("1x1", "depthwise") else noise(3, 4, 5, 7)
    made = answers(model, x)[0]
    expected = made.reshape(*made.shape[:2], -1).transpose(0, 2, 1)
    seen = products(layer, matrix, x)
    assert seen.shape == expected.shape
    for mine, theirs in zip(seen, expected, strict=True):
        mine = mine[np.argsort(mine[:, 0])]
        np.testing.assert_allclose(mine, theirs[np.argsort(theirs[:, 0])], atol=1e-4)


@pytest.mark.parametrize("name", ["pads", "groups", "everything"])
def test_a_large_output_is_sampled_at_positions_that_are_the_same_for_all_images(name):
    model, layer, matrix = convolution(name)
    x = noise(2, 4, 30, 31)
    made = answers(model, x)[0]
    expected = made.reshape(*made.shape[:2], -1).transpose(0, 2, 1)
    seen = products(layer, matrix, x)
    assert seen.shape == (2, min(64, 4 * matrix.shape[1]), len(matrix))
    where = []
    for mine, theirs in zip(seen, expected, strict=True):
        distance = np.abs(mine[:, None] - theirs[None]).max(axis=2)
        assert distance.min(axis=1).max() < 1e-4
        where.append(distance.argmin(axis=1).tolist())
    assert where[0] == where[1]
    assert len(set(where[0])) > 0.9 * seen.shape[1]  # some windows in the padding are equal


def test_the_sample_is_the_same_each_time():
    _, layer, _ = convolution("everything")
    x = noise(2, 4, 40, 31)
    first, second = columns_of(layer, x), columns_of(layer, x)
    for (_, one), (_, two) in zip(first, second, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", ["pads", "depthwise", "everything"])
def test_integers_give_the_columns_of_what_they_stand_for(name):
    """The padding is 0, which is the zero point."""
    _, layer, _ = convolution(name)
    encoding = Encoding(np.float32(0.25), 7)
    x = np.random.default_rng(2).integers(0, 256, (3, 4, 6, 7)).astype(np.uint8)
    reals = (x.astype(np.float32) - 7) * np.float32(0.25)
    for (_, one), (_, two) in zip(
        columns_of(layer, x, encoding), columns_of(layer, reals), strict=True
    ):
        assert one.dtype == np.uint8
        np.testing.assert_array_equal((one.astype(np.float32) - 7) * np.float32(0.25), two)


def test_many_groups_come_a_few_at_a_time(monkeypatch):
    _, layer, matrix = convolution("depthwise")
    x = noise(3, 4, 5, 7)
    whole = products(layer, matrix, x)
    monkeypatch.setattr("quantize.repair.columns._AT_ONCE", 1)
    assert len(columns_of(layer, x)) == 4
    np.testing.assert_array_equal(products(layer, matrix, x), whole)


@pytest.mark.parametrize("shape", [(7, 5), (3, 4, 5)])
def test_a_matrix_product_reads_its_input_as_it_is(shape):
    x = noise(*shape)
    [(groups, columns)] = matrix_columns(x)
    assert groups == slice(0, 1)
    assert columns.dtype == np.float32
    np.testing.assert_array_equal(columns[0], x.reshape(-1, 5))
