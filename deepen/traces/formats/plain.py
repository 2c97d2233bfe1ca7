"""Plain CSV with declared units: deepen's own, and any table of time and power, or of current and voltage.

Units come from the header (``power_w``, ``t_s``, ``power (mW)``, ``Current [uA]``) or from options
(``power=P1:mW``, ``time=stamp:ms``); they are never guessed.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepen.errors import ConfigError, MeasureError
from deepen.records import Source, TraceWarning
from deepen.tables import parse_csv_header
from deepen.traces.csv_columns import CsvTable
from deepen.traces.formats.deepen_folder import make_trace_info
from deepen.traces.manifest import TraceManifest
from deepen.traces.missing_samples import TimeScan, drop_missing_samples
from deepen.traces.types import ReportedWindow, TraceFormat, TraceInfo

__all__ = ["FORMAT", "CsvColumn", "PlainCsvFile", "parse_number_option", "parse_source_option"]

_UNITS: Mapping[str, Mapping[str, float]] = {
    "time": {"s": 1.0, "ms": 1e3, "us": 1e6, "µs": 1e6, "ns": 1e9},
    "power": {"W": 1.0, "mW": 1e3, "uW": 1e6, "µW": 1e6, "nW": 1e9, "kW": 1e-3},
    "current": {"A": 1.0, "mA": 1e3, "uA": 1e6, "µA": 1e6, "nA": 1e9},
    "voltage": {"V": 1.0, "mV": 1e3, "uV": 1e6, "µV": 1e6},
}
"""Role -> unit -> number of that unit in one SI unit (dividing by a whole number rounds only once)."""

_NAMES = {
    "time": ("t", "time", "timestamp", "elapsed", "elapsed_time"),
    "power": ("p", "power", "total_power"),
    "current": ("i", "current"),
    "voltage": ("v", "u", "voltage"),
}


_FACTS_START = ',"{""format"": ""deepen-trace""'
"""Start of the metadata in a CSV file written by deepen: the last column, quoted."""


@dataclass(frozen=True, slots=True)
class CsvColumn:
    """A column and its unit.

    Attributes:
        name: Its name in the header.
        per_si: Number of its unit in one SI unit.
    """

    name: str
    per_si: float


def parse_number_option(options: Mapping[str, str], name: str, path: Path) -> float:
    """Parse an option that is a number above zero; 0 where it is not given.

    Raises:
        ConfigError: If it is not such a number.
    """
    text = options.get(name)
    if text is None:
        return 0.0
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{path}: {name} must be a number above zero, not '{text}'")
    return value


def parse_source_option(text: str, path: Path) -> Source:
    """Parse the label of a trace: measured, modelled or simulated.

    Raises:
        ConfigError: If it is another word.
    """
    if text == "measured":
        return "measured"
    if text == "modelled":
        return "modelled"
    if text == "simulated":
        return "simulated"
    raise ConfigError(f"{path}: source must be measured, modelled or simulated, not '{text}'")


def _get_unit_factor(role: str, text: str) -> float | None:
    units = _UNITS[role]
    return units.get(text.replace("μ", "µ"))


def _parse_declared_unit(role: str, name: str) -> float | None:
    """Return a header's unit (``power_mw``, ``power (mW)``) as its number in one SI unit; ``None`` if it has none."""
    match = re.fullmatch(r"(.+?)\s*[\[(]\s*([^\])]+?)\s*[\])]", name)
    if match:
        base, unit = match[1], _get_unit_factor(role, match[2])
    else:
        base, _, suffix = name.rpartition("_")
        lower = {u.lower(): n for u, n in _UNITS[role].items()}
        unit = lower.get(suffix.lower())
    known = base.strip().lower().replace(" ", "_") in _NAMES[role]
    return unit if known else None


