"""Fitting one family: roofline, trend, the competing learners, and their cross-validation.

Folds are made of configurations (a configuration measured twice never lies on both sides) and stratified by energy, so
that each fold spans the family's range. Everything is refitted inside a fold, the roofline and the trend included.

The choice minimises the mean absolute log error, weighted by the square root of energy: in between the error of the
typical kernel and the error of a model's total, to which large kernels contribute most. Candidates that are far behind
after two folds are dropped. The errors and intervals kept for the card are those of the held-out predictions; they are
optimistic only by the choice among a handful of learners.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deepen.predictors.learners import Budget, Fitted, Trend, fit_learner, fit_trend
from deepen.predictors.recipes import Recipe
from deepen.predictors.work import fit_work, log_work

__all__ = ["FamilyData", "FamilyFit", "active_columns", "fit_family"]

Floats = NDArray[np.float64]

_TRIAL_TREES = 25
"""Trees of a forest inside cross-validation, which ranks learners; the chosen one gets all its trees."""
_TRIAL_FOLDS = 2
_HOPELESS = 1.3
"""After two folds, candidates this much worse than the best are dropped."""


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
class FamilyFit:
    """A fitted family.

    Attributes:
        name: The family.
        work: Coefficients of its roofline, shape (t,).
        active: Columns its regressor sees.
        members: The chosen learners; their mean is the prediction. Empty: the roofline alone.
        trend: The family's trend, ``None`` with the roofline alone.
        held_out: Cross-validated log energy of each row, shape (n,).
        scores: Weighted mean absolute log error, held out, of each candidate that was not dropped.
    """

    name: str
    work: Floats
    active: NDArray[np.int64]
    members: tuple[Fitted, ...]
    trend: Trend | None
    held_out: Floats
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def learner(self) -> str:
        """Name of what was chosen, for example ``lightgbm + gaussian-process``."""
        return " + ".join(m.learner for m in self.members) or "roofline"


@dataclass(frozen=True, slots=True)
class _Base:
    """Roofline and trend of some rows."""

    work: Floats
    trend: Trend
    residual: Floats


def active_columns(columns: NDArray[np.float32]) -> NDArray[np.int64]:
    """Columns that vary, without copies of earlier ones (absolute correlation above 0.9999)."""
    x = columns.astype(np.float64)
    varying = np.flatnonzero(np.ptp(x, axis=0) > 1e-6)
    z = x[:, varying] - x[:, varying].mean(0)
    z /= np.linalg.norm(z, axis=0)
    kept: list[int] = []
    for j in range(varying.size):
        if not kept or float(np.abs(z[:, kept].T @ z[:, j]).max()) < 0.9999:
            kept.append(j)
    return varying[np.array(kept, dtype=np.int64)] if kept else varying[:1]


def fit_family(data: FamilyData, recipe: Recipe, prior: Floats, max_leaves: int, seed: int) -> FamilyFit:
    """Fit a family that has at least ``recipe.min_rows`` rows.

    Args:
        data: Its rows.
        recipe: Which learners compete.
        prior: Coefficients of the roofline pooled over families, shape (t,).
        max_leaves: Limit on the leaves of one tree.
        seed: Seed of folds and learners.
    """
    active = active_columns(data.columns)
    budget = Budget(recipe.trees, recipe.rounds, max_leaves)
    trial = Budget(min(recipe.trees, _TRIAL_TREES), recipe.rounds, max_leaves)
    log_energy = np.log(data.energy_j)
    candidates = _candidates(recipe, len(data.keys), active.size)
    base = _fit_base(data, active, prior)
    held_out = {name: np.empty(len(data.keys)) for name in (*candidates, "roofline")}
    share = np.sqrt(data.energy_j) * data.weight
    seen = np.zeros(len(data.keys), dtype=bool)
    running = list(candidates)
    for number, fold in enumerate(_folds(data, recipe.folds, seed)):
        if number == _TRIAL_FOLDS:
            partial = {n: _score(held_out[n][seen], log_energy[seen], share[seen]) for n in running}
            running = [n for n in running if partial[n] <= _HOPELESS * min(partial.values())]
        seen |= fold
        train = data.take(np.flatnonzero(~fold))
        inside = _fit_base(train, active, prior)
        x, z = train.columns[:, active], data.columns[fold][:, active]
        work = log_work(data.terms[fold], inside.work)
        held_out["roofline"][fold] = work + inside.trend.intercept
        for name in running:
            at = seed + candidates.index(name)
            fitted = fit_learner(name, x, inside.residual, train.weight, inside.trend, trial, at)
            held_out[name][fold] = work + fitted.predict(z)
    scores = {name: _score(held_out[name], log_energy, share) for name in (*running, "roofline")}
    chosen = _choose(scores, held_out, share, log_energy, running, recipe.blend)
    if not chosen:
        centred = base.work * np.exp(base.trend.intercept)
        return FamilyFit(data.name, centred, active, (), None, held_out["roofline"], scores)
    x = data.columns[:, active]
    members = tuple(
        fit_learner(name, x, base.residual, data.weight, base.trend, budget, seed + candidates.index(name))
        for name in chosen
    )
    mean = np.mean([held_out[name] for name in chosen], axis=0)
    return FamilyFit(data.name, base.work, active, members, base.trend, mean, scores)


def _candidates(recipe: Recipe, rows: int, columns: int) -> list[str]:
    """Learners that may compete; a Gaussian process is left out of large families, and everything without columns."""
    if not columns:
        return []
    small = rows <= recipe.gaussian_max_rows
    names = [n for n in recipe.learners if small or n != "gaussian-process"]
    return names or (["log-linear"] if recipe.learners else [])


def _choose(
    scores: dict[str, float],
    held_out: dict[str, Floats],
    share: Floats,
    log_energy: Floats,
    candidates: Sequence[str],
    blend: bool,
) -> list[str]:
    """The best candidate, or the two best if their mean is better; the blend's score is added to ``scores``."""
    if not candidates:
        return []
    ranked = sorted(candidates, key=lambda n: scores[n])
    if not blend or len(ranked) == 1:
        return ranked[:1]
    both = ranked[:2]
    score = _score(np.mean([held_out[n] for n in both], axis=0), log_energy, share)
    scores[" + ".join(both)] = score
    return both if score < scores[ranked[0]] else ranked[:1]


def _score(predicted: Floats, log_energy: Floats, share: Floats) -> float:
    """Weighted mean absolute log error."""
    return float(np.average(np.abs(predicted - log_energy), weights=share))


def _fit_base(data: FamilyData, active: NDArray[np.int64], prior: Floats) -> _Base:
    work = fit_work(data.terms, data.energy_j, data.weight, prior)
    residual = np.log(data.energy_j) - log_work(data.terms, work)
    return _Base(work, fit_trend(data.columns[:, active], residual, data.weight), residual)


def _folds(data: FamilyData, folds: int, seed: int) -> list[NDArray[np.bool_]]:
    """Masks of held-out rows: configurations sorted by energy, dealt in shuffled hands."""
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
