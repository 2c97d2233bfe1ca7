"""Run a loaded model in blocks under a meter until the stopping rule is met.

A measurement over time, drawn for one round of blocks; a further round repeats what lies between its ``s`` and ``e``::

    power
      |             ______       _   _     ____   ____       ____     _   _
      |            |      |     | |_| |   |    | |    |     |    |   | |_| |
      |            | warm |     |     |   | 1  | | 2  | ... | n  |   |     |
      |  idle      |  up  |     | sync|   |    | |    |     |    |   | sync|      idle
      |____________|      |_____|     |___|    |_|    |_____|    |___|     |______________
      +-------------------------------------------------------------------------------> time
      s m m ... m e           s           m    m m    m     m    m           e   s m ... m e
                           L                    L           L                 L

    s, e  a trace of the meter starts and ends: one for idle power, one for each round
    m     mark: the meter takes a sample at both edges of a block
    L     look-out: temperatures, clocks and throttling are read before, between (not too often) and after the blocks
    sync  the sync pattern, where the meter has a clock of its own (:mod:`deepen.measure.alignment.load_pattern`)

Idle power is measured before, and again afterwards where it is asked for or the last one is old. Warm-up is not
recorded.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepen.clock.host_clock import monotonic_s
from deepen.devices.protocols import LoadedModel
from deepen.errors import MeasureError
from deepen.measure.alignment.load_pattern import SyncPulses, play_load_pattern, synchronise_trace
from deepen.measure.energy.idle_power import IdlePower, IdlePowerLine
from deepen.measure.energy.integrate import MAX_LOSS, integrate_power
from deepen.measure.trials import Trial, TrialSelection, compute_relative_error, select_trials
from deepen.meters.types import Meter
from deepen.records import Interval, MeasurementWarning, PowerTrace, StoppingRule

__all__ = [
    "STREAM_BLOCK_S",
    "MeasuredBlocks",
    "SessionClock",
    "choose_runs_per_block",
    "measure_blocks",
    "measure_idle_power",
    "warm_up_model",
]

STREAM_BLOCK_S = 0.1
"""Least length of a block under an external meter: half a millisecond of doubt about its edges counts for little."""
SETTLED = 0.05
"""Warm-up is over when two stretches in a row differ by less than this share."""
UPDATES_PER_BLOCK = 100
"""A block should span this many updates of the meter (the window rule of ml-energy/zeus, issue 32)."""


@dataclass(frozen=True, slots=True)
class SessionClock:
    """The clock and the wait of a session; stand-ins bring their own.

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
        selection: The blocks that count, and those that do not.
        trials: All of them, net of the idle power before.
        runs_per_block: Inferences in each.
        met: Whether the stopping rule was met before its time was up.
        alignment: Way from trace time to host time, with the largest error of all rounds: ``{"method", "error_s"}``.
        warnings: Remarks of the traces and of the alignment.
    """

    selection: TrialSelection
    trials: tuple[Trial, ...]
    runs_per_block: int
    met: bool
    alignment: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[MeasurementWarning, ...] = ()


def measure_idle_power(
    meter: Meter, duration_s: float, clock: SessionClock, parts: int = 10, *, max_loss: float = MAX_LOSS
) -> tuple[IdlePower, PowerTrace]:
    """Measure power while the worker waits.

    Args:
        meter: Power source.
        duration_s: Duration, seconds.
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
        raise MeasureError(
            f"idle power: {meter.id} gave no samples in {duration_s:g} s", cure="measure idle for longer"
        )
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
    between_blocks: Callable[[], None] = lambda: None,
) -> MeasuredBlocks:
    """Run blocks until the rule is met or its time is up.

    1. Blocks come in rounds, each with a trace of its own. With ``pulses`` a round begins and ends with the sync
       pattern.
    2. A block is ``n`` runs between two marks. A round has as many blocks as are wanted, or as the rule's time allows:
       the time of blocks and what lies between them; starting a meter and playing patterns come on top. Two blocks are
       always taken, else nothing can be compared. ``between_blocks`` is called before every block but the first.
    3. The sync pattern puts the trace onto the host's clock; energies of the blocks are net of ``idle``.
    4. All blocks so far are judged. The rule is met when enough of them count and their mean is known well enough.
    5. Else the spread of those that count says how many more the next round needs, at most as many again.

    Args:
        loaded: The model.
        meter: Power source.
        rule: Stopping rule.
        n: Runs in a block.
        idle: Idle power before the blocks.
        threads: Intra-operator threads.
        max_rejected: Share of blocks that may be rejected.
        max_loss: Largest share of samples that may be lost from a trace or a block.
        clock: Time.
        pulses: The sync pattern; ``None`` to trust the meter's own clock map.
        between_blocks: Called between blocks, for readings of the device.

    Raises:
        RunError, LinkError, MeterError: From the device and the meter.
        MeasureError: If the trace does not cover the blocks, lost too much, or required pulses are not found.
    """
    trials: list[Trial] = []
    alignment: dict[str, Any] = {}
    warnings: list[MeasurementWarning] = []
    counted_s = 0.0  # in blocks
    spent_s = 0.0  # in blocks and between them
    wanted = rule.min_blocks

    def may_go_on(blocks: int, since_s: float = 0.0) -> bool:
        return blocks < 2 or spent_s + since_s < rule.max_duration_s

    while True:
        # 1. A round: start the trace and play the first pattern.
        intervals: list[Interval] = []
        patterns: list[tuple[Interval, ...]] = []
        meter.start()
        if pulses is not None:
            patterns.append(play_load_pattern(loaded, pulses, clock.sleep, "before"))
        # 2. Its blocks, as many as are wanted or as there is time for.
        start_s = clock.now()
        while True:
            taken = len(trials) + len(intervals)
            enough = taken >= wanted and counted_s >= rule.min_duration_s
            if enough or not may_go_on(taken, clock.now() - start_s):
                break
            if taken:
                between_blocks()
            meter.mark()
            interval = loaded.run(n)
            meter.mark()
            meter.observe(interval)
            intervals.append(interval)
            counted_s += interval.duration_s
        spent_s += clock.now() - start_s
        # 3. End the trace, put it onto the host's clock, and integrate the blocks.
        if pulses is not None:
            patterns.append(play_load_pattern(loaded, pulses, clock.sleep, "after"))
        trace = meter.stop()
        if pulses is not None:
            trace, unaligned = _synchronise_or_warn(trace, patterns, pulses)
            warnings += unaligned
        alignment = _choose_worse_alignment(alignment, trace)
        warnings += map(MeasurementWarning.of, trace.warnings)
        windows = integrate_power(trace, intervals, IdlePowerLine((idle,)), max_loss=max_loss)
        warnings += [w for window in windows for w in window.warnings if w.code == "gap"]
        trials += [Trial(w.interval, w.gross_j / n, w.net_j / n, w.budget.per_run(n)) for w in windows]
        # 4. Judge all blocks so far.
        selection = select_trials(
            trials, threads, excuse_preemption=meter.scope == "process", max_rejected=max_rejected
        )
        values = [t.net_j for t in selection.accepted]
        error = compute_relative_error(values)
        met = len(values) >= rule.min_blocks and counted_s >= rule.min_duration_s and error <= rule.rel_std
        if met or not may_go_on(len(trials)):
            return MeasuredBlocks(selection, tuple(trials), n, met, alignment, drop_repeated_warnings(warnings))
        # 5. The relative error falls with the root of the number of blocks.
        factor = (error / rule.rel_std) ** 2 if math.isfinite(error) else 2.0
        more = math.ceil(len(values) * min(max(factor - 1, 0.0), 1.0))
        wanted = len(trials) + max(more, rule.min_blocks - len(values), 2)


