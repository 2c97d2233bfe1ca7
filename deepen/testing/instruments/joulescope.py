"""A stand-in for the maker's Joulescope driver, as far as deepen uses it, with instruments that play a signal.

Blocks as ``doc/streaming_topics.md`` of joulescope_driver describes them: samples numbered at the native rate and
decimated by ``h/fs``, float32 power, input bits packed eight to a byte. ``advance`` lets time pass; ``run`` does so in
a thread, as the driver's own thread would.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from deepen.meters.instruments.joulescope.parser import POWER, frame_block
from deepen.testing.instruments.base import FrameFaultInjector, SampleClock
from deepen.testing.instruments.signal import PowerSignal
from deepen.testing.instruments.supply import EmulatedSupply
from deepen.testing.instruments.virtual import VirtualPort

__all__ = ["FakeJoulescopeDriver", "JoulescopeEmulator", "JoulescopeEmulatorPort"]

NATIVE_HZ = {"js110": 2_000_000, "js220": 1_000_000, "js320": 1_000_000}


class FakeJoulescopeDriver:
    """Stands in for ``pyjoulescope_driver.Driver``.

    Attributes:
        published: Every (topic, value) set, in order.
        opened: Instruments that are open.
        finalized: Whether the driver has ended.
        lost: Ranges of sample numbers (start, stop, decimated) sent as NaN.
        skipped: Ranges of sample numbers (start, stop, decimated) whose blocks are never sent.
    """

    def __init__(
        self,
        signal: PowerSignal,
        paths: tuple[str, ...] = ("u/js220/000415",),
        *,
        block: int = 1000,
        first_id: int = 123_456_000,
        input_lag: int = 0,
        levels: Callable[[int, np.ndarray[Any, Any]], np.ndarray[Any, Any]] | None = None,
    ) -> None:
        """Plug instruments in.

        Args:
            signal: Power they measure, watts over true time.
            paths: Their names.
            block: Elements in a block.
            first_id: Native number of the first sample.
            input_lag: Number of elements by which blocks of inputs lag those of power.
            levels: Level of an input at true times: ``levels(input, t_s)``.
        """
        self.published: list[tuple[str, Any]] = []
        self.opened: list[str] = []
        self.finalized = False
        self.lost: list[tuple[int, int]] = []
        self.skipped: list[tuple[int, int]] = []
        self._signal = signal
        self._paths = paths
        self._block = block
        self._first_id = first_id
        self._input_lag = input_lag
        self._levels = levels or (lambda _k, t_s: np.zeros(t_s.shape, bool))
        self._subscribers: list[tuple[str, Any]] = []
        self._fs: dict[str, int] = {}
        self._sent: dict[str, int] = {}
        self._start_s: dict[str, float] = {}
        self._lock = threading.RLock()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._now_s = 0.0

    def device_paths(self) -> list[str]:
        """Return the names of the instruments."""
        return list(self._paths)

    def open(self, path: str, mode: str | None = None) -> None:
        """Open an instrument.

        Raises:
            RuntimeError: If there is none of that name.
        """
        if path not in self._paths:
            raise RuntimeError(f"jsdrv_open failed 16 | {path}")
        self.opened.append(path)
        self._fs[path] = NATIVE_HZ[path.split("/")[1]]

    def close(self, path: str) -> None:
        """Close an instrument."""
        self.opened.remove(path)

    def publish(self, topic: str, value: Any) -> None:
        """Set a topic; ``ctrl`` topics start and stop signals.

        Raises:
            RuntimeError: If the instrument is not open.
        """
        path, rest = "/".join(topic.split("/")[:3]), "/".join(topic.split("/")[3:])
        if path not in self.opened:
            raise RuntimeError(f"jsdrv_publish failed 22 | {topic}")
        with self._lock:
            self.published.append((topic, value))
            if rest == "h/fs":
                self._fs[path] = value
            elif rest.endswith("/ctrl") and value:
                self._sent[topic[:-5]] = 0
                self._start_s.setdefault(path, self._now_s)
            elif rest.endswith("/ctrl"):
                self._sent.pop(topic[:-5], None)

    def subscribe(self, topic: str, flags: str, fn: Callable[[str, Any], None]) -> None:
        """Subscribe a function to published values."""
        with self._lock:
            self._subscribers.append((topic, fn))

    def unsubscribe(self, topic: str, fn: Callable[[str, Any], None]) -> None:
        """Unsubscribe a function, which must be the same object."""
        with self._lock:
            self._subscribers.remove((topic, fn))

    def finalize(self) -> None:
        """End the driver."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
        self.finalized = True

    def unplug(self, path: str) -> None:
        """Pull an instrument's cable."""
        self._tell("@/!remove", path)

    def advance(self, t_s: float) -> None:
        """Advance true time and deliver the complete blocks."""
        with self._lock:
            self._now_s = max(self._now_s, t_s)
            # Power before the inputs, so that it has to wait for them.
            for signal in sorted(self._sent, key=lambda s: "/gpi/" in s):
                self._stream(signal)

    def run(self, now: Callable[[], float] = time.monotonic, every_s: float = 0.01) -> None:
        """Let time pass in a thread."""
        self._now_s = now()

        def play() -> None:
            while not self._end.wait(every_s):
                self.advance(now())

        self._thread = threading.Thread(target=play, daemon=True)
        self._thread.start()

    def _stream(self, signal: str) -> None:
        path, name = "/".join(signal.split("/")[:3]), "/".join(signal.split("/")[3:])
        native, fs = NATIVE_HZ[path.split("/")[1]], self._fs[path]
        decimate = native // fs
        lag = self._input_lag if name.startswith("s/gpi/") else 0
        start_s = self._start_s[path]
        while True:
            first = self._sent[signal]
            if (first + self._block + lag) / fs > self._now_s - start_s:
                return
            number = first + np.arange(self._block)
            self._sent[signal] = first + self._block
            if any(a < first + self._block and b > first for a, b in self.skipped):
                continue
            if name == "s/p":
                power = self._signal.mean_w(start_s + number / fs, start_s + (number + 1) / fs)
                data: np.ndarray[Any, Any] = power.astype(np.float32)
                for a, b in self.lost:
                    data[(number >= a) & (number < b)] = np.nan
            else:
                data = np.packbits(self._levels(int(name[-1]), start_s + number / fs), bitorder="little")
            value = {"sample_id": self._first_id + first * decimate, "decimate_factor": decimate}
            self._tell(f"{signal}/!data", {**value, "sample_rate": native, "data": data})

    def _tell(self, topic: str, value: Any) -> None:
        for wanted, fn in list(self._subscribers):
            if wanted == topic:
                fn(topic, value)


