"""What heat does to a device while it is measured: readings before, between the blocks, and after."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from deepen.devices.protocols import Device
from deepen.devices.state.cool_down import summarise_temperatures
from deepen.devices.types import DeviceState

__all__ = ["ThermalHistory", "ThermalWatch", "select_heat_throttling"]

LOOK_EVERY_S = 10.0
"""How often temperatures are read between the blocks of a long measurement, seconds: over a link a reading takes
0.1 s and keeps the device awake."""

_RISE_C = 5.0
_SHOWN = 2


@dataclass(frozen=True, slots=True)
class ThermalHistory:
    """What was seen of a device over a measurement.

    Attributes:
        before: State before the runs.
        after: State after them.
        hottest_c: Highest temperature of all readings, degrees Celsius; ``nan`` where unknown.
        throttled: What slowed the device down, in words; empty where nothing is known to have.
    """

    before: DeviceState
    after: DeviceState
    hottest_c: float
    throttled: tuple[str, ...]

    def warnings(self, limit_c: float) -> list[str]:
        """What a reader of the record should know.

        Args:
            limit_c: Hottest temperature at which results count.
        """
        found = []
        before_c, after_c = self.before.temperature_c, self.after.temperature_c
        if abs(after_c - before_c) > _RISE_C:
            found.append(f"temperature: it went from {before_c:.0f} to {after_c:.0f} °C meanwhile")
        if self.hottest_c > limit_c:
            found.append(f"temperature {self.hottest_c:.0f} °C is above the profile's {limit_c:g} °C")
        if self.throttled:
            more = f" and {len(self.throttled) - _SHOWN} more" if len(self.throttled) > _SHOWN else ""
            found.append(f"throttled: {'; '.join(self.throttled[:_SHOWN])}{more}")
        return found


def select_heat_throttling(throttled: tuple[str, ...]) -> tuple[str, ...]:
    """What of it cooling down can help against: not a supply that is too weak."""
    return tuple(words for words in throttled if "under-voltage" not in words)


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
        if self._now() - self._last_s >= LOOK_EVERY_S:
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
