"""Small CSV files with a header line, read whole: what people write by hand, and what spreadsheets and scripts save.

Long files of numbers are read block by block instead, by :mod:`deepen.traces.csv_columns`.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from deepen.errors import ConfigError, DatasetError, DeepenError

__all__ = ["DELIMITERS", "parse_csv_header", "read_csv_cells", "read_csv_rows"]

DELIMITERS = ",;\t"
"""Characters that may part the columns; the one that comes most often in the header does."""


def parse_csv_header(head: bytes, delimiters: str = DELIMITERS) -> tuple[str, list[str]]:
    """Parse the first line of a CSV file.

    Args:
        head: Start of the file.
        delimiters: Characters that may separate the columns.

    Returns:
        The delimiter (the most frequent of them) and the stripped names of the columns, empty where the file is not
        text.
    """
    line = head.lstrip(b"\xef\xbb\xbf").split(b"\n", 1)[0].rstrip(b"\r").decode("utf-8", "replace")
    delimiter = max(delimiters, key=line.count)
    try:
        return delimiter, [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:  # stray carriage returns, or a field of megabytes: no header
        return delimiter, []


def read_csv_cells(
    path: Path, columns: Sequence[str] = (), *, error: type[DeepenError] = DatasetError, long_lines: bool = False
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Read a CSV file: UTF-8, with or without a byte order mark, parted by commas, semicolons or tabs.

    Args:
        path: The file.
        columns: Columns that must be there.
        error: Class of the error where the content is wrong.
        long_lines: Whether lines with more cells than the header are handed on, not refused.

    Returns:
        Column names, and the lines as ``(line number, cells)``; texts are stripped, empty lines left out, short lines
        filled with empty cells.

    Raises:
        ConfigError: If the file cannot be opened.
        DeepenError: Of class ``error``, if it is no CSV file with a header, the header lacks a column or has one twice,
            or a line is longer than the header.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as problem:
        raise ConfigError(f"{path}: {problem.strerror}; check the path") from problem
    except UnicodeDecodeError as problem:
        raise error(f"{path}: not a text file in UTF-8; save it as CSV") from problem
    delimiter, _ = parse_csv_header(text[: 1 << 16].lstrip().encode())
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as problem:
        raise error(f"{path} line {reader.line_num}: not CSV ({problem}); save it as CSV with a header") from problem
    lines = [(number, cells) for number, cells in lines if any(cells)]
    if not lines:
        raise error(f"{path}: empty; give a CSV file with a header")
    _, names = lines.pop(0)
    if twice := [name for name, count in Counter(names).items() if name and count > 1]:
        raise error(f"{path}: column '{twice[0]}' appears twice; rename one of them")
    if missing := [name for name in columns if name not in names]:
        raise error(f"{path}: lacks the column {', '.join(missing)}; add it")
    for number, cells in lines:
        if len(cells) > len(names) and not long_lines:
            raise error(f"{path} line {number}: {len(cells)} cells under {len(names)} columns; quote commas")
        cells.extend([""] * (len(names) - len(cells)))
    return names, lines


def read_csv_rows(
    path: Path, columns: Sequence[str] = (), *, error: type[DeepenError] = DatasetError
) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Read a CSV file as :func:`read_csv_cells` does, with each line as ``(line number, {column: text})``."""
    names, lines = read_csv_cells(path, columns, error=error)
    return names, [(number, dict(zip(names, cells, strict=True))) for number, cells in lines]
