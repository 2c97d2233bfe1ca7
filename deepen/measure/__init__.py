"""Measure: sessions, integration of traces, trials and their uncertainty."""

from __future__ import annotations

from deepen.clock.round_trips import fit_pings
from deepen.measure.alignment.logic_marks import fit_logic_marks
from deepen.measure.api import open_session, profile
from deepen.measure.energy.idle_power import IdlePower, IdlePowerLine
from deepen.measure.energy.integrate import WindowEnergy, integrate_power
from deepen.measure.energy.trace_file_energy import TraceFileEnergy, integrate_trace_file
from deepen.measure.energy.uncertainty_budget import UncertaintyBudget
from deepen.measure.session import Session, compute_median_energy_j
from deepen.measure.training_energy import TrainingRun, measure_training
from deepen.measure.workload import make_workload
from deepen.records import MeasurementWarning

__all__ = [
    "IdlePower",
    "IdlePowerLine",
    "MeasurementWarning",
    "Session",
    "TraceFileEnergy",
    "TrainingRun",
    "UncertaintyBudget",
    "WindowEnergy",
    "compute_median_energy_j",
    "fit_logic_marks",
    "fit_pings",
    "integrate_power",
    "integrate_trace_file",
    "make_workload",
    "measure_training",
    "open_session",
    "profile",
]
