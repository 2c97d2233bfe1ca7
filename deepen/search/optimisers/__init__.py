"""Multi-objective optimisers over the networks of a table, all with the same two verbs: ask and tell."""

from __future__ import annotations

from deepen.search.optimisers.base import Asked, Optimiser, Told
from deepen.search.optimisers.domain import Domain
from deepen.search.optimisers.registry import OPTIMISERS, make_optimiser

__all__ = ["OPTIMISERS", "Asked", "Domain", "Optimiser", "Told", "make_optimiser"]
