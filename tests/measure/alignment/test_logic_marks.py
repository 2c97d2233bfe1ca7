from __future__ import annotations

import numpy as np
import pytest

from deepen.clock.host_clock import ClockMap
from deepen.errors import MeasureError
from deepen.measure.alignment.logic_marks import (
    find_logic_edges,
    fit_logic_marks,
    retime_trace,
)
from deepen.records import PowerTrace


def marks(rng: np.random.Generator, n: int = 40):
    made = 1000.0 + np.cumsum(rng.uniform(0.05, 0.4, n))
    clock = ClockMap(0.0, 0.0, 1 - 30e-6, 0.0, "given")
    return made, clock.to_device(made - 0.137)


@pytest.mark.parametrize("seed", range(5))
def test_marks_are_matched_though_some_are_missing_and_others_are_too_many(seed: int) -> None:
    rng = np.random.default_rng(seed)
    period = 1e-4
    made, seen = marks(rng)
    kept = np.delete(seen, rng.choice(seen.size, 8, replace=False))
    edges = np.sort(np.concatenate([kept, rng.uniform(seen[0], seen[-1], 10)]))
    edges = (np.floor(edges / period) + 0.5) * period
    found = fit_logic_marks(edges, made, resolution_s=period)
    off = found.to_host(seen) - made
    assert found.method == "marks"
    assert np.abs(off).max() <= 2 * found.error_s
    assert found.error_s < 5e-5
    assert fit_logic_marks(edges, made, resolution_s=period, error_s=1e-3).error_s == pytest.approx(1e-3, rel=0.01)


def test_marks_at_equal_distances_are_ambiguous_unless_the_offset_is_bounded() -> None:
    made = np.arange(20) * 0.1 + 50.0
    with pytest.raises(MeasureError, match=r"fit at two offsets .*equal distances; vary"):
        fit_logic_marks(made + 0.01, made, resolution_s=1e-3)
    found = fit_logic_marks(made + 0.01, made, resolution_s=1e-3, max_offset_s=0.04)
    assert found.to_host(51.01) == pytest.approx(51.0, abs=1e-6)


def test_marks_that_are_not_there_are_an_error() -> None:
    made = np.array([1.0, 2.1, 3.3, 4.6])
    with pytest.raises(MeasureError, match=r"1 of 4 marks are found"):
        fit_logic_marks(np.array([1.5]), made, resolution_s=1e-3)
    with pytest.raises(MeasureError, match=r"0 of 4 marks"):
        fit_logic_marks(np.array([100.0]), made, resolution_s=1e-3)
    with pytest.raises(MeasureError, match=r"0 edges on the logic input"):
        fit_logic_marks(np.array([]), made, resolution_s=1e-3)


def logic_trace(level: list[int], bit: int) -> PowerTrace:
    logic = (np.array(level, np.uint8) << bit).astype(np.uint8)
    return PowerTrace(np.arange(len(level)) * 1.0, np.ones(len(level)), 1.0, "m", "c", "measured", logic=logic)


def test_edges_of_a_logic_input() -> None:
    times, rose = find_logic_edges(logic_trace([0, 1, 1, 0, 0, 1], 3), 3)
    assert times.tolist() == [0.5, 2.5, 4.5]
    assert rose.tolist() == [True, False, True]
    assert find_logic_edges(logic_trace([0, 1, 1], 3), 2)[0].size == 0
    bare = PowerTrace(np.array([0.0]), np.array([1.0]), 1.0, "m", "c", "measured")
    with pytest.raises(MeasureError, match=r"no logic inputs"):
        find_logic_edges(bare, 0)


def test_a_trace_moves_with_its_gaps_and_its_clock_map_still_leads_from_the_device() -> None:
    first = ClockMap(0.0, 100.0, 1.0, 1e-3, "arrival")
    t = first.to_host(np.arange(5.0))
    trace = PowerTrace(t, np.ones(5), 1.0, "m", "c", "measured", gaps=((101.0, 103.0),), clock=first)
    correction = ClockMap(100.0, 100.5, 1 + 1e-4, 1e-5, "pulses")
    moved = retime_trace(trace, correction)
    assert moved.t_s == pytest.approx(correction.to_host(t))
    assert moved.gaps == ((pytest.approx(101.5001), pytest.approx(103.5003)),)
    assert moved.clock is not None
    assert moved.clock.to_host(np.arange(5.0)) == pytest.approx(moved.t_s)
    assert (moved.clock.method, moved.clock.error_s) == ("pulses", 1e-5)
