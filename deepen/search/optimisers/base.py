"""The optimiser protocol: ``ask`` for networks to evaluate, ``tell`` their costs. Every objective is minimised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["EvaluationRequest", "EvaluationResult", "Optimiser"]


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """A network to evaluate.

    Attributes:
        arch: The architecture.
        budget: Epochs of training; ``None`` for the largest budget of the table.
    """

    arch: str
    budget: float | None = None


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Result of evaluating a network.

    Attributes:
        arch: The architecture.
        values: Objectives, smaller is better.
        budget: Budget of the request.
    """

    arch: str
    values: tuple[float, ...]
    budget: float | None = None


class Optimiser(Protocol):
    """An optimiser. The same seed and results give the same requests, so a log is enough to resume it."""

    def ask(self) -> list[EvaluationRequest]:
        """Return the networks to evaluate next; empty if there are no more."""
        ...

    def tell(self, results: list[EvaluationResult]) -> None:
        """Take the results of the last requests, in the same order."""
        ...
