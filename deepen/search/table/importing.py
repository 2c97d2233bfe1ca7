"""Imports tables: any CSV or Parquet file with an architecture per row, and published layouts with own readers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from deepen.errors import ConfigError, DatasetError, make_unknown_name_error
from deepen.records import RecordLabel, describe_mixed_labels, find_weakest_label
from deepen.search.table.build import assemble_table, format_utc_now
from deepen.search.table.ecnas import read_ecnas
from deepen.search.table.table import BenchmarkTable
from deepen.search.table.types import KEYS, TableColumn, TableManifest
from deepen.spaces import SearchSpace, open_space
from deepen.tables import read_csv_rows

__all__ = ["FORMATS", "import_table", "join_tables", "read_table_rows"]

_UNITS: Mapping[str, tuple[str, float]] = {
    "_mj": ("_j", 1e-3), "_uj": ("_j", 1e-6), "_kj": ("_j", 1e3), "_wh": ("_j", 3600.0), "_kwh": ("_j", 3.6e6),
    "_ms": ("_s", 1e-3), "_us": ("_s", 1e-6), "_mw": ("_w", 1e-3), "_kg": ("_g", 1e3),
}  # fmt: skip
_ARCHS = ("arch", "arch_str", "architecture", "cell")


def read_table_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a CSV or Parquet file.

    Raises:
        ConfigError: If there is no such file.
        DatasetError: If it cannot be read.
    """
    if path.suffix.lower() != ".parquet":
        return [dict(row) for _, row in read_csv_rows(path)[1]]
    import pyarrow.parquet as pq

    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; name a CSV or Parquet file") from error
    except (OSError, ValueError) as error:  # as pyarrow's own errors are
        raise DatasetError(f"{path}: not a readable Parquet file ({error}); export it again") from error
    return rows


def _parse_number(value: Any) -> float:
    """Parse a figure; NaN for an empty cell.

    Raises:
        ValueError: If it is not a number.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return math.nan
    text = str(value).strip()
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


def _convert_name_to_si(name: str) -> tuple[str, float]:
    """Return a column's name in SI units, and the factor to them."""
    lower = name.strip().lower()
    for suffix, (unit, factor) in sorted(_UNITS.items(), key=lambda item: -len(item[0])):
        if lower.endswith(suffix):
            return lower.removesuffix(suffix) + unit, factor
    return lower, 1.0


def _make_table_from_rows(
    rows: Sequence[Mapping[str, Any]],
    where: str,
    space: SearchSpace | None,
    source: RecordLabel,
    name_column: str | None,
) -> BenchmarkTable:
    """Make a table of rows with an architecture each.

    1. Find the column of the architecture, and bring every architecture into the space's canonical form.
    2. Read each other column as figures; one that holds other text is left out, with a note.
    3. Columns that are keys of a table (budget, repeat, ...) must be complete.
    4. Figures are converted to SI units, and percentages of accuracy to shares.

    Raises:
        DatasetError: If a row or column is not of this form, or no figures are left.
    """
    if not rows:
        raise DatasetError(f"{where}: holds no rows")
    # 1
    names = list(rows[0])
    lowered = {n.lower(): n for n in names}
    arch_column = name_column or next((lowered[n] for n in _ARCHS if n in lowered), None)
    if arch_column is None or arch_column not in names:
        raise DatasetError(
            f"{where}: no column with the architecture ({', '.join(_ARCHS)}); name it with --arch-column"
        )
    archs: list[str] = []
    for line, row in enumerate(rows, start=2):
        try:
            arch = str(row[arch_column] or "").strip()
            if not arch:
                raise ConfigError(f"no architecture in column {arch_column}")
            archs.append(space.canonical(arch) if space is not None else arch)
        except ConfigError as error:
            raise DatasetError(f"{where}: row {line}: {error}") from error
    # 2
    data: dict[str, Any] = {}
    keys: dict[str, Any] = {}
    columns: list[TableColumn] = []
    notes: list[str] = []
    for name in names:
        if name == arch_column or name.lower() in ("hash", "arch"):
            continue
        try:
            values = np.array([_parse_number(row.get(name)) for row in rows])
        except ValueError:
            notes.append(f"column {name} holds no figures and was left out")
            continue
        si, factor = _convert_name_to_si(name)
        # 3
        if si in KEYS or name.lower() in ("arch_idx", "arch_index"):
            if not np.isfinite(values).all():
                raise DatasetError(f"{where}: column {name} has empty cells; fill them or leave it out")
            keys["index" if si not in KEYS else si] = values.astype(np.int64 if si != "budget" else np.float64)
            continue
        # 4
        scaled = values * factor
        if "accuracy" in si and np.nanmax(scaled, initial=0.0) > 1:
            scaled /= 100
            notes.append(f"{name} is a percentage and was divided by 100")
        if si in data:
            raise DatasetError(f"{where}: two columns become {si}; leave one out")
        data[si] = scaled
        columns.append(TableColumn.named(si, source if not si.startswith(("macs", "params", "flops")) else ""))
    if not data:
        raise DatasetError(f"{where}: no column with figures beside {arch_column}")
    manifest = TableManifest(
        space=space.name if space is not None else "",
        source=source,
        columns=tuple(columns),
        title=Path(where).name,
        created=format_utc_now(),
        origin=Path(where).name,
        notes=tuple(notes),
        counts={"rows": len(rows)},
    )
    return assemble_table(manifest, space, archs, data, **keys)


