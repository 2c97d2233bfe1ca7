"""Power-coded sync: a load pattern before and after the run, found again in the trace.

Where a meter has no logic input, the device itself can make marks: it works and rests in a known pattern, and the
pattern shows in its power. The pattern is a Barker code of length 13, whose autocorrelation has one peak and side lobes
of a thirteenth (R. H. Barker, "Group synchronizing of binary digital systems", 1953); what is searched for is not the
nominal code but the very intervals in which the worker ran. The matched filter finds the place; each edge of the
pattern is then placed by itself, from the energy around it, which needs no sample near the edge: the mean of their
displacements is the offset, their scatter its error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from deepen.clock.matched_events import ClockMatch, fit_matches
from deepen.devices.protocols import LoadedModel
from deepen.errors import ConfigError, MeasureError
from deepen.measure.alignment.logic_marks import retime_trace
from deepen.measure.energy.running_integrals import compute_running_integrals
from deepen.records import Interval, PowerTrace

__all__ = [
    "BARKER",
    "GUARD",
    "Sync",
    "SyncPulses",
    "check_sync",
    "choose_sync_pulses",
    "find_load_pattern",
    "list_code_runs",
    "play_load_pattern",
    "synchronise_trace",
]

Sync = Literal["auto", "pulses", "none"]
"""Ways to bring the meter's time onto the host's clock: play the pattern where it helps, always, or never."""

BARKER = (1, 1, 1, 1, 1, 0, 0, 1, 1, 0, 1, 0, 1)
"""Work and rest."""

GUARD = 2
"""Elements of rest that count as part of the pattern, on both sides."""
_CHIP_S = 0.02  # least length of an element of the pattern,
_CHIP_UPDATES = 10  # and least number of the meter's updates in it
_CORRELATION = 0.5  # least correlation of the power with the pattern
_RIVAL = 0.85  # of the best correlation that another place may reach
_SAMPLES_PER_CHIP = 4
_STUDENT = 1.18  # Student's t for 95 % and 7 degrees of freedom (eight edges) over the coverage factor 2

_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SyncPulses:
    """The pattern as it is played for one workload.

    Attributes:
        chip_s: Length of one element, seconds.
        per_run_s: Wall time of one run of the workload, seconds; an element of work is at least one run.
        max_offset_s: Largest offset of the trace's clock to look for, seconds.
        required: Whether a pattern that is not found is an error (else the trace keeps its own clock, and says so).
        player: The load it is played with; ``None`` for the workload itself. Runtimes that load a model anew for every
            block bring a load of their own, since their runs begin with work that is not in the block.
    """

    chip_s: float
    per_run_s: float
    max_offset_s: float = 0.05
    required: bool = False
    player: LoadedModel | None = None

    @property
    def duration_s(self) -> float:
        """About how long playing it once takes, seconds."""
        work = sum(BARKER) * max(self.chip_s, self.per_run_s)
        return work + (len(BARKER) - sum(BARKER) + 2 * GUARD) * self.chip_s + self.max_offset_s


def check_sync(sync: str) -> None:
    """Check the name of a way to synchronise.

    Raises:
        ConfigError: If there is none of that name.
    """
    if sync not in get_args(Sync):
        raise ConfigError(f"sync must be one of {', '.join(get_args(Sync))}, not '{sync}'")


def choose_sync_pulses(
    sync: Sync, per_run_s: float, update_s: float, *, longest_s: float, player: LoadedModel | None = None
) -> SyncPulses | None:
    """Fit the pattern to a workload and a meter.

    Args:
        sync: Way to synchronise.
        per_run_s: Wall time of one run of what plays the pattern, seconds.
        update_s: Time between two updates of the meter, seconds.
        longest_s: Longest time a pattern may take that is not required, seconds.
        player: The load it is played with; ``None`` for the workload itself.

    Returns:
        The pattern; ``None`` where none is to be played.
    """
    if sync == "none":
        return None
    chip_s = max(_CHIP_S, _CHIP_UPDATES * update_s)
    pulses = SyncPulses(chip_s, per_run_s, required=sync == "pulses", player=player)
    return pulses if pulses.required or pulses.duration_s <= longest_s else None


def list_code_runs() -> list[tuple[int, int]]:
    """List the code as (level, length)."""
    edges = np.flatnonzero(np.diff(BARKER)) + 1
    bounds = [0, *edges.tolist(), len(BARKER)]
    return [(BARKER[a], b - a) for a, b in pairwise(bounds)]


def play_load_pattern(
    loaded: LoadedModel, pulses: SyncPulses, sleep: Callable[[float], None], place: Literal["before", "after"]
) -> tuple[Interval, ...]:
    """Play the pattern with a loaded workload, or the player the pulses bring; returns when it worked.

    Towards the end of the trace it rests longer, so that the pattern is in the trace whatever its clock's offset.

    Raises:
        RunError, LinkError: From the device.
    """
    worked: list[Interval] = []
    player = pulses.player or loaded
    guard_s = GUARD * pulses.chip_s
    sleep(guard_s + (pulses.max_offset_s if place == "before" else 0.0))
    for level, length in list_code_runs():
        if level:
            worked.append(player.run(max(length, round(length * pulses.chip_s / pulses.per_run_s))))
        else:
            sleep(length * pulses.chip_s)
    sleep(guard_s + (pulses.max_offset_s if place == "after" else 0.0))
    return tuple(worked)


def find_load_pattern(trace: PowerTrace, worked: Sequence[Interval], max_offset_s: float) -> ClockMatch:
    """Find a pattern in a trace.

    Args:
        trace: Power on its own clock.
        worked: Intervals in which the device worked, on the host's clock.
        max_offset_s: Largest offset to look for, seconds.

    Raises:
        MeasureError: If the pattern lies too near the ends of the trace, is too short for its sample rate, or is not
            clearly found.
    """
    starts, ends = np.array([i.start_s for i in worked]), np.array([i.end_s for i in worked])
    shortest = float(min((ends - starts).min(), (starts[1:] - ends[:-1]).min()))
    if trace.t_s.size < 2 or shortest * trace.rate_hz < _SAMPLES_PER_CHIP:
        raise MeasureError(
            f"sync pulses of {1e3 * shortest:.3g} ms are too short for {trace.meter_id} at {trace.rate_hz:g} Hz",
            cure=f"make them at least {_SAMPLES_PER_CHIP} samples long",
        )
    edges = np.stack([starts, ends], axis=1)
    offset = _search_coarse_offset(trace, edges, shortest, max_offset_s)
    moved, scatter = _estimate_edge_displacement(trace, edges + offset, shortest / 2)
    # A second look around the improved place, so that each edge lies in the middle of what is integrated around it.
    offset += moved
    moved, scatter = _estimate_edge_displacement(trace, edges + offset, shortest / 2)
    offset += moved
    if not scatter < shortest / 4:
        raise MeasureError(
            f"sync pulses in the trace of {trace.meter_id}: their edges are known to {1e3 * scatter:.3g} ms only",
            cure="use a heavier workload, or longer pulses",
        )
    middle = float((edges[0, 0] + edges[-1, 1]) / 2)
    own = max(i.uncertainty_s for i in worked)  # of one clock map, one transport: common to all edges
    return ClockMatch(middle + offset, middle, math.hypot(scatter, own))


def _search_coarse_offset(trace: PowerTrace, edges: _Floats, shortest: float, max_offset_s: float) -> float:
    """Offset with the best correlation on a grid of an eighth of the shortest element."""
    guard = GUARD * shortest
    low, high = edges[0, 0] - guard, edges[-1, 1] + guard
    step = shortest / 8
    reach = math.ceil(max_offset_s / step)
    shifts = np.arange(-reach, reach + 1) * step
    shifts = shifts[(low + shifts >= trace.t_s[0]) & (high + shifts <= trace.t_s[-1])]
    if shifts.size < 3 or not shifts[0] <= 0.0 <= shifts[-1]:
        raise MeasureError(
            f"sync pulses lie too near the ends of the trace of {trace.meter_id}",
            cure="record longer before and after them",
        )
    # Every moment of the pattern at every offset, shape (moments, offsets): work begins at even rows and ends at odd
    # ones; the last two are the ends of the whole.
    at = np.concatenate([edges.ravel(), [low, high]])[:, None] + shifts
    found = compute_running_integrals([trace], at.ravel())
    energy = found.energy_j.reshape(at.shape)
    square = found.square.reshape(at.shape)
    whole_s, on_s = high - low, float((edges[:, 1] - edges[:, 0]).sum())
    whole = (energy[-1] - energy[-2]).astype(np.float64)
    on = (energy[1:-2:2] - energy[0:-2:2]).sum(axis=0).astype(np.float64)
    variance = (square[-1] - square[-2]) / whole_s - (whole / whole_s) ** 2
    share = on_s / whole_s
    rise = on / on_s - (whole - on) / (whole_s - on_s)
    spread = np.sqrt(np.maximum(variance, 0.0))
    correlation = np.divide(rise * math.sqrt(share * (1 - share)), spread, out=np.zeros_like(rise), where=spread > 0)
    best = int(np.argmax(correlation))
    apart = np.abs(shifts - shifts[best]) > 1.5 * shortest
    rival = float(correlation[apart].max()) if apart.any() else 0.0
    if best in (0, shifts.size - 1):
        raise MeasureError(
            f"sync pulses in the trace of {trace.meter_id} lie {1e3 * shifts[best]:.3g} ms or more "
            "from where they were played",
            cure="record longer before and after them, or look further",
        )
    if correlation[best] < _CORRELATION or rival > _RIVAL * correlation[best]:
        raise MeasureError(
            f"sync pulses are not clear in the trace of {trace.meter_id} (correlation "
            f"{correlation[best]:.2f}, elsewhere {rival:.2f})",
            cure="stop other programs, use a heavier workload, or sync=none",
        )
    return float(shifts[best])


def _estimate_edge_displacement(trace: PowerTrace, edges: _Floats, half_s: float) -> tuple[float, float]:
    """Measure how far the edges lie behind where they are expected: mean and standard error of the mean, seconds.

    Around an edge the energy is that of the level before up to the edge, and that of the level after from there on: one
    unknown. The levels are those beside this very edge, so that pulses of different height do no harm.
    """
    at = edges.ravel()[:, None] + half_s * np.array([-1.5, -0.5, 0.5, 1.5, -1.0, 1.0])
    energy = compute_running_integrals([trace], at.ravel()).energy_j.reshape(at.shape)
    before_w = (energy[:, 1] - energy[:, 0]).astype(np.float64) / half_s
    after_w = (energy[:, 3] - energy[:, 2]).astype(np.float64) / half_s
    around_j = (energy[:, 5] - energy[:, 4]).astype(np.float64)
    steps_w = after_w - before_w
    sign = np.resize([1.0, -1.0], steps_w.size)  # power rises where work begins
    rise_w = float(np.median(sign * steps_w))
    if rise_w <= 0:
        return 0.0, math.inf
    moved = sign * (half_s * (before_w + after_w) - around_j) / rise_w
    return float(moved.mean()), _STUDENT * float(moved.std(ddof=1)) / math.sqrt(moved.size)


def synchronise_trace(trace: PowerTrace, patterns: Sequence[Sequence[Interval]], max_offset_s: float) -> PowerTrace:
    """Correct the clock of a trace by the patterns in it.

    Args:
        trace: Power on its own clock.
        patterns: The device's work in each pattern, on the host's clock: one before the run, one after.
        max_offset_s: Largest offset to look for, seconds.

    Returns:
        The trace on the host's clock, its clock map with the method ``pulses``.

    Raises:
        MeasureError: If a pattern is not clearly found, or the two contradict each other.
    """
    return retime_trace(
        trace, fit_matches([find_load_pattern(trace, worked, max_offset_s) for worked in patterns], "pulses")
    )
