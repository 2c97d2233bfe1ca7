"""Coverage of stated uncertainties: windows of known energy, measured through everything that goes wrong at once.

In virtual time and in numpy alone: a load of known power, an instrument with noise and an error within its stated
accuracy, a clock that drifts, a transport that delays every batch of samples by another time. What comes out is put
through the same functions as a real measurement: the clock is fitted to the arrival times, idle power is taken from
before and after, and the window is integrated. One run gives one error and one stated uncertainty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepen.clock import fit_arrivals
from deepen.measure.energy.integrate import WindowEnergy, integrate_power
from deepen.records import Accuracy, Interval, PowerTrace
from deepen.testing.instruments.signal import StepSignal

__all__ = ["CoverageConditions", "CoverageMeasurement", "measure_known_energy"]

_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CoverageConditions:
    """What a measurement has to cope with.

    Attributes:
        rate_hz: Nominal sample rate.
        drift: Largest error of the instrument's clock, a share.
        jitter_s: Transport delays are spread over this, uniformly, above a floor.
        floor_s: Largest floor of the delay, on each of the two ways.
        round_trip: Whether the shortest round trip is known when the clock is fitted.
        batch_s: Time between two batches of samples.
        noise_w: Standard deviation of each sample.
        gain: Largest error in proportion to the reading (uniform; stated as such).
        offset_w: Largest constant error (uniform; stated as such).
        idle_w: Idle power.
        active_w: Greatest power above idle.
        idle_drift: Largest change of idle power during the measurement, a share.
        sampling: ``point`` for the power at the middle of the period, ``mean`` for the mean over it.
        idle_s: Length of the idle measurements before and after.
    """

    rate_hz: float
    drift: float = 50e-6
    jitter_s: float = 5e-3
    floor_s: float = 1e-3
    round_trip: bool = False
    batch_s: float = 2e-3
    noise_w: float = 0.02
    gain: float = 2e-3
    offset_w: float = 1e-3
    idle_w: float = 1.0
    active_w: float = 3.0
    idle_drift: float = 0.005
    sampling: Literal["point", "mean"] = "point"
    idle_s: float = 1.0


@dataclass(frozen=True, slots=True)
class CoverageMeasurement:
    """One measurement of known energy.

    Attributes:
        true_gross_j: What was drawn in the window.
        true_net_j: The same less idle energy.
        window: What was measured.
        clock_error_s: How far the fitted clock was off, seconds.
    """

    true_gross_j: float
    true_net_j: float
    window: WindowEnergy
    clock_error_s: float

    @property
    def error_j(self) -> float:
        """Measured less true net energy, joules."""
        return self.window.net_j - self.true_net_j

    @property
    def covered(self) -> bool:
        """Whether the true net energy lies within the stated (expanded) uncertainty."""
        return abs(self.error_j) <= self.window.uncertainty_j


def _make_burst_load(
    window_s: float, start_s: float, end_s: float, c: CoverageConditions, rng: np.random.Generator
) -> tuple[StepSignal, float]:
    """Idle, then work in bursts of random length and power from the window's start to its end, then idle.

    Returns:
        The power, and the mean idle power during the window.
    """
    cuts = np.sort(rng.uniform(0.0, window_s, max(1, min(2000, rng.poisson(window_s / 5e-3)))))
    levels = rng.uniform(0.4, 1.0, cuts.size + 1) * c.active_w
    ramp_s = np.linspace(start_s, end_s, 201)
    knots = np.unique(np.concatenate([ramp_s, [0.0, window_s], cuts]))
    middle = (knots[1:] + knots[:-1]) / 2
    idle = c.idle_w * (1 + rng.uniform(-1, 1) * c.idle_drift * (middle - start_s) / (end_s - start_s))
    busy = np.where((middle > 0) & (middle < window_s), levels[np.searchsorted(cuts, middle)], 0.0)
    a, b = middle[0], middle[-1]
    at_middle = idle[0] + (idle[-1] - idle[0]) * (window_s / 2 - a) / (b - a)
    return StepSignal(knots[1:-1], idle + busy), float(at_middle)


def measure_known_energy(window_s: float, c: CoverageConditions, seed: int) -> CoverageMeasurement:
    """Measure one window once.

    Args:
        window_s: Length of the window, seconds; the load begins and ends exactly with it.
        c: Conditions.
        seed: Seed of everything random.
    """
    rng = np.random.default_rng(seed)
    lead_s = c.idle_s + 0.2
    start_s, end_s = -lead_s, window_s + lead_s
    power, idle_w = _make_burst_load(window_s, start_s, end_s, c, rng)
    period_s = (1 + rng.uniform(-1, 1) * c.drift) / c.rate_hz
    n = int((end_s - start_s) / period_s)
    phase = rng.uniform() * period_s
    edges = start_s + phase + np.arange(n + 1, dtype=np.float64) * period_s
    middles: _Floats = edges[:-1] + period_s / 2
    ends = (edges[:-1], edges[1:]) if c.sampling == "mean" else (middles, middles)
    true_w = power.mean_w(*ends)
    limits = rng.uniform(-1, 1, 2) * (c.gain, c.offset_w)
    shown = true_w * (1 + limits[0]) + limits[1] + rng.normal(0.0, c.noise_w, n)
    # Batches: the host reads what has arrived; FIFO, so a late batch holds the next ones up.
    per = max(1, round(c.batch_s * c.rate_hz))
    index = np.minimum(np.arange(per, n + per, per), n).astype(np.int64)
    floors = rng.uniform(0.0, c.floor_s, 2)
    delays = floors[0] + rng.uniform(0.0, c.jitter_s, index.size)
    host_s = np.maximum.accumulate(edges[index] + delays)
    arrivals = fit_arrivals(index, host_s, c.rate_hz, round_trip_s=float(floors.sum()) if c.round_trip else None)
    ahead = 1.0 if c.sampling == "mean" else 0.5
    t_s = arrivals.times(np.arange(n, dtype=np.int64)) + ahead / c.rate_hz
    accuracy = Accuracy(c.gain / math.sqrt(3), c.offset_w / math.sqrt(3), "uniform within the limits")
    trace = PowerTrace(
        t_s, shown, c.rate_hz, "virtual", "", "simulated", sampling=c.sampling, clock=arrivals.clock, accuracy=accuracy
    )
    idles = [Interval(start_s + 0.1, -0.05, "idle"), Interval(window_s + 0.05, end_s - 0.1, "idle")]
    window = Interval(0.0, window_s, "run")
    (found,) = integrate_power(trace, [window], idle=idles)
    gross_j = power.energy_j(0.0, window_s)
    middle = window_s / 2
    exact = float(np.interp(middle, edges[:-1] + ahead * period_s, np.arange(n)))
    off_s = float(np.interp(exact, np.arange(n), t_s)) - middle
    return CoverageMeasurement(gross_j, gross_j - idle_w * window_s, found, off_s)
