"""Protocols of streaming instruments: parser, port and instrument; and the types they exchange."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from deepen.records import Accuracy, Source, TraceWarning, WarningCode

__all__ = ["MOST_NOTES", "Instrument", "Parser", "Samples", "StreamCounts"]


MOST_NOTES = 40
"""Largest number of notes a tally keeps."""

_MORE = TraceWarning("trace", "more notes were left out")


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """A batch of samples from a parser.

    Attributes:
        index: Position in the instrument's own stream of samples; int64, shape (n,), strictly increasing over all
            batches of a stream. A step above 1 is a known loss.
        power_w: Power; float64, shape (n,).
        current_a: Current; float64, shape (n,); ``None`` if the instrument does not report it.
        voltage_v: Voltage; float64, shape (n,); ``None`` if the instrument does not report it.
        logic: Digital inputs, bit k is input k; uint8, shape (n,); ``None`` without inputs.
        suspect: Mask of suspect samples (clipped, overload, not at voltage); bool, shape (n,); ``None`` for none.
    """

    index: NDArray[np.int64]
    power_w: NDArray[np.float64]
    current_a: NDArray[np.float64] | None = None
    voltage_v: NDArray[np.float64] | None = None
    logic: NDArray[np.uint8] | None = None
    suspect: NDArray[np.bool_] | None = None

    @classmethod
    def none(cls) -> Samples:
        """Return an empty batch."""
        return cls(np.empty(0, np.int64), np.empty(0))

    @classmethod
    def join(cls, parts: Sequence[Samples]) -> Samples:
        """Join consecutive batches; a column that one of them lacks is left out (``suspect``: false)."""
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
    """Counts of the faults of a stream so far, kept by a parser and reported in the trace.

    Attributes:
        lost: Samples missing by the instrument's own counters or time stamps.
        ambiguous: Breaks whose length the counters cannot give (wrapped), but only the clock.
        corrupt: Frames refused for a bad checksum, length or value.
        skipped_bytes: Bytes discarded to find the next frame.
        duplicates: Frames that came twice.
        uncalibrated: Samples that came before calibration was known.
        clipped: Samples at the end of a range.
        range_switches: Changes of range.
        paused: Sample periods, after the first sample, in which the instrument measured itself (calibration) instead of
            its input; the index counts them; they are gaps but not losses.
            notes: Other remarks, each once.
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
    notes: list[TraceWarning] = field(default_factory=list)

    def note(self, text: str, code: WarningCode = "trace") -> None:
        """Add a remark, unless it is there already or there are too many."""
        if text in self.notes:
            return
        if len(self.notes) < MOST_NOTES:
            self.notes.append(TraceWarning(code, text))
        elif _MORE not in self.notes:
            self.notes.append(_MORE)


@runtime_checkable
class Parser(Protocol):
    """A parser of bytes into samples, without port or clock; it never raises, whatever the input.

    A parser may have two attributes beyond its protocol. ``received`` (int, or ``None`` while uncertain) is the
    position after the last sample received, for a parser that holds samples back until they are confirmed. ``doubts``
    is a list of stretches (last position before, first after) whose samples, already returned, turned out to be
    untrustworthy; the reader removes them from the list.

    Attributes:
        tally: Counts of the faults so far.
    """

    tally: StreamCounts

    def feed(self, data: bytes) -> Samples:
        """Parse the next bytes of the stream, split anywhere, and return the samples they complete."""


@runtime_checkable
class Instrument(Protocol):
    """The dialogue with one kind of streaming instrument.

    It is made with an open port; its constructor sets the instrument up, and raises ``MeterError`` with the cure if
    another one answers, ``ConfigError`` if an option is outside safe limits.

    Attributes:
        name: Driver name, and the value of ``meter`` in records.
        serial: Serial number or other identity; empty if it reports none.
        rate_hz: Nominal sample rate, hertz.
        calibration_id: Name of the calibration applied.
        accuracy: Accuracy the maker states.
        source: ``measured``; ``simulated`` for an emulator.
        safe_bytes: Bytes that make the instrument safe; a guard process writes them if the program dies.
    """

    name: str
    serial: str
    rate_hz: float
    calibration_id: str
    accuracy: Accuracy
    source: Source
    safe_bytes: bytes

    def begin(self) -> Parser:
        """Start streaming and return a fresh parser for the bytes from here on."""

    def mark(self) -> None:
        """Put a mark into the stream if the instrument supports it."""

    def end(self) -> None:
        """Stop streaming and wait until it has; the output stays on."""

    def close(self) -> None:
        """Make the instrument safe; harmless when the port is gone."""
