"""The clock of a device, fitted to readings of a counter with time stamps."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from deepen.clock.host_clock import CLOCK_TOLERANCE, MAX_DRIFT, ClockMap

__all__ = ["fit_counter_clock"]

_DRIFT_SPAN_S = 300.0
"""Shortest recording that shows drift rather than delay, seconds: 20 ms of delay over five minutes are 70 ppm."""


def fit_counter_clock(
    device_s: NDArray[np.float64],
    before_s: NDArray[np.float64],
    after_s: NDArray[np.float64],
    update_s: float,
    quantum_s: float,
) -> ClockMap:
    """Map a device's clock from readings of a value that is updated from time to time, with a time stamp.

    Every reading bounds the clock from two sides: its time stamp had passed when the answer came, and one update later
    had not passed when it was requested.

    1. The drift is fitted to the least delays of the first and last third of a recording that is long enough; otherwise
       the tolerance of clocks over the recording is part of the error.
    2. The time between updates is the common divisor of the steps (without one, the stated time), else the least step,
       else as long as the readings demand: the first that satisfies all bounds.
    3. The clock is the middle of the interval that all readings allow, and half the width its limit of error (an
       intersection of intervals, as in Marzullo's algorithm, RFC 5905 section 11.2.1).

    Args:
        device_s: Device time in each reading, seconds; shape (n,), ascending.
        before_s: Host time of each request, seconds; shape (n,).
        after_s: Host time of each answer, seconds; shape (n,).
        update_s: Time between two updates, seconds; taken from the readings if their steps have a common divisor.
        quantum_s: Step of the device time, seconds.
    """
    # 1. Drift.
    rate, span_s = 1.0, float(device_s[-1] - device_s[0])
    third = device_s.size // 3
    drift_s = CLOCK_TOLERANCE * span_s / 2
    if third >= 10 and span_s >= _DRIFT_SPAN_S:
        delay = after_s - device_s
        first, last = int(np.argmin(delay[:third])), device_s.size - third + int(np.argmin(delay[-third:]))
        apart_s = float(device_s[last] - device_s[first])
        if apart_s > span_s / 3:
            rate += float(np.clip((delay[last] - delay[first]) / apart_s, -MAX_DRIFT, MAX_DRIFT))
            drift_s = 0.0
    middle_s = float(device_s[0]) + span_s / 2
    late_s = float(np.min(after_s - rate * (device_s - middle_s)))
    early_s = float(np.max(before_s - rate * (device_s - middle_s)))
    # 2. Time between updates.
    steps = np.rint(np.diff(device_s) / quantum_s).astype(np.int64)
    steps = steps[steps > 0]
    divisor_s = float(np.gcd.reduce(steps)) * quantum_s if steps.size >= 8 else 0.0
    ages_s = [divisor_s if divisor_s >= 5 * quantum_s else update_s]
    ages_s += [float(steps.min()) * quantum_s] if steps.size else []
    # Updates further apart than stated: as far as the readings demand, and as much again.
    ages_s.append(2 * max(0.0, early_s - late_s))
    age_s = next((age for age in ages_s if early_s - age <= late_s), ages_s[-1])
    # 3. Middle and width.
    half_s = (late_s - (early_s - age_s)) / 2
    error_s = (half_s + quantum_s / 2 + drift_s) / math.sqrt(3)
    return ClockMap(middle_s, late_s - half_s, rate, error_s, "ping")
