"""Ranks, rank correlation and a scale that a few wrong values cannot move."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepen.robust_statistics import compute_spearman, compute_spearman_interval, estimate_mad_scale, rank_values

FEW = st.lists(st.integers(-3, 3).map(float), min_size=2, max_size=30).map(np.array)


@given(FEW)
def test_ranks_count_what_is_less_and_half_of_what_is_equal(values: np.ndarray) -> None:
    expected = [np.sum(values < v) + (np.sum(values == v) - 1) / 2 for v in values]
    assert rank_values(values).tolist() == expected


@given(st.integers(2, 40), st.integers(0, 99))
def test_spearman_agrees_with_scipy(n: int, seed: int) -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is only a cross-check")
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 20, n).astype(float), rng.integers(0, 5, n).astype(float)
    if np.ptp(a) and np.ptp(b):
        assert compute_spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
        assert compute_spearman(a, -a) == pytest.approx(-1.0)
    assert math.isnan(compute_spearman(a, np.ones(n)))


def test_bounds_hold_the_true_correlation_about_nine_times_in_ten() -> None:
    rng = np.random.default_rng(3)
    population = 2 * np.arcsin(0.6 / 2) * 3 / np.pi  # Spearman's rho of a normal pair with Pearson's 0.6
    inside = 0
    for _ in range(400):
        x = rng.normal(size=60)
        y = 0.6 * x + 0.8 * rng.normal(size=60)
        low, high = compute_spearman_interval(compute_spearman(x, y), 60)
        inside += low < population < high
    assert 0.86 < inside / 400 < 0.95


@given(st.integers(0, 99), st.floats(0.1, 10.0), st.floats(-5.0, 5.0))
def test_the_scale_is_that_of_a_normal_distribution_whatever_a_few_values_are(
    seed: int, scale: float, centre: float
) -> None:
    values = np.random.default_rng(seed).normal(centre, scale, 4001)
    assert estimate_mad_scale(values) == pytest.approx(scale, rel=0.1)
    assert estimate_mad_scale(values - centre, 0.0) == pytest.approx(scale, rel=0.1)
    values[:20] = 1e9
    assert estimate_mad_scale(values) == pytest.approx(scale, rel=0.12)
