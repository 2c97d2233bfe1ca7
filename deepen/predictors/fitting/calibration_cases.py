"""Measurements as calibration sees them: how often each distinct kernel ran in each, and what that cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deepen.errors import PredictorError
from deepen.predictors.inference.calibration_factors import MAX_KERNELS
from deepen.predictors.measured_rows import MeasuredRows, compute_relative_sd
from deepen.records import EnergyRecord

__all__ = ["CalibrationCases", "make_calibration_cases"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CalibrationCases:
    """n measurements of u distinct kernels.

    Attributes:
        records: The measurements.
        model: Which of them are whole models (the others are kernels alone), shape (n,).
        families: Families of the distinct kernels.
        raw: Their features, shape (u, features).
        counts: Executions per inference, shape (n, u).
        energy_j: Measured net energy, shape (n,).
        relative_sd: Relative standard uncertainty of it, shape (n,).
        latency_s: Measured time, NaN where unknown, shape (n,).
    """

    records: tuple[EnergyRecord, ...]
    model: NDArray[np.bool_]
    families: tuple[str, ...]
    raw: Floats
    counts: Floats
    energy_j: Floats
    relative_sd: Floats
    latency_s: Floats

    def part(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> CalibrationCases:
        """Some of the measurements, of all kernels."""
        numbers = np.arange(len(self.records))[rows]
        return replace(
            self,
            records=tuple(self.records[int(i)] for i in numbers),
            model=self.model[rows],
            counts=self.counts[rows],
            energy_j=self.energy_j[rows],
            relative_sd=self.relative_sd[rows],
            latency_s=self.latency_s[rows],
        )


def make_calibration_cases(rows: MeasuredRows) -> CalibrationCases:
    """Count the kernels of the measurements.

    Args:
        rows: Usable records of a dataset.

    Raises:
        PredictorError: If there are none, or too many distinct kernels.
    """
    from deepen.kernels.features import build_feature_matrix

    records = (*rows.kernels, *rows.models)
    if not records:
        reasons = ", ".join(f"{n} x {r}" for r, n in rows.left_out.items()) or "the dataset is empty"
        raise PredictorError(f"nothing to calibrate with: {reasons}; measure kernels or whole models on the new device")
    numbers: dict[tuple[str, bytes], int] = {}
    kept: list[Floats] = []
    families: list[str] = []
    used: list[list[tuple[int, float]]] = []

    def number(family: str, features: Floats) -> int:
        key = (family, features.tobytes())
        if key not in numbers:
            numbers[key] = len(kept)
            kept.append(features)
            families.append(family)
        return numbers[key]

    for record, features in zip(rows.kernels, rows.raw, strict=True):
        used.append([(number(record.family, features), 1.0)])
    for record in rows.models:
        raw = np.asarray(build_feature_matrix([k["features"] for k in record.kernels]), dtype=np.float64)
        times = [float(k.get("multiplicity", 1.0)) for k in record.kernels]
        used.append([(number(str(k["family"]), f), t) for k, f, t in zip(record.kernels, raw, times, strict=True)])
    if len(kept) > MAX_KERNELS:
        raise PredictorError(
            f"{len(kept)} distinct kernels were measured, calibration takes {MAX_KERNELS}; with that many, train a "
            "predictor of its own with 'deepen predictor train'"
        )
    counts = np.zeros((len(records), len(kept)))
    for row, parts in enumerate(used):
        for column, times_run in parts:
            counts[row, column] += times_run
    return CalibrationCases(
        records,
        np.array([r.kind == "model" for r in records]),
        tuple(families),
        np.array(kept),
        counts,
        np.array([r.energy_j for r in records]),
        np.array([compute_relative_sd(r) for r in records]),
        np.array([_get_latency(r) for r in records]),
    )


def _get_latency(record: EnergyRecord) -> float:
    return record.latency_s if math.isfinite(record.latency_s) and record.latency_s > 0 else math.nan


def count_whole_models(records: Sequence[EnergyRecord]) -> int:
    """How many of the records are whole models."""
    return sum(r.kind == "model" for r in records)
