"""The process over few coordinates: which columns it sees, and when it is taken."""

from __future__ import annotations

import numpy as np
import pytest

from deepen import predictors
from deepen.kernels.features import FEATURE_NAMES, build_feature_matrix
from deepen.predictors.fitting.choose_learner import _choose_first_learner
from deepen.predictors.fitting.folds import find_correlated_active_columns, select_active_columns
from deepen.predictors.fitting.recipes import Recipe
from deepen.predictors.inference.columns import list_column_names, make_columns, select_physical_coordinates

NAMES = tuple(FEATURE_NAMES)


def made(world, family):
    rows = [world.features(family) for _ in range(40)]
    return make_columns(np.array([[f[n] for n in NAMES] for f in rows]), NAMES)


@pytest.mark.parametrize(
    "family, wanted, unwanted",
    [("conv-bn-relu", {"m", "n", "k", "k_h", "stride_h", "m*k", "m%8"}, "h_in"), ("relu", {"elements_in"}, "m")],
)
def test_coordinates_are_those_of_the_product_or_of_the_data_moved(family, wanted, unwanted, world_of):
    x = made(world_of(60), family)
    seen = {
        n
        for n, few in zip(
            list_column_names(NAMES), select_physical_coordinates(NAMES, np.ptp(x, axis=0) > 1e-6), strict=True
        )
        if few
    }
    assert wanted <= seen
    assert unwanted not in seen and not [n for n in seen if "/" in n]


def test_a_coordinate_that_another_column_copies_is_seen_through_it(world_of):
    """``k`` of a fully connected layer is a quarter of its bytes read, which come first among the columns."""
    x = made(world_of(61), "fc")
    names = list_column_names(NAMES)
    active = select_active_columns(x)
    assert names.index("k") not in active
    found = find_correlated_active_columns(x, active, np.array([names.index("k")]))
    assert [names[i] for i in found] == ["bytes_in"]
    assert find_correlated_active_columns(x, active, np.zeros(0, dtype=np.int64)).size == 0


@pytest.mark.parametrize("worse, chosen", [(0.001, "gaussian-process"), (0.1, "lightgbm")])
def test_the_frugal_one_is_taken_unless_it_is_clearly_worse(worse, chosen):
    rng = np.random.default_rng(6)
    truth = np.zeros(60)
    best = 0.05 * rng.standard_normal(60)
    frugal = 0.05 * rng.standard_normal(60)
    frugal *= (np.abs(best).mean() + worse) / np.abs(frugal).mean()
    held_out = {"lightgbm": best, "gaussian-process": frugal}
    scores = {name: float(np.abs(p).mean()) for name, p in held_out.items()}
    assert _choose_first_learner(scores, held_out, np.ones(60), truth, list(held_out)) == chosen


def test_it_predicts_and_survives_the_file(world_of, dataset_of, tmp_path):
    families = ("conv-bn-relu", "dwconv-bn-relu")
    records = world_of(62).kernels(60, families)
    predictor = predictors.train_predictor(dataset_of(records), Recipe("few", learners=("gaussian-process",)))
    assert {f["learner"] for f in predictor.card["families"].values()} == {"gaussian-process"}
    test = world_of(63).kernels(40, families)
    raw, names = build_feature_matrix([r.features for r in test]), [r.family for r in test]
    found = predictor.energies(names, raw).energy_j
    assert np.mean(np.abs(found / np.array([r.energy_j for r in test]) - 1.0)) < 0.1
    again = predictors.load_predictor(predictor.save(tmp_path / "p")).energies(names, raw).energy_j
    assert np.array_equal(again, found)
