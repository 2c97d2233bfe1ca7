"""Every fault on every driver, end to end in virtual time: is a wrong energy ever told without a word?

A rig is an emulated instrument, the driver for it, and a load whose power changes every few tens of milliseconds, so
that samples at the wrong time or of the wrong size show. :func:`record_with_fault` plays one fault into one recording
(emulator, port, driver, :class:`~deepen.meters.stream.meter.StreamMeter`, trace) and :func:`judge_recording` integrates
windows before, across and after the moment of the fault and holds them against what the emulator knows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from deepen.errors import DeepenError, MeasureError
from deepen.measure.energy.integrate import integrate_power
from deepen.meters.stream.meter import StreamMeter
from deepen.meters.types import MeterSpec
from deepen.records import Interval, PowerTrace
from deepen.testing.clock import VirtualClock
from deepen.testing.instruments.faults import FAULT_MAKERS, Fault
from deepen.testing.instruments.signal import StepSignal
from tests.support.fault_rigs import FaultRig

__all__ = [
    "FAULTS",
    "OUTCOMES_BEST_FIRST",
    "FaultRecording",
    "RecordingVerdict",
    "WindowOutcome",
    "find_new_warnings",
    "judge_recording",
    "record_with_fault",
]

COVERAGE_FACTOR = 1.5
"""Times the expanded uncertainty (k = 2) that an energy may be off and still be right: with k = 3, one window in 400 is
further off by chance, with k = 2 one in 20."""

WindowOutcome = Literal["right", "gap", "told", "blind", "wrong"]
"""How a window fared: right within its stated uncertainty; wrong, with a gap of the trace in it; wrong, with samples
dropped or a warning that a recording without a fault does not have; wrong, where the protocol leaves no reader a chance
and every recording says so (``FaultRig.blind``); wrong without a word."""

OUTCOMES_BEST_FIRST: tuple[WindowOutcome, ...] = ("right", "gap", "told", "blind", "wrong")

_ROUTINE = ("range switches", "paused")
"""Warnings that come and go without a fault."""

_NUMBERS = re.compile(r"\d+(\.\d+)?")

FAULTS = tuple(FAULT_MAKERS)


@dataclass(frozen=True, slots=True)
class FaultRecording:
    """What became of a recording.

    Attributes:
        trace: The trace; ``None`` where it ended in an error.
        error: The error.
        stage: Where that came: ``open``, ``start``, ``run`` or ``stop``.
        emulator: The emulator, which knows the truth.
        struck_s: True time of the fault.
    """

    trace: PowerTrace | None
    error: DeepenError | None
    stage: str
    emulator: Any
    struck_s: float


@dataclass(frozen=True, slots=True)
class RecordingVerdict:
    """How the windows of a recording fared.

    Attributes:
        way: The worst of them, or ``error``.
        windows: Name -> (way, error over true energy, expanded uncertainty over true energy).
        news: Warnings that a recording without a fault does not have.
    """

    way: WindowOutcome | Literal["error"]
    windows: Mapping[str, tuple[WindowOutcome, float, float]]
    news: tuple[str, ...]


def _make_random_load(rig: FaultRig, seed: int) -> StepSignal:
    """Power that changes every 8 to 50 ms."""
    rng = np.random.default_rng(seed + 77)
    edges = 1000.0 + np.cumsum(rng.uniform(0.008, 0.05, 1500))
    return StepSignal(edges, rng.uniform(rig.least_w, rig.most_w, edges.size + 1))


def record_with_fault(rig: FaultRig, fault: Fault | None, *, seed: int = 0, max_loss: float = 1.0) -> FaultRecording:
    """Record for some seconds, reading as the thread of a meter does.

    Args:
        rig: The instrument.
        fault: What goes wrong.
        seed: Seed of the load, the noise, and the jitter.
        max_loss: Largest share of samples that may be lost; by default, nothing is refused for losses alone.
    """
    clock = VirtualClock()
    emulator = rig.emulator(_make_random_load(rig, seed), seed)
    faults = () if fault is None else (fault,)
    port = rig.port(emulator, clock, latency_s=5e-4, jitter_s=1e-3, seed=seed, faults=faults)
    stage, trace, error = "open", None, None
    meter: StreamMeter | None = None
    try:
        instrument = rig.make(port, MeterSpec("meter", "port", dict(rig.options)), "simulated")
        meter = StreamMeter(instrument, port, now=clock.now, max_loss=max_loss, threaded=False)
        stage = "start"
        meter.start()
        stage = "run"
        end_s = clock.now() + rig.seconds
        while clock.now() < end_s:
            meter.pump(0.1)
            meter.pump(0.1)
            clock.sleep(0.01)
        stage = "stop"
        trace = meter.stop()
    except DeepenError as problem:
        error = problem
    finally:
        if meter is not None:
            meter.close()
    began_s = port.line.began_s
    at_s = fault.at_s if fault is not None and math.isfinite(fault.at_s) else rig.seconds / 2
    return FaultRecording(trace, error, stage, emulator, began_s + at_s)


def find_new_warnings(trace: PowerTrace, clean: Iterable[str]) -> tuple[str, ...]:
    """Warnings of a trace that a recording without a fault does not have, whatever their numbers.

    Args:
        trace: The trace.
        clean: Warnings of the recording without a fault.
    """
    known = {_NUMBERS.sub("#", w) for w in clean}
    return tuple(w for w in trace.warnings if _NUMBERS.sub("#", w) not in known and not w.startswith(_ROUTINE))


def _select_windows(trace: PowerTrace, struck_s: float) -> dict[str, tuple[float, float]]:
    """Windows inside, across, before and after the moment of a fault, as far as the trace reaches."""
    first, last = float(trace.t_s[0]) + 0.02, float(trace.t_s[-1]) - 0.02
    wanted = {
        "all": (first, last),
        "around": (struck_s - 0.01, struck_s + 0.01),
        "near": (struck_s - 0.06, struck_s + 0.05),
        "into": (struck_s - 0.3, struck_s + 0.003),
        "out of": (struck_s + 0.002, struck_s + 0.25),
        "across": (struck_s - 0.5, struck_s + 0.5),
        "before": (struck_s - 0.6, struck_s - 0.12),
        "after": (struck_s + 0.35, struck_s + 0.9),
        "first": (first, first + 0.3),
        "last": (last - 0.4, last),
    }
    inside = {name: (max(a, first), min(b, last)) for name, (a, b) in wanted.items()}
    return {name: (a, b) for name, (a, b) in inside.items() if b - a > 0.006}


def judge_recording(rig: FaultRig, name: str, done: FaultRecording, clean: Iterable[str]) -> RecordingVerdict:
    """Hold the windows of a recording against the truth.

    Args:
        rig: The instrument.
        name: Name of the fault.
        done: The recording.
        clean: Warnings of the recording without a fault.
    """
    trace = done.trace
    if trace is None:
        return RecordingVerdict("error", {}, (str(done.error),))
    found = find_new_warnings(trace, clean)
    standing = rig.blind.get(name)
    windows: dict[str, tuple[WindowOutcome, float, float]] = {}
    for label, (a, b) in _select_windows(trace, done.struck_s).items():
        true_j = done.emulator.energy_j(a, b)
        gap = any(start <= b and end >= a for start, end in trace.gaps)
        try:
            (window,) = integrate_power(trace, [Interval(a, b, label)], max_loss=1.0)
        except MeasureError:
            windows[label] = ("gap", math.nan, math.nan)  # refused: that is word enough
            continue
        off_j, stated_j = window.gross_j - true_j, window.gross_budget.expanded_j
        way: WindowOutcome = "wrong"
        if abs(off_j) <= COVERAGE_FACTOR * stated_j + rig.resolution_w * (b - a) / 2:
            way = "right"
        elif gap:
            way = "gap"
        elif trace.dropped or found:
            way = "told"
        elif standing is not None and any(w.startswith(standing) for w in trace.warnings):
            way = "blind"
        windows[label] = (way, off_j / true_j, stated_j / true_j)
    worst: WindowOutcome = max((way for way, _, _ in windows.values()), key=OUTCOMES_BEST_FIRST.index, default="right")
    return RecordingVerdict(worst, windows, found)
