"""CSV files of Monsoon's Python library and of tools built on it: ``Time(ms),Main(mA),Main Voltage(V)``.

The column of times is misleading. Its unit is seconds, milliseconds or microseconds depending on the tool, and its
value is the moment at which the host processed a packet: packets come in bursts (one read of 128 every 25.6 ms), so
that a hundred samples carry nearly the same time and the next lies tens of milliseconds later. Rows are therefore
numbered, and the clock is fitted under the arrivals of the bursts (:func:`deepen.clock.fit_arrivals`), which also shows
how many rows are missing: the library does not write its instrument's dropped count.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepen.clock import ArrivalFit, fit_arrivals
from deepen.errors import ConfigError, MeasureError
from deepen.records import TraceWarning
from deepen.tables import parse_csv_header
from deepen.traces.csv_columns import CsvTable
from deepen.traces.formats.plain import parse_number_option
from deepen.traces.types import ReportedWindow, TraceFormat, TraceInfo

__all__ = ["FORMAT", "MonsoonCsvFile"]

_NATIVE_HZ = 5000.0
"""Native sample rate, hertz: one sample every 200 µs (USB protocol; ``sampleEngine.py`` of the library)."""
_UNITS = {"s": 1.0, "ms": 1e3, "µs": 1e6, "ns": 1e9}
_TIME, _CURRENT, _VOLTAGE = "Time(ms)", "Main(mA)", "Main Voltage(V)"


@dataclass(frozen=True, slots=True)
class MonsoonCsvFile:
    """An opened Monsoon CSV; see :class:`~deepen.traces.types.TraceFile`.

    Attributes:
        info: Facts found by scanning it.
        table: Its rows.
        arrivals: The clock fitted under the bursts, and the losses it found.
        skipped: For each row known to be missing, the row from which positions are one higher; int64, ascending.
        voltage_v: Supply voltage where there is no column for it, else 0.
    """

    info: TraceInfo
    table: CsvTable
    arrivals: ArrivalFit
    skipped: NDArray[np.int64]
    voltage_v: float

    def blocks(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint8] | None]]:
        """See :class:`~deepen.traces.types.TraceFile`."""
        done = 0
        for _, power_w in _read_rows(self.table, self.voltage_v):
            row = np.arange(done, done + power_w.size, dtype=np.int64)
            done += power_w.size
            position = row + np.searchsorted(self.skipped, row, side="right")
            yield self.arrivals.times(position), power_w, None

    def windows(self) -> tuple[ReportedWindow, ...]:
        """None: the file holds samples only (``traces.windows`` reads an ``inference_time.csv``)."""
        return ()


def _read_rows(table: CsvTable, voltage_v: float) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Yield the time stamps as in the file, and powers in watts."""
    names = [_TIME, _CURRENT, *([] if voltage_v else [_VOLTAGE])]
    done = 0
    for stamp, current_ma, *rest in table.blocks(names):
        power_w = current_ma / 1e3 * (rest[0] if rest else voltage_v)
        wrong = ~(np.isfinite(power_w) & np.isfinite(stamp))
        if wrong.any():
            raise MeasureError(f"{table.path}: row {done + int(np.argmax(wrong)) + 1} lacks a number; restore the file")
        done += stamp.size
        yield stamp, power_w


@dataclass(slots=True)
class _RowBursts:
    """Bursts of rows that came in together, found block by block.

    Attributes:
        first: First row of each burst.
        stamp: Time of each burst, as in the file.
        rows: Number of rows seen.
    """

    first: list[NDArray[np.int64]] = field(default_factory=list)
    stamp: list[NDArray[np.float64]] = field(default_factory=list)
    rows: int = 0
    last: float = -math.inf


def _find_bursts(
    table: CsvTable, voltage_v: float, rate_hz: float
) -> tuple[NDArray[np.int64], NDArray[np.float64], int, str, float]:
    """Find the bursts, the unit of time and the rate.

    Returns:
        First row and stamp (seconds) of each burst, number of rows, the unit, and the nominal rate (hertz).
    """
    first_stamp, last_stamp, count = math.nan, math.nan, 0
    for stamp, _ in _read_rows(table, voltage_v):
        steps = np.diff(stamp, prepend=last_stamp if count else stamp[0])
        if (steps < 0).any():
            row = count + int(np.argmax(steps < 0)) + 1
            raise MeasureError(
                f"{table.path}: time goes back at row {row}: the host's clock was set, or two runs were joined"
            )
        first_stamp, last_stamp = (stamp[0] if not count else first_stamp), stamp[-1]
        count += stamp.size
    if count < 2 or last_stamp == first_stamp:
        raise MeasureError(f"{table.path}: {count} rows at one time are no trace; record for longer")
    unit, rate_hz = _infer_time_unit(table.path, (count - 1) / float(last_stamp - first_stamp), rate_hz)
    firsts, stamps, done, last = [], [], 0, -math.inf
    for stamp, _ in _read_rows(table, voltage_v):
        t_s = stamp / _UNITS[unit]
        starts = np.flatnonzero(np.diff(t_s, prepend=last) > 0.5 / rate_hz)
        firsts.append(starts + done)
        stamps.append(t_s[starts])
        done, last = done + t_s.size, float(t_s[-1])
    return np.concatenate(firsts), np.concatenate(stamps), count, unit, rate_hz


