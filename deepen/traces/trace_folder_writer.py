"""Writing a trace during its recording, to a ``.trace`` folder that is readable at every moment.

The folder holds ``part-000000.parquet``, ``part-000001.parquet``, ... and ``manifest.json``. Every file is written
under a temporary name and renamed, so every part in the folder is whole however the process ends. Samples are stored by
their position in the instrument's stream; the clock map in the manifest converts positions to times.
"""

from __future__ import annotations

import contextlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from deepen.clock import SampleLoss
from deepen.clock.host_clock import ClockMap
from deepen.errors import ConfigError, MeasureError
from deepen.records import PowerTrace, TraceWarning
from deepen.storage.atomic import make_storage_error, replace_file
from deepen.traces.manifest import TraceManifest, TracePart
from deepen.traces.parquet_columns import (
    SampleColumns,
    compute_positions,
    make_arrow_table,
    make_part_metadata,
    write_table,
)
from deepen.traces.types import CHUNK, TraceHeader

__all__ = ["MANIFEST", "TraceWriter", "make_part_name"]

MANIFEST = "manifest.json"

_PENDING = 4
"""Number of parts that may wait for a slow disk before the writer blocks."""


def make_part_name(number: int) -> str:
    """Return the file name of a part; parts are numbered from 0."""
    return f"part-{number:06d}.parquet"


