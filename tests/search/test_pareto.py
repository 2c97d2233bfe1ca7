"""Fronts, hypervolumes, knees: against brute force."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from deepen.errors import ConfigError
from deepen.search import pareto

Points = NDArray[np.float64]


def brute_mask(points: Points) -> NDArray[np.bool_]:
    below = (points[:, None, :] <= points[None, :, :]).all(axis=2) & (points[:, None, :] < points[None, :, :]).any(
        axis=2
    )
    return np.asarray(~below.any(axis=0))


def grid_volume(points: Points, reference: Points) -> float:
    """Exact: every cell of the grid through all coordinates is either dominated or not."""
    edges = [np.unique(np.append(np.minimum(points[:, j], reference[j]), reference[j])) for j in range(points.shape[1])]
    total = 0.0
    for cell in itertools.product(*(range(len(e) - 1) for e in edges)):
        corner = np.array([e[i] for e, i in zip(edges, cell, strict=True)])
        if (points <= corner).all(axis=1).any():
            total += float(np.prod([e[i + 1] - e[i] for e, i in zip(edges, cell, strict=True)]))
    return total


def drawn(seed: int, n: int, m: int, ties: bool) -> Points:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 7, (n, m)).astype(float) if ties else rng.random((n, m))


@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_front_is_that_of_brute_force(m: int, ties: bool, seed: int) -> None:
    points = drawn(seed, 300, m, ties)
    assert (pareto.mark_nondominated(points) == brute_mask(points)).all()


@pytest.mark.parametrize("ties", [False, True])
def test_front_without_moocore(ties: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "moocore", None)
    points = drawn(3, 1500, 3, ties)
    assert (pareto.mark_nondominated(points) == brute_mask(points)).all()
    assert pareto.compute_hypervolume(points[:, :2], [8.0, 8.0]) > 0
    with pytest.raises(ConfigError, match=r"deepen\[search\]"):
        pareto.compute_hypervolume(points, [8.0, 8.0, 8.0])


def test_front_is_in_order_and_each_point_once() -> None:
    points = np.array([[3.0, 1.0], [1.0, 3.0], [1.0, 3.0], [2.0, 2.0], [2.0, 5.0]])
    assert pareto.find_pareto_front(points).tolist() == [1, 3, 0]
    assert pareto.mark_nondominated(points).tolist() == [True, True, True, True, False]


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_hypervolume_is_that_of_the_grid(m: int, seed: int) -> None:
    if m > 2:
        pytest.importorskip("moocore")
    points = drawn(seed, 12, m, ties=seed % 2 == 0)
    reference = np.full(m, 0.9 if seed % 2 else 5.0)
    assert pareto.compute_hypervolume(points, reference) == pytest.approx(grid_volume(points, reference), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_two_objectives_agree_with_moocore(seed: int) -> None:
    moocore = pytest.importorskip("moocore")
    points = drawn(seed, 500, 2, ties=False)
    assert pareto.compute_hypervolume(points, [0.8, 0.7]) == pytest.approx(
        moocore.hypervolume(points, ref=[0.8, 0.7]), rel=1e-12
    )


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("ties", [False, True])
def test_contributions_are_what_is_lost(m: int, ties: bool) -> None:
    if m > 2:
        pytest.importorskip("moocore")
    points = drawn(1, 60, m, ties)
    reference = np.full(m, 8.0 if ties else 1.1)
    on_front = brute_mask(points)
    expected = np.zeros(len(points))
    for i in np.flatnonzero(on_front):
        rest = np.delete(points, i, axis=0)[np.delete(on_front, i)]
        expected[i] = pareto.compute_hypervolume(points[on_front], reference) - pareto.compute_hypervolume(
            rest, reference
        )
    assert pareto.compute_contributions(points, reference) == pytest.approx(expected, abs=1e-12)


def test_knee_and_extremes() -> None:
    points = np.array([[0.0, 10.0], [1.0, 2.0], [10.0, 0.0], [5.0, 1.8], [0.0, 11.0]])
    assert pareto.find_knee(points) == 1
    assert pareto.find_extremes(points).tolist() == [0, 2]


def test_extremes_break_ties_by_the_other_objectives() -> None:
    points = np.array([[1.0, 5.0, 1.0], [1.0, 2.0, 9.0], [1.0, 2.0, 3.0]])
    assert pareto.find_extremes(points)[0] == 2


def test_quality_against_the_truth() -> None:
    truth = np.array([[0.0, 2.0], [1.0, 1.0], [2.0, 0.0], [2.0, 2.0]])
    all_of_it = pareto.assess_front(truth, truth)
    assert (all_of_it.recall, all_of_it.regret, all_of_it.front) == (1.0, 0.0, 3)
    some = pareto.assess_front(truth[[1, 3]], truth)
    assert some.recall == pytest.approx(1 / 3)
    assert some.regret == 0.0  # the extremes lie on the edge of the reference point
    none = pareto.assess_front(np.zeros((0, 2)), truth)
    assert (none.recall, none.hypervolume, none.regret) == (0.0, 0.0, 0.25)


def test_ranks_peel_fronts() -> None:
    points = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    assert pareto.rank_fronts(points).tolist() == [0, 0, 1, 2]


def test_malformed_points_are_refused() -> None:
    with pytest.raises(ConfigError, match="point 1 has a value that is missing"):
        pareto.find_pareto_front([[1.0, 2.0], [np.nan, 1.0]])
    with pytest.raises(ConfigError, match="shape"):
        pareto.find_pareto_front([1.0, 2.0])
    with pytest.raises(ConfigError, match="finite"):
        pareto.compute_hypervolume([[1.0, 2.0]], [np.inf, 1.0])
    with pytest.raises(ConfigError, match="at least one"):
        pareto.find_knee(np.zeros((0, 2)))
    with pytest.raises(ConfigError, match="at least one"):
        pareto.find_extremes(np.zeros((0, 2)))


def test_no_points_have_no_front() -> None:
    assert pareto.find_pareto_front(np.zeros((0, 2))).size == 0
    assert pareto.compute_hypervolume(np.zeros((0, 2)), [1.0, 1.0]) == 0.0
