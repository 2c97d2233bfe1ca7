"""Fitting the model-level terms on whole models measured with the kernels.

Bounded ridge regression in relative error with Huber weights: every term is pulled towards zero (family scales towards
one, 5 % each and 10 % together) unless the models say otherwise. Which terms are kept is decided by leaving one model
out at a time; a richer choice has to be better by 7 % of the score, so that a handful of models does not buy terms by
chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deepen.predictors.inference.model_overheads import ModelOverheads, compute_in_model_energy
from deepen.predictors.inference.model_uncertainty import compute_model_variances, fit_model_uncertainty

__all__ = ["MIN_MODELS", "MeasuredModel", "fit_overheads"]

Floats = NDArray[np.float64]

MIN_MODELS = 4
"""Fewer whole models than this fit nothing."""
_CHOICES = ("sum", "call", "context", "scale")
_BETTER = 0.93
_FAMILY_SD = 0.05
_COMMON_SD = 0.10
_SCALE_BOUND = 0.3
_HUBER = 1.345


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """A measured model and its kernels as predicted alone.

    Attributes:
        name: Its name.
        measured_j: Measured net energy, positive.
        relative_sd: Relative standard uncertainty of it.
        families: Family of each kernel.
        energy_j: Predicted energy of one execution alone, shape (n,).
        half_width: Half-width of each kernel's interval in log energy, shape (n,).
        group: Equal numbers for equal configurations, shape (n,).
        multiplicity: Executions per inference, shape (n,).
        weight_bytes: Bytes of weights read, shape (n,).
        activation_bytes: Bytes of activations read and written, shape (n,).
    """

    name: str
    measured_j: float
    relative_sd: float
    families: tuple[str, ...]
    energy_j: Floats
    half_width: Floats
    group: NDArray[np.int64]
    multiplicity: Floats
    weight_bytes: Floats
    activation_bytes: Floats

    def kernels(self, context: ModelOverheads) -> Floats:
        """Energy of each kernel inside the model under some terms."""
        return compute_in_model_energy(
            context, self.families, self.energy_j, self.multiplicity, self.weight_bytes, self.activation_bytes
        )

    def total(self, context: ModelOverheads) -> float:
        """Predicted energy of the model under some terms."""
        return context.overhead_j + float(self.kernels(context).sum())

    def variances(self, context: ModelOverheads) -> tuple[float, float, float]:
        """Relative variance of the model for errors that are apart, shared by families, or by all kernels."""
        totals = np.bincount(self.group, weights=self.kernels(context)).astype(np.float64)
        widths, codes = np.zeros(totals.size), np.zeros(totals.size, dtype=np.int64)
        widths[self.group] = self.half_width
        number = {name: i for i, name in enumerate(dict.fromkeys(self.families))}
        codes[self.group] = [number[f] for f in self.families]
        share = (totals.sum() / self.total(context)) ** 2
        apart, by_family, together = compute_model_variances(totals[None, :], widths, codes)
        return float(share * apart[0]), float(share * by_family[0]), float(share * together[0])


def fit_overheads(cases: Sequence[MeasuredModel], call_limit_j: float) -> ModelOverheads:
    """Fit the terms, decide which to keep, and estimate correlation and inflation of intervals.

    Args:
        cases: Measured models.
        call_limit_j: No kernel measured alone costs much less than this: upper bound of ``call_j``.
    """
    if len(cases) < MIN_MODELS:
        if not cases:
            return ModelOverheads()
        note = (
            f"only {len(cases)} whole models in the dataset ({MIN_MODELS} needed): overhead is zero, a model is the sum"
        )
        return ModelOverheads(models=len(cases), note=note)
    left_out = {choice: _fit_leave_one_out(cases, choice, call_limit_j) for choice in _CHOICES}
    errors = {choice: _compute_log_errors(cases, fits) for choice, fits in left_out.items()}
    scores = {choice: float(np.mean(np.abs(e))) for choice, e in errors.items()}
    kept = _CHOICES[0]
    for choice in _CHOICES[1:]:
        if scores[choice] < _BETTER * scores[kept]:
            kept = choice
    context = _fit_terms(cases, kept, call_limit_j)
    spread = fit_model_uncertainty(
        errors[kept],
        np.array([c.relative_sd for c in cases]),
        [c.variances(f) for c, f in zip(cases, left_out[kept], strict=True)],
    )
    note = f"terms '{kept}' kept by leave-one-model-out error on {len(cases)} models: " + ", ".join(
        f"{c} {100 * s:.1f} %" for c, s in scores.items()
    )
    return replace(
        context,
        correlation=spread.correlation,
        family_correlation=spread.family_correlation,
        floor=spread.floor,
        kernel_variance=spread.kernels,
        inflation=spread.inflation,
        models=len(cases),
        terms=kept,
        scores=scores,
        note=note,
    )


def _fit_leave_one_out(cases: Sequence[MeasuredModel], choice: str, limit: float) -> list[ModelOverheads]:
    if choice == "sum":
        return [ModelOverheads()] * len(cases)
    return [_fit_terms([c for c in cases if c is not left], choice, limit) for left in cases]


def _compute_log_errors(cases: Sequence[MeasuredModel], fits: Sequence[ModelOverheads]) -> Floats:
    return np.array([np.log(c.total(f) / c.measured_j) for c, f in zip(cases, fits, strict=True)])


def _fit_terms(cases: Sequence[MeasuredModel], choice: str, limit: float) -> ModelOverheads:
    """Solve for the terms of one choice; linear in all of them."""
    if choice == "sum":
        return ModelOverheads()
    measured = np.array([c.measured_j for c in cases])
    base = np.array([float(c.multiplicity @ c.energy_j) for c in cases])
    design = [np.ones(len(cases)), -np.array([float(c.multiplicity.sum()) for c in cases])]
    sd = [10.0 * limit, limit]
    low, high = [0.0, 0.0], [np.inf, limit]
    if choice in ("context", "scale"):
        for moved in (
            np.array([float(c.multiplicity @ c.weight_bytes) for c in cases]),
            np.array([float(c.multiplicity @ c.activation_bytes) for c in cases]),
        ):
            design.append(moved)
            sd.append(0.1 * float(np.median(measured / np.maximum(moved, 1.0))))
            low.append(0.0)
            high.append(np.inf)
    families = sorted({f for c in cases for f in c.families}) if choice == "scale" else []
    if families:
        parts = np.array([[_sum_family_energy(c, f) for f in families] for c in cases])
        design += [base, *parts.T]
        sd += [_COMMON_SD] + [_FAMILY_SD] * len(families)
        low += [-_SCALE_BOUND] * (1 + len(families))
        high += [_SCALE_BOUND] * (1 + len(families))
    theta = _solve_least_squares(
        np.array(design).T, measured, base, np.array(sd), (np.array(low), np.array(high)), cases
    )
    extra = theta[2:4] if choice in ("context", "scale") else np.zeros(2)
    scale = {f: float(1.0 + theta[4] + theta[5 + i]) for i, f in enumerate(families)}
    return ModelOverheads(float(theta[0]), float(theta[1]), float(extra[0]), float(extra[1]), scale=scale)


def _sum_family_energy(case: MeasuredModel, family: str) -> float:
    mask = np.array([f == family for f in case.families])
    return float((case.multiplicity * case.energy_j)[mask].sum())


def _solve_least_squares(
    design: Floats,
    measured: Floats,
    base: Floats,
    sd: Floats,
    bounds: tuple[Floats, Floats],
    cases: Sequence[MeasuredModel],
) -> Floats:
    """Bounded, prior-weighted, robust least squares of ``measured - base`` in relative error."""
    from scipy.optimize import lsq_linear

    variance = np.array([c.relative_sd for c in cases]) ** 2
    scaled = design * sd
    theta = np.zeros(sd.size)
    tau, huber = 0.05, np.ones(len(cases))
    for _ in range(6):
        row = np.sqrt(huber / (tau**2 + variance)) / measured
        a = np.concatenate([scaled * row[:, None], np.eye(sd.size)])
        b = np.concatenate([(measured - base) * row, np.zeros(sd.size)])
        theta = lsq_linear(a, b, bounds=(bounds[0] / sd, bounds[1] / sd), method="bvls").x
        residual = (base + scaled @ theta - measured) / measured
        tau = max(0.02, 1.4826 * float(np.median(np.abs(residual))))
        standard = np.abs(residual) / np.sqrt(tau**2 + variance)
        huber = np.minimum(1.0, _HUBER / np.maximum(standard, 1e-9))
    return np.asarray(np.clip(theta * sd, bounds[0], bounds[1]), dtype=np.float64)
