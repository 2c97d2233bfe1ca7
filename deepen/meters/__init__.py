"""Meters: where power figures come from."""

from __future__ import annotations

from deepen.meters.registry import driver_names, list_meters, open_meter, why_not
from deepen.meters.types import Availability, Context, Driver, Meter, MeterSpec, PowerFacts

__all__ = [
    "Availability",
    "Context",
    "Driver",
    "Meter",
    "MeterSpec",
    "PowerFacts",
    "driver_names",
    "list_meters",
    "open_meter",
    "why_not",
]
