"""MS-EHVI: expected hypervolume improvement with mixed surrogates.

As in "Bag of Baselines ..." (Izquierdo et al., AutoML workshop at ICML 2021), which EC-NAS compares with: an objective
with known values (a predicted energy, a count of parameters) is used as it is; only the others get a
Gaussian process. The expected improvement is computed exactly, for any number of objectives: the region that is not
dominated is a union of boxes between consecutive levels of the front, and for independent objectives

    EHVI = integral over that region of the product of P(Y_j <= a_j)

so that a box contributes a product of differences of E[(t - Y)+] (for two objectives: Emmerich, Yang, Deutz, Wang and
Fonseca, "A Multicriteria Generalization of Bayesian Global Optimization", 2016).

The process works on one-hot genomes with scikit-learn; its hyperparameters are fitted again whenever the number of
results has grown by a fifth.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from deepen.search.optimisers.base import EvaluationRequest, EvaluationResult
from deepen.search.optimisers.domain import SearchDomain
from deepen.search.optimisers.semoa import scale_objectives
from deepen.search.pareto import find_pareto_front

__all__ = ["MsEhvi", "compute_expected_improvement", "compute_lower_partial_moment"]

Floats = NDArray[np.float64]

_START = 20
_POOL = 2000
_GROWTH = 1.2
_LARGEST_FIT = 600


def compute_lower_partial_moment(limit: Floats | float, mean: Floats, deviation: Floats) -> Floats:
    """Compute E[(limit - Y)+] of a normal Y; exact if the deviation is zero."""
    from scipy.special import ndtr

    gap = np.asarray(limit - mean, dtype=np.float64)
    safe = np.where(deviation > 0, deviation, 1.0)
    z = gap / safe
    normal = gap * ndtr(z) + safe * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    return np.asarray(np.where(deviation > 0, normal, np.maximum(gap, 0.0)))


def compute_expected_improvement(points: Floats, reference: Floats, mean: Floats, deviation: Floats) -> Floats:
    """Compute the expected hypervolume improvement of candidates over points.

    Args:
        points: Points evaluated so far, shape (k, objectives).
        reference: Reference point, shape (objectives,).
        mean: Means of the candidates, shape (n, objectives).
        deviation: Standard deviations, the same shape; 0 for known values.

    The recursion over objectives:

    1. With one objective, the improvement is the partial moment below the best point.
    2. With more, the space is cut at the levels of the last objective. Below the first level, no point dominates.
    3. Between two levels, the points up to the lower one dominate; the slice contributes the difference of the partial
       moments times the improvement over those points in the other objectives.

    Returns:
        Expected improvements, shape (n,).
    """
    # 1
    last = mean.shape[1] - 1
    inside = points[(points < reference).all(axis=1)]
    if last == 0:
        best = min([float(reference[0]), *inside[:, 0].tolist()])
        return compute_lower_partial_moment(best, mean[:, 0], deviation[:, 0])
    # 2
    levels = np.append(np.unique(inside[:, last]), reference[last])
    below = compute_lower_partial_moment(float(levels[0]), mean[:, last], deviation[:, last])
    total = below * compute_expected_improvement(
        inside[:0, :last], reference[:last], mean[:, :last], deviation[:, :last]
    )
    # 3
    for low, high in pairwise(levels.tolist()):
        above = compute_lower_partial_moment(float(high), mean[:, last], deviation[:, last])
        under = inside[inside[:, last] <= low][:, :last]
        under = under[find_pareto_front(under)]
        total += (above - below) * compute_expected_improvement(
            under, reference[:last], mean[:, :last], deviation[:, :last]
        )
        below = above
    return np.asarray(np.maximum(total, 0.0))


class MsEhvi:
    """MS-EHVI; the module's docstring describes the method."""

    def __init__(
        self,
        domain: SearchDomain,
        seed: int = 0,
        population: int = 10,
        known: Mapping[int, Mapping[str, float]] | None = None,
    ) -> None:
        """Prepare.

        Args:
            domain: Domain of the search.
            seed: Seed of all draws.
            population: Networks per request.
            known: Objectives with known values: number of the objective -> its value by architecture.
        """
        self._domain = domain
        self._rng = np.random.default_rng(seed)
        self._size = population
        self._known = dict(known or {})
        self._evaluated: list[EvaluationResult] = []
        self._seen: set[str] = set()
        self._fitted = 0
        self._kernels: dict[int, object] = {}

    def ask(self) -> list[EvaluationRequest]:
        """See :class:`~deepen.search.optimisers.base.Optimiser`."""
        left = _START - len(self._evaluated)
        archs = self._random(min(self._size, left)) if left > 0 else self._chosen()
        self._seen.update(archs)
        return [EvaluationRequest(arch) for arch in archs]

    def _random(self, count: int) -> list[str]:
        found: list[str] = []
        for _ in range(count):
            arch = self._domain.fresh(self._domain.sample(self._rng), self._seen | set(found), self._rng)
            if arch is not None:
                found.append(arch)
        return found

    def tell(self, results: list[EvaluationResult]) -> None:
        """See :class:`~deepen.search.optimisers.base.Optimiser`."""
        self._evaluated += [r for r in results if all(np.isfinite(r.values))]

    def _pool(self) -> list[str]:
        """Draw candidates: random ones, and neighbours of the front."""
        values = np.array([t.values for t in self._evaluated])
        parents = [self._evaluated[i].arch for i in find_pareto_front(values).tolist()]
        near = [self._domain.mutate(parents[k % len(parents)], self._rng) for k in range(_POOL // 8)]
        if len(self._domain) and len(self._domain) <= _POOL:
            wide = list(self._domain.archs)
        else:
            wide = [self._domain.sample(self._rng) for _ in range(_POOL)]
        return [a for a in dict.fromkeys((*near, *wide)) if a not in self._seen]

    def _features(self, archs: Sequence[str]) -> Floats:
        codes = np.array([self._domain.codes(a) for a in archs])
        parts = [codes[:, k, None] == np.arange(levels) for k, levels in enumerate(self._domain.levels)]
        return np.concatenate(parts, axis=1).astype(np.float64)

    def _chosen(self) -> list[str]:
        pool = self._pool()
        if not pool:
            return []
        values = np.array([t.values for t in self._evaluated])
        points, reference = scale_objectives(values)
        low, span = values.min(axis=0), np.where(np.ptp(values, axis=0) > 0, np.ptp(values, axis=0), 1.0)
        mean, deviation = np.empty((2, len(pool), values.shape[1]))
        refit = len(self._evaluated) >= _GROWTH * self._fitted
        for j in range(values.shape[1]):
            if j in self._known:
                mean[:, j] = [(self._known[j][a] - low[j]) / span[j] for a in pool]
                deviation[:, j] = 0.0
            else:
                mean[:, j], deviation[:, j] = self._predict(j, points[:, j], pool, refit)
        if refit:
            self._fitted = len(self._evaluated)
        chosen: list[str] = []
        left = np.arange(len(pool))
        for _ in range(min(self._size, len(pool))):
            worth = compute_expected_improvement(
                points[find_pareto_front(points)], reference, mean[left], deviation[left]
            )
            best = int(left[np.argmax(worth)])
            chosen.append(pool[best])
            # The next one is chosen as if this one had come out as expected (Kriging believer).
            points = np.concatenate([points, mean[best][None, :]])
            left = left[left != best]
        return chosen

    def _predict(self, j: int, y: Floats, pool: Sequence[str], refit: bool) -> tuple[Floats, Floats]:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

        recent = self._evaluated[-_LARGEST_FIT:]
        kernel = self._kernels.get(j) or ConstantKernel(1.0) * RBF(2.0, (0.3, 30.0)) + WhiteKernel(1e-2, (1e-6, 1.0))
        model = GaussianProcessRegressor(
            kernel,
            normalize_y=True,
            optimizer="fmin_l_bfgs_b" if refit or j not in self._kernels else None,
            random_state=0,
        )
        with warnings.catch_warnings():  # a length scale at its bound is no harm
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(self._features([r.arch for r in recent]), y[-_LARGEST_FIT:])
        self._kernels[j] = model.kernel_
        mean, deviation = model.predict(self._features(pool), return_std=True)
        return np.asarray(mean), np.asarray(deviation)
