"""From the answers of a detached run and the power trace to a record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from deepen.clock.round_trips import RoundTrip
from deepen.devices.background_jobs import DetachedOutput
from deepen.devices.protocols import Device
from deepen.devices.state.cool_down import summarise_temperatures
from deepen.devices.types import ThermalState
from deepen.errors import MeasureError
from deepen.measure.alignment.load_pattern import synchronise_trace
from deepen.measure.blocks import MeasuredBlocks, drop_repeated_warnings
from deepen.measure.conditions.device_conditions import DeviceConditions
from deepen.measure.conditions.drift_reference import DriftSeries
from deepen.measure.conditions.thermal_watch import ThermalHistory
from deepen.measure.detached.plan import DetachedTimeline, fit_device_clock, make_timeline, read_step_times
from deepen.measure.detached.store import PendingRun
from deepen.measure.energy.idle_power import IdlePower, IdlePowerLine
from deepen.measure.energy.integrate import integrate_power
from deepen.measure.energy_record import RecordBuilder, RecordedMeter
from deepen.measure.trials import Trial, select_trials
from deepen.meters.stream.meter import DEFAULT_MAX_LOSS
from deepen.records import EnergyRecord, Interval, MeasurementWarning, PowerTrace, StoppingRule, Workload

__all__ = ["make_detached_record"]

_MAX_REJECTED = 0.5
_EDGE = 0.1  # of a rest, at both ends, that is left out: what was before has to fade
_PARTS = 10
_LEAST_REST = 0.5  # of a rest that the trace has to cover
_LEAST_BLOCKS = 5
_REL_STD = 0.01


def make_detached_record(
    device: Device,
    pending: PendingRun,
    found: DetachedOutput,
    after: Sequence[RoundTrip],
    path: Path,
    conditions: DeviceConditions,
) -> EnergyRecord:
    """Make the record of a detached run.

    1. The worker's stamps become host time by the round trips before and after the cut.
    2. The sync patterns put the trace onto the same clock; where they are not found, the round trips have to do, with
       their error at every edge.
    3. Idle power is that of the rests before and after the blocks.
    4. Blocks inside the trace are integrated and chosen as those of a session are.

    Args:
        device: The device, which can be reached again.
        pending: The run as it was asked for.
        found: The worker's answers.
        after: Round trips after the cut.
        path: The power trace.
        conditions: Settings under which it ran.

    Raises:
        RunError: If the model failed.
        LinkError: If the run ended before it began to measure.
        MeasureError: If the device slept or was restarted, the trace does not cover the run, or too many blocks had to
            be rejected.
    """
    from deepen.traces import read_trace

    # 1. Stamps to host time.
    done = read_step_times(pending.steps, found.replies, pending.first, found.words)
    clock = fit_device_clock([*pending.trips, *after], done[-1][1].end_s)
    if path.is_dir() and not any(path.glob("part-*")):
        raise MeasureError(
            f"{path.name}: holds nothing: the host died before any power was on its disk", cure="run it again"
        )
    trace = read_trace(path)
    warnings = list(map(MeasurementWarning.of, trace.warnings))
    if len(done) < len(pending.steps):
        text = f"the run was ended on the device after {len(done)} of {len(pending.steps)} steps"
        warnings.append(MeasurementWarning("trace", text))
    # 2. The trace onto the same clock.
    timeline = make_timeline(done, clock, 0.0)
    trace, unaligned, aligned = _align_trace(trace, timeline, pending, clock.error_s)
    warnings += unaligned
    if not aligned:
        timeline = make_timeline(done, clock, clock.error_s)
    # 3. Idle power.
    before, later = _average_rest_power(trace, timeline.idle_before), _average_rest_power(trace, timeline.idle_after)
    if before is None:
        raise MeasureError(
            f"{path.name}: does not cover the rest before the run", cure="record from the cut of the link on"
        )
    # 4. The blocks.
    blocks = [b for b in timeline.blocks if trace.t_s[0] <= b.start_s and b.end_s <= trace.t_s[-1]]
    if len(blocks) < 2:
        raise MeasureError(f"{path.name}: covers {len(blocks)} of {len(timeline.blocks)} blocks", cure="record longer")
    if len(blocks) < len(timeline.blocks):
        text = f"the trace covers {len(blocks)} of {len(timeline.blocks)} blocks"
        warnings.append(MeasurementWarning("trace", text))
    if later is None:
        warnings.append(MeasurementWarning("idle-drift", "idle power was measured before the run only"))
    windows = integrate_power(trace, blocks, IdlePowerLine((before,)), max_loss=DEFAULT_MAX_LOSS)
    warnings += [w for window in windows for w in window.warnings if w.code == "gap"]
    n = pending.runs
    trials = tuple(Trial(w.interval, w.gross_j / n, w.net_j / n, w.budget.per_run(n)) for w in windows)
    how = pending.workload
    threads = int(how["threads"])
    judged = select_trials(trials, threads, excuse_preemption=False, max_rejected=_MAX_REJECTED)
    alignment: dict[str, Any] = (
        {"method": trace.clock.method, "error_s": trace.clock.error_s} if trace.clock is not None else {}
    )
    if not aligned:
        alignment = {"method": "ping", "error_s": math.hypot(clock.error_s, alignment.get("error_s") or 0.0)}
    # A stream's energies have no smallest step, and drift was not watched while the link was cut.
    meter = RecordedMeter(trace.meter_id, trace.source, 0.0, 1 / trace.rate_hz, trace.accuracy)
    books = RecordBuilder(device.profile, meter, conditions, DriftSeries(), _MAX_REJECTED)
    blocks_found = MeasuredBlocks(judged, trials, n, True, alignment, drop_repeated_warnings(warnings))
    record = books.record(
        _make_workload(pending),
        blocks_found,
        before,
        later or before,
        pending.build,
        _make_thermal_history(device, pending),
    )
    warnings_of_inputs = tuple(map(str, how.get("input_warnings", ())))
    return replace(record, inputs=dict(how.get("inputs", {})), warnings=record.warnings + warnings_of_inputs)


def _make_workload(pending: PendingRun) -> Workload:
    how = pending.workload
    seconds = float(how["seconds"])
    return Workload(
        id=str(how["id"]),
        path=Path(pending.model),
        kind="model",
        runtime=str(how["runtime"]),
        threads=int(how["threads"]),
        shapes={k: tuple(v) for k, v in how["shapes"].items()},
        rule=StoppingRule(0.0, seconds, _LEAST_BLOCKS, _REL_STD),
    )


def _align_trace(
    trace: PowerTrace, timeline: DetachedTimeline, pending: PendingRun, error_s: float
) -> tuple[PowerTrace, list[MeasurementWarning], bool]:
    """Put the trace onto the clock of the round trips by its sync patterns; say whether they were found."""
    pulses = pending.pulses
    if pulses is None:
        return trace, [], False
    offset_s = pulses.max_offset_s + 2 * error_s
    first_s, last_s = float(trace.t_s[0]), float(trace.t_s[-1])
    patterns = [p for p in (timeline.before, timeline.after) if p and first_s < p[0].start_s and p[-1].end_s < last_s]
    try:
        if not patterns:
            raise MeasureError("no sync pattern lies in the trace")
        return synchronise_trace(trace, patterns, offset_s), [], True
    except MeasureError as error:
        if pulses.required:
            raise
        return (
            trace,
            [MeasurementWarning("alignment", f"{error}; round trips before and after the run were used")],
            False,
        )


def _average_rest_power(trace: PowerTrace, rest: Interval | None) -> IdlePower | None:
    """Average the power of a rest, without its edges; ``None`` where the trace does not cover enough of it."""
    if rest is None:
        return None
    edge_s = _EDGE * rest.duration_s
    start_s = max(rest.start_s + edge_s, float(trace.t_s[0]))
    end_s = min(rest.end_s - edge_s, float(trace.t_s[-1]))
    if end_s - start_s < _LEAST_REST * rest.duration_s:
        return None
    edges = np.linspace(start_s, end_s, _PARTS + 1).tolist()
    parts = [Interval(a, b, "idle") for a, b in pairwise(edges)]
    watts = [w.gross_j / w.interval.duration_s for w in integrate_power(trace, parts, max_loss=1.0)]
    return IdlePower((start_s + end_s) / 2, float(np.mean(watts)), float(np.std(watts, ddof=1)) / math.sqrt(_PARTS))


def _make_thermal_history(device: Device, pending: PendingRun) -> ThermalHistory:
    """Make the device's history from before and after; in between it could not be read."""
    now = device.state()
    told: Any = pending.state["temperature_c"]
    before_c = math.nan if told is None else float(told)
    readings = [ThermalState(counters=dict(pending.state["counters"]))]
    if now.thermal is not None:
        readings.append(now.thermal)
    hottest = max((c for c in (before_c, now.temperature_c) if math.isfinite(c)), default=math.nan)
    return ThermalHistory(
        replace(now, temperature_c=before_c), now, hottest, summarise_temperatures(readings).throttled
    )
