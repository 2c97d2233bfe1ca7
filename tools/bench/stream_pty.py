#!/usr/bin/env python3
"""Measures whether drivers keep up with their instruments: lost samples and processor time, over a pseudo-terminal.

An emulator in a process of its own streams at the full rate of the instrument; the driver records it as ``deepen meter
record`` does. The share is the processor time of this whole process (reader thread, parser, capture, with ``--disk``
the writer too) over the time recorded; what comes after it (fitting the clock, joining the samples) is stated apart.

Example:
    .venv/bin/python tools/bench/stream_pty.py --seconds 60
    .venv/bin/python tools/bench/stream_pty.py --only ppk2 --disk
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import processor


@dataclass(frozen=True)
class Case:
    """An instrument: its emulator, the options of its driver, and the target for the reader's share of a core."""

    name: str
    emulator: Callable[[], Any]
    options: dict[str, str]
    target: float | None


def ppk2() -> Any:
    """A PPK2 at 100 kS/s whose load changes the range 100 times per second."""
    from deepen.testing.instruments.ppk2 import Ppk2Emulator
    from deepen.testing.instruments.signal import SineSignal, StepSignal, SummedSignal

    return Ppk2Emulator(SummedSignal(StepSignal([], [0.2]), SineSignal(0.19, 50.0)), noise_a=2e-5, spike=0.3)


def powersensor3() -> Any:
    """A PowerSensor3 with two pairs at 20 kS/s."""
    from deepen.testing.instruments.powersensor3 import PowerSensor3Emulator, SensorPair
    from deepen.testing.instruments.signal import StepSignal

    return PowerSensor3Emulator(
        StepSignal([], [20.0]), pairs=(SensorPair("12V", 12.0, 0.7), SensorPair("5V", 5.0, 0.3)), noise_a=0.05
    )


def lvpm() -> Any:
    """A Monsoon LVPM at 5 kS/s."""
    from deepen.testing.instruments.lvpm import LvpmEmulator
    from deepen.testing.instruments.signal import StepSignal

    return LvpmEmulator(StepSignal([], [1.5]))


CASES = (
    Case("ppk2", ppk2, {"voltage_v": "3.3"}, 10.0),
    Case("powersensor3", powersensor3, {}, None),
    Case("lvpm", lvpm, {"voltage_v": "3.7"}, 2.0),
)


def measure(case: Case, seconds: float, disk: Path | None) -> list[str]:
    """Record for a while; returns the cells of a row."""
    from deepen.meters.record import record_folder, record_trace
    from deepen.meters.registry import load_driver
    from deepen.meters.types import MeterContext, MeterSpec
    from deepen.testing.instruments.pty import serve_emulator

    looks: list[tuple[float, float]] = []

    def sleep(duration_s: float) -> None:
        time.sleep(duration_s)
        looks.append((time.process_time(), time.monotonic()))

    with serve_emulator(case.emulator()) as served:
        meter: Any = load_driver(case.name).open(MeterSpec(case.name, served.path, case.options), MeterContext())
        try:
            if disk is None:
                found = record_trace(meter, seconds, sleep=sleep).ending
            else:
                found = record_folder(meter, disk / f"{case.name}.trace", seconds, sleep=sleep).ending
        finally:
            meter.close()
        end_s = time.process_time() - looks[-1][0]
        swallowed = served.lost()
    assert found is not None
    (cpu_s, began_s), (last_cpu_s, ended_s) = looks[0], looks[-1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if swallowed:
        print(f"{case.name}: the emulator's buffer ran over, {swallowed} samples were never sent", file=sys.stderr)
    for warning in found.warnings:
        print(f"{case.name}: {warning}", file=sys.stderr)
    return [
        case.name,
        f"{found.samples / 1e6:.3f} M",
        f"{found.arrivals.rate_hz:.1f}",
        str(found.dropped),
        f"{100 * (last_cpu_s - cpu_s) / (ended_s - began_s):.2f} %",
        "" if case.target is None else f"{case.target:g} %",
        f"{end_s:.2f} s",
        f"{peak / 2**20:.0f} MiB",
    ]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description="Samples lost and processor time of the reader, over a pty.")
    parser.add_argument("--seconds", type=float, default=60.0, help="time to record each (60)")
    parser.add_argument("--only", choices=[case.name for case in CASES], help="one instrument")
    parser.add_argument("--disk", action="store_true", help="stream to a .trace folder instead of memory")
    chosen = parser.parse_args()
    print(f"Recording for {chosen.seconds:g} s {'to disk' if chosen.disk else 'in memory'}: {processor()}, ", end="")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}; Python {platform.python_version()}\n")
    print("| instrument | samples | true Hz | lost | reader, of a core | target | at the end | peak memory |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for case in CASES:
        if chosen.only in (None, case.name):
            with tempfile.TemporaryDirectory() as folder:
                cells = measure(case, chosen.seconds, Path(folder) if chosen.disk else None)
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
