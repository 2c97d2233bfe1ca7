"""Parsers of the stream of an ST X-NUCLEO-LPM01A ("PowerShield"): ASCII lines, or two bytes per sample.

Neither format has a checksum or a counter. The stream is checked by the time stamp that the firmware inserts every
second: the number of samples between two stamps must match them.

* ``ascii_dec``: ``6409-07`` is 6409e-7 (A, or J with ``output energy``); lines ``TimeStamp: 001s 000ms, buff 00%``,
  ``event 1 ris``, ``error ...``. A damaged line accounts for its own samples; other losses show in the stamps.
* ``bin_hexa``: ``52 A0`` is 0x2A0 / 16**5. The first nibble F starts other data, ``F0 type ... FF FF`` with type F1
  error text, F2 information text, F3 time stamp (31 bits of milliseconds, big-endian, then the buffer's load in per
  cent), F4 end, F5 overcurrent, F6 target off, F7 voltage. A lost byte shifts all that follows, so samples are held
  back until the next stamp confirms their number; the whole stretch counts as lost when it does not.

Sources: firmware help text in mlcommons/tiny ``power_manager_lpm.py``; types F1-F7 as zephyr
``scripts/pm/power_monitor_stm32l562e_dk`` and ST UM2269 have them.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from deepen.meters.instruments.lpm01a.timestamps import Lpm01aParser, Lpm01aScale, TimestampCheck
from deepen.meters.stream.types import Samples

__all__ = ["PROMPT", "Lpm01aAsciiParser", "Lpm01aBinaryParser", "Lpm01aScale", "TimestampCheck"]

PROMPT = "PowerShield > "

_LINE = 9  # bytes of a sample with its CR LF
_LONGEST = 4096  # bytes without a line end after which a line is abandoned
_STAMP = re.compile(r"TimeStamp:[ <>]*(\d{3,9})s (\d{3})ms, buff *(\d{1,3})%")
_META_HEAD = re.compile(rb"\xf0[\xf1-\xf7]")
_META_FIXED = {0xF3: 5, 0xF4: 0, 0xF5: 0, 0xF6: 0, 0xF7: 2}  # bytes between the type and FF FF
_TEXT_LONGEST = 512


class Lpm01aAsciiParser(Lpm01aParser):
    """Parser of ``format ascii_dec``.

    Attributes:
        tally: Counts of the faults so far.
        finished: True once the instrument has reported the end of the acquisition.
    """

    wrap_ms = 1_000_000  # seconds have three digits
    least_bytes = _LINE
    _skipping = False  # true inside a line that is too long

    def feed(self, data: bytes) -> Samples:
        """Parse the next bytes of the stream, split anywhere, and return the samples they complete."""
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
                self._damaged(int(ends[i] - starts[i]), 0)
                continue
            self._parse_other_line(data[starts[i] : ends[i]].decode("ascii", "replace"))
        self._emit(values[done:], self._level)

    def _parse_other_line(self, raw: str) -> None:
        line = raw.strip("\r\x00 ").removeprefix(PROMPT.strip()).strip()
        if re.fullmatch(r"\d{4}[+-]\d{2}", line):  # behind a prompt or a NUL
            self._emit(np.array([float(f"{line[:4]}e{line[4:]}")]), self._level)
            return
        stamp = _STAMP.search(line)
        if stamp:
            if stamp.start():
                self._damaged_line(line[: stamp.start()])
            self._correct(self._check.missing(int(stamp[1]) * 1000 + int(stamp[2]), self._next))
            self._buffer(int(stamp[3]))
        elif line and not self._text(line):
            self._damaged_line(line)
            self.tally.corrupt += 1

    def _damaged_line(self, line: str) -> None:
        """Count the samples lost in a damaged line, estimated from its length if it looks like numbers."""
        digits = sum(c.isdigit() for c in line)
        looks = digits >= 3 and 2 * digits >= len(line)
        self._damaged(len(line), max(1, round((len(line) + 2) / _LINE)) if looks else 0)


class Lpm01aBinaryParser(Lpm01aParser):
    """Parser of ``format bin_hexa``; samples are returned once a stamp has confirmed them, up to a second late.

    Attributes:
        tally: Counts of the faults so far.
        finished: True once the instrument has reported the end of the acquisition.
    """

    wrap_ms = 1 << 31
    least_bytes = 2

    def __init__(self, scale: Lpm01aScale, rest: bytes = b"") -> None:
        """Start a stream; arguments as for :class:`Lpm01aParser`."""
        super().__init__(scale, rest)
        self._searched = 0  # bytes of the rest known to hold only samples
        self._started = False
        self._parts: list[tuple[bytes, int]] = []  # samples since the last stamp, with the level of the mark
        self._held = 0  # bytes of samples since the last stamp, including those that were too many to keep
        self._broken = False
        self._most = int(6 * scale.rate_hz)  # three seconds

    @property
    def received(self) -> int | None:
        """Position after the last sample received, including those held back; ``None`` while it is uncertain."""
        if not self._started or self._broken:
            return None
        return self._next + (self._held + self._searched) // 2

    def feed(self, data: bytes) -> Samples:
        """Parse the next bytes of the stream, split anywhere, and return the samples they complete."""
        buffer = self._rest + data
        done, at = 0, self._searched
        while (head := _META_HEAD.search(buffer, at)) is not None:
            at = head.start()
            end = _find_metadata_end(buffer, at)
            if end is None:
                break
            if end == at:  # two bytes that only look like a head
                at += 1
                continue
            self._stretch(buffer[done:at])
            self._meta(buffer[at + 1], buffer[at + 2 : end - 2])
            done = at = end
        else:
            at = max(at, len(buffer) - buffer.endswith(b"\xf0"))  # the last byte may be half a head
        if at - done > self._most:
            drop = (at - done) // 2 * 2
            self._stretch(buffer[done : done + drop])
            done += drop
        self._rest, self._searched = buffer[done:], at - done
        return self._taken()

    def _stretch(self, part: bytes) -> None:
        """Hold samples back until the next stamp; bytes before the first stamp are text of the conversation."""
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
        """Stop trusting the stream from here on; samples held back are released as they are."""
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
        before = self._next - 1
        self._lose(max(0, held // 2 + missing))
        self.doubts.append((before, max(self._next, before + held // 2 + 1)))


def _find_metadata_end(buffer: bytes, at: int) -> int | None:
    """Return the end of metadata that begins at ``at``: ``at`` itself if none does, ``None`` if bytes are missing."""
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
