"""Measurements as calibration sees them: how often each distinct kernel ran in each, and what that cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepen.errors import PredictorError
from deepen.predictors.inference.calibration_factors import MAX_KERNELS
from deepen.predictors.kernel_counts import KernelCounts
from deepen.predictors.measured_rows import MeasuredRows, compute_relative_sd
from deepen.records import EnergyRecord

__all__ = ["CalibrationCases", "make_calibration_cases"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CalibrationCases:
    """n measurements of k distinct kernels.

    Attributes:
        records: The measurements.
        kernels: Their kernels; a kernel measured alone is a model that runs it once.
        counts: Executions per inference, as a matrix, shape (n, k).
        model: Mask of those that are whole models (the others are kernels alone), shape (n,).
        energy_j: Measured net energy, shape (n,).
        relative_sd: Relative standard uncertainty of it, shape (n,).
        latency_s: Measured time, NaN where unknown, shape (n,).
    """

    records: tuple[EnergyRecord, ...]
    kernels: KernelCounts
    counts: Floats
    model: NDArray[np.bool_]
    energy_j: Floats
    relative_sd: Floats
    latency_s: Floats


def make_calibration_cases(rows: MeasuredRows) -> CalibrationCases:
    """Count the kernels of the measurements.

    Args:
        rows: Usable records of a dataset.

    Raises:
        PredictorError: If there are none, or too many distinct kernels.
    """
    records = (*rows.kernels, *rows.models)
    if not records:
        reasons = ", ".join(f"{n} x {r}" for r, n in rows.left_out.items()) or "the dataset is empty"
        raise PredictorError(f"nothing to calibrate with: {reasons}; measure kernels or whole models on the new device")
    kernels = KernelCounts.from_records(records)
    if len(kernels.families) > MAX_KERNELS:
        raise PredictorError(
            f"{len(kernels.families)} distinct kernels were measured, calibration takes {MAX_KERNELS}; with that many, "
            "train a predictor of its own with 'deepen predictor train'"
        )
    return CalibrationCases(
        records,
        kernels,
        kernels.to_matrix(),
        np.array([r.kind == "model" for r in records]),
        np.array([r.energy_j for r in records]),
        np.array([compute_relative_sd(r) for r in records]),
        np.array([_get_latency(r) for r in records]),
    )


def _get_latency(record: EnergyRecord) -> float:
    return record.latency_s if math.isfinite(record.latency_s) and record.latency_s > 0 else math.nan
