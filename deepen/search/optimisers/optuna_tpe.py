"""Multi-objective tree-structured Parzen estimator (Ozaki et al., GECCO 2020) by optuna; extra ``search``."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepen.extras import require_packages
from deepen.search.optimisers.base import EvaluationRequest, EvaluationResult
from deepen.search.optimisers.domain import SearchDomain

__all__ = ["Motpe"]


class Motpe:
    """optuna's TPE sampler; a genome that is not a network is replaced by the nearest one that is."""

    def __init__(self, domain: SearchDomain, seed: int = 0, population: int = 1) -> None:
        """Prepare.

        Args:
            domain: Domain of the search.
            seed: Seed of all draws.
            population: Networks per request.

        Raises:
            ConfigError: If optuna is not installed.
        """
        require_packages("TPE", "optuna")
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._domain = domain
        self._rng = np.random.default_rng(seed)
        self._population = population
        self._seen: set[str] = set()
        self._study: Any = optuna.create_study(
            directions=["minimize"] * domain.objectives,
            sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=20),
        )
        kind = optuna.distributions.CategoricalDistribution
        self._space: dict[str, Any] = {f"p{k}": kind(list(range(n))) for k, n in enumerate(domain.levels)}
        self._trials: list[Any] = []

    def ask(self) -> list[EvaluationRequest]:
        """See :class:`~deepen.search.optimisers.base.Optimiser`."""
        found: list[EvaluationRequest] = []
        self._trials = []
        for _ in range(self._population):
            trial = self._study.ask(self._space)
            codes = [int(trial.params[name]) for name in self._space]
            arch = self._domain.fresh(self._domain.decode(codes, self._rng), self._seen, self._rng)
            if arch is None:
                break
            self._seen.add(arch)
            self._trials.append(trial)
            found.append(EvaluationRequest(arch))
        return found

    def tell(self, results: list[EvaluationResult]) -> None:
        """See :class:`~deepen.search.optimisers.base.Optimiser`.

        A result is passed on under the genome of the network evaluated, which may differ from the one optuna proposed.
        """
        from optuna.trial import TrialState, create_trial

        for trial in self._trials:
            self._study.tell(trial, state=TrialState.FAIL)
        for result in results:
            if all(np.isfinite(result.values)):
                codes = [int(c) for c in self._domain.codes(result.arch)]
                params = dict(zip(self._space, codes, strict=True))
                self._study.add_trial(
                    create_trial(params=params, distributions=self._space, values=[float(v) for v in result.values])
                )
