"""Measure: sessions, integration of traces, trials and their uncertainty."""

from __future__ import annotations

from deepen.clock.host_clock import fit_pings
from deepen.measure.alignment.logic_marks import from_marks
from deepen.measure.api import open_session, profile
from deepen.measure.energy.idle_power import Idle, IdleLine
from deepen.measure.energy.integrate import WindowEnergy, integrate
from deepen.measure.energy.trace_file_energy import StoredEnergy, stored_energy
from deepen.measure.energy.uncertainty_budget import Budget, Caution
from deepen.measure.session import Session, median_energy_j
from deepen.measure.training_energy import TrainingRun, measure_training
from deepen.measure.workload import make_workload

__all__ = [
    "Budget",
    "Caution",
    "Idle",
    "IdleLine",
    "Session",
    "StoredEnergy",
    "TrainingRun",
    "WindowEnergy",
    "fit_pings",
    "from_marks",
    "integrate",
    "make_workload",
    "measure_training",
    "median_energy_j",
    "open_session",
    "profile",
    "stored_energy",
]
