"""Rows and folds of a family, with roofline and trend inside each fold: the common ground of all its learners.

Folds are made of configurations (a configuration measured twice never lies on both sides) and stratified by energy, so
that each fold spans the family's range. Everything is refitted inside a fold, the roofline and the trend included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepen.predictors.fitting.fit_gaussian_process import fit_gaussian_at_prior
from deepen.predictors.fitting.fit_roofline import fit_roofline
from deepen.predictors.fitting.learners import RidgeTrend, fit_trend
from deepen.predictors.fitting.recipes import Recipe
from deepen.predictors.inference.columns import select_physical_coordinates, select_size_columns
from deepen.predictors.inference.roofline import compute_log_roofline

__all__ = [
    "FamilyData",
    "FamilyPlan",
    "RooflineAndTrend",
    "RooflineTerms",
    "find_correlated_active_columns",
    "make_stratified_group_folds",
    "plan_family",
    "select_active_columns",
]

Floats = NDArray[np.float64]

_ENOUGH_ROWS = 20
"""With fewer rows, a good many terms fit any of them and held-out ones by luck."""


@dataclass(frozen=True, slots=True)
class FamilyData:
    """The rows of one family.

    Attributes:
        name: The family.
        terms: Work terms, shape (n, t).
        columns: Regressor columns, float32, shape (n, d).
        energy_j: Measured energies, positive, shape (n,).
        weight: Weights with mean 1, shape (n,).
        keys: Configuration of each row.
    """

    name: str
    terms: Floats
    columns: NDArray[np.float32]
    energy_j: Floats
    weight: Floats
    keys: tuple[str, ...]

    def take(self, rows: NDArray[np.int64]) -> FamilyData:
        """Some of the rows; weights are scaled back to a mean of 1."""
        weight = self.weight[rows]
        keys = tuple(self.keys[int(i)] for i in rows)
        return FamilyData(
            self.name, self.terms[rows], self.columns[rows], self.energy_j[rows], weight / weight.mean(), keys
        )


@dataclass(frozen=True, slots=True)
class RooflineTerms:
    """Terms that a roofline may have, and their prior.

    Attributes:
        terms: Shape (t,).
        prior: Its coefficients pooled over families, zero for other terms, shape (t,).
    """

    terms: NDArray[np.bool_]
    prior: Floats


@dataclass(frozen=True, slots=True)
class RooflineAndTrend:
    """Roofline and trend of some rows.

    Attributes:
        work: Coefficients of the roofline, shape (t,).
        trend: Of the residual.
        residual: log(energy / work) of the rows.
    """

    work: Floats
    trend: RidgeTrend
    residual: Floats


@dataclass(frozen=True, slots=True)
class FamilyPlan:
    """A family ready to be learned.

    Attributes:
        data: Its rows.
        active: Columns its regressors see.
        base: From all rows.
        folds: Masks of held-out rows.
        inside: From the rows outside each fold.
    """

    data: FamilyData
    active: NDArray[np.int64]
    base: RooflineAndTrend
    folds: tuple[NDArray[np.bool_], ...]
    inside: tuple[RooflineAndTrend, ...]


def plan_family(
    data: FamilyData, recipe: Recipe, forms: Sequence[RooflineTerms], names: Sequence[str], seed: int
) -> FamilyPlan:
    """Make the folds, and fit what every learner starts from.

    The roofline with the fewest terms is taken unless one with more, and a smooth regressor on what either leaves,
    predict held-out rows better: what a regressor learns anyway is no reason for terms, and costs that a runtime does
    not have, fitted to what rows happen to show, are noise to all learners.
    The trend follows the few coordinates and kinds only: the other sizes are products of these, and a ridge regression
    over all of them spends itself on telling them apart.

    Args:
        data: The rows.
        recipe: Number of folds, and the most rows of a Gaussian process.
        forms: Rooflines to choose from, the one with the fewest terms first.
        names: Names of the features.
        seed: Seed of the folds.
    """
    active = select_active_columns(data.columns)
    few = select_physical_coordinates(names, np.ptp(data.columns, axis=0) > 1e-6) & select_size_columns(names)
    sizes = np.isin(active, find_correlated_active_columns(data.columns, active, np.flatnonzero(few)))
    folds = make_stratified_group_folds(data, recipe.folds, seed)
    share = data.energy_j**0.25 * data.weight
    chosen: tuple[RooflineTerms, tuple[RooflineAndTrend, ...], float] | None = None
    for form in forms if len(data.keys) >= _ENOUGH_ROWS else forms[:1]:
        inside = tuple(_fit_roofline_and_trend(data.take(np.flatnonzero(~fold)), active, form, sizes) for fold in folds)
        error = np.empty(len(data.keys))
        for fold, base in zip(folds, inside, strict=True):
            x, z = data.columns[~fold][:, active], data.columns[fold][:, active]
            learned = _approximate_regressor(base, x, z, sizes, recipe.gaussian_max_rows)
            error[fold] = np.abs(
                compute_log_roofline(data.terms[fold], base.work) + learned - np.log(data.energy_j[fold])
            )
        mean = float(np.average(error, weights=share))
        if chosen is None or mean < chosen[2]:
            chosen = form, inside, mean
    assert chosen is not None  # there is at least one form
    return FamilyPlan(data, active, _fit_roofline_and_trend(data, active, chosen[0], sizes), tuple(folds), chosen[1])


def _approximate_regressor(
    base: RooflineAndTrend, x: NDArray[np.float32], z: NDArray[np.float32], smooth: NDArray[np.bool_], most: int
) -> Floats:
    """Approximate the regressors of a roofline's residual at other rows by the trend and a smooth function of sizes.

    Of more rows than a process can take, an even part is shown to it.
    """
    step = -(-len(x) // most)
    rest = (base.residual - base.trend.predict(x))[::step]
    fit = fit_gaussian_at_prior(base.trend.standard(x[::step])[:, smooth], rest, np.ones(len(rest)))
    return base.trend.predict(z) + fit.predict(base.trend.standard(z)[:, smooth])


def select_active_columns(columns: NDArray[np.float32] | Floats) -> NDArray[np.int64]:
    """Select the columns that vary, without copies of earlier ones (absolute correlation above 0.9999)."""
    x = columns.astype(np.float64)
    varying = np.flatnonzero(np.ptp(x, axis=0) > 1e-6)
    z = x[:, varying] - x[:, varying].mean(0)
    z /= np.linalg.norm(z, axis=0)
    kept: list[int] = []
    for j in range(varying.size):
        if not kept or float(np.abs(z[:, kept].T @ z[:, j]).max()) < 0.9999:
            kept.append(j)
    return varying[np.array(kept, dtype=np.int64)] if kept else varying[:1]


def find_correlated_active_columns(
    columns: NDArray[np.float32], active: NDArray[np.int64], wanted: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Find the active columns that wanted ones are, or are copies of."""
    if not wanted.size:
        return wanted
    z = columns.astype(np.float64) - columns.astype(np.float64).mean(0)
    z /= np.maximum(np.linalg.norm(z, axis=0), 1e-12)
    return np.unique(active[np.abs(z[:, active].T @ z[:, wanted]).argmax(axis=0)])


