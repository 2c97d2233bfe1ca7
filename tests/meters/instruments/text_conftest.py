from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from deepen.meters.stream.meter import StreamMeter
from deepen.meters.stream.types import Instrument, Port
from deepen.meters.types import MeterSpec
from deepen.records import Source
from deepen.testing.clock import VirtualClock
from deepen.testing.instruments.base import Emulator
from deepen.testing.instruments.faults import Fault
from deepen.testing.instruments.virtual import VirtualPort


@dataclass
class TextInstrumentRig:
    clock: VirtualClock
    port: VirtualPort
    meter: StreamMeter

    @property
    def instrument(self) -> Instrument:
        return self.meter.instrument


Make = Callable[[Port, MeterSpec, Source], Instrument]


@pytest.fixture
def connect() -> Callable[..., TextInstrumentRig]:
    """Open an instrument on an emulator in virtual time."""

    def opened(
        make: Make,
        emulator: Emulator,
        faults: Sequence[Fault] = (),
        *,
        max_loss: float = 1e-3,
        jitter_s: float = 1e-3,
        seed: int = 0,
        **options: str,
    ) -> TextInstrumentRig:
        clock = VirtualClock()
        port = VirtualPort(emulator, clock, latency_s=1e-3, jitter_s=jitter_s, batch_s=8e-3, seed=seed, faults=faults)
        instrument = make(port, MeterSpec("meter", "port", options), "simulated")
        return TextInstrumentRig(
            clock, port, StreamMeter(instrument, port, now=clock.now, max_loss=max_loss, threaded=False)
        )

    return opened
