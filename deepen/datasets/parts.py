"""Parts: Parquet files of records that left the journal, ``parts/part-FIRST-LAST.parquet`` (sequence numbers).

A part whose range lies inside another's was merged into it and only awaits deletion; readers pass over it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepen.datasets.record_schema import decode_table, encode_table
from deepen.errors import DatasetError
from deepen.records import EnergyRecord
from deepen.storage.atomic import Disk, make_folder, write_file_atomically

__all__ = ["ParquetPart", "list_parts", "read_part", "write_part"]

_NAME = re.compile(r"part-(\d+)-(\d+)\.parquet")


@dataclass(frozen=True, slots=True, order=True)
class ParquetPart:
    """One Parquet file.

    Attributes:
        first: Sequence number of its first record.
        last: Sequence number of its last record.
        path: The file.
    """

    first: int
    last: int
    path: Path

    def __contains__(self, other: ParquetPart) -> bool:
        return self.first <= other.first and other.last <= self.last


def list_parts(folder: Path) -> tuple[list[ParquetPart], list[ParquetPart]]:
    """Find the parts of a dataset.

    Args:
        folder: The dataset's folder.

    Returns:
        The parts that count, in order, and those merged into another.

    Raises:
        DatasetError: If two parts overlap without one holding the other.
    """
    where = folder / "parts"
    if not where.is_dir():
        return [], []
    found = [
        ParquetPart(int(match[1]), int(match[2]), path)
        for path in where.iterdir()
        if (match := _NAME.fullmatch(path.name))
    ]
    current: list[ParquetPart] = []
    merged: list[ParquetPart] = []
    for part in sorted(found, key=lambda p: (p.first, -p.last)):
        if current and part in current[-1]:
            merged.append(part)
        elif current and part.first <= current[-1].last:
            raise DatasetError(
                f"{where}: {current[-1].path.name} and {part.path.name} overlap, which deepen never writes; "
                "restore the folder from a copy"
            )
        else:
            current.append(part)
    return current, merged


def write_part(folder: Path, rows: Sequence[tuple[int, EnergyRecord]], disk: Disk) -> ParquetPart:
    """Write records as a part, in one step.

    Args:
        folder: The dataset's folder.
        rows: At least one ``(sequence number, record)``, in rising order.
        disk: Where to write.

    Raises:
        StorageError: If the disk refuses; nothing is left behind.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    first, last = rows[0][0], rows[-1][0]
    path = folder / "parts" / f"part-{first:08d}-{last:08d}.parquet"
    make_folder(path.parent)
    buffer = pa.BufferOutputStream()
    table = encode_table([seq for seq, _ in rows], [record for _, record in rows])
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    write_file_atomically(path, buffer.getvalue().to_pybytes(), disk)
    return ParquetPart(first, last, path)


def read_part(part: ParquetPart) -> list[tuple[int, EnergyRecord]]:
    """Read the records of a part with their sequence numbers.

    Raises:
        DatasetError: If the file is damaged.
        FileNotFoundError: If it was merged away meanwhile.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        data = part.path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DatasetError(f"{part.path}: cannot be read ({error.strerror}); check the file's permissions") from error
    cure = f"restore it from a copy, or delete it to go on without its {part.last - part.first + 1} records"
    try:
        table = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DatasetError(f"{part.path}: damaged ({reason}); {cure}") from error
    rows = decode_table(table, str(part.path))
    numbers = [seq for seq, _ in rows]
    if not numbers or (numbers[0], numbers[-1]) != (part.first, part.last) or sorted(set(numbers)) != numbers:
        raise DatasetError(f"{part.path}: does not hold the records its name says; {cure}")
    return rows
