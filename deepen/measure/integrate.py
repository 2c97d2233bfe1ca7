"""Energy of stretches of a power trace, with its uncertainty.

The exact integral of what the trace says of power: a line between ``point`` samples, constant in the bin of a ``mean``
sample, with the edges of a window wherever they fall. The uncertainty comes from the trace itself and from what the
instrument and the clock map state; :func:`integrate` says how each term is formed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.errors import MeasureError
from deepen.measure.budget import Budget, Caution
from deepen.measure.idle import Idle, IdleLine
from deepen.measure.scan import Scan, pieces, scan
from deepen.records import Interval, PowerTrace
from deepen.units import format_si

__all__ = ["MAX_LOSS", "UPDATES", "WindowEnergy", "integrate"]

MAX_LOSS = 1e-3
"""Largest share of samples that may be lost from a trace or a window (EEMBC run rules: 0.1 %)."""

UPDATES = 100
"""A window should span this many updates of the sensor (the rule of ml-energy/zeus, issue 32)."""

_REACH = 2.0  # standard deviations within which a shift is looked for: 95 % of a normal distribution
_SHIFTS = 64  # shifts tried for each window, fewer for very many windows
_MOST_MOMENTS = 400_000
_AROUND = np.array([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5])  # sample periods around an edge at which power is looked at
_NOISE_REACH = 32  # sample periods on both sides of a window from which noise is learned too
_IDLE_PARTS = 10  # parts of an idle stretch whose spread gives its uncertainty
_IDLE_DRIFT = 0.01  # share of net energy that a change of idle power may put in question without a word

_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WindowEnergy:
    """Energy of one stretch of time.

    Attributes:
        interval: The stretch.
        gross_j: All energy drawn in it, joules.
        net_j: What is left after idle energy, joules; equals ``gross_j`` where no idle power was given.
        budget: Terms of the uncertainty of ``net_j``.
        gross_budget: Terms of the uncertainty of ``gross_j``.
        warnings: What a reader should know of this window.
    """

    interval: Interval
    gross_j: float
    net_j: float
    budget: Budget = field(default_factory=Budget)
    gross_budget: Budget = field(default_factory=Budget)
    warnings: tuple[Caution, ...] = ()

    @property
    def standard_j(self) -> float:
        """Standard uncertainty of ``net_j``, joules."""
        return self.budget.standard_j

    @property
    def uncertainty_j(self) -> float:
        """Expanded uncertainty of ``net_j`` for about 95 %, joules."""
        return self.budget.expanded_j


def integrate(
    trace: PowerTrace | Iterable[PowerTrace],
    intervals: Sequence[Interval],
    idle_w: float | IdleLine = 0.0,
    *,
    idle: Sequence[Interval] = (),
    max_loss: float = MAX_LOSS,
    gaps: tuple[tuple[float, float], ...] = (),
) -> tuple[WindowEnergy, ...]:
    """Integrate power over intervals.

    Terms of the uncertainty (standard, joules; T is the window's length, P power, dt the sample period):

    - ``gain``, ``offset``: ``trace.accuracy``: gain times the energy, offset times T. Net of an idle power that the
      same meter measured, gain applies to net energy and the offset cancels.
    - ``alignment``: half of the largest change of the window's energy, found in the trace, when the whole window is
      shifted by up to two standard deviations ``trace.clock.error_s``, and when each edge by itself is shifted by up to
      two of ``Interval.uncertainty_s``. Whatever the course of power, the error is within twice this as often as the
      shift is within its two standard deviations (a burst loses energy when shifted in either direction, and an idle
      moment beside the window counts as soon as it is inside: laws that are not linear). What the sampling of the
      edges loses is lost in the same direction: the covariance of both is part of this term (JCGM 100:2008, 5.2.2).
    - ``sampling``: where between two ``point`` samples a step of power happened is unknown: step * dt / sqrt(12) for
      every segment inside; at each edge with the range of power within 1.5 dt of it. In the bin of a ``mean`` sample
      an edge at the share f of the bin is off by f (1 - f) times range * dt at most.
    - ``noise``: s dt sqrt(T / dt), with s from the products of neighbouring changes of power, which steps do not enter
      (bipower variation: Barndorff-Nielsen and Shephard, J. Financial Econometrics 2, 2004), inside the window or
      within 32 samples around it, whichever is more.
    - ``gaps``: for each bridge its change of power times its length over sqrt(12), and the missing time times the
      spread of power in and around the window.
    - ``idle``: uncertainty of idle power times T.

    Args:
        trace: Power over host time; or its consecutive pieces, of which one at a time is held.
        intervals: Stretches to integrate, in any order; they may overlap.
        idle_w: Idle power to subtract for ``net_j``: a constant taken as exact, or a line of measurements.
        idle: Stretches of the same trace in which nothing ran; where given, they are the line of measurements (each
            with the spread of ten parts as its uncertainty), and ``idle_w`` is not used.
        max_loss: Largest share of the trace and of each window that may be lost.
        gaps: Gaps of the whole trace; needed with pieces where a gap may reach over several.

    Raises:
        MeasureError: If the trace is empty, an interval is not inside it, or too much of the trace or of an interval
            is lost.
    """
    if not intervals:
        return ()
    parts = pieces(trace)
    first = next(parts, None)
    if first is None:
        raise MeasureError("the trace has no pieces; measure for longer")
    edges = np.array([(i.start_s, i.end_s) for i in intervals], dtype=np.float64)
    own_s = np.array([i.uncertainty_s for i in intervals], dtype=np.float64)
    clock_s = first.clock.error_s if first.clock is not None else 0.0
    period_s = 1.0 / first.rate_hz if first.rate_hz > 0 else 0.0
    quiet = [i for i in idle if i.duration_s > 0]
    quiet_edges = np.array([(i.start_s, i.end_s) for i in quiet], dtype=np.float64).reshape(-1, 2)
    plan = _Plan(edges, own_s, quiet_edges, clock_s, period_s)
    found = scan(chain((first,), parts), plan.moments(), gaps)
    every, all_edges = [*intervals, *quiet], np.concatenate([edges, quiet_edges])
    _check(found, every, all_edges, first.meter_id, max_loss)
    if quiet:
        line: IdleLine | None = IdleLine.through(_idle_points(found, plan))
    else:
        line = idle_w if isinstance(idle_w, IdleLine) else IdleLine.constant(idle_w) if idle_w else None
    return _windows(first, found, plan, intervals, line)


class _Plan:
    """Which moments of the trace the windows need, and where their answers lie; all in one array."""

    def __init__(self, edges: _Floats, own_s: _Floats, quiet: _Floats, clock_s: float, period_s: float) -> None:
        self.edges = edges
        reach = _NOISE_REACH * period_s
        blocks: dict[str, _Floats] = {
            "edges": edges[:, :, None],
            "around": edges[:, :, None] + _AROUND * period_s,
            "reach": (edges + np.array([-reach, reach]))[:, :, None],
            "idle": quiet[:, :1, None] + (quiet[:, 1:] - quiet[:, :1])[:, :, None] * np.linspace(0, 1, _IDLE_PARTS + 1),
        }
        count = max(8, min(_SHIFTS, _MOST_MOMENTS // max(1, 2 * edges.shape[0])))
        shifts = np.delete(np.linspace(-_REACH, _REACH, count + 1), count // 2)  # all but no shift
        if clock_s > 0:
            blocks["shifted"] = edges[:, :, None] + shifts * clock_s
        if (own_s > 0).any():
            blocks["jittered"] = edges[:, :, None] + shifts * own_s[:, None, None]
        self._blocks = blocks
        self._where: dict[str, tuple[slice, tuple[int, ...]]] = {}
        start = 0
        for name, block in blocks.items():
            self._where[name] = (slice(start, start + block.size), block.shape)
            start += block.size

    def moments(self) -> _Floats:
        """All moments, shape (m,)."""
        return np.concatenate([block.ravel() for block in self._blocks.values()])

    def has(self, name: str) -> bool:
        """Whether a block of moments was asked for."""
        return name in self._blocks

    def of(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        """Values at one block of moments, in its shape: mostly (windows, 2 edges, moments around each)."""
        where, shape = self._where[name]
        return values[where].reshape(shape)

    def at(self, name: str) -> _Floats:
        """The moments of one block, same shape."""
        return self._blocks[name]


def _check(found: Scan, intervals: Sequence[Interval], edges: _Floats, meter: str, max_loss: float) -> None:
    # Edges computed from the trace's own ends may be off by rounding; a sample period more is none of the trace.
    slack = 4 * np.spacing(max(abs(found.start_s), abs(found.end_s)))
    outside = (edges[:, 0] < found.start_s - slack) | (edges[:, 1] > found.end_s + slack)
    if outside.any():
        bad = intervals[int(np.argmax(outside))]
        raise MeasureError(
            f"interval '{bad.label}' ({bad.start_s:.6f} to {bad.end_s:.6f} s) lies outside the trace of "
            f"{meter} ({found.start_s:.6f} to {found.end_s:.6f} s); start the meter before the run and stop it after"
        )
    share = found.dropped / (found.dropped + found.samples)
    if share > max_loss:
        raise MeasureError(
            f"the trace of {meter} lost {100 * share:.3g} % of its samples, {100 * max_loss:g} % are allowed; "
            "measure again, or raise max_loss"
        )
    lost = _missing(found, edges) / np.maximum(edges[:, 1] - edges[:, 0], np.finfo(float).tiny)
    if (lost > max_loss).any():
        worst = int(np.argmax(lost))
        bad = intervals[worst]
        others = int(np.count_nonzero(lost > max_loss)) - 1
        also = f", as do {others} others," if others else ""
        raise MeasureError(
            f"interval '{bad.label}' ({bad.start_s:.6f} to {bad.end_s:.6f} s){also} touches a gap in the trace of "
            f"{meter}: {100 * lost[worst]:.3g} % of it has no samples, {100 * max_loss:g} % are allowed; measure "
            "again, or raise max_loss"
        )


def _overlaps(found: Scan, edges: _Floats) -> tuple[_Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Seconds of every bridge that lie in a window: (overlaps, windows, bridges), each shape (k,)."""
    b = found.bridges
    if not b.start_s.size:
        none = np.empty(0, np.int64)
        return np.empty(0), none, none
    first = np.searchsorted(b.end_s, edges[:, 0], side="right")
    last = np.maximum(np.searchsorted(b.start_s, edges[:, 1], side="left"), first)
    counts = last - first
    windows = np.repeat(np.arange(edges.shape[0]), counts)
    bridges = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    seconds = np.minimum(b.end_s[bridges], edges[windows, 1]) - np.maximum(b.start_s[bridges], edges[windows, 0])
    return np.maximum(seconds, 0.0), windows, bridges


def _idle_points(found: Scan, plan: _Plan) -> list[Idle]:
    t_s, energy = plan.at("idle")[:, 0], plan.of("idle", found.energy_j)[:, 0]
    watts = (np.diff(energy, axis=1) / np.diff(t_s, axis=1)).astype(np.float64)
    std = watts.std(axis=1, ddof=1) / math.sqrt(_IDLE_PARTS)
    return [
        Idle(float(t), float(w), float(u)) for t, w, u in zip(t_s.mean(axis=1), watts.mean(axis=1), std, strict=True)
    ]


def _missing(found: Scan, edges: _Floats) -> _Floats:
    """Time without samples in every window, seconds; shape (n,)."""
    seconds, windows, bridges = _overlaps(found, edges)
    share = found.bridges.missing_s / (found.bridges.end_s - found.bridges.start_s)
    total = np.bincount(windows, weights=seconds * share[bridges], minlength=edges.shape[0])
    return np.asarray(total, dtype=np.float64)


def _windows(
    first: PowerTrace, found: Scan, plan: _Plan, intervals: Sequence[Interval], idle: IdleLine | None
) -> tuple[WindowEnergy, ...]:
    start, end = plan.edges[:, 0], plan.edges[:, 1]
    duration = end - start
    energy = plan.of("edges", found.energy_j)[:, :, 0]
    gross = (energy[:, 1] - energy[:, 0]).astype(np.float64)
    net = gross - idle.energy_j(start, end) if idle is not None else gross
    accuracy = first.accuracy
    same = idle is None or idle.same_meter
    n = gross.size
    inside, at_edges = _sampling(found, plan, first.sampling == "mean")
    alignment, net_alignment = (_with_edges(a, at_edges) for a in _alignment(found, plan, energy, idle))
    missing = _missing(found, plan.edges)
    shared = {
        "sampling": np.hypot(inside, at_edges),
        "noise": _noise(found, plan, duration),
        "gaps": _gaps(found, plan, missing, duration),
    }
    gross_terms = {
        **shared,
        "gain": accuracy.gain * np.abs(gross),
        "offset": accuracy.offset_w * duration,
        "alignment": alignment,
    }
    net_terms = {
        **shared,
        "gain": accuracy.gain * np.abs(net if same else gross),
        "offset": np.zeros(n) if idle is not None and same else accuracy.offset_w * duration,
        "alignment": net_alignment,
        "idle": idle.standard_w(start, end) * duration if idle is not None else np.zeros(n),
    }
    drift = np.abs(idle.change_w(start, end)) / 2 * duration if idle is not None else np.zeros(n)
    windows = []
    for k, interval in enumerate(intervals):
        gross_budget = Budget(**{name: float(values[k]) for name, values in gross_terms.items()})
        budget = Budget(**{name: float(values[k]) for name, values in net_terms.items()}) if idle else gross_budget
        cautions = _cautions(interval, found, float(missing[k]), float(drift[k]), float(net[k]))
        windows.append(WindowEnergy(interval, float(gross[k]), float(net[k]), budget, gross_budget, cautions))
    return tuple(windows)


def _cautions(interval: Interval, found: Scan, missing_s: float, drift_j: float, net_j: float) -> tuple[Caution, ...]:
    cautions = []
    updates = interval.duration_s / found.period_s if found.period_s else math.inf
    if updates < UPDATES * (1 - 1e-6):
        text = f"{format_si(interval.duration_s, 's')} span {updates:.3g} samples, {UPDATES} wanted"
        cautions.append(Caution("short-window", text))
    if missing_s > 0:
        share = 100 * missing_s / interval.duration_s
        text = f"{format_si(missing_s, 's')} ({share:.2g} %) have no samples; their energy is interpolated"
        cautions.append(Caution("gap", text))
    if drift_j > _IDLE_DRIFT * abs(net_j):
        text = (
            f"idle power changed around it by {100 * 2 * drift_j / abs(net_j) if net_j else math.inf:.2g} % of its net"
        )
        cautions.append(Caution("idle-drift", text))
    return tuple(cautions)


def _alignment(found: Scan, plan: _Plan, energy: _Floats, idle: IdleLine | None) -> tuple[_Floats, _Floats]:
    """Alignment term of gross and of net energy, joules; shape (n,) each."""
    gross, net = np.zeros(energy.shape[0]), np.zeros(energy.shape[0])
    if plan.has("shifted"):
        change = (plan.of("shifted", found.energy_j) - energy[:, :, None]).astype(np.float64)
        whole = (_largest(change[:, 1] - change[:, 0]) / _REACH) ** 2
        gross += whole
        net += whole
    if plan.has("jittered"):
        change = (plan.of("jittered", found.energy_j) - energy[:, :, None]).astype(np.float64)
        gross += ((_largest(change) / _REACH) ** 2).sum(axis=1)
        if idle is not None:
            shift = plan.at("jittered") - plan.edges[:, :, None]
            change = change - idle.power_w(plan.edges)[:, :, None] * shift
        net += ((_largest(change) / _REACH) ** 2).sum(axis=1)
    return np.sqrt(gross), np.sqrt(net)


def _largest(change: _Floats) -> _Floats:
    """Largest change over the shifts (last axis); between two of them it may be larger by half their difference."""
    between = np.abs(np.diff(change, axis=-1)).max(axis=-1) / 2
    largest: _Floats = np.abs(change).max(axis=-1) + between
    return largest


def _with_edges(alignment: _Floats, at_edges: _Floats) -> _Floats:
    """The alignment term with its covariance with the sampling of edges, which is full: both lose what a jump gives."""
    total: _Floats = np.sqrt(alignment**2 + 2 * alignment * at_edges)
    return total


def _sampling(found: Scan, plan: _Plan, mean: bool) -> tuple[_Floats, _Floats]:
    """Sampling term inside windows and at their edges, joules; shape (n,) each."""
    around = plan.of("around", found.power_w)
    spread = around.max(axis=2) - around.min(axis=2)
    length = plan.of("edges", found.segment_s)[:, :, 0]
    if mean:
        f = plan.of("edges", found.into)[:, :, 0]
        return np.zeros(f.shape[0]), np.sqrt(((spread * length * f * (1 - f)) ** 2).sum(axis=1))
    own = np.abs(plan.of("edges", found.segment_j)[:, :, 0])
    at_edges = (np.maximum(spread * found.period_s, own) ** 2).sum(axis=1)
    steps = plan.of("edges", found.steps)[:, :, 0]
    inside = steps[:, 1] - steps[:, 0] - own[:, 0] ** 2
    return np.sqrt(np.maximum(inside, 0.0) / 12), np.sqrt(at_edges / 12)


def _noise(found: Scan, plan: _Plan, duration: _Floats) -> _Floats:
    own = plan.of("edges", found.noise)[:, :, 0]
    wide = plan.of("reach", found.noise)[:, :, 0]
    reach = np.clip(plan.at("reach")[:, :, 0], found.start_s, found.end_s)
    length = np.maximum(reach[:, 1] - reach[:, 0], np.finfo(float).tiny)
    inside = own[:, 1] - own[:, 0]
    nearby = (wide[:, 1] - wide[:, 0]) * np.minimum(duration / length, 1.0)
    # E|X Y| = (2 / pi) var for independent normal X, Y, and the change of white noise has twice its variance.
    term: _Floats = np.sqrt(np.maximum(np.maximum(inside, nearby), 0.0) * math.pi / 4)
    return term


def _gaps(found: Scan, plan: _Plan, missing: _Floats, duration: _Floats) -> _Floats:
    if not missing.any():
        return np.zeros(missing.size)
    reach = np.clip(plan.at("reach")[:, :, 0], found.start_s, found.end_s)
    length = np.maximum(reach[:, 1] - reach[:, 0], np.finfo(float).tiny)
    square = plan.of("reach", found.square)[:, :, 0]
    energy = plan.of("reach", found.energy_j)[:, :, 0]
    mean = (energy[:, 1] - energy[:, 0]).astype(np.float64) / length
    variance = np.maximum((square[:, 1] - square[:, 0]) / length - mean**2, 0.0)
    seconds, windows, bridges = _overlaps(found, plan.edges)
    steps = np.bincount(windows, weights=(found.bridges.step_w[bridges] * seconds) ** 2 / 12, minlength=duration.size)
    # Losses come when there is much to do, so that the spread of several gaps adds up instead of averaging out.
    term: _Floats = np.sqrt(variance * missing**2 + steps)
    return term
