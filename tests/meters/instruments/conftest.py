"""Streams written by hand from the protocols, a port that plays a conversation, and instruments on emulators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from deepen.meters.instruments.powersensor3.config import SensorConfig
from deepen.meters.instruments.ppk2.calibration import Ppk2Calibration
from deepen.meters.ports.protocol import Port
from deepen.meters.stream.meter import StreamMeter
from deepen.meters.stream.types import Instrument, Parser, Samples
from deepen.meters.types import MeterSpec
from deepen.records import PowerTrace, Source
from deepen.testing.clock import VirtualClock
from deepen.testing.instruments.base import Emulator
from deepen.testing.instruments.faults import Fault
from deepen.testing.instruments.virtual import VirtualPort

RESISTORS = (1000.0, 100.0, 10.0, 1.0, 0.05)


def ppk2_text(**changed: str) -> str:
    """Metadata of a unit whose coefficients are neutral but for offset (100 counts) and resistors."""
    lines = {"Calibrated": "0"}
    for k in range(5):
        lines |= {f"R{k}": str(RESISTORS[k]), f"GS{k}": "0.0", f"GI{k}": "1.0", f"O{k}": "100.0"}
        lines |= {f"S{k}": "0.0", f"I{k}": "0.0", f"UG{k}": "1.00"}
    lines |= {"VDD": "3300", "HW": "9173", "mode": "2", "IA": "56"} | changed
    return "".join(f"{key}: {value}\n" for key, value in lines.items() if value)


def words(adc: ArrayLike, ranges: ArrayLike = 0, *, first: int = 0, logic: ArrayLike = 0) -> NDArray[np.uint32]:
    """PPK2 words with a running counter."""
    adc = np.asarray(adc, np.int64)
    counter = (first + np.arange(adc.size)) % 64
    return (adc | np.asarray(ranges, np.int64) << 14 | counter << 18 | np.asarray(logic, np.int64) << 24).astype("<u4")


def closed(stream: NDArray[np.uint32]) -> bytes:
    """Bytes of words and of the one that follows them: a word counts only when the next one is there."""
    after = stream[-1] & ~np.uint32(63 << 18) | ((stream[-1] >> 18) + np.uint32(1) & np.uint32(63)) << 18
    return np.append(stream, after).astype("<u4").tobytes()


def ps3_frames(
    levels: ArrayLike, *, first_us: int = 0, period_us: float = 50.0, marks: Sequence[int] = ()
) -> NDArray[np.uint8]:
    """PowerSensor3 frames; levels of shape (n, 8), result of shape (n, 18)."""
    levels = np.asarray(levels, np.int64)
    stamp = np.floor(first_us + np.arange(len(levels)) * period_us).astype(np.int64) % 1024
    frames = np.empty((len(levels), 9, 2), np.uint8)
    frames[:, 0, 0], frames[:, 0, 1] = 0xF0 | stamp >> 6, 0x40 | stamp & 63
    frames[:, 1:, 0], frames[:, 1:, 1] = 0x80 | np.arange(8) << 4 | levels >> 6, levels & 63
    frames[list(marks), 1, 1] |= 0x40
    return frames.reshape(-1, 18)


def feed_in_pieces(parser: Parser, data: bytes, cuts: Sequence[int]) -> Samples:
    """Feed a stream cut at the given places."""
    edges = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    parts = [parser.feed(data[a:b]) for a, b in pairwise(edges)]
    return Samples.join([p for p in parts if p.index.size])


class TalkPort:
    """Answers as a function says; a read without bytes lasts its time-out."""

    def __init__(self, answer: Callable[[bytes], bytes | None]) -> None:
        self.name = "port"
        self.sent: list[bytes] = []
        self.waited_s = 0.0
        self._answer = answer
        self._ready = b""
        self._endless = False

    def read(self, timeout_s: float) -> bytes:
        if self._endless:
            return b"\x55" * 4096
        data, self._ready = self._ready, b""
        if not data:
            self.waited_s += timeout_s
        return data

    def write(self, data: bytes) -> None:
        self.sent.append(data)
        answer = self._answer(data)
        self._endless = answer is None
        self._ready += answer or b""

    def flush_input(self) -> None:
        self._ready = b""

    def fileno(self) -> None:
        return None

    def close(self) -> None:
        pass


class VirtualMeterSetup:
    """An emulator, its driver and a meter without a thread, in virtual time."""

    def __init__(
        self,
        emulator: Emulator,
        clock: VirtualClock,
        make: Callable[[Port, MeterSpec, Source], Instrument],
        options: dict[str, str],
        faults: Sequence[Fault] = (),
        max_loss: float = 1.0,
    ) -> None:
        self.clock, self.emulator = clock, emulator
        self.port = VirtualPort(emulator, clock, latency_s=1e-3, jitter_s=1e-3, faults=faults)
        self.instrument = make(self.port, MeterSpec("meter", "port", options), "simulated")
        self.meter = StreamMeter(self.instrument, self.port, now=clock.now, max_loss=max_loss, threaded=False)

    def run(self, duration_s: float) -> None:
        """Record for a while, reading every 10 ms."""
        end_s = self.clock.now() + duration_s
        while self.clock.now() < end_s:
            self.clock.sleep(min(0.01, end_s - self.clock.now()))
            self.meter.pump()

    def record(self, duration_s: float) -> PowerTrace:
        self.meter.start()
        self.run(duration_s)
        return self.meter.stop()

    def sent(self) -> list[bytes]:
        """What was written to the port."""
        return [data for _, data in self.port.written]


def energy_j(trace: PowerTrace) -> float:
    """From the first sample to the last, each being the mean since the one before it."""
    return float((trace.power_w[1:] * np.diff(trace.t_s)).sum())


@pytest.fixture(scope="session")
def virtual_bench() -> type[VirtualMeterSetup]:
    return VirtualMeterSetup


@pytest.fixture(scope="session")
def energy_of() -> Callable[[PowerTrace], float]:
    return energy_j


@pytest.fixture(scope="session")
def ppk2() -> SimpleNamespace:
    """``text``, ``words``, their bytes ``closed`` by one more word, and the ``calibration`` of the text."""
    calibration = Ppk2Calibration.parse(ppk2_text())
    return SimpleNamespace(text=ppk2_text, words=words, closed=closed, calibration=calibration, resistors=RESISTORS)


@pytest.fixture(scope="session")
def ps3() -> SimpleNamespace:
    """``frames``, and ``sensors``: pair 0 is 12 V (0.12 V/A at 1.65 V), pair 1 is 5 V (0.4 V/A), the rest unused."""
    sensors = (
        SensorConfig("I10", "12V", 1.65, 0.12, True),
        SensorConfig("U20", "12V", 0.0, 0.0877, True),
        SensorConfig("I5", "USB", 1.65, 0.4, True),
        SensorConfig("U5", "USB", 0.0, 0.5, True),
        *[SensorConfig("", "", 0.0, 1.0, False)] * 4,
    )
    return SimpleNamespace(frames=ps3_frames, sensors=sensors)


@pytest.fixture(scope="session")
def in_pieces() -> Callable[[Parser, bytes, Sequence[int]], Samples]:
    return feed_in_pieces


@pytest.fixture(scope="session")
def talk_port() -> type[TalkPort]:
    return TalkPort


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
