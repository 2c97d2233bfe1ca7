"""Lines of text to samples, as a profile describes them: columns or a regular expression, each value with its unit."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from deepen.errors import ConfigError
from deepen.meters.meter_profile import Table, scale
from deepen.meters.outliers import Outliers
from deepen.meters.stream import Samples, Tally

__all__ = ["LineFormat", "LineParser"]

_LONGEST = 1024
"""Characters after which a line is given up."""

_LARGEST = 1e15
"""No value of a line is larger, in SI units or in lines."""

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,2})?")
_QUANTITIES = {
    "power": "power",
    "current": "current",
    "voltage": "voltage",
    "energy": "energy",
    "energy_total": "energy",
    "time": "time",
}
"""Values a line may have, and what they are; ``counter`` beside them has no unit."""

_MOST = 1 << 62
"""Positions end here, whatever counters say."""

_STEP = 1e-3  # relative step that is no outlier

_REMEMBERED = 16
"""Lines among which one that is the same in counter or clock and every value has come twice."""


@dataclass(frozen=True, slots=True)
class LineFormat:
    """How to read a line.

    Attributes:
        columns: Names of the columns, ``-`` for one to leave out; empty with a pattern.
        separator: Between columns; empty for any white space.
        pattern: Must match the whole line; its named groups are the values.
        ignore: Lines that match are passed over (headings, comments).
        scales: SI units in the unit of each value, by name.
        counter_modulus: The counter starts again at zero here; 0 where it never does.
        decimal: Sign between units and tenths.
    """

    columns: tuple[str, ...]
    separator: str
    pattern: re.Pattern[str] | None
    ignore: re.Pattern[str] | None
    scales: Mapping[str, float]
    counter_modulus: int
    decimal: str

    @classmethod
    def read(cls, table: Table) -> LineFormat:
        """Read the keys of a profile that are about lines.

        Raises:
            ConfigError: If they are wrong, or tell no power.
        """
        columns, pattern = table.texts("columns"), table.pattern("pattern")
        if bool(columns) == (pattern is not None):
            raise ConfigError(f"{table.where}: give either columns or a pattern with named groups")
        names = columns if pattern is None else tuple(pattern.groupindex)
        units = table.table("units")
        values = [name for name in names if name != "-"]
        for name in values:
            if name != "counter" and name not in _QUANTITIES:
                known = ", ".join([*_QUANTITIES, "counter"])
                raise ConfigError(f"{table.where}: '{name}' is nothing known; values are {known}")
        if len(set(values)) < len(values):
            raise ConfigError(f"{table.where}: two columns have the same name; call one '-'")
        scales = {n: scale(_QUANTITIES[n], units.text(n), units.where) for n in values if n != "counter"}
        units.end()
        if not {"power", "energy", "energy_total", "current"} & set(values):
            raise ConfigError(f"{table.where}: no value tells power; name power, energy, energy_total or current")
        return cls(
            columns=columns,
            separator=table.text("separator", ","),
            pattern=pattern,
            ignore=table.pattern("ignore"),
            scales=scales,
            counter_modulus=int(table.number("counter_modulus", 0.0)),
            decimal=table.text("decimal", "."),
        )

    @property
    def values(self) -> frozenset[str]:
        """Names of the values a line has."""
        return frozenset(self.scales) | ({"counter"} & set(self.columns or (self.pattern or re.compile("")).groupindex))

    def split(self, line: str) -> dict[str, float] | None:
        """Values of a line in SI units; ``None`` unless all are there and are numbers."""
        if self.pattern is not None:
            found = self.pattern.fullmatch(line)
            if found is None:
                return None
            texts = {name: text or "" for name, text in found.groupdict().items()}
        else:
            cells = line.split(self.separator or None)
            if len(cells) != len(self.columns):
                return None
            texts = {name: cell for name, cell in zip(self.columns, cells, strict=True) if name != "-"}
        values: dict[str, float] = {}
        for name, text in texts.items():
            plain = text.strip().replace(self.decimal, ".")
            if not _NUMBER.fullmatch(plain) or (name == "counter" and not plain.isdecimal()):
                return None
            values[name] = float(plain) * self.scales.get(name, 1.0)
            if abs(values[name]) > _LARGEST:
                return None
        return values


@dataclass(frozen=True, slots=True)
class _Line:
    """A line that was understood.

    Attributes:
        place: Counter, or time stamp in sample periods; ``nan`` without either.
        values: Its values in SI units.
    """

    place: float
    values: dict[str, float]


class LineParser:
    """Lines in, samples out.

    A counter or time stamp in the line tells losses. A line whose step is not one is held until the next line: it was
    a loss if that one goes on from it, and a damaged line if that one goes on from the line before. The first line is
    thrown away, because its beginning may be missing.

    Attributes:
        tally: What went wrong so far.
    """

    def __init__(
        self, form: LineFormat, rate_hz: float, *, voltage_v: float = math.nan, max_w: float = math.inf
    ) -> None:
        """Begin anywhere in a stream.

        Args:
            form: How to read a line.
            rate_hz: Lines per second.
            voltage_v: Supply, volts, where lines tell only the current.
            max_w: End of the range, watts; samples above it are clipped.
        """
        self.tally = Tally()
        self._form = form
        self._rate_hz = rate_hz
        self._voltage_v = voltage_v
        self._max_w = max_w
        self._counted = "counter" in form.values
        self._placed = self._counted or "time" in form.values
        self._rest = b""
        self._first = True  # it may have lost its beginning
        self._skipping = False  # whether the line that goes on is too long to be one
        self._next = 0
        self._last: _Line | None = None
        # A counter that starts again soon may come back to the same line.
        self._recent: deque[_Line] = deque(maxlen=min(_REMEMBERED, form.counter_modulus // 2 or _REMEMBERED))
        self._held: _Line | None = None
        self._total_j: tuple[int, float] | None = None
        self._outliers = Outliers()
        self._index: list[int] = []
        self._power_w: list[float] = []
        self._suspect: list[bool] = []

    def feed(self, data: bytes) -> Samples:
        """Take the next bytes of the stream, split anywhere, and return the samples they complete."""
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
        values = self._form.split(text)
        if values is None:
            self.tally.corrupt += 1
            if not self._placed and self._last is not None:
                self._lose(1)
            return
        if not self._placed:
            self._accept(_Line(math.nan, values))
            return
        line = _Line(values["counter"] if self._counted else values["time"] * self._rate_hz, values)
        if line in self._recent:
            self.tally.duplicates += 1
            self.tally.ambiguous += self._counted and self._form.counter_modulus > 0
        elif self._last is None:
            self._accept(line)
        elif self._held is None:
            self._judge(line)
        else:
            self._settle(line)

    def _judge(self, line: _Line) -> None:
        """Accept a line that goes on from the last one, hold any other."""
        assert self._last is not None
        if self._step(self._last, line) == 1:
            self._accept(line)
        elif line.place == self._last.place:
            self.tally.duplicates += 1
        else:
            self._held = line

    def _settle(self, line: _Line) -> None:
        """Tell from the next line what the one held was."""
        assert self._last is not None
        assert self._held is not None
        held, self._held = self._held, None
        if self._step(held, line) == 1:
            step = self._step(self._last, held)
            if 1 < step < _LARGEST:
                self._lose(step - 1)
            elif self._counted or held.place < self._last.place:
                self.tally.ambiguous += 1
                self.tally.note("the instrument's counter or clock went back; losses at that moment are not counted")
            self._accept(held)
            self._accept(line)
        elif self._step(self._last, line) == 2:
            # Unsteady stamps fall into place again; a counter that does not count was damaged, and so was its line.
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

    def _step(self, before: _Line, after: _Line) -> int:
        """Lines from one to another; negative where counter or clock went back."""
        step = round(after.place - before.place)
        modulus = self._form.counter_modulus if self._counted else 0
        return step % modulus if modulus else step

    def _lose(self, count: int) -> None:
        count = min(count, _MOST - self._next)
        self.tally.lost += count
        self._next += count

    def _accept(self, line: _Line) -> None:
        """Make a sample of a line."""
        self._last = line
        self._recent.append(line)
        index, self._next = self._next, self._next + 1
        power_w = self._watts(line.values, index)
        if math.isnan(power_w):
            return
        self._index.append(index)
        self._power_w.append(power_w)
        clipped = power_w > self._max_w
        self.tally.clipped += clipped
        self._suspect.append(clipped)

    def _watts(self, values: Mapping[str, float], index: int) -> float:
        """Power of a line; ``nan`` where it takes another line to tell."""
        if "power" in values:
            return values["power"]
        if "energy" in values:
            return values["energy"] * self._rate_hz
        if "energy_total" in values:
            before, self._total_j = self._total_j, (index, values["energy_total"])
            if before is None:
                return math.nan
            if before[1] > values["energy_total"]:
                self.tally.ambiguous += 1
                self.tally.note("the instrument's total of energy went back; the line is left out")
                self.tally.lost += 1
                return math.nan
            return (values["energy_total"] - before[1]) * self._rate_hz / (index - before[0])
        return values["current"] * values.get("voltage", self._voltage_v)

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
