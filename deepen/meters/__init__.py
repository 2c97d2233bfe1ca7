"""Meters: where power figures come from."""

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
