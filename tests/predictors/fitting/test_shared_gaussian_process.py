"""Small families learn together; processes put up with noise that grows and with rows that are wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deepen import predictors
from deepen.kernels.features import build_feature_matrix
from deepen.predictors.fitting.fit_gaussian_process import fit_gaussian, fit_grouped_gaussian
from deepen.predictors.fitting.recipes import Recipe
from deepen.predictors.inference.gaussian_process import compute_matern

ALONE = Recipe("alone", learners=("gaussian-process",))
TOGETHER = Recipe("together", learners=("gaussian-process", "shared-gaussian"))


def cached(record):
    """The record's energy as where bytes cost three times as much once they no longer fit into a cache of 1 MB."""
    moved = record.features["bytes_in"] + record.features["bytes_written"]
    factor = 1.0 + 2.0 / (1.0 + np.exp(-3.0 * np.log(moved / 1e6)))
    return replace(record, energy_j=record.energy_j * factor)


def mean_error(predictor, records):
    raw = build_feature_matrix([r.features for r in records])
    found = predictor.energies([r.family for r in records], raw)
    return found, float(np.mean(np.abs(found.energy_j / np.array([r.energy_j for r in records]) - 1.0)))


def test_a_family_of_six_rows_borrows_the_shape_of_a_large_one(world_of, dataset_of):
    world = world_of(41)
    records = [cached(r) for r in (*world.kernels(80, ("relu",)), *world.kernels(6, ("add", "softmax")))]
    together, alone = (predictors.train_predictor(dataset_of(records), r) for r in (TOGETHER, ALONE))
    families = together.card["families"]
    assert "shared-gaussian" in families["add"]["learner"] and families["add"]["method"] == "regressor"
    assert alone.card["families"]["add"]["method"] == "roofline"
    test = [cached(r) for r in world_of(42).kernels(60, ("add", "softmax"))]
    found, error = mean_error(together, test)
    assert found.regressor.all()
    assert error < 0.75 * mean_error(alone, test)[1]


def test_a_shared_family_survives_the_file(world_of, dataset_of, tmp_path):
    world = world_of(43)
    records = [cached(r) for r in (*world.kernels(40, ("relu",)), *world.kernels(6, ("add",)))]
    predictor = predictors.train_predictor(dataset_of(records), Recipe("shared", learners=("shared-gaussian",)))
    assert {f["learner"] for f in predictor.card["families"].values()} == {"shared-gaussian"}
    again = predictors.load_predictor(predictor.save(tmp_path / "p"))
    assert mean_error(again, records)[1] == mean_error(predictor, records)[1] < 0.05


def test_large_families_and_single_ones_learn_alone(world_of, dataset_of):
    world = world_of(44)
    recipe = replace(TOGETHER, share_max_rows=20)
    many = predictors.train_predictor(dataset_of(world.kernels(30, ("relu",)) + world.kernels(10, ("add",))), recipe)
    assert not [f for f in many.card["families"].values() if "shared" in f["learner"]]
    one = predictors.train_predictor(dataset_of(world.kernels(5, ("relu",))), TOGETHER)
    assert one.card["families"]["relu"]["method"] == "roofline"


def test_groups_deviate_from_what_they_share():
    """Two groups with one shape and offsets of their own; one has four rows and still gets shape and offset."""
    rng = np.random.default_rng(3)
    x = rng.uniform(-2, 2, (64, 1))
    group = np.repeat([0, 1], [60, 4])
    y = np.sin(2 * x[:, 0]) + np.where(group == 1, 0.8, 0.0) + 0.01 * rng.standard_normal(64)
    ones = np.ones(64)
    fit = fit_grouped_gaussian(x, y, ones, ones, group, 60)
    weights, constant = fit.weights_for_group(1, fit.solve(y, np.ones(64, dtype=bool)))
    z = np.linspace(-1.9, 1.9, 50)[:, None]
    found = compute_matern(z, fit.x, fit.inverse_length) @ weights + constant
    assert np.abs(found - np.sin(2 * z[:, 0]) - 0.8).mean() < 0.1
    without = fit.solve(y, group == 0)
    assert not without[group == 1].any()


def test_a_wrong_row_does_not_bend_the_process():
    rng = np.random.default_rng(4)
    x = np.sort(rng.uniform(-2, 2, (50, 1)), axis=0)
    y = 0.3 * np.sin(2 * x[:, 0]) + 0.01 * rng.standard_normal(50)
    wrong = y.copy()
    wrong[25] += 3.0
    z = x[[24, 26]] / 2 + x[[25, 25]] / 2
    clean, bent = (fit_gaussian(x, v, np.ones(50), iterations=60).predict(z) for v in (y, wrong))
    assert np.abs(bent - clean).max() < 0.05


@pytest.mark.parametrize("told", [True, False])
def test_noise_may_grow_towards_small_energies(told):
    """Half of the rows are small and scatter by 40 %, the others by 1 %: told which, the process follows the others."""
    rng = np.random.default_rng(5)
    x = rng.uniform(-2, 2, (80, 1))
    small = np.where(np.arange(80) % 2, 100.0, 0.01)
    y = 0.3 * np.sin(3 * x[:, 0]) + np.where(small > 1, 0.4, 0.01) * rng.standard_normal(80)
    ones, everything = np.ones(80), np.ones(80, dtype=bool)
    fit = fit_grouped_gaussian(x, y, ones, small if told else ones, np.zeros(80, dtype=int), 60)
    weights, constant = fit.weights_for_group(0, fit.solve(y, everything))
    z = np.linspace(-1.8, 1.8, 60)[:, None]
    found = compute_matern(z, fit.x, fit.inverse_length) @ weights + constant
    error = np.abs(found - 0.3 * np.sin(3 * z[:, 0])).mean()
    assert error < 0.02 if told else error > 0.02
