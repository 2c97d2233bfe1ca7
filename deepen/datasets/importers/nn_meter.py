"""Importer of nn-Meter's measured model latencies: 26,000 networks on four devices, without energies.

::

    model_latency/DEVICE/FAMILY-log.csv   number, model, latency (ms), standard deviation (ms)[, relative spread (%)]

No energies were measured, so ``energy_j`` of these records is ``nan``; steps that need energies skip them. A model
measured again has ``#2`` behind its name. The networks themselves are not part of the files, so the records have no
kernels either.
"""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

from deepen.datasets.importers.base import (
    ImportNote,
    ImportResult,
    SourceMetadata,
    SourceRow,
    make_model_record,
    parse_number,
    require_path,
)
from deepen.records import EnergyRecord

__all__ = ["read"]

DEVICES = {
    "cpu": SourceMetadata("pixel4-cortex-a76", "none", "tflite-cpu", "tflite 2.1 cpu", threads=1),
    "gpu": SourceMetadata("mi9-adreno-640", "none", "tflite-gpu", "tflite 2.1 gpu", threads=1),
    "gpu1": SourceMetadata("pixel3xl-adreno-630", "none", "tflite-gpu", "tflite 2.1 gpu", threads=1),
    "vpu": SourceMetadata("intel-ncs2-myriad", "none", "openvino-vpu", "openvino 2019r2", threads=1),
}
"""Folder -> device and runtime (nn-Meter's table of predictors)."""

MILLI = 1e-3


def read(folder: Path) -> ImportResult:
    """Read the folder.

    Raises:
        DatasetError: If it is not of this layout.
    """
    place = require_path(folder, "model_latency", "nn-meter", "model_latency/")
    records: list[EnergyRecord] = []
    rejected: list[ImportNote] = []
    for device in sorted(path for path in place.iterdir() if path.is_dir()):
        origin = DEVICES.get(device.name)
        if origin is None:
            rejected.append(ImportNote(device.name, "a device nn-Meter's table does not name"))
            continue
        seen: dict[str, list[float]] = {}
        for path in sorted(device.glob("*-log.csv")):
            with path.open(encoding="utf-8", newline="") as file:
                for line, cells in enumerate(csv.reader(file), 1):
                    found = _parse_row(device.name, cells)
                    where = f"{device.name}/{path.stem}:{line}"
                    if isinstance(found, str):
                        rejected.append(ImportNote(where, found))
                        continue
                    latencies = seen.setdefault(found.id, [])
                    if found.latency_s in latencies:
                        rejected.append(
                            ImportNote(where, f"a copy: {found.name} was there before with the same latency")
                        )
                        continue
                    latencies.append(found.latency_s)
                    if len(latencies) > 1:
                        found = replace(found, id=f"{found.id}#{len(latencies)}")
                    records.append(make_model_record(found, origin, ()))
    notes = ("latencies only: no energy was measured, and none is made up",) if records else ()
    return ImportResult(tuple(records), (), tuple(rejected), notes)


def _parse_row(device: str, cells: list[str]) -> SourceRow | str:
    """Parse a line; returns the reason instead if it is unusable."""
    if len(cells) not in (4, 5):
        return f"has {len(cells)} values instead of 4 or 5: a torn line"
    name, latency, deviation = cells[1].strip(), parse_number(cells[2]), parse_number(cells[3])
    if not name:
        return "has no model name"
    if not (latency > 0 and math.isfinite(latency)):
        return f"latency is '{cells[2]}', not a positive number"
    spread = (f"standard deviation of the latency is {deviation:.4g} ms",) if deviation >= 0 else ()
    return SourceRow(f"{device}/{name}", name, math.nan, latency * MILLI, warnings=spread)
