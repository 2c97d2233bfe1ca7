"""Importer of DeepEn2023's kernels of a phone's CPU, in the layout of the original download.

::

    Kernel_energy/TYPE_energy.json    {TYPE: {ID: {"energy": "mJ"}}}
    Kernel_latency/TYPE_latency.json  {TYPE: {ID: {"latency": "ms"}}}
    Kernel_power/TYPE_power.json      {TYPE: {ID: {"power": "mW"}}}
    kernel_config/results/*/*_test.json   {TYPE: {ID: {"config": {"HW": ..., "CIN": ..., ...}}}}

Files are joined on the six-character ids. The same kernels ran on several devices, so a file of configurations
published with another device (``conv_GPU.json``) may describe rows that lack a configuration; it can be named as well.
Energies are gross (the group's published code subtracts no idle power) and written to 0.001 mJ, which is kept as their
uncertainty: the smallest have one digit. Many rows have no configuration; their features are not known, so they are
rejected, after their values were checked like the others'.

Huawei P40 Pro, TensorFlow Lite on the big cores (Tu et al., "Unveiling Energy Efficiency in Deep Learning", SEC 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

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
    read_json,
    require_path,
)  # fmt: skip
from deepen.datasets.importers.consistency import ConsistencyRow, check_consistency
from deepen.datasets.importers.nn_meter_kernels import convert_configuration
from deepen.errors import ConfigError, DatasetError
from deepen.kernels.building.kernel_from_parameters import make_kernel_from_params
from deepen.kernels.families.catalog import check_params
from deepen.records import EnergyRecord

__all__ = ["join_measurements", "read", "read_kernel_configurations", "read_kernel_values"]

MILLI = 1e-3

HOLDS = "Kernel_energy/, Kernel_latency/, Kernel_power/ and kernel_config/"

ORIGIN = SourceMetadata(
    device="huawei-p40-pro",
    meter="monsoon",
    runtime="tflite-cpu",
    runtime_build="tflite cpu big cores",
    threads=4,
    gross=True,
)
"""Threads and cores as in the group's published scripts (``taskset f0``: the four big cores)."""


def read(folder: Path, configurations: Sequence[Path] = ()) -> ImportResult:
    """Read the folder.

    Args:
        folder: The download.
        configurations: Further files ``{TYPE: {ID: {"config": {...}}}}``, for rows the folder does not describe.

    Raises:
        DatasetError: If it is not of this layout, or a file is damaged.
    """
    energies = require_path(folder, "Kernel_energy", "deepen2023", HOLDS)
    known = _read_configurations(require_path(folder, "kernel_config", "deepen2023", HOLDS))
    further = _read_extra_configurations(configurations)
    files = sorted(energies.glob("*_energy.json"))
    if not files:
        raise DatasetError(f"{energies}: no TYPE_energy.json there; give the folder with {HOLDS}")
    records: list[EnergyRecord] = []
    repaired: list[ImportNote] = []
    rejected: list[ImportNote] = []
    lent = 0
    for file in files:
        kernel = file.name.removesuffix("_energy.json")
        energy = read_kernel_values(file, "energy")
        own = known.get(kernel, {})
        borrowed = {name: sizes for name, sizes in further.get(kernel, {}).items() if name in energy}
        lent += len(borrowed.keys() - own.keys())
        latency = read_kernel_values(folder / "Kernel_latency" / f"{kernel}_latency.json", "latency")
        power = read_kernel_values(folder / "Kernel_power" / f"{kernel}_power.json", "power")
        part = join_measurements(kernel, energy, latency, power, borrowed | own, ORIGIN)
        records += part.records
        repaired += part.repaired
        rejected += part.rejected
    notes = _list_notes(records, repaired)
    if configurations:
        notes = (*notes, f"{lent} rows have their configuration from {', '.join(p.name for p in configurations)}")
    return ImportResult(tuple(records), tuple(repaired), tuple(rejected), notes)


def _list_notes(records: list[EnergyRecord], repaired: list[ImportNote]) -> tuple[str, ...]:
    used = {record.id for record in records}
    only = sum(note.id not in used for note in repaired)
    return (f"{only} of the {len(repaired)} repaired rows were rejected for other reasons",) if only else ()


