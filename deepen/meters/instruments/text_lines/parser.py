"""Parser of lines of text into samples, in the format of a profile."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from deepen.meters.instruments.text_lines.line_format import LARGEST, LineFormat, LineShapeCheck, Shape
from deepen.meters.stream.outliers import OutlierCounter
from deepen.meters.stream.types import Samples, StreamCounts

__all__ = ["LineFormat", "LineParser"]

_LONGEST = 1024
"""Length at which a line is abandoned, characters."""

_MOST = 1 << 62
"""Largest position, whatever counters say."""

_STEP = 1e-3  # relative step that is no outlier

_REMEMBERED = 16
"""Number of recent lines compared to find duplicates: same counter or clock, and same values."""


@dataclass(frozen=True, slots=True)
class _ParsedLine:
    """A parsed line.

    Attributes:
        place: Counter, or time stamp in sample periods; ``nan`` without either.
        values: Its values in SI units.
        shape: Written form of the values.
    """

    place: float
    values: dict[str, float]
    shape: Shape = ()


class LineParser:
    """Parser of lines into samples.

    A counter or time stamp in the line reveals losses. A line whose step is not one is held until the next line: it was
    a loss if the next one continues from it, and a damaged line if the next one continues from the line before. The
    first line is discarded, because its beginning may be missing.

    Attributes:
        tally: Counts of the faults so far.
        doubts: Stretches (last position before, first after) whose samples turned out to be untrustworthy; the reader
            removes them from the list.
    """

    def __init__(
        self, form: LineFormat, rate_hz: float, *, voltage_v: float = math.nan, max_w: float = math.inf
    ) -> None:
        """Start anywhere in a stream.

        Args:
            form: Format of a line.
            rate_hz: Lines per second.
            voltage_v: Supply voltage, volts, if lines have only the current.
            max_w: End of the range, watts; samples above it are clipped.
        """
        self.tally = StreamCounts()
        self.doubts: list[tuple[int, int]] = []
        self._form = form
        self._rate_hz = rate_hz
        self._voltage_v = voltage_v
        self._max_w = max_w
        self._counted = "counter" in form.values
        self._placed = self._counted or "time" in form.values
        self._rest = b""
        self._first = True  # the first line may have lost its beginning
        self._skipping = False  # true inside a line that is too long
        self._next = 0
        self._latest = 0  # position of the last sample
        self._last: _ParsedLine | None = None
        # A counter that wraps soon may come back to the same line.
        self._recent: deque[_ParsedLine] = deque(maxlen=min(_REMEMBERED, form.counter_modulus // 2 or _REMEMBERED))
        self._held: _ParsedLine | None = None
        self._totals: list[tuple[int, float]] = []  # the last two good ones, with their positions
        self._fallen: tuple[int, float] | None = None  # one that fell below them
        self._outliers = OutlierCounter()
        self._shapes = LineShapeCheck()
        self._index: list[int] = []
        self._power_w: list[float] = []
        self._suspect: list[bool] = []

    def feed(self, data: bytes) -> Samples:
        """Parse the next bytes of the stream, split anywhere, and return the samples they complete."""
        lines = (self._rest + data.replace(b"\r", b"\n")).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if self._first:
                self._first = False
            elif self._skipping or len(line) > _LONGEST:
                self.tally.skipped_bytes += len(line)
                self._skipping = False
            elif line.strip():
                self._line(line.decode("utf-8", "replace").strip())
        if self._first:
            self._rest = b""
        elif self._skipping or len(self._rest) > _LONGEST:
            self.tally.skipped_bytes += len(self._rest)
            self._skipping, self._rest = True, b""
        return self._taken()

    def _line(self, text: str) -> None:
        if self._form.ignore is not None and self._form.ignore.search(text):
            return
        found = self._form.split(text)
        if found is None:
            self.tally.corrupt += 1
            if not self._placed and self._last is not None:
                self._lose(1)
            return
        values, shape = found
        if not self._placed:
            self._accept(_ParsedLine(math.nan, values, shape))
            return
        line = _ParsedLine(values["counter"] if self._counted else values["time"] * self._rate_hz, values, shape)
        if line in self._recent:
            self._reject_repeated_line()
            self.tally.ambiguous += self._counted and self._form.counter_modulus > 0
        elif self._last is None:
            self._accept(line)
        elif self._held is None:
            self._judge(line)
        else:
            self._settle(line)

    def _judge(self, line: _ParsedLine) -> None:
        """Accept a line that continues from the last one, hold any other."""
        assert self._last is not None
        if self._step(self._last, line) == 1:
            self._accept(line)
        elif line.place == self._last.place:
            self._reject_repeated_line()
        else:
            self._held = line

    def _settle(self, line: _ParsedLine) -> None:
        """Resolve the held line by the next one: a loss, a damaged line, or a duplicate."""
        assert self._last is not None
        assert self._held is not None
        held, self._held = self._held, None
        if self._step(held, line) == 1:
            step = self._step(self._last, held)
            if 1 < step < LARGEST:
                self._lose(step - 1)
            elif self._counted or held.place < self._last.place:
                self.tally.ambiguous += 1
                text = "the instrument's counter or clock went back; losses at that moment are not counted"
                self.tally.note(text, "loss")
            self._accept(held)
            self._accept(line)
        elif self._step(self._last, line) == 2:
            # Unsteady stamps recover; a counter that does not count was damaged, and so was its line.
            self.tally.corrupt += self._counted
            if self._counted:
                self._lose(1)
            else:
                self._accept(held)
            self._accept(line)
        elif line.place == held.place:
            self.tally.duplicates += 1
            self._held = held
        else:
            self.tally.ambiguous += 1
            self._accept(held)
            self._judge(line)

    def _reject_repeated_line(self) -> None:
        """Leave out a duplicate line; the last one may be made of parts of two, where the repetition began."""
        self.tally.duplicates += 1
        self.doubts.append((self._latest - 1, self._latest + 1))

    def _step(self, before: _ParsedLine, after: _ParsedLine) -> int:
        """Return the number of lines from one to another; negative if counter or clock went back."""
        step = round(after.place - before.place)
        modulus = self._form.counter_modulus if self._counted else 0
        return step % modulus if modulus else step

    def _lose(self, count: int) -> None:
        count = min(count, _MOST - self._next)
        self.tally.lost += count
        self._next += count

    def _accept(self, line: _ParsedLine) -> None:
        """Convert a line to a sample."""
        self._last = line
        self._recent.append(line)
        index, self._next = self._next, self._next + 1
        self._latest = index
        doubt = self._shapes.take(index, line.shape)
        if doubt is not None:
            self.doubts.append((doubt[0], doubt[1] + ("energy_total" in line.values)))  # a total spoils the next, too
            self.tally.corrupt += 1
            text = "lines written like none before or after them (a digit lost or added) are left out as gaps"
            self.tally.note(text, "loss")
        power_w = self._watts(line.values, index)
        if math.isnan(power_w):
            return
        self._index.append(index)
        self._power_w.append(power_w)
        clipped = power_w > self._max_w
        self.tally.clipped += clipped
        self._suspect.append(clipped)

    def _watts(self, values: Mapping[str, float], index: int) -> float:
        """Return the power of a line, watts; ``nan`` if another line is needed for it."""
        if "power" in values:
            return values["power"]
        if "energy" in values:
            return values["energy"] * self._rate_hz
        if "energy_total" in values:
            return self._power_from_total(values["energy_total"], index)
        return values["current"] * values.get("voltage", self._voltage_v)

    def _power_from_total(self, total_j: float, index: int) -> float:
        """Compute power from a running total; one that falls is damaged, or the first after a restart.

        Args:
            total_j: The total.
            index: Position of its line.
        """
        totals = self._totals
        if self._fallen is not None and totals and total_j >= totals[-1][1]:
            self._fallen = None  # it was damaged: this one goes on from the one before
        elif self._fallen is not None and total_j >= self._fallen[1]:
            totals[:], self._fallen = [self._fallen], None
        before = totals[-1] if totals else None
        if before is not None and total_j < before[1]:
            self.tally.ambiguous += 1
            self.tally.note("the instrument's total of energy went back; the line that was wrong is left out")
            if len(totals) > 1 and total_j >= totals[-2][1]:
                self.doubts.append((before[0] - 1, index))  # the one before was too high
                totals.pop()
                before = totals[-1]
            else:
                self._fallen = index, total_j
                self.tally.lost += 1
                return math.nan
        totals.append((index, total_j))
        del totals[:-2]
        if before is None:
            return math.nan
        return (total_j - before[1]) * self._rate_hz / (index - before[0])

    def _taken(self) -> Samples:
        if not self._index:
            return Samples.none()
        samples = Samples(
            np.array(self._index, np.int64), np.array(self._power_w), suspect=np.array(self._suspect, np.bool_)
        )
        self._index, self._power_w, self._suspect = [], [], []
        step = np.abs(samples.power_w) * _STEP
        self._outliers.feed(samples.power_w, step, np.zeros(step.size, np.uint8))
        self._outliers.report(self.tally)
        return samples
