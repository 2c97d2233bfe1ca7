"""The most probable factors of kernels, given sums of kernels that were measured.

A measurement is ``s * (s / s0) ** bend`` with ``s = overhead + sum of count * base * exp(factor)``. Factors have a
Gaussian prior (:mod:`deepen.predictors.inference.factor_covariance`), so that energies stay positive and a base that is
right costs nothing. ``bend`` is near zero: power sinks a little as an inference gets longer (voltage, heat, the
meter's own window), which no kernel alone shows.

Solved by Gauss-Newton steps in the logarithm of the measurements, with Student weights against odd ones (Lange, Little
and Taylor, JASA 1989). Each step is a ridge regression, whose leave-one-out residuals come without fitting again
(``r / (1 - h)``, Allen's PRESS).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["FactorEstimate", "FactorProblem", "estimate_factors"]

Floats = NDArray[np.float64]

_STEPS = 12
_FREEDOM = 4.0
_JITTER = 1e-9
_LARGEST_STEP = 1.0
_LEAST_NOISE = 0.002
_FIRST_NOISE = 0.05
_MOST_LEVERAGE = 0.95


@dataclass(frozen=True, slots=True)
class FactorProblem:
    """n measurements of u kernels.

    Attributes:
        joules: Contribution of each kernel to each measurement by the base, shape (n, u), not negative.
        fixed: Joules added whatever the factors are, shape (n,).
        overhead: Contribution of the overhead by the base, shape (n,).
        measured: Positive, shape (n,).
        relative_sd: Relative standard uncertainty of each measurement, shape (n,).
        model: Mask of the whole models, which ``bend`` is about, shape (n,).
    """

    joules: Floats
    fixed: Floats
    overhead: Floats
    measured: Floats
    relative_sd: Floats
    model: NDArray[np.bool_]

    def sums(self, theta: Floats) -> tuple[Floats, Floats]:
        """Sums, and the parts the factors act on, shapes (n,) and (n, u + 1); overhead is the last."""
        parts = np.concatenate([self.joules, self.overhead[:, None]], axis=1) * np.exp(np.clip(theta[:-1], -12.0, 12.0))
        kernels = parts.sum(axis=1)
        # What is added may be negative (the call a kernel in a model does not pay); it never eats up a whole model.
        return np.maximum(kernels + self.fixed, 0.1 * kernels), parts

    def log_total(self, theta: Floats, reference: float) -> Floats:
        """Logarithms of the predicted measurements, shape (n,).

        Args:
            theta: Log factors of the kernels and the overhead, then the bend, shape (u + 2,).
            reference: Logarithm of the sum that the bend leaves as it is.
        """
        log_sum = np.log(self.sums(theta)[0])
        return np.asarray(log_sum + np.where(self.model, theta[-1] * (log_sum - reference), 0.0))


@dataclass(frozen=True, slots=True)
class FactorEstimate:
    """The most probable factors.

    Attributes:
        theta: Log factors of the kernels and of the overhead, and the bend, shape (u + 2,).
        sd: Their posterior standard deviations, shape (u + 2,).
        noise: Relative standard deviation of measurements that nothing explains.
        left_out: log(predicted / measured) of each measurement had it not been used, shape (n,).
    """

    theta: Floats
    sd: Floats
    noise: float
    left_out: Floats

    @property
    def score(self) -> float:
        """Mean absolute log error of measurements left out."""
        return float(np.mean(np.abs(self.left_out)))


def estimate_factors(
    problem: FactorProblem, prior: Floats, overhead_sd: float, bend_sd: float, reference: float
) -> FactorEstimate:
    """Find the factors.

    Args:
        problem: The measurements.
        prior: Prior covariance of the kernels' log factors, shape (u, u).
        overhead_sd: Prior standard deviation of the overhead's log factor.
        bend_sd: Prior standard deviation of the bend; 0: there is none.
        reference: Logarithm of the sum that the bend leaves as it is.
    """
    n, u = problem.joules.shape
    root = np.zeros((u + 2, u + 2))
    root[:u, :u] = _compute_covariance_root(prior)
    root[u, u], root[u + 1, u + 1] = overhead_sd, bend_sd
    whitened = np.zeros(u + 2)
    log_measured = np.log(problem.measured)
    noise, weight = _FIRST_NOISE, np.ones(n)
    hat = np.zeros(n)
    inverse: Floats = np.eye(u + 2)
    for _ in range(_STEPS):
        theta = root @ whitened
        sums, parts = problem.sums(theta)
        bent = np.where(problem.model, 1.0 + theta[-1], 1.0)
        length = np.where(problem.model, np.log(sums) - reference, 0.0)
        slope = np.concatenate([parts / sums[:, None] * bent[:, None], length[:, None]], axis=1) @ root
        target = log_measured - problem.log_total(theta, reference) + slope @ whitened
        row = weight / (noise**2 + problem.relative_sd**2)
        normal = (slope * row[:, None]).T @ slope + np.eye(u + 2)
        inverse = np.asarray(np.linalg.inv(normal), dtype=np.float64)
        step = inverse @ (slope.T @ (row * target)) - whitened
        whitened = whitened + step * min(1.0, _LARGEST_STEP / max(float(np.abs(root @ step).max()), 1e-12))
        hat = np.minimum(np.einsum("ij,jk,ik->i", slope, inverse, slope) * row, _MOST_LEVERAGE)
        residual = log_measured - problem.log_total(root @ whitened, reference)
        standard = residual**2 / (noise**2 + problem.relative_sd**2)
        weight = (_FREEDOM + 1.0) / (_FREEDOM + standard)
        noise = _estimate_noise(residual, weight, hat, problem.relative_sd)
    residual = log_measured - problem.log_total(root @ whitened, reference)
    posterior = np.einsum("ij,jk,ik->i", root, inverse, root)
    return FactorEstimate(root @ whitened, np.sqrt(np.maximum(posterior, 0.0)), noise, -residual / (1.0 - hat))


def _estimate_noise(residual: Floats, weight: Floats, hat: Floats, relative_sd: Floats) -> float:
    """Noise that measurements do not state, from weighted residuals and the degrees of freedom that are left."""
    freedom = max(float(residual.size - hat.sum()), 0.25 * residual.size, 1.0)
    variance = float((weight * (residual**2 - np.minimum(relative_sd**2, residual**2))).sum()) / freedom
    return max(float(np.sqrt(max(variance, 0.0))), _LEAST_NOISE)


def _compute_covariance_root(prior: Floats) -> Floats:
    """A square root of the covariance; eigenvalues that rounding made negative are nothing."""
    value, vector = np.linalg.eigh(prior)
    return np.asarray(vector * np.sqrt(np.maximum(value, _JITTER * float(value.max(initial=1.0)))))