def _choose_column(role: str, names: list[str], option: str | None, path: Path) -> CsvColumn | None:
    """Choose the column of a role: the one the option names, else the only header that declares it.

    Raises:
        ConfigError: If the option names no column or unit, or several headers fit.
    """
    if option is not None:
        name, _, unit_name = option.rpartition(":")
        unit = _get_unit_factor(role, unit_name)
        if not name or unit is None:
            raise ConfigError(
                f"{path}: {role}={option}: write {role}=COLUMN:UNIT with a unit of {', '.join(_UNITS[role])}"
            )
        if names.count(name) != 1:
            raise ConfigError(f"{path}: has {names.count(name)} columns '{name}'; its columns: {', '.join(names)}")
        return CsvColumn(name, unit)
    found = [CsvColumn(n, unit) for n in names if (unit := _parse_declared_unit(role, n)) is not None]
    if len(found) > 1:
        raise ConfigError(
            f"{path}: several columns declare a {role} ({', '.join(c.name for c in found)}); say {role}=COLUMN:UNIT"
        )
    return found[0] if found else None


@dataclass(frozen=True, slots=True)
class PlainCsvFile:
    """An opened CSV file; see :class:`~deepen.traces.types.TraceFile`.

    Attributes:
        info: Facts found by scanning it.
        table: Its rows.
        roles: Role -> column.
        voltage_v: Supply voltage where there is no column for it.
        rate_hz: Above 0 where rows are numbered instead of time-stamped.
        logic: True if a column ``logic`` holds digital inputs.
    """

    info: TraceInfo
    table: CsvTable
    roles: Mapping[str, CsvColumn]
    voltage_v: float = 0.0
    rate_hz: float = 0.0
    logic: bool = False

    def rows(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint8] | None]]:
        """Yield times, powers (``nan`` where missing) and digital inputs of all rows, block by block."""
        roles = list(self.roles)
        done = 0
        for block in self.table.blocks([*(self.roles[r].name for r in roles), *(["logic"] if self.logic else [])]):
            value = {r: column / self.roles[r].per_si for r, column in zip(roles, block, strict=False)}
            t_s = (done + np.arange(block[0].size)) / self.rate_hz if self.rate_hz else value["time"]
            power_w = value["power"] if "power" in value else value["current"] * value.get("voltage", self.voltage_v)
            done += block[0].size
            yield (
                t_s,
                np.where(np.isfinite(power_w), power_w, np.nan),
                _check_logic_inputs(block[-1], self) if self.logic else None,
            )

    def blocks(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint8] | None]]:
        """See :class:`~deepen.traces.types.TraceFile`."""
        for block in self.rows():
            yield drop_missing_samples(*block)

    def windows(self) -> tuple[ReportedWindow, ...]:
        """None: a table holds samples only."""
        return ()


def _check_logic_inputs(column: NDArray[np.float64], file: PlainCsvFile) -> NDArray[np.uint8]:
    if not bool(np.all((column >= 0) & (column <= 255) & (column == np.floor(column)))):
        raise MeasureError(f"{file.table.path}: column 'logic' must hold whole numbers from 0 to 255")
    return column.astype(np.uint8)


@dataclass(frozen=True, slots=True)
class _CsvFacts:
    """Metadata that a CSV file written by deepen carries beside its numbers."""

    meter: str = ""
    source: str = ""
    manifest: TraceManifest | None = None


def _read_csv_facts(path: Path, delimiter: str, names: list[str]) -> _CsvFacts:
    """Read the columns ``meter``, ``source`` and ``facts`` of the first row."""
    with path.open(encoding="utf-8-sig", newline="", errors="replace") as file:
        file.readline()
        line = file.readline().rstrip("\r\n")
    facts = line.find(_FACTS_START) if names[-1:] == ["facts"] else -1
    manifest = None
    if facts >= 0:  # not through the csv module, whose fields end at 128 KiB
        manifest = TraceManifest.load(line[facts + 2 : -1].replace('""', '"'), path)
        line = line[:facts]
    row = dict(zip(names, next(csv.reader([line], delimiter=delimiter), []), strict=False))
    return _CsvFacts(row.get("meter", "").strip(), row.get("source", "").strip(), manifest)


