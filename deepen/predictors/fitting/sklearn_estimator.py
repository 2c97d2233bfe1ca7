"""One family's regressor as a scikit-learn estimator, for use outside predictors (pipelines, grid search).

This module needs scikit-learn when imported; :mod:`deepen.predictors` loads it on first use of the name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from deepen.errors import make_unknown_name_error
from deepen.predictors.fitting.fit_roofline import fit_roofline
from deepen.predictors.fitting.folds import select_active_columns
from deepen.predictors.fitting.learners import FittedLearner, TrainingBudget, fit_learner, fit_trend
from deepen.predictors.fitting.recipes import SINGLE_LEARNERS
from deepen.predictors.inference.roofline import compute_log_roofline

__all__ = ["LogWorkRegressor"]

Floats = NDArray[np.float64]


class LogWorkRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no type hints
    """Regress log(y / work), where work is a non-negative combination of some columns and a constant.

    Args:
        learner: A name of :data:`deepen.predictors.fitting.recipes.SINGLE_LEARNERS`.
        work_columns: Indices of the columns of ``X`` that make up the work (operations, bytes); all by default.
        trees: Trees of a forest.
        rounds: Boosting rounds of LightGBM.
        random_state: Seed, as in scikit-learn.

    Attributes:
        work_: Coefficients of the work columns and the constant.
    """

    def __init__(
        self,
        learner: str = "extra-trees",
        work_columns: tuple[int, ...] | None = None,
        trees: int = 50,
        rounds: int = 120,
        random_state: int | None = None,
    ) -> None:
        self.learner = learner
        self.work_columns = work_columns
        self.trees = trees
        self.rounds = rounds
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> LogWorkRegressor:  # the estimator contract's names
        """Fit to positive targets.

        Args:
            X: Features in natural units, shape (n, d).
            y: Positive targets, shape (n,).

        Raises:
            ConfigError: If the learner is unknown.
            ValueError: If a target is not positive (the estimator contract's exception).
        """
        if self.learner not in SINGLE_LEARNERS:
            raise make_unknown_name_error("learner", self.learner, SINGLE_LEARNERS)
        x, target = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2)
        target = np.asarray(target, dtype=np.float64)
        if (target <= 0).any():
            raise ValueError("LogWorkRegressor needs positive targets")
        weight = np.ones(len(target))
        terms, columns = self._terms(x), _compute_log_columns(x)
        self.work_ = fit_roofline(terms, target, weight)
        self.active_ = select_active_columns(columns)
        residual = np.log(target) - compute_log_roofline(terms, self.work_)
        trend = fit_trend(columns[:, self.active_], residual, weight)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        budget = TrainingBudget(self.trees, self.rounds, max_leaves=4096)
        self.fitted_ = FittedLearner(self.learner, trend, adds_to_trend=True)
        if self.active_.size:
            self.fitted_ = fit_learner(self.learner, columns[:, self.active_], residual, weight, trend, budget, seed)
        return self

    def predict(self, X: Any) -> Floats:  # the estimator contract's names
        """Predict positive targets.

        Args:
            X: shape (n, d).

        Returns:
            shape (n,).
        """
        check_is_fitted(self)
        x = validate_data(self, X, dtype=np.float64, reset=False)
        residual = self.fitted_.predict(_compute_log_columns(x)[:, self.active_])
        return np.asarray(np.exp(compute_log_roofline(self._terms(x), self.work_) + residual))

    def _terms(self, x: Floats) -> Floats:
        chosen = x if self.work_columns is None else x[:, list(self.work_columns)]
        return np.concatenate([np.maximum(chosen, 0.0), np.ones((len(x), 1))], axis=1)

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that targets must be positive."""
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = True
        tags.regressor_tags.poor_score = True
        return tags


def _compute_log_columns(x: Floats) -> NDArray[np.float32]:
    return np.asarray(np.sign(x) * np.log1p(np.abs(x)), dtype=np.float32)
