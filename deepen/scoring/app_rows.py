"""Application-level rows: power and energy of a workload on a device; the input of every device score.

A row is a device, a workload (application, model, data type, delegate, ...) and two figures: mean power while it runs
and energy per inference. Rows come from a CSV file or from the model records of a dataset.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepen.errors import ConfigError, DatasetError
from deepen.records import (
    EnergyRecord,
    FigureLabel,
    RecordLabel,
    SourceLabel,
    describe_mixed_labels,
    find_weakest_label,
    parse_label,
)
from deepen.tables import read_csv_rows

__all__ = ["NO_SOURCE", "AppRow", "AppTable", "read_app_rows"]

_DEVICE = ("device", "phone")
_POWER = ("mean_power_w", "power_w")
_ENERGY = ("energy_per_inference_j", "energy_j")
_KEYS = (
    *("workload", "dnn", "app", "model", "name", "dtype", "precision", "input_px", "shape", "batch"),
    *("delegate", "runtime", "threads"),
)
"""Columns that identify a workload; other columns are ignored."""
_GROUPS = ("group", "dnn", "model", "name", "workload")
"""The first of these columns that a file has identifies groups of rows: one network under several delegates."""


@dataclass(frozen=True, slots=True)
class AppRow:
    """One workload on one device.

    Attributes:
        device: Device name.
        workload: Description of the work; the same text means the same work on every device.
        power_w: Mean power while it runs, idle power included, watts; ``nan`` where it was not measured.
        energy_j: Energy per inference, idle power included, joules; ``nan`` where it was not measured.
        group: Name common to the rows of one network, which are not independent; empty for an independent row.
        source: Label of the figures.
        learnt_from: For predicted figures, the label of the data behind them.
    """

    device: str
    workload: str
    power_w: float
    energy_j: float
    group: str = ""
    source: FigureLabel = "measured"
    learnt_from: RecordLabel | Literal[""] = ""

    def __post_init__(self) -> None:
        if not self.device or not self.workload:
            raise DatasetError("an application row needs a device and a workload; fill both columns")
        for name, value in (("power", self.power_w), ("energy", self.energy_j)):
            if not (math.isnan(value) or 0 < value < math.inf):
                raise DatasetError(
                    f"{self.device}, {self.workload}: {name} {value:g} is not above zero; correct it, or leave the "
                    "cell empty where nothing was measured"
                )


@dataclass(frozen=True, slots=True)
class AppTable:
    """Rows as a table of devices and workloads.

    Attributes:
        devices: Device names, in the order of their first row.
        workloads: Workloads, in the order of their first row.
        groups: Group of each workload.
        power_w: Mean power; float64, shape (devices, workloads), ``nan`` where missing.
        energy_j: Energy per inference; float64, the same shape.
        label: The weakest label among the rows.
        warnings: Warnings for the user (repeated rows, missing rows).
    """

    devices: tuple[str, ...]
    workloads: tuple[str, ...]
    groups: tuple[str, ...]
    power_w: NDArray[np.float64]
    energy_j: NDArray[np.float64]
    label: SourceLabel
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, rows: Iterable[AppRow]) -> AppTable:
        """Arrange rows as a table. Of repeated rows (same device and workload) the median is used, with a warning.

        Raises:
            DatasetError: If there are no rows.
        """
        every = list(rows)
        if not every:
            raise DatasetError("there are no application rows; give at least one device with one measured workload")
        devices = tuple(dict.fromkeys(r.device for r in every))
        workloads = tuple(dict.fromkeys(r.workload for r in every))
        groups = {r.workload: r.group or r.workload for r in reversed(every)}
        cells: dict[tuple[str, str], list[AppRow]] = {}
        for row in every:
            cells.setdefault((row.device, row.workload), []).append(row)
        shape = (len(devices), len(workloads))
        power_w, energy_j = np.full(shape, np.nan), np.full(shape, np.nan)
        at = {d: i for i, d in enumerate(devices)}
        column = {w: k for k, w in enumerate(workloads)}
        for (device, workload), repeats in cells.items():
            where = at[device], column[workload]
            power_w[where] = _median_of_known(r.power_w for r in repeats)
            energy_j[where] = _median_of_known(r.energy_j for r in repeats)
        warnings = []
        repeated = sum(len(c) > 1 for c in cells.values())
        if repeated:
            warnings.append(f"{repeated} rows are given more than once; the median of each counts")
        missing = len(devices) * len(workloads) - len(cells)
        if missing:
            lacking = [f"{d} {n}" for d in devices if (n := sum((d, w) not in cells for w in workloads))]
            warnings.append(f"{missing} of {len(devices) * len(workloads)} rows are missing: {', '.join(lacking)}")
        labels = [SourceLabel(r.source, r.learnt_from) for r in every]
        if mixed := describe_mixed_labels(labels):
            warnings.append(f"rows of different kinds are compared: {mixed}")
        kept = tuple(groups[w] for w in workloads)
        return cls(devices, workloads, kept, power_w, energy_j, find_weakest_label(labels), tuple(warnings))


NO_SOURCE = "the figures do not say whether they were measured, and are taken so; add a column 'source' where not"
"""Warning for a file without labels."""


def _median_of_known(values: Iterable[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return statistics.median(known) if known else math.nan


def read_app_rows(path: str | Path, keys: Sequence[str] = ()) -> AppTable:
    """Read application rows from a CSV file or a dataset folder.

    A CSV file has a column ``device`` (or ``phone``), columns that name the workload (any of workload, dnn, app, model,
    name, dtype, precision, input_px, shape, batch, delegate, runtime, threads), and ``mean_power_w`` (or ``power_w``)
    and ``energy_per_inference_j`` (or ``energy_j``), one of which may be absent. An empty cell is a
    missing figure.

    Of a dataset, the records of whole models are used: mean power is gross energy over latency, energy is gross.

    Args:
        path: The file or folder.
        keys: Columns that name the workload, instead of those above.

    Raises:
        ConfigError: If a column named in ``keys`` is missing, or the file does not exist.
        DatasetError: If it holds no rows, or a figure is not a positive number.
    """
    file = Path(path)
    if file.is_dir() or file.suffix == ".db":
        return AppTable.of(_read_dataset_rows(file))
    columns, lines = read_csv_rows(file)
    device = _find_column(columns, _DEVICE, file)
    power, energy = (next((c for c in names if c in columns), None) for names in (_POWER, _ENERGY))
    if power is None and energy is None:
        raise DatasetError(f"{file}: no column {' or '.join(_POWER + _ENERGY)}; add the figures to score")
    for key in keys:
        if key not in columns:
            raise ConfigError(f"{file}: no column '{key}'; there are: {', '.join(columns)}")
    named = list(keys) or [c for c in columns if c in _KEYS]
    if not named:
        raise DatasetError(
            f"{file}: no column names the workload; add one of {', '.join(_KEYS)}, or name it with --key"
        )
    group = next((c for c in _GROUPS if c in columns), None)
    rows = []
    for number, line in lines:
        try:
            rows.append(
                AppRow(
                    line[device],
                    " ".join(line[c] for c in named if line[c]),
                    _parse_figure(line.get(power) if power else ""),
                    _parse_figure(line.get(energy) if energy else ""),
                    line[group] if group else "",
                    *parse_label(line.get("source", ""), line.get("learnt_from", "")),
                )
            )
        except (DatasetError, ConfigError) as error:
            raise DatasetError(f"{file} line {number}: {error}") from error
    if not rows:
        raise DatasetError(f"{file}: no rows below the header; add measurements")
    found = AppTable.of(rows)
    return found if "source" in columns else replace(found, warnings=(*found.warnings, NO_SOURCE))


def _read_dataset_rows(folder: Path) -> list[AppRow]:
    from deepen.datasets import Dataset

    with Dataset.open(folder) as dataset:
        records: list[EnergyRecord] = dataset.records("model")
    if not records:
        raise DatasetError(f"{folder}: no records of whole models; measure some with 'deepen profile', or give a CSV")
    return [
        AppRow(
            r.device,
            f"{r.name} {r.runtime} {r.threads}",
            r.gross_energy_j / r.latency_s if r.latency_s > 0 else math.nan,
            r.gross_energy_j,
            r.name,
            r.source,
        )
        for r in records
    ]


def _find_column(columns: Sequence[str], names: Sequence[str], file: Path) -> str:
    for name in names:
        if name in columns:
            return name
    raise DatasetError(f"{file}: no column {' or '.join(names)}; there are: {', '.join(columns)}")


def _parse_figure(text: str | None) -> float:
    if not text:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        raise DatasetError(f"'{text}' is no number; write a plain number in SI units, or nothing") from None
    if math.isnan(value):
        raise DatasetError(f"'{text}' is no number; leave the cell empty where nothing was measured")
    return value
