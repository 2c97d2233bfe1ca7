"""Parsers of what an ST X-NUCLEO-LPM01A ("PowerShield") streams: ASCII lines, or two bytes a sample.

Neither format has a checksum or a counter. What vouches for the stream is a time stamp each second, which the firmware
puts between the samples; the samples between two stamps must be as many as the stamps say.

* ``ascii_dec``: ``6409-07`` is 6409e-7 (A, or J with ``output energy``); lines ``TimeStamp: 001s 000ms, buff 00%``,
  ``event 1 ris``, ``error ...``. A damaged line stands for its own samples; what else is missing is told by the stamps.
* ``bin_hexa``: ``52 A0`` is 0x2A0 / 16**5. The first nibble F starts other data, ``F0 type ... FF FF`` with type F1
  error text, F2 information text, F3 time stamp (31 bits of milliseconds, big-endian, then the buffer's load in per
  cent), F4 end, F5 overcurrent, F6 target off, F7 voltage. A lost byte shifts all that follows, so samples are held
  back until the next stamp confirms their number; the whole stretch counts as lost when it does not.

Sources: firmware help text in mlcommons/tiny ``power_manager_lpm.py``; types F1-F7 as zephyr
``scripts/pm/power_monitor_stm32l562e_dk`` and ST UM2269 have them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepen.meters.outliers import Outliers
from deepen.meters.stream import Samples, Tally

__all__ = ["PROMPT", "AsciiParser", "BinaryParser", "Scale", "StampCheck"]

PROMPT = "PowerShield > "

_LINE = 9  # bytes of a sample with its CR LF
_LONGEST = 4096  # bytes without a line end after which a line is given up
_STAMP = re.compile(r"TimeStamp:[ <>]*(\d{3,9})s (\d{3})ms, buff *(\d{1,3})%")
_EVENT = re.compile(r"event (\d+) (ris|fal)", re.IGNORECASE)
_META_HEAD = re.compile(rb"\xf0[\xf1-\xf7]")
_META_FIXED = {0xF3: 5, 0xF4: 0, 0xF5: 0, 0xF6: 0, 0xF7: 2}  # bytes between the type and FF FF
_TEXT_LONGEST = 512
_STEP = 2e-3  # largest relative step of a number with four digits, or with twelve bits that are not normalised
_EVENT_BIT = 0x80  # events come from connector D7
_BUFFER_FULL = 90  # per cent


@dataclass(frozen=True, slots=True)
class Scale:
    """What a number in the stream stands for.

    Attributes:
        rate_hz: Samples per second.
        output: ``energy`` (joules since the sample before) or ``current`` (amperes now).
        voltage_v: Supply, volts.
        limit_a: End of the current range, amperes; samples above it are clipped.
    """

    rate_hz: float
    output: Literal["energy", "current"]
    voltage_v: float
    limit_a: float

    def watts(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Power of values of the stream, watts; shape (n,)."""
        return values * (self.rate_hz if self.output == "energy" else self.voltage_v)


class StampCheck:
    """Holds the number of samples against the instrument's time stamps.

    A stamp that asks for more than a second's worth of samples, or goes back, is believed once the next one agrees with
    it: until then nobody knows whether samples were lost or the stamp was damaged.
    """

    def __init__(self, rate_hz: float, wrap_ms: int, tally: Tally) -> None:
        """Start without a stamp.

        Args:
            rate_hz: Samples per second.
            wrap_ms: Stamps start again at zero here.
            tally: Counts go here.
        """
        self._rate = rate_hz
        self._wrap_ms = wrap_ms
        self._tally = tally
        # Stamps are whole milliseconds: half of one is what rounding can hide.
        self.tolerance = int(rate_hz * 0.5e-3)
        self._last: tuple[int, int] | None = None
        self._doubt: tuple[int, int] | None = None

    @property
    def doubtful(self) -> bool:
        """Whether a stamp waits for the next one to agree with it."""
        return self._doubt is not None

    def _expected(self, since: tuple[int, int], ms: int) -> int:
        step = ms - since[0]
        if step < 0 and since[0] > self._wrap_ms - 10_000 and ms < 10_000:
            step += self._wrap_ms
        return since[1] + round(step * self._rate / 1000)

    def missing(self, ms: int, count: int) -> int:
        """Samples missing before a stamp; negative where there are too many.

        Args:
            ms: The stamp, milliseconds.
            count: Index that the next sample would have.
        """
        if self._last is None:
            self._last = (ms, count)
            return 0
        missing = self._expected(self._last, ms) - count
        if -self._rate / 10 <= missing <= self._rate:
            self._doubt = None
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
            self._tally.note("the instrument's time stamps went back; losses around that moment are not counted")
            return 0
        self._last = (ms, count + missing)
        return missing


