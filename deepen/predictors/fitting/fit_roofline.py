"""Fitting the roofline (:mod:`deepen.predictors.inference.roofline`): non-negative joules per unit of each term."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["fit_roofline"]


def fit_roofline(
    terms: NDArray[np.float64],
    energy_j: NDArray[np.float64],
    weight: NDArray[np.float64],
    prior: NDArray[np.float64] | None = None,
    prior_rows: float = 1.0,
    iterations: int = 12,
) -> NDArray[np.float64]:
    """Fit the coefficients: re-weighted non-negative least squares that minimise squared log error.

    Row weights are ``1 / (p * L(p, E))`` with the last prediction ``p`` and the logarithmic mean
    ``L = (p - E) / log(p / E)``; where the iteration settles, the gradient is that of ``log(p / E)**2``: relative, and
    symmetric in over- and under-prediction (dividing by ``E`` would favour under-prediction).

    Args:
        terms: shape (n, t).
        energy_j: Measured energies, positive, shape (n,).
        weight: Weights of the rows, shape (n,).
        prior: Coefficients to shrink towards, shape (t,), for families with few rows.
        prior_rows: Number of rows the prior is worth for each coefficient.
        iterations: Re-weightings.

    Returns:
        Non-negative coefficients, shape (t,); the constant (last) is positive.
    """
    from scipy.optimize import nnls

    scale = np.maximum(terms.max(axis=0), 1e-300)
    design = terms / scale
    t = terms.shape[1]
    anchor = np.zeros((0, t)) if prior is None else np.diag(_compute_prior_strength(terms, energy_j, prior))
    target = np.zeros(0) if prior is None else anchor @ (prior * scale)
    predicted = energy_j
    solution = np.zeros(t)
    for _ in range(iterations):
        row = np.sqrt(weight / (predicted * _compute_logarithmic_mean(predicted, energy_j)))
        a = np.concatenate([design * row[:, None], np.sqrt(prior_rows) * anchor])
        b = np.concatenate([energy_j * row, np.sqrt(prior_rows) * target])
        solution, _ = nnls(a, b, maxiter=50 * t)
        predicted = np.maximum(design @ solution, 0.02 * energy_j)
    coefficients = np.where(terms.max(axis=0) > 0, solution / scale, 0.0 if prior is None else prior)
    coefficients[-1] = max(coefficients[-1], 1e-3 * float(energy_j.min()))
    return np.asarray(coefficients, dtype=np.float64)


def _compute_logarithmic_mean(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    ratio = np.log(a / b)
    near = np.abs(ratio) < 1e-4
    return np.asarray(np.where(near, (a + b) / 2, (a - b) / np.where(near, 1.0, ratio)), dtype=np.float64)


def _compute_prior_strength(
    terms: NDArray[np.float64], energy_j: NDArray[np.float64], prior: NDArray[np.float64]
) -> NDArray[np.float64]:
    """One over the spread allowed to each scaled coefficient: 100 % of the prior, or of a tenth of the energy."""
    scale = np.maximum(terms.max(axis=0), 1e-300)
    relative = np.maximum(terms / scale, 1e-12)
    natural = np.median(energy_j[:, None] / relative, axis=0)
    return np.asarray(1.0 / np.maximum(prior * scale, 0.1 * np.minimum(natural, energy_j.max())), dtype=np.float64)
