"""Meters: where power figures come from."""

from __future__ import annotations

from deepen.meters.registry import explain_unavailable, list_driver_names, list_meters, open_meter
from deepen.meters.types import Availability, Driver, MachinePower, Meter, MeterContext, MeterSpec

__all__ = [
    "Availability",
    "Driver",
    "MachinePower",
    "Meter",
    "MeterContext",
    "MeterSpec",
    "explain_unavailable",
    "list_driver_names",
    "list_meters",
    "open_meter",
]
