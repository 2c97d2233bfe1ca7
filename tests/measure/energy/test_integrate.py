from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepen.clock.host_clock import ClockMap
from deepen.errors import MeasureError
from deepen.measure import integrate_power
from deepen.measure.energy.idle_power import IdlePower, IdlePowerLine
from deepen.measure.energy.integrate import SHORT_GAP
from deepen.measure.energy.running_integrals import compute_running_integrals
from deepen.records import Accuracy, Interval, PowerTrace


def trace(t, p, gaps=(), rate_hz: float = 1.0, **options) -> PowerTrace:
    return PowerTrace(
        np.array(t, float), np.array(p, float), rate_hz, "m", "c", "measured", gaps=tuple(gaps), **options
    )


def cut(whole: PowerTrace, at: list[int]) -> list[PowerTrace]:
    """Pieces of a trace; each carries the gaps that touch its stretch."""
    pieces = []
    for a, b in pairwise([0, *sorted(at), whole.t_s.size]):
        if a < b:
            low = whole.t_s[a - 1] if a else -np.inf
            gaps = tuple(g for g in whole.gaps if g[1] > low and g[0] < whole.t_s[b - 1])
            pieces.append(replace(whole, t_s=whole.t_s[a:b], power_w=whole.power_w[a:b], gaps=gaps, dropped=0))
    return pieces


RAMP = trace([0.0, 1.0, 3.0, 4.0], [0.0, 2.0, 6.0, 8.0])  # power = 2 t, unevenly sampled


@pytest.mark.parametrize(("start", "end"), [(0.0, 4.0), (0.25, 0.75), (0.5, 3.5), (1.0, 3.0), (2.0, 2.0), (3.9, 4.0)])
def test_a_ramp_is_integrated_exactly_whatever_the_edges(start: float, end: float) -> None:
    (window,) = integrate_power(RAMP, [Interval(start, end, "w")], idle_w=0.5)
    assert window.gross_j == pytest.approx(end**2 - start**2, abs=1e-12)
    assert window.net_j == pytest.approx(end**2 - start**2 - 0.5 * (end - start), abs=1e-12)


@given(
    st.lists(st.tuples(st.floats(1e-4, 5.0), st.floats(-10.0, 100.0)), min_size=2, max_size=30),
    st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3),
    st.sampled_from(["point", "mean"]),
)
def test_windows_add_up(samples, cuts, sampling) -> None:
    t = np.cumsum([d for d, _ in samples])
    power = trace(t, [p for _, p in samples], sampling=sampling)
    a, b, c = sorted(t[0] + f * (t[-1] - t[0]) for f in cuts)
    left, right, whole = integrate_power(power, [Interval(a, b, "l"), Interval(b, c, "r"), Interval(a, c, "w")], 1.5)
    assert left.gross_j + right.gross_j == pytest.approx(whole.gross_j, abs=1e-6)
    assert left.net_j + right.net_j == pytest.approx(whole.net_j, abs=1e-6)


def test_many_windows_at_once_equal_each_alone() -> None:
    rng = np.random.default_rng(1)
    t = np.cumsum(rng.uniform(0.01, 0.1, 500))
    power = trace(t, rng.uniform(0, 5, 500))
    edges = np.sort(rng.uniform(t[0], t[-1], (50, 2)), axis=1)
    windows = [Interval(float(a), float(b), str(i)) for i, (a, b) in enumerate(edges)]
    together = integrate_power(power, windows)
    for window, interval in zip(together, windows, strict=True):
        alone = integrate_power(power, [interval])[0]
        assert window.gross_j == pytest.approx(alone.gross_j, rel=1e-12, abs=1e-12)
        assert window.standard_j == pytest.approx(alone.standard_j, rel=1e-9)
    fine = np.union1d(t, edges.ravel())
    values = np.interp(fine, t, power.power_w)
    for window in together:
        inside = (fine >= window.interval.start_s) & (fine <= window.interval.end_s)
        assert window.gross_j == pytest.approx(float(np.trapezoid(values[inside], fine[inside])), abs=1e-9)


