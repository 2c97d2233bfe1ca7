"""Reader of EC-NAS: training energy of NAS-Bench-101 cells, one JSON file each (github.com/saintslab/EC-NAS-Bench).

::

    .../graphs/generated_graphs_*.json                     hash -> adjacency matrix and operations
    .../N_epochs/HH/HASH/repeat_K/results.json             one training
    .../N_epochs/HH/HASH/results.json                      the same, of a single training

Energies in kilowatt-hours contain the PUE of 1.59 that its authors multiply by (arXiv 2210.06015, section 3); joules
per device do not. Both are kept, and the description of each column says so. Checkpoints are the epochs at which the
figures were taken.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from deepen.errors import DatasetError
from deepen.records import RecordLabel
from deepen.search.table.build import assemble_table, format_utc_now
from deepen.search.table.table import BenchmarkTable
from deepen.search.table.types import TableColumn, TableManifest
from deepen.spaces import open_space
from deepen.spaces.nasbench101_networks import OPERATIONS, NasBench101Cell

__all__ = ["PUE", "read_ecnas"]

PUE = 1.59
"""Power usage effectiveness in the kilowatt-hours: the global mean of 2020 (the paper's section 3)."""

KWH_J = 3.6e6
_RESULT = re.compile(r"(\d+)_epochs/[0-9a-f]{2}/([0-9a-f]{32})/(?:repeat_(\d+)/)?results\.json$")
_GRAPHS = re.compile(r"generated_graphs_\w+\.json$")
_LARGEST = 64 * 2**20

_COLUMNS = (
    TableColumn("total_energy_j", "J", "min", "published", "whole training, GPU and processors, with PUE", PUE),
    TableColumn("device_energy_j", "J", "min", "published", "whole training, GPU and processors as read, without PUE"),
    TableColumn("gpu_energy_j", "J", "min", "published", "whole training, GPU, without PUE"),
    TableColumn("cpu_energy_j", "J", "min", "published", "whole training, processors and their memory, without PUE"),
    TableColumn("energy_j", "J", "min", "published", "training up to the checkpoint, with PUE", PUE),
    TableColumn("co2_g", "g", "min", "published", "of total_energy_j, at the grid's intensity then", PUE),
    TableColumn("intensity_g_per_kwh", "g/kWh", "", "published", "carbon intensity of the grid during training"),
    TableColumn("mean_power_w", "W", "", "published", "of GPU and processors, without PUE"),
    TableColumn("training_time_s", "s", "min", "published", "up to the checkpoint"),
    TableColumn("total_time_s", "s", "min", "published", "whole training with evaluation"),
    TableColumn("predict_time_s", "s", "min", "published", "of an evaluation"),
    TableColumn("train_accuracy", "", "max", "published"),
    TableColumn("validation_accuracy", "", "max", "published"),
    TableColumn("test_accuracy", "", "max", "published"),
    TableColumn("parameters", "", "", "", "trainable"),
)


def read_ecnas(path: Path, space: str | None, source: RecordLabel) -> BenchmarkTable:
    """Read a folder or a ``.tar.gz`` of EC-NAS results.

    1. Read every training and every file of graphs; damaged files are counted and left out.
    2. Make a row of every checkpoint of a training whose graph is known; the others are counted.

    Raises:
        DatasetError: If it is not of this layout.
    """
    # 1
    cells: dict[str, NasBench101Cell] = {}
    results: list[tuple[float, str, int, Any]] = []
    damaged = 0
    for name, text in _iterate_json_files(path):
        found = _RESULT.search(name)
        if found is None and not _GRAPHS.search(name):
            continue
        try:
            document = json.loads(text)
        except ValueError:
            damaged += 1
            continue
        if found is not None:
            results.append((float(found[1]), found[2], int(found[3] or 1), document))
        else:
            for key, (matrix, labels) in document.items():
                cells[key] = NasBench101Cell.make(matrix, [OPERATIONS[label] for label in labels[1:-1]])
    if not results or not cells:
        raise DatasetError(f"{path}: no EC-NAS results (N_epochs/.../results.json, generated_graphs_*.json) here")
    # 2
    opened = open_space(space or f"nasbench101?vertices={max(3, *(len(c.matrix) for c in cells.values()))}")
    unknown = sum(key not in cells for _, key, _, _ in results)
    rows: list[tuple[str, float, int, float, dict[str, float]]] = []
    for budget, key, repeat, document in sorted(results, key=lambda r: r[:3]):
        if key in cells:
            try:
                rows += [(str(cells[key]), budget, repeat, *point) for point in _read_checkpoints(document)]
            except (KeyError, TypeError, ValueError, IndexError):
                damaged += 1
    manifest = TableManifest(
        space=opened.name,
        source=source,
        columns=tuple(replace(c, source=source) if c.source else c for c in _COLUMNS),
        title=f"EC-NAS, {opened.name}",
        created=format_utc_now(),
        origin="EC-NAS-Bench (MIT)",
        counts={"trainings": len(results), "damaged": damaged, "without a graph": unknown},
        notes=(f"energy_j, total_energy_j and co2_g contain a PUE of {PUE}; energies of devices do not",),
    )
    return assemble_table(
        manifest,
        opened,
        [r[0] for r in rows],
        {c.name: np.array([r[4][c.name] for r in rows]) for c in _COLUMNS},
        budget=np.array([r[1] for r in rows]),
        repeat=np.array([r[2] for r in rows]),
        checkpoint=np.array([r[3] for r in rows]),
    )


def _read_checkpoints(document: dict[str, Any]) -> Iterator[tuple[float, dict[str, float]]]:
    """Yield the checkpoints of a training, with their figures."""
    used = document["avg_power_usages:"]
    energy = {d: float(np.sum(used[d]["avg_energy_usages (J)"])) for d in ("gpu", "cpu")}
    whole = {
        "total_energy_j": document["total_energy (kWh)"] * KWH_J,
        "device_energy_j": sum(energy.values()),
        "gpu_energy_j": energy["gpu"],
        "cpu_energy_j": energy["cpu"],
        "co2_g": document["total_co2eq (g)"],
        "intensity_g_per_kwh": document["avg_intensity (gCO2/kWh)"],
        "mean_power_w": sum(float(np.mean(np.sum(used[d]["avg_power_usages (W)"], axis=-1))) for d in energy),
        "total_time_s": document["total_time"],
        "parameters": document["trainable_params"],
    }
    for point in document["evaluation_results"]:
        yield (
            float(point["epochs"]),
            {
                **{k: float(v) for k, v in whole.items()},
                "energy_j": float(point["energy (kWh)"]) * KWH_J,
                "training_time_s": float(point["training_time"]),
                "predict_time_s": float(point["predict_time"]),
                **{f"{part}_accuracy": float(point[f"{part}_accuracy"]) for part in ("train", "validation", "test")},
            },
        )


def _iterate_json_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of every JSON file of a folder or archive; the archive is not unpacked."""
    try:
        if path.is_dir():
            for file in sorted(path.rglob("*.json")):
                yield file.as_posix(), file.read_bytes()
            return
        with tarfile.open(path) as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isfile() and member.size <= _LARGEST else None
                if stream is not None and member.name.endswith(".json"):
                    yield member.name, stream.read()
    except (OSError, tarfile.TarError, EOFError) as error:
        raise DatasetError(f"{path}: not a readable folder or .tar.gz ({error}); fetch it again") from error
