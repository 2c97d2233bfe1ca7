"""Trace folders written by :class:`deepen.traces.trace_folder_writer.TraceWriter`, finished or cut short."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.clock import insert_losses
from deepen.errors import MeasureError
from deepen.records import TraceWarning
from deepen.traces.manifest import TraceManifest, TracePart
from deepen.traces.parquet_columns import SampleColumns, compute_times, open_parquet, read_columns
from deepen.traces.trace_folder_writer import MANIFEST, make_part_name
from deepen.traces.types import ReportedWindow, TraceFormat, TraceInfo

__all__ = ["FORMAT", "TraceFolder", "make_trace_info"]


def make_trace_info(
    path: Path, name: str, manifest: TraceManifest, samples: int, first: float, last: float
) -> TraceInfo:
    """Make the description of a trace written by deepen.

    Args:
        path: Its file or folder.
        name: Name of the format.
        manifest: Its manifest.
        samples: Number of samples in it.
        first: Position (losses found by the clock inserted) or time of the first sample.
        last: The same of the last sample.
    """
    h = manifest.header
    start_s, end_s = np.nan, np.nan
    if samples:
        start_s, end_s = compute_times(h, manifest.clock, np.array([first, last])).tolist()
    return TraceInfo(
        path=path,
        format=name,
        meter_id=h.meter_id,
        calibration_id=h.calibration_id,
        source=h.source,
        rate_hz=h.rate_hz,
        samples=samples,
        start_s=start_s,
        end_s=end_s,
        sampling=h.sampling,
        accuracy=h.accuracy,
        clock=manifest.clock,
        gaps=manifest.gaps,
        dropped=manifest.dropped,
        warnings=manifest.warnings,
        logic=h.logic,
        complete=manifest.complete,
    )


@dataclass(frozen=True, slots=True)
class TraceFolder:
    """An opened trace folder; see :class:`~deepen.traces.types.TraceFile`.

    Attributes:
        info: Facts from the manifest.
        manifest: The manifest, with the parts found in the folder.
    """

    info: TraceInfo
    manifest: TraceManifest

    def blocks(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint8] | None]]:
        """See :class:`~deepen.traces.types.TraceFile`."""
        for c in self.columns():
            yield compute_times(self.manifest.header, self.manifest.clock, c.position), c.power_w, c.logic

    def columns(self) -> Iterator[SampleColumns]:
        """Yield samples with their positions, losses found by the clock inserted."""
        header, losses = self.manifest.header, self.manifest.losses
        for part in self.manifest.parts:
            path = self.info.path / part.file
            file = _open_part(path, part)
            gapless = header.times == "index" and part.last - part.first + 1 == part.samples
            for c in read_columns(file, path, header, int(part.first) if gapless else None):
                yield replace(c, position=insert_losses(c.position, losses)) if losses else c

    def windows(self) -> tuple[ReportedWindow, ...]:
        """None: the format holds samples only."""
        return ()


def _open_part(path: Path, part: TracePart) -> Any:
    file = open_parquet(path)
    if file.metadata.num_rows != part.samples:
        raise MeasureError(
            f"{path}: holds {file.metadata.num_rows} samples where the manifest says {part.samples}; "
            "restore the folder from a copy"
        )
    return file


def _find_parts(folder: Path, listed: tuple[TracePart, ...]) -> tuple[TracePart, ...]:
    """List the parts in the folder; a process killed before it wrote the manifest leaves one more, or a longer one."""
    parts = list(listed[:-1])
    while (path := folder / make_part_name(len(parts))).is_file():
        file = open_parquet(path)
        metadata = file.metadata.metadata or {}
        try:
            first, last = float(metadata[b"first"]), float(metadata[b"last"])
        except (KeyError, ValueError) as error:
            raise MeasureError(f"{path}: was not written by deepen; remove it from the folder") from error
        parts.append(TracePart(path.name, file.metadata.num_rows, first, last))
    return tuple(parts)


def _find_missing_positions(trace: TraceFolder) -> tuple[int, tuple[tuple[float, float], ...]]:
    """Return the number of missing positions and the gaps they leave, which a recording cut short could not record."""
    lost = 0
    gaps: list[tuple[float, float]] = []
    header, clock = trace.manifest.header, trace.manifest.clock
    before = np.empty(0)
    for part in trace.manifest.parts:
        stored: Iterable[NDArray[Any]] = [np.array([part.first])]
        if part.last - part.first + 1 != part.samples:
            path = trace.info.path / part.file
            stored = (c.position for c in read_columns(_open_part(path, part), path, header))
        for position in stored:
            joined = np.concatenate([before, position])
            at = np.flatnonzero(np.diff(joined) > 1)
            lost += int((joined[at + 1] - joined[at] - 1).sum())
            gaps += map(tuple, compute_times(header, clock, np.stack([joined[at], joined[at + 1]], axis=1)).tolist())
            before = joined[-1:]
        before = np.array([part.last])
    return lost, tuple(gaps)


def _open(path: Path, options: Mapping[str, str]) -> TraceFolder:
    try:
        text = (path / MANIFEST).read_bytes()
    except OSError as error:
        raise MeasureError(f"{path / MANIFEST}: cannot be read ({error.strerror}); restore it from a copy") from error
    manifest = TraceManifest.load(text, path / MANIFEST)
    if not manifest.complete:
        manifest = replace(manifest, parts=_find_parts(path, manifest.parts))
        duration = _describe_duration(manifest)
        warning = f"cut short: the recording was never finished; what came after {duration} is missing"
        if manifest.clock is None and manifest.header.times == "index":
            warning += ", and times follow the nominal rate of the instrument"
        manifest = replace(manifest, warnings=(*manifest.warnings, TraceWarning("loss", warning)))
    else:
        extra = sorted(p.name for p in path.iterdir() if re.fullmatch(r"part-\d+\.parquet", p.name))
        if extra != [p.file for p in manifest.parts]:
            raise MeasureError(f"{path}: its parts are not those of its manifest; restore the folder from a copy")
    parts = manifest.parts
    first, last = (parts[0].first, parts[-1].last) if parts else (0.0, 0.0)
    trace = TraceFolder(
        make_trace_info(path, FORMAT.name, manifest, sum(p.samples for p in parts), first, last), manifest
    )
    if manifest.losses and parts:
        first, last = insert_losses(np.array([first, last], np.int64), manifest.losses).tolist()
        return TraceFolder(make_trace_info(path, FORMAT.name, manifest, trace.info.samples, first, last), manifest)
    if manifest.complete or manifest.header.times != "index":
        return trace
    lost, gaps = _find_missing_positions(trace)
    manifest = replace(manifest, dropped=max(manifest.dropped, lost), gaps=manifest.gaps or gaps)
    return TraceFolder(make_trace_info(path, FORMAT.name, manifest, trace.info.samples, first, last), manifest)


def _describe_duration(manifest: TraceManifest) -> str:
    parts, h = manifest.parts, manifest.header
    if not parts:
        return "the start"
    span = parts[-1].last - parts[0].first
    return f"{span / h.rate_hz if h.times == 'index' else span:.1f} s"


FORMAT = TraceFormat(
    name="trace",
    title="deepen trace folder (Parquet parts and a manifest)",
    matches=lambda path, head: path.is_dir() and (path / MANIFEST).is_file(),
    open=_open,
)
