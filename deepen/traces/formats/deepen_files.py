"""Single files written by :func:`deepen.traces.write_trace`: Parquet and JSON with all metadata inside."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepen.errors import MeasureError
from deepen.traces.formats.deepen_folder import make_trace_info
from deepen.traces.manifest import FORMAT_NAME, TraceManifest
from deepen.traces.parquet_columns import META_KEY, compute_times, open_parquet, read_columns
from deepen.traces.types import ReportedWindow, TraceFormat, TraceInfo

__all__ = ["JSON", "PARQUET", "JsonTraceFile", "ParquetTraceFile"]

_LARGEST_JSON = 1 << 30
"""Size of the largest JSON file that is read, bytes."""


@dataclass(frozen=True, slots=True)
class ParquetTraceFile:
    """An opened Parquet file written by deepen; see :class:`~deepen.traces.types.TraceFile`.

    Attributes:
        info: Facts from its metadata.
        manifest: Its manifest.
    """

    info: TraceInfo
    manifest: TraceManifest

    def blocks(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint8] | None]]:
        """See :class:`~deepen.traces.types.TraceFile`."""
        header = self.manifest.header
        for c in read_columns(open_parquet(self.info.path), self.info.path, header):
            yield compute_times(header, self.manifest.clock, c.position), c.power_w, c.logic

    def windows(self) -> tuple[ReportedWindow, ...]:
        """None: the format holds samples only."""
        return ()


def _open_parquet_file(path: Path, options: Mapping[str, str]) -> ParquetTraceFile:
    file = open_parquet(path)
    metadata = file.metadata.metadata or {}
    if META_KEY not in metadata:
        raise MeasureError(
            f"{path}: a Parquet file without the facts of a trace; convert it to CSV and name its columns"
        )
    manifest = TraceManifest.load(metadata[META_KEY], path)
    if len(manifest.parts) != 1 or manifest.parts[0].samples != file.metadata.num_rows:
        raise MeasureError(f"{path}: does not hold the samples its facts tell of; restore it from a copy")
    part = manifest.parts[0]
    return ParquetTraceFile(
        make_trace_info(path, PARQUET.name, manifest, part.samples, part.first, part.last), manifest
    )


PARQUET = TraceFormat(
    name="parquet",
    title="deepen trace in one Parquet file",
    matches=lambda path, head: head.startswith(b"PAR1"),
    open=_open_parquet_file,
)


@dataclass(frozen=True, slots=True)
class JsonTraceFile:
    """An opened JSON trace written by deepen; see :class:`~deepen.traces.types.TraceFile`.

    Attributes:
        info: Facts from the file.
        t_s: Times, seconds, shape (n,).
        power_w: Powers, shape (n,).
        logic: Digital inputs, shape (n,), or ``None``.
    """

    info: TraceInfo
    t_s: NDArray[np.float64]
    power_w: NDArray[np.float64]
    logic: NDArray[np.uint8] | None

    def blocks(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint8] | None]]:
        """See :class:`~deepen.traces.types.TraceFile`."""
        yield self.t_s, self.power_w, self.logic

    def windows(self) -> tuple[ReportedWindow, ...]:
        """None: the format holds samples only."""
        return ()


def _open_json(path: Path, options: Mapping[str, str]) -> JsonTraceFile:
    if path.stat().st_size > _LARGEST_JSON:
        raise MeasureError(f"{path}: too large for JSON; record into a .trace folder instead")
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise MeasureError(f"{path}: torn or no JSON ({error}); restore it from a copy") from error
    manifest = TraceManifest.from_json(document, path)
    try:
        t_s = np.asarray(document["t_s"], dtype=np.float64)
        power_w = np.asarray(document["power_w"], dtype=np.float64)
        stored = document.get("logic_inputs")
        logic = None if stored is None else np.asarray(stored, dtype=np.uint8)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise MeasureError(f"{path}: its samples are damaged ({type(error).__name__}: {error})") from error
    if t_s.ndim != 1 or t_s.shape != power_w.shape or (logic is not None and logic.shape != t_s.shape):
        raise MeasureError(f"{path}: its lists differ in length; restore it from a copy")
    ends = (float(t_s[0]), float(t_s[-1])) if t_s.size else (0.0, 0.0)
    info = make_trace_info(path, JSON.name, manifest, int(t_s.size), *ends)
    return JsonTraceFile(info, t_s, power_w, logic)


JSON = TraceFormat(
    name="json",
    title="deepen trace as JSON",
    matches=lambda path, head: head.lstrip().startswith(b"{") and f'"format": "{FORMAT_NAME}"'.encode() in head,
    open=_open_json,
)