def drop_repeated_warnings(warnings: Iterable[MeasurementWarning]) -> tuple[MeasurementWarning, ...]:
    """Keep each warning once, and the first of those about gaps, which differ from block to block."""
    once: dict[str, MeasurementWarning] = {}
    for warning in warnings:
        once.setdefault("gap" if warning.code == "gap" else str(warning), warning)
    return tuple(once.values())


def _synchronise_or_warn(
    trace: PowerTrace, patterns: list[tuple[Interval, ...]], pulses: SyncPulses
) -> tuple[PowerTrace, list[MeasurementWarning]]:
    """Put a trace onto the host's clock by its sync pattern; where none is found, leave it as it is and warn."""
    try:
        return synchronise_trace(trace, patterns, pulses.max_offset_s), []
    except MeasureError as error:
        if pulses.required:
            raise
        return trace, [MeasurementWarning("alignment", f"{error}; the clock fitted to arrival times was used")]


def _choose_worse_alignment(known: dict[str, Any], trace: PowerTrace) -> dict[str, Any]:
    """Choose the alignment with the larger error; that of samples the host stamped is unknown."""
    if trace.clock is None:
        return {"method": "host", "error_s": None}
    if known and (known["error_s"] is None or known["error_s"] >= trace.clock.error_s):
        return known
    return {"method": trace.clock.method, "error_s": trace.clock.error_s}
