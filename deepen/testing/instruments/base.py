"""Parts of every emulated instrument: the protocol for ports, its sample clock, and faults of its frames.

An emulator runs in *true time* (the host's monotonic clock, or a virtual one). Its own clock may run fast or slow, its
transport may lose frames, and it always knows the true energy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from deepen.testing.instruments.supply import EmulatedSupply

__all__ = ["Emulator", "FrameFault", "FrameFaultInjector", "SampleClock"]

CHUNK = 1 << 17
"""Number of samples made at once: their arrays fit into the processor's caches."""


@runtime_checkable
class Emulator(Protocol):
    """An emulated instrument: bytes in, bytes out.

    Attributes:
        name: Name of the instrument, for example ``ppk2``.
        rate_hz: Nominal sample rate, hertz.
        clock: Clock of its samples.
        supply: Supply and load that it measures.
        wire: Faults of its frames.
    """

    name: str
    rate_hz: float
    clock: SampleClock
    supply: EmulatedSupply
    wire: FrameFaultInjector

    def receive(self, data: bytes, t_s: float) -> bytes:
        """Receive bytes from the host at a true time (never before the previous one) and return the answer."""

    def advance(self, t_s: float) -> bytes:
        """Advance true time and return the stream since the last call: whole frames only, none if not streaming."""

    def samples_in(self, start: int, stop: int) -> int:
        """Count the samples with a byte in ``[start, stop)`` of the bytes :meth:`advance` returned last."""

    def uncalibrate(self) -> None:
        """Lose the calibration, like an instrument whose memory was never written or that never sends it."""

    def energy_j(self, start_s: float, end_s: float) -> float:
        """Return the true energy between two true times, joules."""


class SampleClock:
    """The clock that times an instrument's samples.

    Sample k is complete at the end of its period; periods follow each other without a break, unless the clock is
    paused. A clock error of +50 ppm makes it run fast: periods are shorter than nominal by 50e-6.

    Attributes:
        rate_hz: Nominal rate, hertz.
        ppm: Error of the instrument's clock, parts per million.
        started_s: True time at which sampling last began, seconds; ``None`` before that.
        running: True while samples are taken.
    """

    def __init__(self, rate_hz: float, ppm: float = 0.0) -> None:
        """Make a clock that is stopped."""
        self.rate_hz = rate_hz
        self.ppm = ppm
        self.started_s: float | None = None
        self.running = False
        self._pieces: list[tuple[int, float]] = [(0, 0.0)]
        self._taken = 0
        self._limit: int | None = None

    @property
    def period_s(self) -> float:
        """True length of a period, seconds."""
        return 1.0 / (self.rate_hz * (1.0 + 1e-6 * self.ppm))

    @property
    def taken(self) -> int:
        """Number of samples taken since the start."""
        return self._taken

    def start(self, t_s: float, limit: int | None = None) -> None:
        """Start with sample 0 at a true time; stop after ``limit`` samples."""
        self.started_s, self.running, self._taken, self._limit = t_s, True, 0, limit
        self._pieces = [(0, t_s)]

    def stop(self, after: int = 0) -> None:
        """Stop after a number of further samples."""
        self._limit = self._taken + after
        self.running = self.running and after > 0

    def pause(self, t_s: float, duration_s: float) -> None:
        """Pause for a while, from the first sample that would begin at or after a true time.

        Sample numbers continue without a gap, so that the pause is invisible in the stream.

        Raises:
            ValueError: If the duration is negative, or the moment lies before the last pause.
        """
        index, begin_s = self._pieces[-1]
        if duration_s < 0 or t_s < begin_s:
            raise ValueError("a clock pauses forwards, in the order of time")
        periods = max(self._taken - index, math.ceil((t_s - begin_s) / self.period_s - 1e-6))
        self._pieces.append((index + periods, begin_s + periods * self.period_s + duration_s))

    def due(self, t_s: float) -> int:
        """Return the number of samples complete at a true time, since the start."""
        if not self.running:
            return self._taken
        count = 0
        for (index, begin_s), (following, _) in zip(
            self._pieces, [*self._pieces[1:], (1 << 62, math.inf)], strict=True
        ):
            if t_s >= begin_s:
                count = min(index + int((t_s - begin_s) / self.period_s + 1e-6), following)
        count = max(count, self._taken)
        return count if self._limit is None else min(count, self._limit)

    def take(self, t_s: float, multiple: int = 1) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.float64]]]:
        """Take the samples that are complete at a true time, in chunks.

        Args:
            t_s: True time, seconds.
            multiple: Take only whole groups of this many (the samples of a packet), except at the end of a limited
                number.

        Yields:
            Number of the first sample, and start and end of every period in true time, shape (n,).
        """
        last = self.due(t_s)
        if last != self._limit:
            last -= (last - self._taken) % multiple
        step = max(CHUNK // multiple, 1) * multiple
        while self._taken < last and self.running:
            first, stop = self._taken, min(self._taken + step, last)
            self._taken = stop
            start_s = self._start_s(np.arange(first, stop))
            yield first, start_s, start_s + self.period_s
        if self._taken == self._limit:
            self.running = False

    def _start_s(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the true times at which periods begin, seconds."""
        if len(self._pieces) == 1:
            return np.asarray(self._pieces[0][1] + index * self.period_s, np.float64)
        firsts, begins = (np.array(part) for part in zip(*self._pieces, strict=True))
        piece = np.searchsorted(firsts, index, side="right") - 1
        return np.asarray(begins[piece] + (index - firsts[piece]) * self.period_s, np.float64)


@dataclass(slots=True)
class FrameFault:
    """A number of coming frames to which a fault applies.

    Attributes:
        frames: Number of frames still to come.
        samples: Number of samples in the frames affected so far.
    """

    frames: int
    samples: int = 0


class FrameFaultInjector:
    """Injector of faults into an instrument's frames, before its transport sends them.

    Attributes:
        jumped: Number by which the counter in the frames is ahead.
    """

    def __init__(self) -> None:
        """Start without faults."""
        self.jumped = 0
        self._losses: list[FrameFault] = []
        self._spoils: list[FrameFault] = []

    def lose(self, frames: int) -> FrameFault:
        """Drop the next frames; their counters stay used."""
        self._losses.append(FrameFault(frames))
        return self._losses[-1]

    def corrupt_checksums(self, frames: int) -> FrameFault:
        """Give the next frames a bad checksum."""
        self._spoils.append(FrameFault(frames))
        return self._spoils[-1]

    def jump(self, by: int) -> None:
        """Let the counter jump without a loss."""
        self.jumped += by

    def count_lost_frames(self, samples: Sequence[int] | NDArray[np.int64]) -> int:
        """Count the frames to drop among the next ones, from the first, given the samples in each."""
        return self._exact(self._losses, samples)

    def count_corrupt_frames(self, samples: Sequence[int] | NDArray[np.int64]) -> int:
        """Count the frames to corrupt among the next ones, from the first, given the samples in each."""
        return self._exact(self._spoils, samples)

    @staticmethod
    def _exact(tolls: list[FrameFault], samples: Sequence[int] | NDArray[np.int64]) -> int:
        """Apply the pending faults in order, and remove those that are complete."""
        done = 0
        while tolls and done < len(samples):
            count = min(tolls[0].frames, len(samples) - done)
            tolls[0].samples += int(np.sum(samples[done : done + count]))
            tolls[0].frames -= count
            done += count
            if not tolls[0].frames:
                tolls.pop(0)
        return done
