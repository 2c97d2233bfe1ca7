"""Sizes of the tree ensembles of ``ai.onnx.ml``: trees, nodes, and the nodes a row visits on its way to the leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.graph.types import Node

__all__ = ["TREE_OPS", "TreeEnsembleSize", "measure_tree_ensemble"]

TREE_OPS = ("TreeEnsembleRegressor", "TreeEnsembleClassifier", "TreeEnsemble")

_MOST_LEVELS = 4096
"""Levels followed before a file is taken to be damaged (its nodes form a circle)."""


@dataclass(frozen=True, slots=True)
class TreeEnsembleSize:
    """Size of an ensemble.

    Attributes:
        trees: Number of trees.
        nodes: Number of branches and leaves.
        depth: Branches a row passes in a tree: the mean over the leaves, rounded, at least 1.
        targets: Values added up for each row.
    """

    trees: int
    nodes: int
    depth: int
    targets: int


_last_measured: list[tuple[Node, TreeEnsembleSize]] = []
"""The last ensemble measured: its operations and its bytes are counted one after the other."""


def _get_numbers(node: Node, name: str) -> NDArray[np.int64]:
    found = node.attributes.get(name)
    return np.zeros(0, np.int64) if found is None else np.asarray(found).reshape(-1).astype(np.int64)


def measure_tree_ensemble(node: Node) -> TreeEnsembleSize:
    """Measure the ensemble of a node in time linear in its attributes.

    A row ends in some leaf of each tree, and all leaves count alike: which are visited more often is a matter of data.
    Attributes that contradict each other are read as far as they go; the runtime is who refuses them.

    Args:
        node: One of :data:`TREE_OPS`; long attributes may be tuples or arrays.
    """
    if _last_measured and _last_measured[0][0] is node:
        return _last_measured[0][1]
    if node.op_type == "TreeEnsemble":
        trees, nodes, depth = _measure_numbered(node)
        targets = int(node.attributes.get("n_targets", 1) or 1)
    else:
        trees, nodes, depth = _measure_by_tree(node)
        targets = int(node.attributes.get("n_targets", 0) or 0) or _count_classes(node)
    found = TreeEnsembleSize(trees, nodes, max(1, round(depth)), max(1, targets))
    _last_measured[:] = [(node, found)]
    return found


def _count_classes(node: Node) -> int:
    labels: Any = node.attributes.get("classlabels_int64s")
    if labels is None or not len(labels):
        labels = node.attributes.get("classlabels_strings") or ()
    return len(labels)


def _measure_by_tree(node: Node) -> tuple[int, int, float]:
    """Measure nodes that are named by the number of their tree and their number in it.

    1. The row of each node, found by sorting (tree, number).
    2. The rows of each branch's children; a leaf has none. A node whose two children are itself, or node 0, is a leaf
       (exporters write 0 for both).
    3. Levels from the roots, which are nobody's child.
    """
    tree, number = _get_numbers(node, "nodes_treeids"), _get_numbers(node, "nodes_nodeids")
    yes, no = _get_numbers(node, "nodes_truenodeids"), _get_numbers(node, "nodes_falsenodeids")
    count = min(map(len, (tree, number, yes, no)))
    if not count:
        return 0, 0, 0.0
    tree, number, yes, no = tree[:count], number[:count], yes[:count], no[:count]
    # 1
    span = int(max(number.max(), yes.max(), no.max())) + 1
    key = tree * span + number
    sorted_already = bool((key[1:] > key[:-1]).all())
    order = np.arange(count) if sorted_already else np.lexsort((number, tree))
    key = key[order]

    def find_rows(child: NDArray[np.int64]) -> NDArray[np.int64]:
        wanted = tree * span + child
        place = np.minimum(np.searchsorted(key, wanted), count - 1)
        return np.where(key[place] == wanted, order[place], -1)

    # 2
    leaf = yes == no
    children = np.stack([np.where(leaf, -1, find_rows(yes)), np.where(leaf, -1, find_rows(no))])
    # 3
    is_child = np.zeros(count, bool)
    is_child[children[children >= 0]] = True
    return len(np.unique(tree)), count, _measure_mean_leaf_depth(np.flatnonzero(~is_child), children)


def _measure_numbered(node: Node) -> tuple[int, int, float]:
    """Measure the ``TreeEnsemble`` of version 5: branches are numbered through, and their children may be leaves."""
    roots = _get_numbers(node, "tree_roots")
    sides = []
    for side in ("true", "false"):
        child, leaf = _get_numbers(node, f"nodes_{side}nodeids"), _get_numbers(node, f"nodes_{side}leafs")
        count = min(len(child), len(leaf))
        sides.append(np.where(leaf[:count] != 0, -1, child[:count]))
    count = min(map(len, sides))
    children = np.stack([side[:count] for side in sides]) if count else np.zeros((2, 0), np.int64)
    children = np.where(children < count, children, -1)
    leaves = len(_get_numbers(node, "leaf_targetids"))
    depth = _measure_mean_leaf_depth(roots[(roots >= 0) & (roots < count)], children, ends_are_leaves=False)
    return len(roots), count + leaves, depth


def _measure_mean_leaf_depth(
    roots: NDArray[np.int64], children: NDArray[np.int64], ends_are_leaves: bool = True
) -> float:
    """Mean number of branches above a leaf.

    Args:
        roots: Rows of the roots.
        children: Rows of the two children, shape (2, nodes); -1 for none.
        ends_are_leaves: Whether a node without children is a leaf; else each child that is -1 stands for one.
    """
    level, leaves, total, seen = roots, 0, 0, 0
    for depth in range(_MOST_LEVELS):
        if not len(level) or seen > children.shape[1]:
            break
        seen += len(level)
        below = children[:, level]
        ends = int((below < 0).all(axis=0).sum()) if ends_are_leaves else int((below < 0).sum())
        leaves += ends
        total += ends * (depth if ends_are_leaves else depth + 1)
        level = below[below >= 0]
    return total / leaves if leaves else 0.0
