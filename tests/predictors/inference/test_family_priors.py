"""What is known of families and operators that nobody measured, and what is said of kernels far outside the range."""

from __future__ import annotations

import numpy as np
import pytest

from deepen import predictors
from deepen.errors import ConfigError
from deepen.kernels.building.kernel_from_parameters import make_kernel_from_params
from deepen.kernels.families.catalog import load_families
from deepen.kernels.families.operator_costs import OPERATORS, get_integer_operator_code, get_operator_code
from deepen.kernels.features import build_feature_matrix, compute_features
from deepen.predictors.fitting.recipes import load_recipe
from deepen.predictors.inference.columns import compute_work_terms
from deepen.predictors.inference.family_priors import (
    UNKNOWN_SPREAD,
    compute_prior_half_width,
    load_family_priors,
    look_up_priors,
)
from deepen.predictors.inference.roofline import compute_log_roofline

UNLIKE = ("binary", "recurrent", "qmatmul", "layernorm")


@pytest.fixture
def priors_of(tmp_path, monkeypatch):
    """Replace the shipped file by a text."""

    def write(text):
        (tmp_path / "predictors").mkdir(exist_ok=True)
        if text is not None:
            (tmp_path / "predictors" / "priors.toml").write_text(text, encoding="utf-8")
        monkeypatch.setenv("DEEPEN_CATALOG", str(tmp_path))
        load_family_priors.cache_clear()

    yield write
    monkeypatch.undo()
    load_family_priors.cache_clear()


def test_every_family_that_can_be_measured_has_a_prior_and_says_from_how_many_kernels():
    known = load_family_priors()
    sampled = {name for name, family in load_families().items() if family.sampling.get("weight", 0.0)}
    assert sampled <= set(known)
    for name, prior in known.items():
        assert name in load_families()
        assert prior.rows >= 4 and abs(prior.log_ratio) < 3 and 0.1 < prior.spread < 2
        assert all(
            code in {o.code for o in OPERATORS.values()} and one.rows >= 3 for code, one in prior.operators.items()
        )


def test_operators_that_differ_are_told_apart():
    """Powers and cumulative sums are many times as dear per counted operation as a hyperbolic tangent."""
    ratio = {op: look_up_priors(["elementwise"], np.array([get_operator_code(op)]))[0][0] for op in ("CumSum", "Tanh")}
    power = look_up_priors(["binary"], np.array([get_operator_code("Pow")]))[0][0]
    assert ratio["CumSum"] > ratio["Tanh"] + 1.5 and power > 1


def test_what_nobody_knows_is_the_roofline_with_a_wide_interval():
    ratio, spread = look_up_priors(["unheard-of", "elementwise"], np.array([0.0, 0.0]))
    assert ratio[0] == 0 and spread[0] == UNKNOWN_SPREAD
    assert np.exp(compute_prior_half_width(UNKNOWN_SPREAD)) > 4


def kernels(family, count, seed=0):
    from deepen.kernels.sampling.sampler import sample_kernels

    made = [make_kernel_from_params(k.family, k.params) for k in sample_kernels([family], count, seed)]
    return build_feature_matrix([compute_features(k) for k in made])


@pytest.mark.parametrize("family", UNLIKE)
def test_an_untrained_family_gets_the_pooled_roofline_times_its_prior(trained, family):
    _, _, predictor = trained
    raw = kernels(family, 12)
    names = predictor.parameters.feature_names
    assert family not in predictor.parameters.families
    found = predictor.energies([family] * len(raw), raw)
    ratio, spread = look_up_priors([family] * len(raw), raw[:, names.index("op_code")])
    plain = compute_log_roofline(compute_work_terms(raw, names), predictor.parameters.work[-1])
    np.testing.assert_allclose(np.log(found.energy_j), plain + ratio, atol=1e-9)
    np.testing.assert_allclose(found.half_width, compute_prior_half_width(spread))
    assert not found.regressor.any()


