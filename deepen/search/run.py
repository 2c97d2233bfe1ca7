"""Runs a search: passes the requests of an optimiser to a table and the results back, with a log to resume from.

The log has one JSON line that describes the search and one per evaluation. To resume, the optimiser starts again from
its seed and gets the results of the log: it is then in the state it was in, whatever its internals.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.errors import ConfigError, DatasetError
from deepen.search.objectives import Objective, compute_objective_values
from deepen.search.optimisers import EvaluationRequest, EvaluationResult, SearchDomain, make_optimiser
from deepen.search.pareto import FrontQuality, assess_front, find_extremes, find_knee, find_pareto_front
from deepen.search.query import QueryCost, TabularBenchmark
from deepen.search.table.table import BenchmarkTable
from deepen.storage.atomic import make_storage_error
from deepen.storage.journal import JournalWriter, replay_journal

__all__ = ["ExactFront", "SearchResult", "compute_exact_front", "search_table"]

Floats = NDArray[np.float64]

LOG_FORMAT = 1


@dataclass(frozen=True, slots=True)
class ExactFront:
    """Exact Pareto front of the networks of a table, with the points it is computed from.

    Attributes:
        archs: Architectures with all objectives known, shape (n,).
        points: Their objectives, smaller is better, shape (n, objectives).
        front: Rows of the Pareto front.
        missing: Networks left out because a figure is missing.
    """

    archs: tuple[str, ...]
    points: Floats
    front: NDArray[np.int64]
    missing: int


def compute_exact_front(table: BenchmarkTable, objectives: Sequence[Objective]) -> ExactFront:
    """Compute the exact front of a table.

    Raises:
        ConfigError: If no network has all objectives.
    """
    points = compute_objective_values(table, objectives)
    known = np.isfinite(points).all(axis=1)
    if not known.any():
        raise ConfigError(f"no network of the table has {' and '.join(o.name for o in objectives)}; join them first")
    archs = table.archs_of(table.hashes)
    rows = np.flatnonzero(known)
    return ExactFront(
        tuple(archs[i] for i in rows.tolist()), points[rows], find_pareto_front(points[rows]), int((~known).sum())
    )


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Outcome of a search: the networks evaluated, the front among them, and the cost of the queries.

    Attributes:
        optimiser: Its name.
        seed: Its seed.
        objectives: The objectives minimised.
        archs: Architectures evaluated (at the largest budget), in order, each once.
        points: Their objectives, smaller is better, shape (k, objectives).
        front: Rows of the front among them.
        knee: Row of the knee.
        extremes: Row of the best in each objective.
        quality: Quality of that front against the table's own.
        spent: Cost of the queries, had each network been trained and measured.
        resumed: Evaluations taken from the log.
    """

    optimiser: str
    seed: int
    objectives: tuple[Objective, ...]
    archs: tuple[str, ...]
    points: Floats
    front: NDArray[np.int64]
    knee: int
    extremes: tuple[int, ...]
    quality: FrontQuality
    spent: QueryCost
    resumed: int


def search_table(
    table: BenchmarkTable,
    objectives: Sequence[Objective],
    optimiser: str = "semoa",
    queries: int = 500,
    *,
    seed: int = 0,
    population: int | None = None,
    known: Sequence[str] = (),
    log: str | Path | None = None,
    resume: bool = False,
    truth: ExactFront | None = None,
) -> SearchResult:
    """Search a table.

    1. Describe the domain: the networks that have all objectives, and the budgets.
    2. Make the optimiser, with the values of known objectives.
    3. Open the log; on resuming, it must be of the same search.
    4. Evaluate the networks the optimiser asks for, until the queries are used up or it asks for none. A batch that the
       queries cut short is not passed back.
    5. Compare the networks evaluated at the largest budget with the exact front.

    Args:
        table: The table.
        objectives: Objectives to minimise.
        optimiser: One of :data:`deepen.search.optimisers.OPTIMISERS`.
        queries: Evaluations.
        seed: Seed of all draws, and of the choice among repeats.
        population: Networks per generation; default: the optimiser's own.
        known: Objectives whose values are free (``ms-ehvi`` uses them without a query).
        log: File of JSON lines to write to.
        resume: Continue an existing log instead of refusing it.
        truth: :func:`compute_exact_front` of the table, if it is already known.

    Raises:
        ConfigError: If a name is unknown, a number is out of range or a package is missing.
        DatasetError: If the log is of another search, or damaged.
        StorageError: If the log cannot be written.
    """
    if queries < 1:
        raise ConfigError(f"a search asks at least once, not {queries} times")
    # 1
    chosen = tuple(objectives)
    real = truth or compute_exact_front(table, chosen)
    budgets = table.budgets if len(table.budgets) > 1 else ()
    domain = SearchDomain(table.space, real.archs, objectives=len(chosen), budgets=budgets)
    # 2
    options: dict[str, Any] = {}
    for name in known:
        place = next((i for i, o in enumerate(chosen) if o.name == name), None)
        if place is None:
            raise ConfigError(f"'{name}' is said to be known, but is no objective of this search")
        if optimiser != "ms-ehvi":
            raise ConfigError(f"{optimiser} makes no use of known objectives; choose ms-ehvi or leave --known out")
        options.setdefault("known", {})[place] = dict(zip(real.archs, real.points[:, place].tolist(), strict=True))
    engine = make_optimiser(optimiser, domain, seed, population, **options)
    # 3
    head = {
        "format": LOG_FORMAT,
        "table": {"title": table.manifest.title, "networks": len(real.archs), "space": table.manifest.space},
        "objectives": [f"{o.name}:{'min' if o.sign > 0 else 'max'}:{o.factor:g}" for o in chosen],
        "optimiser": optimiser,
        "seed": seed,
        "population": population,
        "known": list(known),
    }
    journal = _SearchLog(None if log is None else Path(log), head, resume)
    # 4
    bench = TabularBenchmark(table, seed)
    evaluated: list[EvaluationResult] = []
    try:
        while len(evaluated) < queries:
            requests = engine.ask()
            if not requests:
                break
            results = [
                _evaluate_architecture(bench, chosen, request, journal, number)
                for number, request in enumerate(requests[: queries - len(evaluated)], start=len(evaluated))
            ]
            evaluated += results
            if len(results) < len(requests):
                break
            engine.tell(results)
    finally:
        journal.close()
    # 5
    return _make_result(optimiser, seed, chosen, evaluated, real, bench.spent, journal.resumed, budgets)


