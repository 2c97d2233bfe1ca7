"""Joulescope: CSV exports of its programs, and ``.jls`` recordings through the package ``pyjls``.

The CSV exports are ``#time (s),current (A),voltage (V)`` (samples) and ``#time,current,voltage,power,charge,energy``
(statistics: each row the means of the interval that ends at its time). A missing sample is ``NaN`` in all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deepen.errors import ConfigError, MeasureError
from deepen.records import TraceWarning
from deepen.tables import parse_csv_header
from deepen.traces.csv_columns import CsvTable
from deepen.traces.missing_samples import TimeScan, drop_missing_samples
from deepen.traces.parquet_columns import get_first_line
from deepen.traces.types import CHUNK, ReportedWindow, TraceFormat, TraceInfo

__all__ = ["CSV", "JLS", "JlsFile", "JoulescopeCsvFile"]

_SAMPLES = ["#time (s)", "current (A)", "voltage (V)"]
_STATISTICS = ["#time", "current", "voltage", "power"]
_JLS_MAGIC = b"jlsfmt"
"""Magic bytes at the start of a recording."""


@dataclass(frozen=True, slots=True)
class JoulescopeCsvFile:
    """An opened CSV export; see :class:`~deepen.traces.types.TraceFile`.

    Attributes:
        info: Facts found by scanning it.
        table: Its rows.
        columns: Columns of time and power, or of time, current and voltage.
    """

    info: TraceInfo
    table: CsvTable
    columns: tuple[str, ...]

    def rows(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Yield times and powers, ``nan`` where missing."""
        for t_s, first, *second in self.table.blocks(self.columns):
            power_w = first * second[0] if second else first
            yield t_s, np.where(np.isfinite(power_w), power_w, np.nan)

    def blocks(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint8] | None]]:
        """See :class:`~deepen.traces.types.TraceFile`."""
        for t_s, power_w in self.rows():
            yield drop_missing_samples(t_s, power_w)

    def windows(self) -> tuple[ReportedWindow, ...]:
        """None: the export holds samples only."""
        return ()


def _open_csv(path: Path, options: Mapping[str, str]) -> JoulescopeCsvFile:
    with path.open("rb") as file:
        delimiter, names = parse_csv_header(file.read(1 << 12))
    statistics = names[:4] == _STATISTICS
    columns = ("#time", "power") if statistics else tuple(_SAMPLES)
    if not set(columns) <= set(names):
        raise MeasureError(f"{path}: is no CSV export of a Joulescope; its columns: {', '.join(names)}")
    table = CsvTable.open(path, names, delimiter, numbers=columns)
    sampling: Literal["point", "mean"] = "mean" if statistics else "point"
    info = TraceInfo(path, CSV.name, "joulescope", "as in the file", "measured", 0.0, 0, sampling=sampling)
    opened = JoulescopeCsvFile(info, table, columns)
    return replace(opened, info=_scan_samples(info, opened.rows(), table.warnings))


def _scan_samples(
    info: TraceInfo,
    rows: Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]],
    warnings: tuple[TraceWarning, ...],
    rate_hz: float = 0.0,
) -> TraceInfo:
    scan = TimeScan(info.path, rate_hz)
    for t_s, power_w in rows:
        scan.feed(t_s, power_w)
    return scan.complete_info(info, warnings, rate_hz=rate_hz)


def _matches_csv(path: Path, head: bytes) -> bool:
    _, names = parse_csv_header(head)
    return names[:3] == _SAMPLES or names[:4] == _STATISTICS


CSV = TraceFormat(
    name="joulescope-csv",
    title="CSV export of a Joulescope (samples or statistics)",
    matches=_matches_csv,
    open=_open_csv,
)


@dataclass(frozen=True, slots=True)
class JlsFile:
    """An opened recording; see :class:`~deepen.traces.types.TraceFile`.

    Attributes:
        info: Facts found by scanning it.
        signals: The ids of ``power``, or of ``current`` and ``voltage``, with the position of their first sample.
        length: Number of samples, including those without a value.
    """

    info: TraceInfo
    signals: tuple[tuple[int, int], ...]
    length: int

    def rows(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Yield times and powers, ``nan`` where missing."""
        with _open_jls_reader(self.info.path) as reader:
            for start in range(0, self.length, CHUNK):
                n = min(CHUNK, self.length - start)
                power_w = np.ones(n)
                for signal, _ in self.signals:
                    power_w *= _read_samples(self.info.path, reader, signal, start, n)
                t_s = np.arange(start, start + n) / self.info.rate_hz
                yield t_s, np.where(np.isfinite(power_w), power_w, np.nan)

    def blocks(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint8] | None]]:
        """See :class:`~deepen.traces.types.TraceFile`."""
        for t_s, power_w in self.rows():
            yield drop_missing_samples(t_s, power_w)

    def windows(self) -> tuple[ReportedWindow, ...]:
        """None: annotations of a recording are not read."""
        return ()


def _open_jls_reader(path: Path) -> Any:
    try:
        from pyjls import Reader
    except ImportError as error:
        raise ConfigError(f"{path}: reading .jls needs the package pyjls: pip install 'deepen[joulescope]'") from error
    try:
        return Reader(str(path))
    except (RuntimeError, ValueError, OSError) as error:
        raise MeasureError(f"{path}: cannot be read by pyjls ({get_first_line(error)}); record again") from error


def _read_samples(path: Path, reader: Any, signal: int, start: int, n: int) -> NDArray[np.float64]:
    try:
        return np.asarray(reader.fsr(signal, start, n), dtype=np.float64)
    except (RuntimeError, ValueError, OSError) as error:
        raise MeasureError(f"{path}: damaged at sample {start} ({get_first_line(error)}); record again") from error


def _open_jls(path: Path, options: Mapping[str, str]) -> JlsFile:
    with _open_jls_reader(path) as reader:
        found: dict[str, Any] = {s.name: s for s in reader.signals.values() if s.sample_rate}
    names = ("power",) if "power" in found else ("current", "voltage")
    if not set(names) <= set(found):
        raise MeasureError(
            f"{path}: holds neither power nor current and voltage; its signals: {', '.join(sorted(found))}"
        )
    chosen = [found[n] for n in names]
    rates, lengths = {float(s.sample_rate) for s in chosen}, {int(s.length) for s in chosen}
    offsets = {int(getattr(s, "sample_id_offset", 0)) for s in chosen}
    if len(rates) != 1 or len(offsets) != 1:
        raise MeasureError(f"{path}: current and voltage do not lie on the same samples; record power instead")
    info = TraceInfo(path, JLS.name, "joulescope", "as in the file", "measured", rates.pop(), 0)
    opened = JlsFile(info, tuple((int(s.signal_id), offsets.copy().pop()) for s in chosen), min(lengths))
    return replace(opened, info=_scan_samples(info, opened.rows(), (), info.rate_hz))


JLS = TraceFormat(
    name="jls",
    title="Joulescope recording (.jls, through pyjls)",
    matches=lambda path, head: head.startswith(_JLS_MAGIC),
    open=_open_jls,
)
