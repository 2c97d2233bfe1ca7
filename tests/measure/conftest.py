from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepen.clock.host_clock import ClockMap
from deepen.records import PowerTrace, TraceWarning
from deepen.testing.bench import SimulatedBench
from deepen.testing.device import RunCost
from deepen.testing.power import SimulatedMeter


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file a simulated runtime accepts."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"weights" * 100)
    return path


class SampledMeter(SimulatedMeter):
    """An external meter: samples at a rate of its own, on a clock that is off by so much."""

    def __init__(
        self, *args: Any, rate_hz: float, offset_s: float, error_s: float, sample_noise_w: float, **kwargs: Any
    ):
        super().__init__(*args, **kwargs)
        self.rate_hz, self.offset_s, self.error_s, self.sample_noise_w = rate_hz, offset_s, error_s, sample_noise_w
        self.update_s = 1 / rate_hz
        self.trace_warnings: tuple[TraceWarning, ...] = ()

    def stop(self) -> PowerTrace:
        start, end = self._times[0], self._now()
        super().stop()
        edges = np.arange(start - 0.01, end + 0.01, 1 / self.rate_hz)  # a stream covers more than was asked for
        sums = np.array([self._timeline.energy_j(a, b) for a, b in pairwise(edges)])
        power = sums * self.rate_hz + self._rng.normal(0.0, self.sample_noise_w, sums.size)
        middles = (edges[1:] + edges[:-1]) / 2
        clock = ClockMap(0.0, 0.0, 1.0, self.error_s, "arrival")
        return PowerTrace(
            middles + self.offset_s,
            power,
            self.rate_hz,
            self.id,
            "c",
            "simulated",
            clock=clock,
            warnings=self.trace_warnings,
        )


@pytest.fixture
def sampled_bench():
    """Make a bench with an external meter."""

    def make(
        cost: RunCost,
        *,
        rate_hz: float = 5000.0,
        offset_s: float = 0.0,
        error_s: float = 1e-3,
        sample_noise_w: float = 0.02,
        seed: int = 0,
        **options: Any,
    ) -> SimulatedBench:
        bench = SimulatedBench(lambda path: cost if path.stem == "model" else RunCost(), seed=seed, **options)
        bench.meter = SampledMeter(
            bench.timeline,
            bench.clock.now,
            seed=seed,
            rate_hz=rate_hz,
            offset_s=offset_s,
            error_s=error_s,
            sample_noise_w=sample_noise_w,
        )
        return bench

    return make
