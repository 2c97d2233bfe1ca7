"""Parser of the output of TensorFlow Lite's and LiteRT's ``benchmark_model``.

Source: LiteRT ``tflite/tools/benchmark/benchmark_model.cc`` and ``benchmark_tflite_model.cc``, TensorFlow
``core/util/stats_calculator.h``. Generations: lines with and without ``INFO:``; statistics with and without p5, median
and p95, or of a single run; a summary with ``Inference (avg)``, ``Inference`` or ``no stats``. The tool prints
microseconds; parsed times are in seconds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from deepen.devices.runtimes.parsers.op_profile import OpTable, parse_op_profile
from deepen.devices.runtimes.parsers.text import NUMBER, LogLine, RunStatistics, parse_finite_number, parse_log_lines

__all__ = ["ENDED", "STARTED", "BenchmarkReport", "Delegation", "parse_benchmark_model", "parse_statistics"]

STARTED = re.compile(r"^Running benchmark for (?:at least )?(?P<runs>\d+) iterations")
"""The line printed just before the first run of a phase."""
ENDED = re.compile(r"^count=\d+ ")
"""The line printed just after the last run of a phase."""

_FIELD = re.compile(rf"\b(count|first|curr|min|max|avg|std|p5|median|p95)=({NUMBER})")
_INITIALISED = re.compile(rf"^Initialized session in ({NUMBER}) ?ms")
_SUMMARY = re.compile(r"^(?:Average i|I)nference timings in us: (?P<rest>.*)$")
_PAIR = re.compile(rf"(Init|First inference|Warmup|Inference|no stats)(?: \(avg\))?: ({NUMBER})")
_SIZE = re.compile(rf"^The input model file size \(MB\): ({NUMBER})")
_MEMORY = re.compile(rf"(?:[Mm]emory footprint).*\(MB\): init=({NUMBER}) overall=({NUMBER})")
_EXPLICIT = re.compile(
    r"^(?:Explicitly a|A)pplied (?P<name>.+?) delegate, and the model graph will be (?P<how>completely|partially)"
    r" executed (?:by|w/) the delegate(?: w/ (?P<kernels>\d+) delegate kernels)?"
)
_REFUSED = re.compile(r"^Though (?P<name>.+?) delegate is explicitly applied, the model graph will not be executed")
_FAILED = re.compile(
    r"^(?:Failed to (?:apply|create)|Could not create|Can(?:no|')t apply) (?:the )?(?P<name>.+?)(?: delegate)?[.:!]?$",
    re.I,
)
_UNSUPPORTED = re.compile(
    r"^(?P<name>GPU|NNAPI|Hexagon|CoreML|XNNPACK) (?:acceleration|delegate) is (?:unsupported|not supported)", re.I
)
_REPLACED = re.compile(r"Replacing (?P<taken>\d+) out of (?P<nodes>\d+) node\(s\) with delegate \((?P<kernel>[^)]+)\)")
_ACCELERATORS = re.compile(r"^NNAPI accelerators available: \[(?P<names>[^\]]*)\]")
_DISALLOWED = "Disallowed CPU fallback detected"

_KERNELS = {
    "gpu": ("TfLiteGpuDelegate",), "nnapi": ("TfLiteNnapiDelegate",), "hexagon": ("TfLiteHexagonDelegate",),
    "xnnpack": ("TfLiteXNNPackDelegate",), "coreml": ("TfLiteCoreMlDelegate",),
}  # fmt: skip
_REFERENCE = "nnapi-reference"


@dataclass(frozen=True, slots=True)
class Delegation:
    """Extent to which a requested accelerator runs the graph.

    Attributes:
        asked: ``gpu``, ``nnapi``, ``hexagon``, ``coreml``, ``xnnpack`` or ``external``.
        state: ``full`` (it runs every node), ``partial``, ``none`` (the CPU runs all: a fallback) or ``unknown`` (not
            stated in the output).
        taken: Nodes it replaced; ``None`` where unknown.
        nodes: Nodes of the graph; ``None`` where unknown.
        evidence: The line that shows it.
    """

    asked: str
    state: Literal["full", "partial", "none", "unknown"]
    taken: int | None = None
    nodes: int | None = None
    evidence: str = ""

    def __str__(self) -> str:
        share = "" if self.taken is None else f" {self.taken}/{self.nodes} nodes"
        return f"{self.asked}={self.state}{share}"


@dataclass(frozen=True, slots=True)
class BenchmarkReport:
    """Report of one run of the tool; ``None`` for values missing from it.

    Attributes:
        warmup: Durations of the warm-up runs.
        regular: Durations of the runs that count; ``None`` if the tool ended before them.
        init_s: Time to load the model and its delegates, seconds.
        model_bytes: Size of the model file.
        memory_bytes: Increase of memory from start to end, bytes.
        tables: The operator profile.
        errors: Lines at level ERROR or FATAL.
        problems: Contradictions in the output.
    """

    warmup: RunStatistics | None
    regular: RunStatistics | None
    init_s: float | None
    model_bytes: float | None
    memory_bytes: float | None
    tables: tuple[OpTable, ...]
    errors: tuple[str, ...]
    problems: tuple[str, ...]
    _lines: tuple[LogLine, ...] = ()

    def delegation(self, asked: str) -> Delegation:
        """Find out to what extent an accelerator ran the graph.

        NNAPI's ``nnapi-reference`` runs on the CPU: if it is the only accelerator, a graph "executed by NNAPI" has
        fallen back nevertheless.
        """
        return _find_delegation(self._lines, self.tables, asked.lower())


def parse_statistics(text: str) -> RunStatistics | None:
    """Parse a ``count=... avg=...`` line; ``None`` if it is not such a line or lacks a needed value."""
    found = {k: parse_finite_number(v) for k, v in _FIELD.findall(text)}
    count = found.get("count")
    if count is None or count < 1 or not count.is_integer():
        return None
    mean = found.get("avg", found.get("curr") if count == 1 else None)
    if mean is None or mean < 0:
        return None

    def seconds(*names: str) -> float | None:
        value = next((found[n] for n in names if found.get(n) is not None), None)
        return None if value is None else value * 1e-6

    alone = ("curr",) if count == 1 else ()
    percentiles = {p: seconds(n) for p, n in ((5.0, "p5"), (50.0, "median"), (95.0, "p95"))}
    return RunStatistics(
        count=int(count),
        mean_s=mean * 1e-6,
        min_s=seconds("min", *alone),
        max_s=seconds("max", *alone),
        std_s=seconds("std"),
        first_s=seconds("first", *alone),
        median_s=seconds("median"),
        percentiles_s={p: v for p, v in percentiles.items() if v is not None},
    )


def parse_benchmark_model(text: str) -> BenchmarkReport:
    """Parse the tool's output, standard output and standard error together."""
    lines = tuple(parse_log_lines(text))
    phases: list[RunStatistics | None] = []
    problems: list[str] = []
    summary: dict[str, float | None] = {}
    init_s = size = memory = None
    for line in lines:
        plain = line.text.strip()
        if STARTED.match(plain):
            phases.append(None)
        elif ENDED.match(plain):
            found = parse_statistics(plain)
            if found is None:
                problems.append(f"statistics that cannot be read: {plain[:120]}")
            elif not phases:
                problems.append(f"statistics without a beginning: {plain[:120]}")
            elif phases[-1] is None:
                phases[-1] = found
        elif match := _INITIALISED.match(plain):
            init_s = _parse_scaled(match[1], 1e-3)
        elif match := _SUMMARY.match(plain):
            summary = {k: _parse_scaled(v, 1e-6) for k, v in _PAIR.findall(match["rest"])}
        elif match := _SIZE.match(plain):
            size = _parse_scaled(match[1], 1e6)
        elif match := _MEMORY.search(plain):
            memory = _parse_scaled(match[2], 2.0**20)
    warmup, regular = _split_phases(phases, bool(summary))
    claimed = summary.get("Inference", summary.get("no stats"))
    mean_s = None if regular is None else regular.mean_s
    # Both are printed with six significant digits; "no stats" is cut to whole microseconds.
    if mean_s is not None and claimed is not None and abs(mean_s - claimed) > 2e-5 * claimed + 1e-6:
        problems.append(f"the statistics say {mean_s:g} s per run and the summary {claimed:g} s")
    return BenchmarkReport(
        warmup=warmup,
        regular=regular,
        init_s=init_s if init_s is not None else summary.get("Init"),
        model_bytes=size,
        memory_bytes=memory,
        tables=parse_op_profile(text),
        errors=tuple(x.text.strip() for x in lines if x.level in ("E", "F")),
        problems=tuple(problems),
        _lines=lines,
    )


