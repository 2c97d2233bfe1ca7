"""Bootstrap confidence of the error measures."""

from __future__ import annotations

import numpy as np
import pytest

from deepen.predictors.metrics import bootstrap_confidence_intervals, compute_metrics


def draw(n, seed, sd=0.1):
    rng = np.random.default_rng(seed)
    measured = np.exp(rng.uniform(-3, 3, n))
    return measured, measured * np.exp(sd * rng.standard_normal(n))


def test_confidence_holds_the_truth_as_often_as_it_says():
    """Share within 10 % of log-normal errors, known from the distribution; 95 % of 200 draws, give or take 3 sigma."""
    from math import erf, log, sqrt

    truth = 50 * (erf(log(1.1) / 0.1 / sqrt(2)) - erf(log(0.9) / 0.1 / sqrt(2)))
    held = 0
    for seed in range(200):
        measured, predicted = draw(80, seed)
        low, high = bootstrap_confidence_intervals(measured, predicted, [str(i) for i in range(80)], seed=seed)["acc10"]
        held += low <= truth <= high
    assert 180 <= held <= 199


def test_every_measure_lies_inside_its_interval():
    measured, predicted = draw(60, 1)
    inside = np.abs(np.log(predicted / measured)) < 0.15
    found = bootstrap_confidence_intervals(measured, predicted, [str(i) for i in range(60)], inside)
    exact = compute_metrics(measured, predicted) | {"in_interval": 100 * float(inside.mean())}
    assert set(found) == {"acc5", "acc10", "acc20", "mape", "rmspe", "spearman", "in_interval"}
    for name, (low, high) in found.items():
        assert low <= exact[name] <= high, name


def test_repeats_of_a_configuration_make_nobody_surer():
    measured, predicted = draw(30, 2)
    keys = [str(i) for i in range(30)]
    once = bootstrap_confidence_intervals(measured, predicted, keys)["mape"]
    many = bootstrap_confidence_intervals(np.tile(measured, 10), np.tile(predicted, 10), keys * 10)["mape"]
    assert many == pytest.approx(once)


def test_one_configuration_has_no_confidence():
    assert bootstrap_confidence_intervals(np.ones(5), np.ones(5), ["a"] * 5) == {}


def test_equal_seeds_give_equal_intervals():
    measured, predicted = draw(30, 3)
    keys = [str(i) for i in range(30)]
    assert bootstrap_confidence_intervals(measured, predicted, keys, seed=4) == bootstrap_confidence_intervals(
        measured, predicted, keys, seed=4
    )
    assert bootstrap_confidence_intervals(measured, predicted, keys, seed=4) != bootstrap_confidence_intervals(
        measured, predicted, keys, seed=5
    )
