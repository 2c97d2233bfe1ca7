from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepen.errors import MeasureError
from deepen.measure import integrate
from deepen.records import Interval, PowerTrace


def trace(t: list[float], p: list[float], gaps: tuple[tuple[float, float], ...] = ()) -> PowerTrace:
    return PowerTrace(np.array(t, float), np.array(p, float), 1.0, "m", "c", "measured", gaps=gaps)


RAMP = trace([0.0, 1.0, 3.0, 4.0], [0.0, 2.0, 6.0, 8.0])  # power = 2 t, unevenly sampled


@pytest.mark.parametrize(("start", "end"), [(0.0, 4.0), (0.25, 0.75), (0.5, 3.5), (1.0, 3.0), (2.0, 2.0), (3.9, 4.0)])
def test_a_ramp_is_integrated_exactly_whatever_the_edges(start: float, end: float) -> None:
    (window,) = integrate(RAMP, [Interval(start, end, "w")], idle_w=0.5)
    assert window.gross_j == pytest.approx(end**2 - start**2, abs=1e-12)
    assert window.net_j == pytest.approx(end**2 - start**2 - 0.5 * (end - start), abs=1e-12)


@given(
    st.lists(st.tuples(st.floats(1e-4, 5.0), st.floats(-10.0, 100.0)), min_size=2, max_size=30),
    st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3),
)
def test_windows_add_up(samples: list[tuple[float, float]], cuts: list[float]) -> None:
    t = np.cumsum([d for d, _ in samples])
    power = trace(t.tolist(), [p for _, p in samples])
    a, b, c = sorted(t[0] + f * (t[-1] - t[0]) for f in cuts)
    left, right, whole = integrate(power, [Interval(a, b, "l"), Interval(b, c, "r"), Interval(a, c, "w")], 1.5)
    assert left.gross_j + right.gross_j == pytest.approx(whole.gross_j, abs=1e-6)
    assert left.net_j + right.net_j == pytest.approx(whole.net_j, abs=1e-6)


def test_many_windows_at_once_equal_each_alone() -> None:
    rng = np.random.default_rng(1)
    t = np.cumsum(rng.uniform(0.01, 0.1, 500))
    power = trace(t.tolist(), rng.uniform(0, 5, 500).tolist())
    edges = np.sort(rng.uniform(t[0], t[-1], (50, 2)), axis=1)
    windows = [Interval(float(a), float(b), str(i)) for i, (a, b) in enumerate(edges)]
    together = integrate(power, windows)
    assert [w.gross_j for w in together] == [integrate(power, [w])[0].gross_j for w in windows]
    fine = np.union1d(t, edges.ravel())
    values = np.interp(fine, t, power.power_w)
    for window in together:
        inside = (fine >= window.interval.start_s) & (fine <= window.interval.end_s)
        assert window.gross_j == pytest.approx(float(np.trapezoid(values[inside], fine[inside])), abs=1e-9)


@pytest.mark.parametrize(("start", "end"), [(-0.1, 1.0), (3.0, 4.1), (5.0, 6.0)])
def test_a_window_outside_the_trace_is_refused(start: float, end: float) -> None:
    with pytest.raises(MeasureError, match=r"'late'.*outside the trace of m"):
        integrate(RAMP, [Interval(1.0, 2.0, "fine"), Interval(start, end, "late")])


def test_a_window_that_touches_a_gap_is_refused_and_others_are_not() -> None:
    power = trace([0.0, 1.0, 2.0, 3.0, 4.0], [1.0] * 5, gaps=((1.5, 2.5),))
    good = [Interval(0.0, 1.5, "before"), Interval(2.5, 4.0, "after")]
    assert [w.gross_j for w in integrate(power, good)] == pytest.approx([1.5, 1.5])
    with pytest.raises(MeasureError, match="'across' touches a gap"):
        integrate(power, [*good, Interval(1.4, 1.6, "across")])


def test_empty_trace_and_no_windows() -> None:
    assert integrate(trace([], []), []) == ()
    with pytest.raises(MeasureError, match="0 samples"):
        integrate(trace([], []), [Interval(0, 1, "w")])
