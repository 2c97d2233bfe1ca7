"""Importer of NAS-Bench-201 networks on a Raspberry Pi 5: the table of HW-NAS-Bench-360.

::

    measurements.parquet   arch_idx, rep_arch_idx, device, framework, task, lat_ms_median, lat_ms_var, energy_mj, status
    arch_idx_to_str.csv    arch_idx, arch_str: the cell of every index

Each row becomes a whole model with the kernels its network is split into, for LiteRT by the rules of TensorFlow Lite on
the CPU, for ONNX Runtime as it splits. Networks that compute the same were measured once and share the figures of their
representative (``rep_arch_idx``): copies are rejected, so that none is counted twice.

Energies are net of idle power, of the core rail alone, as read from the board's power management (VDD_CORE, nominal
100 Hz); one thread, float32, batch 1. No repeats were published, so the uncertainty is not known; the authors' own log
of stability shows a coefficient of variation of 3 to 4 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepen.datasets.importers.base import (
    ImportNote,
    ImportResult,
    SourceMetadata,
    SourceRow,
    make_model_record,
    require_path,
)
from deepen.datasets.stored_features import make_model_kernel
from deepen.errors import DatasetError
from deepen.records import EnergyRecord
from deepen.spaces.nasbench201_kernels import count_kernels
from deepen.tables import read_csv_rows

__all__ = ["read"]

HOLDS = "measurements.parquet and arch_idx_to_str.csv"

CLASSES = {"cifar10": (10, 32), "cifar100": (100, 32), "ImageNet16-120": (120, 16), "imagenet16-120": (120, 16)}
"""Task -> classes and image size of its networks."""

RUNTIMES = {"litert": ("tflite-cpu", "litert float32"), "onnx": ("onnxruntime", "onnxruntime float32")}
"""Framework of the table -> how its networks are split, and the build as far as it is known."""

_COLUMNS = ("arch_idx", "rep_arch_idx", "device", "framework", "task", "lat_ms_median", "energy_mj")

_Group = tuple[str, str, str]


def read(folder: Path) -> ImportResult:
    """Read the folder.

    Raises:
        DatasetError: If it is not of this layout, or a file is damaged.
    """
    cells = _read_cells(require_path(folder, "arch_idx_to_str.csv", "pi5-nasbench201", HOLDS))
    table = _read_table(require_path(folder, "measurements.parquet", "pi5-nasbench201", HOLDS))
    groups: dict[_Group, list[dict[str, Any]]] = {}
    for row in table:
        groups.setdefault((str(row["device"]), str(row["framework"]), str(row["task"])), []).append(row)
    records: list[EnergyRecord] = []
    rejected: list[ImportNote] = []
    for group, rows in sorted(groups.items()):
        part = _convert_group(group, rows, cells)
        records += part.records
        rejected += part.rejected
    return ImportResult(tuple(records), (), tuple(rejected))


def _convert_group(group: _Group, rows: Sequence[dict[str, Any]], cells: dict[int, str]) -> ImportResult:
    """Convert the rows of one device, framework and task.

    1. Reject all rows of a combination whose runtime is not known.
    2. Keep one row of the cells that compute the same; reject the others, and unusable rows, each with a reason.
    3. Count the kernels of all cells at once, and make a record of each.
    """
    device, framework, task = group
    # 1. Combinations that are not known.
    if framework not in RUNTIMES or task not in CLASSES:
        reason = f"framework '{framework}' with task '{task}': how it runs these networks is not known"
        return ImportResult((), (), tuple(ImportNote(_make_id(group, row["arch_idx"]), reason) for row in rows))
    runtime, build = RUNTIMES[framework]
    origin = SourceMetadata(
        device=device, meter="vdd-core", runtime=runtime, runtime_build=f"{build}, {task}", threads=1,
        warnings=("energy of the core rail alone",),
    )  # fmt: skip
    # 2. One row of the cells that compute the same.
    rejected: list[ImportNote] = []
    kept: dict[int, tuple[SourceRow, str]] = {}
    for row in sorted(rows, key=lambda row: (row["arch_idx"] != row["rep_arch_idx"], row["arch_idx"])):
        name = _make_id(group, row["arch_idx"])
        reason = _find_rejection_reason(row, cells)
        representative = int(row["rep_arch_idx"])
        if not reason and representative in kept:
            first = kept[representative][0]
            same = math.isclose(first.energy_j, row["energy_mj"] * 1e-3, rel_tol=1e-9)
            reason = f"computes the same as {first.id} and " + (
                "shares its measurement" if same else "was to share its measurement, but has another energy"
            )
        if reason:
            rejected.append(ImportNote(name, reason))
            continue
        cell = cells[int(row["arch_idx"])]
        energy_j, latency_s = row["energy_mj"] * 1e-3, row["lat_ms_median"] * 1e-3
        kept[representative] = (SourceRow(name, cell, energy_j, latency_s), cell)
    # 3. Kernels and records.
    order = sorted(kept)
    kernels, counts = count_kernels([kept[i][1] for i in order], runtime, *CLASSES[task])
    parts: dict[tuple[int, int], Any] = {}
    records = []
    for line, i in zip(counts, order, strict=True):
        for column in line.nonzero()[0]:
            key = int(column), int(line[column])
            if key not in parts:
                parts[key] = make_model_kernel(kernels[key[0]], key[1])
        found = [parts[int(column), int(line[column])] for column in line.nonzero()[0]]
        records.append(make_model_record(kept[i][0], origin, found))
    return ImportResult(tuple(records), (), tuple(rejected))


def _make_id(group: _Group, index: Any) -> str:
    return f"{group[1]}-{group[2]}-{index}"


def _find_rejection_reason(row: dict[str, Any], cells: dict[int, str]) -> str:
    """Return the reason to reject a row; empty if it is usable."""
    if str(row.get("status", "ok")) != "ok":
        return f"status is '{row['status']}'"
    if int(row["arch_idx"]) not in cells:
        return "its index is not in arch_idx_to_str.csv"
    energy, latency = row["energy_mj"], row["lat_ms_median"]
    if energy is None or not (math.isfinite(energy) and energy > 0):
        return f"energy is {energy} mJ, not a positive number"
    if latency is None or not (math.isfinite(latency) and latency > 0):
        return f"latency is {latency} ms, not a positive number"
    power = energy / latency
    if not 0.05 <= power <= 30:
        return f"net power is {power:.3g} W, which a Raspberry Pi does not draw"
    return ""


def _read_cells(path: Path) -> dict[int, str]:
    found: dict[int, str] = {}
    for line, row in read_csv_rows(path, ("arch_idx", "arch_str"))[1]:
        try:
            found[int(row["arch_idx"])] = row["arch_str"]
        except ValueError as error:
            raise DatasetError(f"{path}: line {line} has no whole number as arch_idx; fetch it again") from error
    return found


def _read_table(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, ValueError) as error:
        raise DatasetError(f"{path}: not a readable Parquet file ({error}); fetch it again") from error
    missing = [name for name in _COLUMNS if name not in table.column_names]
    if missing:
        raise DatasetError(f"{path}: lacks the column {', '.join(missing)}; it is no HW-NAS-Bench-360 table")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
