"""Additivity: measured kernels summed, against measured whole models, apart from any prediction error.

For a model all of whose kernels were also measured alone::

    predicted / whole = (sum of measured kernels / whole) * (sum of predicted kernels / sum of measured) * context

The first factor is the additivity error: no regressor takes part in it. The second is what the regressors add, the
third what a predictor's model-level terms take back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepen.predictors.kernel_counts import KernelCounts
from deepen.predictors.measured_rows import RecordSource, select_usable_rows
from deepen.predictors.metrics import compute_metrics
from deepen.records import EnergyRecord

if TYPE_CHECKING:
    from deepen.predictors.predictor import Predictor

__all__ = ["evaluate_additivity"]

Floats = NDArray[np.float64]

_WHOLE = 0.999
"""A model counts as wholly measured if kernels with this share of its predicted energy (or work) were."""


def evaluate_additivity(
    dataset: RecordSource | Sequence[EnergyRecord], predictor: Predictor | None = None
) -> dict[str, Any]:
    """Compare sums of measured kernels with measured models.

    1. Count the kernels of all models.
    2. Take the median energy of each kernel measured alone.
    3. Find the models whose kernels were all measured.
    4. Compare the sums of measured kernels with the whole models.
    5. With a predictor, separate its error into that of kernels and that of their sum.
    6. List every model, those partly measured included.

    Args:
        dataset: Kernels and whole models measured on one device.
        predictor: Its error is separated into parts, too.

    Returns:
        ``additivity``: measures of the sum of measured kernels against the whole, over models all of whose
        kernels were measured; ``ratio``: median of that ratio; with a predictor ``kernels`` (sum of predicted against
        sum of measured kernels) and ``prediction`` (prediction against the whole) over the same models; ``rows`` with
        one entry per model, those partly measured included (``measured_share`` of their kernels' executions);
        ``incomplete``: how many of those there are.

    Raises:
        PredictorError: If features have another version.
    """
    # 1. Count the kernels of all models.
    rows = select_usable_rows(dataset)
    counts = KernelCounts.from_records((*rows.kernels, *rows.models))
    measured_alone = counts.kernel[: len(rows.kernels)]  # each kernel record is a model of one entry
    counted = counts.take(np.arange(len(rows.kernels), len(counts)))
    # 2. Take the median energy of each kernel measured alone, in joules.
    alone = np.full(len(counts.families), np.nan)
    for kernel in np.unique(measured_alone).tolist():
        alone[kernel] = np.median(rows.energy_j[measured_alone == kernel])
    found = np.isfinite(alone)
    # 3. Find the models whose kernels were all measured.
    executions = counted.sums(np.ones(alone.size))
    share = counted.sums(found.astype(np.float64)) / np.where(executions > 0, executions, 1.0)
    complete = share >= _WHOLE
    # 4. Compare the sums of measured kernels with the whole models.
    whole = np.array([r.energy_j for r in rows.models])
    total = counted.sums(np.where(found, alone, 0.0))
    report: dict[str, Any] = {
        "models": int(complete.sum()),
        "incomplete": int((~complete).sum()),
        "ratio": float(np.median(total[complete] / whole[complete])) if complete.any() else None,
        "additivity": compute_metrics(whole[complete], total[complete]),
    }
    # 5. Separate the error of the predictor into that of kernels and that of their sum.
    predicted = sums = None
    if predictor is not None and rows.models:
        predicted = predictor.predict_counts(counted).energy_j
        sums = counted.sums(predictor.energies(counted.families, counted.features).energy_j)
        report["kernels"] = compute_metrics(total[complete], sums[complete])
        report["prediction"] = compute_metrics(whole[complete], predicted[complete])
    # 6. List every model.
    report["rows"] = [
        _make_model_row(
            record.name,
            float(share[i]),
            float(whole[i]),
            float(total[i]) if complete[i] else None,
            None if sums is None else float(sums[i]),
            None if predicted is None else float(predicted[i]),
        )
        for i, record in enumerate(rows.models)
    ]
    return report


def _make_model_row(
    name: str, share: float, whole: float, total: float | None, sums: float | None, predicted: float | None
) -> dict[str, Any]:
    """One model; errors in percent."""

    def off(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else 100.0 * (a / b - 1.0)

    return {
        "name": name,
        "measured_share": share,
        "measured_j": whole,
        "kernels_j": total,
        "additivity_error": off(total, whole),
        "kernel_error": off(sums, total),
        "prediction_error": off(predicted, whole),
    }
