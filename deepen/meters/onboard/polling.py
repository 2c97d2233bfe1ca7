"""Helpers for drivers of on-board sensors: meters polled no faster than their sensor can be read."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from deepen.clock.host_clock import monotonic_s
from deepen.errors import ConfigError
from deepen.meters.polled_meter import PolledMeter
from deepen.meters.types import MeterSpec
from deepen.records import Accuracy

__all__ = ["make_polled_meter", "measure_poll_period_s", "parse_names"]

_SHARE = 2.0
"""Least period in units of the time of a reading, so that polling occupies at most half of a link or a processor."""


def parse_names(spec: MeterSpec) -> list[str]:
    """Parse the names listed after the colon of ``NAME:A,B``; empty if there are none.

    Raises:
        ConfigError: If one is listed twice: its energy would count twice.
    """
    names = [name.strip() for name in spec.port.split(",") if name.strip()]
    if len(set(names)) != len(names):
        raise ConfigError(f"meter '{spec.name}:{spec.port}': name everything once")
    return names


def measure_poll_period_s(read: Callable[[], object], now: Callable[[], float] = monotonic_s) -> float:
    """Time three readings and return the shortest sustainable period of polling, seconds.

    Raises:
        MeterError: If the sensor does not answer.
    """
    trips = []
    for _ in range(3):
        before = now()
        read()
        trips.append(now() - before)
    return _SHARE * statistics.median(trips)


def make_polled_meter(
    name: str,
    calibration_id: str,
    read_w: Callable[[], float],
    *,
    update_s: float,
    poll_s: float,
    resolution_w: float = 0.0,
    accuracy: Accuracy | None = None,
) -> PolledMeter:
    """Make a meter for a sensor, after a trial reading.

    Args:
        name: Name of the driver.
        calibration_id: Names of the sensors read, and the parts they cover.
        read_w: Reads the power now, watts.
        update_s: Time between two updates of the sensor, seconds; 0 if every reading is fresh.
        poll_s: Shortest period of polling, seconds; it is longer if readings take longer.
        resolution_w: Smallest step of power, watts.
        accuracy: Stated accuracy of the sensor.

    Raises:
        MeterError: If the sensor does not answer.
    """
    period_s = max(poll_s, update_s, measure_poll_period_s(read_w))
    return PolledMeter(
        name,
        calibration_id,
        read_w,
        update_s=update_s,
        resolution_j=resolution_w * period_s,
        poll_s=period_s,
        accuracy=accuracy,
    )
