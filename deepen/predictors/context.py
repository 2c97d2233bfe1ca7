"""From kernels measured alone to a whole model.

::

    E(model) = overhead + sum over kernels of c * (scale(family) * E + a * bytes(act.) + w * bytes(weights) - call)

``c`` is how often the kernel runs. ``call`` is the cost of one call into the runtime, which a kernel measured alone
pays each time and a kernel inside a model does not; ``overhead`` is the same cost of the whole model's call. ``a`` and
``w`` are joules per byte for data that is in cache when a kernel repeats alone but not inside a model. Terms are
fitted on whole models (:mod:`deepen.predictors.context_fit`); without any they are zero and the model is the sum of
its kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.errors import PredictorError
from deepen.predictors.intervals import DEFAULT_CORRELATION, model_spread

__all__ = ["Context", "in_model"]

Floats = NDArray[np.float64]

_LEAST_SHARE = 0.1
"""A kernel keeps at least this share of what it costs alone, whatever ``call`` is."""


@dataclass(frozen=True, slots=True)
class Context:
    """The model-level terms.

    Attributes:
        overhead_j: Per run of a model.
        call_j: Subtracted per execution of a kernel.
        weight_j_per_byte: Added per byte of weights.
        activation_j_per_byte: Added per byte of activations read and written.
        scale: Factor per family; 1 for families not named.
        correlation: Between the errors of kernels in one model.
        inflation: Factor on the half-width of a model's interval, at least 1.
        models: Whole models it was fitted on.
        terms: Which terms were kept: ``sum``, ``call``, ``context`` or ``scale``.
        scores: Leave-one-model-out mean absolute log error of each choice.
        note: One line for the card.
    """

    overhead_j: float = 0.0
    call_j: float = 0.0
    weight_j_per_byte: float = 0.0
    activation_j_per_byte: float = 0.0
    scale: Mapping[str, float] = field(default_factory=dict)
    correlation: float = DEFAULT_CORRELATION
    inflation: float = 1.0
    models: int = 0
    terms: str = "sum"
    scores: Mapping[str, float] = field(default_factory=dict)
    note: str = "no whole models in the dataset: overhead is zero and a model is the sum of its kernels"

    def to_json(self) -> dict[str, Any]:
        """Plain values for the card."""
        return {**asdict(self), "scale": dict(self.scale), "scores": dict(self.scores)}

    @staticmethod
    def from_json(table: Mapping[str, Any]) -> Context:
        """Read back what :meth:`to_json` wrote.

        Raises:
            PredictorError: If a term is missing, not a number or out of range.
        """
        try:
            numbers = {
                name: float(table[name])
                for name in (
                    "overhead_j",
                    "call_j",
                    "weight_j_per_byte",
                    "activation_j_per_byte",
                    "correlation",
                    "inflation",
                )
            }
            scale = {str(k): float(v) for k, v in dict(table["scale"]).items()}
            scores = {str(k): float(v) for k, v in dict(table["scores"]).items()}
            models, terms, note = int(table["models"]), str(table["terms"]), str(table["note"])
        except (KeyError, TypeError, ValueError) as error:
            raise PredictorError(f"the card's context terms cannot be read ({error})") from error
        values = np.array([*numbers.values(), *scale.values()])
        if not np.isfinite(values).all() or (values < 0).any() or numbers["correlation"] > 1:
            raise PredictorError("the card's context terms are out of range")
        return Context(**numbers, scale=scale, models=models, terms=terms, scores=scores, note=note)

    def half_width(self, energy_j: float, totals: Floats, half_width: Floats) -> float:
        """Half-width of a model's interval in log energy (see :func:`deepen.predictors.intervals.model_spread`)."""
        if energy_j <= 0:
            return 0.0
        return self.inflation * model_spread(totals, half_width, self.correlation) / energy_j


def in_model(
    context: Context,
    families: Sequence[str],
    energy_j: Floats,
    multiplicity: Floats,
    weight_bytes: Floats,
    activation_bytes: Floats,
) -> Floats:
    """Energy of each kernel inside a model, all its executions; the model costs ``context.overhead_j`` more.

    Args:
        context: The terms.
        families: Family of each kernel.
        energy_j: Energy of one execution alone, shape (n,).
        multiplicity: Executions per inference, shape (n,).
        weight_bytes: Bytes of weights read, shape (n,).
        activation_bytes: Bytes of activations read and written, shape (n,).
    """
    scale = np.array([context.scale.get(f, 1.0) for f in families], dtype=np.float64)
    moved = context.weight_j_per_byte * weight_bytes + context.activation_j_per_byte * activation_bytes
    once = scale * energy_j + moved - context.call_j
    return np.asarray(multiplicity * np.maximum(once, _LEAST_SHARE * energy_j))
