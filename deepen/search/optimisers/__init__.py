"""Multi-objective optimisers over the networks of a table, all with the same two verbs: ask and tell."""

from __future__ import annotations

from deepen.search.optimisers.base import EvaluationRequest, EvaluationResult, Optimiser
from deepen.search.optimisers.domain import SearchDomain
from deepen.search.optimisers.registry import OPTIMISERS, make_optimiser

__all__ = ["OPTIMISERS", "EvaluationRequest", "EvaluationResult", "Optimiser", "SearchDomain", "make_optimiser"]
