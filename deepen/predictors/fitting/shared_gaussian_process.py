"""Families with few rows learn together.

Most small families (additions, activations, normalisations, concatenations, pooling) do the same: they move data, and
what a byte costs depends on how much is moved and how, more than on what is done to it. A Gaussian process over all
their rows, in what each family's own roofline leaves, lets a family with ten rows follow the shape that sixty rows of
another show; how far families agree is learned
(:func:`deepen.predictors.fitting.fit_gaussian_process.fit_grouped_gaussian`).

Hyperparameters come from all rows once; cross-validation conditions on the rows outside the fold only. There are some
dozen of them for some hundred rows, so what they know of a fold is little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepen.predictors.fitting.fit_gaussian_process import GroupedGaussianFit, fit_grouped_gaussian
from deepen.predictors.fitting.folds import FamilyPlan, select_active_columns
from deepen.predictors.fitting.recipes import Recipe
from deepen.predictors.inference.gaussian_process import compute_matern
from deepen.predictors.inference.roofline import compute_log_roofline

__all__ = ["SharedProcessPart", "fit_shared_process"]

Floats = NDArray[np.float64]

_MOST_ROWS = 500
"""Rows of the whole process: its cost grows with their cube, and every family's part stores all of them."""
_FEWEST_FAMILIES = 2
_ITERATIONS = 25


@dataclass(frozen=True, slots=True)
class SharedProcessPart:
    """The part of a shared process that predicts one family.

    Attributes:
        columns: Columns it looks at, shape (c,).
        x: Training rows of all families in those columns, shape (n, c).
        inverse_length: One over the length scales, in units of the columns, shape (c,).
        alpha: Weights of the rows for this family, shape (n,).
        constant: Added.
        held_out: Cross-validated log energy of the family's own rows.
    """

    columns: NDArray[np.int64]
    x: Floats
    inverse_length: Floats
    alpha: Floats
    constant: float
    held_out: Floats

    @property
    def learner(self) -> str:
        """Name of the learner."""
        return "shared-gaussian"

    def predict(self, columns: NDArray[np.float32]) -> Floats:
        """log(energy / work of the family) at rows of all columns, shape (n, d)."""
        at = columns[:, self.columns].astype(np.float64)
        return np.asarray(compute_matern(at, self.x, self.inverse_length) @ self.alpha + self.constant)


def fit_shared_process(
    plans: Sequence[FamilyPlan], sizes: NDArray[np.bool_], recipe: Recipe
) -> Mapping[str, SharedProcessPart]:
    """Fit a process over the families that have few rows.

    Args:
        plans: Families with folds and rooflines.
        sizes: Mask of the columns that are sizes or kinds, shape (d,).
        recipe: ``shared-gaussian`` must be among its learners, else nothing is fitted.

    Returns:
        Family -> its part; empty where fewer than two families qualify.
    """
    # 1. The families, and the columns that vary inside some of them.
    chosen = _select_families(plans, recipe)
    if "shared-gaussian" not in recipe.learners or len(chosen) < _FEWEST_FAMILIES:
        return {}
    start = np.cumsum([0, *(len(p.data.keys) for p in chosen)])
    columns = np.concatenate([p.data.columns for p in chosen]).astype(np.float64)
    used = _select_shared_columns(chosen, columns, sizes)
    if not used.size:
        return {}
    # 2. One fit over all their rows, and held-out predictions with its hyperparameters.
    mean, scale = columns[:, used].mean(0), columns[:, used].std(0)
    energy = np.concatenate([p.data.energy_j for p in chosen])
    fit = fit_grouped_gaussian(
        (columns[:, used] - mean) / scale,
        np.concatenate([p.base.residual for p in chosen]),
        np.concatenate([p.data.weight for p in chosen]),
        np.median(energy) / energy,
        np.repeat(np.arange(len(chosen)), np.diff(start)),
        _ITERATIONS,
    )
    held_out = _cross_validate_process(fit, chosen, start)
    # 3. Each family's part, conditioned on all rows.
    y = np.concatenate([p.base.residual for p in chosen])
    alpha = fit.solve(y, np.ones(len(y), dtype=bool))
    found = {}
    for i, plan in enumerate(chosen):
        weights, constant = fit.weights_for_group(i, alpha)
        found[plan.data.name] = SharedProcessPart(
            used, columns[:, used], fit.inverse_length / scale, weights, constant, held_out[start[i] : start[i + 1]]
        )
    return found


def _select_families(plans: Sequence[FamilyPlan], recipe: Recipe) -> list[FamilyPlan]:
    """The smallest families first, as long as their rows fit into one process; back in the order of the names."""
    few = [p for p in plans if len(set(p.data.keys)) >= recipe.share_min_rows and p.active.size]
    few = [p for p in few if len(p.data.keys) <= recipe.share_max_rows]
    chosen, rows = [], 0
    for plan in sorted(few, key=lambda p: (len(p.data.keys), p.data.name)):
        rows += len(plan.data.keys)
        if rows > _MOST_ROWS:
            break
        chosen.append(plan)
    return sorted(chosen, key=lambda p: p.data.name)


def _select_shared_columns(plans: Sequence[FamilyPlan], columns: Floats, sizes: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Sizes that vary inside some family: what differs only between families is left to the families' constants."""
    varies = np.zeros(columns.shape[1], dtype=bool)
    for plan in plans:
        varies |= np.ptp(plan.data.columns, axis=0) > 1e-6
    candidates = np.flatnonzero(varies & sizes)
    return candidates[select_active_columns(columns[:, candidates])] if candidates.size else candidates


def _cross_validate_process(fit: GroupedGaussianFit, plans: Sequence[FamilyPlan], start: NDArray[np.int64]) -> Floats:
    """Log energy of every row from the rows outside its fold, with the roofline of those rows."""
    total = int(start[-1])
    held_out = np.full(total, np.nan)
    for number in range(max(len(p.folds) for p in plans)):
        out = np.zeros(total, dtype=bool)
        y = np.empty(total)
        for i, plan in enumerate(plans):
            rows = slice(start[i], start[i + 1])
            y[rows] = plan.base.residual
            if number < len(plan.folds):
                out[rows] = plan.folds[number]
                y[rows] = np.log(plan.data.energy_j) - compute_log_roofline(plan.data.terms, plan.inside[number].work)
        alpha = fit.solve(y, ~out)
        for i, plan in enumerate(plans):
            at = np.flatnonzero(out[start[i] : start[i + 1]])
            if at.size:
                weights, constant = fit.weights_for_group(i, alpha)
                correlation = compute_matern(fit.x[start[i] + at], fit.x, fit.inverse_length)
                work = compute_log_roofline(plan.data.terms[at], plan.inside[number].work)
                held_out[start[i] + at] = work + correlation @ weights + constant
    return held_out
