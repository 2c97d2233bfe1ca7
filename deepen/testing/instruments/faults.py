"""Faults of an instrument and its line at planned moments; each one records its effects.

A fault acts on the bytes of the stream (lost, doubled, corrupted, delayed, cut), or inside the instrument (dropped
frames, counters that jump, bad checksums, a clock that pauses, a supply that sags, no calibration). Moments are
seconds after streaming first began. Because faults record their effects, every run needs new ones.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np

from deepen.testing.instruments.base import Emulator, FrameFault

__all__ = [
    "FAULT_MAKERS",
    "BadChecksum",
    "ClockPause",
    "CorruptBytes",
    "CounterJump",
    "DuplicateBytes",
    "Fault",
    "FaultyLine",
    "LoseBytes",
    "LoseFrames",
    "NoCalibration",
    "SplitReads",
    "Stall",
    "Unplug",
    "VoltageDroop",
]


@runtime_checkable
class Fault(Protocol):
    """A fault.

    Attributes:
        at_s: Its moment, seconds after streaming first began; ``-inf`` is before anything else.
        lost: Number of samples that never reach the host because of it.
        damaged: Number of samples whose bytes were changed.
    """

    at_s: float

    @property
    def lost(self) -> int: ...  # noqa: D102

    @property
    def damaged(self) -> int: ...  # noqa: D102

    def strike(self, line: FaultyLine, t_s: float) -> None:
        """Take effect, at a true time."""


class FaultyLine:
    """An emulator with faults of its own and of its line; ports drive it in place of the emulator.

    Attributes:
        emulator: The instrument.
        faults: The faults.
        unplugged: True while the cable is out.
        now_s: True time up to which the instrument has been emulated, seconds.
    """

    def __init__(self, emulator: Emulator, faults: Sequence[Fault] = ()) -> None:
        """Plan the faults."""
        self.emulator = emulator
        self.faults = tuple(faults)
        self.unplugged = False
        self.most: Callable[[], int] | None = None
        self._origin_s: float | None = None
        self.now_s = -math.inf
        self._agenda: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._edit: Callable[[bytes], tuple[bytes, bool]] | None = None
        self._stall: Stall | None = None
        self._held = bytearray()
        for fault in self.faults:
            if fault.at_s == -math.inf:
                fault.strike(self, -math.inf)

    @property
    def began_s(self) -> float:
        """True time at which streaming first began, the origin of the moments of faults, seconds; ``nan`` before."""
        return math.nan if self._origin_s is None else self._origin_s

    @property
    def lost(self) -> int:
        """Number of samples that never reached the host, by all faults."""
        return sum(fault.lost for fault in self.faults)

    def receive(self, data: bytes, t_s: float) -> bytes:
        """Pass bytes of the host on and return the answer, after the bytes streamed before it."""
        streamed = self.advance(t_s)
        if self.unplugged:
            return streamed
        answer = self.emulator.receive(data, max(t_s, self.now_s))
        if self._origin_s is None and self.emulator.clock.started_s is not None:
            self._origin_s = self.emulator.clock.started_s
            for fault in self.faults:
                if fault.at_s != -math.inf:
                    self.schedule(self._origin_s + fault.at_s, partial(fault.strike, self))
        if answer and self._edit is not None:  # an answer is bytes on the line like any other
            answer, done = self._edit(answer)
            if done:
                self._edit = None
        if self._stall is None:
            return streamed + answer
        if not self._stall.lossy:
            self._held += answer
        return streamed

    def advance(self, t_s: float) -> bytes:
        """Advance true time and return the bytes at the end of the line."""
        out = bytearray()
        while self._agenda and self._agenda[0][0] <= t_s and not self.unplugged:
            moment_s, _, action = heapq.heappop(self._agenda)
            out += self._stream(moment_s)
            action(max(moment_s, self.now_s))
        out += self._stream(t_s)
        return bytes(out)

    def piece(self, waiting: int) -> int:
        """Return the number of waiting bytes that the next read returns."""
        return waiting if self.most is None else min(waiting, self.most())

    def schedule(self, t_s: float, action: Callable[[float], None]) -> None:
        """Schedule an action at a true time."""
        heapq.heappush(self._agenda, (t_s, next(self._order), action))

    def edit(self, change: Callable[[bytes], tuple[bytes, bool]], t_s: float) -> None:
        """Apply a change to the stream until it reports completion; one change at a time, others wait 1 ms."""
        if self._edit is None:
            self._edit = change
        else:
            self.schedule(t_s + 1e-3, lambda t: self.edit(change, t))

    def hold(self, stall: Stall | None) -> None:
        """Hold the stream back, or release it."""
        self._stall = stall

    def _stream(self, t_s: float) -> bytes:
        """Return the stream of the instrument up to a true time, after the faults of the line."""
        if self.unplugged or t_s < self.now_s:
            return b""
        self.now_s = t_s
        data = self.emulator.advance(t_s)
        if self._stall is not None and self._stall.lossy:
            self._stall.swallow(self.emulator.samples_in(0, len(data)))
            return b""
        if data and self._edit is not None:
            data, done = self._edit(data)
            if done:
                self._edit = None
        if self._stall is not None:
            self._held += data
            return b""
        if self._held:
            data = bytes(self._held) + data
            self._held.clear()
        return data


@dataclass(slots=True)
class SplitReads:
    """Reads return few bytes at a time, cut anywhere.

    Attributes:
        most: Largest size of one read, bytes.
        seed: Seed of the sizes.
        at_s: Before anything else.
    """

    most: int = 7
    seed: int = 0
    at_s: float = -math.inf
    lost: int = 0
    damaged: int = 0

    def strike(self, line: FaultyLine, t_s: float) -> None:
        """Cut reads from now on."""
        rng = np.random.default_rng(self.seed)
        line.most = lambda: int(rng.integers(1, self.most + 1))


@dataclass(slots=True)
class LoseBytes:
    """Bytes of the stream are lost.

    Attributes:
        at_s: Moment, seconds.
        count: Number of bytes.
        skip: Bytes to let through first; frames begin at 0.
        lost: Number of samples with a byte among them.
        damaged: None.
    """

    at_s: float
    count: int = 1
    skip: int = 0
    lost: int = 0
    damaged: int = 0

    def strike(self, line: FaultyLine, t_s: float) -> None:
        """Lose the next bytes."""
        left, skip = self.count, self.skip

        def change(data: bytes) -> tuple[bytes, bool]:
            nonlocal left, skip
            start = min(skip, len(data))
            stop = min(start + left, len(data))
            self.lost += line.emulator.samples_in(start, stop)
            left, skip = left - (stop - start), skip - start
            return data[:start] + data[stop:], left == 0

        line.edit(change, t_s)


@dataclass(slots=True)
class DuplicateBytes:
    """Bytes of the stream come twice.

    Attributes:
        at_s: Moment, seconds.
        count: Number of bytes; the second time they come together.
        skip: Bytes to let through first.
        lost: None.
        damaged: None.
        doubled: Bytes sent twice.
    """

    at_s: float
    count: int = 1
    skip: int = 0
    lost: int = 0
    damaged: int = 0
    doubled: int = 0

    def strike(self, line: FaultyLine, t_s: float) -> None:
        """Send the next bytes twice."""
        copy, skip = bytearray(), self.skip

        def change(data: bytes) -> tuple[bytes, bool]:
            nonlocal skip
            start = min(skip, len(data))
            stop = min(start + self.count - len(copy), len(data))
            copy.extend(data[start:stop])
            skip -= start
            if len(copy) < self.count:
                return data, False
            self.doubled = self.count
            return data[:stop] + bytes(copy) + data[stop:], True

        line.edit(change, t_s)


@dataclass(slots=True)
class CorruptBytes:
    """Bytes of the stream are corrupted.

    Attributes:
        at_s: Moment, seconds.
        count: Number of bytes.
        skip: Bytes to let through first.
        seed: Seed of the bits flipped; every byte is really changed.
        lost: None.
        damaged: Number of samples with a byte among them.
    """

    at_s: float
    count: int = 1
    skip: int = 0
    seed: int = 0
    lost: int = 0
    damaged: int = 0

    def strike(self, line: FaultyLine, t_s: float) -> None:
        """Corrupt the next bytes."""
        flips = np.random.default_rng(self.seed).integers(1, 256, self.count, dtype=np.uint8)
        left, skip = self.count, self.skip

        def change(data: bytes) -> tuple[bytes, bool]:
            nonlocal left, skip
            start = min(skip, len(data))
            stop = min(start + left, len(data))
            self.damaged += line.emulator.samples_in(start, stop)
            done = self.count - left
            wrong = np.frombuffer(data[start:stop], np.uint8) ^ flips[done : done + stop - start]
            left, skip = left - (stop - start), skip - start
            return data[:start] + wrong.tobytes() + data[stop:], left == 0

        line.edit(change, t_s)


@dataclass(slots=True)
class LoseFrames:
    """The instrument drops whole frames while its counter continues, as when its USB buffer overflows.

    Attributes:
        at_s: When.
        frames: How many frames.
        damaged: None.
    """

    at_s: float
    frames: int = 1
    damaged: int = 0
    _toll: FrameFault | None = field(default=None, repr=False)

    @property
    def lost(self) -> int:
        """Number of samples dropped so far."""
        return self._toll.samples if self._toll is not None else 0

    def strike(self, line: FaultyLine, t_s: float) -> None:
        """Drop the next frames."""
        self._toll = line.emulator.wire.lose(self.frames)


@dataclass(slots=True)
class BadChecksum:
    """The instrument sends frames with a wrong checksum; without effect if frames have none.

    Attributes:
        at_s: When.
        frames: How many frames.
        lost: None.
    """

    at_s: float
    frames: int = 1
    lost: int = 0
    _toll: FrameFault | None = field(default=None, repr=False)

    @property
    def damaged(self) -> int:
        """Number of samples in corrupted frames so far."""
        return self._toll.samples if self._toll is not None else 0

    def strike(self, line: FaultyLine, t_s: float) -> None:
        """Corrupt the next frames."""
        self._toll = line.emulator.wire.corrupt_checksums(self.frames)


@dataclass(slots=True)
class CounterJump:
    """The counter in the frames (or the instrument's time stamp) jumps without a loss.

    Attributes:
        at_s: When.
        by: Size of the jump, in steps of the counter.
        lost: None.
        damaged: None: samples are right, only their position looks wrong.
    """

    at_s: float
    by: int = 5
    lost: int = 0
    damaged: int = 0

    def strike(self, line: FaultyLine, t_s: float) -> None:
        """Let the counter jump."""
        line.emulator.wire.jump(self.by)


@dataclass(slots=True)
class Stall:
    """The line is silent for a while.

    Attributes:
        at_s: When.
        duration_s: Duration, seconds; ``inf`` never ends.
        lossy: True if the stream during it is lost; otherwise it comes in one burst afterwards.
        lost: Number of samples lost.
        damaged: None.
    """

    at_s: float
    duration_s: float = 0.1
    lossy: bool = True
    lost: int = 0
    damaged: int = 0

    def strike(self, line: FaultyLine, t_s: float) -> None:
        """Start the stall."""
        line.hold(self)
        if self.duration_s < math.inf:
            line.schedule(t_s + self.duration_s, lambda t: line.hold(None))

    def swallow(self, samples: int) -> None:
        """Count the samples lost."""
        self.lost += samples


@dataclass(slots=True)
class Unplug:
    """The cable is pulled.

    Attributes:
        at_s: When.
        lost: None are counted: the port is gone.
        damaged: None.
    """

    at_s: float
    lost: int = 0
    damaged: int = 0

    def strike(self, line: FaultyLine, t_s: float) -> None:
        """Pull the cable."""
        line.unplugged = True


@dataclass(slots=True)
class ClockPause:
    """The instrument's clock steps: it pauses for a while, which counters and time stamps do not show.

    Attributes:
        at_s: When.
        duration_s: How long.
        lost: Number of samples not taken, rounded.
        damaged: None.
    """

    at_s: float
    duration_s: float = 0.05
    lost: int = 0
    damaged: int = 0

    def strike(self, line: FaultyLine, t_s: float) -> None:
        """Pause the clock."""
        clock = line.emulator.clock
        clock.pause(t_s, self.duration_s)
        self.lost = round(self.duration_s / clock.period_s)


@dataclass(slots=True)
class VoltageDroop:
    """The supply sags: the load takes its power at a lower voltage and a higher current.

    Attributes:
        at_s: When.
        duration_s: How long.
        drop_v: Drop of the voltage, volts.
        lost: None.
        damaged: None.
    """

    at_s: float
    duration_s: float = 0.5
    drop_v: float = 0.3
    lost: int = 0
    damaged: int = 0

    def strike(self, line: FaultyLine, t_s: float) -> None:
        """Lower the voltage."""
        line.emulator.supply.sag(t_s, t_s + self.duration_s, self.drop_v)


@dataclass(slots=True)
class NoCalibration:
    """The instrument has no calibration, or never sends it.

    Attributes:
        at_s: Before anything else.
        lost: None.
        damaged: None.
    """

    at_s: float = -math.inf
    lost: int = 0
    damaged: int = 0

    def strike(self, line: FaultyLine, t_s: float) -> None:
        """Remove the calibration."""
        line.emulator.uncalibrate()


FAULT_MAKERS: dict[str, Callable[[float], Fault]] = {
    "split reads": lambda at_s: SplitReads(),
    "lost byte": LoseBytes,
    "lost bytes": lambda at_s: LoseBytes(at_s, 101, skip=3),
    "duplicated byte": DuplicateBytes,
    "duplicated bytes": lambda at_s: DuplicateBytes(at_s, 36, skip=2),
    "corrupted byte": lambda at_s: CorruptBytes(at_s, 1, skip=6),
    "corrupted bytes": lambda at_s: CorruptBytes(at_s, 64),
    "bad checksums": lambda at_s: BadChecksum(at_s, 3),
    "lost frames": lambda at_s: LoseFrames(at_s, 5),
    "counter jump": CounterJump,
    "missing calibration": lambda at_s: NoCalibration(),
    "stall with loss": Stall,
    "stall with burst": lambda at_s: Stall(at_s, lossy=False),
    "endless stall": lambda at_s: Stall(at_s, math.inf),
    "unplug": Unplug,
    "clock step": ClockPause,
    "voltage droop": VoltageDroop,
}
"""Name -> maker of one fault of each kind, called with the moment; for tests of every fault on every driver."""
