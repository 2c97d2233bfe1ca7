"""How uncertain a whole model is: kernels' errors with what they share, and what no kernel explains.

The relative variance of a model's predicted energy ``E`` is::

    floor^2 + k * ((1 - r - f) * sum(s^2) + f * sum over families of sum(s)^2 + r * sum(s)^2) / E^2

with ``s`` the standard error of the total of each distinct configuration in the model (equal configurations share one
error). ``r`` is shared by all kernels of a model (the systematic difference between a kernel alone and inside a model),
``f`` by the kernels of one family (a regressor that is off is off for its neighbours, too), and ``floor`` by nobody:
the context of the model and the repeatability of measuring it. ``k`` is 1 where kernels were measured; where only sums
of them were, their errors cancel in sums and ``k`` is small.

The four are the most probable values given models that took no part in the fit, under weak priors; a conformal factor
(Lei et al., Distribution-Free Predictive Inference for Regression, JASA 2018) then makes nine in ten of those models
lie inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deepen.predictors.inference.conformal import DEFAULT_CORRELATION, Z, compute_conformal_quantile

__all__ = [
    "DEFAULT_FAMILY_CORRELATION",
    "DEFAULT_FLOOR",
    "MIN_MODELS_FOR_SPREAD",
    "ModelUncertainty",
    "compute_model_variances",
    "fit_model_uncertainty",
]

Floats = NDArray[np.float64]

DEFAULT_FAMILY_CORRELATION = 0.2
"""Shared by the kernels of a family where too few whole models were measured to say (a cautious middle)."""
DEFAULT_FLOOR = 0.05
"""Standard deviation of a model's log energy that no kernel explains, where no whole model was measured: sums of layers
measured alone miss whole networks by 2 % on a server CPU and by 6 to 12 % where caches are small."""
MIN_MODELS_FOR_SPREAD = 5
_ENOUGH_TO_NARROW = 20
"""Models from which on intervals may also become narrower than those of the kernels say."""
_NARROWEST = 0.5
_WIDEST = 10.0
_PRIOR_SD = 0.3
_FLOOR_PRIOR_SD = 0.04
_FREEDOM = 6.0
"""Degrees of freedom of the likelihood (Student's t), so that one odd model does not decide."""
_LIKELIHOOD_FACTOR = 1.15
"""What the fitted scale has to be multiplied by for nine in ten: 1.13 of normal errors, 1.18 of Student's."""
_LIKELIHOOD_WEIGHT = 50.0
"""Models from which on the conformal factor counts for more than that: one quantile of few errors is mostly chance."""
_SHARES = np.linspace(0.0, 1.0, 11)
_KERNELS = np.array([0.0, 0.01, 0.03, 0.06, 0.12, 0.25, 0.5, 1.0])
_KERNELS_PRIOR_SD = 0.7
"""Of the logarithm of ``k``; 0 is as likely as its neighbour."""
_FLOORS = np.array([0.0, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2])


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
    totals: Floats, half_width: Floats, families: NDArray[np.int64]
) -> tuple[Floats, Floats, Floats]:
    """Relative variance of models if errors were independent, shared within families, or shared by all kernels.

    Args:
        totals: Energy of each distinct configuration (all its executions) in each model, shape (models, k).
        half_width: Of the nominal 90 % interval of each configuration in log energy, shape (k,).
        families: Number of each configuration's family, shape (k,).

    Returns:
        Three arrays of shape (models,); zero for models without energy.
    """
    error = totals * (half_width / Z)
    energy = totals.sum(axis=1)
    scale = np.where(energy > 0, 1.0 / np.where(energy > 0, energy, 1.0), 0.0) ** 2
    member = np.zeros((families.size, int(families.max(initial=-1)) + 1))
    member[np.arange(families.size), families] = 1.0
    by_family = ((error @ member) ** 2).sum(axis=1)
    return (error**2).sum(axis=1) * scale, by_family * scale, error.sum(axis=1) ** 2 * scale


def fit_model_uncertainty(
    errors: Floats, noise: Floats, terms: Sequence[tuple[float, float, float]]
) -> ModelUncertainty:
    """Estimate the terms from models that took no part in the fit.

    Args:
        errors: log(predicted / measured) of each model, shape (n,).
        noise: Relative standard uncertainty of each measurement, shape (n,).
        terms: Results of :func:`compute_model_variances` for each model.
    """
    if errors.size < MIN_MODELS_FOR_SPREAD:
        return ModelUncertainty()
    apart, by_family, together = np.array(terms, dtype=np.float64).T
    factors = _KERNELS if errors.size >= _ENOUGH_TO_NARROW else _KERNELS[-1:]
    grid = np.meshgrid(_SHARES, _SHARES, factors, _FLOORS, indexing="ij")
    r, f, k, floor = (g.ravel()[(grid[0] + grid[1]).ravel() <= 1.0 + 1e-9] for g in grid)
    weights = np.stack([k * (1.0 - r - f), k * f, k * r, floor**2], axis=1)
    columns = np.stack([apart, by_family, together, np.ones(errors.size)])
    variance = np.maximum(weights @ columns + noise**2, 1e-8)
    fit = 0.5 * np.log(variance) + 0.5 * (_FREEDOM + 1) * np.log1p(errors**2 / (_FREEDOM * variance))
    prior = ((r - DEFAULT_CORRELATION) / _PRIOR_SD) ** 2 + ((f - DEFAULT_FAMILY_CORRELATION) / _PRIOR_SD) ** 2
    prior += (floor / _FLOOR_PRIOR_SD) ** 2 + (np.log(np.maximum(k, _KERNELS[1])) / _KERNELS_PRIOR_SD) ** 2
    best = int(np.argmin(fit.sum(axis=1) + 0.5 * prior))
    found = ModelUncertainty(float(r[best]), float(f[best]), float(floor[best]), kernels=float(k[best]))
    half = np.maximum(found.half_width(apart, by_family, together), 1e-6)
    factor = compute_conformal_quantile(errors / half)
    if errors.size < _ENOUGH_TO_NARROW:
        narrowest = 1.0
    else:
        narrowest = _NARROWEST
        factor = (errors.size * factor + _LIKELIHOOD_WEIGHT * _LIKELIHOOD_FACTOR) / (errors.size + _LIKELIHOOD_WEIGHT)
    return replace(found, inflation=float(np.clip(factor, narrowest, _WIDEST)))