def _open(path: Path, options: Mapping[str, str]) -> PlainCsvFile:
    with path.open("rb") as file:
        delimiter, names = parse_csv_header(file.read(1 << 16))
    roles = {r: c for r in _UNITS if (c := _choose_column(r, names, options.get(r), path)) is not None}
    voltage_v, rate_hz = parse_number_option(options, "voltage_v", path), parse_number_option(options, "rate_hz", path)
    if rate_hz:
        roles.pop("time", None)
    elif "time" not in roles:
        raise ConfigError(
            f"{path}: no column declares a time ({', '.join(names)}); say time=COLUMN:UNIT, or rate_hz=N without one"
        )
    if "power" in roles:
        if voltage_v:
            raise ConfigError(f"{path}: voltage_v is not needed where column '{roles['power'].name}' holds the power")
        roles = {r: c for r, c in roles.items() if r in ("time", "power")}
    elif "current" not in roles:
        raise ConfigError(
            f"{path}: no column declares a power or a current ({', '.join(names)}); say power=COLUMN:UNIT"
        )
    elif "voltage" in roles and voltage_v:
        raise ConfigError(f"{path}: give voltage_v only where there is no column of it ('{roles['voltage'].name}')")
    elif "voltage" not in roles and not voltage_v:
        raise ConfigError(
            f"{path}: a current without a voltage is no power; say voltage=COLUMN:UNIT or voltage_v=VOLTS"
        )
    facts = _read_csv_facts(path, delimiter, names)
    table = CsvTable.open(path, names, delimiter, numbers=[c.name for c in roles.values()])
    opened = PlainCsvFile(_make_empty_info(path), table, roles, voltage_v, rate_hz, names.count("logic") == 1)
    return replace(opened, info=_scan_rows(opened, facts, options))


def _make_empty_info(path: Path) -> TraceInfo:
    return TraceInfo(path, FORMAT.name, "", "", "measured", 0.0, 0)


def _scan_rows(file: PlainCsvFile, facts: _CsvFacts, options: Mapping[str, str]) -> TraceInfo:
    """Scan the rows once for the facts of the trace, with the warnings they give rise to."""
    path = file.table.path
    scan = TimeScan(path, file.rate_hz or (facts.manifest.header.rate_hz if facts.manifest else 0.0))
    for t_s, power_w, _ in file.rows():
        scan.feed(t_s, power_w)
    if not scan.samples:
        raise MeasureError(f"{path}: has no rows with a value; record again")
    if facts.manifest is not None:
        info = make_trace_info(path, FORMAT.name, facts.manifest, scan.samples, 0.0, 0.0)
        said = [*info.warnings, *file.table.warnings]
        written = sum(part.samples for part in facts.manifest.parts)
        if scan.samples != written:
            text = f"cut short: {scan.samples} of {written} samples are left; restore it from a copy"
            said.append(TraceWarning("loss", text))
        return replace(
            info, start_s=scan.start_s, end_s=scan.end_s, warnings=tuple(said), complete=scan.samples == written
        )
    warnings = []
    label = options.get("source") or facts.source
    if not label:
        text = "the file does not say where its numbers come from; taken as measured (say source=...)"
        warnings.append(TraceWarning("trace", text))
    meter = options.get("meter") or facts.meter or path.stem
    source = parse_source_option(label or "measured", path)
    info = TraceInfo(path, FORMAT.name, meter, "as in the file", source, 0.0, 0, logic=file.logic)
    return scan.complete_info(info, file.table.warnings, warnings, rate_hz=file.rate_hz)


def _matches(path: Path, head: bytes) -> bool:
    """Return whether the file is text whose first line has at least two columns, one of them named."""
    if b"\0" in head:
        return False
    try:
        head[: head.rfind(b"\n") + 1].decode("utf-8-sig")
    except UnicodeDecodeError:
        return False
    _, names = parse_csv_header(head)
    return len(names) > 1 and any(re.search(r"[A-Za-z]", n) for n in names)


FORMAT = TraceFormat(
    name="csv",
    title="CSV with declared units (t_s,power_w; power (mW); or columns named by options)",
    matches=_matches,
    open=_open,
    options=("time", "power", "current", "voltage", "voltage_v", "rate_hz", "source", "meter"),
)
