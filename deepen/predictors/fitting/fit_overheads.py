"""Fitting the model-level terms on whole models measured with the kernels.

Bounded ridge regression in relative error with Huber weights: every term is pulled towards zero (family scales towards
one, 5 % each and 10 % together) unless the models say otherwise. Which terms are kept is decided by leaving one model
out at a time; a richer choice has to be better by 7 % of the score, so that a handful of models does not buy terms by
chance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deepen.predictors.fitting.fit_uncertainty import fit_model_uncertainty
from deepen.predictors.inference.model_overheads import ModelOverheads, compute_in_model_energy
from deepen.predictors.inference.moved_bytes import compute_moved_bytes
from deepen.predictors.kernel_counts import KernelCounts
from deepen.robust_statistics import estimate_mad_scale

__all__ = ["MIN_MODELS", "ModelMeasurements", "fit_overheads"]

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
class ModelMeasurements:
    """Measured models and their kernels as predicted alone.

    Attributes:
        models: The models (n) and their distinct kernels (k).
        measured_j: Measured net energies, positive, shape (n,).
        relative_sd: Their relative standard uncertainties, shape (n,).
        energy_j: Predicted energy of one execution of each distinct kernel alone, shape (k,).
        half_width: Half-width of its interval in log energy, shape (k,).
    """

    models: KernelCounts
    measured_j: Floats
    relative_sd: Floats
    energy_j: Floats
    half_width: Floats

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> ModelMeasurements:
        """Take some of the models."""
        return replace(
            self,
            models=self.models.take(rows),
            measured_j=self.measured_j[rows],
            relative_sd=self.relative_sd[rows],
        )

    def compute_log_errors(self, context: ModelOverheads) -> Floats:
        """Compute log(predicted / measured) under some terms, shape (n,)."""
        kernel_j = compute_in_model_energy(context, self.models, self.energy_j)
        return np.asarray(np.log(context.compute_totals(self.models, kernel_j) / self.measured_j))

    def compute_variances(self, context: ModelOverheads) -> tuple[Floats, Floats, Floats]:
        """Compute relative variances under some terms: errors apart, shared by families, shared by all kernels."""
        kernel_j = compute_in_model_energy(context, self.models, self.energy_j)
        return context.compute_variances(self.models, kernel_j, self.half_width)


def fit_overheads(cases: ModelMeasurements, call_limit_j: float) -> ModelOverheads:
    """Fit the terms, decide which to keep, and estimate correlation and inflation of intervals.

    Args:
        cases: Measured models.
        call_limit_j: No kernel measured alone costs much less than this: upper bound of ``call_j``.
    """
    n = len(cases.models)
    if not n:
        return ModelOverheads()
    if n < MIN_MODELS:
        note = f"only {n} whole models in the dataset ({MIN_MODELS} needed): overhead is zero, a model is the sum"
        return ModelOverheads(models=n, note=note)
    # 1. Every choice of terms is fitted without each model in turn, and judged on that model.
    each = [cases.take(np.array([i])) for i in range(n)]
    left_out = {choice: _fit_leave_one_out(cases, choice, call_limit_j) for choice in _CHOICES}
    errors = {
        choice: np.array([float(one.compute_log_errors(fit)[0]) for one, fit in zip(each, fits, strict=True)])
        for choice, fits in left_out.items()
    }
    # 2. A richer choice has to be clearly better than the plainer one.
    scores = {choice: float(np.mean(np.abs(e))) for choice, e in errors.items()}
    kept = _CHOICES[0]
    for choice in _CHOICES[1:]:
        if scores[choice] < _BETTER * scores[kept]:
            kept = choice
    context = _fit_terms(cases, kept, call_limit_j)
    # 3. Errors of the models left out tell how wide intervals have to be.
    variances = [one.compute_variances(fit) for one, fit in zip(each, left_out[kept], strict=True)]
    spread = fit_model_uncertainty(
        errors[kept], cases.relative_sd, [(float(a[0]), float(f[0]), float(t[0])) for a, f, t in variances]
    )
    note = f"terms '{kept}' kept by leave-one-model-out error on {n} models: " + ", ".join(
        f"{c} {100 * s:.1f} %" for c, s in scores.items()
    )
    return replace(context.with_uncertainty(spread), models=n, terms=kept, scores=scores, note=note)


def _fit_leave_one_out(cases: ModelMeasurements, choice: str, limit: float) -> list[ModelOverheads]:
    n = len(cases.models)
    if choice == "sum":
        return [ModelOverheads()] * n
    return [_fit_terms(cases.take(np.arange(n) != left), choice, limit) for left in range(n)]


def _fit_terms(cases: ModelMeasurements, choice: str, limit: float) -> ModelOverheads:
    """Solve for the terms of one choice; linear in all of them."""
    if choice == "sum":
        return ModelOverheads()
    models, measured = cases.models, cases.measured_j
    base = models.sums(cases.energy_j)
    # 1. Overhead and call: a one, and minus the executions.
    design = [np.ones(len(models)), -models.sums(np.ones(cases.energy_j.size))]
    sd = [10.0 * limit, limit]
    low, high = [0.0, 0.0], [np.inf, limit]
    # 2. Bytes found cold: of weights, of activations.
    if choice in ("context", "scale"):
        for moved in map(models.sums, compute_moved_bytes(models)):
            design.append(moved)
            sd.append(0.1 * float(np.median(measured / np.maximum(moved, 1.0))))
            low.append(0.0)
            high.append(np.inf)
    # 3. A scale common to all kernels, and one of each family that occurs.
    of, used = np.array(models.families, dtype=object), np.unique(models.kernel)
    families = sorted(set(of[used].tolist())) if choice == "scale" else []
    if families:
        design += [base, *(models.sums(np.where(of == f, cases.energy_j, 0.0)) for f in families)]
        sd += [_COMMON_SD] + [_FAMILY_SD] * len(families)
        low += [-_SCALE_BOUND] * (1 + len(families))
        high += [_SCALE_BOUND] * (1 + len(families))
    theta = _solve_least_squares(np.array(design).T, cases, base, np.array(sd), (np.array(low), np.array(high)))
    extra = theta[2:4] if choice in ("context", "scale") else np.zeros(2)
    scale = {f: float(1.0 + theta[4] + theta[5 + i]) for i, f in enumerate(families)}
    return ModelOverheads(float(theta[0]), float(theta[1]), float(extra[0]), float(extra[1]), scale=scale)


def _solve_least_squares(
    design: Floats, cases: ModelMeasurements, base: Floats, sd: Floats, bounds: tuple[Floats, Floats]
) -> Floats:
    """Bounded, prior-weighted, robust least squares of ``measured - base`` in relative error."""
    from scipy.optimize import lsq_linear

    measured, variance = cases.measured_j, cases.relative_sd**2
    scaled = design * sd
    theta = np.zeros(sd.size)
    tau, huber = 0.05, np.ones(measured.size)
    for _ in range(6):
        row = np.sqrt(huber / (tau**2 + variance)) / measured
        a = np.concatenate([scaled * row[:, None], np.eye(sd.size)])
        b = np.concatenate([(measured - base) * row, np.zeros(sd.size)])
        theta = lsq_linear(a, b, bounds=(bounds[0] / sd, bounds[1] / sd), method="bvls").x
        residual = (base + scaled @ theta - measured) / measured
        tau = max(0.02, estimate_mad_scale(residual, 0.0))
        standard = np.abs(residual) / np.sqrt(tau**2 + variance)
        huber = np.minimum(1.0, _HUBER / np.maximum(standard, 1e-9))
    return np.asarray(np.clip(theta * sd, bounds[0], bounds[1]), dtype=np.float64)
