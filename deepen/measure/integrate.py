"""Energy of stretches of a power trace: trapezoid on the true sample times, with interpolated edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deepen.errors import MeasureError
from deepen.records import Interval, PowerTrace

__all__ = ["WindowEnergy", "integrate"]


@dataclass(frozen=True, slots=True)
class WindowEnergy:
    """Energy of one stretch of time.

    Attributes:
        interval: The stretch.
        gross_j: All energy drawn in it, joules.
        net_j: What is left after idle power, joules.
    """

    interval: Interval
    gross_j: float
    net_j: float


def integrate(trace: PowerTrace, intervals: Sequence[Interval], idle_w: float = 0.0) -> tuple[WindowEnergy, ...]:
    """Integrate power over intervals.

    Power runs linearly between samples, so an edge between two samples takes the interpolated power; the sum is the
    exact integral of that line.

    Args:
        trace: Power over host time.
        intervals: Stretches to integrate, in any order; they may overlap.
        idle_w: Idle power to subtract for ``net_j``, watts.

    Raises:
        MeasureError: If the trace is empty, an interval is not inside it, or an interval touches a gap.
    """
    t_s, power_w = trace.t_s, trace.power_w
    if not intervals:
        return ()
    if t_s.size < 2:
        raise MeasureError(f"the trace of {trace.meter_id} has {t_s.size} samples; measure for longer")
    edges = np.array([(i.start_s, i.end_s) for i in intervals], dtype=np.float64)
    outside = (edges[:, 0] < t_s[0]) | (edges[:, 1] > t_s[-1])
    if outside.any():
        bad = intervals[int(np.argmax(outside))]
        raise MeasureError(
            f"interval '{bad.label}' ({bad.start_s:.6f} to {bad.end_s:.6f} s) lies outside the trace of "
            f"{trace.meter_id} ({t_s[0]:.6f} to {t_s[-1]:.6f} s); start the meter before the run and stop it after"
        )
    for start, end in trace.gaps:
        hit = (edges[:, 0] < end) & (edges[:, 1] > start)
        if hit.any():
            bad = intervals[int(np.argmax(hit))]
            raise MeasureError(
                f"interval '{bad.label}' touches a gap in the trace of {trace.meter_id} ({end - start:.6f} s without "
                "samples); measure again"
            )
    steps = np.diff(t_s)
    cumulative = np.concatenate([[0.0], np.cumsum(steps * (power_w[1:] + power_w[:-1]) / 2)])
    # The segment each edge falls into, and the exact integral of the line inside it.
    at = np.clip(np.searchsorted(t_s, edges, side="right") - 1, 0, steps.size - 1)
    into = edges - t_s[at]
    slope = (power_w[at + 1] - power_w[at]) / steps[at]
    energy = cumulative[at] + into * power_w[at] + slope * into * into / 2
    gross = energy[:, 1] - energy[:, 0]
    net = gross - idle_w * (edges[:, 1] - edges[:, 0])
    return tuple(WindowEnergy(i, float(g), float(n)) for i, g, n in zip(intervals, gross, net, strict=True))
