"""Base of both LPM01A stream parsers: scales, time stamps, marks, and reports of the board."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from deepen.meters.stream.outliers import OutlierCounter
from deepen.meters.stream.types import Samples, StreamCounts

__all__ = ["Lpm01aParser", "Lpm01aScale", "TimestampCheck"]

_EVENT = re.compile(r"event (\d+) (ris|fal)", re.IGNORECASE)
_STEP = 2e-3  # largest relative step of a number with four digits, or with twelve bits that are not normalised
_EVENT_BIT = 0x80  # events come from connector D7
_BUFFER_FULL = 90  # per cent


@dataclass(frozen=True, slots=True)
class Lpm01aScale:
    """Meaning of a number in the stream.

    Attributes:
        rate_hz: Samples per second.
        output: ``energy`` (joules since the previous sample) or ``current`` (amperes now).
        voltage_v: Supply, volts.
        limit_a: End of the current range, amperes; samples above it are clipped.
    """

    rate_hz: float
    output: Literal["energy", "current"]
    voltage_v: float
    limit_a: float

    def watts(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert values of the stream to power, watts; shape (n,)."""
        return values * (self.rate_hz if self.output == "energy" else self.voltage_v)


class TimestampCheck:
    """Checks the number of samples against the instrument's time stamps.

    A stamp that implies more than a second's worth of samples, or goes back, is accepted once the next one agrees with
    it: until then, either samples were lost or the stamp was damaged.

    Attributes:
        tolerance: Number of samples that rounding can hide.
        exact: True if the last stamp agreed with the number of samples without the tolerance.
    """

    def __init__(self, rate_hz: float, wrap_ms: int, tally: StreamCounts) -> None:
        """Start without a stamp.

        Args:
            rate_hz: Samples per second.
            wrap_ms: Time at which stamps wrap to zero, milliseconds.
            tally: Counts to add to.
        """
        self._rate = rate_hz
        self._wrap_ms = wrap_ms
        self._tally = tally
        # Stamps are whole milliseconds: rounding can hide half of one.
        self.tolerance = int(rate_hz * 0.5e-3)
        self.exact = False
        self._last: tuple[int, int] | None = None
        self._doubt: tuple[int, int] | None = None

    @property
    def is_pending(self) -> bool:
        """True while a stamp waits for the next one to confirm it."""
        return self._doubt is not None

    def _expected(self, since: tuple[int, int], ms: int) -> int:
        step = ms - since[0]
        if step < 0 and since[0] > self._wrap_ms - 10_000 and ms < 10_000:
            step += self._wrap_ms
        return since[1] + round(step * self._rate / 1000)

    def missing(self, ms: int, count: int) -> int:
        """Return the number of samples missing before a stamp; negative if there are too many.

        Args:
            ms: The stamp, milliseconds.
            count: Index of the next sample if none was lost.
        """
        self.exact = self._last is None
        if self._last is None:
            self._last = (ms, count)
            return 0
        missing = self._expected(self._last, ms) - count
        if -self._rate / 10 <= missing <= self._rate:
            self._doubt = None
            self.exact = missing == 0
            if abs(missing) <= self.tolerance:
                return 0  # the anchor stays, so that small losses add up until they show
            self._last = (ms, count + missing)
            return missing
        doubt, self._doubt = self._doubt, (ms, count)
        if doubt is None or abs(self._expected(doubt, ms) - count) > self._rate:
            self._tally.ambiguous += 1
            return 0
        self._doubt = None
        if missing < 0:
            self._last = (ms, count)
            text = "the instrument's time stamps went back; losses around that moment are not counted"
            self._tally.note(text, "loss")
            return 0
        self._last = (ms, count + missing)
        return missing


