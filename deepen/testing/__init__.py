"""Stand-ins behind the same protocols as the real things; everything they yield is labelled ``simulated``.

``bench.SimulatedBench`` is a whole bench in virtual time with known energy; ``device`` has the link, worker and runtime
it is made of, ``power`` the timeline and the meter, ``clock`` the clock, ``synthetic`` datasets and predictors that
need no measuring. Tests here and elsewhere use them; production code never asks whether it runs under a test.
"""

from __future__ import annotations

from deepen.testing.bench import SimulatedBench
from deepen.testing.clock import VirtualClock
from deepen.testing.device import Cost, FakeChannel, FakeDevice, FakeLink, FakeRuntime, size_cost
from deepen.testing.power import SimulatedMeter, Timeline
from deepen.testing.synthetic import kernel_records, train_predictor

__all__ = [
    "Cost",
    "FakeChannel",
    "FakeDevice",
    "FakeLink",
    "FakeRuntime",
    "SimulatedBench",
    "SimulatedMeter",
    "Timeline",
    "VirtualClock",
    "kernel_records",
    "size_cost",
    "train_predictor",
]