class _Stream:
    """What both formats share: numbering, marks, range and faults."""

    def __init__(self, scale: Scale, wrap_ms: int) -> None:
        self.tally = Tally()
        self.finished = False
        self._scale = scale
        self._check = StampCheck(scale.rate_hz, wrap_ms, self.tally)
        self._next = 0
        self._surplus = 0
        self._level = 0
        self._events = -1
        self._fault = False
        self._out: list[Samples] = []
        self._outliers = Outliers()

    def _emit(self, values: NDArray[np.float64], level: int) -> None:
        """Number values, taken while the mark was at a level, and keep them for the answer."""
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
                suspect=over | (self._fault or self._check.doubtful),
            )
        )
        self._next += values.size

    def _lose(self, count: int) -> None:
        self._next += count
        self.tally.lost += count

    def _correct(self, missing: int) -> None:
        if missing > 0:
            self._lose(missing)
        elif missing < 0:
            self._surplus -= missing
            self.tally.duplicates -= missing

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
        self.tally.note("overcurrent: the instrument cut or limited the supply; samples from there on are not used")

    def _text(self, line: str) -> bool:
        """Take a line that is no sample; ``False`` where it means nothing known."""
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


class AsciiParser(_Stream):
    """Parser of ``format ascii_dec``.

    Attributes:
        tally: What went wrong so far.
        finished: Whether the instrument said that the acquisition is over.
    """

    def __init__(self, scale: Scale, rest: bytes = b"") -> None:
        """Start a stream.

        Args:
            scale: What the numbers stand for.
            rest: Bytes of the stream that were read together with the answer to ``start``.
        """
        super().__init__(scale, wrap_ms=1_000_000)  # seconds are told with three digits
        self._rest = rest
        self._skipping = False  # whether the line that goes on is too long to be one

    def feed(self, data: bytes) -> Samples:
        """Take the next bytes of the stream, split anywhere, and return the samples they complete."""
        if self._skipping:
            end = data.find(b"\n") + 1
            self._skipping = end == 0
            self.tally.skipped_bytes += end or len(data)
            data = data[end:] if end else b""
        data = self._rest + data
        cut = data.rfind(b"\n") + 1
        self._rest = data[cut:]
        if len(self._rest) > _LONGEST:
            self.tally.skipped_bytes += len(self._rest)
            self._rest, self._skipping = b"", True
        if cut:
            self._lines(np.frombuffer(data, np.uint8, cut), data)
        return self._taken()

    def _lines(self, raw: NDArray[np.uint8], data: bytes) -> None:
        ends = np.flatnonzero(raw == 10)
        starts = np.concatenate([[0], ends[:-1] + 1])
        whole = np.flatnonzero(ends - starts == _LINE - 1)
        values = np.zeros(ends.size)
        plain = np.zeros(ends.size, np.bool_)
        if whole.size:
            text = raw[starts[whole, None] + np.arange(_LINE)].astype(np.int16)
            digits = text[:, [0, 1, 2, 3, 5, 6]] - 48
            sign = 44 - text[:, 4]  # "+" is 43, "-" is 45
            good = (digits >= 0).all(1) & (digits <= 9).all(1) & (abs(sign) == 1) & (text[:, 7] == 13)
            whole, digits, sign = whole[good], digits[good], sign[good]
            exponent = sign * (digits[:, 4] * 10 + digits[:, 5])
            values[whole] = (digits[:, :4] @ np.array([1000, 100, 10, 1])) * 10.0**exponent
            plain[whole] = True
        done = 0
        for i in np.flatnonzero(~plain):
            self._emit(values[done:i], self._level)
            done = int(i) + 1
            if ends[i] - starts[i] > _LONGEST:
                self.tally.skipped_bytes += int(ends[i] - starts[i]) + 1
                continue
            self._other(data[starts[i] : ends[i]].decode("ascii", "replace"))
        self._emit(values[done:], self._level)

    def _other(self, raw: str) -> None:
        line = raw.strip("\r\x00 ").removeprefix(PROMPT.strip()).strip()
        if re.fullmatch(r"\d{4}[+-]\d{2}", line):  # behind a prompt or a NUL
            self._emit(np.array([float(f"{line[:4]}e{line[4:]}")]), self._level)
            return
        stamp = _STAMP.search(line)
        if stamp:
            self._damaged(line[: stamp.start()])
            self._correct(self._check.missing(int(stamp[1]) * 1000 + int(stamp[2]), self._next))
            self._buffer(int(stamp[3]))
        elif line and not self._text(line):
            self._damaged(line)
            self.tally.corrupt += 1

    def _damaged(self, line: str) -> None:
        """Count the samples a damaged line stood for: as many as its length tells, if it looks like numbers."""
        digits = sum(c.isdigit() for c in line)
        if digits >= 3 and 2 * digits >= len(line):
            self._lose(max(1, round((len(line) + 2) / _LINE)))