class Lpm01aParser:
    """Base class of the parsers of both formats: numbering, marks, range and faults.

    Attributes:
        tally: Counts of the faults so far.
        finished: True once the instrument has reported the end of the acquisition.
        doubts: Stretches (last position before, first after) whose samples turned out to be untrustworthy; the reader
            removes them from the list.
        wrap_ms: Time at which stamps wrap to zero, milliseconds.
        least_bytes: Smallest size of a sample, bytes.
    """

    wrap_ms: ClassVar[int]
    least_bytes: ClassVar[int]

    def __init__(self, scale: Lpm01aScale, rest: bytes = b"") -> None:
        """Begin a stream.

        Args:
            scale: Meaning of the numbers.
            rest: Bytes of the stream that were read together with the answer to ``start``.
        """
        self.tally = StreamCounts()
        self._rest = rest
        self.finished = False
        self.doubts: list[tuple[int, int]] = []
        self._scale = scale
        self._check = TimestampCheck(scale.rate_hz, self.wrap_ms, self.tally)
        self._next = 0
        self._surplus = 0
        self._sure = 0  # position at the last stamp that agreed
        self._damage: tuple[int, int] | None = None  # first damaged position since then, and most samples lost in all
        self._level = 0
        self._events = -1
        self._fault = False
        self._out: list[Samples] = []
        self._outliers = OutlierCounter()

    def _emit(self, values: NDArray[np.float64], level: int) -> None:
        """Number values sampled at a level of the mark, and keep them for the next result."""
        surplus = min(self._surplus, values.size)
        self._surplus -= surplus
        values = values[surplus:]
        if not values.size:
            return
        power = self._scale.watts(values)
        self._outliers.feed(values, np.abs(values) * _STEP, np.zeros(values.size, np.uint8))
        self._outliers.report(self.tally)
        over = power > self._scale.limit_a * self._scale.voltage_v
        self.tally.clipped += int(np.count_nonzero(over))
        self._out.append(
            Samples(
                index=np.arange(self._next, self._next + values.size, dtype=np.int64),
                power_w=power,
                current_a=values if self._scale.output == "current" else None,
                logic=np.full(values.size, level, np.uint8),
                suspect=over | (self._fault or self._check.is_pending),
            )
        )
        self._next += values.size

    def _lose(self, count: int) -> None:
        self._next += count
        self.tally.lost += count

    def _correct(self, missing: int) -> None:
        """Continue at a stamp before which samples are missing, or too many (negative).

        Their place is known only to be after the first damage since the stamps last agreed, and not even that if the
        damage cannot account for them.
        """
        if missing > 0:
            self._lose(missing)
        elif missing < 0:
            self._surplus -= missing
            self.tally.duplicates -= missing
        if missing:
            place, extent = self._damage or (self._sure, 0)
            self.doubts.append(((place if abs(missing) <= extent else self._sure) - 1, self._next))
        if self._check.exact or missing:
            self._sure, self._damage = self._next, None

    def _damaged(self, size: int, samples: int) -> None:
        """Record damage of ``size`` bytes that held about ``samples`` samples."""
        place, extent = self._damage or (self._next, 0)
        self._damage = place, extent + size // self.least_bytes + 1
        if samples:
            self._lose(samples)

    def _taken(self) -> Samples:
        out, self._out = self._out, []
        if not out:
            return Samples.none()
        if len(out) == 1:
            return out[0]
        return Samples(
            np.concatenate([s.index for s in out]),
            np.concatenate([s.power_w for s in out]),
            None if out[0].current_a is None else np.concatenate([s.current_a for s in out if s.current_a is not None]),
            None,
            np.concatenate([s.logic for s in out if s.logic is not None]),
            np.concatenate([s.suspect for s in out if s.suspect is not None]),
        )

    def _buffer(self, percent: int) -> None:
        if percent >= _BUFFER_FULL:
            self.tally.note(f"the instrument's send buffer filled to {_BUFFER_FULL} %; lower the rate or free the bus")

    def _overcurrent(self) -> None:
        self._fault = True
        self.tally.clipped += 1
        text = "overcurrent: the instrument cut or limited the supply; samples from there on are not used"
        self.tally.note(text, "clipping")

    def _text(self, line: str) -> bool:
        """Interpret a line that is not a sample; return ``False`` if it is unknown."""
        lower = line.lower()
        event = _EVENT.search(line)
        if event:
            self._level ^= _EVENT_BIT
            number = int(event[1])
            if self._events >= 0 and number > self._events + 1:
                self.tally.note(f"marks: {number - self._events - 1} events were lost before event {number}")
            self._events = number
        elif "overcurrent" in lower or "over current" in lower:
            self._overcurrent()
        elif lower.startswith("error"):
            self._fault = True
            self.tally.note(f"the instrument reports: {line[:120]}; samples from there on are not used")
        elif "acquisition completed" in lower or lower == "end":
            self.finished = True
        else:
            return lower.startswith(("ack", "pwr", "summary", "powershield"))
        return True