def test_an_operator_without_rows_moves_by_its_ratio_to_those_with_rows_and_says_so(trained, world_of):
    """The world's element-wise kernels are Sigmoid, Erf, Abs and Round."""
    _, _, predictor = trained
    row = world_of(31).features("elementwise") | {"op_code": float(get_operator_code("Abs"))}
    unseen = ("Softplus", "CumSum", "Reciprocal", "Tan")
    rows = [row, *(row | {"op_code": float(get_operator_code(op))} for op in unseen)]
    found = predictor.energies(["elementwise"] * len(rows), build_feature_matrix(rows))
    assert found.extrapolated.tolist() == [False, True, True, True, True]
    assert (found.half_width[1:] > found.half_width[0]).all()
    prior = load_family_priors()["elementwise"]
    step = [prior.find(get_operator_code(op)).log_ratio for op in unseen]
    ranks = np.argsort(np.argsort(found.energy_j[1:])), np.argsort(np.argsort(step))
    assert ranks[0].tolist() == ranks[1].tolist()


def test_a_kernel_of_one_operator_never_measured_of_any_family_is_wide(trained, world_of):
    _, _, predictor = trained
    row = world_of(32).features("relu")
    rows = [row, row | {"op_code": float(get_operator_code("PRelu"))}]
    found = predictor.energies(["relu"] * 2, build_feature_matrix(rows))
    assert found.half_width[1] > found.half_width[0] + 0.2


def test_far_outside_the_range_the_interval_holds_the_roofline_and_the_prediction_comes_near_it(trained, world_of):
    """A regressor far off what joules per operation and byte say may be wrong by as much."""
    _, _, predictor = trained
    base = world_of(33).features("dwconv-bn-relu")
    names = predictor.parameters.feature_names
    rows = [base | {"h_in": 5000.0 * f, "h_out": 5000.0 * f, "w_in": 1.0, "w_out": 1.0, "k_w": 1.0} for f in (1, 4, 16)]
    raw = build_feature_matrix(rows)
    found = predictor.energies(["dwconv-bn-relu"] * 3, raw)
    ratio, _ = look_up_priors(["dwconv-bn-relu"] * 3, raw[:, names.index("op_code")])
    plain = compute_log_roofline(compute_work_terms(raw, names), predictor.parameters.work[-1]) + ratio
    assert found.extrapolated.all()
    assert (np.abs(np.log(found.energy_j) - plain) <= found.half_width * 1.05).all()
    assert (np.diff(found.half_width) > 0).all()


def test_a_family_with_few_rows_leans_on_its_prior(world_of, dataset_of, priors_of):
    world = world_of(34)
    records = [*world.kernels(30, ("conv-bn-relu", "fc")), world.kernel("softmax")]
    raw = build_feature_matrix([world.features("softmax") for _ in range(5)])
    energy, roofline = {}, load_recipe("roofline")
    for ratio in (-1.0, 1.0):
        priors_of(f"[families.softmax]\nlog_ratio = {ratio}\nspread = 0.4\nrows = 9\n")
        predictor = predictors.train_predictor(dataset_of(records), roofline)
        found = predictor.energies(["softmax"] * 5, raw)
        energy[ratio] = found.energy_j
        np.testing.assert_allclose(found.half_width, compute_prior_half_width(0.4))
    np.testing.assert_allclose(np.log(energy[1.0] / energy[-1.0]), 2.0 * 3 / 4)


def test_a_catalog_without_priors_knows_none_and_a_broken_file_is_an_error(priors_of):
    priors_of(None)
    assert load_family_priors() == {}
    for text in (
        "[families.add]\nspread = 1.0\n",
        "families = 3\n",
        '[families.add]\nlog_ratio = "x"\nspread=1\nrows=1\n',
    ):
        priors_of(text)
        with pytest.raises(ConfigError, match="not priors"):
            load_family_priors()
    priors_of("[families.add]\nlog_ratio = 99\nspread = 0.1\nrows = 5\n")
    with pytest.raises(ConfigError, match="out of range"):
        load_family_priors()


@pytest.mark.parametrize("op", ["QLinearConv", "ConvInteger", "QGemm", "QLinearMatMul", "MatMulInteger"])
def test_types_of_integers_are_told_apart(op):
    """Signed by signed bytes take many times the energy of unsigned by signed ones where one instruction does these."""
    family = "qconv" if "Conv" in op else "qmatmul"
    pairs = [("uint8", "int8"), ("uint8", "uint8"), ("int8", "int8")]
    codes = [float(get_integer_operator_code(op, *pair)) for pair in pairs]
    assert len(set(codes)) == 3 and max(codes) - min(codes) < 40
    ratio, spread = look_up_priors([family] * 3, np.array(codes))
    assert len(set(ratio.tolist())) == 3 and (spread < 1.2).all()
