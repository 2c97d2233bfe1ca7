"""Format of an instrument's lines, from a profile: columns or a regular expression, each value with its unit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from deepen.errors import ConfigError
from deepen.meters.instruments.profile_file import ProfileTable, get_unit_scale

__all__ = ["LARGEST", "LineFormat", "LineShapeCheck", "Shape"]

LARGEST = 1e15
"""Largest plausible value of a line, in SI units or in lines."""

_NUMBER = re.compile(r"[+-]?(\d*)(\.\d*)?([eE][+-]?\d{1,2})?")
_QUANTITIES = {
    "power": "power",
    "current": "current",
    "voltage": "voltage",
    "energy": "energy",
    "energy_total": "energy",
    "time": "time",
}
"""Values a line may have, and their quantities; ``counter`` beside them has no unit."""

Shape = tuple[int, ...]
"""Written form of the values of a line: for each, whether there are digits before the point, and the number of
characters after it and in the exponent."""

_LEARNED, _KNOWN, _MOST_SHAPES = 64, 4, 32
"""Lines whose shapes are learned without check, occurrences after which a later shape is known, and shapes kept."""


@dataclass(frozen=True, slots=True)
class LineFormat:
    """Format of a line.

    Attributes:
        columns: Names of the columns, ``-`` for one to leave out; empty with a pattern.
        separator: Text between columns; empty for any white space.
        pattern: Pattern of the whole line; its named groups are the values.
        ignore: Pattern of lines to skip (headings, comments).
        scales: SI units in the unit of each value, by name.
        counter_modulus: Number at which the counter wraps to zero; 0 if it never does.
        decimal: Decimal sign.
    """

    columns: tuple[str, ...]
    separator: str
    pattern: re.Pattern[str] | None
    ignore: re.Pattern[str] | None
    scales: Mapping[str, float]
    counter_modulus: int
    decimal: str

    @classmethod
    def read(cls, table: ProfileTable) -> LineFormat:
        """Read the keys of a profile that describe lines.

        Raises:
            ConfigError: If they are wrong, or give no power.
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
                raise ConfigError(f"{table.where}: '{name}' is nothing known", cure=f"values are {known}")
        if len(set(values)) < len(values):
            raise ConfigError(f"{table.where}: two columns have the same name", cure="call one '-'")
        scales = {n: get_unit_scale(_QUANTITIES[n], units.text(n), units.where) for n in values if n != "counter"}
        units.end()
        if not {"power", "energy", "energy_total", "current"} & set(values):
            raise ConfigError(
                f"{table.where}: no value tells power", cure="name power, energy, energy_total or current"
            )
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
        """Names of the values in a line."""
        return frozenset(self.scales) | ({"counter"} & set(self.columns or (self.pattern or re.compile("")).groupindex))

    def split(self, line: str) -> tuple[dict[str, float], Shape] | None:
        """Split a line into its values in SI units, and their shape; ``None`` unless all are present and numbers."""
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
        shape: list[int] = []
        for name, text in texts.items():
            plain = text.strip().replace(self.decimal, ".")
            parts = _NUMBER.fullmatch(plain)
            if parts is None or (name == "counter" and not plain.isdecimal()):
                return None
            whole, decimals, exponent = (len(part or "") for part in parts.groups())
            if not whole and decimals < 2:
                return None
            shape += whole > 0, decimals, exponent
            values[name] = float(plain) * self.scales.get(name, 1.0)
            if abs(values[name]) > LARGEST:
                return None
        return values, tuple(shape)


class LineShapeCheck:
    """Detects lines with a lost or added digit by their written form (shape).

    A line whose shape is unlike all before it is damaged if the next one does not have the same shape; a shape that
    occurs several times is not damage.
    """

    def __init__(self) -> None:
        self._seen: dict[Shape, int] = {}
        self._count = 0
        self._waiting: tuple[int, Shape] | None = None

    def take(self, index: int, shape: Shape) -> tuple[int, int] | None:
        """Check the next line; return the stretch around the previous line if that one was damaged."""
        self._count += 1
        waiting, self._waiting = self._waiting, None
        doubt = None
        if waiting is not None and waiting[1] != shape:
            doubt = waiting[0] - 1, index
        times = self._seen.get(shape, 0)
        known = times >= _KNOWN or self._count <= _LEARNED or len(self._seen) > _MOST_SHAPES
        alike = waiting is not None and waiting[1] == shape
        if times or len(self._seen) <= _MOST_SHAPES:
            self._seen[shape] = _KNOWN if known or alike else times + 1
        if not (known or alike):
            self._waiting = index, shape
        return doubt
