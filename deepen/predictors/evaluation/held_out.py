"""A trained predictor against a dataset: kernels and whole models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepen.errors import PredictorError
from deepen.predictors.evaluation.measures import metrics
from deepen.predictors.rows import HasRecords, data_hash, screen
from deepen.records import EnergyRecord

if TYPE_CHECKING:
    from deepen.predictors.predictor import Predictor

__all__ = ["evaluate"]


def evaluate(predictor: Predictor, dataset: HasRecords | Sequence[EnergyRecord]) -> dict[str, Any]:
    """Compare a predictor with a dataset of the same kind of records it was trained on.

    Returns:
        ``overall`` and ``families`` (kernels), ``models`` with one entry per whole model, ``coverage`` (share of
        kernels answered by a regressor, percent), ``in_interval`` (share inside the nominal 90 % interval, percent),
        ``left_out``, and ``warnings``, which say so if the predictor was trained on this very data.

    Raises:
        PredictorError: If the dataset has no usable record.
    """
    rows = screen(dataset)
    if not rows.kernels and not rows.models:
        raise PredictorError("nothing to evaluate: the dataset has no record with features and positive energy")
    families = [r.family for r in rows.kernels]
    found = predictor.energies(families, rows.raw)
    measured = rows.energy_j
    of = np.array(families, dtype=str)
    by_family = {}
    for name in sorted(set(families)):
        mask = of == name
        by_family[name] = metrics(measured[mask], found.energy_j[mask]) | {
            "method": "regressor" if bool(found.regressor[mask].all()) else "roofline",
            "extrapolated": int(found.extrapolated[mask].sum()),
        }
    off = np.abs(np.log(measured) - np.log(found.energy_j)) if measured.size else measured
    return {
        "predictor": predictor.id,
        "source": predictor.source,
        "overall": metrics(measured, found.energy_j),
        "families": by_family,
        "coverage": 100.0 * float(found.regressor.mean()) if measured.size else None,
        "in_interval": 100.0 * float(np.mean(off <= found.half_width)) if measured.size else None,
        "models": _models(predictor, rows.models),
        "left_out": dict(rows.left_out),
        "warnings": _warnings(predictor, data_hash(rows), {r.device for r in (*rows.kernels, *rows.models)}),
    }


def _models(predictor: Predictor, records: Sequence[EnergyRecord]) -> dict[str, Any]:
    listed = []
    for record in records:
        kernels = record.kernels
        prediction = predictor.predict_described(
            [f"kernel_{i}" for i in range(len(kernels))],
            [str(k["family"]) for k in kernels],
            [k["features"] for k in kernels],
            [float(k.get("multiplicity", 1.0)) for k in kernels],
            model=record.name,
        )
        low, high = prediction.interval_j
        listed.append(
            {
                "name": record.name,
                "measured_j": record.energy_j,
                "predicted_j": prediction.energy_j,
                "interval_j": [low, high],
                "inside": low <= record.energy_j <= high,
                "error": 100.0 * (prediction.energy_j / record.energy_j - 1.0),
                "coverage": prediction.coverage,
            }
        )
    measured = np.array([m["measured_j"] for m in listed])
    predicted = np.array([m["predicted_j"] for m in listed])
    inside = 100.0 * float(np.mean([m["inside"] for m in listed])) if listed else None
    return metrics(measured, predicted) | {"in_interval": inside, "rows": listed}


def _warnings(predictor: Predictor, digest: str, devices: set[str]) -> list[str]:
    warnings = []
    if digest == predictor.card.get("data_sha256"):
        warnings.append("the predictor was trained on this dataset: these errors are not held out (its card has those)")
    if devices != {predictor.card.get("device")}:
        warnings.append(f"measured on {', '.join(sorted(devices))}, predictor made for {predictor.card.get('device')}")
    return warnings
