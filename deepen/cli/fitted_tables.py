"""Tables of kernels that fit the terminal: equal kernels folded into one line, long names cut in their middle."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from deepen.cli.output import format_table

__all__ = [
    "fit_table",
    "fold_equal",
    "format_operators",
    "get_terminal_width",
    "merge_names",
    "shorten_middle",
    "shorten_path",
    "wrap_text",
]

_Item = TypeVar("_Item")

PIPE_WIDTH = 120
"""Columns of a line where there is no terminal and the environment variable COLUMNS says nothing."""
_LEAST_WIDTH = 40
_LEAST_CELL = 8


def get_terminal_width() -> int:
    """Get the columns of the terminal: of COLUMNS, else of the terminal of any standard stream, else 120."""
    try:
        return max(int(os.environ["COLUMNS"]), _LEAST_WIDTH)
    except (KeyError, ValueError):
        pass
    for stream in (1, 2, 0):  # in 'deepen predict | less' the errors still go to the terminal
        try:
            columns = os.get_terminal_size(stream).columns
        except OSError:
            continue
        if columns > 0:
            return max(columns, _LEAST_WIDTH)
    return PIPE_WIDTH


def wrap_text(text: str, width: int) -> str:
    """Break a line at spaces so that it fits; what follows is indented. Only a word wider than a line is cut."""
    return "\n".join(textwrap.wrap(text, width, subsequent_indent="  ", break_on_hyphens=False)) or text


def fold_equal(items: Iterable[_Item], key: Callable[[_Item], Hashable]) -> list[list[_Item]]:
    """Group the items with equal keys, in the order of the first of each group."""
    groups: dict[Hashable, list[_Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def merge_names(names: Sequence[str]) -> str:
    """Write names that differ only in numbers as one, ``/layer.*/MatMul``; of others, the first."""
    parts = [re.split(r"([0-9]+)", name) for name in names[:1000]]
    if len({len(p) for p in parts}) != 1 or any(p[::2] != parts[0][::2] for p in parts):
        return names[0]
    return "".join(column[0] if len(set(column)) == 1 else "*" for column in zip(*parts, strict=True))


def shorten_path(name: str) -> str:
    """Leave out path segments that the next one repeats (``/block/block.3/block.3.0/Conv`` -> ``/block.3.0/Conv``)."""
    parts = name.split("/")
    kept = [
        part for part, after in zip(parts, [*parts[1:], ""], strict=True) if not (part and after.startswith(f"{part}."))
    ]
    return "/".join(kept)


def shorten_middle(text: str, width: int) -> str:
    """Shorten a text in its middle: the ends of node names are the most telling."""
    if len(text) <= width:
        return text
    head = (width - 1) // 3
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def format_operators(op_types: Sequence[str]) -> str:
    """Join operators with ``+``, repetitions as in ``3xSlice``; those that only quantise around others as ``QDQ``."""
    computing = [op for op in op_types if op not in ("DequantizeLinear", "QuantizeLinear")]
    runs: list[tuple[str, int]] = []
    for op in computing or op_types:
        if runs and runs[-1][0] == op:
            runs[-1] = (op, runs[-1][1] + 1)
        else:
            runs.append((op, 1))
    text = "+".join(op if times == 1 else f"{times}x{op}" for op, times in runs)
    return f"{text}+QDQ" if 0 < len(computing) < len(op_types) else text


def fit_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    right: Iterable[int] = (),
    elastic: Sequence[int] = (0,),
    dispensable: Sequence[int] = (),
) -> str:
    """Lay out a table in which no line is longer than ``width``.

    Columns that are empty throughout are left out. Then cells of elastic columns are cut in their middle, the widest
    first; names that become equal by that get a number. Where elastic columns would become too narrow to read, whole
    columns are left out before.

    Args:
        header: Column titles.
        rows: Cells.
        width: Most characters of a line.
        right: Indices of right-aligned columns.
        elastic: Indices of the columns that may be cut.
        dispensable: Indices of columns that may be left out, the first to go first.
    """
    cells = [[" ".join(cell.split()) for cell in row] for row in (header, *rows)]
    wide = [max((len(row[i]) for row in cells), default=0) for i in range(len(header))]
    shown = [i for i in range(len(header)) if not rows or i == elastic[0] or any(row[i] for row in cells[1:])]

    def need(least: int) -> int:
        """Width of the table with elastic columns cut to ``least``."""
        return sum(min(wide[i], least) if i in elastic else wide[i] for i in shown) + 2 * (len(shown) - 1)

    for column in dispensable:  # 1. Leave out columns until the names keep a readable width.
        if need(3 * _LEAST_CELL) > width and column in shown:
            shown.remove(column)
    # 2. Cut the widest elastic cells to the greatest width at which the table fits.
    most = next((w for w in range(max(wide), _LEAST_CELL, -1) if need(w) <= width), _LEAST_CELL)
    limits = dict.fromkeys(elastic, most)
    spare = width - need(most)
    for i in shown:  # what is left goes to the first elastic column that can use it
        if i in elastic and wide[i] > most:
            limits[i] = min(wide[i], most + max(spare, 0))
            break
    for i in limits:
        before = [row[i] for row in cells[1:]]
        after = (
            _shorten_distinct(before, limits[i]) if i == elastic[0] else [shorten_middle(t, limits[i]) for t in before]
        )
        for row, text in zip(cells[1:], after, strict=True):
            row[i] = text
        cells[0][i] = shorten_middle(cells[0][i], limits[i])
    kept = [[row[i] for i in shown] for row in cells]
    flush = set(right)
    lines = format_table(kept[0], kept[1:], [place for place, i in enumerate(shown) if i in flush]).split("\n")
    return "\n".join(line[:width] for line in lines)  # a terminal narrower than the figures alone


def _shorten_distinct(names: Sequence[str], width: int) -> list[str]:
    """Shorten names so that different ones stay different."""
    owner: dict[str, str] = {}
    found = []
    for name in names:
        short, number = shorten_middle(name, width), 1
        while owner.setdefault(short, name) != name:
            number += 1
            mark = f"~{number}"
            short = shorten_middle(name, max(width - len(mark), 2)) + mark
        found.append(short)
    return found
