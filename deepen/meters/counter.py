"""From readings of an energy counter to a power trace that integrates back to the counter's own differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["step_trace", "unwrap"]


def step_trace(t_s: Sequence[float], energy_j: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Make a trace whose power is constant between readings.

    A counter tells the mean power between two readings and nothing about its course. Each stretch becomes two points
    (one just after its start, one at its end), so the trapezoid over any pair of readings gives the counter's own
    difference.

    Args:
        t_s: Times of the readings, seconds, ascending; readings at the same time keep the last.
        energy_j: Counter values at those times, joules, unwrapped.

    Returns:
        ``(t_s, power_w)``, float64, shape (2m,) for m stretches; empty for fewer than two distinct times.
    """
    times = np.asarray(t_s, dtype=np.float64)
    energy = np.asarray(energy_j, dtype=np.float64)
    if times.size:
        last = np.append(np.diff(times) > 0, True)
        times, energy = times[last], energy[last]
    if times.size < 2:
        return np.empty(0), np.empty(0)
    power = np.diff(energy) / np.diff(times)
    points = np.empty(2 * power.size)
    # The first stretch starts at its reading; later ones one representable step after it, as times must ascend.
    points[0::2] = np.concatenate([times[:1], np.nextafter(times[1:-1], np.inf)])
    points[1::2] = times[1:]
    return points, np.repeat(power, 2)


def unwrap(previous: int, current: int, limit: int) -> int:
    """Difference of two counter readings, the second possibly past one wrap.

    Args:
        previous: Earlier reading.
        current: Later reading.
        limit: Largest value before the counter starts again at zero (``max_energy_range_uj``).
    """
    return current - previous if current >= previous else limit - previous + current
