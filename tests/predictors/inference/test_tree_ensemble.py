"""Flat trees predict what the libraries that grew them predict, and refuse arrays that are not trees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deepen.errors import PredictorError
from deepen.predictors.fitting.import_trees import (
    convert_lightgbm_booster,
    convert_sklearn_trees,
    round_down_to_float32,
)
from deepen.predictors.inference.tree_ensemble import (
    TreeEnsemble,
    concatenate_ensembles,
    evaluate_trees,
    validate_trees,
)


@pytest.fixture
def data():
    rng = np.random.default_rng(7)
    x = np.concatenate([rng.standard_normal((300, 4)), rng.integers(0, 4, (300, 3))], axis=1).astype(np.float32)
    y = np.sin(3 * x[:, 0]) + x[:, 4] * x[:, 1] + 0.1 * rng.standard_normal(300)
    return x, y


def forest_of(data, **options):
    from sklearn.ensemble import RandomForestRegressor

    x, y = data
    model = RandomForestRegressor(20, random_state=0, **options).fit(x, y)
    return model, convert_sklearn_trees(model.estimators_, np.arange(x.shape[1]))


@pytest.mark.parametrize("options", [{}, {"max_leaf_nodes": 17}, {"max_depth": 1}, {"min_samples_leaf": 200}])
def test_equals_scikit_learn(data, options):
    model, forest = forest_of(data, **options)
    x = np.random.default_rng(1).standard_normal((500, 7)).astype(np.float32) * 2
    np.testing.assert_allclose(evaluate_trees(forest, x), model.predict(x), rtol=1e-6, atol=1e-6)
    validate_trees(forest, 7)


def test_equals_scikit_learn_exactly_at_its_thresholds(data):
    """Rows that lie on a threshold, and one float32 step to either side, take the same branch."""
    model, forest = forest_of(data)
    thresholds = np.concatenate([t.tree_.threshold[t.tree_.feature >= 0] for t in model.estimators_]).astype(np.float32)
    x = np.repeat(data[0][:50], 3, axis=0)
    for column in range(x.shape[1]):
        edge = np.random.default_rng(column).choice(thresholds, 50)
        x[:, column] = np.stack([np.nextafter(edge, -np.inf), edge, np.nextafter(edge, np.inf)], axis=1).ravel()
        np.testing.assert_allclose(evaluate_trees(forest, x), model.predict(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rounds", [1, 60])
def test_equals_lightgbm(data, rounds):
    import lightgbm

    x, y = data
    settings = {"verbosity": -1, "num_leaves": 15, "min_data_in_leaf": 2, "num_threads": 1, "seed": 1}
    booster = lightgbm.train(settings, lightgbm.Dataset(x, label=y), num_boost_round=rounds)
    forest = convert_lightgbm_booster(booster, np.arange(7))
    z = np.concatenate([x, np.random.default_rng(2).standard_normal((500, 7)).astype(np.float32) * 2, np.zeros((1, 7))])
    z = z.astype(np.float32)
    np.testing.assert_allclose(evaluate_trees(forest, z), booster.predict(z), rtol=1e-6, atol=1e-6)
    validate_trees(forest, 7)


def test_equals_lightgbm_that_found_nothing_to_split():
    import lightgbm

    x = np.ones((30, 2), np.float32)
    settings = {"verbosity": -1, "num_threads": 1}
    booster = lightgbm.train(settings, lightgbm.Dataset(x, label=np.full(30, 2.5)), num_boost_round=3)
    np.testing.assert_allclose(
        evaluate_trees(convert_lightgbm_booster(booster, np.arange(2)), x), booster.predict(x), rtol=1e-6
    )


def test_a_booster_with_missing_values_is_refused(data):
    import lightgbm

    x, y = data[0].copy(), data[1]
    x[::3, 0] = np.nan
    booster = lightgbm.train({"verbosity": -1, "num_threads": 1}, lightgbm.Dataset(x, label=y), num_boost_round=5)
    with pytest.raises(PredictorError, match="missing-value"):
        convert_lightgbm_booster(booster, np.arange(7))


def test_columns_are_renamed_and_leaves_weighted(data):
    model, forest = forest_of(data)
    moved = convert_sklearn_trees(model.estimators_, np.array([9, 8, 7, 6, 5, 4, 3]), weight=0.5)
    wide = np.zeros((300, 10), np.float32)
    wide[:, [9, 8, 7, 6, 5, 4, 3]] = data[0]
    np.testing.assert_allclose(evaluate_trees(moved, wide), 0.5 * evaluate_trees(forest, data[0]), rtol=1e-5, atol=1e-6)


def test_each_row_can_have_its_own_trees(data):
    _, a = forest_of(data)
    _, b = forest_of(data, max_depth=3)
    both = concatenate_ensembles([a, TreeEnsemble.empty(), b])
    x = data[0][:4]
    result = evaluate_trees(both, x, np.array([0, 20, 0, 40]), np.array([20, 40, 40, 40]))
    expected = [
        evaluate_trees(a, x)[0],
        evaluate_trees(b, x)[1],
        evaluate_trees(a, x)[2] + evaluate_trees(b, x)[2],
        0.0,
    ]
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_no_trees_and_no_rows_are_zero(data):
    assert evaluate_trees(TreeEnsemble.empty(), data[0][:3]).tolist() == [0.0, 0.0, 0.0]
    assert evaluate_trees(forest_of(data)[1], data[0][:0]).shape == (0,)
    validate_trees(TreeEnsemble.empty(), 7)


def test_thresholds_are_rounded_down():
    values = np.array([0.1, -0.1, 1.0, 1e-35, 16777217.0])
    floored = round_down_to_float32(values).astype(np.float64)
    assert (floored <= values).all()
    assert (np.nextafter(floored.astype(np.float32), np.float32(np.inf)).astype(np.float64) > values).all()


def broken(forest: TreeEnsemble, **changes: tuple[int, float]) -> TreeEnsemble:
    arrays = {}
    for name, (at, value) in changes.items():
        arrays[name] = getattr(forest, name).copy()
        arrays[name][at] = value
    return replace(forest, **arrays)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"left": (0, 10**6)}, "child index"),
        ({"right": (0, 0)}, "child index"),
        ({"left": (0, -5)}, "child index"),
        ({"left": (0, 1), "right": (0, 1)}, "two parents"),
        ({"feature": (0, 7)}, "column that does not exist"),
        ({"feature": (0, -2)}, "column that does not exist"),
        ({"threshold": (0, np.nan)}, "finite"),
        ({"value": (3, np.inf)}, "finite"),
        ({"roots": (0, 1)}, "roots"),
        ({"roots": (-1, 10**7)}, "roots"),
        ({"roots": (1, 0)}, "increase"),
    ],
)
def test_arrays_that_are_not_trees_are_refused(data, changes, message):
    with pytest.raises(PredictorError, match=message):
        validate_trees(broken(forest_of(data)[1], **changes), 7)


def test_a_child_in_another_tree_is_refused(data):
    forest = forest_of(data)[1]
    second = int(forest.roots[1])
    with pytest.raises(PredictorError, match="child index"):
        validate_trees(broken(forest, left=(0, second + 1)), 7)


def test_a_tree_as_deep_as_a_list_is_refused():
    n = 3001
    feature = np.where(np.arange(n) % 2 == 0, 0, -1).astype(np.int16)
    feature[-1] = -1
    left = np.where(feature >= 0, np.arange(n) + 1, 0).astype(np.int32)
    right = np.where(feature >= 0, np.arange(n) + 2, 0).astype(np.int32)
    zeros = np.zeros(n, np.float32)
    with pytest.raises(PredictorError, match="deeper"):
        validate_trees(TreeEnsemble(feature, zeros, left, right, zeros, np.zeros(1, np.int32)), 1)


def test_arrays_of_different_length_are_refused(data):
    forest = forest_of(data)[1]
    with pytest.raises(PredictorError, match="length"):
        validate_trees(replace(forest, value=forest.value[:-1]), 7)
