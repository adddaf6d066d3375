"""Scales of weights."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quantize.repair.scales import WeightForm, chosen, largest, least_squares, nearest

WEIGHTS = arrays(np.float32, (3, 8), elements=st.floats(-4, 4, width=32, allow_subnormal=False))


def squares(weight, scale, limit):
    return ((weight - nearest(weight, scale, limit) * scale[:, None]) ** 2).sum(axis=1)


@pytest.mark.parametrize("limit", [63, 127])
def test_the_largest_weight_of_a_row_is_the_limit(limit):
    weight = np.array([[0.9, -2, 0.5], [0.1, 0.2, 0.3]], np.float32)
    scale = largest(weight, limit)
    assert scale.dtype == np.float32
    np.testing.assert_allclose(scale, np.array([2, 0.3]) / limit, rtol=1e-6)
    integers = nearest(weight, scale, limit)
    assert integers.dtype == np.int8
    assert np.abs(integers.astype(int)).max(axis=1).tolist() == [limit, limit]
    assert integers[0].tolist() == [round(0.45 * limit), -limit, round(limit / 4)]


def test_a_row_of_zeros_has_a_positive_scale():
    weight = np.zeros((2, 4), np.float32)
    for scale in (largest(weight), least_squares(weight)):
        assert (scale > 0).all()
        assert not nearest(weight, scale).any()


def test_integers_stay_within_the_limit_where_the_scale_is_small():
    weight = np.array([[100, -100, 0.6]], np.float32)
    assert nearest(weight, np.ones(1, np.float32), 63).tolist() == [[63, -63, 1]]


@settings(deadline=None, max_examples=80)
@given(weight=WEIGHTS, limit=st.sampled_from([3, 63, 127]))
def test_least_squares_is_never_worse_and_never_wider(weight, limit):
    full, chosen = largest(weight, limit), least_squares(weight, limit)
    assert chosen.dtype == np.float32
    assert (squares(weight, chosen, limit) <= squares(weight, full, limit)).all()
    assert (chosen <= full).all()
    assert (chosen >= full * np.float32(0.6) * 0.9999).all()


def test_one_outlier_is_clipped_for_the_sake_of_the_rest():
    rest = np.random.default_rng(0).normal(0, 0.25, 4000).astype(np.float32)
    weight = np.stack([np.append(rest, np.float32(1.6)), np.append(rest, rest[0])])
    full, chosen = largest(weight, 7), least_squares(weight, 7)
    assert chosen[0] < 0.9 * full[0]
    assert squares(weight, chosen, 7)[0] < 0.9 * squares(weight, full, 7)[0]


def test_weights_that_are_on_the_grid_keep_it():
    integers = np.array([[127, -3, 50, 1], [-127, 64, 2, 0]], np.float32)
    scale = np.array([0.5, 0.25], np.float32)
    np.testing.assert_array_equal(least_squares(integers * scale[:, None]), scale)


# -------------------------------------------------------------- one scale for all channels


@settings(deadline=None, max_examples=80)
@given(weight=WEIGHTS, limit=st.sampled_from([3, 63, 127]))
def test_one_scale_for_all_is_the_best_of_those_tried(weight, limit):
    full = largest(weight, limit, whole=True)
    best = least_squares(weight, limit, whole=True)
    assert (full == largest(weight, limit).max()).all()
    assert (best == best[0]).all()
    assert best.dtype == np.float32
    for share in np.linspace(1.0, 0.6, 17):
        other = (full * np.float32(share)).astype(np.float32)
        assert squares(weight, best, limit).sum() <= squares(weight, other, limit).sum()


def test_channels_that_differ_pay_for_one_scale():
    weight = np.random.default_rng(1).normal(0, 1, (2, 500)).astype(np.float32)
    weight[1] /= 50
    each, whole = least_squares(weight), least_squares(weight, whole=True)
    assert squares(weight, whole, 127)[1] > 100 * squares(weight, each, 127)[1]


def test_the_largest_bias_holds_for_all_where_they_share_a_scale():
    weight, bias = np.full((2, 3), 1e-3, np.float32), np.array([0, 1e6], np.float32)
    needed = np.float32(1e6 / (0.1 * 2.0**30))
    assert chosen(weight, bias, 0.1)[0] < needed
    np.testing.assert_array_equal(chosen(weight, bias, 0.1, WeightForm(whole=True)), [needed] * 2)
