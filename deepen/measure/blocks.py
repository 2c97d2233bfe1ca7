"""Run a loaded model in blocks under a meter until the stopping rule is met."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepen.clock.host_clock import monotonic_s
from deepen.devices.protocols import LoadedModel
from deepen.errors import MeasureError
from deepen.measure.alignment.load_pattern import SyncPulses, play_load_pattern, synchronise_trace
from deepen.measure.energy.idle_power import IdlePower, IdlePowerLine
from deepen.measure.energy.integrate import MAX_LOSS, integrate_power
from deepen.measure.energy.uncertainty_budget import MeasurementWarning, classify_trace_warnings
from deepen.measure.trials import Trial, TrialSelection, compute_relative_error, select_trials
from deepen.meters.types import Meter
from deepen.records import Interval, PowerTrace, StoppingRule

__all__ = ["IdlePower", "MeasuredBlocks", "SessionClock", "measure_blocks", "measure_idle_power", "warm_up_model"]

SETTLED = 0.05
"""Warm-up is over when two stretches in a row differ by less than this share."""
UPDATES_PER_BLOCK = 100
"""A block should span this many updates of the meter (the window rule of ml-energy/zeus, issue 32)."""


@dataclass(frozen=True, slots=True)
class SessionClock:
    """Time as a session sees it; stand-ins bring their own.

    Attributes:
        now: The monotonic clock, seconds.
        sleep: Wait for some seconds.
    """

    now: Callable[[], float] = monotonic_s
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class MeasuredBlocks:
    """Blocks of one workload.

    Attributes:
        judgement: Which blocks count.
        trials: All of them.
        runs_per_block: Inferences in each.
        met: Whether the stopping rule was met before its time was up.
        alignment: How the trace's time became the host's, of the round known worst: ``{"method", "error_s"}``.
        cautions: What the traces and the alignment had to say.
    """

    selection: TrialSelection
    trials: tuple[Trial, ...]
    runs_per_block: int
    met: bool
    alignment: Mapping[str, Any] = field(default_factory=dict)
    cautions: tuple[MeasurementWarning, ...] = ()


def measure_idle_power(
    meter: Meter, duration_s: float, clock: SessionClock, parts: int = 10, *, max_loss: float = MAX_LOSS
) -> tuple[IdlePower, PowerTrace]:
    """Measure power while the worker waits.

    Args:
        meter: Power source.
        duration_s: How long, seconds.
        clock: Time.
        parts: Stretches whose spread gives the uncertainty.
        max_loss: Largest share of samples that may be lost.

    Returns:
        Idle power, and the trace it was found in.

    Raises:
        MeterError: If the meter fails.
    """
    meter.start()
    spans: list[Interval] = []
    for _ in range(parts):
        start = clock.now()
        clock.sleep(duration_s / parts)
        meter.mark()
        spans.append(Interval(start, clock.now(), "idle"))
    trace = meter.stop()
    first, last = float(trace.t_s[0]), float(trace.t_s[-1])
    inside = [Interval(max(i.start_s, first), min(i.end_s, last), "idle") for i in spans]
    watts = [
        w.gross_j / w.interval.duration_s
        for w in integrate_power(trace, inside, max_loss=max_loss)
        if w.interval.duration_s > 0
    ]
    if not watts:
        raise MeasureError(f"idle power: {meter.id} gave no samples in {duration_s:g} s; measure idle for longer")
    std = float(np.std(watts, ddof=1)) / math.sqrt(len(watts)) if len(watts) > 1 else 0.0
    return IdlePower((first + last) / 2, float(np.mean(watts)), std), trace


def warm_up_model(loaded: LoadedModel, warmup_s: float) -> float:
    """Run until the time is up and the run time has settled.

    At least two runs; stretches of a quarter of the warm-up time each; once the time is up, it goes on until two
    stretches in a row agree within 5 %, for at most three times the warm-up time.

    Args:
        loaded: The model.
        warmup_s: Least time, seconds.

    Returns:
        Run time in the last stretch, seconds.
    """
    spent = 0.0
    n = 1
    previous = math.inf
    calls = 0
    while True:
        interval = loaded.run(n)
        calls += 1
        spent += interval.duration_s
        per_run = max(interval.duration_s / n, 1e-9)
        settled = abs(per_run - previous) < SETTLED * previous
        if calls >= 2 and spent >= warmup_s and (settled or spent >= 3 * warmup_s):
            return per_run
        previous = per_run
        n = max(1, min(4 * n + 1, round(warmup_s / 4 / per_run)))


def choose_runs_per_block(per_run_s: float, block_s: float, update_s: float, rule: StoppingRule) -> int:
    """Choose how many runs make a block.

    A block lasts ``block_s``, or long enough for the meter's updates, yet short enough for the rule's least number
    of blocks to fit into its time.
    """
    wanted = max(block_s, UPDATES_PER_BLOCK * update_s)
    fits = max(rule.max_duration_s / rule.min_blocks, block_s)
    return max(1, math.ceil(min(wanted, fits) / per_run_s))


def measure_blocks(
    loaded: LoadedModel,
    meter: Meter,
    rule: StoppingRule,
    n: int,
    *,
    idle: IdlePower,
    threads: int,
    max_rejected: float,
    max_loss: float,
    clock: SessionClock,
    pulses: SyncPulses | None = None,
    look: Callable[[], None] = lambda: None,
) -> MeasuredBlocks:
    """Run blocks until the rule is met or its time is up (two blocks are always taken, else nothing can be compared).

    The rule's time is that of the blocks and what lies between them; starting a meter and sync patterns come on top.

    Blocks come in rounds, each with a trace of its own: after a round the energies are judged, and the spread of those
    that count says how many more are needed. With ``pulses`` each round begins and ends with the sync pattern, which
    puts its trace onto the host's clock. ``look`` is called before every block but the first.

    Raises:
        RunError, LinkError, MeterError: From the device and the meter.
        MeasureError: If the trace does not cover the blocks, lost too much, or required pulses are not found.
    """
    trials: list[Trial] = []
    alignment: dict[str, Any] = {}
    cautions: list[MeasurementWarning] = []
    counted_s = 0.0
    spent_s = 0.0  # on blocks and what lies between them, not on starting the meter and playing patterns
    excuse = meter.scope == "process"
    wanted = rule.min_blocks

    def time_left(taken: int, since_s: float = 0.0) -> bool:
        return taken < 2 or spent_s + since_s < rule.max_duration_s

    while True:
        round_: list[Interval] = []
        patterns: list[tuple[Interval, ...]] = []
        meter.start()
        if pulses is not None:
            patterns.append(play_load_pattern(loaded, pulses, clock.sleep, "before"))
        began = clock.now()
        while True:
            taken = len(trials) + len(round_)
            done = taken >= wanted and counted_s >= rule.min_duration_s
            if done or not time_left(taken, clock.now() - began):
                break
            if taken:
                look()
            meter.mark()
            interval = loaded.run(n)
            meter.mark()
            meter.observe(interval)
            round_.append(interval)
            counted_s += interval.duration_s
        spent_s += clock.now() - began
        if pulses is not None:
            patterns.append(play_load_pattern(loaded, pulses, clock.sleep, "after"))
        trace = meter.stop()
        if pulses is not None:
            trace, said = _synchronise_or_warn(trace, patterns, pulses)
            cautions += said
        alignment = _choose_worse_alignment(alignment, trace)
        cautions += classify_trace_warnings(trace.warnings)
        windows = integrate_power(trace, round_, IdlePowerLine((idle,)), max_loss=max_loss)
        cautions += [c for w in windows for c in w.warnings if c.code == "gap"]
        trials += [Trial(w.interval, w.gross_j / n, w.net_j / n, w.budget.per_run(n)) for w in windows]
        judgement = select_trials(trials, threads, excuse_preemption=excuse, max_rejected=max_rejected)
        values = [t.net_j for t in judgement.accepted]
        error = compute_relative_error(values)
        met = len(values) >= rule.min_blocks and counted_s >= rule.min_duration_s and error <= rule.rel_std
        if met or not time_left(len(trials)):
            said_once = {(c.code if c.code == "gap" else str(c)): c for c in reversed(cautions)}
            return MeasuredBlocks(judgement, tuple(trials), n, met, alignment, tuple(reversed(said_once.values())))
        factor = (error / rule.rel_std) ** 2 if math.isfinite(error) else 2.0
        more = math.ceil(len(values) * min(max(factor - 1, 0.0), 1.0))
        wanted = len(trials) + max(more, rule.min_blocks - len(values), 2)


def _synchronise_or_warn(
    trace: PowerTrace, patterns: list[tuple[Interval, ...]], pulses: SyncPulses
) -> tuple[PowerTrace, list[MeasurementWarning]]:
    """The trace on the host's clock by its sync pulses; as it was, and a caution, where they are not found."""
    try:
        return synchronise_trace(trace, patterns, pulses.max_offset_s), []
    except MeasureError as error:
        if pulses.required:
            raise
        return trace, [MeasurementWarning("alignment", f"{error}; the clock fitted to arrival times was used")]


def _choose_worse_alignment(known: dict[str, Any], trace: PowerTrace) -> dict[str, Any]:
    """The alignment with the larger error; where the host stamped the samples nobody knows one."""
    if trace.clock is None:
        return {"method": "host", "error_s": None}
    if known and (known["error_s"] is None or known["error_s"] >= trace.clock.error_s):
        return known
    return {"method": trace.clock.method, "error_s": trace.clock.error_s}
