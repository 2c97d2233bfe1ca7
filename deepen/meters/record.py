"""Recording of a power source for a given time, into memory or straight to disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from deepen.clock.host_clock import monotonic_s
from deepen.errors import ConfigError
from deepen.meters.stream.capture import SampleSink, StreamSummary
from deepen.meters.stream.meter import StreamMeter
from deepen.meters.types import Meter
from deepen.records import PowerTrace

if TYPE_CHECKING:
    from deepen.traces import TraceWriter

__all__ = ["Recording", "record_folder", "record_trace"]

_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Recording:
    """Result of a recording.

    Attributes:
        trace: The trace; ``None`` if it went to disk.
        interrupted: True if Ctrl-C ended it early.
        ending: Summary of the stream; ``None`` for sources that do not stream.
    """

    trace: PowerTrace | None
    interrupted: bool = False
    ending: StreamSummary | None = None


def record_trace(
    meter: Meter,
    duration_s: float,
    rate_hz: float = 10.0,
    *,
    now: Callable[[], float] = monotonic_s,
    sleep: Callable[[float], None] = time.sleep,
) -> Recording:
    """Record a power source into memory. Ctrl-C ends the recording early and keeps the samples so far.

    Args:
        meter: The source; it is not closed.
        duration_s: Length of the recording, seconds.
        rate_hz: Rate at which to read it, hertz; sources that sample by themselves do so in addition, and streaming
            ones are not read.
        now: The monotonic clock; replaceable by tests.
        sleep: Waits for a number of seconds; replaceable by tests.

    Raises:
        ConfigError: If the time or the rate is not positive.
        MeterError: If the source does not answer, or lost more samples than allowed.
    """
    _check_settings(duration_s, rate_hz)
    meter.start()
    if isinstance(meter, StreamMeter):
        interrupted = _wait_while_streaming(meter, duration_s, now, sleep)
    else:
        interrupted = _poll_meter(meter, duration_s, rate_hz, now, sleep)
    trace = meter.stop()
    return Recording(trace, interrupted, meter.ending if isinstance(meter, StreamMeter) else None)


def record_folder(
    meter: StreamMeter,
    path: Path,
    duration_s: float,
    *,
    precision: Literal["float32", "float64"] = "float32",
    begun: Callable[[], None] = lambda: None,
    now: Callable[[], float] = monotonic_s,
    sleep: Callable[[float], None] = time.sleep,
) -> Recording:
    """Record a streaming source to a ``.trace`` folder while it runs, in bounded memory.

    Whatever ends the recording, the parts already written stay: after Ctrl-C, unplugging or too many losses the
    recording is completed with the facts known (and the error still raised); after ``kill -9`` it reads as cut short.

    Args:
        meter: The source; it is not closed.
        path: The folder to make; its name ends in ``.trace``.
        duration_s: Length of the recording, seconds.
        precision: Type in which power is stored.
        begun: Called once the stream runs; the time counts from its return.
        now: The monotonic clock; replaceable by tests.
        sleep: Waits for a number of seconds; replaceable by tests.

    Raises:
        ConfigError: If the time is not positive, or the folder exists.
        MeterError: If the source does not answer, or lost more samples than allowed.
        StorageError: If the disk refuses.
    """
    from deepen.traces import TraceHeader, TraceWriter

    _check_settings(duration_s, 1.0)
    if path.exists():
        raise ConfigError(f"{path} exists", cure="name another file or remove it first")
    writers: list[TraceWriter] = []

    def open_sink(inputs: bool, start_s: float) -> SampleSink:
        header = TraceHeader(
            meter_id=meter.id,
            calibration_id=meter.calibration_id,
            source=meter.source,
            rate_hz=meter.instrument.rate_hz,
            sampling=meter.sampling,
            accuracy=meter.instrument.accuracy,
            precision=precision,
            logic=inputs,
            start_s=start_s,
        )
        writers.append(TraceWriter(path, header))
        return writers[-1]

    try:
        meter.start(open_sink)
        begun()
        interrupted = _wait_while_streaming(meter, duration_s, now, sleep)
        try:
            ending = meter.stop_sink()
        finally:
            if meter.ending is not None and writers:
                known = meter.ending
                writers[-1].finish(known.clock, known.gaps, known.dropped, known.warnings, known.arrivals.losses)
    finally:
        for writer in writers:
            writer.close()
    return Recording(None, interrupted, ending)


def _check_settings(duration_s: float, rate_hz: float) -> None:
    if not (duration_s > 0 and rate_hz > 0):
        raise ConfigError("recording needs a time and a rate above zero")


def _wait_while_streaming(
    meter: StreamMeter, duration_s: float, now: Callable[[], float], sleep: Callable[[float], None]
) -> bool:
    """Wait while a meter streams; return whether Ctrl-C ended it. A broken stream is reported by ``stop``."""
    end_s = now() + duration_s
    try:
        while (left_s := end_s - now()) > 0 and meter.is_streaming:
            sleep(min(left_s, _LOOK_S))
    except KeyboardInterrupt:
        return True
    return False


def _poll_meter(
    meter: Meter, duration_s: float, rate_hz: float, now: Callable[[], float], sleep: Callable[[float], None]
) -> bool:
    """Read a meter at a rate; return whether Ctrl-C ended it."""
    start = now()
    try:
        for i in range(1, max(1, round(duration_s * rate_hz)) + 1):
            sleep(max(0.0, start + i / rate_hz - now()))
            meter.mark()
    except KeyboardInterrupt:
        return True
    return False
