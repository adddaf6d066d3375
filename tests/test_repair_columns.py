"""Columns times the weight matrix are the convolution, as onnxruntime computes it."""

import numpy as np
import pytest

from graphs import answers, build, noise
from quantize.graph.layers import constants_of, layers
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


def columns_of(layer, matrix, x):
    return list(
        conv_columns(
            x,
            kernel=layer.kernel,
            strides=layer.strides,
            dilations=layer.dilations,
            pads=layer.pads,
            group=layer.group,
            outputs=len(matrix),
        )
    )


def products(layer, matrix, x):
    """float64 [N,P,M] from the columns of all groups."""
    parts = columns_of(layer, matrix, x)
    assert [rows.start for rows, _ in parts] == list(
        range(0, len(matrix), len(matrix) // layer.group)
    )
    whole = np.concatenate([columns @ matrix[rows].T for rows, columns in parts], axis=1)
    return whole.reshape(len(x), -1, len(matrix))


@pytest.mark.parametrize("name", CASES)
def test_a_small_output_is_sampled_whole(name):
    model, layer, matrix = convolution(name)
    x = noise(3, 4, 5, 7)
    made = answers(model, x)[0]
    expected = made.reshape(*made.shape[:2], -1).transpose(0, 2, 1)
    seen = products(layer, matrix, x)
    assert seen.shape == expected.shape
    for mine, theirs in zip(seen, expected, strict=True):
        mine = mine[np.argsort(mine[:, 0])]
        np.testing.assert_allclose(mine, theirs[np.argsort(theirs[:, 0])], atol=1e-4)


@pytest.mark.parametrize("name", ["pads", "groups", "everything"])
def test_a_large_output_is_sampled_at_64_positions_the_same_for_all_images(name):
    model, layer, matrix = convolution(name)
    x = noise(2, 4, 30, 31)
    made = answers(model, x)[0]
    expected = made.reshape(*made.shape[:2], -1).transpose(0, 2, 1)
    seen = products(layer, matrix, x)
    assert seen.shape == (2, 64, len(matrix))
    where = []
    for mine, theirs in zip(seen, expected, strict=True):
        distance = np.abs(mine[:, None] - theirs[None]).max(axis=2)
        assert distance.min(axis=1).max() < 1e-4
        where.append(distance.argmin(axis=1).tolist())
    assert where[0] == where[1]
    assert len(set(where[0])) > 60  # some windows in the padding are equal


def test_the_sample_is_the_same_each_time():
    _, layer, matrix = convolution("everything")
    x = noise(2, 4, 40, 31)
    first, second = columns_of(layer, matrix, x), columns_of(layer, matrix, x)
    for (_, one), (_, two) in zip(first, second, strict=True):
        assert one.dtype == np.float64
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("shape", [(7, 5), (3, 4, 5)])
def test_a_matrix_product_reads_its_input_as_it_is(shape):
    x = noise(*shape)
    [(rows, columns)] = matrix_columns(x, outputs=6)
    assert rows == slice(0, 6)
    assert columns.dtype == np.float64
    np.testing.assert_array_equal(columns, x.reshape(-1, 5))
