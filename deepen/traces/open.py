"""Opening, reading and cutting traces of every known format."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepen.errors import ConfigError, MeasureError, make_unknown_name_error
from deepen.records import PowerTrace
from deepen.traces.formats.mlperf import RESULTS, TRACES
from deepen.traces.intervals import is_interval_file, read_intervals
from deepen.traces.registry import FORMATS
from deepen.traces.types import CHUNK, ReportedWindow, TraceFile, TraceFormat, make_chunk

__all__ = ["find_format", "hash_trace", "iterate_chunks", "open_trace", "read_chunks", "read_trace", "read_windows"]

_HEAD = 1 << 16


def find_format(path: Path, name: str = "") -> TraceFormat:
    """Find the format of a file from its content.

    Args:
        path: The file or folder.
        name: Name of a format to use without looking at the content.

    Raises:
        ConfigError: If there is no such format or file.
        MeasureError: If the file is empty or of no known format.
    """
    if not path.exists():
        raise ConfigError(f"no trace at {path}; check the name")
    if name:
        if name not in FORMATS:
            raise make_unknown_name_error("trace format", name, FORMATS)
        return FORMATS[name]
    head = b""
    if path.is_file():
        try:
            with path.open("rb") as file:
                head = file.read(_HEAD)
        except OSError as error:
            raise MeasureError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
        if not head.strip():
            raise MeasureError(f"{path}: is empty; record again")
    for kind in FORMATS.values():
        with contextlib.suppress(OSError):
            if kind.matches(path, head):
                return kind
    known = ", ".join(FORMATS)
    raise MeasureError(f"{path}: is no trace of a known format; known: {known} (say which with --format)")


def open_trace(path: str | Path, *, format: str = "", **options: str) -> TraceFile:
    """Open a trace: read its metadata, and leave its samples in the file.

    Text files are scanned once for this.

    Args:
        path: The file or folder.
        format: Name of its format; found from its content if empty.
        options: Options of the format, for example ``voltage_v="3.7"``.

    Raises:
        ConfigError: If there is no such file, or an option is missing, wrong or unknown to the format.
        MeasureError: If the file is damaged or of no known format.
    """
    path = Path(path)
    kind = find_format(path, format)
    for key in options:
        if key not in kind.options:
            known = ", ".join(kind.options) or "none"
            raise ConfigError(f"{path}: is read as '{kind.name}', which has no option '{key}'; it takes: {known}")
    try:
        return kind.open(path, options)
    except OSError as error:
        raise MeasureError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from error


def read_trace(path: str | Path, *, format: str = "", **options: str) -> PowerTrace:
    """Read a whole trace into memory.

    Args:
        path: The file or folder.
        format: Name of its format; found from its content if empty.
        options: Options of the format.

    Raises:
        ConfigError: As :func:`open_trace`.
        MeasureError: As :func:`open_trace`, or if its times do not increase.
    """
    file = open_trace(path, format=format, **options)
    pieces = list(iterate_chunks(file, max(1, file.info.samples)))
    return pieces[0] if pieces else make_chunk(file.info, np.empty(0), np.empty(0), None, -math.inf)


def read_chunks(
    path: str | Path,
    size: int = CHUNK,
    *,
    start_s: float = -math.inf,
    end_s: float = math.inf,
    format: str = "",
    **options: str,
) -> Iterator[PowerTrace]:
    """Read a trace in pieces, in bounded memory.

    The gaps and lost samples of all pieces add up to those of the file.

    Args:
        path: The file or folder.
        size: Samples per piece; the last may have fewer.
        start_s: Leave out samples before this time, seconds.
        end_s: Leave out samples after this time, seconds.
        format: Name of its format; found from its content if empty.
        options: Options of the format.

    Raises:
        ConfigError: As :func:`open_trace`, or if ``size`` is below 1.
        MeasureError: As :func:`read_trace`.
    """
    return iterate_chunks(open_trace(path, format=format, **options), size, start_s, end_s)


def iterate_chunks(
    file: TraceFile, size: int, start_s: float = -math.inf, end_s: float = math.inf
) -> Iterator[PowerTrace]:
    """Yield the samples of an opened trace in pieces; see :func:`read_chunks`."""
    if size < 1:
        raise ConfigError(f"a chunk needs at least one sample, not {size}")
    held: list[_Block] = []
    count, after_s = 0, -math.inf
    for t_s, power_w, logic in file.blocks():
        a, b = int(np.searchsorted(t_s, start_s, "left")), int(np.searchsorted(t_s, end_s, "right"))
        ended = b < t_s.size
        if a:
            after_s = float(t_s[a - 1])
        if b > a:
            held.append(_slice_block((t_s, power_w, logic), a, b))
            count += b - a
        if count >= size:
            whole = _join_blocks(held)
            for i in range(0, count - size + 1, size):
                yield make_chunk(file.info, *_slice_block(whole, i, i + size), after_s)
                after_s = float(whole[0][i + size - 1])
            held = [_slice_block(whole, count - count % size, count)]
            count %= size
        if ended:
            break
    if count:
        yield make_chunk(file.info, *_join_blocks(held), after_s)


_Block = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint8] | None]


def _slice_block(block: _Block, a: int, b: int) -> _Block:
    t_s, power_w, logic = block
    return t_s[a:b], power_w[a:b], None if logic is None else logic[a:b]


def _join_blocks(blocks: list[_Block]) -> _Block:
    if len(blocks) == 1:
        return blocks[0]
    logic = [b[2] for b in blocks if b[2] is not None]
    joined = np.concatenate(logic) if logic else None
    return np.concatenate([b[0] for b in blocks]), np.concatenate([b[1] for b in blocks]), joined


def read_windows(path: str | Path, *, format: str = "", **options: str) -> tuple[ReportedWindow, ...]:
    """Read windows: those a trace file reports itself, or those of an interval file.

    Args:
        path: A trace, a CSV file with ``start_s,end_s,label`` (or ``start_us,end_us``, as some loggers write), or the
            ``results.txt`` beside a trace of MLPerf Tiny.
        format: Name of the trace's format; found from its content if empty.
        options: Options of the format.

    Raises:
        ConfigError: If there is no such file.
        MeasureError: If it is damaged.
    """
    path = Path(path)
    if not format and is_interval_file(path):
        return read_intervals(path)
    if not format and path.name == RESULTS:  # MLPerf Tiny: the report names windows of the trace beside it
        path = next((p for name in TRACES if (p := path.with_name(name)).is_file()), path)
    return open_trace(path, format=format, **options).windows()


def hash_trace(trace: PowerTrace | TraceFile) -> str:
    """Hash the content of a trace: samples, times, label, calibration, gaps and losses; not its storage format.

    A stored trace has the hash of the trace in memory as long as its power is stored as ``float64``.

    Args:
        trace: A trace in memory, or an opened one, which is read piece by piece.

    Returns:
        64 hexadecimal digits.
    """
    info, blocks = (
        (trace, iter([(trace.t_s, trace.power_w, trace.logic)]))
        if isinstance(trace, PowerTrace)
        else (trace.info, trace.blocks())
    )
    parts = [hashlib.sha256() for _ in range(3)]
    for t_s, power_w, logic in blocks:
        parts[0].update(np.ascontiguousarray(t_s, "<f8").data)
        parts[1].update(np.ascontiguousarray(power_w, "<f8").data)
        if logic is not None:
            parts[2].update(np.ascontiguousarray(logic).data)
    facts = [info.meter_id, info.calibration_id, info.source, info.rate_hz, info.sampling, info.dropped, info.gaps]
    whole = hashlib.sha256(json.dumps([*facts, *(p.hexdigest() for p in parts)]).encode())
    return whole.hexdigest()
