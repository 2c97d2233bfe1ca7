#!/usr/bin/env python3
"""Compares net energy with the truth through the whole chain: emulated meter, transport, driver, clock, integration.

Every run is one recording at the meter's full rate in virtual time: idle, one active window of 1 ms to 10 s whose power
changes every few milliseconds, idle. The meter's clock is off by up to 50 ppm either way and its transfers arrive with
up to 5 ms of random delay. The window is known in host time, as a runner's stamps give it; the emulator knows the
energy.

Example:
    .venv/bin/python tools/bench/accuracy.py --runs 200 --meter ppk2
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from common import conditions

from deepen.measure import integrate_power
from deepen.meters.instruments.lpm01a.driver import Lpm01aInstrument
from deepen.meters.instruments.monsoon.hvpm import HvpmInstrument
from deepen.meters.instruments.monsoon.lvpm import LvpmInstrument
from deepen.meters.instruments.powersensor3.driver import PowerSensor3Instrument
from deepen.meters.instruments.ppk2.driver import Ppk2Instrument
from deepen.meters.stream.meter import StreamMeter
from deepen.meters.types import MeterSpec
from deepen.records import Interval
from deepen.testing.clock import VirtualClock
from deepen.testing.instruments import hvpm, lpm01a, lvpm, powersensor3, ppk2
from deepen.testing.instruments.signal import StepSignal
from deepen.testing.instruments.virtual import VirtualPort

JITTER_S = 5e-3
LATENCY_S = 3e-4
DRIFT_PPM = 50.0
VARIES = 0.4
"""Share by which power changes from kernel to kernel."""
AROUND_S = 5.0
"""Recorded before and after the window; a second of it on either side is idle power."""


class Kind(NamedTuple):
    """A meter, its emulator, and a load it is made for.

    Attributes:
        emulator: Makes the emulator of a signal.
        driver: Makes the instrument at a port.
        options: Options of its specification.
        idle_w: Idle power, watts.
        active_w: Least and largest power above idle, watts.
    """

    emulator: Callable[..., Any]
    driver: Callable[..., Any]
    options: str
    idle_w: float
    active_w: tuple[float, float]


def noisy(emulator: Callable[..., Any], **noise: float) -> Callable[..., Any]:
    """An emulator with about a step of noise, as converters have: without any, what lies below a step stays hidden."""
    return partial(emulator, **noise)


KINDS = {
    "lvpm": Kind(noisy(lvpm.LvpmEmulator, noise_a=3e-4), LvpmInstrument, "voltage_v=4.2", 0.4, (0.5, 4.0)),
    "hvpm": Kind(noisy(hvpm.HvpmEmulator, noise_a=2e-4), HvpmInstrument, "voltage_v=4.2", 0.4, (0.5, 4.0)),
    "ppk2": Kind(noisy(ppk2.Ppk2Emulator, noise_a=3e-4), Ppk2Instrument, "voltage_v=3.3&mode=source", 0.05, (0.4, 1.5)),
    "powersensor3": Kind(
        noisy(powersensor3.PowerSensor3Emulator, noise_a=0.03, noise_v=0.03),
        PowerSensor3Instrument,
        "",
        3.0,
        (2.0, 15.0),
    ),
    "lpm01a": Kind(lpm01a.Lpm01aBoard, Lpm01aInstrument, "voltage_v=3.3&rate_hz=5000", 0.004, (0.01, 0.1)),
    "lpm01a-100k": Kind(
        lpm01a.Lpm01aBoard,
        Lpm01aInstrument,
        "voltage_v=3.3&rate_hz=100000&format=bin_hexa&output=current",
        0.004,
        (0.01, 0.1),
    ),
}


class Outcome(NamedTuple):
    """One run: length of the window, relative error of its net energy, and both stated uncertainties, relative."""

    window_s: float
    error: float
    uncertainty: float
    standard: float


def run(kind: Kind, seed: int, queue: bool = False) -> Outcome:
    """Record one window and compare."""
    rng = np.random.default_rng(seed)
    window_s = float(10 ** rng.uniform(-3, 1))
    clock = VirtualClock()
    setup_s = 20.0  # the conversation before the recording takes virtual time, too
    start_s = clock.now() + setup_s
    inner = np.cumsum(rng.uniform(0.5e-3, 20e-3, int(window_s / 0.5e-3) + 1))
    edges = start_s + np.concatenate([[0.0], inner[inner < window_s * 0.98], [window_s]])
    levels = kind.idle_w + rng.uniform(*kind.active_w) * rng.uniform(1 - VARIES, 1 + VARIES, edges.size - 1)
    signal = StepSignal(edges, [kind.idle_w, *levels, kind.idle_w])
    emulator = kind.emulator(signal, ppm=rng.uniform(-DRIFT_PPM, DRIFT_PPM))
    port = VirtualPort(emulator, clock, latency_s=LATENCY_S, jitter_s=JITTER_S, queue=queue, seed=seed)
    instrument = kind.driver(port, MeterSpec.parse(f"meter:port?{kind.options}"), "simulated")
    meter = StreamMeter(instrument, port, now=clock.now, threaded=False)
    clock.sleep(start_s - AROUND_S - clock.now())
    meter.start()
    until = start_s + window_s + AROUND_S
    while clock.now() < until:  # as the reader's thread does
        slow = instrument.rate_hz <= 10e3
        clock.sleep(0.05 if slow else 0.01)
        meter.pump()
        for _ in range(3 if slow else 1):
            meter.pump(0.1)
    trace = meter.stop()
    meter.close()
    window = Interval(start_s, start_s + window_s, "run")
    idle = [Interval(start_s - 1.2, start_s - 0.1, "idle"), Interval(window.end_s + 0.1, window.end_s + 1.2, "idle")]
    found = integrate_power(trace, [window], idle=idle)[0]
    truth = emulator.energy_j(window.start_s, window.end_s) - kind.idle_w * window_s
    return Outcome(window_s, found.net_j / truth - 1, found.uncertainty_j / truth, found.standard_j / truth)


def main() -> None:
    """Run and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="seeded runs for each meter (200)")
    parser.add_argument("--meter", choices=KINDS, action="append", help="meters to run (all)")
    parser.add_argument("--queue", action="store_true", help="delays of 5 ms on average, so that transfers queue up")
    given = parser.parse_args()
    print(conditions(), "\n")
    print("| meter | runs | within ± stated | from 100 ms: worst | median | below: median | stated, median | CPU s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in given.meter or KINDS:
        began = time.process_time()
        outcomes = [run(KINDS[name], seed, given.queue) for seed in range(given.runs)]
        inside = sum(abs(o.error) <= o.uncertainty for o in outcomes)
        long = [abs(o.error) for o in outcomes if o.window_s >= 0.1] or [float("nan")]
        short = [abs(o.error) for o in outcomes if o.window_s < 0.1] or [float("nan")]
        cells = (
            name,
            str(given.runs),
            f"{100 * inside / given.runs:.1f} %",
            f"{100 * max(long):.3f} %",
            f"{100 * statistics.median(long):.4f} %",
            f"{100 * statistics.median(short):.3f} %",
            f"{100 * statistics.median(o.uncertainty for o in outcomes):.3f} %",
            f"{time.process_time() - began:.0f}",
        )
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
