"""Random search without repetition: what every other optimiser has to beat."""

from __future__ import annotations

import numpy as np

from deepen.search.optimisers.base import Asked, Told
from deepen.search.optimisers.domain import Domain

__all__ = ["RandomSearch"]


class RandomSearch:
    """Uniform over the architectures, each at most once."""

    def __init__(self, domain: Domain, seed: int = 0, population: int = 10) -> None:
        self._domain = domain
        self._rng = np.random.default_rng(seed)
        self._population = population
        self._seen: set[str] = set()
        n = len(domain)
        self._order = self._rng.permutation(n).tolist() if n else []

    def ask(self) -> list[Asked]:
        """See :class:`~deepen.search.optimisers.base.Optimiser`."""
        found: list[Asked] = []
        if self._domain.archs:
            found = [Asked(self._domain.archs[i]) for i in self._order[: self._population]]
            self._order = self._order[self._population :]
            return found
        while len(found) < self._population:
            arch = self._domain.fresh(self._domain.sample(self._rng), self._seen, self._rng)
            if arch is None:
                break
            self._seen.add(arch)
            found.append(Asked(arch))
        return found

    def tell(self, results: list[Told]) -> None:
        """See :class:`~deepen.search.optimisers.base.Optimiser`; it learns nothing."""