def test_bins_are_integrated_as_bins_from_one_period_before_the_first_sample() -> None:
    power = trace([1.0, 2.0, 3.0], [4.0, 0.0, 2.0], sampling="mean")
    spans = [(0.0, 3.0), (0.5, 1.5), (0.25, 0.75), (2.9, 3.0)]
    found = integrate_power(power, [Interval(a, b, "w") for a, b in spans])
    assert [w.gross_j for w in found] == pytest.approx([6.0, 2.0, 2.0, 0.2])
    with pytest.raises(MeasureError, match="outside the trace"):
        integrate_power(power, [Interval(-0.1, 1.0, "early")])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pieces_give_what_the_whole_gives(data) -> None:
    """Energy, every term and every caution, wherever the trace is cut, with gaps, for both kinds of samples."""
    n = data.draw(st.integers(12, 60))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    holes = data.draw(st.lists(st.integers(1, n - 3), max_size=3, unique=True))
    t = np.arange(n) * 0.01
    gaps = [(t[h], t[min(h + 2, n - 1)]) for h in sorted(holes)]
    whole = trace(t, rng.uniform(0, 5, n), gaps, 100.0, sampling=data.draw(st.sampled_from(["point", "mean"])))
    whole = replace(whole, clock=ClockMap(0.0, 0.0, 1.0, 0.004, "arrival"), accuracy=Accuracy(0.01, 0.02, "here"))
    inside = (t[0], t[-1])
    edges = np.sort(rng.uniform(*inside, (5, 2)), axis=1)
    windows = [Interval(float(a), float(b), "w", uncertainty_s=0.001) for a, b in edges]
    idle = IdlePowerLine((IdlePower(0.0, 0.4, 0.01), IdlePower(1.0, 0.6, 0.02)))
    pieces = cut(whole, data.draw(st.lists(st.integers(1, n - 1), max_size=6)))
    expected = integrate_power(whole, windows, idle, max_loss=1.0)
    for found in (
        integrate_power(iter(pieces), windows, idle, max_loss=1.0),
        integrate_power(pieces, windows, idle, max_loss=1.0, gaps=whole.gaps),
    ):
        for a, b in zip(found, expected, strict=True):
            assert (a.gross_j, a.net_j) == pytest.approx((b.gross_j, b.net_j), abs=1e-12)
            assert a.budget.terms() == pytest.approx(b.budget.terms(), abs=1e-9)
            assert a.gross_budget.terms() == pytest.approx(b.gross_budget.terms(), abs=1e-9)
            assert [c.code for c in a.warnings] == [c.code for c in b.warnings]


def test_an_hour_keeps_nine_digits_of_a_millisecond() -> None:
    """Differences of running sums: a window of 1 ms after 3600 s at 100 W is as good as one at the start."""
    t = np.concatenate([np.arange(3_600) * 1.0, 3600.0 + np.arange(1000) * 1e-5])
    p = np.full(t.size, 100.123456789)
    (late,) = integrate_power(trace(t, p, rate_hz=1e5), [Interval(3600.001, 3600.002, "late")])
    assert late.gross_j == pytest.approx(100.123456789 * (3600.002 - 3600.001), rel=1e-9)


@pytest.mark.parametrize(("start", "end"), [(-0.1, 1.0), (3.0, 4.1), (5.0, 6.0)])
def test_a_window_outside_the_trace_is_refused(start: float, end: float) -> None:
    with pytest.raises(MeasureError, match=r"'late'.*outside the trace of m"):
        integrate_power(RAMP, [Interval(1.0, 2.0, "fine"), Interval(start, end, "late")])


def test_a_window_that_lost_too_much_is_refused_and_others_are_not() -> None:
    power = trace([0.0, 1.0, 2.0, 3.0, 4.0], [1.0] * 5, gaps=[(1.0, 3.0)], rate_hz=1000.0)
    good = [Interval(0.0, 1.0, "before"), Interval(3.0, 4.0, "after")]
    assert [w.gross_j for w in integrate_power(power, good)] == pytest.approx([1.0, 1.0])
    with pytest.raises(
        MeasureError, match=r"'across' .*touches a gap in the trace of m: 100 % of it has no samples, 0.1 %"
    ):
        integrate_power(power, [*good, Interval(1.4, 1.6, "across")])
    found = integrate_power(power, [*good, Interval(1.4, 1.6, "across")], max_loss=1.0)
    assert [[c.code for c in w.warnings] for w in found] == [[], [], ["gap"]]
    assert "200 ms (100 %) have no samples" in str(found[2].warnings[0])


@pytest.mark.parametrize(("missing", "refused"), [(SHORT_GAP, False), (SHORT_GAP + 1, True)])
def test_a_few_samples_left_out_are_bridged_and_told_however_short_the_window(missing: int, refused: bool) -> None:
    t = np.delete(np.arange(1000) / 1e3, np.arange(500, 500 + missing))
    power = trace(t, np.where(t < 0.4, 1.0, 2.0), gaps=[(0.499, 0.5 + missing / 1e3)], rate_hz=1e3)
    window = Interval(0.45, 0.55, "w")
    if refused:
        with pytest.raises(MeasureError, match="touches a gap"):
            integrate_power(power, [window])
        return
    (found,) = integrate_power(power, [window])
    assert found.gross_j == pytest.approx(0.2)
    assert "gap" in [c.code for c in found.warnings]


def test_samples_inside_a_gap_do_not_count() -> None:
    t = np.arange(11.0)
    p = np.where((t > 3) & (t < 6), 1e6, 2.0)  # an overload between two good samples
    (found,) = integrate_power(trace(t, p, gaps=[(3.0, 6.0)]), [Interval(0.0, 10.0, "w")], max_loss=0.2)
    assert found.gross_j == pytest.approx(20.0)
    (found,) = integrate_power(
        trace(t, p, gaps=[(3.0, 6.0)], sampling="mean"), [Interval(0.0, 10.0, "w")], max_loss=0.2
    )
    assert found.gross_j == pytest.approx(20.0)


