"""The roofline: non-negative joules per operation, byte and call."""

from __future__ import annotations

import numpy as np
import pytest

from deepen.errors import PredictorError
from deepen.kernels.features import FEATURE_NAMES
from deepen.predictors.fitting.fit_gaussian_process import fit_gaussian, fit_grouped_gaussian
from deepen.predictors.fitting.fit_roofline import fit_roofline
from deepen.predictors.inference.columns import (
    WORK_TERMS,
    compute_work_terms,
    list_column_names,
    make_columns,
    select_extrapolation_columns,
)
from deepen.predictors.inference.roofline import compute_log_roofline


def synthetic(seed=0, n=80):
    rng = np.random.default_rng(seed)
    terms = np.exp(rng.uniform(np.log(1e3), np.log(1e8), (n, 5)))
    return np.concatenate([terms, np.ones((n, 1))], axis=1)


def test_coefficients_are_recovered():
    truth = np.array([30e-12, 0.0, 50e-12, 70e-12, 40e-12, 5e-6])
    terms = synthetic()
    rng = np.random.default_rng(1)
    energy = terms @ truth * np.exp(0.02 * rng.standard_normal(80))
    found = fit_roofline(terms, energy, np.ones(80))
    assert (found >= 0).all()
    np.testing.assert_allclose(found[[0, 2, 3, 4]], truth[[0, 2, 3, 4]], rtol=0.1)
    np.testing.assert_allclose(compute_log_roofline(terms, found), np.log(energy), atol=0.15)


def test_error_is_symmetric_in_over_and_under_prediction():
    """Two clusters a factor apart: the constant lies at their geometric mean, not near the lower one."""
    terms = np.concatenate([np.zeros((40, 5)), np.ones((40, 1))], axis=1)
    energy = np.array([1e-6] * 20 + [9e-6] * 20)
    assert fit_roofline(terms, energy, np.ones(40))[-1] == pytest.approx(3e-6, rel=0.05)


def test_a_prior_decides_where_there_is_no_data():
    terms = synthetic(n=3)
    terms[:, 1] = 0.0
    truth = np.array([30e-12, 20e-12, 50e-12, 70e-12, 40e-12, 5e-6])
    found = fit_roofline(terms, terms @ truth, np.ones(3), prior=truth)
    np.testing.assert_allclose(found, truth, rtol=0.05)


def test_weights_count():
    terms = np.concatenate([np.zeros((2, 5)), np.ones((2, 1))], axis=1)
    heavy = fit_roofline(terms, np.array([1e-6, 4e-6]), np.array([1.0, 99.0]))
    assert heavy[-1] == pytest.approx(4e-6, rel=0.05)


def test_columns_match_their_names():
    raw = np.random.default_rng(0).uniform(0, 100, (5, len(FEATURE_NAMES)))
    names = list_column_names(FEATURE_NAMES)
    x = make_columns(raw, FEATURE_NAMES)
    assert x.shape == (5, len(names)) and x.dtype == np.float32 and len(set(names)) == len(names)
    macs = names.index("macs")
    np.testing.assert_allclose(x[:, macs], np.log1p(raw[:, FEATURE_NAMES.index("macs")]), rtol=1e-6)
    assert select_extrapolation_columns(FEATURE_NAMES).shape == (len(names),)


def test_codes_become_flags_and_blocks_become_waste():
    raw = np.zeros((2, len(FEATURE_NAMES)))
    raw[:, FEATURE_NAMES.index("op_code")] = [45, 47]
    raw[:, FEATURE_NAMES.index("c_in")] = [16, 17]
    names = list_column_names(FEATURE_NAMES)
    x = make_columns(raw, FEATURE_NAMES)
    assert x[:, names.index("op_code=5")].tolist() == [1.0, 0.0]
    assert x[:, names.index("op_code=7")].tolist() == [0.0, 1.0]
    np.testing.assert_allclose(x[:, names.index("c_in%8")], [0.0, np.log(24 / 17)], rtol=1e-6)


def test_operator_codes_of_one_family_never_share_a_flag():
    """The flags are ``code % 40``: every family's operators must differ in that."""
    from deepen.kernels.families.catalog import load_families
    from deepen.kernels.families.operator_costs import OPERATORS

    for family in load_families().values():
        codes = [OPERATORS[op].code for op in {*family.ops} if op in OPERATORS]
        assert len({c % 40 for c in codes}) == len(codes), family.name


def test_features_that_are_not_finite_are_refused():
    raw = np.zeros((1, len(FEATURE_NAMES)))
    raw[0, 3] = np.nan
    with pytest.raises(PredictorError, match=FEATURE_NAMES[3]):
        make_columns(raw, FEATURE_NAMES)


def test_missing_work_terms_are_named():
    with pytest.raises(PredictorError, match="bytes_weights"):
        compute_work_terms(np.zeros((1, 2)), ("macs", "ops"))
    terms = compute_work_terms(np.arange(2.0 * len(FEATURE_NAMES)).reshape(2, -1), FEATURE_NAMES)
    assert terms.shape == (2, len(WORK_TERMS) + 1) and terms.min() >= 0


def test_gaussian_process_learns_a_smooth_function_and_reverts_to_zero_far_away():
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, (60, 3))
    truth = np.sin(x[:, 0]) * 0.3 + 0.1 * x[:, 1] ** 2
    fit = fit_gaussian(x, truth - truth.mean() + 0.01 * rng.standard_normal(60), np.ones(60), iterations=60)
    z = rng.uniform(-1.5, 1.5, (200, 3))
    expected = np.sin(z[:, 0]) * 0.3 + 0.1 * z[:, 1] ** 2 - truth.mean()
    assert np.abs(fit.predict(z) - expected).mean() < 0.02
    assert np.abs(fit.predict(np.full((1, 3), 500.0))).max() < 1e-3


@pytest.mark.parametrize("groups", [1, 3])
def test_gaussian_gradient_matches_differences(monkeypatch, groups):
    """The optimiser gets the objective and its gradient: compare them by central differences."""
    from scipy import optimize

    seen = {}

    def spy(objective, start, args, **_):
        seen["objective"], seen["start"] = lambda theta: objective(theta, *args), start
        return type("Found", (), {"x": start})

    monkeypatch.setattr(optimize, "minimize", spy)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((15, 3)), rng.standard_normal(15), rng.uniform(0.5, 2, 15), rng.uniform(0.1, 9, 15)
    if groups == 1:
        fit_gaussian(*rows[:3])
    else:
        fit_grouped_gaussian(*rows, np.arange(15) % groups)
    at = seen["start"] + 0.1
    _, gradient = seen["objective"](at)
    for i in range(at.size):
        step = np.zeros(at.size)
        step[i] = 1e-5
        numeric = (seen["objective"](at + step)[0] - seen["objective"](at - step)[0]) / 2e-5
        assert gradient[i] == pytest.approx(numeric, rel=1e-4, abs=1e-6)
