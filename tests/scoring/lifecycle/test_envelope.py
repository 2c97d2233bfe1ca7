"""The lower envelope is the best line everywhere, and break-even points are exact."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from deepen.scoring.lifecycle import (
    LifecycleCandidates,
    LifecycleConditions,
    analyse_lifecycle,
    compute_break_even,
    compute_greenness,
    find_lower_envelope,
)
from deepen.scoring.lifecycle.envelope import list_orders


def random_lines(generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Lines of many shapes: clouds, curves where all are best somewhere, coarse grids full of ties."""
    match generator.integers(4):
        case 0:
            return generator.lognormal(3, 2, n), generator.lognormal(0, 2, n)
        case 1:
            a = np.sort(generator.lognormal(0, 1, n))
            return a, 1 / a
        case 2:
            return generator.integers(0, 6, n).astype(float), generator.integers(0, 6, n).astype(float)
        case _:
            return generator.uniform(1, 1.001, n), generator.uniform(1, 1.001, n)


def test_envelope_equals_brute_force_on_a_thousand_sets() -> None:
    generator = np.random.default_rng(7)
    for _ in range(1000):
        a, b = random_lines(generator, int(generator.integers(1, 40)))
        found = find_lower_envelope(a, b)
        assert (np.diff(found.breaks) >= 0).all()
        # Everywhere: at and around every crossing of any two lines, at 0, and far out.
        i, j = np.triu_indices(a.size, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            x = (a[j] - a[i]) / (b[i] - b[j])
        x = x[np.isfinite(x) & (x > 0)]
        x = np.concatenate([[0.0, 1e12], x, x * 0.999, x * 1.001])
        cost = a[:, None] + b[:, None] * x
        best = found.at(x)
        np.testing.assert_allclose(a[best] + b[best] * x, cost.min(axis=0), rtol=1e-12)


def test_every_line_of_the_envelope_is_strictly_best_somewhere_in_rational_numbers() -> None:
    generator = np.random.default_rng(8)
    for _ in range(200):
        a, b = random_lines(generator, 25)
        found = find_lower_envelope(a, b)
        points = [(Fraction(float(a[i])), Fraction(float(b[i]))) for i in found.lines]
        edges = [Fraction(0)]
        for (a0, b0), (a1, b1) in pairwise(points):
            edges.append((a1 - a0) / (b0 - b1))
        assert all(p < q for p, q in pairwise(edges[1:]))
        edges.append(edges[-1] + 2)
        for k, (pa, pb) in enumerate(points):
            x = (edges[k] + edges[k + 1]) / 2
            equal = {found.lines[k], *found.tied[k]}
            for m in range(a.size):
                other = Fraction(float(a[m])) + Fraction(float(b[m])) * x
                assert pa + pb * x < other or (m in equal and pa + pb * x == other) or edges[k] == edges[k + 1]


def test_three_lines_through_one_point_are_told_apart_by_exact_arithmetic() -> None:
    """The middle line passes through the crossing of the others: it is best nowhere; a hair lower, it is."""
    a, b = np.array([0.1, 0.2, 0.3]), np.array([0.3, 0.2, 0.1])
    middle = Fraction(0.1) + (Fraction(0.3) - Fraction(0.1)) / 2
    lower = (Fraction(0.2) - Fraction(0.1)) * (Fraction(0.1) - Fraction(0.3)) > (Fraction(0.2) - Fraction(0.3)) * (
        Fraction(0.3) - Fraction(0.1)
    )
    assert (1 in find_lower_envelope(a, b).lines) is lower
    assert find_lower_envelope(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])).lines == (0, 2)
    below = np.nextafter(2.0, 0)
    assert find_lower_envelope(np.array([1.0, 2.0, 3.0]), np.array([3.0, below, 1.0])).lines == (0, 1, 2)
    assert middle > 0


def test_equal_lines_are_told() -> None:
    found = find_lower_envelope(np.array([2.0, 1.0, 1.0, 2.0]), np.array([0.5, 1.0, 1.0, 0.5]))
    assert found.lines == (1, 0)
    assert found.tied == ((2,), (3,))
    assert found.breaks.tolist() == [2.0]
    with pytest.raises(ValueError, match="at least one line"):
        find_lower_envelope(np.empty(0), np.empty(0))


def test_all_orders_equal_sorting_everywhere() -> None:
    generator = np.random.default_rng(9)
    a, b = generator.lognormal(3, 2, 12), generator.lognormal(0, 2, 12)
    orders = list_orders(a, b)
    assert orders[0][0] == 0
    assert orders[-1][1] == math.inf
    for (_, end, _), (start, _, _) in pairwise(orders):
        assert end == start
    for x in np.geomspace(1e-4, 1e6, 500):
        order = next(o for start, end, o in orders if start <= x < end)
        assert list(order) == np.argsort(a + b * x).tolist()


