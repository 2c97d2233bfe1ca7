"""Helpers for instruments that supply the device under test: checked options, and a voltage ramp."""

from __future__ import annotations

import math

from deepen.errors import ConfigError
from deepen.meters.stream.meter import read_number_option
from deepen.meters.types import MeterSpec

__all__ = ["PASSTHROUGH", "plan_voltage_ramp", "read_choice_option", "read_optional_number"]

PASSTHROUGH = ("off", "on", "auto")
"""Modes of a Monsoon's USB passthrough, by number; automatic is off while sampling."""


def read_optional_number(spec: MeterSpec, key: str, low: float, high: float, unit: str) -> float | None:
    """Read an optional number among the options.

    Returns:
        The number; ``None`` if it is not given.

    Raises:
        ConfigError: If it is not a number, or outside the limits (see ``read_number_option``).
    """
    return read_number_option(spec, key, low, high, unit=unit) if spec.options.get(key) else None


def read_choice_option(spec: MeterSpec, key: str, values: tuple[str, ...]) -> str | None:
    """Read an option that is one of a few words; ``None`` if it is not given.

    Raises:
        ConfigError: If it is another word.
    """
    text = spec.options.get(key)
    if text is not None and text not in values:
        raise ConfigError(f"meter '{spec.name}': {key} is one of {', '.join(values)}, not '{text}'")
    return text


def plan_voltage_ramp(start_v: float, target_v: float, *, floor_v: float, step_v: float = 0.1) -> tuple[float, ...]:
    """Plan the voltages to set in sequence, so that a load with large capacitors does not trip the over-current limit.

    The public readers of Monsoon's first protocol (AOSP CTS ``monsoon.py``, ``RampVoltage``) go up in steps of 0.1 V,
    0.1 s each, from 3.0 V; going down is done likewise here.

    Args:
        start_v: Present voltage, volts; 0 if the output is off.
        target_v: Voltage wanted, above 0, volts.
        floor_v: Voltage that may be set directly from below it, volts.
        step_v: Largest step, volts.

    Returns:
        The voltages, the last one being the target.
    """
    first = max(start_v, min(floor_v, target_v))
    count = max(1, math.ceil(abs(target_v - first) / step_v - 1e-9))
    steps = tuple(first + (target_v - first) * i / count for i in range(1, count))
    return (*(() if first in (start_v, target_v) else (first,)), *steps, target_v)