class JoulescopeEmulator:
    """Blocks of power of a JS220, framed.

    Attributes:
        name: ``joulescope``.
        rate_hz: Elements per second.
        clock: Its sample clock.
        supply: What it measures.
        wire: Faults of blocks; a jump moves the numbers of the samples.
    """

    name = "joulescope"

    def __init__(
        self,
        signal: PowerSignal,
        *,
        rate_hz: float = 100_000.0,
        elements: int = 200,
        ppm: float = 0.0,
        first_id: int = 5000,
    ) -> None:
        """Plug it in.

        Args:
            signal: Power of the load, watts.
            rate_hz: Elements per second.
            elements: Elements in a block.
            ppm: Error of its clock.
            first_id: Native number of the first sample.
        """
        self.rate_hz = rate_hz
        self.clock = SampleClock(rate_hz, ppm)
        self.supply = EmulatedSupply(signal, 5.0)
        self.wire = FrameFaultInjector()
        self._elements = elements
        self._first_id = first_id
        self._decimate = round(NATIVE_HZ["js220"] / rate_hz)
        self._size = 0

    def receive(self, data: bytes, t_s: float) -> bytes:
        """Start on ``1``, stop on ``0``."""
        for byte in data:
            if byte == ord("1"):
                self.clock.start(t_s)
            else:
                self.clock.stop()
        return b""

    def advance(self, t_s: float) -> bytes:
        """Return the blocks since the last call."""
        frames = []
        n = self._elements
        for first, start_s, end_s in self.clock.take(t_s, n):
            power = self.supply.mean_w(start_s, end_s).astype("<f4")
            for at in range(0, power.size, n):
                sample_id = self._first_id + (first + at + self.wire.jumped) * self._decimate
                frame = frame_block(POWER, sample_id, self._decimate, power[at : at + n].tobytes())
                if self.wire.count_lost_frames([n]):
                    continue
                if self.wire.count_corrupt_frames([n]):
                    frame = frame[:-1] + bytes([frame[-1] ^ 0x55])
                frames.append(frame)
        self._size = len(frames[0]) if frames else 1
        return b"".join(frames)

    def samples_in(self, start: int, stop: int) -> int:
        """Count the elements of blocks with a byte in a range of the bytes returned last."""
        return ((stop - 1) // self._size - start // self._size + 1) * self._elements if stop > start else 0

    def uncalibrate(self) -> None:
        """Do nothing: it applies its calibration itself."""

    def energy_j(self, start_s: float, end_s: float) -> float:
        """Return the true energy, joules."""
        return self.supply.energy_j(start_s, end_s)


class JoulescopeEmulatorPort(VirtualPort):
    """The driver's port on a :class:`CommandStream`.

    Attributes:
        path: The maker's name of the instrument.
    """

    path = "u/js220/000415"

    def publish(self, topic: str, value: Any) -> None:
        """Take a setting."""

    def listen(self, signal: str, kind: int) -> None:
        """Start a signal."""
        if kind == POWER:
            self.write(b"1")

    def silence(self) -> None:
        """Stop all signals."""
        self.write(b"0")
