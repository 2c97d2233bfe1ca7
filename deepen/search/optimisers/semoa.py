"""SEMOA, the simple evolutionary multi-objective algorithm of EC-NAS (Bakhtiarifard, Igel and Selvan, ICASSP 2024).

::

    P = non-dominated set of a random population
    repeat
        O = LinearRankSample(P, lambda)      the extreme of each objective always, the rest by rank
        perturb and evaluate O
        P = non-dominated set of P and O

Ranks go by contributing hypervolume, Delta_r(x, P) = S_r(P) - S_r(P without x), largest first; rank i is drawn with
probability pi_i = (eta - 2 (eta - 1) (i - 1) / (n - 1)) / n, where n is the size of P (arXiv 2210.06015, section 4).
eta is 2 as in the paper (its code has 1.9).

Choices that the paper leaves open: objectives are scaled to 0..1 by the worst and best evaluated so far before
hypervolumes are computed, so that units do not matter (contributions keep their order under such a scaling, but a
reference point is needed); and a network that was evaluated before is perturbed again, because a table gives the same
figures twice.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepen.search.optimisers.base import EvaluationRequest, EvaluationResult
from deepen.search.optimisers.domain import SearchDomain
from deepen.search.pareto import compute_contributions, find_extremes, find_pareto_front

__all__ = ["Semoa", "compute_rank_probabilities", "scale_objectives"]

Floats = NDArray[np.float64]

_MARGIN = 0.1
"""Distance of the reference point from the worst value, as a share of the range, so that the extremes contribute."""


def compute_rank_probabilities(n: int, eta: float = 2.0) -> Floats:
    """Compute the probability of each rank, best first, shape (n,); they sum to 1."""
    if n == 1:
        return np.ones(1)
    return np.asarray((eta - 2 * (eta - 1) * np.arange(n) / (n - 1)) / n)


def scale_objectives(values: Floats) -> tuple[Floats, Floats]:
    """Scale points to 0..1 in each objective; returns them and their reference point."""
    low, high = values.min(axis=0), values.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    return (values - low) / span, np.full(values.shape[1], 1.0 + _MARGIN)


class Semoa:
    """SEMOA; the module's docstring describes the method."""

    def __init__(self, domain: SearchDomain, seed: int = 0, population: int = 10, eta: float = 2.0) -> None:
        """Prepare.

        Args:
            domain: Domain of the search.
            seed: Seed of all draws.
            population: Networks per generation, lambda; also the size of the first.
            eta: Selection pressure, 1 (none) to 2.
        """
        self._domain = domain
        self._rng = np.random.default_rng(seed)
        self._size = population
        self._eta = eta
        self._archs: list[str] = []
        self._values = np.zeros((0, domain.objectives))
        self._low = np.full(domain.objectives, np.inf)
        self._high = np.full(domain.objectives, -np.inf)
        self._seen: set[str] = set()

    def ask(self) -> list[EvaluationRequest]:
        """See :class:`~deepen.search.optimisers.base.Optimiser`."""
        found: list[EvaluationRequest] = []
        parents = self._parents()
        for k in range(self._size):
            draw = self._domain.mutate(parents[k], self._rng) if parents else self._domain.sample(self._rng)
            arch = self._domain.fresh(draw, self._seen, self._rng)
            if arch is None:
                break
            self._seen.add(arch)
            found.append(EvaluationRequest(arch))
        return found

    def _parents(self) -> list[str]:
        """Draw the parents of a generation (``LinearRankSample``).

        1. The extreme of each objective is always a parent.
        2. The others are drawn by linear rank of their hypervolume contribution, scaled as above.
        """
        if not self._archs:
            return []
        # 1
        best = list(dict.fromkeys(find_extremes(self._values).tolist()))[: self._size]
        # 2
        span = np.where(self._high > self._low, self._high - self._low, 1.0)
        points = (self._values - self._low) / span
        worth = compute_contributions(points, np.full(points.shape[1], 1.0 + _MARGIN))
        order = np.argsort(-worth, kind="stable")
        drawn = self._rng.choice(order, self._size - len(best), p=compute_rank_probabilities(len(order), self._eta))
        return [self._archs[i] for i in (*best, *drawn.tolist())]

    def tell(self, results: list[EvaluationResult]) -> None:
        """See :class:`~deepen.search.optimisers.base.Optimiser`."""
        good = [r for r in results if all(np.isfinite(r.values))]
        if not good:
            return
        archs = [*self._archs, *(r.arch for r in good)]
        new = np.array([r.values for r in good])
        values = np.concatenate([self._values, new])
        self._low, self._high = np.minimum(self._low, new.min(axis=0)), np.maximum(self._high, new.max(axis=0))
        kept = find_pareto_front(values)
        self._archs, self._values = [archs[i] for i in kept.tolist()], values[kept]
