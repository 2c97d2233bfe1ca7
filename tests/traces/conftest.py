"""Traces to store and read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from deepen.clock.host_clock import ClockMap
from deepen.records import Accuracy, PowerTrace, TraceWarning

CLOCK = ClockMap(device_s=2.0, host_s=104_321.123, rate=1 + 37e-6, error_s=4e-4, method="arrival")


@pytest.fixture
def make_trace() -> Callable[..., PowerTrace]:
    """Makes a trace of an emulated instrument: random power, three samples lost after position 99."""

    def make(n: int = 1000, rate_hz: float = 5000.0, clock: ClockMap | None = CLOCK, **changes: Any) -> PowerTrace:
        rng = np.random.default_rng(7)
        index = np.arange(n) + np.where(np.arange(n) >= 100, 3, 0)
        t_s = index / rate_hz if clock is None else clock.to_host(index / rate_hz)
        lost = n > 100
        fields: dict[str, Any] = {
            "t_s": t_s,
            "power_w": rng.normal(2.0, 0.5, n),
            "rate_hz": rate_hz,
            "meter_id": "lvpm",
            "calibration_id": "stream",
            "source": "simulated",
            "gaps": ((float(t_s[99]), float(t_s[100])),) if lost else (),
            "dropped": 3 if lost else 0,
            "clock": clock,
            "accuracy": Accuracy(0.005, 1e-4, "data sheet"),
            "warnings": (TraceWarning("loss", "3 samples lost"), TraceWarning("trace", 'a "quoted", comma')),
        }
        return PowerTrace(**(fields | changes))

    return make


@pytest.fixture
def same() -> Callable[[PowerTrace, PowerTrace], None]:
    """Asserts that two traces say the same, to the last bit."""

    def check(a: PowerTrace, b: PowerTrace) -> None:
        np.testing.assert_array_equal(a.t_s, b.t_s)
        np.testing.assert_array_equal(a.power_w, b.power_w)
        assert (a.logic is None) == (b.logic is None)
        if a.logic is not None and b.logic is not None:
            np.testing.assert_array_equal(a.logic, b.logic)
        for name in (
            "rate_hz",
            "meter_id",
            "calibration_id",
            "source",
            "gaps",
            "dropped",
            "sampling",
            "clock",
            "accuracy",
            "warnings",
        ):
            assert getattr(a, name) == getattr(b, name), name

    return check
