"""Whole models put together from kernels predicted alone: one way, for a single model and for a whole search space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepen.predictors.inference.calibration_factors import LengthCorrection
from deepen.predictors.inference.conformal import NOMINAL, make_interval
from deepen.predictors.inference.family_regressors import KernelEnergies
from deepen.predictors.inference.model_overheads import ModelOverheads, compute_in_model_energy
from deepen.predictors.kernel_counts import KernelCounts

__all__ = ["ModelEnergies", "assemble_models"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ModelEnergies:
    """Predictions of n models made of k distinct kernels.

    Attributes:
        energy_j: Net energy of one inference, shape (n,).
        low_j: Lower end of the nominal 90 % interval, shape (n,).
        high_j: Upper end, shape (n,); infinite where it is unknown how much work a model does.
        coverage: Share of the kernels each model executes that a regressor answered, 0..1, shape (n,).
        extrapolated: Kernels each model executes outside the training range, shape (n,).
        entry_j: Energy of one execution of each entry's kernel in its model, before ``bend``, shape (e,).
        bend: Factor on each model's kernels and overhead for its length, shape (n,); 1 without calibration.
        alone: The distinct kernels as predicted alone.
        nominal: Nominal coverage of the intervals.
    """

    energy_j: Floats
    low_j: Floats
    high_j: Floats
    coverage: Floats
    extrapolated: NDArray[np.int64]
    entry_j: Floats
    bend: Floats
    alone: KernelEnergies
    nominal: float = NOMINAL


def assemble_models(
    models: KernelCounts, alone: KernelEnergies, overheads: ModelOverheads, correction: LengthCorrection
) -> ModelEnergies:
    """Put models together.

    Args:
        models: The models.
        alone: Their distinct kernels, predicted alone.
        overheads: The model-level terms.
        correction: Factor on a model's sum for its length.
    """
    entry_j = compute_in_model_energy(overheads, models, alone.energy_j)
    plain = overheads.compute_totals(models, entry_j)
    bend = correction.factor(plain)
    energy = bend * plain
    low, high = make_interval(energy, overheads.compute_half_width(models, entry_j, alone.half_width))
    if models.unknowns:
        high = np.where([bool(unknown) for unknown in models.unknowns], np.inf, high)
    executed = models.sums(np.ones(alone.energy_j.size))
    covered = models.sums(alone.regressor.astype(np.float64))
    return ModelEnergies(
        energy_j=energy,
        low_j=low,
        high_j=high,
        coverage=np.where(executed > 0, covered / np.where(executed > 0, executed, 1.0), 1.0),
        extrapolated=np.rint(models.sums(alone.extrapolated.astype(np.float64))).astype(np.int64),
        entry_j=entry_j,
        bend=bend,
        alone=alone,
    )
