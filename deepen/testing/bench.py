"""A simulated bench in virtual time: it needs no waiting and no worker, and its energy is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepen.measure.session import Session
from deepen.testing.clock import VirtualClock
from deepen.testing.device import FakeDevice, FakeRuntime, RunCost, compute_size_cost
from deepen.testing.power import PowerTimeline, SimulatedMeter

__all__ = ["SimulatedBench"]


class SimulatedBench:
    """Device, meter and clock that belong together.

    ::

        bench = SimulatedBench(lambda path: Cost(latency_s=2e-3, power_w=3.0))
        with bench.session() as session:
            record = session.measure(make_workload(path))
        record.energy_j  # 6 mJ, labelled "simulated"

    Attributes:
        clock: Virtual time.
        timeline: True power over time.
        runtime: Runtime that plays workloads.
        device: Device around it.
        meter: Meter that reads the timeline.
    """

    def __init__(
        self,
        cost: Callable[[Path], RunCost] = compute_size_cost,
        *,
        idle_w: float = 1.0,
        seed: int = 0,
        meter: dict[str, Any] | None = None,
        runtime: dict[str, Any] | None = None,
        **profile: Any,
    ) -> None:
        """Build the bench.

        Args:
            cost: Cost of a workload by its model file.
            idle_w: Idle power, watts.
            seed: Seed of all noise.
            meter: Options of :class:`SimulatedMeter` (noise, faults).
            runtime: Options of :class:`FakeRuntime` (preemption, drift).
            **profile: Fields of the device profile.
        """
        self.clock = VirtualClock()
        self.timeline = PowerTimeline(idle_w)
        self.runtime = FakeRuntime(self.clock, self.timeline, cost, seed=seed, **(runtime or {}))
        self.device = FakeDevice(self.runtime, **profile)
        self.meter = SimulatedMeter(self.timeline, self.clock.now, seed=seed, **(meter or {}))

    def session(self, **options: Any) -> Session:
        """Make a session on this bench; options go to :class:`deepen.measure.Session`."""
        return Session(self.device, self.meter, clock=self.clock.as_clock(), **options)
