"""Uncertainty of a whole model: kernels' errors with the part they share, and a part no kernel explains.

The relative variance of a model's predicted energy ``E`` is::

    floor^2 + k * ((1 - r - f) * sum(s^2) + f * sum over families of sum(s)^2 + r * sum(s)^2) / E^2

with ``s`` the standard error of the total of each distinct configuration in the model (equal configurations share one
error). ``r`` is shared by all kernels of a model (the systematic difference between a kernel alone and inside a model),
``f`` by the kernels of one family (a regressor that is off is off for its neighbours, too), and ``floor`` by nobody:
the context of the model and the repeatability of measuring it. ``k`` is 1 where kernels were measured; where only sums
of them were, their errors cancel in sums and ``k`` is small. :mod:`deepen.predictors.fitting.fit_uncertainty` estimates
the four.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deepen.predictors.inference.conformal import DEFAULT_CORRELATION, Z
from deepen.predictors.kernel_counts import KernelCounts

__all__ = [
    "DEFAULT_FAMILY_CORRELATION",
    "DEFAULT_FLOOR",
    "ModelUncertainty",
    "compute_model_variances",
]

Floats = NDArray[np.float64]

DEFAULT_FAMILY_CORRELATION = 0.2
"""Shared by the kernels of a family where too few whole models were measured to say (a cautious middle)."""
DEFAULT_FLOOR = 0.05
"""Standard deviation of a model's log energy that no kernel explains, where no whole model was measured: sums of layers
measured alone miss whole networks by 2 % on a server CPU and by 6 to 12 % where caches are small."""


@dataclass(frozen=True, slots=True)
class ModelUncertainty:
    """Terms of a model's uncertainty.

    Attributes:
        correlation: Share of a kernel's error variance that all kernels of a model have in common.
        family_correlation: Share that the kernels of one family have in common; the two sum to 1 at most.
        floor: Standard deviation of log energy that no kernel explains.
        inflation: Factor on the half-width of the interval.
        kernels: Factor on the variance that kernels bring.
    """

    correlation: float = DEFAULT_CORRELATION
    family_correlation: float = DEFAULT_FAMILY_CORRELATION
    floor: float = DEFAULT_FLOOR
    inflation: float = 1.0
    kernels: float = 1.0

    def half_width(self, apart: Floats, by_family: Floats, together: Floats) -> Floats:
        """Half-width of the nominal 90 % interval in log energy, from what :func:`compute_model_variances` returns."""
        own = 1.0 - self.correlation - self.family_correlation
        shared = own * apart + self.family_correlation * by_family + self.correlation * together
        return np.asarray(self.inflation * Z * np.sqrt(self.floor**2 + self.kernels * np.maximum(shared, 0.0)))


def compute_model_variances(
    models: KernelCounts, entry_j: Floats, half_width: Floats, total_j: Floats
) -> tuple[Floats, Floats, Floats]:
    """Compute the relative variance of models if errors were independent, shared within families, or by all kernels.

    Args:
        models: The models (n) and their distinct kernels (k).
        entry_j: Energy of one execution of each entry's kernel in its model, shape (e,).
        half_width: Half-width of its nominal 90 % interval in log energy, shape (k,).
        total_j: Energy of each model, which variances are relative to, shape (n,).

    Returns:
        Three arrays of shape (n,); zero for models without energy.
    """
    n = len(models)
    number = {name: i for i, name in enumerate(dict.fromkeys(models.families))}
    codes = np.array([number[f] for f in models.families], dtype=np.int64)
    # All executions of a kernel in a model share one error.
    model, kernel, joules = replace(models, times=models.times * entry_j).add_repeats()
    error = joules * (half_width / Z)[kernel]
    apart = np.bincount(model, weights=error**2, minlength=n)
    cell = model * len(number) + codes[kernel]
    by_family = np.bincount(cell, weights=error, minlength=n * len(number)).reshape(n, len(number))
    together = by_family.sum(axis=1) ** 2
    by_family = (by_family**2).sum(axis=1)
    scale = np.where(total_j > 0, 1.0 / np.where(total_j > 0, total_j, 1.0), 0.0) ** 2
    return apart * scale, by_family * scale, together * scale