class TraceWriter:
    """Streams a recording to a new ``.trace`` folder.

    Files are written in a thread of the writer, so that a slow disk does not keep a meter's reader from its port; a
    disk error is raised by the next call. Leaving the ``with`` block without :meth:`finish` keeps the samples received
    so far; a reader then reports that the trace was cut short.

    Args:
        path: The folder to make; its name ends in ``.trace``.
        header: Facts of the recording.
        part_samples: Samples per part; bounds the memory of the writer (at most 17 bytes each, for one part being
            filled and four waiting for the disk).
        flush_s: Recording time after which an unfinished part is written as well, seconds: about as much as is lost
            when the process is killed.

    Raises:
        ConfigError: If the name does not end in ``.trace``, or exists, or its folder does not.
        StorageError: If the disk refuses.
    """

    def __init__(
        self, path: str | Path, header: TraceHeader, *, part_samples: int = CHUNK, flush_s: float = 10.0
    ) -> None:
        self.path = Path(path)
        if self.path.suffix != ".trace":
            raise ConfigError(f"cannot record into '{self.path.name}'; name a folder that ends in .trace")
        if part_samples < 1 or not flush_s > 0:
            raise ConfigError("a trace needs parts of at least one sample and a flush time above zero")
        try:
            self.path.mkdir()
        except FileExistsError as error:
            raise ConfigError(f"{self.path} exists; name another file or remove it first") from error
        except FileNotFoundError as error:
            raise ConfigError(f"no folder {self.path.parent} to write {self.path.name} into; make it first") from error
        except OSError as error:
            raise make_storage_error("make", self.path, error) from error
        self._manifest = TraceManifest(header)
        self._flush_s = flush_s
        stamped = header.times == "stamps"
        self._position: NDArray[Any] = np.empty(part_samples, np.float64 if stamped else np.int64)
        self._power = np.empty(part_samples, np.float32 if header.precision == "float32" else np.float64)
        self._logic = np.empty(part_samples, np.uint8) if header.logic else None
        self._filled = 0
        self._flushed = 0
        self._done: list[TracePart] = []
        self._open = True
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="trace-writer")
        self._waiting: deque[Future[None]] = deque()
        _write_part_and_manifest(self.path, header, None, None, self._manifest.dump())

    @property
    def samples(self) -> int:
        """Number of samples appended so far."""
        return sum(p.samples for p in self._done) + self._filled

    def append(
        self,
        position: NDArray[np.int64] | NDArray[np.float64],
        power_w: NDArray[np.float64],
        logic: NDArray[np.uint8] | None = None,
    ) -> None:
        """Append the next samples.

        Args:
            position: Positions in the instrument's stream (int64), or times in seconds where the header says
                ``stamps``; shape (n,), strictly increasing over all calls.
            power_w: Power, shape (n,), finite.
            logic: Digital inputs, shape (n,), where the header says so.

        Raises:
            MeasureError: If the samples are not of that kind.
            StorageError: If the disk refuses.
        """
        self._check(position, power_w, logic)
        self._await_writes(_PENDING)
        start = 0
        while start < position.size:
            room = min(self._position.size - self._filled, position.size - start)
            to, take = slice(self._filled, self._filled + room), slice(start, start + room)
            self._position[to], self._power[to] = position[take], power_w[take]
            if self._logic is not None and logic is not None:
                self._logic[to] = logic[take]
            self._filled += room
            start += room
            if self._filled == self._position.size:
                self._write_part()
        if self._filled > self._flushed:
            per_flush = self._flush_s * (
                self._manifest.header.rate_hz if self._manifest.header.times == "index" else 1.0
            )
            since = self._position[self._filled - 1] - self._position[self._flushed]
            # A nearly full part is not worth writing twice.
            nearly_full = self._position.size - self._filled < per_flush / 2
            if since >= per_flush and not nearly_full:
                self._write_part()

    def append_trace(self, chunk: PowerTrace) -> None:
        """Append the samples of a trace, or of its next chunk; its times must be of the kind the header states.

        Raises:
            MeasureError: If its times are not positions of this recording.
            StorageError: If the disk refuses.
        """
        header = self._manifest.header
        if header.times == "stamps":
            self.append(chunk.t_s, chunk.power_w, chunk.logic)
            return
        index = compute_positions(header, chunk.clock, chunk.t_s)
        if index is None:
            raise MeasureError(f"{self.path}: times of {chunk.meter_id} lie beside its sample positions; store stamps")
        self.append(index, chunk.power_w, chunk.logic)

    def update(
        self,
        *,
        clock: ClockMap | None = None,
        gaps: tuple[tuple[float, float], ...] | None = None,
        dropped: int | None = None,
        warnings: tuple[TraceWarning, ...] | None = None,
    ) -> None:
        """Set facts for the next write of the manifest, so that a recording cut short has them."""
        given: dict[str, Any] = {"clock": clock, "gaps": gaps, "dropped": dropped, "warnings": warnings}
        self._manifest = replace(self._manifest, **{k: v for k, v in given.items() if v is not None})

    def finish(
        self,
        clock: ClockMap | None = None,
        gaps: tuple[tuple[float, float], ...] = (),
        dropped: int = 0,
        warnings: tuple[TraceWarning, ...] = (),
        losses: tuple[SampleLoss, ...] = (),
    ) -> Path:
        """Write the remaining samples and complete the recording.

        Args:
            clock: Device clock (position over rate) to host time; ``None`` keeps ``start_s`` and the nominal rate.
            gaps: Stretches (start_s, end_s) without trustworthy samples.
            dropped: Samples known to be lost.
            warnings: Warnings for the reader.
            losses: Losses found by the clock that are not yet in the positions appended.

        Returns:
            The folder.

        Raises:
            StorageError: If the disk refuses.
        """
        self._require_open()
        self._manifest = self._manifest.closed(
            clock=clock, gaps=gaps, dropped=dropped, warnings=warnings, losses=losses
        )
        try:
            self._write_part()
        finally:
            self._stop_thread()
        return self.path

    def close(self) -> None:
        """Close without completing, keeping the samples received so far; harmless after :meth:`finish`.

        Raises:
            StorageError: If the disk refuses.
        """
        if self._open:
            try:
                self._write_part()
            finally:
                self._stop_thread()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self.close()
            return
        with contextlib.suppress(Exception):  # the error being raised says more than a second one
            self.close()

    def _require_open(self) -> None:
        if not self._open:
            raise MeasureError(f"{self.path} is closed; start another recording")

    def _check(self, position: NDArray[Any], power_w: NDArray[np.float64], logic: NDArray[np.uint8] | None) -> None:
        self._require_open()
        header = self._manifest.header
        shapes = {position.shape, power_w.shape, *(() if logic is None else (logic.shape,))}
        if position.ndim != 1 or len(shapes) != 1:
            raise MeasureError(f"{self.path}: samples must be 1-D and alike, not {shapes}")
        if (logic is not None) != header.logic:
            raise MeasureError(f"{self.path}: the header says logic inputs: {header.logic}; the samples differ")
        if position.dtype.kind != ("i" if header.times == "index" else "f"):
            raise MeasureError(f"{self.path}: positions of type {position.dtype} where the header says {header.times}")
        if not position.size:
            return
        last = self._position[self._filled - 1] if self._filled else self._done[-1].last if self._done else -np.inf
        if not (position[0] > last and bool(np.all(np.diff(position) > 0)) and np.isfinite(position[-1])):
            raise MeasureError(f"{self.path}: sample positions must increase; the stream went back after {last}")
        if not bool(np.all(np.isfinite(power_w))):
            raise MeasureError(f"{self.path}: power of a sample is not a number; leave such samples out as a gap")

    def _write_part(self) -> None:
        """Hand the samples not yet on disk, and the manifest, to the writing thread."""
        n, part, columns = self._filled, None, None
        header = self._manifest.header
        if n > self._flushed:
            part = TracePart(make_part_name(len(self._done)), n, self._position[0].item(), self._position[n - 1].item())
            logic = None if self._logic is None else self._logic[:n].copy()
            columns = SampleColumns(self._position[:n].copy(), self._power[:n].copy(), logic)
            self._manifest = replace(self._manifest, parts=(*self._done, part))
            self._flushed = n
            if n == self._position.size:
                self._done.append(part)
                self._filled = self._flushed = 0
        self._await_writes(_PENDING)
        text = self._manifest.dump()
        self._waiting.append(self._disk.submit(_write_part_and_manifest, self.path, header, part, columns, text))

    def _await_writes(self, allowed: int) -> None:
        """Wait until at most ``allowed`` writes are pending, and raise any error they raised."""
        while self._waiting and (self._waiting[0].done() or len(self._waiting) > allowed):
            self._waiting.popleft().result()

    def _stop_thread(self) -> None:
        self._open = False
        try:
            self._await_writes(0)
        finally:
            self._disk.shutdown(cancel_futures=True)


def _write_part_and_manifest(
    path: Path, header: TraceHeader, part: TracePart | None, columns: SampleColumns | None, manifest: str
) -> None:
    """Write a part, then the manifest that names it."""
    if part is not None and columns is not None:
        with replace_file(path / part.file) as place:
            write_table(place, make_arrow_table(header, columns, make_part_metadata(part)), header)
    with replace_file(path / MANIFEST) as place:
        place.write_text(manifest, encoding="utf-8")
