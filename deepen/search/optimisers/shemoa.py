"""SH-EMOA: an evolutionary algorithm by hypervolume with successive halving over budgets.

As in "Bag of Baselines for Multi-objective Joint Neural Architecture Search and Hyperparameter Optimization"
(Izquierdo et al., AutoML workshop at ICML 2021), which EC-NAS compares with:

1. A population is evaluated at the smallest budget.
2. At each budget, one offspring at a time replaces the worst member (last front, least hypervolume contribution:
   SMS-EMOA by Beume, Naujoks and Emmerich, EJOR 181, 2007).
3. After twice as many evaluations as there are members, the better half is promoted to the next budget.
4. After the largest budget, a new round begins with the survivors and new members.

Without budgets it is SMS-EMOA.
"""

from __future__ import annotations

import numpy as np

from deepen.search.optimisers.base import EvaluationRequest, EvaluationResult
from deepen.search.optimisers.domain import SearchDomain
from deepen.search.optimisers.semoa import scale_objectives
from deepen.search.pareto import compute_contributions, rank_fronts

__all__ = ["ShEmoa"]

Budgeted = float | None


class ShEmoa:
    """SH-EMOA; the module's docstring describes the method."""

    def __init__(self, domain: SearchDomain, seed: int = 0, population: int = 10) -> None:
        self._domain = domain
        self._rng = np.random.default_rng(seed)
        self._size = max(population, 2)
        self._budgets: tuple[Budgeted, ...] = domain.budgets or (None,)
        self._level = 0
        self._steps = 0
        self._members: list[EvaluationResult] = []
        self._seen: dict[Budgeted, set[str]] = {b: set() for b in self._budgets}
        self._waiting: list[str] = []
        self._known: dict[Budgeted, dict[str, EvaluationResult]] = {}

    @property
    def _budget(self) -> Budgeted:
        return self._budgets[self._level]

    def ask(self) -> list[EvaluationRequest]:
        """See :class:`~deepen.search.optimisers.base.Optimiser`."""
        if self._waiting:  # 3: the members promoted to this budget
            archs, self._waiting = self._waiting, []
        elif len(self._members) < self._size and not self._steps:  # 1 and 4
            archs = self._draw(self._size - len(self._members))
        else:  # 2
            archs = [a for a in [self._offspring()] if a is not None]
        self._seen[self._budget].update(archs)
        if not archs and self._level + 1 < len(self._budgets):
            self._advance()
            return self.ask()
        return [EvaluationRequest(arch, self._budget) for arch in archs]

    def _draw(self, count: int) -> list[str]:
        found: list[str] = []
        for _ in range(count):
            taken = self._seen[self._budget] | set(found)
            arch = self._domain.fresh(self._domain.sample(self._rng), taken, self._rng)
            if arch is not None:
                found.append(arch)
        return found

    def _offspring(self) -> str | None:
        """Make one offspring: crossover and mutation of two parents, each the better of two members at random."""
        if len(self._members) < 2:
            return self._domain.fresh(self._domain.sample(self._rng), self._seen[self._budget], self._rng)
        order = self._order()
        place = {member: rank for rank, member in enumerate(order)}

        def choose_parent() -> str:
            pair = self._rng.choice(len(order), 2, replace=False).tolist()
            return self._members[min(pair, key=place.__getitem__)].arch

        child = self._domain.mutate(self._domain.cross(choose_parent(), choose_parent(), self._rng), self._rng)
        return self._domain.fresh(child, self._seen[self._budget], self._rng)

    def _order(self) -> list[int]:
        """Order members, best first: by front, then by hypervolume contribution within the front."""
        points, reference = scale_objectives(np.array([m.values for m in self._members]))
        ranks = rank_fronts(points)
        worth = np.zeros(len(points))
        for level in range(int(ranks.max()) + 1):
            rows = np.flatnonzero(ranks == level)
            worth[rows] = compute_contributions(points[rows], reference)
        return [int(i) for i in np.lexsort((-worth, ranks))]

    def tell(self, results: list[EvaluationResult]) -> None:
        """See :class:`~deepen.search.optimisers.base.Optimiser`."""
        self._members += [r for r in results if all(np.isfinite(r.values))]
        self._steps += len(results)
        self._known.setdefault(self._budget, {}).update((m.arch, m) for m in self._members)
        while len(self._members) > self._size:  # 2
            self._members.pop(self._order()[-1])
        if len(self._budgets) > 1 and self._steps >= 2 * self._size and self._members:
            self._advance()  # 3 and 4

    def _advance(self) -> None:
        """Promote the better half to the next budget; after the largest budget, a new round begins."""
        order = self._order() if self._members else []
        better = [self._members[i].arch for i in order[: max(len(order) // 2, 1)]]
        self._level = (self._level + 1) % len(self._budgets)
        known = self._known.setdefault(self._budget, {})
        self._members = [known[a] for a in better if a in known]
        self._steps = 0
        self._waiting = [a for a in better if a not in known]
