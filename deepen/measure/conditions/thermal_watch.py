"""Temperatures and throttling of a device over a measurement: read before, between the blocks, and after."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from deepen.devices.protocols import Device
from deepen.devices.state.cool_down import summarise_temperatures
from deepen.devices.types import DeviceState
from deepen.records import MeasurementWarning

__all__ = ["ThermalHistory", "ThermalWatch"]

READ_EVERY_S = 10.0
"""Time between two readings during a long measurement, seconds: over a link a reading takes
0.1 s and keeps the device awake."""

_RISE_C = 5.0
_SHOWN = 2


@dataclass(frozen=True, slots=True)
class ThermalHistory:
    """Temperatures and throttling of a device over a measurement.

    Attributes:
        before: State before the runs.
        after: State after them.
        hottest_c: Highest temperature of all readings, degrees Celsius; ``nan`` where unknown.
        throttled: Causes that slowed the device down; empty where none is known.
    """

    before: DeviceState
    after: DeviceState
    hottest_c: float
    throttled: tuple[str, ...]

    def warnings(self, limit_c: float) -> list[MeasurementWarning]:
        """List the remarks on heat for the record.

        Args:
            limit_c: Hottest temperature at which results count.
        """
        found = []
        before_c, after_c = self.before.temperature_c, self.after.temperature_c
        if abs(after_c - before_c) > _RISE_C:
            text = f"it went from {before_c:.0f} to {after_c:.0f} °C meanwhile"
            found.append(MeasurementWarning("temperature", text))
        if self.hottest_c > limit_c:
            text = f"{self.hottest_c:.0f} °C is above the profile's {limit_c:g} °C"
            found.append(MeasurementWarning("temperature", text))
        if self.throttled:
            more = f" and {len(self.throttled) - _SHOWN} more" if len(self.throttled) > _SHOWN else ""
            found.append(MeasurementWarning("throttled", f"{'; '.join(self.throttled[:_SHOWN])}{more}"))
        return found


class ThermalWatch:
    """Reads a device's state before, between and after blocks; made when a measurement begins."""

    def __init__(self, device: Device, now: Callable[[], float]) -> None:
        """Take the first reading.

        Args:
            device: The device.
            now: The session's clock.

        Raises:
            LinkError: If the device is gone.
        """
        self._device = device
        self._now = now
        self._states = [device.state()]
        self._last_s = now()

    def read_if_due(self) -> None:
        """Take a reading if the last one is old; called between blocks.

        Raises:
            LinkError: If the device is gone.
        """
        if self._now() - self._last_s >= READ_EVERY_S:
            self._states.append(self._device.state())
            self._last_s = self._now()

    def end(self) -> ThermalHistory:
        """Take the last reading and sum up.

        Raises:
            LinkError: If the device is gone.
        """
        self._states.append(self._device.state())
        readings = [s.thermal for s in self._states if s.thermal is not None]
        temperatures = [s.temperature_c for s in self._states if math.isfinite(s.temperature_c)]
        return ThermalHistory(
            self._states[0],
            self._states[-1],
            max(temperatures, default=math.nan),
            summarise_temperatures(readings).throttled if readings else (),
        )
