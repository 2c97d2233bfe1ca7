"""Queries a table as if each query were a training or a measurement, and adds up the cost these would have had.

Covers EC-NAS' interface (``ECNASBench``): :meth:`TabularBenchmark.query` for ``query``,
:meth:`TabularBenchmark.metrics` for ``get_metrics_from_hash`` and ``get_metrics_from_spec``,
:meth:`TabularBenchmark.spec` for ``get_model_spec``, :meth:`TabularBenchmark.hashes` for ``hash_iterator``,
:attr:`TabularBenchmark.spent` for ``get_budget_counters``, :meth:`TabularBenchmark.reset` for
``reset_budget_counters``, ``table.info()`` for ``info``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from deepen.errors import ConfigError, make_unknown_name_error
from deepen.search.table.table import BenchmarkTable
from deepen.search.table.types import KEYS
from deepen.spaces.nasbench101_networks import NasBench101Cell

__all__ = ["COSTS", "QueryCost", "TabularBenchmark"]

COSTS = ("training_time_s", "total_energy_j", "energy_j", "latency_s")
"""Columns that are added up as the simulated cost of a search, as far as a table has them."""


@dataclass(frozen=True, slots=True)
class QueryCost:
    """Cost of the queries so far, had each network been trained and measured.

    Attributes:
        queries: Number of them.
        distinct: Different networks among them.
        epochs: Epochs trained; 0 for a table without budgets.
        cost: Sum of each column of :data:`COSTS` that the table has, in its unit.
    """

    queries: int
    distinct: int
    epochs: float
    cost: Mapping[str, float]


class TabularBenchmark:
    """A table that counts the queries to it, and their cost.

    Attributes:
        table: The table.
    """

    def __init__(self, table: BenchmarkTable, seed: int = 0) -> None:
        """Prepare for queries.

        Args:
            table: The table.
            seed: Seed of the choice among repeats.
        """
        self.table = table
        self._rng = np.random.default_rng(seed)
        self._names = (*table.keys, *table.data)
        columns = [table.values(n).tolist() for n in self._names]
        self._rows: list[tuple[Any, ...]] = list(zip(*columns, strict=True))
        self._costs = [(n, self._names.index(n)) for n in COSTS if n in table.data]
        self._epochs = (
            self._names.index("checkpoint" if "checkpoint" in table.keys else "budget") if table.budgets else -1
        )
        self._by_hash = table.rows_of
        self._by_arch = table.by_arch
        # Tables with one row per network are by far the most common, and searches query them in a loop.
        self._single = all(len(rows) == 1 for rows in self._by_hash.values())
        # Hash -> budget -> checkpoint -> repeat -> row; a table without one of them has a single 1 there.
        self._plans: dict[str, dict[float, dict[float, dict[int, int]]]] = {}
        ones = [1] * len(table)
        budgets, points, repeats = (
            table.keys[k].tolist() if k in table.keys else ones for k in ("budget", "checkpoint", "repeat")
        )
        for key, rows in self._by_hash.items():
            plan = self._plans.setdefault(key, {})
            for row in rows:
                at = plan.setdefault(float(budgets[row]), {}).setdefault(float(points[row]), {})
                at[int(repeats[row])] = row
        self._chosen: dict[tuple[str, float | None, bool], dict[int, int]] = {}
        self._means: dict[tuple[str, float | None, bool], tuple[Any, ...]] = {}
        self.reset()

    def reset(self) -> None:
        """Set the cost of the queries back to zero."""
        self._queries = 0
        self._seen: set[str] = set()
        self._trained = 0.0
        self._sums = [0.0] * len(self._costs)

    @property
    def spent(self) -> QueryCost:
        """Cost of the queries so far, had each network been trained and measured."""
        cost = {name: total for (name, _), total in zip(self._costs, self._sums, strict=True)}
        return QueryCost(self._queries, len(self._seen), self._trained, cost)

    def query(
        self,
        arch: str | NasBench101Cell | None = None,
        *,
        hash: str | None = None,
        index: int | None = None,
        budget: float | None = None,
        repeat: int | Literal["random", "mean"] = "random",
        stop_halfway: bool = False,
    ) -> dict[str, Any]:
        """Query a network's figures, as a search does.

        Args:
            arch: The architecture in any form that the table's space reads, or a NAS-Bench-101 cell.
            hash: Its hash, instead.
            index: Its number, instead.
            budget: Epochs of training; default: the largest budget.
            repeat: One of several trainings: one at random, a number, or the mean of all.
            stop_halfway: Figures of the last checkpoint at or before half the budget, at the cost up to there.

        Returns:
            Keys and figures by column name.

        Raises:
            ConfigError: If there is no such network, budget, repeat or checkpoint.
        """
        key = self._by_arch.get(arch) if type(arch) is str and hash is None and index is None else None
        if key is None:
            key = self._find(arch, hash, index)
        rows = self._by_hash[key]
        if self._single and budget is None and not stop_halfway and repeat in ("random", "mean", 1):
            line = self._rows[rows[0]]
        else:
            line = self._choose(key, budget, repeat, stop_halfway)
        self._queries += 1
        self._seen.add(key)
        for i, (_, place) in enumerate(self._costs):
            value = line[place]
            if value == value:  # noqa: PLR0124 - a missing figure (NaN) costs nothing
                self._sums[i] += value
        if self._epochs >= 0:
            self._trained += line[self._epochs]
        return dict(zip(self._names, line, strict=True))

    def _find(self, arch: str | NasBench101Cell | None, hash_: str | None, index: int | None) -> str:
        given = [v for v in (arch, hash_, index) if v is not None]
        if len(given) != 1:
            raise ConfigError("name a network by exactly one of architecture, hash and index")
        if index is not None:
            if index not in self.table.by_index:
                raise ConfigError(f"no network has the number {index}; the table has {len(self.table.hashes)}")
            return self.table.by_index[index]
        if hash_ is not None:
            if hash_ not in self._by_hash:
                raise make_unknown_name_error("hash", hash_, list(self._by_hash)[:1000])
            return hash_
        return self.table.find(str(arch))

    def _choose(self, key: str, budget: float | None, repeat: int | str, stop_halfway: bool) -> tuple[Any, ...]:
        asked = (key, budget, stop_halfway)
        found = self._chosen.get(asked)
        if found is None:
            found = self._chosen[asked] = self._find_rows(key, budget, stop_halfway)
        if repeat == "random":
            return self._rows[list(found.values())[int(self._rng.random() * len(found))]]
        if repeat == "mean":
            line = self._means.get(asked)
            if line is None:
                line = self._means[asked] = self._mean(list(found.values()))
            return line
        if repeat not in found:
            raise ConfigError(
                f"network {key} has no repeat {repeat}; it has {_format_figures(found)}, 'random' and 'mean'"
            )
        return self._rows[found[int(repeat)]]

    def _find_rows(self, key: str, budget: float | None, stop_halfway: bool) -> dict[int, int]:
        """Find the row of each repeat of a network at a budget and checkpoint."""
        if budget is not None and not self.table.budgets:
            raise ConfigError("this table has no budgets; leave budget out")
        trained = self._plans[key]
        chosen = max(trained) if budget is None else float(budget)
        if chosen not in trained:
            raise ConfigError(
                f"network {key} was not trained for {chosen:g} epochs; budgets: {_format_figures(trained)}"
            )
        points = trained[chosen]
        point = max(points)
        if stop_halfway and "checkpoint" not in self.table.keys:
            raise ConfigError("this table has no checkpoints; leave stop_halfway out")
        if stop_halfway:
            point = max((p for p in points if p <= point / 2), default=-1.0)
            if point < 0:
                raise ConfigError(
                    f"network {key} has no checkpoint before half of its training; it has {_format_figures(points)}"
                )
        return points[point]

    def _mean(self, rows: list[int]) -> tuple[Any, ...]:
        """Compute the mean of the figures; keys that differ become ``None``."""
        lines = [self._rows[r] for r in rows]
        found: list[Any] = []
        for name, *values in zip(self._names, *lines, strict=True):
            same = all(v == values[0] for v in values)
            found.append(values[0] if same else None if name in KEYS else float(np.mean(values)))
        return tuple(found)

    def metrics(
        self, arch: str | NasBench101Cell | None = None, *, hash: str | None = None, index: int | None = None
    ) -> Any:
        """Return all rows of a network, without counting a query.

        Returns:
            ``hash``, ``arch`` and ``rows``: every budget, repeat and checkpoint as a dict.

        Raises:
            ConfigError: If there is no such network.
        """
        key = self._find(arch, hash, index)
        rows = [dict(zip(self._names, self._rows[r], strict=True)) for r in self._by_hash[key]]
        return {"hash": key, "arch": rows[0]["arch"], "rows": rows}

    @staticmethod
    def spec(matrix: Sequence[Sequence[int]], operations: Sequence[str]) -> NasBench101Cell:
        """Make a NAS-Bench-101 cell of a matrix and operations, for :meth:`query`.

        Raises:
            ConfigError: If they are not a cell.
        """
        return NasBench101Cell.make(matrix, operations)

    def hashes(self) -> Iterator[str]:
        """Iterate over the hashes of all networks."""
        return iter(self.table.hashes)


def _format_figures(values: Iterable[float]) -> str:
    return ", ".join(f"{v:g}" for v in values)