def make_stratified_group_folds(data: FamilyData, folds: int, seed: int) -> list[NDArray[np.bool_]]:
    """Make masks of held-out rows: configurations sorted by energy, dealt in shuffled hands."""
    groups: dict[str, list[int]] = {}
    for row, key in enumerate(data.keys):
        groups.setdefault(key, []).append(row)
    ordered = sorted(groups.values(), key=lambda rows: float(data.energy_j[rows].mean()))
    count = min(folds, len(ordered))
    rng = np.random.default_rng(seed)
    masks = [np.zeros(len(data.keys), dtype=bool) for _ in range(count)]
    for hand in range(0, len(ordered), count):
        for fold, rows in zip(rng.permutation(count), ordered[hand : hand + count], strict=False):
            masks[int(fold)][rows] = True
    return [m for m in masks if m.any() and not m.all()]


def _fit_roofline_and_trend(
    data: FamilyData, active: NDArray[np.int64], form: RooflineTerms, sizes: NDArray[np.bool_]
) -> RooflineAndTrend:
    work = fit_roofline(data.terms * form.terms, data.energy_j, data.weight, form.prior)
    residual = np.log(data.energy_j) - compute_log_roofline(data.terms, work)
    return RooflineAndTrend(work, fit_trend(data.columns[:, active], residual, data.weight, sizes), residual)