def _import_rows(path: Path, space: str | None, source: RecordLabel, options: Mapping[str, str]) -> BenchmarkTable:
    opened = open_space(space) if space else None
    return _make_table_from_rows(read_table_rows(path), str(path), opened, source, options.get("arch_column"))


_PI5_SIZES = {"cifar10": (10, 32), "cifar100": (100, 32), "ImageNet16-120": (120, 16)}


def _import_pi5(path: Path, space: str | None, source: RecordLabel, options: Mapping[str, str]) -> BenchmarkTable:
    """Import HW-NAS-Bench-360: NAS-Bench-201 on a Raspberry Pi 5; a folder with ``measurements.parquet``.

    Its authors measured networks that compute the same once. Here every network is a row, with the figures of the one
    measured.

    1. Read the files and check their columns.
    2. Select one task and one runtime; by default the first of each.
    3. Keep the rows of those with positive figures; count the others by reason.
    4. Make the table, in SI units.
    """
    # 1
    cells = {int(r["arch_idx"]): str(r["arch_str"]) for r in read_table_rows(path / "arch_idx_to_str.csv")}
    rows = read_table_rows(path / "measurements.parquet")
    need = ("arch_idx", "rep_arch_idx", "framework", "task", "lat_ms_median", "energy_mj", "accuracy", "device")
    if rows and (missing := [n for n in need if n not in rows[0]]):
        raise DatasetError(f"{path}: lacks the column {', '.join(missing)}; it is no HW-NAS-Bench-360 table")
    # 2
    tasks, runtimes = sorted({str(r["task"]) for r in rows}), sorted({str(r["framework"]) for r in rows})
    task, runtime = options.get("task") or tasks[0], options.get("runtime") or runtimes[0]
    for what, value, known in (("task", task, tasks), ("runtime", runtime, runtimes)):
        if value not in known:
            raise make_unknown_name_error(what, value, known)
    # 3
    kept: dict[int, tuple[int, float, float, float]] = {}
    counts = {"other runtime or task": 0, "not usable": 0}
    for r in rows:
        if (str(r["task"]), str(r["framework"])) != (task, runtime):
            counts["other runtime or task"] += 1
            continue
        figures = (r["energy_mj"], r["lat_ms_median"], r["accuracy"])
        good = all(v is not None and math.isfinite(v) and v > 0 for v in figures)
        if not good or int(r["arch_idx"]) not in cells or str(r.get("status", "ok")) != "ok":
            counts["not usable"] += 1
            continue
        kept[int(r["arch_idx"])] = (int(r["rep_arch_idx"]), *(float(v) for v in figures))  # type: ignore[assignment]
    # 4
    classes, resolution = _PI5_SIZES.get(task, (10, 32))
    opened = open_space(space or f"nasbench201?classes={classes}&resolution={resolution}")
    order = sorted(kept)
    columns = (
        TableColumn("energy_j", "J", "min", source, "net of idle, core rail alone"),
        TableColumn("latency_s", "s", "min", source, "median"),
        TableColumn("accuracy", "", "max", source, "test accuracy"),
        TableColumn("measured_as", "", "", "", "number of the network that was measured for it"),
    )
    table = np.array([kept[i] for i in order], dtype=np.float64).reshape(-1, 4)
    manifest = TableManifest(
        space=opened.name,
        source=source,
        columns=columns,
        title=f"NAS-Bench-201 on a Raspberry Pi 5, {runtime}, {task}",
        created=format_utc_now(),
        origin="HW-NAS-Bench-360",
        counts={"rows": len(order), **counts},
        notes=("networks that compute the same share one measurement (measured_as)",),
    )
    data = {
        "energy_j": table[:, 1] * 1e-3, "latency_s": table[:, 2] * 1e-3, "accuracy": table[:, 3] / 100,
        "measured_as": table[:, 0],
    }  # fmt: skip
    archs = [opened.canonical(cells[i]) for i in order]
    return assemble_table(manifest, opened, archs, data, index=np.array(order))


