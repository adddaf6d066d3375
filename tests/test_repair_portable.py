"""Weights whose pairs fit 16 bits: scales, integers and rounding, by the definition of a pair."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.pairs import MOST, at_risk, kernel_order, partners
from quantize.repair.portable import fitting, room, together
from quantize.repair.rounding import round_by_least_squares
from quantize.repair.scales import largest, least_squares, nearest

SHAPES = [(4, 1), (3, 9), (5, 1), (8, 9), (1, 9), (7, 4)]


def weights_of(seed, channels, taps, rows=5):
    """Heavy at the ends and mostly of one sign, so that pairs are large."""
    rng = np.random.default_rng(seed)
    return np.float32(rng.uniform(-0.3, 1, (rows, channels * taps)) ** 3)


def laid_out(integers, channels, taps, *, widened):
    """Rows as the kernel reads them, perhaps with a channel of zeros."""
    rows = integers.reshape(len(integers), channels, taps)
    if widened:
        rows = np.pad(rows, ((0, 0), (0, 1), (0, 0)))
    return rows.reshape(len(rows), -1)[:, kernel_order(rows.shape[1], taps)]


def safe(integers, channels, taps):
    ways = [laid_out(integers, channels, taps, widened=False)]
    if channels % 2:
        ways.append(laid_out(integers, channels, taps, widened=True))
    return not any(at_risk(way).any() for way in ways)


@settings(deadline=None, max_examples=80)
@given(seed=st.integers(0, 10**6), shape=st.sampled_from(SHAPES))
def test_fitting_makes_every_pair_safe_and_changes_no_safe_one(seed, shape):
    rng = np.random.default_rng(seed)
    integers = rng.choice(np.int8([-127, -80, 0, 60, 100, 127]), (4, shape[0] * shape[1]))
    done = fitting(integers, partners(*shape))
    assert done.dtype == np.int8
    assert safe(done, *shape)
    assert (np.abs(done.astype(int)) <= np.abs(integers.astype(int))).all()
    assert (done.astype(int) * integers >= 0).all()
    np.testing.assert_array_equal(fitting(done, partners(*shape)), done)


def test_a_pair_gives_up_half_each():
    done = fitting(np.int8([[127, 127, 127, 2, -100, -31, 100, -100]]), partners(8, 1))
    assert done.tolist() == [[64, 64, 126, 2, -98, -30, 100, -100]]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scaled", [largest, least_squares])
def test_the_nearest_integers_are_safe(shape, scaled):
    weight = weights_of(1, *shape)
    beside = partners(*shape)
    scale = scaled(weight, 127, beside)
    done = nearest(weight, scale, 127, beside)
    assert safe(done, *shape)
    if scaled is largest:  # nothing is clipped by more than its rounding
        assert (np.abs(weight - done * scale[:, None]) <= 1.01 * scale[:, None]).all()


def test_a_channel_pays_only_for_its_own_pairs():
    weight = np.float32([[1, 1, 0, 0], [1, -1, 0.5, 0], [1, 0.25, 0, 0]])
    beside = partners(4, 1)
    assert together(weight, beside).tolist() == [2, 0, 1.25]
    scale = largest(weight, 127, beside)
    np.testing.assert_allclose(scale, np.float32([2 / MOST, 1 / 127, 1.25 / MOST]), rtol=1e-6)


def test_without_partners_nothing_changes():
    weight = weights_of(3, 8, 9)
    none = np.full((72, 1), -1)
    for scaled in (largest, least_squares):
        np.testing.assert_array_equal(scaled(weight, 127, none), scaled(weight, 127))


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), shape=st.sampled_from(SHAPES), share=st.sampled_from([1, 0.6]))
def test_rounding_by_least_squares_is_safe_and_no_worse_than_the_nearest(seed, shape, share):
    weight, beside = weights_of(seed, *shape), partners(*shape)
    rng = np.random.default_rng(seed)
    x = np.maximum(rng.normal(size=(60, 5)) @ rng.normal(size=(5, weight.shape[1])), 0)
    moments = x.T @ x
    scale = largest(weight, 127, beside) * np.float32(share)
    done = round_by_least_squares(weight, scale, moments, 127, beside)
    assert safe(done, *shape)

    def errors(integers):
        missing = weight.astype(np.float64) - scale.astype(np.float64)[:, None] * integers
        return np.einsum("mi,ij,mj->m", missing, moments, missing)

    simple = errors(nearest(weight, scale, 127, beside))
    assert (errors(done) <= simple * (1 + 1e-9) + 1e-12).all()


def test_groups_are_rounded_as_each_would_be_alone():
    weight = np.stack([weights_of(seed, 3, 9) for seed in (1, 2)])
    rng = np.random.default_rng(0)
    moments = np.stack([x.T @ x for x in rng.uniform(0, 1, (2, 40, 27))])
    beside = partners(3, 9)
    scale = np.stack([largest(one, 127, beside) for one in weight])
    both = round_by_least_squares(weight, scale, moments, 127, beside)
    for index in range(2):
        alone = round_by_least_squares(weight[index], scale[index], moments[index], 127, beside)
        np.testing.assert_array_equal(both[index], alone)


@settings(deadline=None, max_examples=60)
@given(chosen=st.integers(-127, 127), limit=st.sampled_from([63, 127]))
def test_room_is_all_that_fits_beside(chosen, limit):
    low, high = room(np.int8([chosen]), limit)
    fits = [q for q in range(-limit, limit + 1) if not at_risk(np.int8([chosen, q])).any()]
    assert (low[0], high[0]) == (fits[0], fits[-1])
