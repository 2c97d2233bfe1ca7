"""A port in virtual time with an emulator behind it: hours of stream in seconds, identical on every machine."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from deepen.errors import MeterError
from deepen.testing.clock import VirtualClock
from deepen.testing.instruments.base import Emulator
from deepen.testing.instruments.faults import Fault, FaultyLine

__all__ = ["VirtualPort"]

BLOCK = 4096
"""Number of transfers whose arrival is drawn at once."""

LONGEST = 8.0
"""Longest delay in units of the jitter."""


class VirtualPort:
    """A :class:`~deepen.meters.stream.types.Port` whose time is a :class:`VirtualClock`.

    The instrument sends its bytes every ``batch_s`` (a USB transfer); transfer i leaves at
    ``opened + i * batch_s`` and arrives ``latency_s`` plus a random delay later, never before an earlier one. The
    random delay is uniform up to ``jitter_s``, or, where transfers ``queue``, exponential with that mean (cut at eight
    times it): then nearly every one waits for the one before it. The arrival of a transfer does not
    depend on how the port is read. Commands reach the instrument ``latency_s`` after they are written.

    ``read`` moves the clock to the next arrival (or by the time-out). To take long stretches at once, move the clock
    (``clock.sleep(0.5)``) and read with time-out 0: everything that has arrived by then is generated in one go.

    Attributes:
        name: ``virtual:`` and the instrument's name.
        pseudo: True: traces taken from it are labelled ``simulated``.
        line: The instrument with its faults.
        written: Everything the host wrote, with the time: (t_s, bytes).
    """

    pseudo = True

    def __init__(
        self,
        emulator: Emulator,
        clock: VirtualClock,
        *,
        latency_s: float = 0.0,
        jitter_s: float = 0.0,
        queue: bool = True,
        batch_s: float = 1e-3,
        seed: int = 0,
        faults: Sequence[Fault] = (),
    ) -> None:
        """Connect an emulator to a clock."""
        self.name = f"virtual:{emulator.name}"
        self.line = FaultyLine(emulator, faults)
        self.clock = clock
        self.written: list[tuple[float, bytes]] = []
        self._latency_s = latency_s
        self._jitter_s = jitter_s
        self._queue = queue
        self._batch_s = batch_s
        self._rng = np.random.default_rng(seed)
        self._opened_s = clock.now()
        self._first = 1
        self._arrivals = np.empty(0)
        self._done = 0
        self._commands: deque[tuple[float, bytes]] = deque()
        self._ready = bytearray()
        self._closed = False
        self._next_block()

    def read(self, timeout_s: float) -> bytes:
        """Wait for bytes in virtual time, and return all that have come.

        Raises:
            MeterError: If the port is closed or the instrument unplugged.
        """
        deadline_s = self.clock.now() + max(0.0, timeout_s)
        while True:
            self._catch_up(self._arrived_by(self.clock.now()))
            if self._ready and not self._closed:
                return self._take()
            self._check()
            arrival_s = self._arrival_s(self._done + 1)
            if arrival_s > deadline_s:
                self.clock.sleep(deadline_s - self.clock.now())
                return b""
            self.clock.sleep(arrival_s - self.clock.now())
            self._catch_up(self._done + 1)

    def write(self, data: bytes) -> None:
        """Send bytes.

        Raises:
            MeterError: If the port is closed or the instrument unplugged.
        """
        self._catch_up(self._arrived_by(self.clock.now()))
        self._check()
        self.written.append((self.clock.now(), bytes(data)))
        self._commands.append((self.clock.now() + self._latency_s, bytes(data)))

    def flush_input(self) -> None:
        """Discard the bytes that have arrived."""
        self._catch_up(self._arrived_by(self.clock.now()))
        self._ready.clear()

    def fileno(self) -> None:
        """Return None: there is no file."""

    def close(self) -> None:
        """Close the port; bytes already written still reach the instrument."""
        if not self._closed:
            self._closed = True
            self._advance(max([self.clock.now(), *(t for t, _ in self._commands)]))

    def _check(self) -> None:
        if self._closed:
            raise MeterError(f"{self.name}: the port is closed; open it again")
        if self.line.unplugged:
            raise MeterError(f"{self.name}: the instrument is gone; plug it in and try again")

    def _take(self) -> bytes:
        """Take the bytes for one read."""
        size = self.line.piece(len(self._ready))
        data = bytes(self._ready[:size])
        del self._ready[:size]
        return data

    def _catch_up(self, transfers: int) -> None:
        """Generate the stream up to a transfer in one go."""
        if transfers > self._done and not self._closed:
            self._done = transfers
            self._ready += self._advance(self._opened_s + transfers * self._batch_s)

    def _advance(self, t_s: float) -> bytes:
        """Advance true time for the instrument, passing it commands when they reach it."""
        out = bytearray()
        while self._commands and self._commands[0][0] <= t_s:
            out += self.line.receive(self._commands[0][1], self._commands[0][0])
            self._commands.popleft()
        out += self.line.advance(t_s)
        return bytes(out)

    def _arrived_by(self, t_s: float) -> int:
        """Return the number of transfers that have arrived at a time."""
        while self._arrivals[-1] <= t_s:
            self._next_block()
        return self._first - 1 + int(np.searchsorted(self._arrivals, t_s, side="right"))

    def _arrival_s(self, transfer: int) -> float:
        """Return the arrival time of a transfer that is not long past."""
        while transfer >= self._first + self._arrivals.size:
            self._next_block()
        return float(self._arrivals[transfer - self._first])

    def _next_block(self) -> None:
        """Draw the arrival of the next transfers; the last earlier one is kept, as others may queue behind it."""
        latest = self._arrivals[-1] if self._arrivals.size else -np.inf
        self._first += self._arrivals.size
        left_s = self._opened_s + (self._first + np.arange(BLOCK)) * self._batch_s
        if self._queue:
            delay_s = np.minimum(self._rng.standard_exponential(BLOCK), LONGEST) * self._jitter_s
        else:
            delay_s = self._rng.random(BLOCK) * self._jitter_s
        self._arrivals = np.maximum.accumulate(np.maximum(left_s + self._latency_s + delay_s, latest))
