"""The learners: each fits ``log(energy / work)`` of one family.

``random-forest`` sees the residual of the roofline alone, as the field does. The others see the part of it that the
log-linear trend (a ridge regression on standardised columns) leaves, so that they extrapolate with the trend rather
than with the value of the nearest leaf. ``gaussian-process`` sees only the coordinates of the matrix product, or of the
data moved, that the kernel is. ``shared-gaussian`` learns from several families at once and is fitted in
:mod:`deepen.predictors.fitting.shared_gaussian_process`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.predictors.fitting.fit_gaussian_process import GaussianFit, fit_gaussian
from deepen.predictors.fitting.import_trees import convert_lightgbm_booster, convert_sklearn_trees
from deepen.predictors.inference.tree_ensemble import TreeEnsemble, evaluate_trees

__all__ = ["FittedLearner", "RidgeTrend", "TrainingBudget", "fit_learner", "fit_trend"]

Floats = NDArray[np.float64]

_MIN_LEAF = 2
_TREND_REACH = float(np.log(2.0))
"""Distance beyond the residuals seen that the trend may go, log units."""


@dataclass(frozen=True, slots=True)
class TrainingBudget:
    """Limits on the size of learners.

    Attributes:
        trees: Trees of a forest.
        rounds: Boosting rounds.
        max_leaves: Leaves of one tree of a forest.
    """

    trees: int
    rounds: int
    max_leaves: int

    def leaves(self, rows: int) -> int | None:
        """The limit as scikit-learn takes it: ``None`` where it cannot be reached."""
        return None if self.max_leaves >= rows else self.max_leaves


@dataclass(frozen=True, slots=True)
class RidgeTrend:
    """A ridge regression on standardised columns.

    Attributes:
        mean: shape (d,).
        scale: shape (d,), positive.
        coefficient: per standard unit, shape (d,).
        intercept: Value at the mean.
        low: Least value it takes: far outside the range a straight line is no better than its last value.
        high: Greatest value.
    """

    mean: Floats
    scale: Floats
    coefficient: Floats
    intercept: float
    low: float
    high: float

    def standard(self, x: NDArray[np.float32]) -> Floats:
        """Columns in standard units."""
        return np.asarray((x.astype(np.float64) - self.mean) / self.scale)

    def predict(self, x: NDArray[np.float32]) -> Floats:
        """The trend at rows of shape (n, d)."""
        return np.asarray(np.clip(self.standard(x) @ self.coefficient + self.intercept, self.low, self.high))


@dataclass(frozen=True, slots=True)
class FittedLearner:
    """A fitted learner.

    Attributes:
        learner: Its name.
        trend: The family's trend.
        adds_to_trend: True if the learner was fitted to what the trend leaves, and the trend is added to it.
        forest: Trees over the family's columns, if it has any.
        gaussian: Gaussian process over the standardised columns, if it has one.
    """

    learner: str
    trend: RidgeTrend
    adds_to_trend: bool
    forest: TreeEnsemble | None = None
    gaussian: GaussianFit | None = None

    def predict(self, x: NDArray[np.float32]) -> Floats:
        """log(energy / work) at rows of shape (n, d)."""
        total = self.trend.predict(x) if self.adds_to_trend else np.zeros(len(x))
        if self.forest is not None:
            total = total + evaluate_trees(self.forest, x)
        if self.gaussian is not None:
            total = total + self.gaussian.predict(self.trend.standard(x))
        return total


def fit_trend(x: NDArray[np.float32], y: Floats, weight: Floats, sizes: NDArray[np.bool_] | None = None) -> RidgeTrend:
    """Fit the ridge regression; its strength by closed-form leave-one-out error.

    Args:
        x: Columns, float32, shape (n, d).
        y: log(energy / work), shape (n,).
        weight: Weights with mean 1, shape (n,).
        sizes: Columns it may use, shape (d,); by default all. Paddings and ratios extrapolate to nothing.
    """
    x64 = x.astype(np.float64)
    mean = np.average(x64, axis=0, weights=weight)
    scale = np.sqrt(np.average((x64 - mean) ** 2, axis=0, weights=weight))
    scale = np.where(scale > 1e-6, scale, 1.0)
    centre = float(np.average(y, weights=weight))
    root = np.sqrt(weight)[:, None]
    used = np.ones(x.shape[1]) if sizes is None or not sizes.any() else sizes.astype(np.float64)
    u, s, vt = np.linalg.svd((x64 - mean) / scale * root * used, full_matrices=False)
    target = (y - centre) * root[:, 0]
    projected = u.T @ target
    best: tuple[float, Floats] = (np.inf, np.zeros(x.shape[1]))
    for strength in (1.0, 3.0, 10.0, 30.0, 100.0, 1000.0):
        shrink = s**2 / (s**2 + strength)
        leverage = np.minimum((u**2 * shrink).sum(1) + 1.0 / len(y), 0.99)
        error = (target - u @ (shrink * projected)) / (1.0 - leverage)
        score = float(np.mean(np.abs(error)))
        if score < best[0]:
            best = (score, vt.T @ (s / (s**2 + strength) * projected))
    reach = _TREND_REACH
    return RidgeTrend(mean, scale, best[1], centre, float(y.min()) - reach, float(y.max()) + reach)


def fit_learner(
    learner: str,
    x: NDArray[np.float32],
    y: Floats,
    weight: Floats,
    trend: RidgeTrend,
    budget: TrainingBudget,
    seed: int,
    coordinates: NDArray[np.bool_] | None = None,
) -> FittedLearner:
    """Fit one learner.

    Args:
        learner: A name of :data:`deepen.predictors.fitting.recipes.SINGLE_LEARNERS`.
        x: Columns of the family that vary, float32, shape (n, d).
        y: log(energy / work), shape (n,).
        weight: Weights with mean 1, shape (n,).
        trend: The family's trend on the same rows.
        budget: Limits on its size.
        seed: Seed of whatever is random in it.
        coordinates: Mask of the columns a Gaussian process looks at, shape (d,); by default all.
    """
    if learner == "random-forest":
        return FittedLearner(learner, trend, False, forest=_fit_random_forest(x, y, weight, budget, seed))
    rest = y - trend.predict(x)
    if learner == "gaussian-process":
        gaussian = _fit_gaussian_columns(trend.standard(x), rest, weight, coordinates)
        return FittedLearner(learner, trend, True, gaussian=gaussian)
    return FittedLearner(learner, trend, True, forest=_TREES[learner](x, rest, weight, budget, seed))


def _fit_gaussian_columns(x: Floats, y: Floats, weight: Floats, coordinates: NDArray[np.bool_] | None) -> GaussianFit:
    """Fit a process over some of the columns; the others get a length scale without end."""
    chosen = np.ones(x.shape[1], dtype=bool) if coordinates is None or not coordinates.any() else coordinates
    fit = fit_gaussian(x[:, chosen], y, weight)
    inverse_length = np.zeros(x.shape[1])
    inverse_length[chosen] = fit.inverse_length
    return GaussianFit(x, inverse_length, fit.alpha)


def _fit_random_forest(
    x: NDArray[np.float32], y: Floats, weight: Floats, budget: TrainingBudget, seed: int
) -> TreeEnsemble:
    """Bagged trees (Breiman 2001); rows are drawn with probabilities proportional to their weights."""
    from sklearn.tree import DecisionTreeRegressor

    rng = np.random.RandomState(seed)
    share = weight / weight.sum()
    trees = []
    for _ in range(budget.trees):
        rows = rng.choice(len(y), len(y), p=share)
        tree = DecisionTreeRegressor(max_features=0.5, max_leaf_nodes=budget.leaves(len(y)), random_state=rng)
        trees.append(_fit_tree(tree, x[rows], y[rows], None))
    return convert_sklearn_trees(trees, np.arange(x.shape[1]))


def _fit_extra_trees(
    x: NDArray[np.float32], y: Floats, weight: Floats, budget: TrainingBudget, seed: int
) -> TreeEnsemble:
    """Extremely randomised trees (Geurts et al. 2006) on all rows."""
    from sklearn.tree import ExtraTreeRegressor

    rng = np.random.RandomState(seed)
    given = None if float(np.ptp(weight)) < 1e-9 else weight
    trees = []
    for _ in range(budget.trees):
        tree = ExtraTreeRegressor(
            max_features=0.7, min_samples_leaf=_MIN_LEAF, max_leaf_nodes=budget.leaves(len(y)), random_state=rng
        )
        trees.append(_fit_tree(tree, x, y, given))
    return convert_sklearn_trees(trees, np.arange(x.shape[1]))


def _fit_tree(tree: Any, x: NDArray[np.float32], y: Floats, weight: Floats | None) -> Any:
    """Fit a scikit-learn tree without its input checks: they cost more than a small family's tree itself."""
    from sklearn import config_context

    with config_context(assume_finite=True, skip_parameter_validation=True):
        return tree.fit(x, y[:, None], sample_weight=weight, check_input=False)


def _fit_lightgbm(x: NDArray[np.float32], y: Floats, weight: Floats, budget: TrainingBudget, seed: int) -> TreeEnsemble:
    import lightgbm

    settings = {
        "objective": "regression",
        "learning_rate": 0.08,
        "num_leaves": min(31, max(4, len(y) // 6)),
        "min_data_in_leaf": max(_MIN_LEAF, min(8, len(y) // 15)),
        "min_data_in_bin": 1,
        "lambda_l2": 1.0,
        "feature_fraction": 0.7,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbosity": -1,
        "seed": seed,
    }
    data = lightgbm.Dataset(x, label=y, weight=weight, params={"verbosity": -1, "min_data_in_bin": 1})
    booster = lightgbm.train(settings, data, num_boost_round=budget.rounds)
    return convert_lightgbm_booster(booster, np.arange(x.shape[1]))


_TREES: Mapping[str, Callable[[NDArray[np.float32], Floats, Floats, TrainingBudget, int], TreeEnsemble]] = {
    "extra-trees": _fit_extra_trees,
    "lightgbm": _fit_lightgbm,
}
