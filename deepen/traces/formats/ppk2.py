"""CSV exports of Nordic's Power Profiler app: ``Timestamp(ms),Current(uA)``, with ``D0-D7`` or ``D0,D1,...,D7``.

The PPK2 measures no voltage, so the supply voltage has to be given. The app leaves lost samples out of the file
(``exportChartAction.ts`` writes no row for ``NaN``), so that they show as steps of time. A digital input is ``0``,
``1``, ``X`` (both within the sample) or ``-`` (not recorded).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepen.errors import ConfigError, MeasureError
from deepen.records import TraceWarning
from deepen.tables import parse_csv_header
from deepen.traces.csv_columns import CsvTable
from deepen.traces.formats.plain import parse_number_option
from deepen.traces.missing_samples import TimeScan, drop_missing_samples
from deepen.traces.types import ReportedWindow, TraceFormat, TraceInfo

__all__ = ["FORMAT", "Ppk2CsvFile"]

_TIME, _CURRENT, _BITS = "Timestamp(ms)", "Current(uA)", "D0-D7"
_INPUTS = tuple(f"D{k}" for k in range(8))


@dataclass(frozen=True, slots=True)
class Ppk2CsvFile:
    """An opened export; see :class:`~deepen.traces.types.TraceFile`.

    Attributes:
        info: Facts found by scanning it.
        table: Its rows.
        voltage_v: Supply voltage.
        inputs: Columns that hold digital inputs: ``D0-D7``, or ``D0`` to ``D7``; empty for none.
    """

    info: TraceInfo
    table: CsvTable
    voltage_v: float
    inputs: tuple[str, ...]

    def rows(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint8] | None, bool]]:
        """Yield times, powers (``nan`` where missing), inputs, and whether an input was neither 0 nor 1."""
        for stamp_ms, current_ua, *inputs in self.table.blocks([_TIME, _CURRENT], texts=self.inputs):
            logic, unsure = _pack_logic(self.table.path, inputs) if inputs else (None, False)
            power_w = np.where(np.isfinite(current_ua), current_ua / 1e6 * self.voltage_v, np.nan)
            yield stamp_ms / 1e3, power_w, logic, unsure

    def blocks(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint8] | None]]:
        """See :class:`~deepen.traces.types.TraceFile`."""
        for t_s, power_w, logic, _ in self.rows():
            yield drop_missing_samples(t_s, power_w, logic)

    def windows(self) -> tuple[ReportedWindow, ...]:
        """None: the export holds samples only."""
        return ()


def _pack_logic(path: Path, columns: list[NDArray[np.object_]]) -> tuple[NDArray[np.uint8], bool]:
    """Pack digital inputs into bits (bit k is Dk; ``X`` counts as 1), and return whether any was ``X`` or ``-``."""
    if len(columns) == 1:
        text = np.asarray(columns[0], dtype="U8")
        if (np.char.str_len(text) != 8).any():
            raise MeasureError(f"{path}: column '{_BITS}' must hold eight characters of 0, 1, X and -")
        letters = text.view("U1").reshape(-1, 8)
    else:
        letters = np.stack([np.asarray(c, dtype="U1") for c in columns], axis=1)
    if not np.isin(letters, ("0", "1", "X", "-")).all():
        raise MeasureError(f"{path}: a digital input is neither 0, 1, X nor -; restore the file")
    high = (letters == "1") | (letters == "X")
    return np.packbits(high, axis=1, bitorder="little")[:, 0], bool(np.isin(letters, ("X", "-")).any())


def _open(path: Path, options: Mapping[str, str]) -> Ppk2CsvFile:
    voltage_v = parse_number_option(options, "voltage_v", path)
    if not voltage_v:
        raise ConfigError(f"{path}: a PPK2 measures no voltage; say voltage_v=VOLTS, the supply it was set to")
    with path.open("rb") as file:
        delimiter, names = parse_csv_header(file.read(1 << 12))
    inputs = (_BITS,) if _BITS in names else _INPUTS if set(_INPUTS) <= set(names) else ()
    table = CsvTable.open(path, names, delimiter, numbers=(_TIME, _CURRENT))
    opened = Ppk2CsvFile(TraceInfo(path, FORMAT.name, "ppk2", "", "measured", 0.0, 0), table, voltage_v, inputs)
    scan = TimeScan(path)
    unsure = False
    for t_s, power_w, _, doubt in opened.rows():
        scan.feed(t_s, power_w)
        unsure |= doubt
    warnings = [TraceWarning("trace", f"power is the measured current times {voltage_v:g} V, as given")]
    if unsure:
        text = "a digital input was undecided (X, taken as 1) or not recorded (-, taken as 0)"
        warnings.append(TraceWarning("trace", text))
    info = replace(opened.info, calibration_id=f"as in the file; {voltage_v:g} V told", logic=bool(inputs))
    return replace(opened, info=scan.complete_info(info, table.warnings, warnings))


def _matches(path: Path, head: bytes) -> bool:
    _, names = parse_csv_header(head)
    return names[:2] == [_TIME, _CURRENT]


FORMAT = TraceFormat(
    name="ppk2-csv",
    title="CSV export of Nordic's Power Profiler app (needs voltage_v)",
    matches=_matches,
    open=_open,
    options=("voltage_v",),
)
