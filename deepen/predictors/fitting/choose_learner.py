"""Fitting one family: the competing learners, their cross-validation and the choice among them.

The choice minimises the mean absolute log error, weighted by the fourth root of energy: in between the error of the
typical kernel and the error of a model's total, to which large kernels contribute most. A process with few parameters
of the family's own is taken wherever it is not worse than the best by more than the standard error of the difference
(the one-standard-error rule of Breiman et al., Classification and Regression Trees, 1984, section 3.4.3): with tens to
hundreds of rows the lowest score is often luck. Candidates that are far behind after two folds are dropped. Means of
learners compete too: starting from the first choice, the learner (drawn with replacement) whose addition helps most
joins while it helps (Caruana et al., Ensemble Selection from Libraries of Models, ICML 2004).
The errors and intervals kept for the card are those of the held-out predictions; they are optimistic only by the choice
among a handful of learners.

In :func:`fit_family`:

1. Candidates are the recipe's learners, as far as the family's rows and columns allow.
2. In each fold every candidate is fitted to the other rows and predicts those of the fold; after two folds the hopeless
   ones are dropped. The process shared with other families brings its held-out predictions with it.
3. The best candidate, or a frugal one as good, or a mean of several, is chosen by its held-out score.
4. Where nothing is chosen, the roofline answers; a family too small to judge by gets it scaled elsewhere.
5. The chosen learners are fitted to all rows, forests with all their trees.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deepen.predictors.fitting.folds import FamilyPlan, find_correlated_active_columns
from deepen.predictors.fitting.learners import FittedLearner, RidgeTrend, TrainingBudget, fit_learner
from deepen.predictors.fitting.recipes import Recipe
from deepen.predictors.fitting.shared_gaussian_process import SharedProcessPart
from deepen.predictors.inference.columns import select_physical_coordinates
from deepen.predictors.inference.roofline import compute_log_roofline

__all__ = ["FamilyFit", "fit_family"]

Floats = NDArray[np.float64]

_TRIAL_TREES = 25
"""Trees of a forest inside cross-validation, which ranks learners; the chosen one gets all its trees."""
_TRIAL_FOLDS = 2
_HOPELESS = 1.3
"""After two folds, candidates this much worse than the best are dropped."""
_MOST_MEMBERS = 4
_WORTH_IT = 0.995
"""A further member must lower the score at least to this share."""
_GAUSSIANS = frozenset(("gaussian-process", "shared-gaussian"))
"""At most one of these per family: the file has room for the length scales of one."""

_FRUGAL = ("shared-gaussian", "gaussian-process")
"""Learners with the fewest parameters to fit to the family, first the one that has nearly none."""


@dataclass(frozen=True, slots=True)
class FamilyFit:
    """A fitted family.

    Attributes:
        name: The family.
        work: Coefficients of its roofline, shape (t,).
        active: Columns its regressor sees.
        members: The chosen learners with their shares of the prediction. Empty: the roofline alone.
        trend: The family's trend, ``None`` with the roofline alone.
        held_out: Cross-validated log energy of each row, shape (n,).
        scores: Weighted mean absolute log error, held out, of each candidate that was not dropped.
    """

    name: str
    work: Floats
    active: NDArray[np.int64]
    members: tuple[tuple[FittedLearner | SharedProcessPart, float], ...]
    trend: RidgeTrend | None
    held_out: Floats
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def learner(self) -> str:
        """Name of what was chosen, for example ``lightgbm + gaussian-process``."""
        return " + ".join(m.learner for m, _ in self.members) or "roofline"


def fit_family(
    plan: FamilyPlan,
    recipe: Recipe,
    names: Sequence[str],
    shared: SharedProcessPart | None,
    max_leaves: int,
    seed: int,
) -> FamilyFit | None:
    """Fit a family.

    Args:
        plan: Its rows, folds and rooflines.
        recipe: Names the learners that compete.
        names: Names of the features.
        shared: Its part of the process shared with other families.
        max_leaves: Limit on the leaves of one tree.
        seed: Seed of learners.

    Returns:
        ``None`` for a family of fewer than ``recipe.min_rows`` rows whose scaled roofline nothing beats.
    """
    data, active, base = plan.data, plan.active, plan.base
    few = len(set(data.keys)) < recipe.min_rows
    budget = TrainingBudget(recipe.trees, recipe.rounds, max_leaves)
    trial = TrainingBudget(min(recipe.trees, _TRIAL_TREES), recipe.rounds, max_leaves)
    log_energy = np.log(data.energy_j)
    # 1. Candidates, and the coordinates that a process looks at.
    candidates = [] if few else _list_candidates(recipe, len(data.keys), active.size)
    physical = np.flatnonzero(select_physical_coordinates(names, np.ptp(data.columns, axis=0) > 1e-6))
    coordinates = np.isin(active, find_correlated_active_columns(data.columns, active, physical))
    # 2. Held-out predictions of each.
    held_out = {name: np.empty(len(data.keys)) for name in (*candidates, "roofline")}
    share = data.energy_j**0.25 * data.weight
    seen = np.zeros(len(data.keys), dtype=bool)
    running = list(candidates)
    for number, (fold, inside) in enumerate(zip(plan.folds, plan.inside, strict=True)):
        if number == _TRIAL_FOLDS and running:
            partial = {n: _compute_score(held_out[n][seen], log_energy[seen], share[seen]) for n in running}
            running = [n for n in running if partial[n] <= _HOPELESS * min(partial.values())]
        seen |= fold
        train = data.take(np.flatnonzero(~fold))
        x, z = train.columns[:, active], data.columns[fold][:, active]
        work = compute_log_roofline(data.terms[fold], inside.work)
        held_out["roofline"][fold] = work + inside.trend.intercept
        for name in running:
            at = seed + candidates.index(name)
            fitted = fit_learner(name, x, inside.residual, train.weight, inside.trend, trial, at, coordinates)
            held_out[name][fold] = work + fitted.predict(z)
    if shared is not None:
        held_out[shared.learner] = shared.held_out
        running.append(shared.learner)
    # 3. The choice.
    scores = {name: _compute_score(held_out[name], log_energy, share) for name in (*running, "roofline")}
    chosen = _choose_learners(scores, held_out, share, log_energy, running, recipe.blend)
    # 4. The roofline, where no learner is better.
    if few and (not chosen or scores["roofline"] <= min(scores[n] for n in chosen)):
        return None
    if not chosen:
        centred = base.work * np.exp(base.trend.intercept)
        return FamilyFit(data.name, centred, active, (), None, held_out["roofline"], scores)
    # 5. The chosen ones on all rows.
    x = data.columns[:, active]
    members: list[tuple[FittedLearner | SharedProcessPart, float]] = []
    for name, times in Counter(chosen).items():
        part = times / len(chosen)
        if shared is not None and name == shared.learner:
            members.append((shared, part))
            continue
        at = seed + candidates.index(name)
        fitted = fit_learner(name, x, base.residual, data.weight, base.trend, budget, at, coordinates)
        members.append((fitted, part))
    mean = np.mean([held_out[name] for name in chosen], axis=0)
    return FamilyFit(data.name, base.work, active, tuple(members), base.trend, mean, scores)


def _list_candidates(recipe: Recipe, rows: int, columns: int) -> list[str]:
    """List the learners that may compete: none without columns, no Gaussian process in a large family."""
    if not columns:
        return []
    small = rows <= recipe.gaussian_max_rows
    names = [n for n in recipe.learners if n != "shared-gaussian" and (small or n != "gaussian-process")]
    return ["extra-trees"] if not names and "gaussian-process" in recipe.learners else names


def _choose_learners(
    scores: dict[str, float],
    held_out: dict[str, Floats],
    share: Floats,
    log_energy: Floats,
    candidates: Sequence[str],
    blend: bool,
) -> list[str]:
    """The best candidate, or several whose mean is better; the mean's score is added to ``scores``."""
    if not candidates:
        return []
    chosen = [_choose_first_learner(scores, held_out, share, log_energy, candidates)]
    best = scores[chosen[0]]
    while blend and len(chosen) < _MOST_MEMBERS:
        total = np.sum([held_out[n] for n in chosen], axis=0)
        taken = _GAUSSIANS.intersection(chosen)
        allowed = [n for n in candidates if n in chosen or not (taken and n in _GAUSSIANS)]
        tried = {n: _compute_score((total + held_out[n]) / (len(chosen) + 1), log_energy, share) for n in allowed}
        name = min(tried, key=lambda n: tried[n])
        if tried[name] > _WORTH_IT * best:
            break
        chosen.append(name)
        best = tried[name]
    if len(set(chosen)) > 1:
        scores[" + ".join(dict.fromkeys(chosen))] = best
    return chosen


def _choose_first_learner(
    scores: dict[str, float], held_out: dict[str, Floats], share: Floats, log_energy: Floats, candidates: Sequence[str]
) -> str:
    """The best candidate, or a frugal one that is as good as far as one can tell."""
    best = min(candidates, key=lambda n: scores[n])
    part = share / share.sum()
    for name in _FRUGAL:
        if name in candidates:
            worse = np.abs(held_out[name] - log_energy) - np.abs(held_out[best] - log_energy)
            mean = float(part @ worse)
            if mean <= float(np.sqrt(part**2 @ (worse - mean) ** 2)):
                return name
    return best


def _compute_score(predicted: Floats, log_energy: Floats, share: Floats) -> float:
    """Weighted mean absolute log error."""
    return float(np.average(np.abs(predicted - log_energy), weights=share))
