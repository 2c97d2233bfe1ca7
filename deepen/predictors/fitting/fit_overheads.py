"""Fitting the model-level terms on whole models measured with the kernels.

Bounded ridge regression in relative error with Huber weights: every term is pulled towards zero (family scales towards
one, 5 % each and 10 % together) unless the models say otherwise. Which terms are kept is decided by leaving one model
out at a time; a richer choice has to be better by 7 % of the score, so that a handful of models does not buy terms by
chance. What a node costs at least makes the problem piecewise linear: it is solved with the kernels at that floor
given, which are then found anew, until they stay. How much a cache keeps is tried out on a grid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deepen.predictors.fitting.fit_uncertainty import fit_model_uncertainty
from deepen.predictors.inference.model_overheads import ModelOverheads, compute_in_model_energy
from deepen.predictors.inference.moved_bytes import compute_cold_share, compute_moved_bytes
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
_CACHES = (0.0, *(2.0**power * 2**20 for power in range(1, 9)))
"""Bytes of weights that a cache may keep from one run to the next: none, or 2 to 256 MiB."""
_CLEARLY = 0.97
"""A larger cache has to bring the error of the fit below this share of a smaller one's."""
_MOST_NODE = 3.0
"""Greatest ``node_j`` as a multiple of the limit of ``call_j``."""
_SWEEPS = 5
_OVERHEAD_MODEL = 0.5
"""A model of which overhead and least costs are more than this share says little of how kernels' errors add up."""


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
        entry_j = compute_in_model_energy(context, self.models, self.energy_j)
        return np.asarray(np.log(context.compute_totals(self.models, entry_j) / self.measured_j))

    def compute_variances(self, context: ModelOverheads) -> tuple[Floats, Floats, Floats]:
        """Compute relative variances under some terms: errors apart, shared by families, shared by all kernels."""
        entry_j = compute_in_model_energy(context, self.models, self.energy_j)
        return context.compute_variances(self.models, entry_j, self.half_width)


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
    cache = _choose_cache(cases, call_limit_j)
    left_out = {choice: _fit_leave_one_out(cases, choice, call_limit_j, cache) for choice in _CHOICES}
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
    context = _fit_terms(cases, kept, call_limit_j, cache)
    # 3. Errors of the models left out tell how wide intervals have to be.
    variances = [one.compute_variances(fit) for one, fit in zip(each, left_out[kept], strict=True)]
    telling = np.flatnonzero(_compute_least_share(cases, context) <= _OVERHEAD_MODEL)
    spread = fit_model_uncertainty(
        errors[kept][telling],
        cases.relative_sd[telling],
        [(float(a[0]), float(f[0]), float(t[0])) for a, f, t in (variances[i] for i in telling)],
    )
    note = f"terms '{kept}' kept by leave-one-model-out error on {n} models: " + ", ".join(
        f"{c} {100 * s:.1f} %" for c, s in scores.items()
    )
    return replace(context.with_uncertainty(spread), models=n, terms=kept, scores=scores, note=note)


def _fit_leave_one_out(cases: ModelMeasurements, choice: str, limit: float, cache: float) -> list[ModelOverheads]:
    n = len(cases.models)
    if choice == "sum":
        return [ModelOverheads()] * n
    return [_fit_terms(cases.take(np.arange(n) != left), choice, limit, cache) for left in range(n)]


def _choose_cache(cases: ModelMeasurements, limit: float) -> float:
    """Choose how many bytes of weights stay warm: the fewest, unless more fit the models clearly better."""
    chosen, best = 0.0, np.inf
    for cache in _CACHES:
        fit = _fit_terms(cases, "context", limit, cache)
        error = float(np.mean(np.abs(cases.compute_log_errors(fit)))) if fit.weight_j_per_byte or not cache else np.inf
        if error < _CLEARLY * best:
            chosen, best = cache, error
    return chosen


