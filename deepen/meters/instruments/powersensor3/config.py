"""PowerSensor3: the configuration of its sensors (``sensors.cc`` of nlesc-recruit/PowerSensor3, firmware 1.6)."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ADC_V", "CONFIG_BYTES", "LEVELS", "RECORD", "SENSORS", "SensorConfig", "parse_config"]

SENSORS = 8
LEVELS = 1024
ADC_V = 3.3
"""Full scale of the converter, volts."""

RECORD = struct.Struct("<16s16sff?")
"""A sensor's configuration: type, name of the pair, reference voltage, sensitivity, in use."""

CONFIG_BYTES = SENSORS * RECORD.size


@dataclass(frozen=True, slots=True)
class SensorConfig:
    """One sensor's configuration.

    Attributes:
        type: What is plugged in, for example ``MLX10``.
        pair: Name of the pair of sensors.
        reference_v: Output at zero, volts.
        sensitivity: Volts per ampere of a current sensor; gain of a voltage sensor.
        in_use: True if a sensor is plugged in.
    """

    type: str
    pair: str
    reference_v: float
    sensitivity: float
    in_use: bool

    def values(self) -> NDArray[np.float64]:
        """Return the amperes (volts) of every level; float64, shape (1024,).

        The law is ``(3.3 level / 1023 - reference) / sensitivity``.
        """
        return (ADC_V * np.arange(LEVELS) / (LEVELS - 1) - self.reference_v) / self.sensitivity

    @property
    def defect(self) -> str:
        """Reason it cannot be used; empty if it can."""
        if not math.isfinite(self.sensitivity) or self.sensitivity == 0:
            return f"its sensitivity is {self.sensitivity:g}"
        if not 0 <= self.reference_v <= ADC_V:
            return f"its reference voltage is {self.reference_v:g} V"
        return ""


def parse_config(data: bytes) -> tuple[SensorConfig, ...] | None:
    """Read the configuration of all sensors.

    Args:
        data: ``CONFIG_BYTES`` bytes.

    Returns:
        Eight sensors, or ``None`` if the data are not from a PowerSensor3.
    """
    if len(data) != CONFIG_BYTES:
        return None
    sensors = []
    for k in range(0, CONFIG_BYTES, RECORD.size):
        record = data[k : k + RECORD.size]
        kind, pair, reference_v, sensitivity, in_use = RECORD.unpack(record)
        names = [raw.partition(b"\0")[0] for raw in (kind, pair)]
        if record[-1] > 1 or (in_use and any(b < 0x20 for name in names for b in name)):
            return None
        kind, pair = (name.decode("utf-8", "replace").strip() for name in names)
        sensors.append(SensorConfig(kind, pair, reference_v, sensitivity, in_use))
    return tuple(sensors)
