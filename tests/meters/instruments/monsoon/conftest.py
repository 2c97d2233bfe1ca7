"""Monsoon meters on emulators in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from deepen.meters.instruments.monsoon.hvpm import HvpmInstrument
from deepen.meters.instruments.monsoon.lvpm import LvpmInstrument
from deepen.meters.stream.meter import StreamMeter
from deepen.meters.types import MeterSpec
from deepen.records import PowerTrace
from deepen.testing.clock import VirtualClock
from deepen.testing.instruments import hvpm as emulated_hvpm
from deepen.testing.instruments import lvpm as emulated_lvpm
from deepen.testing.instruments.faults import Fault
from deepen.testing.instruments.signal import BlockSignal
from deepen.testing.instruments.virtual import VirtualPort

KINDS: dict[str, tuple[Callable[..., Any], Callable[..., Any], dict[str, Any]]] = {
    "lvpm": (emulated_lvpm.LvpmEmulator, LvpmInstrument, {}),
    "hvpm": (emulated_hvpm.HvpmEmulator, HvpmInstrument, {}),
    "hvpm-lvpm": (emulated_hvpm.HvpmEmulator, HvpmInstrument, {"model": "LVPM"}),
}


@dataclass
class MonsoonBench:
    """An emulator, its port, and the instrument that talks to it."""

    emulator: Any
    port: VirtualPort
    clock: VirtualClock
    make: Callable[..., Any]

    def open(self, options: str = "voltage_v=3.85") -> Any:
        """The instrument, set up."""
        return self.make(self.port, MeterSpec.parse(f"any:port?{options}" if options else "any:port"), "simulated")

    def record(self, seconds: float, options: str = "voltage_v=3.85", max_loss: float = 1e-3) -> PowerTrace:
        """Open, record for some seconds, close."""
        meter = StreamMeter(self.open(options), self.port, now=self.clock.now, threaded=False, max_loss=max_loss)
        try:
            meter.start()
            meter.run_until(self.clock.now() + seconds)
            return meter.stop()
        finally:
            meter.close()

    def error(self, trace: PowerTrace, start_s: float, end_s: float) -> float:
        """Relative error of the trapezoid over a window."""
        inside = trace.t_s[(trace.t_s > start_s) & (trace.t_s < end_s)]
        t_s = np.concatenate([[start_s], inside, [end_s]])
        energy = float(np.trapezoid(np.interp(t_s, trace.t_s, trace.power_w), t_s))
        return energy / self.emulator.energy_j(start_s, end_s) - 1


@pytest.fixture
def bench() -> Callable[..., MonsoonBench]:
    """Makes benches: ``bench(kind, faults=..., **emulator options)``."""

    def make(
        kind: str, *, faults: Sequence[Fault] = (), jitter_s: float = 2e-3, signal: Any = None, **options: Any
    ) -> MonsoonBench:
        emulator, instrument, fixed = KINDS[kind]
        clock = VirtualClock()
        load = signal or BlockSignal(0.05, 1.5, [(1003.0, 1003.4), (1004.0, 1004.3)])
        made = emulator(load, **{**fixed, **options})
        return MonsoonBench(
            made, VirtualPort(made, clock, latency_s=1e-3, jitter_s=jitter_s, faults=faults), clock, instrument
        )

    return make