def pair(
    accuracy: tuple[float, float], training_j: tuple[float, float], inference_j: tuple[float, float]
) -> LifecycleCandidates:
    parts = np.zeros((2, 3))
    parts[:, 0] = training_j
    return LifecycleCandidates(("a", "b"), np.array(accuracy), parts, np.array(inference_j))


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0, 3.7])
def test_break_even_to_1e_9(tau: float) -> None:
    """Against rational numbers (whole tau) or 80 digits, down to energies that differ in the last bits."""
    from decimal import Decimal, localcontext

    generator = np.random.default_rng(3)
    checked = 0
    for _ in range(300):
        t = generator.lognormal(20, 2, 2)
        e = generator.lognormal(-3, 1) * (1 + generator.uniform(-1, 1, 2) * 10.0 ** generator.integers(-14, 0))
        acc = generator.uniform(0.5, 1.0) + np.array(
            [0, generator.uniform(-0.1, 0.1) * 10.0 ** generator.integers(-12, 0)]
        )
        acc = np.clip(acc, 0.01, 1)
        candidates = pair((acc[0], acc[1]), (t[0], t[1]), (e[0], e[1]))
        found = compute_break_even(candidates, LifecycleConditions(tau=tau), 0, 1)
        with localcontext() as context:
            context.prec = 80
            merit = [Decimal(float(x)) ** Decimal(tau) for x in acc]
            over = merit[0] * Decimal(float(t[1])) - merit[1] * Decimal(float(t[0]))
            under = merit[1] * Decimal(float(e[0])) - merit[0] * Decimal(float(e[1]))
            true = float(over / under) if under else math.nan
        if math.isnan(true) or true < 0:
            assert math.isnan(found)
        else:
            assert found == pytest.approx(true, rel=1e-9)
            checked += 1
    assert checked > 60


def test_break_even_in_numbers() -> None:
    plain = pair((0.5, 0.5), (1e6, 4e6), (5.0, 2.0))
    assert compute_break_even(plain, LifecycleConditions(), 0, 1) == 1e6
    assert compute_break_even(plain, LifecycleConditions(), 1, 0) == 1e6
    assert compute_break_even(plain, LifecycleConditions(training_pue=1.5), 0, 1) == 1.5e6
    assert compute_break_even(plain, LifecycleConditions(inference_pue=2.0), 0, 1) == 0.5e6
    # (0.8 * 3e6 - 0.5 * 1e6) / (0.5 * 5 - 0.8 * 2): b is less accurate, and overtakes all the same
    other = pair((0.8, 0.5), (1e6, 3e6), (5.0, 2.0))
    assert compute_break_even(other, LifecycleConditions(), 0, 1) == pytest.approx(
        (0.8 * 3e6 - 0.5 * 1e6) / (0.5 * 5 - 0.8 * 2), rel=1e-12
    )
    assert math.isnan(compute_break_even(pair((0.5, 0.5), (1.0, 2.0), (1.0, 2.0)), LifecycleConditions(), 0, 1))
    assert math.isnan(compute_break_even(pair((0.5, 0.5), (1.0, 1.0), (1.0, 1.0)), LifecycleConditions(), 0, 1))


def test_greenness_is_equal_at_break_even() -> None:
    candidates = pair((0.8, 0.7), (1e6, 9e6), (5.0, 0.5))
    for tau in (0.0, 1.0, 2.5):
        conditions = LifecycleConditions(
            tau=tau, training_pue=1.59, training_g_per_kwh=300, inference_g_per_kwh=40, objective="carbon"
        )
        at = compute_break_even(candidates, conditions, 0, 1)
        g = compute_greenness(candidates, conditions, at)
        assert g[0] == pytest.approx(g[1], rel=1e-12)
        assert (
            compute_greenness(candidates, conditions, at * 0.9)[0]
            > compute_greenness(candidates, conditions, at * 0.9)[1]
        )


def test_greenness_by_hand() -> None:
    candidates = pair((0.8, 0.5), (1e6, 3e6), (5.0, 2.0))
    assert compute_greenness(candidates, LifecycleConditions(tau=2), 1e5)[0] == pytest.approx(0.64 / 1.5e6)
    grams = LifecycleConditions(tau=0, training_g_per_kwh=360, inference_g_per_kwh=36, objective="carbon")
    assert compute_greenness(candidates, grams, 1e5)[0] == pytest.approx(1 / (1e6 * 1e-4 + 5e5 * 1e-5))


def test_a_hundred_thousand_candidates_have_the_envelope_of_brute_force() -> None:
    generator = np.random.default_rng(1)
    n = 100_000
    parts = np.zeros((n, 3))
    parts[:, 0] = generator.lognormal(15, 2, n)
    candidates = LifecycleCandidates(
        tuple(map(str, range(n))), generator.uniform(0.5, 0.9, n), parts, generator.lognormal(-5, 1, n)
    )
    found = analyse_lifecycle(candidates)
    cost_a, cost_b = parts[:, 0] / candidates.accuracy, candidates.inference_j / candidates.accuracy
    for x in np.geomspace(1, 1e15, 60):
        assert found.candidates.names[int(found.envelope.at(x))] == str(int(np.argmin(cost_a + cost_b * x)))
    assert len(found.never_best()) == n - len(found.regimes)