def join_measurements(
    kernel: str,
    energy: Mapping[str, str],
    latency: Mapping[str, str],
    power: Mapping[str, str],
    configurations: Mapping[str, Mapping[str, Any]],
    origin: SourceMetadata,
    where: str = "kernel_config",
) -> ImportResult:
    """Join, check and convert the rows of one type.

    1. Convert the configurations; those that are not kernels are noted with the reason.
    2. Make rows of energy, latency, power and work, and check them.
    3. Reject rows that fail the check or have no configuration; make records of the others.
    4. Reject configurations without an energy.

    Args:
        kernel: Type.
        energy: Id -> energy, mJ, as written.
        latency: Id -> latency, ms, as written; may lack some or all.
        power: Id -> power, mW, as written; may lack some or all.
        configurations: Id -> sizes.
        origin: Metadata common to all rows.
        where: Source of the configurations, for messages.
    """
    # 1
    known: dict[str, tuple[str, dict[str, Any]]] = {}
    rejected: list[ImportNote] = []
    reasons: dict[str, str] = {}
    for name, sizes in configurations.items():
        try:
            family, params = convert_configuration(kernel, sizes)
            known[name] = (family, check_params(family, params))
            make_kernel_from_params(*known[name])
        except ConfigError as error:
            known.pop(name, None)
            reasons[name] = describe_misfit(error)
    # 2
    energy_step = infer_column_step(energy.values()) * MILLI
    latency_step = infer_column_step(latency.values()) * MILLI
    rows = [
        ConsistencyRow(
            name, parse_number(text) * MILLI, parse_number(latency.get(name)) * MILLI,
                parse_number(power.get(name)) * MILLI,
            energy_step, latency_step, infer_resolution(latency.get(name, ""), MILLI), _compute_work(known.get(name)),
        )
        for name, text in energy.items()
    ]  # fmt: skip
    # 3
    repaired = []
    records = []
    for verdict in check_consistency(rows):
        row = verdict.row
        if verdict.repair:
            repaired.append(ImportNote(row.id, verdict.repair))
        reasons_of = [verdict.reject] if verdict.reject else []
        if row.id not in known:
            reasons_of.append(reasons.get(row.id, f"no configuration in {where}, so its features are not known"))
        if reasons_of:
            rejected.append(ImportNote(row.id, "; ".join(reasons_of)))
            continue
        family, params = known[row.id]
        label = f"{kernel} {row.id}"
        values = SourceRow(
            row.id, label, row.energy_j, row.latency_s, energy_step, warnings=_make_warnings(verdict.repair)
        )
        records.append(make_kernel_record(values, origin, family, params))
    # 4
    rejected += [ImportNote(name, "a configuration without an energy") for name in configurations if name not in energy]
    return ImportResult(tuple(records), tuple(repaired), tuple(rejected))


def _make_warnings(repair: str) -> tuple[str, ...]:
    return (f"repaired: {repair}",) if repair else ()


def _compute_work(known: tuple[str, Mapping[str, Any]] | None) -> tuple[float, ...]:
    if known is None:
        return ()
    kernel = make_kernel_from_params(*known)
    return float(kernel.macs), float(kernel.ops), float(kernel.bytes_read + kernel.bytes_written)


def read_kernel_values(path: Path, field: str) -> dict[str, str]:
    """Read id -> value of one file; empty if it does not exist.

    Raises:
        DatasetError: If the file is not of this layout.
    """
    if not path.exists():
        return {}
    return {
        name: str(entry[field]) for name, entry in _read_entries(path, field).items() if entry.get(field) is not None
    }


def _read_entries(path: Path, field: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for rows in _read_types(path, field).values():
        found.update(rows)
    return found


def _read_types(path: Path, field: str) -> dict[str, dict[str, dict[str, Any]]]:
    document = read_json(path)
    for rows in document.values() if isinstance(document, dict) else [None]:
        if not isinstance(rows, dict) or not all(isinstance(entry, dict) for entry in rows.values()):
            raise DatasetError(f'{path}: not of the layout {{TYPE: {{ID: {{"{field}": ...}}}}}}; fetch it again')
    return cast(dict[str, dict[str, dict[str, Any]]], document)


def _read_configurations(folder: Path) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Read type -> id -> sizes, of every file below a folder."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for path in sorted(folder.rglob("*_test.json")):
        found[path.name.removesuffix("_test.json")] = read_kernel_configurations(path)
    return found


def _read_extra_configurations(paths: Sequence[Path]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Read type -> id -> sizes of further files.

    Raises:
        DatasetError: If one is not of this layout, or holds no configuration.
    """
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for path in paths:
        types = {kernel: _extract_configurations(rows) for kernel, rows in _read_types(path, "config").items()}
        if not any(types.values()):
            raise DatasetError(f"{path}: holds no configurations; give a file like conv_GPU.json or TYPE_test.json")
        for kernel, rows in types.items():
            found.setdefault(kernel, {}).update(rows)
    return found


def _extract_configurations(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {name: entry["config"] for name, entry in entries.items() if isinstance(entry.get("config"), dict)}


def read_kernel_configurations(path: Path) -> dict[str, Mapping[str, Any]]:
    """Read id -> sizes of one file.

    Raises:
        DatasetError: If the file is not of this layout.
    """
    return _extract_configurations(_read_entries(path, "config"))
