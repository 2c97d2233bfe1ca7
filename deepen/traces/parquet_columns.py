"""Samples as Parquet columns: a position or a time, the power, and the digital inputs where there are any."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.clock.host_clock import ClockMap
from deepen.errors import MeasureError
from deepen.traces.manifest import TracePart
from deepen.traces.types import TraceHeader

__all__ = [
    "META_KEY",
    "SampleColumns",
    "compute_positions",
    "compute_times",
    "get_first_line",
    "get_parquet_options",
    "make_arrow_schema",
    "make_arrow_table",
    "make_part_metadata",
    "open_parquet",
    "read_columns",
    "write_table",
]

META_KEY = b"deepen-trace"
"""Key of the manifest in a Parquet file's metadata."""

_ROWS = 1 << 18
"""Rows per row group, which a reader decodes at once: 2 MiB of float64."""


@dataclass(frozen=True, slots=True)
class SampleColumns:
    """Samples as stored.

    Attributes:
        position: int64 (``index``) or float64 seconds (``stamps``), shape (n,).
        power_w: float32 or float64, shape (n,).
        logic: uint8, shape (n,), or ``None``.
    """

    position: NDArray[Any]
    power_w: NDArray[Any]
    logic: NDArray[np.uint8] | None


def get_first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or the name of its class."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def compute_times(header: TraceHeader, clock: ClockMap | None, position: NDArray[Any]) -> NDArray[np.float64]:
    """Convert stored positions to times, seconds, shape (n,)."""
    if header.times == "stamps":
        return np.asarray(position, dtype=np.float64)
    device_s = position / header.rate_hz
    return header.start_s + device_s if clock is None else clock.to_host(device_s)


def compute_positions(
    header: TraceHeader, clock: ClockMap | None, t_s: NDArray[np.float64]
) -> NDArray[np.int64] | None:
    """Return positions whose :func:`compute_times` are exactly these times; ``None`` where there are none."""
    device_s = t_s - header.start_s if clock is None else clock.to_device(t_s)
    scaled = np.rint(device_s * header.rate_hz)
    if not bool(np.all(np.abs(scaled) < 2**53)):
        return None
    index = scaled.astype(np.int64)
    return index if np.array_equal(compute_times(header, clock, index), t_s) else None


def make_arrow_schema(header: TraceHeader) -> Any:
    """Make the Arrow schema of the samples."""
    import pyarrow as pa

    first = ("index", pa.int64()) if header.times == "index" else ("t_s", pa.float64())
    power = pa.float32() if header.precision == "float32" else pa.float64()
    return pa.schema([first, ("power_w", power), *([("logic", pa.uint8())] if header.logic else [])])


def make_arrow_table(header: TraceHeader, columns: SampleColumns, metadata: dict[bytes, bytes] | None = None) -> Any:
    """Make an Arrow table of samples."""
    import pyarrow as pa

    shape = make_arrow_schema(header).with_metadata(metadata)
    arrays = [columns.position, columns.power_w, *([columns.logic] if header.logic else [])]
    return pa.table([pa.array(a, type=f.type) for a, f in zip(arrays, shape, strict=True)], schema=shape)


def get_parquet_options(header: TraceHeader) -> dict[str, Any]:
    """Return the Parquet settings: positions delta-encoded (next to no space), power with its bytes split."""
    first = {"index": "DELTA_BINARY_PACKED"} if header.times == "index" else {"t_s": "BYTE_STREAM_SPLIT"}
    return {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": ["logic"] if header.logic else False,
        "column_encoding": {**first, "power_w": "BYTE_STREAM_SPLIT"},
        "write_page_checksum": True,
        "write_statistics": False,
    }


def make_part_metadata(part: TracePart) -> dict[bytes, bytes]:
    """Return the first and last position as metadata, for a reader that does not decode the part."""
    return {b"first": repr(part.first).encode(), b"last": repr(part.last).encode()}


def write_table(path: Path, samples: Any, header: TraceHeader) -> None:
    """Write a table as one Parquet file."""
    import pyarrow.parquet as pq

    pq.write_table(samples, path, row_group_size=_ROWS, **get_parquet_options(header))


def open_parquet(path: Path) -> Any:
    """Open a Parquet file.

    Raises:
        MeasureError: If it is not a Parquet file, or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise MeasureError(
            f"{path}: cannot be read as Parquet ({get_first_line(error)}); restore it from a copy"
        ) from error


def read_columns(file: Any, path: Path, header: TraceHeader, run: int | None = None) -> Iterator[SampleColumns]:
    """Read the samples of a Parquet file in pieces.

    Args:
        file: A file opened by :func:`open_parquet`.
        path: Its path, for messages.
        header: Header that says how they are stored.
        run: First position where positions are consecutive, so that they need not be read; ``None`` to read them.

    Raises:
        MeasureError: If the file is damaged or has other columns.
    """
    import pyarrow as pa

    expected = make_arrow_schema(header)
    found = file.schema_arrow
    if found.names != expected.names or found.types != expected.types:
        raise MeasureError(
            f"{path}: has columns {', '.join(found.names)} where {', '.join(expected.names)} are expected"
        )
    names = [n for n in expected.names if run is None or n != "index"]
    try:
        for batch in file.iter_batches(batch_size=_ROWS, columns=names, use_threads=False):
            if any(c.null_count for c in batch.columns):
                raise MeasureError(f"{path}: has samples without a value; restore it from a copy")
            power_w = batch.column("power_w").to_numpy().astype(np.float64, copy=False)
            if run is None:
                position = batch.column(0).to_numpy()
            else:
                position = np.arange(run, run + power_w.size, dtype=np.int64)
                run += power_w.size
            yield SampleColumns(position, power_w, batch.column("logic").to_numpy() if header.logic else None)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise MeasureError(f"{path}: damaged ({get_first_line(error)}); restore it from a copy") from error
