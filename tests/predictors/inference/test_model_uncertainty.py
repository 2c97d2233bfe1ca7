"""Uncertainty of whole models: what kernels share, what nobody explains, and coverage."""

from __future__ import annotations

import numpy as np
import pytest

from deepen.kernels.features import FEATURE_NAMES
from deepen.predictors.fitting.fit_uncertainty import fit_model_uncertainty
from deepen.predictors.inference.conformal import Z
from deepen.predictors.inference.model_overheads import OVERHEAD_SD, ModelOverheads
from deepen.predictors.inference.model_uncertainty import ModelUncertainty, compute_model_variances
from deepen.predictors.kernel_counts import KernelCounts

FAMILY_OF = np.repeat(np.arange(4), 5)


def counted(totals, families):
    """Models whose kernels cost a joule each, so that counts are joules."""
    return KernelCounts.from_matrix([str(f) for f in families], np.zeros((len(families), len(FEATURE_NAMES))), totals)


def variances(totals, width, families):
    models = counted(totals, families)
    joule = np.ones(models.kernel.size)
    return compute_model_variances(models, joule, width, models.sum_entries(joule))


def half_width(context, totals, width, families):
    models = counted(totals, families)
    return context.compute_half_width(models, np.ones(models.kernel.size), width)


def world(models, seed, *, own=0.0, family=0.0, common=0.0, floor=0.0):
    """Models of up to 20 configurations in 1 to 4 families whose errors have these standard deviations.

    Which families a model has varies: among equal models nobody can tell what errors share.
    """
    rng = np.random.default_rng(seed)
    first, count = rng.integers(0, 4, (models, 1)), rng.integers(1, 5, (models, 1))
    totals = rng.uniform(0.5, 2.0, (models, 20)) * ((FAMILY_OF[None, :] - first) % 4 < count)
    log_error = own * rng.standard_normal((models, 20))
    log_error += family * rng.standard_normal((models, 4))[:, FAMILY_OF] + common * rng.standard_normal((models, 1))
    errors = (totals * log_error).sum(1) / totals.sum(1) + floor * rng.standard_normal(models)
    sd = np.sqrt(own**2 + family**2 + common**2) or 0.01
    parts = variances(totals, np.full(20, Z * sd), FAMILY_OF)
    return errors, parts


def covered(spread, errors, parts):
    return np.mean(np.abs(errors) <= spread.half_width(*parts))


def test_the_three_sums_by_hand():
    apart, by_family, together = variances(np.full((1, 4), 2.0), np.full(4, Z * 0.1), [0, 0, 1, 1])
    assert apart == pytest.approx(4 * 0.2**2 / 64)
    assert by_family == pytest.approx(2 * 0.4**2 / 64)
    assert together == pytest.approx(0.8**2 / 64)


def test_a_model_without_energy_has_no_spread():
    assert [float(v[0]) for v in variances(np.zeros((1, 2)), np.ones(2), [0, 0])] == [0, 0, 0]
    assert half_width(ModelOverheads(), np.zeros((1, 0)), np.zeros(0), []).tolist() == [0.0]


@pytest.mark.parametrize(
    ("kind", "dominant"),
    [
        ({"own": 0.15}, "own"),
        ({"family": 0.15}, "family_correlation"),
        ({"common": 0.15}, "correlation"),
    ],
)
def test_what_errors_share_is_recognised(kind, dominant):
    errors, parts = world(300, 1, **kind)
    found = fit_model_uncertainty(errors, np.full(300, 0.001), list(zip(*parts, strict=True)))
    shares = {"correlation": found.correlation, "family_correlation": found.family_correlation}
    shares["own"] = 1 - sum(shares.values())
    assert max(shares, key=shares.get) == dominant
    assert shares[dominant] > 0.5


@pytest.mark.parametrize("count", [30, 50])
@pytest.mark.parametrize(
    "kind",
    [{"own": 0.1}, {"own": 0.1, "family": 0.1}, {"own": 0.05, "common": 0.1}, {"own": 0.05, "floor": 0.04}],
    ids=["own", "family", "common", "floor"],
)
def test_nine_in_ten_unseen_models_lie_inside(count, kind):
    """Mean over 20 draws of the models fitted on; the conformal rank itself allows 90 to 93 % at these sizes."""
    shares = []
    for seed in range(20):
        errors, parts = world(count, seed, **kind)
        found = fit_model_uncertainty(errors, np.zeros(count), list(zip(*parts, strict=True)))
        shares.append(covered(found, *world(400, 1000 + seed, **kind)))
    assert 0.88 <= np.mean(shares) <= 0.95


def test_few_models_are_never_narrowed_and_too_few_fit_nothing():
    errors, parts = world(8, 3, own=1e-4)
    assert fit_model_uncertainty(errors, np.zeros(8), list(zip(*parts, strict=True))).inflation >= 1.0
    assert fit_model_uncertainty(errors[:4], np.zeros(4), list(zip(*parts, strict=True))[:4]) == ModelUncertainty()


def test_one_wild_model_does_not_widen_all():
    errors, parts = world(40, 4, own=0.1)
    usual = fit_model_uncertainty(errors, np.zeros(40), list(zip(*parts, strict=True)))
    errors[7] = 1.5
    wild = fit_model_uncertainty(errors, np.zeros(40), list(zip(*parts, strict=True)))
    one = [p[:1] for p in parts]
    assert wild.half_width(*one)[0] < 1.6 * usual.half_width(*one)[0]


def test_kernels_of_one_family_are_less_certain_together_than_those_of_many():
    context = ModelOverheads(correlation=0.0, family_correlation=0.8, floor=0.0)
    totals, width = np.full((1, 10), 1.0), np.full(10, 0.2)
    one = half_width(context, totals, width, ["conv"] * 10)[0]
    many = half_width(context, totals, width, [f"f{i}" for i in range(10)])[0]
    assert one > 2 * many


def test_a_large_overhead_narrows_what_kernels_widen():
    totals, width = np.ones((1, 3)), np.full(3, 0.2)
    plain = half_width(ModelOverheads(floor=0.0), totals, width, ["a", "b", "c"])[0]
    heavy = half_width(ModelOverheads(floor=0.0, overhead_j=3.0), totals, width, ["a", "b", "c"])[0]
    assert heavy == pytest.approx(np.hypot(plain / 2, Z * OVERHEAD_SD / 2))


def test_cards_of_before_are_read():
    old = {k: v for k, v in ModelOverheads().to_json().items() if k not in ("family_correlation", "floor")}
    context = ModelOverheads.from_json(old)
    assert context.family_correlation == 0.0 and context.floor == 0.0
