"""Sum of measured kernels against measured models, apart from prediction."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deepen.predictors import evaluate_predictor
from deepen.predictors.evaluation.additivity import evaluate_additivity


@pytest.fixture
def measured(world_of):
    """Kernels measured alone and models made of them, each 4 % more than their sum."""
    world = world_of(21)
    kernels = world.kernels(4, ("fc", "add"))
    models = []
    for i in range(4):
        chosen = kernels[i : i + 3]
        parts = tuple(
            {"family": k.family, "params": k.params, "features": k.features, "multiplicity": 2.0} for k in chosen
        )
        total = 2 * sum(k.energy_j for k in chosen)
        models.append(world.record("model", f"m{i}", 1.04 * total, kernels=parts))
    return kernels, models


def test_the_sum_of_measured_kernels_is_compared(measured):
    kernels, models = measured
    found = evaluate_additivity([*kernels, *models])
    assert found["models"] == 4 and found["incomplete"] == 0
    assert found["ratio"] == pytest.approx(1 / 1.04)
    assert found["additivity"]["mape"] == pytest.approx(100 * (1 - 1 / 1.04))
    assert "kernels" not in found and found["rows"][0]["kernel_error"] is None


def test_repeats_count_as_their_median(measured):
    kernels, models = measured
    odd = [replace(kernels[0], energy_j=9 * kernels[0].energy_j), kernels[0]]
    assert evaluate_additivity([*kernels, *odd, *models])["ratio"] == pytest.approx(1 / 1.04)


def test_models_with_unmeasured_kernels_are_listed_but_not_counted(measured):
    kernels, models = measured
    found = evaluate_additivity([*kernels[1:], *models])
    assert found["models"] == 3 and found["incomplete"] == 1
    assert found["rows"][0]["measured_share"] == pytest.approx(2 / 3)
    assert found["rows"][0]["additivity_error"] is None and found["rows"][0]["kernels_j"] is None


def test_errors_multiply_to_the_whole(measured, trained):
    """prediction / whole = (sum / whole) * (predicted / sum) where the context adds nothing."""
    from deepen.predictors import Predictor
    from deepen.predictors.inference.model_overheads import ModelOverheads

    kernels, models = measured
    predictor = Predictor(trained[2].card, trained[2].parameters, ModelOverheads())
    for row in evaluate_additivity([*kernels, *models], predictor)["rows"]:
        parts = (1 + row["additivity_error"] / 100) * (1 + row["kernel_error"] / 100)
        assert 1 + row["prediction_error"] / 100 == pytest.approx(parts)


def test_without_whole_models_there_is_nothing_to_add(measured, trained):
    kernels, models = measured
    assert evaluate_additivity(kernels)["models"] == 0 and evaluate_additivity(kernels)["ratio"] is None
    assert evaluate_predictor(trained[2], kernels)["additivity"] is None
    assert evaluate_predictor(trained[2], [*kernels, *models])["additivity"]["models"] == 4
