"""The lower envelope of straight lines over x >= 0: the lowest line for every x.

A line ``a + b x`` with a and b from 0 up is lowest somewhere on x >= 0 only if the point (a, b) is on the lower left
part of the convex hull of all points, so no sweep over x is needed.

1. Points that another one dominates are removed by sorting.
2. The hull of the rest is computed by Andrew's monotone chain (Information Processing Letters 9, 1979). The turn of
   three points is computed in floating point if its sign is certain, else in rational numbers, so that the result is
   the envelope of exactly the lines given.
3. Breaks are the crossings of neighbours on the hull.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["LowerEnvelope", "find_lower_envelope", "list_orders"]

_CERTAIN = 8 * float(np.finfo(np.float64).eps)
"""Share of the two products within which rounding (half an epsilon for each of three operations) may turn the sign."""

_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LowerEnvelope:
    """Lower envelope of straight lines: the lowest line for each range of x.

    Attributes:
        lines: Indices of the lines that are lowest somewhere, by ascending x; shape (m,).
        breaks: x at which the next line becomes the lowest; float64, shape (m - 1,).
        tied: For each of ``lines``, the lines that equal it everywhere.
    """

    lines: tuple[int, ...]
    breaks: _Floats
    tied: tuple[tuple[int, ...], ...]

    def at(self, x: float | _Floats) -> NDArray[np.intp]:
        """Index of the lowest line at x; of two equal ones, the one that is lowest above x."""
        return np.asarray(self.lines, dtype=np.intp)[np.searchsorted(self.breaks, x, side="right")]


def find_lower_envelope(a: _Floats, b: _Floats) -> LowerEnvelope:
    """Find the lower envelope of the lines ``a + b x`` over x >= 0.

    Args:
        a: Intercepts from 0 up; float64, shape (n,), n at least 1.
        b: Slopes from 0 up; float64, shape (n,).

    Raises:
        ValueError: If there is no line.
    """
    if a.size == 0:
        raise ValueError("an envelope needs at least one line")
    # 1. Intercepts are ascending, so a line that is not flatter than all before it is nowhere below them.
    order = np.lexsort((np.arange(a.size), b, a))
    slopes = b[order]
    flatter = np.concatenate([[True], slopes[1:] < np.minimum.accumulate(slopes)[:-1]])
    candidates = order[flatter]
    # 2
    hull: list[int] = []
    xs, ys = a[candidates].tolist(), b[candidates].tolist()
    for k in range(len(xs)):
        while len(hull) >= 2 and not _lies_below_chord(xs, ys, hull[-2], hull[-1], k):
            hull.pop()
        hull.append(k)
    # 3
    chosen = candidates[hull]
    breaks = np.diff(a[chosen]) / -np.diff(b[chosen])
    return LowerEnvelope(tuple(int(i) for i in chosen), np.maximum.accumulate(breaks), _find_ties(a, b, chosen))


def _lies_below_chord(xs: list[float], ys: list[float], i: int, j: int, k: int) -> bool:
    """Return whether point j lies strictly below the straight line from i to k; all coordinates are exact."""
    one = (xs[j] - xs[i]) * (ys[k] - ys[i])
    other = (ys[j] - ys[i]) * (xs[k] - xs[i])
    difference = one - other
    if abs(difference) > _CERTAIN * (abs(one) + abs(other)):
        return difference > 0
    x, y = [Fraction(xs[n]) for n in (i, j, k)], [Fraction(ys[n]) for n in (i, j, k)]
    return (x[1] - x[0]) * (y[2] - y[0]) > (y[1] - y[0]) * (x[2] - x[0])


def _find_ties(a: _Floats, b: _Floats, chosen: NDArray[np.intp]) -> tuple[tuple[int, ...], ...]:
    order = np.lexsort((np.arange(a.size), b, a))
    position = np.empty(order.size, dtype=np.intp)
    position[order] = np.arange(order.size)
    found = []
    for i in chosen:
        same = []
        k = int(position[i]) + 1  # the first of equal lines is the chosen one
        while k < order.size and a[order[k]] == a[i] and b[order[k]] == b[i]:
            same.append(int(order[k]))
            k += 1
        found.append(tuple(same))
    return tuple(found)


def list_orders(a: _Floats, b: _Floats) -> list[tuple[float, float, tuple[int, ...]]]:
    """List the order of all lines, lowest first, for every x >= 0.

    Args:
        a: Intercepts; float64, shape (n,); the number of orders grows with n squared.
        b: Slopes; float64, shape (n,).

    Returns:
        ``(from, to, order)`` with orders that change from one to the next; ``to`` of the last is infinite.
    """
    i, j = np.triu_indices(a.size, 1)
    slope = b[i] - b[j]
    with np.errstate(divide="ignore", invalid="ignore"):
        x = (a[j] - a[i]) / slope
    crossings = np.unique(x[np.isfinite(x) & (x > 0)])
    edges = np.concatenate([[0.0], crossings, [np.inf]])
    found: list[tuple[float, float, tuple[int, ...]]] = []
    for start, end in pairwise(edges.tolist()):
        middle = (start + end) / 2 if end < np.inf else 2 * start + 1
        order = tuple(int(k) for k in np.lexsort((a, b, a + b * middle)))
        if found and found[-1][2] == order:
            found[-1] = (found[-1][0], end, order)
        else:
            found.append((start, end, order))
    return found
