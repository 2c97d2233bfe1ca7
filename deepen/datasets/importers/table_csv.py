"""Importer of users' own CSV files: one kernel per row, with a header.

========================  ==========================================================================================
column                    contents
========================  ==========================================================================================
``family``                the kernel family (``deepen kernel list``); the column may also be called ``OP`` or ``kernel``
a parameter of it         its value, named as ``deepen kernel list`` names it: ``c_in``, ``spatial``, ``stride``, ...;
                          lists as ``28x28`` or ``[28, 28]``; parameters with a default may be left out or empty
``energy_UNIT``           energy per inference; UNIT is J, mJ, uJ, nJ, Wh or kWh, in capitals or not
``latency_UNIT``          optional: wall time per inference, in s, ms, us or ns
``power_UNIT``            optional: mean power, in W or mW; checks energy and latency against each other
``uncertainty_UNIT``      optional: standard uncertainty of the energy, in the units of an energy
``id``                    optional: the row's name; its number where absent
``device``, ``meter``, ``runtime``, ``runtime_build``, ``threads``, ``source``
                          optional: conditions of the measurement; ``source`` is measured, modelled or simulated
========================  ==========================================================================================

Instead of parameters, a row may have the sizes of nn-Meter's builder (``HW, CIN, COUT, KERNEL_SIZE, STRIDES``), with
its names of kernels. A folder of such files is read file by file. Other columns are ignored. A row with an id that
occurred before is rejected, and so is a row that repeats another's configuration and figures to the last digit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from deepen.datasets.importers.base import (
    ImportNote,
    ImportResult,
    SourceMetadata,
    SourceRow,
    describe_misfit,
    infer_column_step,
    infer_resolution,
    make_kernel_record,
    parse_number,
)
from deepen.datasets.importers.consistency import ConsistencyRow, check_consistency
from deepen.datasets.importers.nn_meter_kernels import convert_configuration
from deepen.errors import ConfigError, DatasetError
from deepen.kernels.building.kernel_from_parameters import make_kernel_from_params
from deepen.kernels.families.catalog import check_params, load_families
from deepen.kernels.types import hash_params
from deepen.records import EnergyRecord, RecordLabel
from deepen.tables import read_csv_cells

__all__ = ["read"]

ENERGY = {"j": 1.0, "mj": 1e-3, "uj": 1e-6, "µj": 1e-6, "nj": 1e-9, "wh": 3600.0, "kwh": 3.6e6}
TIME = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
POWER = {"w": 1.0, "mw": 1e-3}

_FAMILY = ("family", "op", "kernel")
_SIZES = frozenset({"HW", "CIN", "COUT", "KERNEL_SIZE", "STRIDES", "POOL_STRIDES", "CIN1", "CIN2", "CIN3", "CIN4"})
_ORIGIN = ("device", "meter", "runtime", "runtime_build", "source")


@dataclass(frozen=True, slots=True)
class _CsvColumnNames:
    """Column names of each quantity, with the factor to SI units."""

    family: str
    energy: tuple[str, float]
    latency: tuple[str, float]
    power: tuple[str, float]
    uncertainty: tuple[str, float]
    id: str


def read(folder: Path) -> ImportResult:
    """Read a file, or every ``.csv`` of a folder.

    Raises:
        DatasetError: If there is none, or a file lacks its family or energy column.
    """
    files = sorted(folder.glob("*.csv")) if folder.is_dir() else [folder]
    if not files:
        raise DatasetError(f"{folder}: no .csv file there; give one with the columns family, parameters, energy_UNIT")
    records: list[EnergyRecord] = []
    repaired: list[ImportNote] = []
    rejected: list[ImportNote] = []
    for file in files:
        part = _read_file(file, f"{file.stem}-" if len(files) > 1 else "")
        records += part.records
        repaired += part.repaired
        rejected += part.rejected
    return ImportResult(tuple(records), tuple(repaired), tuple(rejected))


def _read_file(path: Path, prefix: str) -> ImportResult:
    """Read one file.

    1. Find the columns and their rounding steps.
    2. Convert each configuration to a kernel; rows that are not kernels are rejected.
    3. Reject rows that repeat an id, or the configuration and figures of an earlier row.
    4. Check energy, latency and power of the others, family by family, and make records.
    """
    # 1
    names, lines = read_csv_cells(path, long_lines=True)
    long = {line for line, cells in lines if len(cells) > len(names)}
    rows = [(line, dict(zip(names, cells, strict=False))) for line, cells in lines]
    if not rows:
        return ImportResult((), (), (ImportNote(path.name, "the file has a header and no rows"),))
    columns = _find_columns(path, rows[0][1])
    energy_step = infer_column_step(row[columns.energy[0]] for _, row in rows) * columns.energy[1]
    latency_step = infer_column_step(row.get(columns.latency[0], "") for _, row in rows) * columns.latency[1]
    rejected: list[ImportNote] = []
    known: dict[str, tuple[str, dict[str, Any], Mapping[str, str]]] = {}
    families: dict[str, list[ConsistencyRow]] = {}
    seen: dict[tuple[str, ...], str] = {}
    for line, row in rows:
        # 2
        name = prefix + (row.get(columns.id, "").strip() or f"line-{line}")
        try:
            if line in long:
                raise ConfigError("more values than the header has columns")
            family, params = _parse_configuration(row[columns.family].strip(), row)
            kernel = make_kernel_from_params(family, params)
        except ConfigError as error:
            rejected.append(ImportNote(name, describe_misfit(error)))
            continue
        # 3
        figures = (
            hash_params(family, params), row[columns.energy[0]].strip(),
            *(row.get(column, "").strip() for column in (columns.latency[0], *_ORIGIN)),
        )  # fmt: skip
        if name in known or figures in seen:
            same = f"the id of line {line} was there before" if name in known else f"a copy of {seen[figures]}"
            rejected.append(ImportNote(name, f"{same}: the first is kept"))
            continue
        seen[figures] = name
        known[name] = (family, params, row)
        work = (float(kernel.macs), float(kernel.ops), float(kernel.bytes_read + kernel.bytes_written))
        families.setdefault(family, []).append(
            ConsistencyRow(
                name,
                parse_number(row[columns.energy[0]]) * columns.energy[1],
                parse_number(row.get(columns.latency[0])) * columns.latency[1],
                parse_number(row.get(columns.power[0])) * columns.power[1],
                energy_step,
                latency_step,
                infer_resolution(row.get(columns.latency[0], ""), columns.latency[1]),
                work,
            )
        )
    # 4
    return _make_consistent_records(path, columns, families, known, energy_step, rejected)


def _make_consistent_records(
    path: Path,
    columns: _CsvColumnNames,
    families: Mapping[str, Sequence[ConsistencyRow]],
    known: Mapping[str, tuple[str, dict[str, Any], Mapping[str, str]]],
    energy_step: float,
    rejected: list[ImportNote],
) -> ImportResult:
    repaired: list[ImportNote] = []
    records: list[EnergyRecord] = []
    for rows in families.values():
        for verdict in check_consistency(rows):
            checked = verdict.row
            if verdict.repair:
                repaired.append(ImportNote(checked.id, verdict.repair))
            if verdict.reject:
                rejected.append(ImportNote(checked.id, verdict.reject))
                continue
            family, params, row = known[checked.id]
            latency_s = checked.latency_s
            if not math.isfinite(latency_s) and math.isfinite(checked.power_w):
                latency_s = checked.energy_j / checked.power_w
            values = SourceRow(
                checked.id, f"{row[columns.family].strip()} {checked.id}", checked.energy_j, latency_s, energy_step,
                parse_number(row.get(columns.uncertainty[0])) * columns.uncertainty[1],
                warnings=(f"repaired: {verdict.repair}",) if verdict.repair else (),
            )  # fmt: skip
            try:
                records.append(make_kernel_record(values, _parse_origin(path, row), family, params))
            except ConfigError as error:
                rejected.append(ImportNote(checked.id, str(error)))
    return ImportResult(tuple(records), tuple(repaired), tuple(rejected))


def _find_columns(path: Path, row: Mapping[str, str]) -> _CsvColumnNames:
    """Find the columns.

    Raises:
        DatasetError: If there is no family or not exactly one energy.
    """
    lower = {name.strip().lower(): name for name in row}
    family = next((lower[name] for name in _FAMILY if name in lower), None)
    if family is None:
        raise DatasetError(f"{path}: no column 'family'; each row needs the kernel family it is (deepen kernel list)")

    def find(what: str, units: Mapping[str, float], needed: bool = False) -> tuple[str, float]:
        hits = [(lower[f"{what}_{unit}"], factor) for unit, factor in units.items() if f"{what}_{unit}" in lower]
        if len(hits) > 1 or (needed and not hits):
            many = f"has {' and '.join(name for name, _ in hits)}; keep one" if hits else f"lacks {what}_UNIT"
            names = ", ".join(f"{what}_{unit}" for unit in units if unit.isascii())
            raise DatasetError(f"{path}: {many}; the unit is part of the name: {names}")
        return hits[0] if hits else ("", 1.0)

    return _CsvColumnNames(
        family, find("energy", ENERGY, needed=True), find("latency", TIME), find("power", POWER),
        find("uncertainty", ENERGY), lower.get("id", ""),
    )  # fmt: skip


def _parse_configuration(name: str, row: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """Parse family and parameters of a row: the family's own parameters, or nn-Meter's sizes."""
    sizes = {key: parse_number(value) for key, value in row.items() if key in _SIZES and str(value).strip()}
    if sizes:
        family, params = convert_configuration(name, sizes)
        return family, check_params(family, params)
    spec = load_families().get(name)
    if spec is None:
        known = ", ".join(load_families())
        raise ConfigError(f"no kernel family '{name}'; families are {known}")
    given = {
        key: _parse_value(row[key].strip(), param.type)
        for key, param in spec.schema.items()
        if row.get(key, "").strip()
    }
    return name, check_params(name, given)


def _parse_value(text: str, kind: str) -> Any:
    """Parse a cell to a value of a parameter's type; any other text is returned as it is, for the check to report."""
    if kind == "bool":
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(text.lower(), text)
    if kind in ("str", "dtype"):
        return text
    if kind in ("ints", "shape") and "[" not in text:
        text = f"[{','.join(text.lower().replace('x', ' ').replace(',', ' ').replace(';', ' ').split())}]"
    try:
        return json.loads(text)
    except ValueError:
        return text


def _parse_origin(path: Path, row: Mapping[str, str]) -> SourceMetadata:
    """Parse the description of the measurement in a row."""
    origin = SourceMetadata(
        device=path.stem, meter="unknown", runtime="unknown", runtime_build="unknown", source="measured"
    )
    given: dict[str, Any] = {name: row[name].strip() for name in _ORIGIN if row.get(name, "").strip()}
    if given.get("source", "measured") not in get_args(RecordLabel):
        raise ConfigError(f"source is '{given['source']}', not one of {', '.join(get_args(RecordLabel))}")
    threads = parse_number(row.get("threads"))
    if math.isfinite(threads) and threads >= 1:
        given["threads"] = round(threads)
    if "runtime" in given:
        given.setdefault("runtime_build", given["runtime"])
    return replace(origin, **given)
