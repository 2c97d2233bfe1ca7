"""Gaussian-process regression for small families, in numpy.

Matern-5/2 covariance with one length scale per column (Rasmussen and Williams, Gaussian Processes for Machine
Learning, 2006, eq. 4.17 and section 5.4.1), hyperparameters by maximum a posteriori with log-normal priors: with
twenty to a hundred rows and as many columns, maximum likelihood alone over-fits the length scales. Only the posterior
mean is kept: it is ``k(x, X) @ alpha``, which needs nothing but numpy to predict.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["GaussianFit", "fit_gaussian", "matern"]

_SQRT5 = float(np.sqrt(5.0))
_NOISE_PRIOR = float(np.log(0.05))


@dataclass(frozen=True, slots=True)
class GaussianFit:
    """A fitted process.

    Attributes:
        x: Training rows in standard units, shape (n, d).
        inverse_length: One over the length scales, shape (d,).
        alpha: Weights of the training rows, signal variance included, shape (n,).
    """

    x: NDArray[np.float64]
    inverse_length: NDArray[np.float64]
    alpha: NDArray[np.float64]

    def predict(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Posterior mean at rows of shape (m, d)."""
        return np.asarray(matern(x, self.x, self.inverse_length) @ self.alpha)


def matern(a: NDArray[np.float64], b: NDArray[np.float64], inverse_length: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matern-5/2 correlation between rows, shape (len(a), len(b))."""
    p, q = a * inverse_length, b * inverse_length
    square = (p * p).sum(1)[:, None] + (q * q).sum(1)[None, :] - 2.0 * (p @ q.T)
    s = _SQRT5 * np.sqrt(np.maximum(square, 0.0))
    return np.asarray((1.0 + s + s * s / 3.0) * np.exp(-s))


def fit_gaussian(
    x: NDArray[np.float64], y: NDArray[np.float64], weight: NDArray[np.float64], iterations: int = 25
) -> GaussianFit:
    """Fit to residuals.

    Args:
        x: Rows in standard units, shape (n, d).
        y: Targets with mean about zero, shape (n,).
        weight: Weights with mean 1, shape (n,); the noise variance of a row is divided by its weight.
        iterations: Most iterations of the optimiser (L-BFGS).
    """
    from scipy.linalg import cho_factor, cho_solve
    from scipy.optimize import minimize

    n, d = x.shape
    spread = max(float(np.std(y)), 0.02)
    centre = np.concatenate([np.full(d, 0.5 * np.log(max(d, 1)) + 0.7), [np.log(spread), _NOISE_PRIOR]])
    sigma = np.concatenate([np.full(d, 1.0), [1.0, 1.0]])
    noise_shape = 1.0 / weight

    def covariance(theta: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        k = np.exp(2 * theta[d]) * matern(x, x, np.exp(-theta[:d]))
        full = k.copy()
        full[np.diag_indices(n)] += np.exp(2 * theta[d + 1]) * noise_shape + 1e-9
        return k, full

    def objective(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        k, full = covariance(theta)
        factor = cho_factor(full, lower=True, check_finite=False)
        inverse = cho_solve(factor, np.eye(n), check_finite=False)
        alpha = inverse @ y
        value = 0.5 * float(y @ alpha) + float(np.log(np.diag(factor[0])).sum())
        outer = np.outer(alpha, alpha) - inverse
        # d k / d log(length_c) = variance * 5/3 * (1 + s) * exp(-s) * (difference_c / length_c)^2
        scaled = x * np.exp(-theta[:d])
        square = (scaled * scaled).sum(1)
        s = _SQRT5 * np.sqrt(np.maximum(square[:, None] + square[None, :] - 2 * scaled @ scaled.T, 0.0))
        w = outer * (np.exp(2 * theta[d]) * (5.0 / 3.0) * (1.0 + s) * np.exp(-s))
        by_length = 2.0 * (w.sum(1) @ (scaled * scaled) - ((w @ scaled) * scaled).sum(0))
        gradient = np.empty(d + 2)
        gradient[:d] = -0.5 * by_length
        gradient[d] = -float((outer * k).sum())
        gradient[d + 1] = -float(np.diag(outer) @ noise_shape) * np.exp(2 * theta[d + 1])
        offset = (theta - centre) / sigma
        return value + 0.5 * float(offset @ offset), gradient + offset / sigma

    bounds = [(c - 3.5, c + 3.5) for c in centre]
    found = minimize(objective, centre, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": iterations})
    theta = np.asarray(found.x)
    _, full = covariance(theta)
    alpha = cho_solve(cho_factor(full, lower=True, check_finite=False), y, check_finite=False) * np.exp(2 * theta[d])
    return GaussianFit(x, np.exp(-theta[:d]), np.asarray(alpha))
