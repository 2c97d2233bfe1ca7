"""NSGA-II (Deb et al., IEEE TEC 6, 2002) by pymoo, with the moves of the search space; extra ``search``."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepen.extras import require_packages
from deepen.search.optimisers.base import EvaluationRequest, EvaluationResult
from deepen.search.optimisers.domain import SearchDomain

__all__ = ["Nsga2"]


class Nsga2:
    """pymoo's NSGA-II: its selection and survival, our crossover (uniform) and mutation, each network once."""

    def __init__(self, domain: SearchDomain, seed: int = 0, population: int = 20) -> None:
        """Prepare.

        Args:
            domain: Domain of the search.
            seed: Seed of all draws.
            population: Networks per generation.

        Raises:
            ConfigError: If pymoo is not installed.
        """
        require_packages("NSGA-II", "pymoo")
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.problem import Problem

        self._domain = domain
        self._rng = np.random.default_rng(seed)
        self._seen: set[str] = set()
        self._problem: Any = Problem(n_var=1, n_obj=domain.objectives)
        self._algorithm: Any = NSGA2(pop_size=population, seed=seed, eliminate_duplicates=False, **self._operators())
        self._algorithm.setup(self._problem, termination=("n_gen", 1_000_000_000), verbose=False)
        self._asked: Any = None
        self._archs: list[str] = []

    def _operators(self) -> dict[str, Any]:
        """Pymoo's three operators, as moves of the domain."""
        from pymoo.core.crossover import Crossover
        from pymoo.core.mutation import Mutation
        from pymoo.core.sampling import Sampling

        domain, rng, fresh = self._domain, self._rng, self._fresh

        class Draw(Sampling):  # type: ignore[misc]
            def _do(self, problem: Any, n_samples: int, *args: Any, **kwargs: Any) -> Any:
                return np.array([[fresh(domain.sample(rng))] for _ in range(n_samples)], dtype=object)

        class Cross(Crossover):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__(n_parents=2, n_offsprings=1, prob=1.0)

            def _do(self, problem: Any, X: Any, *args: Any, **kwargs: Any) -> Any:
                pairs = [(X[0, k, 0], X[1, k, 0]) for k in range(X.shape[1])]
                return np.array([[[domain.cross(a, b, rng) if a and b else a or b] for a, b in pairs]], dtype=object)

        class Change(Mutation):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__(prob=1.0)

            def _do(self, problem: Any, X: Any, *args: Any, **kwargs: Any) -> Any:
                return np.array([[fresh(domain.mutate(x, rng) if x else x)] for (x,) in X], dtype=object)

        return {"sampling": Draw(), "crossover": Cross(), "mutation": Change()}

    def _fresh(self, draw: str) -> str:
        """Return a network not evaluated yet; empty if there are none."""
        arch = self._domain.fresh(draw or self._domain.sample(self._rng), self._seen, self._rng) or ""
        self._seen.add(arch)
        return arch

    def ask(self) -> list[EvaluationRequest]:
        """See :class:`~deepen.search.optimisers.base.Optimiser`."""
        if len(self._domain) and len(self._seen - {""}) >= len(self._domain):
            return []
        self._asked = self._algorithm.ask()
        self._archs = [] if self._asked is None else [str(x) for (x,) in self._asked.get("X")]
        return [EvaluationRequest(arch) for arch in self._archs if arch]

    def tell(self, results: list[EvaluationResult]) -> None:
        """See :class:`~deepen.search.optimisers.base.Optimiser`."""
        from pymoo.core.evaluator import Evaluator
        from pymoo.problems.static import StaticProblem

        values_of = {r.arch: r.values for r in results}
        # What could not be evaluated is worse than everything.
        worst = (1e300,) * self._domain.objectives
        values = np.array([values_of.get(a, worst) for a in self._archs], dtype=np.float64)
        values[~np.isfinite(values)] = 1e300
        Evaluator().eval(StaticProblem(self._problem, F=values), self._asked)
        self._algorithm.tell(infills=self._asked)
