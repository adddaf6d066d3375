"""Exact chances of paired tables: against plain sums over all tables, and at the margin itself."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from quantize.trinomial import (
    EXACT_IMAGES,
    cautious_score,
    chances,
    most_lost,
    nuisances,
    p_value,
    score,
    size,
)


def all_tables(n):
    return [(lost, gained) for lost in range(n + 1) for gained in range(n + 1 - lost)]


def chance(tables, n, d0, share):
    """Sum over the tables where the drop is d0 and this share of images is discordant."""
    p_lost, p_gained = (share + d0) / 2, (share - d0) / 2
    total = 0.0
    for b, c in tables:
        ways = math.comb(n, b) * math.comb(n - b, c)
        total += ways * p_lost**b * p_gained**c * (1 - share) ** (n - b - c)
    return total


def below(n, d0, most):
    return [(b, c) for b, c in all_tables(n) if score(b, c, n, d0) <= most + 1e-9]


def largest(tables, n, d0):
    """Over 800 shares of discordant images, dense at both ends."""
    angles = np.linspace(0, np.pi / 2, 800)
    return max(chance(tables, n, d0, abs(d0) + (1 - abs(d0)) * math.sin(a) ** 2) for a in angles)


DROPS = st.floats(1e-9, 0.4) | st.floats(-0.4, -1e-9) | st.sampled_from([0.0, 0.01, -0.01, 0.1])


# ------------------------------------------------------------------------------ chances


@given(st.integers(1, 14), DROPS, st.floats(-3, 3), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_a_chance_is_the_sum_over_the_tables(n, d0, most, place):
    share = abs(d0) + (1 - abs(d0)) * place
    seen = chances(np.array([share]), d0, most_lost(n, d0, most))
    assert seen[0] == pytest.approx(chance(below(n, d0, most), n, d0, share), abs=1e-8)


@pytest.mark.parametrize(("n", "d0"), [(1, 0.0), (7, 0.03), (9, -0.2), (12, 0.0), (14, 0.1)])
def test_a_p_value_is_the_worst_chance_of_what_speaks_as_clearly(n, d0):
    for b, c in all_tables(n)[:: 1 + n // 4]:
        seen = p_value(b, c, n, d0)
        if score(b, c, n, d0) >= 0:
            assert seen == 1
            continue
        worst = largest(below(n, d0, float(score(b, c, n, d0))), n, d0)
        assert worst <= seen <= 1.002 * worst


@pytest.mark.parametrize("d0", [0.0, 0.002, -0.002, 0.0075, -0.03, 0.3])
@pytest.mark.parametrize(("n", "level"), [(52, 0.05), (137, 0.01), (300, 0.002), (1000, 0.1)])
def test_no_nuisance_between_those_tried_is_worse(n, level, d0):
    most = float(norm.ppf(level))
    angles = np.linspace(0, np.pi / 2, 2000)
    shares = abs(d0) + (1 - abs(d0)) * np.sin(angles) ** 2
    dense = chances(shares, d0, most_lost(n, d0, most)).max()
    assert dense <= size(n, d0, most) <= 1.001 * dense


@given(st.integers(1, 20_000), DROPS)
@settings(max_examples=40, deadline=None)
def test_nuisances_go_from_the_drop_to_all_images(n, d0):
    shares = nuisances(n, d0)
    assert shares[0] == abs(d0)
    assert shares[-1] == 1
    assert (np.diff(shares) > 0).all()


def test_nothing_lost_at_the_margin_where_all_discordance_is_loss():
    """Tango's limit takes 0 of 52 for enough, at 5 % where it happens in 6.9 %."""
    assert score(0, 0, 52, 0.05) < -norm.ppf(0.95)
    assert p_value(0, 0, 52, 0.05) == pytest.approx(0.95**52, rel=1e-3)


@given(st.integers(2, 300), DROPS, st.data())
@settings(max_examples=200, deadline=None)
def test_a_lost_image_raises_the_score_and_a_gained_one_lowers_it(n, d0, data):
    """So the chance of a low score is largest at the margin, not beyond it."""
    lost = data.draw(st.integers(0, n - 1))
    gained = data.draw(st.integers(0, n - 1 - lost))
    here = score(lost, gained, n, d0)
    assert score(lost + 1, gained, n, d0) >= here - 1e-9
    assert score(lost, gained + 1, n, d0) <= here + 1e-9


@given(st.integers(1, 200), DROPS, st.data())
@settings(max_examples=60, deadline=None)
def test_the_score_of_the_mirrored_table_is_mirrored(n, d0, data):
    lost = data.draw(st.integers(0, n))
    gained = data.draw(st.integers(0, n - lost))
    mirrored = -score(gained, lost, n, -d0)
    assert score(lost, gained, n, d0) == pytest.approx(mirrored, rel=1e-6, abs=1e-6)


# ------------------------------------------------------------------------- many images


def accepted_by_approximation(n, d0, level):
    """As `most_lost`, but for a p-value above EXACT_IMAGES that is within the level."""
    discordant = np.arange(n + 1)
    low, high = np.full(n + 1, -1), discordant
    while (low < high).any():
        lost = (low + high + 1) // 2
        within = cautious_score(lost, discordant - lost, n, d0) <= norm.ppf(level)
        low, high = np.where(within, lost, low), np.where(within, high, lost - 1)
    return low


@pytest.mark.parametrize("d0", [0.0, 1e-4, -1e-4, 1e-3, -1e-3, 0.02])
@pytest.mark.parametrize("level", [0.1, 0.05, 0.01])
def test_above_the_exact_images_the_promise_holds_too(d0, level):
    n = EXACT_IMAGES + 1
    found = chances(nuisances(n, d0), d0, accepted_by_approximation(n, d0, level)).max()
    assert 0.9 * level < found <= level


def test_above_the_exact_images_the_score_is_asked():
    n = EXACT_IMAGES + 1
    assert p_value(150, 100, n, 0.005) == norm.cdf(cautious_score(150, 100, n, 0.005))
    assert cautious_score(150, 100, n, 0.005) > score(150, 100, n, 0.005)
    assert cautious_score(150, 10, n, 0.005) == score(150, 10, n, 0.005) > 0


@pytest.mark.parametrize("table", [(150, 100), (160, 150), (30, 10), (205, 20), (0, 0)])
def test_where_exact_ends_nothing_jumps(table):
    exact = p_value(*table, EXACT_IMAGES, 0.01)
    near = p_value(*table, EXACT_IMAGES + 1, 0.01)
    assert exact <= 1.01 * near
    assert exact > 0.7 * near or near < 1e-3
