"""Cross-validation beside baselines."""

from __future__ import annotations

import numpy as np
import pytest

from deepen.errors import ConfigError, PredictorError
from deepen.predictors import train_predictor
from deepen.predictors.evaluation.cross_validation import cross_validate, evaluate_baselines
from deepen.predictors.evaluation.splits import SplitOptions

FAMILIES = ("conv-bn-relu", "fc")


@pytest.fixture(scope="module")
def records(world_of):
    world = world_of(11)
    models = [world.model(f"{name}{i}", 8, 2e-5, FAMILIES) for name in ("net", "block") for i in range(5)]
    return world.kernels(24, FAMILIES) + models


@pytest.fixture(scope="module")
def report(records):
    return cross_validate(
        records, options=SplitOptions(repeats=2), recipe="extra-trees", baselines=("flops", "deepen2023")
    )


def test_measures_are_those_of_the_held_out_rows(report):
    assert report["split"] == "random" and report["repeats"] == 2 and report["folds"] == ["repeat 1", "repeat 2"]
    assert report["overall"]["n"] == 2 * (24 - round(0.7 * 24)) and report["models"]["n"] == 3
    assert {name: m["n"] for name, m in report["families"].items()} == {"conv-bn-relu": 7, "fc": 7}
    assert report["overall"]["mape"] < 12 and report["models"]["mape"] < 12


def test_medians_lie_in_their_ranges(report):
    for part in (report["overall"], report["models"], *report["families"].values()):
        for name, (low, high) in part["range"].items():
            assert low <= part[name] <= high


def test_baselines_are_judged_on_the_same_rows(report):
    assert list(report["baselines"]) == ["flops", "deepen2023"]
    for other in report["baselines"].values():
        assert other["overall"]["n"] == report["overall"]["n"] and other["models"]["n"] == report["models"]["n"]
        assert other["overall"]["in_interval"] is None
        assert other["overall"]["mape"] > report["overall"]["mape"]


def test_equal_seeds_give_equal_reports(records, report):
    again = cross_validate(
        records, options=SplitOptions(repeats=2), recipe="extra-trees", baselines=("flops", "deepen2023")
    )
    assert again == report


def test_held_out_rows_are_never_trained_on(records):
    seen = []

    def fit(given, seed):
        seen.append(given)
        return train_predictor(given, "roofline", seed)

    cross_validate(records, options=SplitOptions(repeats=3), baselines=(), fit=fit)
    for given in seen:
        kernels = [r for r in given if r.kind == "kernel"]
        assert len(kernels) == 2 * round(0.7 * 24) and len(given) - len(kernels) == 7


def test_each_architecture_and_family_is_left_out(records):
    names = []
    found = cross_validate(
        records, "leave-family-out", recipe="roofline", baselines=(), on_progress=lambda i, n, name: names.append(name)
    )
    assert names == found["folds"] == ["kernels conv-bn-relu", "kernels fc", "models block", "models net"]
    assert found["overall"]["n"] == 48 and found["models"]["n"] == 10 and found["share"] is None
    assert sorted(r["name"] for r in found["models"]["rows"]) == sorted(r.name for r in records if r.kind == "model")


def test_large_ones_are_predicted_from_small_ones(records):
    found = cross_validate(records, "leave-size-out", recipe="roofline", baselines=("deepen2023",))
    assert found["repeats"] == 1 and "range" not in found["overall"]
    assert found["baselines"]["deepen2023"]["overall"]["mape"] > found["overall"]["mape"]


def test_whole_models_alone_are_calibrated_to(world_of):
    world = world_of(12)
    models = [world.model(f"net{i}", 8, 2e-5, FAMILIES) for i in range(20)]
    found = cross_validate(models, options=SplitOptions(repeats=1), baselines=("flops", "deepen2023", "forest-on-nets"))
    assert found["overall"]["n"] == 0 and found["models"]["n"] == 6
    assert found["models"]["mape"] < found["baselines"]["forest-on-nets"]["models"]["mape"]
    assert found["baselines"]["deepen2023"]["models"]["n"] == 0  # it knows kernels only


def test_baselines_beside_a_trained_predictor(records, world_of):
    test = world_of(13).kernels(5, FAMILIES)
    found = evaluate_baselines(records, test, ("flops+bytes",))["flops+bytes"]
    assert found["overall"]["n"] == 10 and found["models"]["n"] == 0 and found["overall"]["confidence"]


def test_unknown_names_and_empty_sets_are_told(records):
    with pytest.raises(ConfigError, match="unknown split"):
        cross_validate(records, "bootstrap")
    with pytest.raises(ConfigError, match="unknown baseline"):
        cross_validate(records, baselines=("flop",))
    with pytest.raises(PredictorError, match="nothing would be held out"):
        cross_validate([])


def test_coverage_is_counted_per_row(records):
    """Intervals without width hold nothing; the report must say so."""
    from dataclasses import replace

    def fit(given, seed):
        predictor = train_predictor(given, "roofline", seed)
        narrow = replace(predictor.parameters, half_width=np.zeros_like(predictor.parameters.half_width))
        return replace(predictor, parameters=narrow)

    found = cross_validate(records, options=SplitOptions(repeats=1), baselines=(), fit=fit)
    assert found["overall"]["in_interval"] == 0.0
