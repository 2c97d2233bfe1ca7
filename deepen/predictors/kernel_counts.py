"""Many models that share few kernels, as one matrix of counts: the quick way through a search space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepen.errors import PredictorError
from deepen.predictors.inference.conformal import NOMINAL
from deepen.predictors.inference.model_overheads import compute_in_model_energy

if TYPE_CHECKING:
    from deepen.predictors.predictor import Predictor

__all__ = ["ModelEnergies", "predict_counts"]

Floats = NDArray[np.float64]

_CHUNK_ELEMENTS = 4_000_000


@dataclass(frozen=True, slots=True)
class ModelEnergies:
    """Predictions of many models.

    Attributes:
        energy_j: Net energy of one inference, shape (models,).
        low_j: Lower end of the nominal 90 % interval, shape (models,).
        high_j: Upper end, shape (models,).
        coverage: Share of each model's kernels answered by a regressor, 0..1, shape (models,).
        extrapolated: Kernels of each model outside the training range, shape (models,).
        kernel_j: Energy of one execution of each kernel inside a model, shape (kernels,).
    """

    energy_j: Floats
    low_j: Floats
    high_j: Floats
    coverage: Floats
    extrapolated: NDArray[np.int64]
    kernel_j: Floats

    nominal: float = NOMINAL


def predict_counts(predictor: Predictor, families: Sequence[str], raw: Floats, counts: NDArray[Any]) -> ModelEnergies:
    """Predict models given how often each runs each of a common list of kernels.

    Args:
        predictor: What to predict with.
        families: Family of each distinct kernel.
        raw: Their features, float64, shape (kernels, features).
        counts: Executions per inference of each kernel in each model, shape (models, kernels), never negative.

    Raises:
        PredictorError: If shapes do not fit or a count is negative or not finite.
    """
    from deepen.predictors.predictor import compute_moved_bytes

    table = np.asarray(counts)
    if table.ndim != 2 or table.shape[1] != len(families) or raw.shape[0] != len(families):
        raise PredictorError(
            f"counts of shape {table.shape} and features of shape {raw.shape} do not fit {len(families)} kernels"
        )
    if table.size and not (np.isfinite(table).all() and float(table.min()) >= 0):
        raise PredictorError("counts of kernels must be finite and not negative")
    alone = predictor.energies(families, raw)
    weights, activations = compute_moved_bytes(predictor.parameters.feature_names, raw)
    once = compute_in_model_energy(
        predictor.context, families, alone.energy_j, np.ones(len(families)), weights, activations
    )
    n = table.shape[0]
    energy, half = np.empty(n), np.empty(n)
    inside, regressed, outside = np.empty(n), np.empty(n), np.zeros(n, dtype=np.int64)
    step = max(_CHUNK_ELEMENTS // max(len(families), 1), 1)
    for start in range(0, n, step):
        part = slice(start, start + step)
        times = table[part].astype(np.float64)
        energy[part] = times @ once + predictor.context.overhead_j
        if predictor.calibration is not None:
            energy[part] *= predictor.calibration.bend.factor(energy[part])
        half[part] = predictor.context.half_width(times * once, alone.half_width, families)
        inside[part] = times.sum(axis=1)
        regressed[part] = times @ alone.regressor
        outside[part] = np.rint(times @ alone.extrapolated)
    factor = np.exp(np.minimum(half, 20.0))
    coverage = np.where(inside > 0, regressed / np.where(inside > 0, inside, 1.0), 1.0)
    return ModelEnergies(energy, energy / factor, energy * factor, coverage, outside, once)