def _import_ecnas(path: Path, space: str | None, source: RecordLabel, options: Mapping[str, str]) -> BenchmarkTable:
    return read_ecnas(path, space, source)


FORMATS: Mapping[str, Callable[[Path, str | None, RecordLabel, Mapping[str, str]], BenchmarkTable]] = {
    "rows": _import_rows,
    "pi5-nasbench201": _import_pi5,
    "ec-nas": _import_ecnas,
}
"""Layout -> reader."""


def import_table(
    path: str | Path, layout: str = "rows", space: str | None = None, source: RecordLabel = "published", **options: str
) -> BenchmarkTable:
    """Read a table that was not made by deepen.

    Args:
        path: A CSV or Parquet file (``rows``), or a folder or archive of a layout.
        layout: One of :data:`FORMATS`.
        space: Search space of the architectures; other layouts than ``rows`` have a default.
        source: Label of the figures: ``published`` if others measured them, else measured, modelled or simulated.
        options: Options of the layout: ``arch_column`` (rows), ``task`` and ``runtime`` (pi5-nasbench201).

    Raises:
        DatasetError: If the files are not of that layout.
        ConfigError: If a name is unknown.
    """
    if layout not in FORMATS:
        raise make_unknown_name_error("layout", layout, FORMATS)
    if source not in get_args(RecordLabel):
        raise make_unknown_name_error("source", source, get_args(RecordLabel))
    return FORMATS[layout](Path(path), space, source, {k: v for k, v in options.items() if v})


def join_tables(table: BenchmarkTable, other: BenchmarkTable, names: Sequence[str] = ()) -> BenchmarkTable:
    """Add columns of another table, by network: the mean of its repeats at its largest budget.

    Args:
        table: The table.
        other: Table with the columns; networks it lacks get NaN.
        names: Columns; default: all that ``table`` lacks.

    Raises:
        ConfigError: If a column is unknown or there already.
    """
    import dataclasses

    chosen = list(names) or [n for n in other.data if n not in table.data]
    if twice := [n for n in chosen if n in table.data]:
        raise ConfigError(f"column {twice[0]} is in the table already; leave it out")
    place: dict[str, int] = {h: i for i, h in enumerate(other.hashes)}
    if table.space is not None and other.space is None:  # hashes of a table without space are its architectures
        place = {table.space.key(table.space.canonical(h)): i for h, i in place.items()}
    rows = [place.get(h, -1) for h in table.keys["hash"].tolist()]
    missing = sum(r < 0 for r in rows)
    data = dict(table.data)
    for name in chosen:
        values = np.append(other.per_network(name), np.nan)
        data[name] = values[rows]
    columns = (*table.manifest.columns, *(other.column(n) for n in chosen))
    labels = [c.label for c in columns if c.source]
    weakest = find_weakest_label(labels or [table.manifest.label])
    mixed = describe_mixed_labels(labels)
    manifest = dataclasses.replace(
        table.manifest,
        columns=columns,
        source=weakest.source,
        learnt_from=weakest.learnt_from,
        notes=(
            *table.manifest.notes,
            f"{', '.join(chosen)} from {other.manifest.title}" + (f"; {missing} rows without" if missing else ""),
            *((f"columns of different kinds: {mixed}",) if mixed else ()),
        ),
    )
    return BenchmarkTable(manifest, table.keys, data)
