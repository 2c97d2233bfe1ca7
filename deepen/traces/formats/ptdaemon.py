"""Logs of SPEC's PTDaemon, as MLPerf power runs keep them: ``Time,MM-DD-YYYY hh:mm:ss.mmm,Watts,w,Volts,v,...``.

A row is the mean power of the analyser's last interval (about a second), stamped with the wall clock of the machine
that ran the daemon; the clock has no time zone, and times are seconds since 1970 of that clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepen.errors import MeasureError
from deepen.records import Interval, TraceWarning
from deepen.tables import parse_csv_header
from deepen.traces.csv_columns import CsvTable
from deepen.traces.missing_samples import TimeScan, drop_missing_samples
from deepen.traces.types import ReportedWindow, TraceFormat, TraceInfo

__all__ = ["FORMAT", "PtDaemonLog"]

_STAMP = "%m-%d-%Y %H:%M:%S"


@dataclass(frozen=True, slots=True)
class PtDaemonLog:
    """An opened log; see :class:`~deepen.traces.types.TraceFile`.

    Attributes:
        info: Facts found by scanning it.
        table: Its rows.
        watts: Name of the column of powers.
        mark: Name of the column of marks; empty where there is none.
    """

    info: TraceInfo
    table: CsvTable
    watts: str
    mark: str

    def rows(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64], list[str]]]:
        """Yield times, powers (``nan`` where missing) and marks."""
        done = 0
        for power_w, stamps, *marks in self.table.blocks(
            [self.watts], texts=["Time", *([self.mark] if self.mark else [])]
        ):
            t_s = _parse_timestamps(self.table.path, stamps, done)
            # A negative power means no reading: MLPerf's own tools average only values above zero.
            yield (
                t_s,
                np.where(np.isfinite(power_w) & (power_w >= 0), power_w, np.nan),
                [*map(str, *marks)] if marks else [],
            )
            done += t_s.size

    def blocks(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint8] | None]]:
        """See :class:`~deepen.traces.types.TraceFile`."""
        for t_s, power_w, _ in self.rows():
            yield drop_missing_samples(t_s, power_w)

    def windows(self) -> tuple[ReportedWindow, ...]:
        """Return the stretches of rows with the same mark, from the end of the first interval to that of the last."""
        found: list[ReportedWindow] = []
        open_mark, start_s, end_s = "", 0.0, 0.0
        for t_s, _, marks in self.rows():
            for t, mark in zip(t_s.tolist(), marks, strict=False):
                if mark != open_mark:
                    found += _make_window(open_mark, start_s, end_s)
                    open_mark, start_s = mark, t
                end_s = t
        return (*found, *_make_window(open_mark, start_s, end_s))


def _make_window(mark: str, start_s: float, end_s: float) -> list[ReportedWindow]:
    return [ReportedWindow(Interval(start_s, end_s, mark))] if mark not in ("", "notset") and end_s > start_s else []


def _parse_timestamps(path: Path, stamps: NDArray[np.object_], done: int) -> NDArray[np.float64]:
    """Parse time stamps into seconds since 1970 on the log's own clock."""
    from datetime import UTC, datetime

    found = np.empty(stamps.size)
    for k, stamp in enumerate(stamps.tolist()):
        whole, _, fraction = str(stamp).strip().partition(".")
        try:
            # The log states no time zone; UTC keeps differences right where this machine changes to summer time.
            moment = datetime.strptime(whole, _STAMP).replace(tzinfo=UTC)
            found[k] = moment.timestamp() + (float(f"0.{fraction}") if fraction else 0.0)
        except ValueError as error:
            raise MeasureError(f"{path}: row {done + k + 1}: '{stamp}' is no time (MM-DD-YYYY hh:mm:ss.mmm)") from error
    return found


def _open(path: Path, options: Mapping[str, str]) -> PtDaemonLog:
    with path.open("rb") as file:
        delimiter, first = parse_csv_header(file.read(1 << 12))
    # Every second field names the next one: Time,<t>,Watts,<w>,...
    names = [label if k % 2 else f"#{label}" for k, label in enumerate(_get_field_labels(first))]
    watts = next((n for n in names if n in ("Watts", "AvgWatts")), "")
    if len(first) < 4 or not watts:
        raise MeasureError(f"{path}: is no PTDaemon log (Time,<time>,Watts,<watts>,...)")
    table = CsvTable.open(path, names, delimiter, skip=0, numbers=[watts])
    opened = PtDaemonLog(
        TraceInfo(path, FORMAT.name, "ptdaemon", "as in the file", "measured", 0.0, 0, sampling="mean"),
        table,
        watts,
        "Mark" if "Mark" in names else "",
    )
    scan = TimeScan(path)
    for t_s, power_w, _ in opened.rows():
        scan.feed(t_s, power_w)
    zone = TraceWarning("trace", "times are those of the daemon's wall clock, whose time zone is not stated")
    return replace(opened, info=scan.complete_info(opened.info, table.warnings, [zone]))


def _get_field_labels(first: list[str]) -> list[str]:
    """Return the name of every field of a row: the label before it."""
    return [first[k - k % 2] for k in range(len(first))]


FORMAT = TraceFormat(
    name="ptdaemon",
    title="log of SPEC PTDaemon (Time,...,Watts,...)",
    matches=lambda path, head: head.startswith(b"Time,") and b",Watts," in head.split(b"\n", 1)[0],
    open=_open,
)