def _evaluate_architecture(
    bench: TabularBenchmark,
    objectives: Sequence[Objective],
    request: EvaluationRequest,
    journal: _SearchLog,
    number: int,
) -> EvaluationResult:
    line = bench.query(request.arch, budget=request.budget)
    values = tuple(o.sign * o.factor * float(line[o.column]) for o in objectives)
    return journal.record(number, EvaluationResult(request.arch, values, request.budget))


def _make_result(
    optimiser: str,
    seed: int,
    objectives: tuple[Objective, ...],
    evaluated: Sequence[EvaluationResult],
    truth: ExactFront,
    spent: QueryCost,
    resumed: int,
    budgets: Sequence[float],
) -> SearchResult:
    """Make the result of the networks evaluated at the largest budget."""
    last = budgets[-1] if budgets else None
    final = {e.arch for e in evaluated if e.budget in (None, last)}
    place = {arch: i for i, arch in enumerate(truth.archs)}
    archs = tuple(a for a in dict.fromkeys(e.arch for e in evaluated) if a in final)
    # Points are means of the repeats, as in the table's own front: a lucky repeat does not make a network better.
    points = truth.points[[place[a] for a in archs]]
    found = find_pareto_front(points) if len(points) else np.zeros(0, dtype=np.int64)
    middle = find_knee(points) if len(points) else -1
    ends = tuple(find_extremes(points).tolist()) if len(points) else ()
    return SearchResult(
        optimiser,
        seed,
        objectives,
        archs,
        points,
        found,
        middle,
        ends,
        assess_front(points, truth.points),
        spent,
        resumed,
    )


class _SearchLog:
    """Log of evaluations as JSON lines, replayed first and then extended."""

    def __init__(self, path: Path | None, head: dict[str, Any], resume: bool) -> None:
        self._path = path
        self._old: list[dict[str, Any]] = []
        self._file: Any = None
        if path is None:
            return
        length = 0
        if path.exists() and not resume:
            raise ConfigError(f"{path}: is there already; add --resume to go on from it, or name another")
        if path.exists():
            length = self._read(path, head)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("r+b" if length else "wb")
            self._writer = JournalWriter(self._file.fileno(), length, sync=False)
            if not length:
                self._write(head)
        except OSError as error:
            raise make_storage_error("write", path, error) from error
        self.resumed = len(self._old)

    resumed = 0

    def _read(self, path: Path, head: dict[str, Any]) -> int:
        """Read the existing log; a torn last line is dropped. Returns the length that is kept, bytes."""
        documents: list[Any] = []
        try:
            data = path.read_bytes()
            sound = replay_journal(data, documents.append)
            if b"\n" in data and not documents:
                raise ValueError("no line of it is JSON")
        except (OSError, ValueError) as error:
            raise DatasetError(f"{path}: not the log of a search ({error}); name another file") from error
        if not documents:
            return 0
        if documents[0] != json.loads(json.dumps(head)):
            theirs = documents[0] if isinstance(documents[0], dict) else {}
            odd = next((k for k in head if theirs.get(k) != json.loads(json.dumps(head[k]))), "format")
            raise DatasetError(f"{path}: the log of another search (its {odd} differs); name another file")
        self._old = documents[1:]
        return sound

    def record(self, number: int, result: EvaluationResult) -> EvaluationResult:
        """Write an evaluation, or return the logged one if there is one with this number.

        Raises:
            DatasetError: If the logged evaluation is of another network.
        """
        if number < len(self._old):
            old = self._old[number]
            if old.get("arch") != result.arch or old.get("budget") != result.budget:
                raise DatasetError(
                    f"{self._path}: evaluation {number} is another than this version of the optimiser asks for; "
                    "start again with another file"
                )
            return EvaluationResult(result.arch, tuple(float(v) for v in old["values"]), result.budget)
        if self._file is not None:
            self._write({"arch": result.arch, "budget": result.budget, "values": list(result.values)})
        return result

    def _write(self, document: dict[str, Any]) -> None:
        try:
            self._writer.append(document)
        except OSError as error:
            assert self._path is not None  # there is a file
            raise make_storage_error("write", self._path, error) from error

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
