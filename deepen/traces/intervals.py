"""Interval files: CSV files that name windows of a trace."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from deepen.errors import ConfigError, MeasureError
from deepen.records import Interval
from deepen.tables import parse_csv_header, read_csv_rows
from deepen.traces.types import ReportedWindow

__all__ = ["is_interval_file", "read_intervals"]

_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def _find_interval_unit(names: Sequence[str]) -> str:
    """Return the unit of the edges; empty if these are not the columns of an interval file."""
    return next((u for u in _UNITS if f"start_{u}" in names and f"end_{u}" in names), "")


def is_interval_file(path: Path) -> bool:
    """Return whether a file is a CSV with the columns ``start_s`` and ``end_s`` (or ``_ms``, ``_us``, ``_ns``)."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return bool(_find_interval_unit(parse_csv_header(file.read(1 << 12))[1]))


def read_intervals(path: Path) -> tuple[ReportedWindow, ...]:
    """Read an interval file: ``start_s,end_s`` and, where present, ``label``, ``runs`` and ``energy_j``.

    Other columns are ignored; the edges may be in milli-, micro- or nanoseconds (``start_us,end_us``).

    Args:
        path: The CSV file.

    Returns:
        Windows in the order of the file; without a ``label`` column they are numbered from 0.

    Raises:
        ConfigError: If there is no such file.
        MeasureError: If a column is missing or a value is wrong, with the line.
    """
    if not path.is_file():
        raise ConfigError(f"no interval file at {path}; check the name")
    names, lines = read_csv_rows(path, error=MeasureError)
    unit = _find_interval_unit(names)
    if not unit:
        raise MeasureError(f"{path}: has no columns start_s and end_s; write start_s,end_s,label in its first line")
    found: list[ReportedWindow] = []
    for number, row in lines:
        try:
            found.append(_parse_window(row, unit, len(found)))
        except (ValueError, MeasureError) as error:
            raise MeasureError(f"{path}, line {number}: {error}") from error
    if not found:
        raise MeasureError(f"{path}: has no rows; name at least one interval")
    return tuple(found)


def _parse_window(row: Mapping[str, str], unit: str, number: int) -> ReportedWindow:
    def seconds(name: str) -> float:
        text = row[f"{name}_{unit}"]
        if not text or not math.isfinite(value := float(text)):
            raise ValueError(f"{name}_{unit} is '{text}', not a time")
        return value * _UNITS[unit] if unit == "s" else value / round(1 / _UNITS[unit])

    label = row.get("label") or row.get("inference_index") or str(number)
    interval = Interval(seconds("start"), seconds("end"), label.strip(), runs=int(row.get("runs") or 0))
    return ReportedWindow(interval, float(row.get("energy_j") or math.nan))
