"""Quality of a power source, judged by a recording."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from deepen.clock import CLOCK_TOLERANCE
from deepen.errors import MeterError
from deepen.meters.stream.capture import StreamSummary
from deepen.records import PowerTrace, Source

__all__ = ["TraceQuality", "check_trace_quality"]


@dataclass(frozen=True, slots=True)
class TraceQuality:
    """Figures of a power source's quality, from a recording.

    Attributes:
        meter: Power source.
        source: measured, modelled or simulated.
        duration_s: Length of the recording, seconds.
        updates: Number of times the reading changed.
        update_hz: Changes per second, hertz.
        mean_w: Mean power, watts.
        noise_w: Standard deviation of the readings, watts.
        min_w: Least power, watts.
        max_w: Highest power, watts.
        longest_s: Longest time between two samples, seconds.
        dropped: Samples known to be lost.
        warnings: Warnings for the reader.
        samples: Samples in the recording.
        nominal_hz: Sample rate the source states.
        rate_hz: True sample rate on this machine's clock; of a source without a clock of its own, that of its updates.
        drift_ppm: Excess speed of its clock over the stated rate, parts per million; ``nan`` without a clock of its
            own, or if the recording was too short.
        clock_error_s: Standard uncertainty of a sample's time, seconds; ``nan`` without a clock of its own.
        jitter_s: Median delay of arrivals above the least delay (streams), else the standard deviation of the time
            between two samples, seconds.
        loss: Share of the samples that were lost, 0..1.
        gaps: Number of stretches without trustworthy samples.
        gap_s: Their total length, seconds.
    """

    meter: str
    source: Source
    duration_s: float
    updates: int
    update_hz: float
    mean_w: float
    noise_w: float
    min_w: float
    max_w: float
    longest_s: float
    dropped: int
    warnings: tuple[str, ...]
    samples: int
    nominal_hz: float
    rate_hz: float
    drift_ppm: float
    clock_error_s: float
    jitter_s: float
    loss: float
    gaps: int
    gap_s: float


def check_trace_quality(trace: PowerTrace, ending: StreamSummary | None = None) -> TraceQuality:
    """Judge a recording.

    1. Statistics are weighted by time: a counter's trace holds two points for a stretch of any length.
    2. Warnings of the trace are followed by those found here.
    3. The drift is given only if the clock's rate is known better than half the tolerance of quartz clocks.

    Args:
        trace: The recording.
        ending: Summary of the stream, for a streaming source.

    Raises:
        MeterError: If it has no samples.
    """
    t_s, power_w = trace.t_s, trace.power_w
    if t_s.size < 2:
        raise MeterError(f"{trace.meter_id}: no samples came in", cure="check its connection and record for longer")
    steps = np.diff(t_s)
    duration_s = float(t_s[-1] - t_s[0])
    # 1. Statistics.
    middle = power_w[1:] if trace.sampling == "mean" else (power_w[1:] + power_w[:-1]) / 2
    mean_w = float(np.sum(steps * middle) / duration_s)
    noise_w = float(np.sqrt(np.sum(steps * (middle - mean_w) ** 2) / duration_s))
    updates = int(np.count_nonzero(np.diff(power_w)))
    # 2. Warnings.
    warnings: list[str] = list(trace.warnings)
    if updates == 0:
        warnings.append("the reading never changed; record for longer, or load the machine while recording")
    if float(power_w.min()) < 0:
        warnings.append("power was negative; check the polarity")
    if trace.dropped or trace.gaps:
        warnings.append(f"{trace.dropped} samples lost, {len(trace.gaps)} gaps")
    if trace.source == "modelled":
        warnings.append(f"modelled, not measured: {trace.calibration_id}")
    # 3. Drift.
    drift_ppm = math.nan
    rate_error = 0.0 if ending is None else ending.arrivals.rate_error
    if trace.clock is not None and rate_error < CLOCK_TOLERANCE / 2:
        drift_ppm = 1e6 * (1 / trace.clock.rate - 1)
    elif trace.clock is not None:
        warnings.append("too short to tell the clock's drift; record for longer")
    return TraceQuality(
        meter=trace.meter_id,
        source=trace.source,
        duration_s=duration_s,
        updates=updates,
        update_hz=updates / duration_s,
        mean_w=mean_w,
        noise_w=noise_w,
        min_w=float(power_w.min()),
        max_w=float(power_w.max()),
        longest_s=float(steps.max()),
        dropped=trace.dropped,
        warnings=tuple(warnings),
        samples=int(t_s.size),
        nominal_hz=trace.rate_hz,
        rate_hz=updates / duration_s if trace.clock is None else trace.rate_hz / trace.clock.rate,
        drift_ppm=drift_ppm,
        clock_error_s=math.nan if trace.clock is None else trace.clock.error_s,
        jitter_s=float(steps.std()) if ending is None else ending.arrivals.delay_s,
        loss=trace.loss,
        gaps=len(trace.gaps),
        gap_s=sum(end - start for start, end in trace.gaps),
    )
