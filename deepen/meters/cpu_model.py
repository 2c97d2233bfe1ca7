"""``cpu-model``: power computed from processor time and documented idle and full-load figures.

Power = idle + (full - idle) / cores x busy cores: the linear utilisation model of Fan, Weber and Barroso, "Power
provisioning for a warehouse-sized computer", ISCA 2007. Busy cores are the CPU seconds of the worker process (all of
its threads, ``clock_getcpuclockid(3)``) per second of wall time. It is a model and labelled so: it ignores clock
frequency, vector units and memory, and its absolute scale is that of the published figures. The processor time of a
workload, however, is exact to nanoseconds.
"""

from __future__ import annotations

import bisect
import math
import os
import time
from pathlib import Path

from deepen.clock.host_clock import monotonic_s
from deepen.errors import MeterError
from deepen.meters.energy_counter import make_step_trace
from deepen.meters.types import Availability, Driver, MachinePower, Meter, MeterContext, MeterSpec, Scope
from deepen.records import Interval, PowerTrace, Source

__all__ = ["DRIVER", "CpuModelMeter", "read_machine_cpu_s", "read_process_cpu_s"]

_HERE_ONLY = "it counts processor time of this machine, not of a device across a link"


def read_process_cpu_s(pid: int) -> float:
    """Read the CPU time of a process, all threads, seconds; ``nan`` if it has ended or cannot be read.

    Linux encodes the CPU clock of a process as ``(~pid << 3) | 2`` (``clock_getcpuclockid(3)``; 2 is CPUCLOCK_SCHED).
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except (OSError, OverflowError, AttributeError):
        return float("nan")


def read_machine_cpu_s(root: Path = Path("/")) -> float:
    """Read the CPU time of all processes of the machine, seconds (``/proc/stat``, to 10 ms); ``nan`` where unknown."""
    try:
        with (root / "proc/stat").open(encoding="ascii") as stat:
            fields = [int(f) for f in stat.readline().split()[1:9]]
    except (OSError, ValueError):
        return float("nan")
    user, nice, system, _idle, _iowait, irq, softirq, steal = (fields + [0] * 8)[:8]
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class CpuModelMeter:
    """Modelled power of the machine, from the CPU time of the worker or of all processes."""

    id = "cpu-model"
    source: Source = "modelled"
    update_s = 0.0
    resolution_j = 0.0

    def __init__(self, power: MachinePower, context: MeterContext) -> None:
        """Choose the processes to count.

        Args:
            power: Idle and full-load figures.
            context: With ``pid`` only the worker counts, without it the whole machine.

        Raises:
            MeterError: If processor time cannot be read here.
        """
        self._power = power
        self._root = context.root
        self._pid = context.pid
        self.scope: Scope = "machine" if context.pid is None else "process"
        self.calibration_id = power.calibration_id
        self._knots: list[tuple[float, float]] = []
        self._worker: int | None = None
        self._base_s = 0.0
        self._seen_s = 0.0
        if self._pid is None:
            self.update_s = 0.01
            if math.isnan(read_machine_cpu_s(self._root)):
                raise MeterError("cpu-model: /proc/stat cannot be read here", cure="name another meter")

    def _cpu_s(self) -> float:
        """Cumulative CPU time, seconds; continues where a replaced worker left off."""
        if self._pid is None:
            return read_machine_cpu_s(self._root)
        pid = self._pid()
        if pid != self._worker:
            self._base_s, self._worker = self._seen_s, pid
            self._base_s -= 0.0 if pid is None else _replace_nan_by_zero(read_process_cpu_s(pid))
        if pid is not None:
            used = read_process_cpu_s(pid)
            if not math.isnan(used):
                self._seen_s = max(self._seen_s, self._base_s + used)
        return self._seen_s

    def start(self) -> None:
        """Begin a trace."""
        self._knots = []
        self.mark()

    def mark(self) -> None:
        """Read the CPU time."""
        cpu_s = self._cpu_s()
        now = monotonic_s()
        if self._knots:
            cpu_s = max(cpu_s, self._knots[-1][1])
        self._knots.append((now, cpu_s))

    def observe(self, interval: Interval) -> None:
        """Place the worker's own count of CPU time at the exact edges of a block.

        The marks around it include sending the request and reading the answer; CPU time they counted beyond the block's
        own is spread over the stretches before and after it.
        """
        if math.isnan(interval.cpu_s):
            return
        times = [t for t, _ in self._knots]
        i = bisect.bisect_right(times, interval.start_s)
        if i == 0 or i >= len(times) or interval.end_s > times[i]:
            raise MeterError(
                "cpu-model: a block lies outside the marks around it", cure="the worker's clock is not the host's"
            )
        (t0, c0), (t1, c1) = self._knots[i - 1], self._knots[i]
        around = max(0.0, c1 - c0 - interval.cpu_s)
        before_s, after_s = interval.start_s - t0, t1 - interval.end_s
        share = before_s / (before_s + after_s) if before_s + after_s > 0 else 0.0
        start = (interval.start_s, c0 + around * share)
        end = (interval.end_s, start[1] + interval.cpu_s)
        surplus = max(0.0, end[1] - c1)  # clocks of different grain: never let the sum run backwards
        self._knots[i:] = [start, end, *((t, c + surplus) for t, c in self._knots[i:])]
        self._seen_s += surplus
        self._base_s += surplus

    def stop(self) -> PowerTrace:
        """End the trace."""
        self.mark()
        times = [t for t, _ in self._knots]
        first_t, first_c = self._knots[0]
        energy = [self._power.idle_w * (t - first_t) + self._power.per_core_w * (c - first_c) for t, c in self._knots]
        t_s, power_w = make_step_trace(times, energy)
        rate_hz = len(times) / max(times[-1] - first_t, 1e-9)
        return PowerTrace(t_s, power_w, rate_hz, self.id, self.calibration_id, self.source)

    def close(self) -> None:
        """Nothing to release."""


def _replace_nan_by_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _probe(context: MeterContext) -> Availability:
    if context.link is not None:
        return Availability("cpu-model", False, "", "modelled", _HERE_ONLY, "")
    if context.power is None:
        cause = "the device profile has no power figures"
        return Availability("cpu-model", False, "", "modelled", cause, "add [power] to the profile in devices/profiles")
    detail = f"{context.power.calibration_id}; {' '.join(context.power.source.split())}"
    return Availability("cpu-model", True, detail, "modelled")


def _open(spec: MeterSpec, context: MeterContext) -> Meter:
    spec.only()
    if context.link is not None:
        raise MeterError(f"cpu-model: {_HERE_ONLY}", cure="use a meter of the device, or an external one")
    if context.power is None:
        raise MeterError(
            "cpu-model: the device profile has no power figures", cure="add [power] to it in devices/profiles"
        )
    return CpuModelMeter(context.power, context)


DRIVER = Driver("cpu-model", "modelled from processor time", _probe, _open, automatic=True)
