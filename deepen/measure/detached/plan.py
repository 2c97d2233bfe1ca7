"""The steps of a detached run, and the times its answers give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from deepen.clock.host_clock import MAX_DRIFT, ClockMap
from deepen.clock.round_trips import SLEPT_S, RoundTrip, fit_pings
from deepen.errors import LinkError, MeasureError, RunError
from deepen.measure.alignment.load_pattern import GUARD, SyncPulses, list_code_runs
from deepen.records import Interval

__all__ = [
    "DetachedStep",
    "DetachedTimeline",
    "check_replies",
    "estimate_duration_s",
    "fit_device_clock",
    "make_steps",
    "make_timeline",
    "make_worker_requests",
    "read_step_times",
]

StepLabel = Literal["settle", "warm", "rest", "idle-before", "before", "block", "after", "idle-after"]

_NS = 10**9


@dataclass(frozen=True, slots=True)
class DetachedStep:
    """One thing the worker does.

    Attributes:
        op: ``run`` or ``wait``.
        amount: Inferences, or nanoseconds.
        label: Its purpose; ``before`` and ``after`` are the work of the sync patterns, ``rest`` waits in between.
    """

    op: Literal["run", "wait"]
    amount: int
    label: StepLabel


@dataclass(frozen=True, slots=True)
class DetachedTimeline:
    """The intervals of a run, on the host's clock.

    Attributes:
        idle_before: The rest before the work; ``None`` if the run did not come so far. The same for what follows.
        before: Work of the first sync pattern.
        blocks: Blocks of inferences, in order.
        after: Work of the last sync pattern.
        idle_after: The rest after the work.
    """

    idle_before: Interval | None
    before: tuple[Interval, ...]
    blocks: tuple[Interval, ...]
    after: tuple[Interval, ...]
    idle_after: Interval | None


def make_steps(
    *, runs: int, blocks: int, warm_runs: int, settle_s: float, idle_s: float, pulses: SyncPulses | None
) -> tuple[DetachedStep, ...]:
    """Lay out a run: let the device settle, rest, warm up, sync pattern, blocks, sync pattern, rest."""
    steps = [
        DetachedStep("wait", round(settle_s * _NS), "settle"),
        DetachedStep("wait", round(idle_s * _NS), "idle-before"),
        DetachedStep("run", warm_runs, "warm"),
    ]
    if pulses is not None:
        steps += _make_pattern_steps(pulses, "before")
    steps += [DetachedStep("run", runs, "block")] * blocks
    if pulses is not None:
        steps += _make_pattern_steps(pulses, "after")
    return (*steps, DetachedStep("wait", round(idle_s * _NS), "idle-after"))


def _make_pattern_steps(pulses: SyncPulses, place: Literal["before", "after"]) -> list[DetachedStep]:
    """The pattern of :func:`deepen.measure.alignment.load_pattern.play_load_pattern`, as steps."""
    guard = DetachedStep("wait", round((GUARD * pulses.chip_s + pulses.max_offset_s) * _NS), "rest")
    steps = [guard]
    for level, length in list_code_runs():
        if level:
            steps.append(DetachedStep("run", max(length, round(length * pulses.chip_s / pulses.per_run_s)), place))
        else:
            steps.append(DetachedStep("wait", round(length * pulses.chip_s * _NS), "rest"))
    return [*steps, guard]


def estimate_duration_s(steps: Iterable[DetachedStep], per_run_s: float) -> float:
    """Estimate how long steps take, seconds."""
    return sum(s.amount * per_run_s if s.op == "run" else s.amount / _NS for s in steps)


def make_worker_requests(
    steps: Sequence[DetachedStep], first: Sequence[Mapping[str, Any]], *, hold_pid: int, hold_s: float
) -> list[dict[str, Any]]:
    """Make the worker's requests: to load the model, to wait for the hold's end, the steps, and to end.

    Args:
        steps: The steps.
        first: Requests that load the model; it has the handle 1 then.
        hold_pid: Process whose end lets the run begin.
        hold_s: Longest time to wait for that, seconds.
    """
    asked: list[dict[str, Any]] = [dict(r) for r in first]
    asked.append({"op": "wait", "ns": round(hold_s * _NS), "pid": hold_pid})
    for step in steps:
        asked.append(
            {"op": "run", "handle": 1, "n": step.amount} if step.op == "run" else {"op": "wait", "ns": step.amount}
        )
    asked.append({"op": "bye"})
    return [{**request, "id": number} for number, request in enumerate(asked)]


# ---- answers --------------------------------------------------------------------------------------------------------


def check_replies(replies: Sequence[Mapping[str, Any]], first: int) -> None:
    """Check that answers are those to the requests, and none is an error.

    Raises:
        RunError: If the model failed there.
        LinkError: If the answers make no sense.
    """
    for number, reply in enumerate(replies):
        if reply.get("id") != number:
            raise LinkError(f"the detached run answered {reply.get('id')!r} instead of {number}", cure="run it again")
        if "error" in reply:
            what = "failed" if number >= first else "could not be loaded"
            raise RunError(f"the model {what} in the detached run: {str(reply['error'])[:400]}")


def read_step_times(
    steps: Sequence[DetachedStep], replies: Sequence[Mapping[str, Any]], first: int, words: str
) -> list[tuple[DetachedStep, RoundTrip, float]]:
    """Read the steps that were done, with their stamps on the device's clock and their processor time, seconds.

    Args:
        steps: The steps.
        replies: Answers to all requests, as far as they came.
        first: Number of requests before the first step.
        words: The end of what the worker wrote on its standard error, for messages.

    Raises:
        RunError: If the model failed there.
        LinkError: If the answers make no sense.
        MeasureError: If the device slept.
    """
    check_replies(replies, first)
    if len(replies) <= first:
        told = f" ({words.splitlines()[-1][:200]})" if words else ""
        raise LinkError(f"the detached run ended before it began to measure{told}", cure="run it again")
    found = []
    for step, reply in zip(steps, replies[first:], strict=False):
        # There was no question and no answer, so the bounds are infinitely wide.
        trip = RoundTrip.of(0.0, {**reply}, float("inf"))
        found.append((step, trip, float(reply.get("cpu_ns", 0)) / _NS))
    slept = [trip.slept_s for _, trip, _ in found if trip.slept_s is not None]
    if slept and max(slept) - min(slept) > SLEPT_S:
        raise MeasureError(
            f"the device went to sleep for {max(slept) - min(slept):.1f} s while its link was cut",
            cure="keep it awake: a long screen time-out ('deepen device prepare --set stay_awake=true'), "
            "or 'dumpsys battery set ac 1'",
        )
    return found


def fit_device_clock(trips: Sequence[RoundTrip], until_s: float) -> ClockMap:
    """Fit the device's clock to the host's by round trips on both sides of the cut, or on one alone.

    Outside the stretch they span, the clocks may drift apart by :data:`~deepen.clock.host_clock.MAX_DRIFT`.

    Args:
        trips: Round trips.
        until_s: Last moment of interest, on the device's clock, seconds.

    Raises:
        MeasureError: If they contradict each other.
    """
    send = np.array([t.send_s for t in trips for _ in range(2)])
    receive = np.array([t.receive_s for t in trips for _ in range(2)])
    device = np.array([s for t in trips for s in (t.start_s, t.end_s)])
    found = fit_pings(send, device, receive)
    beyond_s = max(0.0, until_s - float(device.max()))
    return replace(found, error_s=found.error_s + MAX_DRIFT * beyond_s)


def make_timeline(
    done: Sequence[tuple[DetachedStep, RoundTrip, float]], clock: ClockMap, uncertainty_s: float
) -> DetachedTimeline:
    """Put the steps that were done onto the host's clock.

    Args:
        done: Steps with their stamps.
        clock: The device's clock on the host's.
        uncertainty_s: Standard uncertainty of each edge, seconds.
    """
    found: dict[str, list[Interval]] = {}
    for step, trip, cpu_s in done:
        start_s, end_s = float(clock.to_host(trip.start_s)), float(clock.to_host(trip.end_s))
        runs = step.amount if step.op == "run" else 0
        label = "run" if step.label == "block" else step.label
        interval = Interval(start_s, end_s, label, runs=runs, uncertainty_s=uncertainty_s, cpu_s=cpu_s)
        found.setdefault(step.label, []).append(interval)

    def one(label: str) -> Interval | None:
        return found[label][0] if label in found else None

    return DetachedTimeline(
        one("idle-before"),
        tuple(found.get("before", ())),
        tuple(found.get("block", ())),
        tuple(found.get("after", ())),
        one("idle-after"),
    )