def test_a_bin_after_a_gap_is_one_period_long() -> None:
    power = trace([1.0, 2.0, 6.0, 7.0], [1.0, 1.0, 5.0, 1.0], gaps=[(2.0, 6.0)], sampling="mean")
    (found,) = integrate_power(power, [Interval(0.0, 7.0, "w")], max_loss=1.0)
    assert found.gross_j == pytest.approx(1 + 1 + 3 * 3.0 + 5 + 1)  # three seconds at the mean of both sides


def test_a_trace_that_lost_too_much_is_refused() -> None:
    lossy = replace(trace(np.arange(1000.0), np.ones(1000)), dropped=2)
    with pytest.raises(MeasureError, match=r"lost 0\.2 % of its samples, 0\.1 % are allowed"):
        integrate_power(lossy, [Interval(0.0, 10.0, "w")])
    assert integrate_power(lossy, [Interval(0.0, 10.0, "w")], max_loss=0.002)[0].gross_j == pytest.approx(10.0)


def test_a_gap_that_is_told_too_late_is_an_error_not_a_wrong_number() -> None:
    t = np.arange(10.0)
    whole = trace(t, np.ones(10), gaps=[(2.0, 7.0)])
    pieces = [replace(whole, t_s=t[:5], power_w=np.ones(5), gaps=()), replace(whole, t_s=t[5:], power_w=np.ones(5))]
    with pytest.raises(MeasureError, match=r"gap at 2\.0+ s only after samples inside it were used; pass the gaps"):
        integrate_power(pieces, [Interval(0.0, 1.0, "w")])
    assert integrate_power(pieces, [Interval(0.0, 1.0, "w")], gaps=whole.gaps)[0].gross_j == pytest.approx(1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_an_error_unless_it_is_a_gap(bad: float) -> None:
    t, p = np.arange(10.0), np.ones(10)
    p[5] = bad
    with pytest.raises(MeasureError, match="not numbers between"):
        integrate_power(trace(t, p), [Interval(0.0, 2.0, "w")])
    (found,) = integrate_power(trace(t, p, gaps=[(4.0, 6.0)]), [Interval(0.0, 9.0, "w")], max_loss=0.5)
    assert found.gross_j == pytest.approx(9.0)


def test_empty_traces_and_no_windows() -> None:
    assert integrate_power(trace([], []), []) == ()
    for nothing in (trace([], []), trace([1.0], [1.0]), [trace([], [])]):
        with pytest.raises(MeasureError, match=r"[01] trustworthy samples; measure for longer"):
            integrate_power(nothing, [Interval(0, 1, "w")])
    with pytest.raises(MeasureError, match="no pieces"):
        integrate_power([], [Interval(0, 1, "w")])


def test_pieces_out_of_order_are_refused() -> None:
    first, second = cut(trace(np.arange(10.0), np.ones(10)), [5])
    with pytest.raises(MeasureError, match="a chunk begins at 0"):
        integrate_power([second, first], [Interval(0.0, 1.0, "w")])


def test_idle_stretches_of_the_trace_are_subtracted_linearly() -> None:
    t = np.arange(1001) * 0.01
    p = 1.0 + 0.1 * t + np.where((t >= 4) & (t < 6), 2.0, 0.0)  # idle rises from 1 W to 2 W
    quiet = [Interval(0.0, 2.0, "idle"), Interval(8.0, 10.0, "idle")]
    (found,) = integrate_power(trace(t, p, rate_hz=100.0), [Interval(3.995, 5.995, "w")], idle=quiet)
    assert found.net_j == pytest.approx(4.0, rel=2e-3)
    assert found.budget.idle > 0
    assert "idle-drift" in [c.code for c in found.warnings]
    steady = np.where((t >= 4) & (t < 6), 3.0, 1.0)
    (calm,) = integrate_power(trace(t, steady, rate_hz=100.0), [Interval(3.995, 5.995, "w")], idle=quiet)
    assert calm.warnings == ()
    assert calm.budget.idle == pytest.approx(0.0, abs=1e-12)


def test_running_sums_at_moments_in_any_order_and_outside() -> None:
    at = np.array([2.5, -1.0, 4.0, 5.0, 0.0])
    found = compute_running_integrals([RAMP], at)
    assert np.asarray(found.energy_j, float) == pytest.approx([6.25, 0.0, 16.0, 24.0, 0.0])
    assert found.power_w == pytest.approx([5.0, 0.0, 8.0, 8.0, 0.0])
    assert (found.start_s, found.end_s, found.samples, found.dropped) == (0.0, 4.0, 4, 0)
