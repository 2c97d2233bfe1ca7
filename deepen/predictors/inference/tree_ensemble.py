"""Tree ensembles as flat arrays, and one vectorised evaluator for all of them.

:mod:`deepen.predictors.fitting.import_trees` makes them of trees that other libraries grew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepen.errors import PredictorError

__all__ = [
    "TreeEnsemble",
    "concatenate_ensembles",
    "evaluate_trees",
    "validate_trees",
]

_LEAF = -1
_MAX_DEPTH = 512


@dataclass(frozen=True, slots=True)
class TreeEnsemble:
    """Trees whose sum is the prediction.

    Attributes:
        feature: Column each node looks at, -1 in a leaf; int16, shape (nodes,).
        threshold: Go left where ``column <= threshold``; float32, shape (nodes,).
        left: Index of the left child, greater than the node's own; int32, shape (nodes,).
        right: Index of the right child, greater than the node's own; int32, shape (nodes,).
        value: Addend of a leaf; float32, shape (nodes,).
        roots: Index of each tree's root, ascending; int32, shape (trees,).
    """

    feature: NDArray[np.int16]
    threshold: NDArray[np.float32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: NDArray[np.float32]
    roots: NDArray[np.int32]

    @staticmethod
    def empty() -> TreeEnsemble:
        """A forest without trees; it predicts zero."""
        i = np.zeros(0, np.int32)
        f = np.zeros(0, np.float32)
        return TreeEnsemble(np.zeros(0, np.int16), f, i, i, f, i)


def concatenate_ensembles(forests: Sequence[TreeEnsemble]) -> TreeEnsemble:
    """Put forests behind each other; their predictions add."""
    forests = [f for f in forests if f.roots.size]
    if not forests:
        return TreeEnsemble.empty()
    sizes = [f.feature.size for f in forests]
    offsets = np.cumsum([0, *sizes[:-1]])
    shift = np.repeat(offsets, sizes)
    feature = np.concatenate([f.feature for f in forests])
    inner = feature >= 0
    return TreeEnsemble(
        feature,
        np.concatenate([f.threshold for f in forests]),
        np.where(inner, np.concatenate([f.left for f in forests]) + shift, 0).astype(np.int32),
        np.where(inner, np.concatenate([f.right for f in forests]) + shift, 0).astype(np.int32),
        np.concatenate([f.value for f in forests]),
        np.concatenate([f.roots + o for f, o in zip(forests, offsets, strict=True)]).astype(np.int32),
    )


def evaluate_trees(
    forest: TreeEnsemble,
    columns: NDArray[np.float32],
    tree_start: NDArray[np.int32] | None = None,
    tree_stop: NDArray[np.int32] | None = None,
) -> NDArray[np.float64]:
    """Sum the trees for every row; all rows and trees descend one level at a time together.

    Args:
        forest: The trees.
        columns: float32, shape (n, columns).
        tree_start: First tree of each row, shape (n,); default: all trees for every row.
        tree_stop: One past the last tree of each row, shape (n,).

    Returns:
        float64, shape (n,); zero for rows without trees.
    """
    n = columns.shape[0]
    if not forest.roots.size or not n:
        return np.zeros(n)
    start = np.zeros(n, np.int64) if tree_start is None else tree_start.astype(np.int64)
    stop = np.full(n, forest.roots.size, np.int64) if tree_stop is None else tree_stop.astype(np.int64)
    count = stop - start
    row = np.repeat(np.arange(n), count)
    within = np.arange(row.size) - np.repeat(np.cumsum(count) - count, count)
    node = forest.roots[np.repeat(start, count) + within].astype(np.int64)
    flat = np.ascontiguousarray(columns).ravel()
    base = row * columns.shape[1]
    active = np.flatnonzero(forest.feature[node] >= 0)
    while active.size:
        at = node[active]
        goes_left = flat[base[active] + forest.feature[at]] <= forest.threshold[at]
        at = np.where(goes_left, forest.left[at], forest.right[at])
        node[active] = at
        active = active[forest.feature[at] >= 0]
    return np.bincount(row, weights=forest.value[node], minlength=n).astype(np.float64)


def validate_trees(forest: TreeEnsemble, columns: int) -> None:
    """Check arrays that come from outside: every index in range, every tree finite and without cycles.

    Raises:
        PredictorError: Naming what is wrong.
    """
    nodes = forest.feature.size
    arrays = (forest.threshold, forest.left, forest.right, forest.value)
    if any(a.shape != (nodes,) for a in arrays) or forest.roots.ndim != 1:
        raise PredictorError("tree arrays differ in length")
    if not (np.isfinite(forest.threshold).all() and np.isfinite(forest.value).all()):
        raise PredictorError("tree thresholds and values must be finite")
    if nodes and (int(forest.feature.max()) >= columns or int(forest.feature.min()) < _LEAF):
        raise PredictorError("a tree looks at a column that does not exist")
    roots = forest.roots
    if bool(nodes) != bool(roots.size) or (roots.size and (int(roots[0]) != 0 or int(roots[-1]) >= nodes)):
        raise PredictorError("tree roots out of range")
    if not nodes:
        return
    if not bool(np.all(np.diff(roots) > 0)):
        raise PredictorError("tree roots must increase")
    sizes = np.diff(np.append(roots, nodes))
    end = np.repeat(np.append(roots[1:], nodes), sizes)
    inner = forest.feature >= 0
    own = np.arange(nodes)
    for child in (forest.left, forest.right):
        if bool(np.any(inner & ((child <= own) | (child >= end)))):
            raise PredictorError("a tree's child index is out of range")
    children = np.concatenate([forest.left[inner], forest.right[inner]])
    if children.size and int(np.bincount(children, minlength=nodes).max()) > 1:
        raise PredictorError("a tree's node has two parents")
    frontier = roots[inner[roots]]
    for _ in range(_MAX_DEPTH):
        if not frontier.size:
            return
        frontier = np.concatenate([forest.left[frontier], forest.right[frontier]])
        frontier = frontier[inner[frontier]]
    raise PredictorError(f"a tree is deeper than {_MAX_DEPTH} levels")
