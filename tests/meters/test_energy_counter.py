from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepen.meters.energy_counter import make_step_trace, unwrap_counter


def integral(t: np.ndarray, p: np.ndarray) -> float:
    return float(np.sum(np.diff(t) * (p[1:] + p[:-1]) / 2))


@given(
    st.lists(
        st.tuples(st.floats(1e-6, 10.0), st.floats(0.0, 1000.0)),
        min_size=1,
        max_size=40,
    ),
    st.floats(0.0, 1e6),
)
def test_the_trace_integrates_back_to_the_counter(steps: list[tuple[float, float]], start: float) -> None:
    times = start + np.concatenate([[0.0], np.cumsum([d for d, _ in steps])])
    energy = np.concatenate([[5.0], 5.0 + np.cumsum([d * w for d, w in steps])])
    t, p = make_step_trace(times.tolist(), energy.tolist())
    assert np.all(np.diff(t) > 0)
    assert integral(t, p) == pytest.approx(energy[-1] - energy[0], rel=1e-6, abs=1e-6)


def test_power_is_constant_between_readings() -> None:
    t, p = make_step_trace([0.0, 1.0, 3.0], [0.0, 2.0, 12.0])
    assert p.tolist() == [2.0, 2.0, 5.0, 5.0]
    assert t.tolist() == [0.0, 1.0, np.nextafter(1.0, 2.0), 3.0]


def test_readings_at_the_same_time_keep_the_last() -> None:
    _, p = make_step_trace([0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 2.0, 3.0])
    assert p.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("times", [[], [1.0], [2.0, 2.0]])
def test_too_few_readings_give_an_empty_trace(times: list[float]) -> None:
    t, p = make_step_trace(times, [0.0] * len(times))
    assert t.size == p.size == 0


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(1, 10**12))
def test_unwrap_follows_a_counter_past_one_wrap(start: int, used: int, limit: int) -> None:
    start, used = start % limit, used % limit
    assert unwrap_counter(start, (start + used) % limit, limit) == used
