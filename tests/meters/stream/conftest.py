"""A toy instrument: frames of ``A5, counter, power in mW (big endian)``, in virtual time and on a pseudo-terminal."""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from deepen.errors import MeterError
from deepen.meters.stream.types import Samples, StreamCounts
from deepen.records import Accuracy, Source
from deepen.testing.clock import VirtualClock

FRAME = 4


def frames(counters: list[int], power_w: list[float]) -> bytes:
    return b"".join(struct.pack(">BBH", 0xA5, c % 256, round(1000 * p)) for c, p in zip(counters, power_w, strict=True))


class ToyParser:
    """Reads the frames; 65535 is a suspect value."""

    def __init__(self) -> None:
        self.tally = StreamCounts()
        self._rest = b""
        self._next: int | None = None

    def feed(self, data: bytes) -> Samples:
        data = self._rest + data
        index, power = [], []
        at = 0
        while at + FRAME <= len(data):
            if data[at] != 0xA5:
                at += 1
                self.tally.skipped_bytes += 1
                continue
            _, counter, raw = struct.unpack_from(">BBH", data, at)
            if self._next is None:
                self._next = 0
                self._offset = counter
            lost = (counter - self._offset - self._next) % 256
            self.tally.lost += lost
            index.append(self._next + lost)
            self._next += lost + 1
            power.append(raw / 1000)
            at += FRAME
        self._rest = data[at:]
        power_w = np.array(power, dtype=np.float64)
        return Samples(np.array(index, dtype=np.int64), power_w, suspect=power_w == 65.535)


class ToyInstrument:
    """Starts with ``+``, ends with ``-``; safe after ``!``."""

    name = "toy"
    serial = "T1"
    calibration_id = "toy T1"
    accuracy = Accuracy(0.01, 0.001, "toy sheet")
    safe_bytes = b"-!"
    quantum = 256

    def __init__(self, port: object, rate_hz: float = 1000.0, source: Source = "simulated") -> None:
        self.port = port
        self.rate_hz = rate_hz
        self.source: Source = source
        self.calls: list[str] = []

    def begin(self) -> ToyParser:
        self.calls.append("begin")
        self.port.write(b"+")
        return ToyParser()

    def mark(self) -> None:
        self.calls.append("mark")

    def end(self) -> None:
        self.calls.append("end")
        self.port.write(b"-")

    def close(self) -> None:
        self.calls.append("close")
        self.port.write(b"!")


@dataclass
class VirtualLine:
    """A port in virtual time behind which the toy streams.

    Attributes:
        clock: Virtual time.
        rate_hz: Nominal rate.
        ppm: How much faster than nominal the instrument's clock runs.
        power_w: Power at a time.
        delay_s: Least and largest transport delay.
        missing: Sample numbers that never leave the instrument (its counter counts them).
        silent: Sample numbers that neither leave nor count.
        stop_s: Time at which the stream stalls.
        unplug_s: Time at which the port goes away.
    """

    clock: VirtualClock
    rate_hz: float = 1000.0
    ppm: float = 0.0
    power_w: Callable[[float], float] = lambda t: 2.0
    delay_s: tuple[float, float] = (0.001, 0.004)
    missing: frozenset[int] = frozenset()
    silent: frozenset[int] = frozenset()
    stop_s: float = float("inf")
    unplug_s: float = float("inf")
    name: str = "virtual"
    pseudo: bool = True
    written: bytes = b""
    closed: bool = False
    _start_s: float = float("nan")
    _sent: int = 0
    _counter: int = 0
    _due: list[tuple[float, bytes]] = field(default_factory=list)
    _rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))
    _last_due_s: float = 0.0

    def time_of(self, k: int) -> float:
        """True time of sample ``k`` of the instrument's own count."""
        return self._start_s + (k + 1) / self.rate_hz / (1 + 1e-6 * self.ppm)

    def _produce(self, until_s: float) -> None:
        while self.time_of(self._sent) <= min(until_s, self.stop_s):
            k = self._sent
            self._sent += 1
            if k in self.silent:
                continue
            counter, self._counter = self._counter, self._counter + 1
            if k in self.missing:
                continue
            t = self.time_of(k)
            self._last_due_s = max(self._last_due_s, t + self._rng.uniform(*self.delay_s))
            self._due.append((self._last_due_s, frames([counter], [self.power_w(t)])))

    def read(self, timeout_s: float) -> bytes:
        now = self.clock.now()
        if now >= self.unplug_s:
            raise MeterError("virtual is gone; plug it in again")
        if b"+" in self.written and b"-" not in self.written[self.written.rindex(b"+") :]:
            self._produce(now + timeout_s)
            if self._due and self._due[0][0] > now:
                self.clock.sleep(min(timeout_s, self._due[0][0] - now))
            elif not self._due:
                self.clock.sleep(timeout_s)
        else:
            self.clock.sleep(timeout_s)
        now = self.clock.now()
        ready = [d for due, d in self._due if due <= now]
        del self._due[: len(ready)]
        return b"".join(ready)

    def write(self, data: bytes) -> None:
        if self.closed or self.clock.now() >= self.unplug_s:
            raise MeterError("virtual is gone; plug it in again")
        if data == b"+":
            self._start_s, self._sent, self._counter, self._due = self.clock.now(), 0, 0, []
        self.written += data

    def flush_input(self) -> None:
        self._due = []

    def fileno(self) -> int | None:
        return None

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def toy(clock: VirtualClock) -> Callable[..., tuple[ToyInstrument, VirtualLine]]:
    """Make a toy instrument behind a port in virtual time; arguments are the line's."""

    def make(**options: object) -> tuple[ToyInstrument, VirtualLine]:
        line = VirtualLine(clock, **options)  # type: ignore[arg-type]
        return ToyInstrument(line, line.rate_hz), line

    return make


@pytest.fixture
def toy_parser() -> type[ToyParser]:
    return ToyParser


@pytest.fixture
def toy_instrument() -> type[ToyInstrument]:
    return ToyInstrument


@pytest.fixture
def toy_frames() -> Callable[[list[int], list[float]], bytes]:
    return frames


@pytest.fixture
def streaming() -> Callable[..., object]:
    """Stream toy frames of 2 W into a pseudo-terminal, from a thread, while the block runs."""

    @contextmanager
    def run(master: int, rate_hz: float = 1000.0) -> Iterator[None]:
        end = threading.Event()

        def emulate() -> None:
            start, sent = time.monotonic(), 0
            while not end.is_set():
                due = int((time.monotonic() - start) * rate_hz)
                if due > sent:
                    os.write(master, frames(list(range(sent, due)), [2.0] * (due - sent)))
                    sent = due
                end.wait(0.002)

        thread = threading.Thread(target=emulate, daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()

    return run
