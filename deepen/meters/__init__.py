"""Meters: power sources, from on-board sensors and external instruments to a model of processor time."""

from __future__ import annotations

from deepen.meters.registry import DRIVERS, explain_unavailable, list_meters, open_meter
from deepen.meters.types import Availability, Driver, MachinePower, Meter, MeterContext, MeterSpec

__all__ = [
    "DRIVERS",
    "Availability",
    "Driver",
    "MachinePower",
    "Meter",
    "MeterContext",
    "MeterSpec",
    "explain_unavailable",
    "list_meters",
    "open_meter",
]
