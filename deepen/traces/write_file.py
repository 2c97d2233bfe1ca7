"""Atomic writing of a finished trace: a ``.trace`` folder, Parquet, CSV or JSON."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from deepen.errors import ConfigError, MeasureError
from deepen.records import PowerTrace
from deepen.storage.atomic import make_storage_error, replace_file, sync_folder
from deepen.traces.manifest import TraceManifest, TracePart
from deepen.traces.open import iterate_chunks
from deepen.traces.parquet_columns import (
    META_KEY,
    SampleColumns,
    compute_positions,
    get_parquet_options,
    make_arrow_schema,
    make_arrow_table,
)
from deepen.traces.trace_folder_writer import MANIFEST, TraceWriter
from deepen.traces.types import CHUNK, TraceFile, TraceHeader

__all__ = ["SUFFIXES", "write_trace"]

SUFFIXES = (".trace", ".parquet", ".csv", ".json")
"""Suffixes of the files a trace can be written to."""

CSV_FACTS = "facts"
"""Column of a CSV file written by deepen whose first row holds the manifest of the trace as JSON."""


def write_trace(
    trace: PowerTrace | TraceFile, path: str | Path, *, precision: Literal["float32", "float64"] = "float64"
) -> Path:
    """Write a trace; an existing file is replaced atomically.

    Args:
        trace: A trace in memory, or an opened one, which is copied piece by piece in bounded memory (but for JSON).
        path: The file to write; its suffix selects the format (:data:`SUFFIXES`).
        precision: Type in which power is stored in ``.trace`` and ``.parquet``: ``float64`` or ``float32``.

    Returns:
        The path.

    Raises:
        ConfigError: If the suffix is none of these, or the folder does not exist.
        StorageError: If the disk refuses; an existing file stays as it was.
        MeasureError: If an opened trace is damaged, or the power of a sample is not a number.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"cannot write '{path.name}'; name a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file")
    if precision not in ("float32", "float64"):
        raise ConfigError(f"power is stored as float32 or float64, not {precision}")
    if not path.parent.is_dir():
        raise ConfigError(f"no folder {path.parent} to write {path.name} into; make it first")
    stamped = path.suffix in (".csv", ".json")  # these hold the times themselves
    header = replace(_choose_header(trace, stamped=stamped), precision=precision)
    manifest = TraceManifest(header).closed(
        clock=_get_facts(trace).clock,
        gaps=_get_facts(trace).gaps,
        dropped=_get_facts(trace).dropped,
        warnings=_get_facts(trace).warnings,
    )
    manifest.dump()  # a manifest that cannot be stored is refused before anything is written
    if path.suffix == ".trace":
        _write_folder(trace, path, manifest)
    elif path.is_dir():
        raise ConfigError(f"{path} is a folder; name another file")
    else:
        with replace_file(path) as place:
            {".parquet": _write_parquet, ".csv": _write_csv, ".json": _write_json}[path.suffix](trace, place, manifest)
    return path


def _get_facts(trace: PowerTrace | TraceFile) -> Any:
    return trace if isinstance(trace, PowerTrace) else trace.info


def _iterate_checked_pieces(trace: PowerTrace | TraceFile) -> Iterator[PowerTrace]:
    """Yield the samples in pieces, checked: a value that is not a number must not reach a file.

    Raises:
        MeasureError: If the power of a sample is not finite.
    """
    for piece in (trace,) if isinstance(trace, PowerTrace) else iterate_chunks(trace, CHUNK):
        if not bool(np.all(np.isfinite(piece.power_w))):
            raise MeasureError(f"trace of {piece.meter_id}: power of a sample is not a number; leave it out as a gap")
        yield piece


def _choose_header(trace: PowerTrace | TraceFile, *, stamped: bool) -> TraceHeader:
    """Choose the header for storing a trace: by position where that reproduces the times exactly, else with stamps."""
    f = _get_facts(trace)
    header = TraceHeader(
        meter_id=f.meter_id,
        calibration_id=f.calibration_id,
        source=f.source,
        rate_hz=f.rate_hz,
        sampling=f.sampling,
        accuracy=f.accuracy,
        times="stamps",
        precision="float64",
        logic=trace.logic is not None if isinstance(trace, PowerTrace) else trace.info.logic,
    )
    if stamped or f.rate_hz <= 0:
        return header
    candidates = [replace(header, times="index")]
    if f.clock is None:
        first_s = float(trace.t_s[0]) if isinstance(trace, PowerTrace) and trace.t_s.size else _get_start_s(trace)
        candidates.append(replace(candidates[0], start_s=first_s))
    for piece in _iterate_checked_pieces(trace):
        candidates = [h for h in candidates if compute_positions(h, f.clock, piece.t_s) is not None]
    return candidates[0] if candidates else header


