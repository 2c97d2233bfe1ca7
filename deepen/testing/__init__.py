"""Stand-ins behind the same protocols as real devices and meters; all their data are labelled ``simulated``.

``bench.SimulatedBench`` is a whole bench in virtual time with known energy; ``device`` has the link, worker and runtime
it consists of, ``power`` the timeline and the meter, ``clock`` the clock, ``synthetic`` datasets and predictors that
need no measurement. Tests here and elsewhere use them; production code never asks whether it runs under a test.
"""

from __future__ import annotations

from deepen.testing.bench import SimulatedBench
from deepen.testing.clock import VirtualClock
from deepen.testing.device import FakeChannel, FakeDevice, FakeLink, FakeRuntime, RunCost, compute_size_cost
from deepen.testing.power import PowerTimeline, SimulatedMeter
from deepen.testing.synthetic import simulate_kernel_records, train_synthetic_predictor

__all__ = [
    "FakeChannel",
    "FakeDevice",
    "FakeLink",
    "FakeRuntime",
    "PowerTimeline",
    "RunCost",
    "SimulatedBench",
    "SimulatedMeter",
    "VirtualClock",
    "compute_size_cost",
    "simulate_kernel_records",
    "train_synthetic_predictor",
]