class BinaryParser(_Stream):
    """Parser of ``format bin_hexa``; samples come out when a stamp has confirmed them, so up to a second late.

    Attributes:
        tally: What went wrong so far.
        finished: Whether the instrument said that the acquisition is over.
    """

    def __init__(self, scale: Scale, rest: bytes = b"") -> None:
        """Start a stream.

        Args:
            scale: What the numbers stand for.
            rest: Bytes of the stream that were read together with the answer to ``start``.
        """
        super().__init__(scale, wrap_ms=1 << 31)
        self._rest = rest
        self._searched = 0  # of the rest, bytes in which nothing but samples begins
        self._started = False
        self._parts: list[tuple[bytes, int]] = []  # samples since the last stamp, with the level of the mark
        self._held = 0  # bytes of samples since the last stamp, also those that were too many to keep
        self._broken = False
        self._most = int(6 * scale.rate_hz)  # three seconds

    @property
    def received(self) -> int | None:
        """Position after the last sample that has come in, also of those held back; ``None`` while that is not sure."""
        if not self._started or self._broken:
            return None
        return self._next + (self._held + len(self._rest)) // 2

    def feed(self, data: bytes) -> Samples:
        """Take the next bytes of the stream, split anywhere, and return the samples they complete."""
        buffer = self._rest + data
        done, at = 0, self._searched
        while (head := _META_HEAD.search(buffer, at)) is not None:
            at = head.start()
            end = _meta_end(buffer, at)
            if end is None:
                break
            if end == at:  # two bytes that only look like it
                at += 1
                continue
            self._stretch(buffer[done:at])
            self._meta(buffer[at + 1], buffer[at + 2 : end - 2])
            done = at = end
        else:
            at = max(at, len(buffer) - 1)  # the last byte may be half a head
        if at - done > self._most:
            drop = (at - done) // 2 * 2
            self._stretch(buffer[done : done + drop])
            done += drop
        self._rest, self._searched = buffer[done:], at - done
        return self._taken()

    def _stretch(self, part: bytes) -> None:
        """Hold samples back; before the first stamp comes the text of the conversation."""
        if not self._started:
            return
        first = np.frombuffer(part, np.uint8)[::2]
        self._held += len(part)
        self._broken |= len(part) % 2 == 1 or bool(np.any(first >= 0xF0)) or self._held > self._most
        if self._broken:
            self._parts = []
        else:
            self._parts.append((part, self._level))

    def _meta(self, kind: int, body: bytes) -> None:
        self._started = True
        if kind == 0xF3:
            self._release(int.from_bytes(body[:4], "big") & 0x7FFF_FFFF)
            self._buffer(body[4])
        elif kind == 0xF4:
            self._release(None)
            self.finished = True
        elif kind == 0xF5:
            self._hold_fault()
            self._overcurrent()
        elif kind == 0xF6:
            self._hold_fault()
            self.tally.note("the instrument switched the target off; samples from there on are not used")
        elif kind != 0xF7:
            text = body.decode("ascii", "replace").strip("\r\n\x00 ")
            if kind == 0xF1:
                self._hold_fault()
                text = f"error {text}"
            if not self._text(text):
                self.tally.note(f"the instrument says: {text[:120]}")

    def _hold_fault(self) -> None:
        """Trust nothing from here on; what came before is let go of as it is."""
        self._release(None)
        self._fault = True

    def _release(self, ms: int | None) -> None:
        """Emit the samples held back, or count them as lost."""
        parts, self._parts = self._parts, []
        broken, self._broken = self._broken, False
        held, self._held = self._held, 0
        missing = 0 if ms is None else self._check.missing(ms, self._next + held // 2)
        if not broken and missing == 0:
            for part, level in parts:
                pairs = np.frombuffer(part, ">u2")
                self._emit((pairs & 0x0FFF) * 16.0 ** -(pairs >> 12).astype(np.float64), level)
            return
        self.tally.corrupt += 1
        self.tally.skipped_bytes += held
        self.tally.duplicates += max(0, -missing)
        self._lose(max(0, held // 2 + missing))


def _meta_end(buffer: bytes, at: int) -> int | None:
    """Where other data that may begin at a place ends; the place itself for none; ``None`` if too little is there."""
    fixed = _META_FIXED.get(buffer[at + 1])
    if fixed is not None:
        end = at + fixed + 4
        if end > len(buffer):
            return None
        return end if buffer[end - 2 : end] == b"\xff\xff" else at
    mark = buffer.find(b"\xff", at + 2, at + 3 + _TEXT_LONGEST)
    if mark < 0:
        return None if len(buffer) < at + 3 + _TEXT_LONGEST else at
    if mark + 1 == len(buffer):
        return None
    return mark + 2 if buffer[mark + 1] == 0xFF else at
