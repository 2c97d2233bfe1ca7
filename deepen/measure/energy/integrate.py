"""Energy of stretches of a power trace, with its uncertainty.

The exact integral of the power in the trace: a line between ``point`` samples, constant in the bin of a ``mean``
sample, with the edges of a window wherever they fall. The uncertainty comes from the trace itself and from what the
instrument and the clock map state; :func:`integrate_power` says how each term is formed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from deepen.errors import MeasureError
from deepen.measure.energy.idle_power import IdlePowerLine
from deepen.measure.energy.running_integrals import RunningIntegrals, compute_running_integrals, iterate_pieces
from deepen.measure.energy.uncertainty_budget import UncertaintyBudget
from deepen.measure.energy.uncertainty_terms import (
    SamplePoints,
    add_edge_covariance,
    compute_alignment_terms,
    compute_gap_term,
    compute_missing_time,
    compute_noise_term,
    compute_sampling_terms,
    estimate_idle_power,
)
from deepen.records import Interval, MeasurementWarning, PowerTrace
from deepen.units import format_si

__all__ = ["MAX_LOSS", "UPDATES", "WindowEnergy", "integrate_power"]

MAX_LOSS = 1e-3
"""Largest share of samples that may be lost from a trace or a window (EEMBC run rules: 0.1 %)."""

SHORT_GAP = 5
"""Missing sample periods in a window that are bridged, told and in its uncertainty, however short the window is: an
instrument that calibrates itself leaves out two or three at a time."""

UPDATES = 100
"""A window should span this many updates of the sensor (the rule of ml-energy/zeus, issue 32)."""

_IDLE_DRIFT = 0.01  # share of net energy that a change of idle power may put in question without a word

_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WindowEnergy:
    """Energy of one stretch of time.

    Attributes:
        interval: The stretch.
        gross_j: All energy drawn in it, joules.
        net_j: Energy less idle energy, joules; equals ``gross_j`` where no idle power was given.
        budget: Terms of the uncertainty of ``net_j``.
        gross_budget: Terms of the uncertainty of ``gross_j``.
        warnings: Remarks on this window.
    """

    interval: Interval
    gross_j: float
    net_j: float
    budget: UncertaintyBudget = field(default_factory=UncertaintyBudget)
    gross_budget: UncertaintyBudget = field(default_factory=UncertaintyBudget)
    warnings: tuple[MeasurementWarning, ...] = ()

    @property
    def standard_j(self) -> float:
        """Standard uncertainty of ``net_j``, joules."""
        return self.budget.standard_j

    @property
    def uncertainty_j(self) -> float:
        """Expanded uncertainty of ``net_j`` for about 95 %, joules."""
        return self.budget.expanded_j


def integrate_power(
    trace: PowerTrace | Iterable[PowerTrace],
    intervals: Sequence[Interval],
    idle_w: float | IdlePowerLine = 0.0,
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
        max_loss: Largest share of the trace and of each window that may be lost (of a window :data:`SHORT_GAP` sample
            periods always may).
        gaps: Gaps of the whole trace; needed with pieces where a gap may reach over several.

    Raises:
        MeasureError: If the trace is empty, an interval is not inside it, or too much of the trace or of an interval
            is lost.
    """
    if not intervals:
        return ()
    # Every moment at which the integral is needed is known beforehand, so that one pass over the pieces is enough.
    parts = iterate_pieces(trace)
    first = next(parts, None)
    if first is None:
        raise MeasureError("the trace has no pieces", cure="measure for longer")
    edges = np.array([(i.start_s, i.end_s) for i in intervals], dtype=np.float64)
    own_s = np.array([i.uncertainty_s for i in intervals], dtype=np.float64)
    clock_s = first.clock.error_s if first.clock is not None else 0.0
    period_s = 1.0 / first.rate_hz if first.rate_hz > 0 else 0.0
    quiet = [i for i in idle if i.duration_s > 0]
    quiet_edges = np.array([(i.start_s, i.end_s) for i in quiet], dtype=np.float64).reshape(-1, 2)
    plan = SamplePoints(edges, own_s, quiet_edges, clock_s, period_s)
    found = compute_running_integrals(chain((first,), parts), plan.all_moments(), gaps)
    every, all_edges = [*intervals, *quiet], np.concatenate([edges, quiet_edges])
    _check_windows(found, every, all_edges, first.meter_id, period_s, max_loss)
    if quiet:
        line: IdlePowerLine | None = IdlePowerLine.through(estimate_idle_power(found, plan))
    else:
        line = idle_w if isinstance(idle_w, IdlePowerLine) else IdlePowerLine.constant(idle_w) if idle_w else None
    return _compute_windows(first, found, plan, intervals, line)


