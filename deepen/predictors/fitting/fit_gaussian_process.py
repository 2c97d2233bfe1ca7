"""Fitting Gaussian processes to small families.

Matern-5/2 covariance with one length scale per column (Rasmussen and Williams, Gaussian Processes for Machine
Learning, 2006, eq. 4.17 and section 5.4.1), hyperparameters by maximum a posteriori with log-normal priors: with
twenty to a hundred rows and as many columns, maximum likelihood alone over-fits the length scales. Only the posterior
mean is kept: it is ``k(x, X) @ alpha``, which :mod:`deepen.predictors.inference.gaussian_process` evaluates.

Two things that energies of kernels need beside that:

* **Noise that grows towards small energies** (where families share a process). A kernel of microseconds is read with
  fewer samples and fewer digits than one of milliseconds. The variance of a row's noise is ``(a + b * small) / weight``
  with ``small`` the median energy over the row's energy, and the data say how large ``b`` is.
* **Rows that are simply wrong.** After the fit each row is predicted from all others (leave-one-out, in closed form,
  Rasmussen and Williams section 5.4.2); rows more than two standard deviations off get their noise raised in that ratio
  (the weights of Huber, Robust Statistics, 1981) and the fit is refined.

Groups (families that learn together) share a process; each group deviates from it by a process of its own with the same
length scales, and by a constant: the intrinsic coregionalisation model of Bonilla et al., Multi-task Gaussian Process
Prediction, NIPS 2007, with one correlation for all pairs of groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepen.predictors.inference.gaussian_process import compute_matern, compute_scaled_distances

__all__ = [
    "GaussianFit",
    "GroupedGaussianFit",
    "fit_gaussian",
    "fit_gaussian_at_prior",
    "fit_grouped_gaussian",
]

Floats = NDArray[np.float64]

_NOISE = float(np.log(0.05))
_SMALL_NOISE = float(np.log(0.02))
_OWN = float(np.log(0.3))
_OFFSET = float(np.log(0.5))
_COMMON_VARIANCE = 0.3**2
_OUTLYING = 2.0
_REFINEMENTS = 2
_REACH = 3.5
"""Distance that a hyperparameter may go from the centre of its prior, in log units."""


@dataclass(frozen=True, slots=True)
class GaussianFit:
    """A fitted process.

    Attributes:
        x: Training rows in standard units, shape (n, d).
        inverse_length: One over the length scales, shape (d,).
        alpha: Weights of the training rows, signal variance included, shape (n,).
    """

    x: Floats
    inverse_length: Floats
    alpha: Floats

    def predict(self, x: Floats) -> Floats:
        """Posterior mean at rows of shape (m, d)."""
        return np.asarray(compute_matern(x, self.x, self.inverse_length) @ self.alpha)


@dataclass(frozen=True, slots=True)
class GroupedGaussianFit:
    """A process that groups share.

    Attributes:
        x: Training rows in standard units, shape (n, d).
        group: Group of each row, shape (n,).
        theta: Logarithms of the hyperparameters.
        noise: Factor on each row's noise variance: one over its weight, raised where the row is wrong, shape (n,).
        small: Median energy over each row's energy: noise may grow with it, shape (n,).
    """

    x: Floats
    group: NDArray[np.int64]
    theta: Floats
    noise: Floats
    small: Floats

    @property
    def inverse_length(self) -> Floats:
        """One over the length scales, shape (d,)."""
        return np.asarray(np.exp(-self.theta[: self.x.shape[1]]))

    def solve(self, y: Floats, keep: NDArray[np.bool_]) -> Floats:
        """Condition on some of the rows, hyperparameters unchanged.

        Args:
            y: Targets, shape (n,); those of other rows are not looked at.
            keep: Rows to condition on, shape (n,).

        Returns:
            Weights of the rows, zero for the others, shape (n,).
        """
        space = _CovarianceModel(self.x[keep], y[keep], self.small[keep], self.group[keep])
        _, full = space.covariance(self.theta, self.noise[keep])
        alpha = np.zeros(len(y))
        alpha[keep] = np.linalg.solve(full, y[keep])
        return alpha

    def weights_for_group(self, group: int, alpha: Floats) -> tuple[Floats, float]:
        """Weights of all rows in the correlation, and the constant, that predict one group."""
        d = self.x.shape[1]
        shared, own_signal, own_constant = np.exp(2 * self.theta[[d, d + 3, d + 4]])
        own = (self.group == group).astype(np.float64)
        constant = _COMMON_VARIANCE * float(alpha.sum()) + float(own_constant) * float((own * alpha).sum())
        return np.asarray(alpha * (shared + own * own_signal)), constant


def fit_gaussian(x: Floats, y: Floats, weight: Floats, iterations: int = 25) -> GaussianFit:
    """Fit to residuals.

    Args:
        x: Rows in standard units, shape (n, d).
        y: Targets with mean about zero, shape (n,).
        weight: Weights with mean 1, shape (n,); the noise variance of a row is divided by its weight.
        iterations: Most iterations of the optimiser (L-BFGS).
    """
    space = _CovarianceModel(x, y, np.ones(len(y)), None)
    theta, noise = _optimise_hyperparameters(space, weight, iterations)
    _, full = space.covariance(theta, noise)
    d = x.shape[1]
    alpha = np.linalg.solve(full, y) * np.exp(2 * theta[d])
    return GaussianFit(x, np.exp(-theta[:d]), np.asarray(alpha))


def fit_gaussian_at_prior(x: Floats, y: Floats, weight: Floats) -> GaussianFit:
    """Fit a process whose hyperparameters stay at the centre of their priors: about what any smooth regressor finds.

    Args:
        x: Rows in standard units, shape (n, d).
        y: Targets with mean about zero, shape (n,).
        weight: Weights with mean 1, shape (n,).
    """
    space = _CovarianceModel(x, y, np.ones(len(y)), None)
    _, full = space.covariance(space.centre, 1.0 / weight)
    d = x.shape[1]
    alpha = np.linalg.solve(full, y) * np.exp(2 * space.centre[d])
    return GaussianFit(x, np.exp(-space.centre[:d]), np.asarray(alpha))


def fit_grouped_gaussian(
    x: Floats, y: Floats, weight: Floats, small: Floats, group: NDArray[np.int64], iterations: int = 25
) -> GroupedGaussianFit:
    """Fit a process that groups share.

    Args:
        x: Rows in standard units, shape (n, d).
        y: Targets with mean about zero, shape (n,).
        weight: Weights with mean 1, shape (n,).
        small: Median energy over each row's energy: noise may grow with it, shape (n,).
        group: Group of each row, shape (n,).
        iterations: Most iterations of the optimiser.
    """
    space = _CovarianceModel(x, y, small, group)
    theta, noise = _optimise_hyperparameters(space, weight, iterations)
    return GroupedGaussianFit(x, group, theta, noise, small)


class _CovarianceModel:
    """Rows and the covariance over them.

    Hyperparameters (logarithms): d length scales, signal, noise, noise of small energies; with groups also the signal
    of a group's own process and of its constant.
    """

    def __init__(self, x: Floats, y: Floats, small: Floats, group: NDArray[np.int64] | None) -> None:
        d = x.shape[1]
        self.x, self.y, self.small, self.d = x, y, small, d
        self.same = None if group is None else (group[:, None] == group[None, :]).astype(np.float64)
        spread = float(np.log(max(float(np.std(y)), 0.02)))
        centre = [*np.full(d, 0.5 * np.log(max(d, 1)) + 0.7), spread, _NOISE, _SMALL_NOISE]
        width = [*np.ones(d), 1.0, 1.0, 1.5]
        if group is not None:
            centre, width = [*centre, _OWN, _OFFSET], [*width, 1.0, 1.0]
        self.centre, self.width = np.array(centre), np.array(width)

    def covariance(self, theta: Floats, noise: Floats) -> tuple[Floats, Floats]:
        """Correlation of the rows, and the covariance of their targets, noise included."""
        d = self.d
        correlation = compute_matern(self.x, self.x, np.exp(-theta[:d]))
        smooth = self._signal(theta) * correlation
        full = smooth.copy()
        if self.same is not None:
            full += self.same * np.exp(2 * theta[d + 4]) + _COMMON_VARIANCE
        full[np.diag_indices(len(self.y))] += self._noise(theta, noise) + 1e-9
        return correlation, full

    def objective(self, theta: Floats, noise: Floats) -> tuple[float, Floats]:
        """Minus the logarithm of the posterior of the hyperparameters, and its gradient."""
        from scipy.linalg import cho_factor, cho_solve

        d = self.d
        correlation, full = self.covariance(theta, noise)
        factor = cho_factor(full, lower=True, check_finite=False)
        inverse = cho_solve(factor, np.eye(len(self.y)), check_finite=False)
        alpha = inverse @ self.y
        value = 0.5 * float(self.y @ alpha) + float(np.log(np.diag(factor[0])).sum())
        outer = np.outer(alpha, alpha) - inverse
        # d k / d log(length_c) = variance * 5/3 * (1 + s) * exp(-s) * (difference_c / length_c)^2
        scaled = self.x * np.exp(-theta[:d])
        s = compute_scaled_distances(scaled, scaled)
        w = outer * self._signal(theta) * ((5.0 / 3.0) * (1.0 + s) * np.exp(-s))
        gradient = np.empty(len(theta))
        gradient[:d] = -((w.sum(1) @ (scaled * scaled)) - ((w @ scaled) * scaled).sum(0))
        diagonal = np.diag(outer)
        gradient[d] = -float((outer * correlation).sum()) * np.exp(2 * theta[d])
        gradient[d + 1] = -float(diagonal @ noise) * np.exp(2 * theta[d + 1])
        gradient[d + 2] = -float(diagonal @ (noise * self.small)) * np.exp(2 * theta[d + 2])
        if self.same is not None:
            inside = outer * self.same
            gradient[d + 3] = -float((inside * correlation).sum()) * np.exp(2 * theta[d + 3])
            gradient[d + 4] = -float(inside.sum()) * np.exp(2 * theta[d + 4])
        offset = (theta - self.centre) / self.width
        return value + 0.5 * float(offset @ offset), gradient + offset / self.width

    def left_out(self, theta: Floats, noise: Floats) -> Floats:
        """Each row's distance from what the others say of it, in standard deviations."""
        _, full = self.covariance(theta, noise)
        inverse = np.linalg.inv(full)
        return np.asarray(np.abs(inverse @ self.y) / np.sqrt(np.diag(inverse)))

    def _signal(self, theta: Floats) -> Floats | float:
        shared = float(np.exp(2 * theta[self.d]))
        return shared if self.same is None else shared + np.exp(2 * theta[self.d + 3]) * self.same

    def _noise(self, theta: Floats, noise: Floats) -> Floats:
        d = self.d
        return np.asarray((np.exp(2 * theta[d + 1]) + np.exp(2 * theta[d + 2]) * self.small) * noise)


def _optimise_hyperparameters(space: _CovarianceModel, weight: Floats, iterations: int) -> tuple[Floats, Floats]:
    """Hyperparameters, and the factors on the rows' noise."""
    from scipy.optimize import minimize

    bounds = [(c - _REACH, c + _REACH) for c in space.centre]
    noise = 1.0 / weight
    theta, most = space.centre, iterations
    for refinement in range(_REFINEMENTS + 1):
        if refinement:
            noise = noise * np.maximum(1.0, space.left_out(theta, noise) / _OUTLYING) ** 2
            most = max(iterations // 4, 1)
        found = minimize(
            space.objective, theta, args=(noise,), jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": most}
        )
        theta = np.asarray(found.x, dtype=np.float64)
    return theta, noise
