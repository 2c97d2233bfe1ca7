"""Measures whole models in rounds, so that their repeatability is known."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from deepen.errors import MeasureError, RunError
from deepen.quickstart.results import ModelResult, QuickstartProgress
from deepen.records import EnergyRecord, StoppingRule, Workload

if TYPE_CHECKING:
    from deepen.clock.host_clock import Deadline
    from deepen.datasets import Dataset
    from deepen.measure import Session
    from deepen.quickstart.targets import TargetModel

__all__ = ["ROUNDS", "measure_models"]

MEASURING = "measuring models"

LEAST_ROUND_S = 0.3
"""Least time for a model in a round, even if the time of the run is up."""

LOAD_S = 1.5
"""Time set aside for loading one model."""

ROUNDS = 5
"""Number of measurements of each model, spread over the stage, so that its repeatability is known."""

MEMORY_SHARE = 0.4
"""Share of free memory that models kept loaded may take."""


def measure_models(
    targets: Sequence[TargetModel],
    results: tuple[ModelResult, ...],
    session: Session,
    models: Dataset,
    clock: Deadline,
    on_progress: Callable[[QuickstartProgress], None],
) -> tuple[tuple[ModelResult, ...], bool]:
    """Measure every model in several rounds; returns the completed results, and whether Ctrl-C ended the stage."""
    found = {result.name: result for result in results}
    total = len(targets) * ROUNDS
    each_s = max(LEAST_ROUND_S, (clock.remaining_s - LOAD_S * len(targets)) / total)
    rule = StoppingRule(min_duration_s=each_s * 0.6, max_duration_s=each_s, min_blocks=3, rel_std=0.01)
    done = 0

    def tell(stage: str, name: str) -> None:
        nonlocal done
        on_progress(QuickstartProgress(stage, name, done, total, clock.remaining_s))
        done += stage == MEASURING

    interrupted = False
    for group in _group_by_memory(targets):
        records, failures, interrupted = _measure_group(group, session, rule, tell)
        for target in group:
            if records[target.name]:
                record = _combine_rounds(target, records[target.name])
                models.append(record)
                found[target.name] = _add_measurement(found[target.name], record, records[target.name])
            else:
                found[target.name] = replace(found[target.name], failure=failures.get(target.name, ""))
        if interrupted:
            break
    return tuple(found.values()), interrupted


def _measure_group(
    group: Sequence[TargetModel], session: Session, rule: StoppingRule, tell: Callable[[str, str], None]
) -> tuple[dict[str, list[EnergyRecord]], dict[str, str], bool]:
    """Keep the models of a group loaded and measure them in turns.

    Returns:
        Records and failures by name, and whether Ctrl-C ended it; the records made before are kept.
    """
    records: dict[str, list[EnergyRecord]] = {target.name: [] for target in group}
    failures: dict[str, str] = {}
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        held: dict[str, Callable[[bool], EnergyRecord]] = {}
        for target in group:
            tell("loading models", target.name)
            try:
                held[target.name] = stack.enter_context(session.hold(_make_workload(target, session, rule)))
            except RunError as error:
                failures[target.name] = str(error)
        for turn in range(ROUNDS):
            for name, measure in held.items():
                tell(MEASURING, name)
                try:
                    records[name].append(measure(turn == ROUNDS - 1))
                except (MeasureError, RunError) as error:
                    failures[name] = str(error)
        return records, failures, False
    return records, failures, True


def _group_by_memory(targets: Sequence[TargetModel]) -> list[list[TargetModel]]:
    """Divide models, in the order given, into groups that fit into memory together."""
    limit = MEMORY_SHARE * _read_free_bytes()
    groups: list[list[TargetModel]] = [[]]
    used = 0.0
    for target in targets:
        needed = 3.0 * target.weight_bytes + 100e6  # weights as read, as laid out for the machine, and activations
        if groups[-1] and used + needed > limit:
            groups.append([])
            used = 0.0
        groups[-1].append(target)
        used += needed
    return groups


def _read_free_bytes() -> float:
    """Read the memory available without swapping, bytes; 2 GB if the system does not report it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 2e9


def _make_workload(target: TargetModel, session: Session, rule: StoppingRule) -> Workload:
    from deepen.measure import make_workload

    return make_workload(
        target.path, runtime=session.runtime, threads=session.threads, shapes=target.shapes, warmup_s=0.1, rule=rule
    )


def _combine_rounds(target: TargetModel, rounds: Sequence[EnergyRecord]) -> EnergyRecord:
    """Combine several rounds into one record, by the median: a shared machine is slowed down for seconds at a time."""
    from deepen.kernels import FEATURES_VERSION, compute_features

    values = [record.energy_j for record in rounds]
    spread = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    kernels = tuple(
        {"family": k.family, "params": dict(k.params), "features": compute_features(k), "multiplicity": k.multiplicity}
        for k in target.split.kernels
    )
    return replace(
        rounds[-1],
        name=target.name,
        energy_j=statistics.median(values),
        uncertainty_j=max(spread, statistics.fmean(record.uncertainty_j for record in rounds)),
        gross_energy_j=statistics.median(record.gross_energy_j for record in rounds),
        latency_s=statistics.median(record.latency_s for record in rounds),
        idle_power_before_w=rounds[0].idle_power_before_w,
        budget=_combine_budgets(rounds, spread),
        runs=sum(record.runs for record in rounds),
        trials=tuple(trial for record in rounds for trial in record.trials),
        rejected=tuple(entry for record in rounds for entry in record.rejected),
        warnings=tuple(dict.fromkeys(warning for record in rounds for warning in record.warnings)),
        kernels=kernels,
        features_version=FEATURES_VERSION,
    )


def _combine_budgets(rounds: Sequence[EnergyRecord], spread: float) -> dict[str, float]:
    """Combine the uncertainty terms of several rounds: their mean, and the spread between rounds if it is larger."""
    terms = {t: statistics.fmean(r.budget.get(t, 0.0) for r in rounds) for r in rounds for t in r.budget}
    return {**terms, "repeats": max(terms.get("repeats", 0.0), spread)} if terms else {}


def _add_measurement(result: ModelResult, record: EnergyRecord, rounds: Sequence[EnergyRecord]) -> ModelResult:
    values = [r.energy_j for r in rounds]
    return replace(
        result,
        measured_j=record.energy_j,
        measured_cv=statistics.stdev(values) / record.energy_j if len(values) > 1 else math.nan,
        latency_s=record.latency_s,
        measured_source=record.source,
        failure="",
    )
