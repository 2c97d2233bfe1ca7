"""Held-out predictions of one method, gathered over folds, and the report made from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.predictors.measured_rows import MeasuredRows
from deepen.predictors.metrics import MEASURES, bootstrap_confidence_intervals, compute_metrics

__all__ = ["HeldOutPredictions", "MeasuredValues", "collect_measured_values", "report_metrics"]

Floats = NDArray[np.float64]


@dataclass(slots=True)
class HeldOutPredictions:
    """Held-out predictions of one method, over all folds."""

    row: list[NDArray[np.int64]] = field(default_factory=list)
    fold: list[NDArray[np.int64]] = field(default_factory=list)
    predicted: list[Floats] = field(default_factory=list)
    inside: list[NDArray[np.bool_]] = field(default_factory=list)

    def add(self, rows: NDArray[np.int64], fold: int, predicted: Floats, inside: NDArray[np.bool_] | None) -> None:
        """Add the predictions of a fold."""
        self.row.append(rows)
        self.fold.append(np.full(rows.size, fold, dtype=np.int64))
        self.predicted.append(predicted)
        if inside is not None:
            self.inside.append(inside)


@dataclass(frozen=True, slots=True)
class MeasuredValues:
    """Kernels or models of a dataset, as results are grouped."""

    measured: Floats
    keys: tuple[str, ...]
    group: NDArray[np.str_]


def collect_measured_values(rows: MeasuredRows) -> tuple[MeasuredValues, MeasuredValues]:
    """Collect the measured energies of a dataset: those of kernels, and those of whole models."""
    return (
        MeasuredValues(rows.energy_j, rows.keys, np.array([r.family for r in rows.kernels], dtype=str)),
        MeasuredValues(
            np.array([r.energy_j for r in rows.models]),
            tuple(r.name for r in rows.models),
            np.array([""] * len(rows.models), dtype=str),
        ),
    )


def report_metrics(
    kernels: HeldOutPredictions,
    models: HeldOutPredictions,
    sides: tuple[MeasuredValues, MeasuredValues],
    repeats: int,
    seed: int,
) -> dict[str, Any]:
    """Report measures of kernels, their families and whole models; over repeats their medians and ranges.

    Args:
        kernels: Predictions of kernels.
        models: Predictions of whole models.
        sides: The measured kernels, and the measured whole models.
        repeats: Folds that repeat the same experiment; 1: the folds are parts of one.
        seed: Seed of the bootstrap.
    """
    side, whole = sides
    families = {}
    if kernels.row:
        of = side.group[np.concatenate(kernels.row)]
        for name in sorted(set(of.tolist())):
            families[str(name)] = _compute_pool_metrics(kernels, side, repeats, seed, of == name)
    return {
        "overall": _compute_pool_metrics(kernels, side, repeats, seed),
        "families": families,
        "models": _compute_pool_metrics(models, whole, repeats, seed),
    }


def _compute_pool_metrics(
    pool: HeldOutPredictions, side: MeasuredValues, repeats: int, seed: int, mask: NDArray[np.bool_] | None = None
) -> dict[str, Any]:
    """Measures of a pool, or of a part of it."""
    if not pool.row or (mask is not None and not mask.any()):
        return compute_metrics(np.zeros(0), np.zeros(0)) | {"in_interval": None}
    row, fold = np.concatenate(pool.row), np.concatenate(pool.fold)
    predicted = np.concatenate(pool.predicted)
    inside = np.concatenate(pool.inside) if pool.inside else None
    if mask is not None:
        row, fold, predicted = row[mask], fold[mask], predicted[mask]
        inside = None if inside is None else inside[mask]
    measured = side.measured[row]
    done = compute_metrics(measured, predicted)
    done["in_interval"] = None if inside is None else 100.0 * float(inside.mean())
    if repeats > 1:
        each = [compute_metrics(measured[fold == i], predicted[fold == i]) for i in np.unique(fold)]
        if inside is not None:
            for one, i in zip(each, np.unique(fold), strict=True):
                one["in_interval"] = 100.0 * float(inside[fold == i].mean())
        done["range"] = {}
        for name in (*MEASURES, "in_interval"):
            values = [v for one in each if (v := one.get(name)) is not None]
            if values:
                done[name] = float(np.median(values))
                done["range"][name] = [float(min(values)), float(max(values))]
        done["n"] = round(row.size / len(each))
    done["confidence"] = bootstrap_confidence_intervals(
        measured, predicted, [side.keys[i] for i in row.tolist()], inside, seed
    )
    return done
