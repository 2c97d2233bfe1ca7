"""Types of stored traces, and the protocol of a trace file format."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from deepen.clock.host_clock import ClockMap
from deepen.errors import ConfigError
from deepen.records import Accuracy, Interval, PowerTrace, Source, TraceWarning

__all__ = ["CHUNK", "ReportedWindow", "TraceFile", "TraceFormat", "TraceHeader", "TraceInfo", "make_chunk"]

CHUNK = 1 << 20
"""Default number of samples per chunk: 16 MiB of times and powers."""


@dataclass(frozen=True, slots=True)
class TraceHeader:
    """Facts of a recording known before its first sample.

    Attributes:
        meter_id: Name of the power source.
        calibration_id: Name of the calibration or power profile applied.
        source: measured, modelled or simulated.
        rate_hz: Nominal sample rate, hertz.
        sampling: As in :class:`~deepen.records.PowerTrace`.
        accuracy: Accuracy the instrument states.
        times: ``index`` where a sample is identified by its position in the instrument's stream (its time is the
            position over ``rate_hz`` through the clock map); ``stamps`` where each has a time of its own.
        precision: Type in which power is stored; ``float32`` resolves 6e-8 of the reading.
        logic: True if digital inputs are stored.
        start_s: Host time of position 0 as known at the start, seconds; used where the recording ended without a clock.
    """

    meter_id: str
    calibration_id: str
    source: Source
    rate_hz: float
    sampling: Literal["point", "mean"] = "point"
    accuracy: Accuracy = field(default_factory=Accuracy)
    times: Literal["index", "stamps"] = "index"
    precision: Literal["float32", "float64"] = "float32"
    logic: bool = False
    start_s: float = 0.0

    def __post_init__(self) -> None:
        if not (self.rate_hz >= 0 and math.isfinite(self.rate_hz)) or (self.times == "index" and self.rate_hz == 0):
            raise ConfigError(f"trace of {self.meter_id}: a sample rate of {self.rate_hz} Hz cannot be stored")
        if not math.isfinite(self.start_s):
            raise ConfigError(f"trace of {self.meter_id}: a start at {self.start_s} s cannot be stored")


@dataclass(frozen=True, slots=True)
class TraceInfo:
    """Facts that a trace file states about itself.

    Attributes:
        path: The file or folder.
        format: Name of its format.
        meter_id: Name of the power source.
        calibration_id: Name of the calibration or power profile that was applied.
        source: measured, modelled or simulated.
        rate_hz: Sample rate, hertz.
        samples: Number of samples in the file.
        start_s: Time of the first sample, seconds; ``nan`` without samples.
        end_s: Time of the last sample, seconds; ``nan`` without samples.
        sampling: As in :class:`~deepen.records.PowerTrace`.
        accuracy: Accuracy the instrument states.
        clock: Map from sample times to host times; ``None`` where times are the file's own.
        gaps: Stretches (start_s, end_s) without trustworthy samples.
        dropped: Samples known to be lost.
        warnings: Warnings for the reader.
        logic: True if digital inputs were stored.
        complete: True if the recording was finished properly.
    """

    path: Path
    format: str
    meter_id: str
    calibration_id: str
    source: Source
    rate_hz: float
    samples: int
    start_s: float = math.nan
    end_s: float = math.nan
    sampling: Literal["point", "mean"] = "point"
    accuracy: Accuracy = field(default_factory=Accuracy)
    clock: ClockMap | None = None
    gaps: tuple[tuple[float, float], ...] = ()
    dropped: int = 0
    warnings: tuple[TraceWarning, ...] = ()
    logic: bool = False
    complete: bool = True

    @property
    def loss(self) -> float:
        """Share of the samples that were lost, 0..1."""
        return self.dropped / (self.dropped + self.samples) if self.dropped else 0.0

    @property
    def duration_s(self) -> float:
        """Time from the first sample to the last, seconds; 0 without samples."""
        return self.end_s - self.start_s if self.samples else 0.0


@dataclass(frozen=True, slots=True)
class ReportedWindow:
    """A stretch of a trace named by the file itself or by a file beside it.

    Attributes:
        interval: Its start and end on the trace's own clock.
        energy_j: The energy the file reports for it, joules; ``nan`` where it reports none.
    """

    interval: Interval
    energy_j: float = math.nan


class TraceFile(Protocol):
    """An opened trace, whose metadata has been read and whose samples are still in the file."""

    @property
    def info(self) -> TraceInfo:
        """Facts that the file states about itself."""

    def blocks(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint8] | None]]:
        """Yield times (s), powers (W) and logic inputs in order, in pieces of the file's own size.

        Raises:
            MeasureError: If the file is damaged or is not a trace.
        """

    def windows(self) -> tuple[ReportedWindow, ...]:
        """Return the windows that the file itself reports, in order of time; empty where it reports none."""


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """One kind of trace file; every module of ``deepen.traces.formats`` exports one as ``FORMAT``.

    Attributes:
        name: Value for ``--format``, carried by :class:`TraceInfo`.
        title: A description in one line.
        matches: Returns whether a file has this format, from its path and its first 64 KiB (empty for a folder).
        open: Opens it with options; raises ``MeasureError`` on damage, ``ConfigError`` on a missing or wrong option.
        options: Names of the options of ``open``.
    """

    name: str
    title: str
    matches: Callable[[Path, bytes], bool]
    open: Callable[[Path, Mapping[str, str]], TraceFile]
    options: tuple[str, ...] = ()


def make_chunk(
    info: TraceInfo,
    t_s: NDArray[np.float64],
    power_w: NDArray[np.float64],
    logic: NDArray[np.uint8] | None,
    after_s: float,
) -> PowerTrace:
    """Make the part of a trace that ends with these samples.

    Every gap is assigned to the chunk in which it ends, with its share of the lost samples, so that gaps and losses of
    consecutive chunks add up to those of the file.

    Args:
        info: Facts of the whole file.
        t_s: Times of the chunk, seconds, shape (n,).
        power_w: Powers, shape (n,).
        logic: Digital inputs, shape (n,), or ``None``.
        after_s: Time of the last sample before the chunk; ``-inf`` at the start of the file.
    """
    until_s = float(t_s[-1]) if t_s.size else after_s
    if until_s >= info.end_s:
        until_s = math.inf
    gaps = tuple(g for g in info.gaps if after_s < g[1] <= until_s)
    return PowerTrace(
        t_s=t_s,
        power_w=power_w,
        rate_hz=info.rate_hz,
        meter_id=info.meter_id,
        calibration_id=info.calibration_id,
        source=info.source,
        gaps=gaps,
        dropped=_count_lost_until(info, until_s) - _count_lost_until(info, after_s),
        sampling=info.sampling,
        logic=logic,
        clock=info.clock,
        accuracy=info.accuracy,
        warnings=info.warnings,
    )


def _count_lost_until(info: TraceInfo, t_s: float) -> int:
    """Count the samples lost up to a time: gaps share them by their length; without gaps all lie at the end."""
    if t_s == math.inf:
        return info.dropped
    total_s = sum(end - start for start, end in info.gaps)
    if total_s <= 0:
        return 0
    return round(info.dropped * sum(end - start for start, end in info.gaps if end <= t_s) / total_s)
