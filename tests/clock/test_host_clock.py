"""The host's clock, deadlines, and the map from another clock."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepen.clock import host_clock
from deepen.clock.host_clock import MAX_DRIFT, ClockMap, Deadline, utc_now

MOMENTS = st.floats(-1e6, 1e6)


@given(MOMENTS, MOMENTS, st.floats(-MAX_DRIFT, MAX_DRIFT), st.lists(MOMENTS, min_size=1))
def test_a_map_leads_there_and_back(device_s: float, host_s: float, drift: float, moments: list[float]) -> None:
    clock = ClockMap(device_s, host_s, 1 + drift, 0.0, "given")
    times = np.array(moments)
    assert clock.to_host(device_s) == host_s
    assert clock.to_device(clock.to_host(times)) == pytest.approx(times, abs=1e-8)
    assert np.diff(clock.to_host(np.sort(times))) == pytest.approx((1 + drift) * np.diff(np.sort(times)), abs=1e-8)


@given(st.floats(0.0, 1e3), st.floats(0.0, 1e3))
def test_a_deadline_counts_from_its_making(duration_s: float, passed_s: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        now = [5.0]
        patch.setattr(host_clock, "monotonic_s", lambda: now[0])
        deadline = Deadline(duration_s)
        assert deadline.remaining_s == duration_s
        now[0] += passed_s
        assert deadline.remaining_s == pytest.approx(max(0.0, duration_s - passed_s), abs=1e-9)
        assert deadline.expired == (deadline.remaining_s == 0.0)


def test_a_deadline_without_end_never_expires() -> None:
    assert not Deadline(float("inf")).expired


def test_the_wall_clock_is_utc_to_the_second() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", utc_now())
