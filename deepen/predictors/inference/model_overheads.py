"""From kernels measured alone to a whole model.

::

    E(model) = overhead + sum over kernels of c * (kernel + w * cold(model) * bytes(weights))
    kernel = max(scale(family) * E + a * bytes(act.) - call, node)
    cold(model) = 1 - cache / bytes of all weights of the model, at least 0

``c`` is how often the kernel runs. ``call`` is the cost of one call into the runtime, which a kernel measured alone
pays each time and a kernel inside a model does not; ``overhead`` is the same cost of the whole model's call. ``node``
is the cost of executing a node that computes next to nothing: no kernel costs less. ``a`` and ``w`` are joules per byte
for data that is in cache when a kernel repeats alone but not inside a model; weights are cold only as far as those of
the whole model exceed ``cache``, which keeps them from one run to the next. Terms are fitted on whole models
(:mod:`deepen.predictors.fitting.fit_overheads`); without any they are zero and the model is the sum of its kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.errors import PredictorError
from deepen.predictors.inference.conformal import DEFAULT_CORRELATION, Z
from deepen.predictors.inference.model_uncertainty import (
    DEFAULT_FAMILY_CORRELATION,
    DEFAULT_FLOOR,
    ModelUncertainty,
    compute_model_variances,
)
from deepen.predictors.inference.moved_bytes import compute_cold_share, compute_moved_bytes
from deepen.predictors.kernel_counts import KernelCounts

__all__ = ["OVERHEAD_SD", "ModelOverheads", "compute_in_model_energy"]

Floats = NDArray[np.float64]

_LEAST_SHARE, _LEAST_SHARE_WITHOUT_NODE = 0.1, 0.5
"""A kernel keeps at least this share of what it costs alone, whatever ``call`` is; a larger one where it is not known
what a node costs: a kernel of which 16 copies were measured side by side paid little of a call."""
OVERHEAD_SD = 0.6
"""Relative standard deviation of ``overhead_j``: what a call costs also depends on how many inputs and outputs a model
has and on how they are handed over. ONNX Runtime's ``run`` with arrays takes up to three times as long by itself as
with bound buffers, which is how measurements are made."""


@dataclass(frozen=True, slots=True)
class ModelOverheads:
    """The model-level terms.

    Attributes:
        overhead_j: Per run of a model.
        call_j: Subtracted per execution of a kernel.
        node_j: Least energy of one execution of a kernel.
        weight_j_per_byte: Added per byte of weights that are cold.
        cache_bytes: Weights of a model that stay warm from one run to the next.
        activation_j_per_byte: Added per byte of activations read and written.
        scale: Factor per family; 1 for families not named.
        correlation: Between the errors of kernels in one model.
        family_correlation: Between the errors of kernels of one family in a model, beyond ``correlation``.
        floor: Standard deviation of a model's log energy that no kernel explains.
        kernel_variance: Factor on the variance that kernels bring into a model.
        inflation: Factor on the half-width of a model's interval.
        models: Whole models it was fitted on.
        terms: Name of the terms kept: ``sum``, ``call``, ``context`` or ``scale``.
        scores: Leave-one-model-out mean absolute log error of each choice.
        note: One line for the card.
    """

    overhead_j: float = 0.0
    call_j: float = 0.0
    node_j: float = 0.0
    weight_j_per_byte: float = 0.0
    cache_bytes: float = 0.0
    activation_j_per_byte: float = 0.0
    scale: Mapping[str, float] = field(default_factory=dict)
    correlation: float = DEFAULT_CORRELATION
    family_correlation: float = DEFAULT_FAMILY_CORRELATION
    floor: float = DEFAULT_FLOOR
    kernel_variance: float = 1.0
    inflation: float = 1.0
    models: int = 0
    terms: str = "sum"
    scores: Mapping[str, float] = field(default_factory=dict)
    note: str = "no whole models in the dataset: overhead is zero and a model is the sum of its kernels"

    def to_json(self) -> dict[str, Any]:
        """Plain values for the card."""
        return {**asdict(self), "scale": dict(self.scale), "scores": dict(self.scores)}

    @staticmethod
    def from_json(table: Mapping[str, Any]) -> ModelOverheads:
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
            # Cards written before these were known lack them; then nothing was shared by families, nor kept in a cache.
            later = {"family_correlation": 0.0, "floor": 0.0, "kernel_variance": 1.0, "node_j": 0.0, "cache_bytes": 0.0}
            numbers |= {name: float(table.get(name, value)) for name, value in later.items()}
            scale = {str(k): float(v) for k, v in dict(table["scale"]).items()}
            scores = {str(k): float(v) for k, v in dict(table["scores"]).items()}
            models, terms, note = int(table["models"]), str(table["terms"]), str(table["note"])
        except (KeyError, TypeError, ValueError) as error:
            raise PredictorError(f"the card's context terms cannot be read ({error})") from error
        values = np.array([*numbers.values(), *scale.values()])
        if (
            not np.isfinite(values).all()
            or (values < 0).any()
            or numbers["correlation"] + numbers["family_correlation"] > 1 + 1e-9
        ):
            raise PredictorError("the card's context terms are out of range")
        return ModelOverheads(**numbers, scale=scale, models=models, terms=terms, scores=scores, note=note)

    @property
    def spread(self) -> ModelUncertainty:
        """Terms of a model's uncertainty."""
        return ModelUncertainty(
            self.correlation, self.family_correlation, self.floor, self.inflation, self.kernel_variance
        )

    def with_uncertainty(self, found: ModelUncertainty) -> ModelOverheads:
        """The same terms with another uncertainty."""
        return replace(
            self,
            correlation=found.correlation,
            family_correlation=found.family_correlation,
            floor=found.floor,
            kernel_variance=found.kernels,
            inflation=found.inflation,
        )

    def compute_totals(self, models: KernelCounts, entry_j: Floats) -> Floats:
        """Sum kernels and overhead, shape (n,).

        Args:
            models: The models.
            entry_j: Energy of one execution of each entry's kernel in its model, shape (e,).
        """
        return models.sum_entries(entry_j) + self.overhead_j

    def compute_variances(
        self, models: KernelCounts, entry_j: Floats, half_width: Floats
    ) -> tuple[Floats, Floats, Floats]:
        """Compute relative variances of models (:func:`compute_model_variances`), the overhead included in energy.

        Args:
            models: The models.
            entry_j: Energy of one execution of each entry's kernel in its model, shape (e,).
            half_width: Half-width of the interval of each distinct kernel in log energy, shape (k,).
        """
        # The overhead has an error of its own; what kernels miss weighs less where it is large.
        return compute_model_variances(models, entry_j, half_width, self.compute_totals(models, entry_j))

    def compute_half_width(self, models: KernelCounts, entry_j: Floats, half_width: Floats) -> Floats:
        """Compute the half-width of models' intervals in log energy, shape (n,); zero for models without kernels.

        Args:
            models: The models.
            entry_j: Energy of one execution of each entry's kernel in its model, shape (e,).
            half_width: Half-width of the interval of each distinct kernel in log energy, shape (k,).
        """
        kernels = models.sum_entries(entry_j)
        variances = self.compute_variances(models, entry_j, half_width)
        of_overhead = Z * OVERHEAD_SD * self.overhead_j / np.maximum(kernels + self.overhead_j, 1e-300)
        return np.where(kernels > 0, np.hypot(self.spread.half_width(*variances), of_overhead), 0.0)


def compute_in_model_energy(context: ModelOverheads, models: KernelCounts, energy_j: Floats) -> Floats:
    """Compute the energy of one execution of each entry's kernel in its model, shape (e,).

    A model costs ``context.overhead_j`` more than its kernels.

    Args:
        context: The terms.
        models: The models, for the families of their kernels and the bytes these move.
        energy_j: Energy of one execution of each distinct kernel alone, shape (k,).
    """
    weights, activations = compute_moved_bytes(models)
    scale = np.array([context.scale.get(f, 1.0) for f in models.families], dtype=np.float64)
    warm = scale * energy_j + context.activation_j_per_byte * activations - context.call_j
    share = _LEAST_SHARE if context.node_j > 0 else _LEAST_SHARE_WITHOUT_NODE
    kernel_j = np.maximum(warm, np.maximum(context.node_j, share * energy_j))
    cold = compute_cold_share(models, context.cache_bytes)
    return np.asarray(kernel_j[models.kernel] + context.weight_j_per_byte * weights[models.kernel] * cold[models.model])
