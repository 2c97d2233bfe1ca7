"""A trained predictor against a dataset: kernels and whole models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepen.errors import PredictorError
from deepen.predictors.evaluation.additivity import evaluate_additivity
from deepen.predictors.kernel_counts import KernelCounts
from deepen.predictors.measured_rows import RecordSource, hash_training_data, select_usable_rows
from deepen.predictors.metrics import bootstrap_confidence_intervals, compute_metrics
from deepen.records import EnergyRecord, find_weakest_source

if TYPE_CHECKING:
    from deepen.predictors.predictor import Predictor

__all__ = ["evaluate_predictor"]


def evaluate_predictor(predictor: Predictor, dataset: RecordSource | Sequence[EnergyRecord]) -> dict[str, Any]:
    """Compare a predictor with a dataset of the same kind of records it was trained on.

    Returns:
        ``overall`` and ``families`` (kernels), ``models`` with one entry per whole model, ``coverage`` (share of
        kernels answered by a regressor, percent), ``in_interval`` (share inside the nominal 90 % interval, percent),
        ``additivity`` (where there are models: see :mod:`deepen.predictors.evaluation.additivity`),
        ``left_out``, and ``warnings``, which say so if the predictor was trained on this very data.

    Raises:
        PredictorError: If the dataset has no usable record.
    """
    rows = select_usable_rows(dataset)
    if not rows.kernels and not rows.models:
        raise PredictorError("nothing to evaluate: the dataset has no record with features and positive energy")
    families = [r.family for r in rows.kernels]
    found = predictor.energies(families, rows.raw)
    measured = rows.energy_j
    inside = np.abs(np.log(measured) - np.log(found.energy_j)) <= found.half_width
    of = np.array(families, dtype=str)
    by_family = {}
    for name in sorted(set(families)):
        mask = of == name
        by_family[name] = _compute_row_metrics(measured[mask], found.energy_j[mask], rows.keys, inside, mask) | {
            "method": "regressor" if bool(found.regressor[mask].all()) else "roofline",
            "extrapolated": int(found.extrapolated[mask].sum()),
        }
    return {
        "predictor": predictor.id,
        "learnt_from": predictor.learnt_from,
        "measured_source": find_weakest_source([r.source for r in (*rows.kernels, *rows.models)]),
        "overall": _compute_row_metrics(
            measured, found.energy_j, rows.keys, inside, np.ones(measured.size, dtype=bool)
        ),
        "families": by_family,
        "coverage": 100.0 * float(found.regressor.mean()) if measured.size else None,
        "in_interval": 100.0 * float(np.mean(inside)) if measured.size else None,
        "models": _evaluate_models(predictor, rows.models),
        "additivity": evaluate_additivity([*rows.kernels, *rows.models], predictor) if rows.models else None,
        "left_out": dict(rows.left_out),
        "warnings": _list_warnings(
            predictor, hash_training_data(rows), {r.device for r in (*rows.kernels, *rows.models)}
        ),
    }


def _compute_row_metrics(
    measured: NDArray[np.float64],
    predicted: NDArray[np.float64],
    keys: Sequence[str],
    inside: NDArray[np.bool_],
    mask: NDArray[np.bool_],
) -> dict[str, Any]:
    """Measures of the rows of a mask; the first two hold those rows only."""
    chosen = [k for k, m in zip(keys, mask, strict=True) if m]
    return compute_metrics(measured, predicted) | {
        "in_interval": 100.0 * float(np.mean(inside[mask])) if chosen else None,
        "confidence": bootstrap_confidence_intervals(measured, predicted, chosen, inside[mask]),
    }


def _evaluate_models(predictor: Predictor, records: Sequence[EnergyRecord]) -> dict[str, Any]:
    measured = np.array([r.energy_j for r in records])
    found = predictor.predict_counts(KernelCounts.from_records(records))
    energy, low, high = found.energy_j, found.low_j, found.high_j
    inside = (low <= measured) & (measured <= high)
    listed = [
        {
            "name": record.name,
            "measured_j": record.energy_j,
            "predicted_j": float(energy[i]),
            "interval_j": [float(low[i]), float(high[i])],
            "inside": bool(inside[i]),
            "error": 100.0 * (float(energy[i]) / record.energy_j - 1.0),
            "coverage": float(found.coverage[i]),
        }
        for i, record in enumerate(records)
    ]
    return compute_metrics(measured, energy) | {
        "in_interval": 100.0 * float(np.mean(inside)) if listed else None,
        "confidence": bootstrap_confidence_intervals(measured, energy, [r.name for r in records], inside),
        "rows": listed,
    }


def _list_warnings(predictor: Predictor, digest: str, devices: set[str]) -> list[str]:
    warnings = []
    if digest == predictor.card.get("data_sha256"):
        warnings.append("the predictor was trained on this dataset: these errors are not held out (its card has those)")
    if devices != {predictor.card.get("device")}:
        warnings.append(f"measured on {', '.join(sorted(devices))}, predictor made for {predictor.card.get('device')}")
    return warnings
