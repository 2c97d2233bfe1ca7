"""The clock of a device from readings of a counter with time stamps."""

from __future__ import annotations

import numpy as np
import pytest

from deepen.clock.counter_readings import fit_counter_clock


def test_the_clock_is_the_middle_of_what_all_readings_allow() -> None:
    device = np.array([1.0, 2.0, 3.0])
    before, after = np.array([101.0, 102.0, 103.02]), np.array([101.5, 102.1, 103.4])
    clock = fit_counter_clock(device, before, after, update_s=0.0, quantum_s=1e-3)
    assert clock.to_host(2.0) == pytest.approx(
        (102.02 + 102.1) / 2
    )  # asked at 103.02 for 3.0, answered at 102.1 for 2.0
    assert clock.rate == 1.0
    assert clock.error_s == pytest.approx((0.04 + 0.0005 + 50e-6) / 3**0.5)
    slow = fit_counter_clock(device, before, after, update_s=0.1, quantum_s=1e-3)
    assert slow.to_host(2.0) == pytest.approx((101.92 + 102.1) / 2)  # what was told may have been 0.1 s old


def test_readings_that_contradict_the_stated_update_widen_the_error() -> None:
    device = np.array([1.0, 2.0, 3.0])
    clock = fit_counter_clock(device, np.array([101.0, 102.9, 103.0]), np.array([101.1, 103.0, 103.1]), 0.1, 1e-3)
    assert clock.error_s > 0.04  # the second is 0.8 s older than the others