def _infer_time_unit(path: Path, per_stamp: float, rate_hz: float) -> tuple[str, float]:
    """Infer the unit of the stamps: the one in which rows come about as often as the instrument samples.

    Args:
        path: The file, for messages.
        per_stamp: Rows per unit of the stamps.
        rate_hz: Rate given by the user, hertz; 0 if none.

    Returns:
        The unit and the nominal rate: the instrument's, or a whole fraction of it where rows were thinned out.
    """
    expected = rate_hz or _NATIVE_HZ
    unit = min(_UNITS, key=lambda u: abs(math.log(per_stamp * _UNITS[u] / expected)))
    ratio = expected / (per_stamp * _UNITS[unit])
    if rate_hz:
        if not 0.5 < ratio < 2:
            raise ConfigError(f"{path}: its stamps give {expected / ratio:.6g} rows a second, not rate_hz={rate_hz:g}")
        return unit, rate_hz
    every = max(1, round(ratio))
    if abs(ratio / every - 1) > 0.2 or every > 30:
        raise ConfigError(
            f"{path}: {_NATIVE_HZ / ratio:.6g} rows a second is no fraction of the native {_NATIVE_HZ:g}; say rate_hz=N"
        )
    return unit, _NATIVE_HZ / every


def _find_short_reads(first: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Find the rows before which one is missing: reads of a fixed number of packets that hold fewer measurements.

    The instrument calibrates itself within the stream, and the library leaves those samples out of the file.
    """
    sizes = np.diff(first, append=count)[1:-1]  # the first and last reads are incomplete
    if sizes.size < 8:
        return np.empty(0, np.int64)
    usual = int(np.median(sizes))
    if usual < 8 or np.mean(np.abs(sizes - usual) <= 2) < 0.9:
        return np.empty(0, np.int64)
    lacking = np.where((sizes < usual) & (sizes >= usual - 2), usual - sizes, 0)
    # The missing row may be anywhere in the read; put in the middle, it is at most half a read off.
    return np.repeat(first[1:-1] + sizes // 2, lacking).astype(np.int64)


def _open(path: Path, options: Mapping[str, str]) -> MonsoonCsvFile:
    with path.open("rb") as file:
        delimiter, names = parse_csv_header(file.read(1 << 12))
    voltage_v = parse_number_option(options, "voltage_v", path)
    if _VOLTAGE not in names and not voltage_v:
        raise ConfigError(f"{path}: has no column '{_VOLTAGE}'; say voltage_v=VOLTS")
    if _VOLTAGE in names and voltage_v:
        raise ConfigError(f"{path}: has a column '{_VOLTAGE}'; voltage_v is not needed")
    numbers = [_TIME, _CURRENT, *([] if voltage_v else [_VOLTAGE])]
    table = CsvTable.open(path, names, delimiter, numbers=numbers)
    first, stamp_s, count, unit, rate_hz = _find_bursts(table, voltage_v, parse_number_option(options, "rate_hz", path))
    skipped = _find_short_reads(first, count)
    # A read was complete when its first packet was looked at.
    end = np.append(first[1:], count)
    arrivals = fit_arrivals(end + np.searchsorted(skipped, end - 1, side="right"), stamp_s, rate_hz)
    opened = MonsoonCsvFile(
        TraceInfo(path, FORMAT.name, "monsoon", "as in the file", "measured", rate_hz, count),
        table,
        arrivals,
        skipped,
        voltage_v,
    )
    return replace(opened, info=_make_info(opened, unit, np.diff(first), count))


def _make_info(opened: MonsoonCsvFile, unit: str, sizes: NDArray[np.int64], count: int) -> TraceInfo:
    arrivals, skipped = opened.arrivals, opened.skipped

    def time_of(row: int) -> float:
        position = np.array([row + int(np.searchsorted(skipped, row, side="right"))])
        return float(arrivals.times(position)[0])

    gaps: list[tuple[float, float]] = []
    for loss in arrivals.losses:
        if loss.samples > 0:
            edges = arrivals.times(np.array([loss.after_index, loss.before_index]))
            gaps.append((float(edges[0]), float(edges[1])))
    gaps += [(time_of(row - 1), time_of(row)) for row in skipped.tolist()]
    gaps.sort()
    unseen = sum(max(loss.samples, 0) for loss in arrivals.losses) + arrivals.unlocated_losses
    warnings = [*opened.table.warnings]
    text = (
        f"times are rows counted at {arrivals.rate_hz:.3f} a second, from the arrival of {sizes.size + 1} reads of "
        f"about {int(np.median(sizes)) if sizes.size else count}; the file's own stamps ({unit}) are those of the host"
    )
    warnings.append(TraceWarning("trace", text))
    if skipped.size:
        text = f"{skipped.size} rows are missing from full reads: the instrument calibrated itself; gaps, but no losses"
        warnings.append(TraceWarning("trace", text))
    warnings += [TraceWarning("loss", text) for text in arrivals.problems]
    return replace(
        opened.info,
        start_s=time_of(0),
        end_s=time_of(count - 1),
        clock=arrivals.clock,
        gaps=tuple(gaps),
        dropped=unseen,
        warnings=tuple(warnings),
    )


def _matches(path: Path, head: bytes) -> bool:
    _, names = parse_csv_header(head)
    return _TIME in names and _CURRENT in names


FORMAT = TraceFormat(
    name="monsoon-csv",
    title="CSV of Monsoon's Python library (Time(ms),Main(mA),Main Voltage(V))",
    matches=_matches,
    open=_open,
    options=("voltage_v", "rate_hz"),
)
