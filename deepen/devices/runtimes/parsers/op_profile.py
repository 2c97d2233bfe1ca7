"""Parser of the operator profiles of ``benchmark_model``: text and CSV, two generations of each.

Source: TensorFlow ``core/util/stats_calculator.cc`` (columns; times in milliseconds, memory in thousands of bytes) and
LiteRT ``profiling/profile_summary_formatter.cc`` (titles, CSV). The CSV is not clean: titles stay in the file, the
separator is a comma and a blank, the name is last and unquoted, and names and types contain commas. A row is therefore
recognised by the run of numbers in its middle, as many as the header has columns there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from deepen.devices.runtimes.parsers.text import NUMBER, parse_finite_number, parse_log_lines

__all__ = ["OpRow", "OpTable", "parse_op_profile"]

_TITLE = re.compile(r"^=+ (?P<title>[A-Za-z][^=]*?) =+$")
_PHASE = re.compile(r"^(?P<phase>(?:Operator-wise )?Profiling Info for .*?):?$")
_PART = re.compile(r"^(?P<part>Delegate internal|Primary graph|Subgraph \(index: .*\)).*$")
_BRACKETS = re.compile(r"\[([^\]]*)\]")
_CELL = rf"(?:{NUMBER})%?"


@dataclass(frozen=True, slots=True)
class OpRow:
    """One operator, or one type of operators in a summary; ``None`` for values missing from the table.

    Attributes:
        node_type: For example ``CONV_2D``, or the kernel of a delegate (``TfLiteGpuDelegateV2``).
        name: Name of the node with its number; empty in a summary.
        mean_s: Mean duration per run, seconds.
        share: Share of all operators' time, 0..1.
        first_s: Duration in the first run, seconds.
        start_s: Its start within a run, seconds (older generation).
        count: Number of nodes of this type (summaries).
        times_called: Calls per run.
        memory_bytes: Memory used, bytes.
    """

    node_type: str
    name: str
    mean_s: float | None
    share: float | None
    first_s: float | None = None
    start_s: float | None = None
    count: int | None = None
    times_called: int | None = None
    memory_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class OpTable:
    """A table of a profile.

    Attributes:
        title: ``Run Order``, ``Top by Computation Time`` or ``Summary by node type``.
        phase: Phase profiled, for example ``Operator-wise Profiling Info for Regular Benchmark Runs``; empty if not
            stated.
        part: ``Delegate internal``, a subgraph, or empty for the whole graph.
        rows: Its rows.
        problems: Lines inside the table that are not rows.
    """

    title: str
    phase: str
    part: str
    rows: tuple[OpRow, ...]
    problems: tuple[str, ...] = ()

    @property
    def covers_inference(self) -> bool:
        """True if the table covers inferences, not the initialisation."""
        return "Initialization" not in self.phase


@dataclass(slots=True)
class _OpTableHeader:
    """A table header: the meaning of each number, and the parser of a row."""

    names: list[str]
    has_name: bool
    row: re.Pattern[str]

    @classmethod
    def of(cls, line: str) -> _OpTableHeader | None:
        brackets = _BRACKETS.findall(line)
        csv = not brackets
        cells = [c.strip().lower() for c in (line.split(",") if csv else brackets)]
        if len(cells) < 4 or cells[0] != "node type" or not any(c.replace("_", " ") == "avg ms" for c in cells):
            return None
        has_name = cells[-1] == "name"
        numbers = cells[1:-1] if has_name else cells[1:]
        gap = r"\s*,\s*" if csv else r"\s+"
        body = gap.join(f"({_CELL})" for _ in numbers)
        tail = rf"(?:{gap}(?P<name>.*?))?" if has_name else ""
        return cls(numbers, has_name, re.compile(rf"^\s*(?P<type>\S.*?){gap}{body}{tail}\s*$"))

    def take(self, line: str) -> OpRow | None:
        found = self.row.match(line)
        if found is None:
            return None
        # The groups are the type, the numbers, and the name if there is one.
        values = dict(zip(self.names, found.groups()[1 : 1 + len(self.names)], strict=True))
        cells = {k.replace("_", " "): parse_finite_number(v.rstrip("%")) for k, v in values.items()}
        first, mean, start, memory = (cells.get(k) for k in ("first", "avg ms", "start", "mem kb"))
        share = cells.get("%", cells.get("avg %"))
        count, called = cells.get("count"), cells.get("times called")
        name = (found["name"] or "").strip() if self.has_name else ""
        return OpRow(
            node_type=found["type"].strip(),
            name=name[1:-1] if name.startswith("[") and name.endswith("]") else name,
            mean_s=None if mean is None else mean * 1e-3,
            share=None if share is None else share / 100,
            first_s=None if first is None else first * 1e-3,
            start_s=None if start is None else start * 1e-3,
            count=None if count is None else round(count),
            times_called=None if called is None else round(called),
            memory_bytes=None if memory is None else memory * 1e3,
        )


def parse_op_profile(text: str) -> tuple[OpTable, ...]:
    """Parse every table in the output of ``--enable_op_profiling``, or in its CSV file."""
    tables: list[OpTable] = []
    phase = part = title = ""
    columns: _OpTableHeader | None = None
    rows: list[OpRow] = []
    strange: list[str] = []

    def finish() -> None:
        nonlocal columns
        if columns is not None:
            tables.append(OpTable(title, phase, part, tuple(rows), tuple(strange)))
        columns = None
        rows.clear()
        strange.clear()

    for line in parse_log_lines(text):
        plain = line.text.strip()
        heading, stage, inner = _TITLE.match(plain), _PHASE.match(plain), _PART.match(plain)
        if heading is not None:
            finish()
            title = heading["title"].strip()
        elif stage is not None:
            finish()
            phase, part = stage["phase"], ""
        elif inner is not None:
            finish()
            part = inner["part"]
        elif not plain:
            finish()
        elif columns is None:
            columns = _OpTableHeader.of(plain) if title else None
        else:
            row = columns.take(line.text)
            if row is not None:
                rows.append(row)
            elif plain.startswith(("Number of nodes executed", "Timings (microseconds)", "Memory (bytes)")):
                finish()
            else:
                strange.append(plain)
    finish()
    return tuple(tables)
