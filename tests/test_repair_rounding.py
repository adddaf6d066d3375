"""Least-squares rounding against the nearest integer, by the quadratic form that it minimises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.repair.rounding import round_by_least_squares
from quantize.repair.scales import largest, nearest


def layer(seed, rows=4, columns=12, rank=5):
    """Weights float32 [M,K] and moments of K inputs that follow `rank` hidden ones."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(50, rank)) @ rng.normal(size=(rank, columns))
    x = np.maximum(mixed + 0.1 * rng.normal(size=mixed.shape), 0)
    return rng.normal(size=(rows, columns)).astype(np.float32), x.T @ x


def errors(weight, scale, integers, moments):
    """Per row (w - s q) H (w - s q), in float64."""
    missing = weight.astype(np.float64) - scale.astype(np.float64)[:, None] * integers
    return np.einsum("mi,ij,mj->m", missing, moments, missing)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    columns=st.integers(1, 140),
    rank=st.integers(1, 8),
    limit=st.sampled_from([1, 7, 63, 127]),
    share=st.sampled_from([1.0, 0.6]),
)
def test_no_row_is_worse_than_rounded_to_nearest(seed, columns, rank, limit, share):
    weight, moments = layer(seed, columns=columns, rank=rank)
    scale = largest(weight, limit) * np.float32(share)
    chosen = round_by_least_squares(weight, scale, moments, limit)
    assert (chosen.dtype, chosen.shape) == (np.int8, weight.shape)
    assert np.abs(chosen.astype(int)).max() <= limit
    simple = errors(weight, scale, nearest(weight, scale, limit), moments)
    assert (errors(weight, scale, chosen, moments) <= simple * (1 + 1e-9) + 1e-12).all()


@pytest.mark.parametrize("columns", [9, 64, 65, 150])
def test_correlated_inputs_lose_much_less(columns):
    weight, moments = layer(1, rows=16, columns=columns)
    scale = largest(weight, 7)
    simple = errors(weight, scale, nearest(weight, scale, 7), moments).sum()
    chosen = round_by_least_squares(weight, scale, moments, 7)
    assert errors(weight, scale, chosen, moments).sum() < 0.5 * simple


def column_by_column(weight, scale, moments, limit):
    """The same, one column after the other and in one piece, straight from the formula."""
    order = np.argsort(-np.diag(moments), kind="stable")
    damping = 0.01 * np.trace(moments) / len(moments) * np.eye(len(moments))
    inverse = np.linalg.inv(moments[np.ix_(order, order)] + damping)
    upper = np.linalg.cholesky(inverse).T
    rest = (weight / scale[:, None]).astype(np.float64)[:, order]
    integers = np.zeros_like(rest)
    for i in range(rest.shape[1]):
        integers[:, i] = np.clip(np.rint(rest[:, i]), -limit, limit)
        error = (rest[:, i] - integers[:, i]) / upper[i, i]
        rest[:, i + 1 :] -= np.outer(error, upper[i, i + 1 :])
    return integers[:, np.argsort(order)]


@pytest.mark.parametrize("columns", [64, 65, 150])
def test_working_in_blocks_changes_nothing(columns):
    weight, moments = layer(8, rows=8, columns=columns, rank=30)
    scale = largest(weight, 31)
    chosen = round_by_least_squares(weight, scale, moments, 31)
    assert (chosen == column_by_column(weight, scale, moments, 31)).mean() > 0.99


@pytest.mark.parametrize("columns", [9, 100])
def test_uncorrelated_inputs_round_to_nearest(columns):
    weight, _ = layer(2, columns=columns)
    scale = largest(weight)
    moments = np.diag(np.random.default_rng(3).uniform(0, 5, columns))
    np.testing.assert_array_equal(
        round_by_least_squares(weight, scale, moments), nearest(weight, scale)
    )


def test_inputs_that_are_always_zero_round_to_nearest():
    weight, moments = layer(4)
    moments[[3, 7]] = moments[:, [3, 7]] = 0
    scale = largest(weight)
    chosen = round_by_least_squares(weight, scale, moments)
    np.testing.assert_array_equal(chosen[:, [3, 7]], nearest(weight, scale)[:, [3, 7]])
    np.testing.assert_array_equal(
        round_by_least_squares(weight, scale, 0 * moments), nearest(weight, scale)
    )


def test_sum_or_mean_of_the_products_makes_no_difference_and_nothing_is_changed():
    weight, moments = layer(5)
    scale = largest(weight)
    before = weight.copy(), scale.copy(), moments.copy()
    chosen = round_by_least_squares(weight, scale, moments)
    np.testing.assert_array_equal(chosen, round_by_least_squares(weight, scale, moments / 64))
    np.testing.assert_array_equal(chosen, round_by_least_squares(weight, scale, moments))
    for array, earlier in zip((weight, scale, moments), before, strict=True):
        np.testing.assert_array_equal(array, earlier)


def test_rows_are_rounded_by_themselves():
    weight, moments = layer(6)
    scale = largest(weight)
    whole = round_by_least_squares(weight, scale, moments)
    for row in range(len(weight)):
        one = round_by_least_squares(weight[[row]], scale[[row]], moments)
        np.testing.assert_array_equal(one[0], whole[row])
