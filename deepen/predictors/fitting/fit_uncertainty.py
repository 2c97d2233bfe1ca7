"""Fitting the terms of a model's uncertainty (:mod:`deepen.predictors.inference.model_uncertainty`).

The four are the most probable values given models that took no part in the fit, under weak priors; a conformal factor
(Lei et al., Distribution-Free Predictive Inference for Regression, JASA 2018) then makes nine in ten of those models
lie inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from deepen.predictors.inference.conformal import DEFAULT_CORRELATION, compute_conformal_quantile
from deepen.predictors.inference.model_uncertainty import DEFAULT_FAMILY_CORRELATION, ModelUncertainty

__all__ = ["MIN_MODELS_FOR_SPREAD", "fit_model_uncertainty"]

Floats = NDArray[np.float64]

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
"""Factor on the fitted scale that makes nine in ten lie inside: 1.13 of normal errors, 1.18 of Student's."""
_LIKELIHOOD_WEIGHT = 50.0
"""Models from which on the conformal factor counts for more than that: one quantile of few errors is mostly chance."""
_SHARES = np.linspace(0.0, 1.0, 11)
_KERNELS = np.array([0.0, 0.01, 0.03, 0.06, 0.12, 0.25, 0.5, 1.0])
_KERNELS_PRIOR_SD = 0.7
"""Of the logarithm of ``k``; 0 is as likely as its neighbour."""
_FLOORS = np.array([0.0, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2])


def fit_model_uncertainty(
    errors: Floats, noise: Floats, terms: Sequence[tuple[float, float, float]]
) -> ModelUncertainty:
    """Estimate the terms from models that took no part in the fit.

    Args:
        errors: log(predicted / measured) of each model, shape (n,).
        noise: Relative standard uncertainty of each measurement, shape (n,).
        terms: The three variances that :func:`compute_model_variances` returns, for each model.
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
