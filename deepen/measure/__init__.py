"""Measure: sessions, integration of traces, trials and their uncertainty."""

from __future__ import annotations

from deepen.measure.api import open_session, profile
from deepen.measure.integrate import WindowEnergy, integrate
from deepen.measure.session import Session, median_energy_j
from deepen.measure.workload import make_workload

__all__ = [
    "Session",
    "WindowEnergy",
    "integrate",
    "make_workload",
    "median_energy_j",
    "open_session",
    "profile",
]
