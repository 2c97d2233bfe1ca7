"""Surrogates: what they report is what they do on networks they never saw."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from deepen.errors import ConfigError, DatasetError
from deepen.search import BenchmarkTable, open_space
from deepen.search.surrogate import build_surrogate

SPACE = open_space("nasbench201")


def test_an_additive_figure_is_learnt_from_few(made: BenchmarkTable) -> None:
    table, report = build_surrogate(SPACE, made.take(np.arange(60)), "energy_j", made.archs_of(made.hashes))
    assert report.model == "additive"
    assert (report.measured, report.held_out) == (60, 12)
    rest = np.arange(60, 600)
    assert np.median(np.abs(table.data["energy_j"][rest] / made.data["energy_j"][rest] - 1)) < 0.05
    inside = (table.data["energy_low_j"] <= made.data["energy_j"]) & (
        made.data["energy_j"] <= table.data["energy_high_j"]
    )
    assert inside[rest].mean() > 0.8
    assert np.isfinite(table.data["measured_energy_j"]).sum() == 60
    assert table.manifest.report["kendall"] == report.kendall


def test_accuracy_is_learnt_too(made: BenchmarkTable) -> None:
    table, report = build_surrogate(SPACE, made.take(np.arange(120)), "accuracy", made.archs_of(made.hashes))
    assert report.model in ("gp", "trees")
    assert report.spearman > 0.85
    correlation = np.corrcoef(table.data["accuracy"][120:], made.data["accuracy"][120:])[0, 1]
    assert correlation > 0.85
    assert [c.name for c in table.manifest.columns] == [
        "accuracy",
        "accuracy_low",
        "accuracy_high",
        "measured_accuracy",
    ]


def test_the_held_out_part_is_not_learnt_from(made: BenchmarkTable) -> None:
    """Figures that follow nothing cannot be ranked, whatever was tried on the training part."""
    rng = np.random.default_rng(0)
    noise = BenchmarkTable(made.manifest, made.keys, made.data | {"energy_j": rng.lognormal(size=600)}).take(
        np.arange(90)
    )
    _, report = build_surrogate(SPACE, noise, "energy_j", made.archs_of(made.hashes)[:10])
    assert abs(report.kendall) < 0.5


def test_figures_learnt_from_simulated_ones_say_so(made: BenchmarkTable) -> None:
    table, _ = build_surrogate(SPACE, made.take(np.arange(40)), "energy_j", made.archs_of(made.hashes)[:5])
    assert table.manifest.label == table.column("energy_j").label == ("predicted", "simulated")
    assert table.column("measured_energy_j").label == ("simulated", "")


def test_what_cannot_be_learnt_is_refused(made: BenchmarkTable) -> None:
    with pytest.raises(DatasetError, match="too few"):
        build_surrogate(SPACE, made.take(np.arange(10)))
    with pytest.raises(ConfigError, match="latency_s"):
        build_surrogate(SPACE, made, "latency_s")
    with pytest.raises(ConfigError, match="share"):
        build_surrogate(SPACE, made, held_out=1.5)
    with pytest.raises(ConfigError, match="too large to list"):
        build_surrogate(open_space("nasbench101"), made)
    flat = BenchmarkTable(dataclasses.replace(made.manifest), made.keys, made.data | {"energy_j": np.ones(600)})
    with pytest.raises(DatasetError, match="the same for all"):
        build_surrogate(SPACE, flat)