def _check_windows(
    found: RunningIntegrals, intervals: Sequence[Interval], edges: _Floats, meter: str, period_s: float, max_loss: float
) -> None:
    # Edges computed from the trace's own ends may be off by rounding; a sample period more is none of the trace.
    slack = 4 * np.spacing(max(abs(found.start_s), abs(found.end_s)))
    outside = (edges[:, 0] < found.start_s - slack) | (edges[:, 1] > found.end_s + slack)
    if outside.any():
        bad = intervals[int(np.argmax(outside))]
        raise MeasureError(
            f"interval '{bad.label}' ({bad.start_s:.6f} to {bad.end_s:.6f} s) lies outside the trace "
            f"of {meter} ({found.start_s:.6f} to {found.end_s:.6f} s)",
            cure="start the meter before the run and stop it after",
        )
    share = found.dropped / (found.dropped + found.samples)
    if share > max_loss:
        raise MeasureError(
            f"the trace of {meter} lost {100 * share:.3g} % of its samples, {100 * max_loss:g} % are allowed",
            cure="measure again, or raise max_loss",
        )
    missing = compute_missing_time(found, edges)
    lost = missing / np.maximum(edges[:, 1] - edges[:, 0], np.finfo(float).tiny)
    lost[missing <= (SHORT_GAP + 0.5) * period_s] = 0.0
    if (lost > max_loss).any():
        worst = int(np.argmax(lost))
        bad = intervals[worst]
        others = int(np.count_nonzero(lost > max_loss)) - 1
        also = f", as do {others} others," if others else ""
        raise MeasureError(
            f"interval '{bad.label}' ({bad.start_s:.6f} to {bad.end_s:.6f} s){also} touches a gap in "
            f"the trace of {meter}: {100 * lost[worst]:.3g} % of it has no samples, "
            f"{100 * max_loss:g} % are allowed",
            cure="measure again, or raise max_loss",
        )


def _compute_windows(
    first: PowerTrace,
    found: RunningIntegrals,
    plan: SamplePoints,
    intervals: Sequence[Interval],
    idle: IdlePowerLine | None,
) -> tuple[WindowEnergy, ...]:
    start, end = plan.edges[:, 0], plan.edges[:, 1]
    duration = end - start
    energy = plan.of("edges", found.energy_j)[:, :, 0]
    gross = (energy[:, 1] - energy[:, 0]).astype(np.float64)
    net = gross - idle.energy_j(start, end) if idle is not None else gross
    accuracy = first.accuracy
    same = idle is None or idle.same_meter
    n = gross.size
    inside, at_edges = compute_sampling_terms(found, plan, first.sampling == "mean")
    alignment, net_alignment = (
        add_edge_covariance(a, at_edges) for a in compute_alignment_terms(found, plan, energy, idle)
    )
    missing = compute_missing_time(found, plan.edges)
    shared = {
        "sampling": np.hypot(inside, at_edges),
        "noise": compute_noise_term(found, plan, duration),
        "gaps": compute_gap_term(found, plan, missing, duration),
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
        gross_budget = UncertaintyBudget(**{name: float(values[k]) for name, values in gross_terms.items()})
        budget = (
            UncertaintyBudget(**{name: float(values[k]) for name, values in net_terms.items()})
            if idle
            else gross_budget
        )
        warnings = _collect_warnings(interval, found, float(missing[k]), float(drift[k]), float(net[k]))
        windows.append(WindowEnergy(interval, float(gross[k]), float(net[k]), budget, gross_budget, warnings))
    return tuple(windows)


def _collect_warnings(
    interval: Interval, found: RunningIntegrals, missing_s: float, drift_j: float, net_j: float
) -> tuple[MeasurementWarning, ...]:
    warnings = []
    updates = interval.duration_s / found.period_s if found.period_s else math.inf
    if updates < UPDATES * (1 - 1e-6):
        text = f"{format_si(interval.duration_s, 's')} span {updates:.3g} samples, {UPDATES} wanted"
        warnings.append(MeasurementWarning("short-window", text))
    if missing_s > 0:
        share = 100 * missing_s / interval.duration_s
        text = f"{format_si(missing_s, 's')} ({share:.3g} %) have no samples; their energy is interpolated"
        warnings.append(MeasurementWarning("gap", text))
    if drift_j > _IDLE_DRIFT * abs(net_j):
        text = (
            f"idle power changed around it by {100 * 2 * drift_j / abs(net_j) if net_j else math.inf:.2g} % of its net"
        )
        warnings.append(MeasurementWarning("idle-drift", text))
    return tuple(warnings)