def _compute_least_share(cases: ModelMeasurements, context: ModelOverheads) -> Floats:
    """Share of each model's energy that is the run's own, or of kernels at the cost of a node, shape (n,)."""
    entry_j = compute_in_model_energy(context, cases.models, cases.energy_j)
    least = cases.models.sum_entries(np.where(entry_j <= context.node_j, entry_j, 0.0)) + context.overhead_j
    return least / np.maximum(context.compute_totals(cases.models, entry_j), 1e-300)


def _fit_terms(cases: ModelMeasurements, choice: str, limit: float, cache: float) -> ModelOverheads:
    """Solve for the terms of one choice; linear in all of them but for the kernels that cost what a node costs."""
    if choice == "sum":
        return ModelOverheads()
    # The least kernels there are first, then those that the terms found bring down to a node's cost.
    at_least = cases.energy_j <= limit
    for _ in range(_SWEEPS):
        context, warm_j = _fit_linear_terms(cases, choice, limit, cache, at_least)
        found = warm_j < context.node_j
        if (found == at_least).all():
            break
        at_least = found
    return context


def _fit_linear_terms(
    cases: ModelMeasurements, choice: str, limit: float, cache: float, at_least: NDArray[np.bool_]
) -> tuple[ModelOverheads, Floats]:
    """Solve for the terms of one choice with the kernels at the cost of a node given.

    Returns:
        The terms, and the energy of every kernel in a model before that least cost, shape (k,).
    """
    models, measured = cases.models, cases.measured_j
    energy = np.where(at_least, 0.0, cases.energy_j)
    base = models.sums(energy)
    # 1. Overhead; call: minus the executions; node: the executions of the least kernels.
    least = at_least.astype(np.float64)
    design = [np.ones(len(models)), -models.sums(1.0 - least), models.sums(least)]
    sd = [10.0 * limit, limit, limit]
    low, high = [0.0, 0.0, 0.0], [np.inf, limit, _MOST_NODE * limit]
    # 2. Bytes found cold: of weights, of activations.
    weights, activations = compute_moved_bytes(models)
    if choice in ("context", "scale"):
        cold = models.sums(weights) * compute_cold_share(models, cache)
        for moved in (cold, models.sums(np.where(at_least, 0.0, activations))):
            design.append(moved)
            some = moved[moved > 0]
            sd.append(0.1 * float(np.median(measured[moved > 0] / some)) if some.size else 0.0)
            low.append(0.0)
            high.append(np.inf)
    # 3. A scale common to all kernels, and one of each family that occurs.
    of, used = np.array(models.families, dtype=object), np.unique(models.kernel)
    families = sorted(set(of[used].tolist())) if choice == "scale" else []
    if families:
        design += [base, *(models.sums(np.where(of == f, energy, 0.0)) for f in families)]
        sd += [_COMMON_SD] + [_FAMILY_SD] * len(families)
        low += [-_SCALE_BOUND] * (1 + len(families))
        high += [_SCALE_BOUND] * (1 + len(families))
    given = [i for i, value in enumerate(sd) if value > 0]
    theta = np.zeros(len(sd))
    theta[given] = _solve_least_squares(
        np.array(design).T[:, given],
        cases,
        base,
        np.array(sd)[given],
        (np.array(low)[given], np.array(high)[given]),
    )
    # 4. The terms by name.
    overhead, call, node = (float(value) for value in theta[:3])
    cold_j, moved_j = (float(value) for value in theta[3:5]) if len(theta) > 3 else (0.0, 0.0)
    scale = {f: float(1.0 + theta[5] + theta[6 + i]) for i, f in enumerate(families)}
    context = ModelOverheads(overhead, call, node, cold_j, cache if cold_j else 0.0, moved_j, scale=scale)
    factor = np.array([scale.get(f, 1.0) for f in models.families])
    return context, factor * cases.energy_j + moved_j * activations - call


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