def _parse_scaled(text: str, unit: float) -> float | None:
    value = parse_finite_number(text)
    return None if value is None else value * unit


def _split_phases(
    phases: Sequence[RunStatistics | None], ended: bool
) -> tuple[RunStatistics | None, RunStatistics | None]:
    """Split phases into warm-up and counted runs; a single phase counts if the tool came to its end (no warm-up)."""
    if len(phases) >= 2:
        return phases[0], phases[1]
    if phases and ended:
        return None, phases[0]
    return (phases[0] if phases else None), None


def _find_delegation(lines: Sequence[LogLine], tables: Sequence[OpTable], asked: str) -> Delegation:
    kernels = _KERNELS.get(asked)
    taken = nodes = None
    replaced = ""
    verdict: Delegation | None = None
    for line in lines:
        plain = line.text.strip()
        if match := _REPLACED.search(plain):
            # A vendor's delegate may have any name; it comes before those the runtime adds itself.
            ours = match["kernel"].startswith(kernels) if kernels else "XNNPack" not in match["kernel"]
            if ours:
                taken, nodes = (taken or 0) + int(match["taken"]), (nodes or 0) + int(match["nodes"])
                replaced = plain
        elif match := _EXPLICIT.match(plain):
            if match["name"].lower() == asked:
                verdict = Delegation(asked, "full" if match["how"] == "completely" else "partial", evidence=plain)
        elif match := (_REFUSED.match(plain) or _FAILED.match(plain) or _UNSUPPORTED.match(plain)):
            if asked in match["name"].lower().split():
                return Delegation(asked, "none", evidence=plain)
        elif _DISALLOWED in plain:
            return Delegation(asked, "none", taken, nodes, plain)
        elif asked == "nnapi" and (match := _ACCELERATORS.match(plain)) and match["names"].strip() == _REFERENCE:
            return Delegation(asked, "none", evidence=plain)
    if verdict is not None:
        return Delegation(asked, verdict.state, taken, nodes, verdict.evidence)
    if taken is not None:
        return Delegation(asked, "full" if taken == nodes else "partial" if taken else "none", taken, nodes, replaced)
    return _find_delegation_by_profile(tables, asked, kernels)


def _find_delegation_by_profile(tables: Sequence[OpTable], asked: str, kernels: tuple[str, ...] | None) -> Delegation:
    """Find the delegation from the operator profile, where a delegate's kernels are nodes of their own."""
    rows = [r for t in tables if t.covers_inference and t.title == "Run Order" and not t.part for r in t.rows]
    if not rows or kernels is None:
        return Delegation(asked, "unknown")
    ours = [r for r in rows if r.node_type.startswith(kernels)]
    state: Literal["full", "partial", "none"] = "none" if not ours else "full" if len(ours) == len(rows) else "partial"
    return Delegation(asked, state, evidence=f"{len(ours)} of {len(rows)} profiled nodes are {kernels[0]}")
