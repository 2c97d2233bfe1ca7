"""What streaming instruments are made of: a parser of bytes, a conversation, and the port both use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from deepen.records import Accuracy, Source

__all__ = ["MOST_NOTES", "Instrument", "Parser", "Port", "Samples", "StreamCounts"]


MOST_NOTES = 40
"""Notes a tally keeps."""

_MORE = "more notes were left out"


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """What a parser made of some bytes.

    Attributes:
        index: Position in the instrument's own stream of samples; int64, shape (n,), strictly increasing over all
            batches of a stream. A step above 1 is a known loss.
        power_w: Power; float64, shape (n,).
        current_a: Current; float64, shape (n,); ``None`` where the instrument does not tell it.
        voltage_v: Voltage; float64, shape (n,); ``None`` where it does not tell it.
        logic: Digital inputs, bit k is input k; uint8, shape (n,); ``None`` without inputs.
        suspect: Samples not to be trusted (clipped, overload, not at voltage); bool, shape (n,); ``None`` for none.
    """

    index: NDArray[np.int64]
    power_w: NDArray[np.float64]
    current_a: NDArray[np.float64] | None = None
    voltage_v: NDArray[np.float64] | None = None
    logic: NDArray[np.uint8] | None = None
    suspect: NDArray[np.bool_] | None = None

    @classmethod
    def none(cls) -> Samples:
        """No samples."""
        return cls(np.empty(0, np.int64), np.empty(0))

    @classmethod
    def join(cls, parts: Sequence[Samples]) -> Samples:
        """Put batches that follow each other together; a column that one lacks is left out (``suspect``: false)."""
        parts = [part for part in parts if part.index.size]
        if len(parts) < 2:
            return parts[0] if parts else cls.none()
        suspect = None
        if any(p.suspect is not None for p in parts):
            suspect = np.concatenate([np.zeros(p.index.size, bool) if p.suspect is None else p.suspect for p in parts])
        currents = [p.current_a for p in parts if p.current_a is not None]
        voltages = [p.voltage_v for p in parts if p.voltage_v is not None]
        inputs = [p.logic for p in parts if p.logic is not None]
        return cls(
            np.concatenate([p.index for p in parts]),
            np.concatenate([p.power_w for p in parts]),
            np.concatenate(currents) if len(currents) == len(parts) else None,
            np.concatenate(voltages) if len(voltages) == len(parts) else None,
            np.concatenate(inputs) if len(inputs) == len(parts) else None,
            suspect,
        )


@dataclass(slots=True)
class StreamCounts:
    """What went wrong in a stream so far; a parser counts, the trace reports.

    Attributes:
        lost: Samples the instrument's own counters or time stamps say are missing.
        ambiguous: Breaks whose length the counters cannot tell (wrapped), so that only the clock can.
        corrupt: Frames refused for a bad checksum, length or value.
        skipped_bytes: Bytes thrown away to find the next frame.
        duplicates: Frames that came twice.
        uncalibrated: Samples that came before calibration was known.
        clipped: Samples at the end of a range.
        range_switches: Changes of range.
        paused: Sample periods, after the first sample, in which the instrument measured itself (calibration) instead of
            its input; the index counts them, they are gaps but no losses.
        notes: Anything else worth a line, each once.
    """

    lost: int = 0
    ambiguous: int = 0
    corrupt: int = 0
    skipped_bytes: int = 0
    duplicates: int = 0
    uncalibrated: int = 0
    clipped: int = 0
    range_switches: int = 0
    paused: int = 0
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Add a line unless it is there, or there are very many."""
        if text in self.notes:
            return
        if len(self.notes) < MOST_NOTES:
            self.notes.append(text)
        elif _MORE not in self.notes:
            self.notes.append(_MORE)


@runtime_checkable
class Parser(Protocol):
    """Bytes in, samples out; no port, no clock, no exception on any input.

    A parser may have two attributes beyond its protocol. ``received`` (int, or ``None`` while it is not sure) is the
    position after the last sample that has come in, where it holds samples back until something confirms them.
    ``doubts`` is a list of stretches (last position before, first after) whose samples, handed out already, turned out
    not to be trusted; whoever reads it takes them out.

    Attributes:
        tally: What went wrong so far.
    """

    tally: StreamCounts

    def feed(self, data: bytes) -> Samples:
        """Take the next bytes of the stream, split anywhere, and return the samples they complete."""


@runtime_checkable
class Port(Protocol):
    """Bytes to and from an instrument.

    Attributes:
        name: What the user called it.
    """

    name: str

    def read(self, timeout_s: float) -> bytes:
        """Wait for bytes and return all that are there; empty when none came in time.

        Raises:
            MeterError: If the port is gone.
        """

    def write(self, data: bytes) -> None:
        """Send bytes.

        Raises:
            MeterError: If the port is gone or does not take them.
        """

    def flush_input(self) -> None:
        """Throw away what has been received."""

    def fileno(self) -> int | None:
        """File descriptor a guard process can write to; ``None`` where there is none."""

    def close(self) -> None:
        """Release the port."""


@runtime_checkable
class Instrument(Protocol):
    """The conversation with one kind of streaming instrument.

    Made with an open port; its constructor talks to the instrument, and raises ``MeterError`` with the cure when
    something else answers, ``ConfigError`` when an option is outside what is safe.

    Attributes:
        name: Driver name, what records carry as ``meter``.
        serial: Serial number or other identity; empty where it tells none.
        rate_hz: Nominal sample rate, hertz.
        calibration_id: Which calibration is applied.
        accuracy: What the maker states.
        source: ``measured``; ``simulated`` for an emulator that says so.
        safe_bytes: What to write to the port so that the instrument is safe; a guard process does it if we die.
    """

    name: str
    serial: str
    rate_hz: float
    calibration_id: str
    accuracy: Accuracy
    source: Source
    safe_bytes: bytes

    def begin(self) -> Parser:
        """Start streaming; returns a fresh parser for the bytes from here on."""

    def mark(self) -> None:
        """Put a mark into the stream where the instrument can; else nothing."""

    def end(self) -> None:
        """Stop streaming and wait until it has; the output stays on."""

    def close(self) -> None:
        """Leave the instrument safe; harmless when the port is gone."""
