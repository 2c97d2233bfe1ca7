"""Optimisers by name."""

from __future__ import annotations

from typing import Any

from deepen.errors import ConfigError
from deepen.registry import Registry
from deepen.search.optimisers.base import Optimiser
from deepen.search.optimisers.domain import SearchDomain

__all__ = ["OPTIMISERS", "make_optimiser"]

OPTIMISERS: Registry[Any] = Registry(
    "optimiser",
    {
        "random": "deepen.search.optimisers.random_search:RandomSearch",
        "semoa": "deepen.search.optimisers.semoa:Semoa",
        "sh-emoa": "deepen.search.optimisers.shemoa:ShEmoa",
        "ms-ehvi": "deepen.search.optimisers.msehvi:MsEhvi",
        "nsga2": "deepen.search.optimisers.pymoo_nsga2:Nsga2",
        "tpe": "deepen.search.optimisers.optuna_tpe:Motpe",
    },
)
"""Name -> class, imported on first use."""


def make_optimiser(
    name: str, domain: SearchDomain, seed: int = 0, population: int | None = None, **options: Any
) -> Optimiser:
    """Make an optimiser.

    Args:
        name: One of :data:`OPTIMISERS`.
        domain: Domain of the search.
        seed: Seed of all draws.
        population: Networks per question or generation; default: the optimiser's own.
        options: Of the optimiser alone.

    Raises:
        ConfigError: If there is no such optimiser, or its package is not installed.
    """
    OPTIMISERS.check_name(name)
    if population is not None and population < 1:
        raise ConfigError(f"a population has at least 1 network, not {population}")
    if population is not None:
        options["population"] = population
    made: Optimiser = OPTIMISERS.load(name)(domain, seed=seed, **options)
    return made
