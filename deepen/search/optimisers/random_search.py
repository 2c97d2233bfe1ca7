"""Random search without repetition: the baseline of every other optimiser."""

from __future__ import annotations

import numpy as np

from deepen.search.optimisers.base import EvaluationRequest, EvaluationResult
from deepen.search.optimisers.domain import SearchDomain

__all__ = ["RandomSearch"]


class RandomSearch:
    """Uniform over the architectures, each at most once."""

    def __init__(self, domain: SearchDomain, seed: int = 0, population: int = 10) -> None:
        self._domain = domain
        self._rng = np.random.default_rng(seed)
        self._population = population
        self._seen: set[str] = set()
        n = len(domain)
        self._order = self._rng.permutation(n).tolist() if n else []

    def ask(self) -> list[EvaluationRequest]:
        """See :class:`~deepen.search.optimisers.base.Optimiser`."""
        found: list[EvaluationRequest] = []
        if self._domain.archs:
            found = [EvaluationRequest(self._domain.archs[i]) for i in self._order[: self._population]]
            self._order = self._order[self._population :]
            return found
        while len(found) < self._population:
            arch = self._domain.fresh(self._domain.sample(self._rng), self._seen, self._rng)
            if arch is None:
                break
            self._seen.add(arch)
            found.append(EvaluationRequest(arch))
        return found

    def tell(self, results: list[EvaluationResult]) -> None:
        """See :class:`~deepen.search.optimisers.base.Optimiser`; it learns nothing."""