def _get_start_s(trace: PowerTrace | TraceFile) -> float:
    if isinstance(trace, PowerTrace) or not np.isfinite(trace.info.start_s):
        return 0.0
    return trace.info.start_s


def _get_positions(header: TraceHeader, piece: PowerTrace) -> Any:
    if header.times == "stamps":
        return piece.t_s
    index = compute_positions(header, piece.clock, piece.t_s)
    assert index is not None  # _header looked at every piece
    return index


def _write_folder(trace: PowerTrace | TraceFile, path: Path, manifest: TraceManifest) -> None:
    if path.exists() and not (path / MANIFEST).is_file():
        raise ConfigError(f"{path} exists and is no trace; name another file or remove it first")
    place = path.with_name(f".{path.stem}.{os.getpid()}.trace")
    old = path.with_name(f".{path.stem}.{os.getpid()}.old")
    try:
        with TraceWriter(place, manifest.header) as writer:
            for piece in _iterate_checked_pieces(trace):
                writer.append(_get_positions(manifest.header, piece), piece.power_w, piece.logic)
            writer.finish(manifest.clock, manifest.gaps, manifest.dropped, manifest.warnings)
        if path.exists():
            path.rename(old)
        place.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        if old.exists() and not path.exists():
            old.rename(path)
        raise make_storage_error("write", path, error) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _write_parquet(trace: PowerTrace | TraceFile, place: Path, manifest: TraceManifest) -> None:
    import pyarrow.parquet as pq

    header, samples = manifest.header, 0
    first = last = 0.0
    with pq.ParquetWriter(place, make_arrow_schema(header), **get_parquet_options(header)) as writer:
        for piece in _iterate_checked_pieces(trace):
            if not piece.t_s.size:
                continue
            position = _get_positions(header, piece)
            first, last = first if samples else position[0].item(), position[-1].item()
            samples += piece.t_s.size
            writer.write_table(
                make_arrow_table(header, SampleColumns(position, piece.power_w, piece.logic)), row_group_size=1 << 18
            )
        facts = replace(manifest, parts=(TracePart("self", samples, first, last),))
        writer.add_key_value_metadata({META_KEY.decode(): facts.dump()})


def _write_csv(trace: PowerTrace | TraceFile, place: Path, manifest: TraceManifest) -> None:
    h = manifest.header
    samples = trace.t_s.size if isinstance(trace, PowerTrace) else trace.info.samples
    if not samples:
        raise MeasureError(f"trace of {h.meter_id}: without samples it cannot be kept as CSV; write a .trace")
    # The count lets a reader notice that the end of the file is missing.
    facts = replace(manifest, parts=(TracePart("self", samples, 0.0, 0.0),)).dump()
    meter = " ".join(h.meter_id.split())  # one line for every row; the facts keep the name as it is
    with place.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["t_s", "power_w", "meter", "source", *(["logic"] if h.logic else []), CSV_FACTS])
        for piece in _iterate_checked_pieces(trace):
            logic = [] if piece.logic is None else [piece.logic.tolist()]
            for t, p, *inputs in zip(piece.t_s.tolist(), piece.power_w.tolist(), *logic, strict=True):
                rows.writerow([repr(t), repr(p), meter, h.source, *inputs, facts])
                facts = ""


def _write_json(trace: PowerTrace | TraceFile, place: Path, manifest: TraceManifest) -> None:
    pieces = list(_iterate_checked_pieces(trace))
    document = manifest.to_json()
    document["t_s"] = [t for piece in pieces for t in piece.t_s.tolist()]
    document["power_w"] = [p for piece in pieces for p in piece.power_w.tolist()]
    if manifest.header.logic:
        document["logic_inputs"] = [v for piece in pieces if piece.logic is not None for v in piece.logic.tolist()]
    with place.open("w", encoding="utf-8") as file:
        json.dump(document, file, allow_nan=False)
