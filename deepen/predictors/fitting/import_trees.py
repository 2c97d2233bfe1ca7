"""Trees that scikit-learn or LightGBM grew, as :class:`TreeEnsemble`.

Columns are float32 and a float64 threshold ``t`` is stored as the largest float32 not above ``t``; then ``x <= t`` has
the same answer for every float32 ``x``, and predictions equal those of the library that grew the trees up to the
rounding of leaf values to float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.errors import PredictorError
from deepen.predictors.inference.tree_ensemble import TreeEnsemble, concatenate_ensembles

__all__ = ["convert_lightgbm_booster", "convert_sklearn_trees", "round_down_to_float32"]

_LEAF = -1


def round_down_to_float32(threshold: NDArray[np.float64]) -> NDArray[np.float32]:
    """Round each value to the largest float32 not above it."""
    rounded = threshold.astype(np.float32)
    above = rounded.astype(np.float64) > threshold
    return np.where(above, np.nextafter(rounded, np.float32(-np.inf)), rounded).astype(np.float32)


def convert_sklearn_trees(estimators: Sequence[Any], columns: NDArray[np.int64], weight: float = 1.0) -> TreeEnsemble:
    """Flatten a fitted scikit-learn forest; the mean over its trees becomes a sum.

    Args:
        estimators: Fitted ``DecisionTreeRegressor`` (``forest.estimators_``).
        columns: Column that each fitted feature stands for.
        weight: Factor on every leaf.
    """
    parts = []
    for estimator in estimators:
        tree = estimator.tree_
        inner = tree.children_left != _LEAF
        value = np.where(inner, 0.0, tree.value[:, 0, 0]) * (weight / len(estimators))
        parts.append(
            TreeEnsemble(
                np.where(inner, columns[np.where(inner, tree.feature, 0)], _LEAF).astype(np.int16),
                round_down_to_float32(np.where(inner, tree.threshold, 0.0)),
                np.where(inner, tree.children_left, 0).astype(np.int32),
                np.where(inner, tree.children_right, 0).astype(np.int32),
                value.astype(np.float32),
                np.zeros(1, np.int32),
            )
        )
    return concatenate_ensembles(parts)


def convert_lightgbm_booster(booster: Any, columns: NDArray[np.int64], weight: float = 1.0) -> TreeEnsemble:
    """Flatten a LightGBM booster trained on finite numerical columns.

    Reads LightGBM's text form (``Tree::ToString`` in its sources): inner nodes are numbered from 0 in the order of
    their splits, a child ``c < 0`` is leaf ``~c``; of ``decision_type``, bit 0 means categorical and bits 2-3 the
    treatment of missing values.

    Args:
        booster: ``lightgbm.Booster``.
        columns: Column that each fitted feature stands for.
        weight: Factor on every leaf.

    Raises:
        PredictorError: If the booster uses categorical splits or missing values, which deepen never trains.
    """
    blocks = booster.model_to_string().split("\nTree=")[1:]
    return concatenate_ensembles([_convert_lightgbm_tree(block, columns, weight) for block in blocks])


def _convert_lightgbm_tree(block: str, columns: NDArray[np.int64], weight: float) -> TreeEnsemble:
    fields = dict(line.split("=", 1) for line in block.split("\n\n", 1)[0].splitlines() if "=" in line)

    def numbers(name: str) -> NDArray[np.float64]:
        return np.array(fields.get(name, "").split(), dtype=np.float64)

    value = numbers("leaf_value") * weight
    inner = value.size - 1
    split = numbers("split_feature")[:inner].astype(np.int64)
    if (numbers("decision_type").astype(np.int64)[:inner] & 0b1101).any():
        raise PredictorError("a booster with categorical or missing-value splits cannot be stored")

    def child(name: str) -> NDArray[np.int32]:
        index = numbers(name)[:inner].astype(np.int64)
        at = np.where(index >= 0, index, inner - index - 1)
        return np.concatenate([at, np.zeros(value.size)]).astype(np.int32)

    return TreeEnsemble(
        np.concatenate([columns[split], np.full(value.size, _LEAF)]).astype(np.int16),
        np.concatenate([round_down_to_float32(numbers("threshold")[:inner]), np.zeros(value.size, np.float32)]),
        child("left_child"),
        child("right_child"),
        np.concatenate([np.zeros(inner), value]).astype(np.float32),
        np.zeros(1, np.int32),
    )
