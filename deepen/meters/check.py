"""Record a power source for a while, and judge what it gives."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepen.clock import monotonic_s
from deepen.errors import ConfigError, MeterError
from deepen.meters.types import Meter
from deepen.records import PowerTrace, Source

__all__ = ["MeterCheck", "check_trace", "record", "write_trace"]


def record(
    meter: Meter,
    duration_s: float,
    rate_hz: float = 10.0,
    *,
    now: Callable[[], float] = monotonic_s,
    sleep: Callable[[float], None] = time.sleep,
) -> PowerTrace:
    """Record a power source.

    Args:
        meter: The source.
        duration_s: How long, seconds.
        rate_hz: How often to read it; drivers that sample by themselves do so as well.
        now: The monotonic clock; for stand-ins.
        sleep: Wait for some seconds; for stand-ins.

    Raises:
        ConfigError: If the time or the rate is not positive.
        MeterError: If the source does not answer.
    """
    if not (duration_s > 0 and rate_hz > 0):
        raise ConfigError("recording needs a time and a rate above zero")
    meter.start()
    start = now()
    for i in range(1, max(1, round(duration_s * rate_hz)) + 1):
        sleep(max(0.0, start + i / rate_hz - now()))
        meter.mark()
    return meter.stop()


@dataclass(frozen=True, slots=True)
class MeterCheck:
    """What a recording says about a power source.

    Attributes:
        meter: Power source.
        source: measured, modelled or simulated.
        duration_s: Length of the recording, seconds.
        updates: How often the reading changed.
        update_hz: The same per second.
        mean_w: Mean power, watts.
        noise_w: Standard deviation of the readings, watts.
        min_w: Least power, watts.
        max_w: Most power, watts.
        longest_s: Longest time between two samples, seconds.
        dropped: Samples known to be lost.
        warnings: What a reader should know.
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


def check_trace(trace: PowerTrace) -> MeterCheck:
    """Judge a recording.

    Raises:
        MeterError: If it has no samples.
    """
    t_s, power_w = trace.t_s, trace.power_w
    if t_s.size < 2:
        raise MeterError(f"{trace.meter_id}: no samples came in; check its connection and record for longer")
    steps = np.diff(t_s)
    duration_s = float(t_s[-1] - t_s[0])
    mean_w = float(np.sum(steps * (power_w[1:] + power_w[:-1]) / 2) / duration_s)
    # Weighted by time: a counter's trace holds two points for a stretch of any length.
    middle = (power_w[1:] + power_w[:-1]) / 2
    noise_w = float(np.sqrt(np.sum(steps * (middle - mean_w) ** 2) / duration_s))
    updates = int(np.count_nonzero(np.diff(power_w)))
    warnings: list[str] = []
    if updates == 0:
        warnings.append("the reading never changed; record for longer, or load the machine while recording")
    if float(power_w.min()) < 0:
        warnings.append("power was negative; check the polarity")
    if trace.dropped or trace.gaps:
        warnings.append(f"{trace.dropped} samples lost, {len(trace.gaps)} gaps")
    if trace.source == "modelled":
        warnings.append(f"modelled, not measured: {trace.calibration_id}")
    return MeterCheck(
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
    )


def write_trace(trace: PowerTrace, path: Path) -> None:
    """Write a trace as CSV (``t_s,power_w,meter,source``) or JSON, by the file's suffix; whole or not at all.

    Raises:
        ConfigError: If the suffix is neither ``.csv`` nor ``.json``.
        OSError: If the file cannot be written.
    """
    if path.suffix not in (".csv", ".json"):
        raise ConfigError(f"cannot write '{path.name}'; name a .csv or .json file")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            if path.suffix == ".csv":
                rows = csv.writer(file)
                rows.writerow(["t_s", "power_w", "meter", "source"])
                for t, p in zip(trace.t_s.tolist(), trace.power_w.tolist(), strict=True):
                    rows.writerow([repr(t), repr(p), trace.meter_id, trace.source])
            else:
                json.dump(
                    {
                        "meter": trace.meter_id,
                        "source": trace.source,
                        "calibration": trace.calibration_id,
                        "rate_hz": trace.rate_hz,
                        "dropped": trace.dropped,
                        "gaps": [list(g) for g in trace.gaps],
                        "t_s": trace.t_s.tolist(),
                        "power_w": trace.power_w.tolist(),
                    },
                    file,
                )
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
