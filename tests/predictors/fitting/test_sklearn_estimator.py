"""The public regressor keeps scikit-learn's estimator contract."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.utils.estimator_checks import check_estimator

from deepen.errors import ConfigError
from deepen.predictors import LogWorkRegressor
from deepen.predictors.fitting.recipes import SINGLE_LEARNERS


@pytest.mark.parametrize("learner", ["gaussian-process", "extra-trees", "lightgbm"])
def test_estimator_contract(learner):
    check_estimator(LogWorkRegressor(learner, trees=5, rounds=5), on_skip=None)


@pytest.mark.parametrize("learner", SINGLE_LEARNERS)
def test_learns_energy_per_work(learner):
    rng = np.random.default_rng(0)
    x = np.exp(rng.uniform(0, 12, (300, 3)))
    y = (2.0 * x[:, 0] + 5.0 * x[:, 1] + 3.0) * np.where(x[:, 2] > 500, 1.5, 1.0)
    model = LogWorkRegressor(learner, work_columns=(0, 1), random_state=0).fit(x[:200], y[:200])
    error = np.abs(model.predict(x[200:]) / y[200:] - 1)
    assert error.mean() < 0.10
    assert (model.work_ >= 0).all() and model.work_.shape == (3,)


def test_impossible_input_is_refused():
    with pytest.raises(ValueError, match="positive targets"):
        LogWorkRegressor().fit(np.ones((3, 1)), [1.0, 0.0, 2.0])
    with pytest.raises(ConfigError, match="did you mean lightgbm"):
        LogWorkRegressor("lightgmb").fit(np.ones((3, 1)), np.ones(3))
