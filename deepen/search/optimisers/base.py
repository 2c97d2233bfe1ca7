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
        budget: Epochs of training; ``None`` for the largest there is.
    """

    arch: str
    budget: float | None = None


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """A network that was evaluated.

    Attributes:
        arch: The architecture.
        values: Objectives, smaller is better.
        budget: As asked.
    """

    arch: str
    values: tuple[float, ...]
    budget: float | None = None


class Optimiser(Protocol):
    """An optimiser; the same seed and the same answers give the same questions, so a log is enough to resume it."""

    def ask(self) -> list[EvaluationRequest]:
        """Networks to evaluate next; empty if it knows none."""
        ...

    def tell(self, results: list[EvaluationResult]) -> None:
        """Hand over the results of everything asked last, in that order."""
        ...
