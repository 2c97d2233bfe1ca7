"""Error measures and the comparison of a predictor with a dataset."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deepen import predictors
from deepen.errors import PredictorError
from deepen.predictors.evaluation import compute_metrics


def test_measures_by_hand():
    result = compute_metrics(np.array([1.0, 1.0, 1.0, 2.0]), np.array([1.04, 0.91, 1.5, 2.4]))
    assert result["n"] == 4
    assert (result["acc5"], result["acc10"], result["acc20"]) == (25.0, 50.0, 75.0)
    assert result["mape"] == pytest.approx(100 * (0.04 + 0.09 + 0.5 + 0.2) / 4)
    assert result["rmspe"] == pytest.approx(100 * np.sqrt((0.04**2 + 0.09**2 + 0.5**2 + 0.2**2) / 4))


def test_rank_correlation_is_none_where_it_is_not_defined():
    a = np.array([1.0, 3.0, 2.0, 5.0])
    assert compute_metrics(a, 1 / a)["spearman"] == pytest.approx(-1.0)
    assert compute_metrics(np.ones(4), a)["spearman"] is None
    assert compute_metrics(a[:2], a[:2])["spearman"] is None


def test_without_rows_measures_are_absent():
    assert compute_metrics(np.zeros(0), np.zeros(0)) == {
        "n": 0,
        **dict.fromkeys(("acc5", "acc10", "acc20", "mape", "rmspe", "spearman")),
    }


def test_evaluation_agrees_with_its_parts(trained, world_of):
    _, _, predictor = trained
    world = world_of(40)
    records = [*world.kernels(10, ("fc", "add", "softmax")), world.model("net", 9, 30e-6)]
    records.append(replace(world.kernel("fc"), family="unheard-of"))
    report = predictors.evaluate_predictor(predictor, records)
    assert report["overall"]["n"] == 31 and report["models"]["n"] == 1
    assert {n: m["n"] for n, m in report["families"].items()} == {"fc": 10, "add": 10, "softmax": 10, "unheard-of": 1}
    assert report["families"]["unheard-of"]["method"] == "roofline"
    assert report["coverage"] == pytest.approx(100 * 30 / 31)
    row = report["models"]["rows"][0]
    assert row["name"] == "net" and row["error"] == pytest.approx(100 * (row["predicted_j"] / row["measured_j"] - 1))
    assert report["warnings"] == []


def test_evaluating_on_the_training_data_is_said(trained, dataset_of):
    _, records, predictor = trained
    assert "not held out" in predictors.evaluate_predictor(predictor, dataset_of(records))["warnings"][0]


def test_evaluating_on_another_device_is_said(trained, world_of):
    _, _, predictor = trained
    report = predictors.evaluate_predictor(predictor, world_of(41, device="phone").kernels(3, ("fc",)))
    assert "measured on phone" in report["warnings"][0]


def test_nothing_to_evaluate_is_an_error(trained):
    _, _, predictor = trained
    with pytest.raises(PredictorError, match="nothing to evaluate"):
        predictors.evaluate_predictor(predictor, [])


def test_kernels_only_and_models_only(trained, world_of):
    _, _, predictor = trained
    world = world_of(42)
    only_models = predictors.evaluate_predictor(predictor, [world.model("net", 5, 0.0)])
    assert only_models["overall"]["n"] == 0 and only_models["coverage"] is None
    assert predictors.evaluate_predictor(predictor, [world.kernel("fc")])["models"]["n"] == 0
