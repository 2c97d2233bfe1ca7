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
from deepen.traces.manifest import Manifest, Part
from deepen.traces.parquet_columns import Columns, open_parquet, read_columns, times
from deepen.traces.trace_folder_writer import MANIFEST, part_name
from deepen.traces.types import Format, ReportedWindow, TraceInfo

__all__ = ["FORMAT", "FolderFile", "info_of"]


def info_of(path: Path, name: str, manifest: Manifest, samples: int, first: float, last: float) -> TraceInfo:
    """Facts of a trace of ours.

    Args:
        path: Where it is.
        name: Name of the format.
        manifest: Its facts.
        samples: Samples in it.
        first: Position (losses found by the clock inserted) or time of the first sample.
        last: The same of the last sample.
    """
    h = manifest.header
    start_s, end_s = np.nan, np.nan
    if samples:
        start_s, end_s = times(h, manifest.clock, np.array([first, last])).tolist()
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
class FolderFile:
    """An opened trace folder; see :class:`~deepen.traces.types.TraceFile`.

    Attributes:
        info: What the manifest says.
        manifest: The manifest, with the parts that are there.
    """

    info: TraceInfo
    manifest: Manifest

    def blocks(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint8] | None]]:
        """See :class:`~deepen.traces.types.TraceFile`."""
        for c in self.columns():
            yield times(self.manifest.header, self.manifest.clock, c.position), c.power_w, c.logic

    def columns(self) -> Iterator[Columns]:
        """Samples with their positions, losses found by the clock inserted."""
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


def _open_part(path: Path, part: Part) -> Any:
    file = open_parquet(path)
    if file.metadata.num_rows != part.samples:
        raise MeasureError(
            f"{path}: holds {file.metadata.num_rows} samples where the manifest says {part.samples}; "
            "restore the folder from a copy"
        )
    return file


def _found_parts(folder: Path, listed: tuple[Part, ...]) -> tuple[Part, ...]:
    """Parts that are there: a process killed between a part and its manifest leaves one more, or a longer one."""
    parts = list(listed[:-1])
    while (path := folder / part_name(len(parts))).is_file():
        file = open_parquet(path)
        metadata = file.metadata.metadata or {}
        try:
            first, last = float(metadata[b"first"]), float(metadata[b"last"])
        except (KeyError, ValueError) as error:
            raise MeasureError(f"{path}: was not written by deepen; remove it from the folder") from error
        parts.append(Part(path.name, file.metadata.num_rows, first, last))
    return tuple(parts)


def _holes(trace: FolderFile) -> tuple[int, tuple[tuple[float, float], ...]]:
    """Positions that are missing, and the gaps they leave: what a recording cut short could not write down."""
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
            gaps += map(tuple, times(header, clock, np.stack([joined[at], joined[at + 1]], axis=1)).tolist())
            before = joined[-1:]
        before = np.array([part.last])
    return lost, tuple(gaps)


def _open(path: Path, options: Mapping[str, str]) -> FolderFile:
    try:
        text = (path / MANIFEST).read_bytes()
    except OSError as error:
        raise MeasureError(f"{path / MANIFEST}: cannot be read ({error.strerror}); restore it from a copy") from error
    manifest = Manifest.load(text, path / MANIFEST)
    if not manifest.complete:
        manifest = replace(manifest, parts=_found_parts(path, manifest.parts))
        told = f"cut short: the recording was never finished; what came after {_length(manifest)} is missing"
        if manifest.clock is None and manifest.header.times == "index":
            told += ", and times follow the nominal rate of the instrument"
        manifest = replace(manifest, warnings=(*manifest.warnings, told))
    else:
        extra = sorted(p.name for p in path.iterdir() if re.fullmatch(r"part-\d+\.parquet", p.name))
        if extra != [p.file for p in manifest.parts]:
            raise MeasureError(f"{path}: its parts are not those of its manifest; restore the folder from a copy")
    parts = manifest.parts
    first, last = (parts[0].first, parts[-1].last) if parts else (0.0, 0.0)
    trace = FolderFile(info_of(path, FORMAT.name, manifest, sum(p.samples for p in parts), first, last), manifest)
    if manifest.losses and parts:
        first, last = insert_losses(np.array([first, last], np.int64), manifest.losses).tolist()
        return FolderFile(info_of(path, FORMAT.name, manifest, trace.info.samples, first, last), manifest)
    if manifest.complete or manifest.header.times != "index":
        return trace
    lost, gaps = _holes(trace)
    manifest = replace(manifest, dropped=max(manifest.dropped, lost), gaps=manifest.gaps or gaps)
    return FolderFile(info_of(path, FORMAT.name, manifest, trace.info.samples, first, last), manifest)


def _length(manifest: Manifest) -> str:
    parts, h = manifest.parts, manifest.header
    if not parts:
        return "the start"
    span = parts[-1].last - parts[0].first
    return f"{span / h.rate_hz if h.times == 'index' else span:.1f} s"


FORMAT = Format(
    name="trace",
    title="deepen trace folder (Parquet parts and a manifest)",
    matches=lambda path, head: path.is_dir() and (path / MANIFEST).is_file(),
    open=_open,
)
