"""Importer of EC-NAS: energy of *training* the cells of a small space, three repeats each.

::

    train_results_4V.tar.gz, or what is in it: .../HASH/repeat_N/results.json

One record per cell: the energy of one training over the epochs of the folder's name (``4_epochs``), not of an
inference, and every record says so. Processors and the graphics card were read by their own counters; their joules
are summed. The kWh beside them hold a factor for the data centre (PUE 1.59) and serve as a check only. Records have no
kernels, so nothing is trained on them; their repeats show how well training energy repeats.
"""

from __future__ import annotations

import json
import math
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from deepen.datasets.importers.base import ImportNote, ImportResult, SourceMetadata, SourceRow, make_model_record
from deepen.errors import DatasetError
from deepen.records import EnergyRecord

__all__ = ["read"]

KWH_J = 3.6e6

PUE = 1.59
"""Overhead of the data centre in the kWh of the files (carbontracker's mean of 2020)."""

TOLERANCE = 0.03
"""Share by which kWh over PUE and the sum of joules may differ."""

MAX_FILE_BYTES = 1 << 22

_PLACE = re.compile(r"(?P<epochs>\d+)_epochs/(?:.*/)?(?P<cell>[0-9a-f]{32})/repeat_(?P<repeat>\d+)/results\.json$")


def read(folder: Path) -> ImportResult:
    """Read an archive, a folder with archives, or an unpacked folder.

    Raises:
        DatasetError: If there are no results in it, or an archive is damaged.
    """
    archives = [folder] if folder.is_file() else sorted(folder.glob("*.tar.gz"))
    cells: dict[tuple[int, str], list[tuple[float, float]]] = {}
    devices: dict[tuple[int, str], str] = {}
    rejected: list[ImportNote] = []
    for name, text in _read_result_files(folder, archives):
        place = _PLACE.search(name)
        if place is None:
            continue
        key = int(place["epochs"]), place["cell"]
        label = f"{place['cell']}/repeat_{place['repeat']}"
        found = _parse_result(text)
        if isinstance(found, str):
            rejected.append(ImportNote(label, found))
            continue
        joules, seconds, device = found
        cells.setdefault(key, []).append((joules, seconds))
        devices.setdefault(key, device)
    if not cells and not rejected:
        raise DatasetError(f"{folder}: no .../N_epochs/.../HASH/repeat_N/results.json there, packed or not")
    records: list[EnergyRecord] = []
    for (epochs, cell), repeats in sorted(cells.items()):
        energies = [joules for joules, _ in repeats]
        spread = stdev(energies) / math.sqrt(len(energies)) if len(energies) > 1 else math.nan
        origin = SourceMetadata(
            device=devices[epochs, cell], meter="nvml+rapl", runtime="training",
            runtime_build=f"training, {epochs} epochs", gross=True,
            warnings=(f"energy and time of one training over {epochs} epochs, not of an inference",),
        )  # fmt: skip
        row = SourceRow(
            cell, f"cell {cell} trained {epochs} epochs", fmean(energies), fmean(s for _, s in repeats),
            spread_j=spread, trials=tuple(energies), runs=len(energies),
        )  # fmt: skip
        records.append(make_model_record(row, origin, ()))
    return ImportResult(tuple(records), (), tuple(rejected))


def _read_result_files(folder: Path, archives: list[Path]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of every results.json."""
    for archive in archives:
        try:
            with tarfile.open(archive, "r:*") as tar:
                for member in tar:
                    if member.isfile() and member.name.endswith("results.json") and member.size <= MAX_FILE_BYTES:
                        stream = tar.extractfile(member)
                        yield member.name, stream.read() if stream else b""
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DatasetError(f"{archive}: not a readable archive ({error}); fetch it again") from error
    if folder.is_dir():
        for path in sorted(folder.rglob("results.json")):
            yield path.as_posix(), path.read_bytes()


def _parse_result(text: bytes) -> tuple[float, float, str] | str:
    """Parse joules, seconds and device of one training; returns the reason instead if the file is unusable."""
    try:
        document: dict[str, Any] = json.loads(text)
        usage = document["avg_power_usages:"]
        joules = 0.0
        names: list[str] = []
        for part in ("gpu", "cpu"):
            joules += sum(float(value) for values in usage[part]["avg_energy_usages (J)"] for value in values)
            names += [str(name).strip() for name in usage[part]["devices"]]
        seconds, kwh = float(document["total_time"]), float(document["total_energy (kWh)"])
    except (ValueError, KeyError, TypeError) as error:
        return f"damaged or incomplete ({type(error).__name__}: {error})"
    if not (joules > 0 and seconds > 0 and math.isfinite(joules) and math.isfinite(seconds)):
        return f"energy is {joules:g} J over {seconds:g} s"
    ratio = kwh * KWH_J / PUE / joules
    if abs(ratio - 1) > TOLERANCE:
        return f"kWh over PUE is {ratio:.3g} times the joules of its processors and graphics card"
    return joules, seconds, ", ".join(names)
