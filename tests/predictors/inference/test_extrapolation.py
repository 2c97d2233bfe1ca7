"""Outside the training range trees hand over, and the prediction says so."""

from __future__ import annotations

import numpy as np
import pytest

from deepen import predictors
from deepen.kernels.features import build_feature_matrix


@pytest.mark.parametrize("recipe", ["auto", "lightgbm", "random-forest"])
def test_trained_small_predicts_large(recipe, world_of, dataset_of):
    """Channels up to 8 times larger (64 times the work of a convolution) than any in training."""
    world = world_of(20)
    families = ("conv-bn-relu", "fc", "relu")
    predictor = predictors.train_predictor(dataset_of(world.kernels(60, families, size=0.5)), recipe)
    large = world.kernels(40, families, size=4.0)
    found = predictor.energies([r.family for r in large], build_feature_matrix([r.features for r in large]))
    truth = np.array([r.energy_j for r in large])
    beyond = found.extrapolated
    assert beyond.mean() > 0.5
    assert np.median(np.abs(found.energy_j / truth - 1)[beyond]) < 0.25
    assert np.corrcoef(np.log(found.energy_j), np.log(truth))[0, 1] > 0.97


def test_inside_the_range_nothing_is_extrapolated(trained):
    _, records, predictor = trained
    kernels = [r for r in records if r.kind == "kernel"]
    found = predictor.energies([r.family for r in kernels], build_feature_matrix([r.features for r in kernels]))
    assert not found.extrapolated.any()


def test_intervals_widen_with_distance(trained, world_of):
    _, _, predictor = trained
    base = world_of(21).features("conv-bn-relu")
    rows = []
    for factor in (1, 30, 3000):
        rows.append(dict(base))
        for name in ("macs", "bytes_in", "bytes_read", "bytes_written", "n", "elements_in", "elements_out"):
            rows[-1][name] = base[name] * factor
    found = predictor.energies(["conv-bn-relu"] * 3, build_feature_matrix(rows))
    assert found.half_width[0] < found.half_width[1] < found.half_width[2]
    assert not found.extrapolated[0] and found.extrapolated[2]
    assert found.energy_j[0] < found.energy_j[1] < found.energy_j[2]


def test_prediction_is_continuous_where_trees_hand_over(trained, world_of):
    """Growing the work across the border of the range in 1 % steps never makes energy jump."""
    _, _, predictor = trained
    base = world_of(22).features("fc")
    rows = []
    for factor in 1.01 ** np.arange(700):
        rows.append(
            {k: v * factor if k in ("macs", "bytes_weights", "bytes_read", "k") else v for k, v in base.items()}
        )
    found = predictor.energies(["fc"] * len(rows), build_feature_matrix(rows))
    border = int(np.argmax(found.extrapolated))
    assert 0 < border < 690
    steps = np.abs(np.diff(np.log(found.energy_j)))[border - 5 :]
    assert steps.max() < 0.03


def test_a_value_never_seen_is_extrapolation(trained, world_of):
    """Dilation is 0 in every training row, so a kernel with dilation 2 is outside the range."""
    _, _, predictor = trained
    row = world_of(23).features("conv-bn-relu")
    rows = [row, row | {"dilation_h": 2.0, "dilation_w": 2.0}]
    found = predictor.energies(["conv-bn-relu"] * 2, build_feature_matrix(rows))
    assert found.extrapolated.tolist() == [False, True]
    assert found.half_width[1] > found.half_width[0]
    assert found.energy_j[1] == found.energy_j[0], "what the data say about the rest is kept"


def test_zero_work_is_answered_with_a_positive_energy(trained):
    _, _, predictor = trained
    nothing = dict.fromkeys(predictor.parameters.feature_names, 0.0)
    found = predictor.energies(["relu", "unheard-of"], build_feature_matrix([nothing, nothing]))
    assert (found.energy_j > 0).all() and np.isfinite(found.energy_j).all()
    assert found.regressor.tolist() == [True, False]
