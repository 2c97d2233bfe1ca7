"""Reading named columns of CSV files of any size, block by block; every error names its row."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from deepen.errors import MeasureError
from deepen.records import TraceWarning
from deepen.traces.parquet_columns import get_first_line

__all__ = ["CsvTable"]

_BLOCK = 1 << 22
"""Size of a block that is parsed at once, bytes."""


@dataclass(frozen=True, slots=True)
class CsvTable:
    """A CSV file.

    Attributes:
        path: The file.
        names: Names of all columns, in order.
        delimiter: The character that separates the columns.
        skip: Lines before the first row of numbers, the header included.
        size: Bytes read: the whole file, or the part before a torn last line.
        warnings: Warnings about the end of the file.
    """

    path: Path
    names: tuple[str, ...]
    delimiter: str
    skip: int
    size: int
    warnings: tuple[TraceWarning, ...]

    @classmethod
    def open(
        cls, path: Path, names: Sequence[str], delimiter: str = ",", skip: int = 1, numbers: Sequence[str] = ()
    ) -> CsvTable:
        """Open a file; a last line that is cut short is left out, with a warning.

        Args:
            path: The file.
            names: Names of all columns, in order.
            delimiter: The character that separates the columns.
            skip: Lines before the first row.
            numbers: Columns that hold numbers, by which a torn last line is recognised.

        Raises:
            MeasureError: If the file holds no rows, or lacks a column.
        """
        missing = [n for n in numbers if n not in names]
        if missing:
            raise MeasureError(f"{path}: has no column '{missing[0]}'; its columns: {', '.join(names) or 'none'}")
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(0, size - (1 << 16)))
            tail = file.read()
        last = tail[tail.rfind(b"\n") + 1 :]
        warnings: tuple[TraceWarning, ...] = ()
        if last.strip():
            fields = [f.strip() for f in last.decode("utf-8", "replace").split(delimiter)]
            if len(fields) == len(names) and all(_is_number(fields[names.index(n)]) for n in numbers):
                text = "the last line has no end; if the file was cut, its last value may be wrong"
                warnings = (TraceWarning("trace", text),)
            else:
                size -= len(last)
                warnings = (TraceWarning("loss", "the last line is cut short and was left out"),)
        if not size:
            raise MeasureError(f"{path}: has no rows; record again")
        return cls(path, tuple(names), delimiter, skip, size, warnings)

    def blocks(self, columns: Sequence[str], texts: Sequence[str] = ()) -> Iterator[list[NDArray[Any]]]:
        """Read columns block by block.

        Args:
            columns: Names of columns of numbers.
            texts: Names of columns of text.

        Yields:
            One float64 array per column of numbers (a value that is empty or ``nan`` is ``nan``), then one array of
            ``str`` per column of text, all of shape (rows,).

        Raises:
            MeasureError: If a row has a different number of columns, or a value is not a number.
        """
        import pyarrow as pa
        import pyarrow.csv as pv

        unique = [f"{i}" for i in range(len(self.names))]  # headers may repeat a name or leave it empty
        wanted = [unique[self.names.index(c)] for c in (*columns, *texts)]
        types = [pa.float64()] * len(columns) + [pa.string()] * len(texts)
        parse = pv.ParseOptions(delimiter=self.delimiter)
        convert = pv.ConvertOptions(
            include_columns=wanted,
            column_types=dict(zip(wanted, types, strict=True)),
            null_values=["", "nan", "NaN", "-nan"],
        )
        rows = 0
        for data in self._lines():
            read = pv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=unique)
            try:
                # From memory: Arrow would read a Python file in a thread of its own, which may outlive the interpreter.
                batch = pv.read_csv(pa.BufferReader(data), read, parse, convert)
            except pa.ArrowException as error:
                raise MeasureError(f"{self.path}: {self._describe_parse_error(get_first_line(error), rows)}") from error
            rows += batch.num_rows
            yield [c.to_numpy() for c in batch.columns]
        if not rows:
            raise MeasureError(f"{self.path}: has no rows; record again")

    def _lines(self) -> Iterator[bytes]:
        """Yield the file after the skipped lines, in pieces of whole, non-empty lines."""
        left, rest = self.size, b""
        with self.path.open("rb") as file:
            for _ in range(self.skip):
                left -= len(file.readline(left))
            while left > 0:
                data = file.read(min(_BLOCK, left))
                if not data:
                    break
                left -= len(data)
                data = rest + data
                end = data.rfind(b"\n") + 1 if left > 0 else len(data)
                rest = data[end:]
                if len(rest) > _BLOCK:
                    raise MeasureError(f"{self.path}: holds a line of more than {_BLOCK} bytes; it is no table")
                if data[:end].strip():
                    yield data[:end]

    def _describe_parse_error(self, text: str, before: int) -> str:
        """Restate the parser's message on a piece that begins after ``before`` rows with row and column of the file."""
        row = re.search(r"Row #(\d+)", text)
        column = re.search(r"CSV column #(\d+)", text)
        where = [f"row {before + int(row[1])}"] if row else [f"after row {before}"]
        if column and int(column[1]) < len(self.names):
            where.append(f"column '{self.names[int(column[1])]}'")
        return f"{', '.join(where)}: {re.split(r'Row #[0-9]+: |CSV parse error: ', text)[-1][:120]}; mend or remove it"


def _is_number(text: str) -> bool:
    try:
        return not math.isinf(float(text))
    except ValueError:
        return False
