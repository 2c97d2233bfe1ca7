"""Compares optimisers over many seeds: medians, and tests of whether a difference could be chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from deepen.errors import ConfigError
from deepen.search.objectives import Objective
from deepen.search.run import SearchResult, compute_exact_front, search_table
from deepen.search.table.table import BenchmarkTable

__all__ = ["OptimiserComparison", "OptimiserSeries", "compare_optimisers"]


@dataclass(frozen=True, slots=True)
class OptimiserSeries:
    """An optimiser's results over seeds.

    Attributes:
        optimiser: Its name.
        results: One per seed.
    """

    optimiser: str
    results: tuple[SearchResult, ...]

    @property
    def hypervolume(self) -> float:
        """Median hypervolume over seeds, as a share of the box between ideal and reference point."""
        return float(np.median([r.quality.hypervolume for r in self.results]))

    @property
    def regret(self) -> float:
        """Median regret over seeds."""
        return float(np.median([r.quality.regret for r in self.results]))

    @property
    def recall(self) -> float:
        """Median recall over seeds."""
        return float(np.median([r.quality.recall for r in self.results]))


@dataclass(frozen=True, slots=True)
class OptimiserComparison:
    """Comparison of two series, seed by seed.

    Attributes:
        optimiser: Optimiser of the first series.
        against: Optimiser of the second series.
        better: Seeds in which the one has the larger hypervolume.
        seeds: Number of seeds.
        p_value: Wilcoxon signed-rank test, two-sided, of the differences in hypervolume; 1 where all are equal.
    """

    optimiser: str
    against: str
    better: int
    seeds: int
    p_value: float


def compare_optimisers(
    table: BenchmarkTable,
    objectives: Sequence[Objective],
    optimisers: Sequence[str],
    queries: int = 500,
    seeds: int = 30,
    *,
    first_seed: int = 0,
    population: int | None = None,
    known: Sequence[str] = (),
    done: Callable[[str, int], None] = lambda name, seed: None,
) -> tuple[tuple[OptimiserSeries, ...], tuple[OptimiserComparison, ...]]:
    """Run optimisers over seeds.

    Args:
        table: The table.
        objectives: What to minimise.
        optimisers: Their names; the first is compared with each other one.
        queries: Evaluations of each run.
        seeds: Runs of each.
        first_seed: The seeds are this and the next ones.
        population: Networks per generation; default: each optimiser's own.
        known: For ``ms-ehvi``.
        done: Called after each run.

    Raises:
        ConfigError: As :func:`deepen.search.run.search_table`.
    """
    if seeds < 1 or not optimisers:
        raise ConfigError("a comparison needs at least one optimiser and one seed")
    truth = compute_exact_front(table, objectives)
    found: list[OptimiserSeries] = []
    for name in dict.fromkeys(optimisers):
        results = []
        for seed in range(first_seed, first_seed + seeds):
            results.append(
                search_table(
                    table, objectives, name, queries, seed=seed, population=population,
                    known=known if name == "ms-ehvi" else (), truth=truth,
                )
            )  # fmt: skip
            done(name, seed)
        found.append(OptimiserSeries(name, tuple(results)))
    return tuple(found), tuple(_compare_series(found[0], other) for other in found[1:])


def _compare_series(one: OptimiserSeries, other: OptimiserSeries) -> OptimiserComparison:
    from scipy.stats import wilcoxon

    gain = np.array(
        [a.quality.hypervolume - b.quality.hypervolume for a, b in zip(one.results, other.results, strict=True)]
    )
    p_value = float(wilcoxon(gain).pvalue) if gain.any() and len(gain) > 1 else 1.0
    return OptimiserComparison(one.optimiser, other.optimiser, int((gain > 0).sum()), len(gain), p_value)
