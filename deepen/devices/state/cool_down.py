"""Thermal summary and clocks of a run, and waiting until a device has cooled down.

``cpufreq/stats/time_in_state`` (kernel ``cpu-freq/cpufreq-stats``: units of 10 ms) gives the clocks of a whole run from
two readings outside it, so that reading does not disturb the measurement.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from deepen.clock.host_clock import monotonic_s
from deepen.devices.state.shell_files import Shell
from deepen.devices.state.temperatures import UNDER_VOLTAGE, find_processor_temperature
from deepen.devices.types import ThermalState

__all__ = [
    "CoolDownResult",
    "ThermalSummary",
    "compute_clock_shares",
    "read_clock_times",
    "select_heat_throttling",
    "summarise_temperatures",
    "wait_for_cool_down",
]

_TIMES = "/sys/devices/system/cpu/cpufreq/policy*/stats/time_in_state"
_TICK_S = 0.01
_LEAST_WAIT_S = 0.01

# ---- over a run ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ThermalSummary:
    """Temperature rise and throttling between two readings.

    Attributes:
        before: First reading.
        after: Last reading.
        hottest_c: Highest processor temperature of all readings, degrees Celsius; ``nan`` where unknown.
        rise_c: Rise of the hottest processor temperature from the first to the last, degrees; ``nan`` where unknown.
        throttled: Causes that slowed the device down in any reading, or were counted between them.
    """

    before: ThermalState
    after: ThermalState
    hottest_c: float
    rise_c: float
    throttled: tuple[str, ...]


def summarise_temperatures(readings: Iterable[ThermalState]) -> ThermalSummary:
    """Summarise readings taken before, during and after a run, in this order.

    Raises:
        ValueError: If there are none.
    """
    taken = list(readings)
    if not taken:
        raise ValueError("heat needs at least one reading")
    first, last = taken[0], taken[-1]
    words = list(dict.fromkeys(text for reading in taken for text in reading.throttled))
    for name, count in last.counters.items():
        grown = count - first.counters.get(name, count)
        if grown > 0:
            words.append(f"{name}: {grown} more")
    temperatures = [t for t in (find_processor_temperature(r) for r in taken) if math.isfinite(t)]
    rise = find_processor_temperature(last) - find_processor_temperature(first)
    return ThermalSummary(first, last, max(temperatures, default=math.nan), rise, tuple(words))


def read_clock_times(shell: Shell) -> dict[str, dict[float, float]]:
    """Read the time each group of cores has run at each clock since the device started.

    Returns:
        Policy -> clock in hertz -> seconds; empty where the kernel does not count.

    Raises:
        LinkError: If the device is gone.
    """
    found: dict[str, dict[float, float]] = {}
    for path, text in shell.read(_TIMES).matching(_TIMES).items():
        rows = (line.split() for line in text.splitlines())
        pairs = [row for row in rows if len(row) == 2 and row[0].isdecimal() and row[1].isdecimal()]
        found[path.split("/")[-3]] = {1e3 * int(khz): _TICK_S * int(ticks) for khz, ticks in pairs}
    return found


def compute_clock_shares(
    before: Mapping[str, Mapping[float, float]], after: Mapping[str, Mapping[float, float]]
) -> dict[str, dict[float, float]]:
    """Compute the share of the time between two readings that each group of cores ran at each clock.

    Returns:
        Policy -> clock in hertz -> share; a policy without time in between is left out.
    """
    shares = {}
    for policy, times in after.items():
        spent = {hz: s - before.get(policy, {}).get(hz, 0.0) for hz, s in times.items()}
        total = sum(spent.values())
        if total > 0 and all(s >= 0 for s in spent.values()):
            shares[policy] = {hz: s / total for hz, s in spent.items() if s > 0}
    return shares


# ---- cooling down -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CoolDownResult:
    """Result of waiting for a device to cool down.

    Attributes:
        reached: True if every limit is kept and nothing slows the device down.
        waited_s: Time waited, seconds.
        start: First reading.
        end: Last reading.
        cause: Reason it was not reached; empty if it was.
        hopeless: True if waiting cannot help, because a temperature is not readable.
    """

    reached: bool
    waited_s: float
    start: ThermalState
    end: ThermalState
    cause: str = ""
    hopeless: bool = False


def select_heat_throttling(throttled: tuple[str, ...]) -> tuple[str, ...]:
    """Select the causes that cooling down can help against: not a supply that is too weak."""
    return tuple(name for name in throttled if not name.startswith(UNDER_VOLTAGE))


def _list_heat_reasons(thermal: ThermalState, limits_c: Mapping[str, float]) -> list[str]:
    """List the reasons, in words, why a measurement cannot begin."""
    found = []
    for kind, limit in limits_c.items():
        value = find_processor_temperature(thermal) if kind == "cpu" else thermal.hottest(kind)
        if not value <= limit:  # true for an unknown temperature (nan)
            value_text = f"{value:.1f} °C" if math.isfinite(value) else "not readable"
            found.append(f"{kind} is {value_text}, {limit:g} °C wanted")
    return found + [f"slowed down: {name}" for name in select_heat_throttling(thermal.throttled)]


def wait_for_cool_down(
    read: Callable[[], ThermalState],
    limits_c: Mapping[str, float],
    *,
    patience_s: float = 600.0,
    poll_s: float = 5.0,
    settled_s: float = 120.0,
    settled_k: float = 0.5,
    now: Callable[[], float] = monotonic_s,
    sleep: Callable[[float], None] = time.sleep,
) -> CoolDownResult:
    """Wait until a device is cool enough and nothing slows it down.

    Args:
        read: Reads its temperatures.
        limits_c: Kind of sensor -> highest temperature, degrees Celsius.
        patience_s: Longest wait, seconds.
        poll_s: Time between readings, seconds; each one wakes the device a little.
        settled_s: Time after which a temperature that fell by less than ``settled_k`` counts as settled, seconds.
        settled_k: See ``settled_s``, kelvin.
        now: Clock; replaceable by tests.
        sleep: Waiting function; replaceable by tests.

    Raises:
        LinkError: If the device is gone.
    """
    begin = now()
    start = last = read()
    history = [(begin, _excess_over_limits(start, limits_c))]
    while reasons := _list_heat_reasons(last, limits_c):
        waited = now() - begin
        cause = "; ".join(reasons)
        unknown = [
            k for k in limits_c if math.isnan(find_processor_temperature(last) if k == "cpu" else last.hottest(k))
        ]
        if unknown:
            return CoolDownResult(False, waited, start, last, f"{cause}: waiting cannot help", hopeless=True)
        if waited >= patience_s:
            return CoolDownResult(False, waited, start, last, f"{cause} after {waited:.0f} s; improve its cooling")
        old = [warmth for t, warmth in history if t <= now() - settled_s]
        if old and old[-1] - history[-1][1] < settled_k and not last.throttled:
            return CoolDownResult(
                False, waited, start, last, f"{cause}, and it falls no further; cool the room or the device"
            )
        # Never shorter than the clock's resolution: a remainder of rounding errors would loop forever.
        sleep(min(poll_s, max(patience_s - waited, _LEAST_WAIT_S)))
        last = read()
        history.append((now(), _excess_over_limits(last, limits_c)))
    return CoolDownResult(True, now() - begin, start, last)


def _excess_over_limits(thermal: ThermalState, limits_c: Mapping[str, float]) -> float:
    """Return the highest excess over a limit, kelvin; ``-inf`` without limits."""
    values = (
        (find_processor_temperature(thermal) if kind == "cpu" else thermal.hottest(kind)) - limit
        for kind, limit in limits_c.items()
    )
    return max((v for v in values if math.isfinite(v)), default=-math.inf)
