"""Parser of the output and the exported files of TensorRT's ``trtexec``.

Source: NVIDIA/TensorRT ``samples/common/sampleReporting.cpp``. Generations: since 8 one line per quantity
(``Latency: min = ... ms, ...``), with one percentile or several, and until 8.5 an end-to-end latency; in 7 a block per
quantity (``Host Latency``, then ``min: ...``). The tool prints milliseconds; parsed times are in seconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deepen.devices.runtimes.parsers.text import NUMBER, RunStatistics, parse_finite_number, parse_log_lines

__all__ = [
    "STARTING", "SUMMARY", "LayerTime", "TrtQuery", "TrtReport", "parse_layer_times", "parse_query_times",
    "parse_trtexec",
]  # fmt: skip

STARTING = re.compile(r"^Starting inference")
"""The line printed before the warm-up."""
SUMMARY = re.compile(r"^(?:=== Trace details ===|=== Performance summary ===|Warmup completed|Timing trace has)")
"""The lines of which one is printed after the last query."""

_QUANTITY = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9 -]*?): min = (?P<rest>.*)$")
_VALUE = re.compile(rf"(min|max|mean|median|percentile\((?P<p>{NUMBER})%\)) = (?P<value>{NUMBER}) ms")
_OLD_NAMES = ("Host Latency", "Enqueue Time", "GPU Compute")
_OLD_VALUE = re.compile(rf"^(?P<key>min|max|mean|median): (?P<value>{NUMBER}) ms")
_OLD_PERCENTILE = re.compile(rf"^percentile: (?P<value>{NUMBER}) ms at (?P<p>{NUMBER})%")
_RATE = re.compile(rf"^[Tt]hroughput: (?P<value>{NUMBER}) qps")
_WALL = re.compile(rf"^(?:Total Host Walltime|walltime): (?P<value>{NUMBER}) s")
_GPU = re.compile(rf"^(?:Total GPU Compute Time|total compute time): (?P<value>{NUMBER}) s")
_QUERIES = re.compile(r"^Timing trace has (?P<n>\d+) queries")
_VERDICT = re.compile(r"^&&&& (?P<verdict>PASSED|FAILED) TensorRT\.trtexec(?: \[TensorRT v(?P<version>\d+)\])?")
_DLA = re.compile(r"falling back to GPU|cannot run on DLA|not supported on DLA", re.I)


@dataclass(frozen=True, slots=True)
class TrtReport:
    """Report of one run of the tool; ``None`` for values missing from it.

    Attributes:
        passed: True if it ended successfully.
        version: TensorRT's version as printed, for example ``100900``; empty where unknown.
        quantities: Quantity (``Latency``, ``GPU Compute Time``, ...) -> its durations. In generation 7 ``Host Latency``
            is ``Latency`` and ``GPU Compute`` is ``GPU Compute Time``.
        queries: Number of queries counted.
        rate_hz: Queries per second.
        wall_s: Time from the first counted query to the end of the last, seconds.
        gpu_s: Sum of the GPU's compute times, seconds.
        fallbacks: Lines that report a layer on the GPU instead of the requested DLA.
        warnings: Lines at level W.
        errors: Lines at level E or F.
    """

    passed: bool | None
    version: str
    quantities: Mapping[str, RunStatistics]
    queries: int | None
    rate_hz: float | None
    wall_s: float | None
    gpu_s: float | None
    fallbacks: tuple[str, ...]
    warnings: tuple[str, ...]
    errors: tuple[str, ...]


@dataclass(slots=True)
class _TrtQuantity:
    values: dict[str, float] = field(default_factory=dict)
    percentiles: dict[float, float] = field(default_factory=dict)

    def statistics(self) -> RunStatistics:
        get = self.values.get
        return RunStatistics(
            mean_s=get("mean"), min_s=get("min"), max_s=get("max"), median_s=get("median"),
            percentiles_s=self.percentiles,
        )  # fmt: skip


def parse_trtexec(text: str) -> TrtReport:
    """Parse the tool's output, standard output and standard error together."""
    found: dict[str, _TrtQuantity] = {}
    totals: dict[str, float] = {}
    fallbacks: list[str] = []
    warnings: list[str] = []
    errors: list[str] = []
    passed: bool | None = None
    version, block = "", ""
    for line in parse_log_lines(text):
        plain = line.text.strip()
        if _DLA.search(plain):
            fallbacks.append(plain)
        if line.level == "W":
            warnings.append(plain)
        elif line.level in ("E", "F"):
            errors.append(plain)
        if match := _VERDICT.match(plain):
            passed, version = match["verdict"] == "PASSED", match["version"] or version
        elif match := _QUANTITY.match(plain):
            _read_values(found.setdefault(match["name"], _TrtQuantity()), "min = " + match["rest"])
        elif plain in _OLD_NAMES:
            block = {"Host Latency": "Latency", "GPU Compute": "GPU Compute Time"}.get(plain, plain)
        elif block and (match := _OLD_VALUE.match(plain)):
            found.setdefault(block, _TrtQuantity()).values.setdefault(match["key"], float(match["value"]) * 1e-3)
        elif block and (match := _OLD_PERCENTILE.match(plain)):
            found.setdefault(block, _TrtQuantity()).percentiles[float(match["p"])] = float(match["value"]) * 1e-3
        else:
            for key, pattern in (("rate", _RATE), ("wall", _WALL), ("gpu", _GPU)):
                if (match := pattern.match(plain)) and (value := parse_finite_number(match["value"])) is not None:
                    totals[key] = value
            if match := _QUERIES.match(plain):
                totals["queries"] = int(match["n"])
    queries = totals.get("queries")
    return TrtReport(
        passed=passed,
        version=version,
        quantities={name: f.statistics() for name, f in found.items()},
        queries=None if queries is None else int(queries),
        rate_hz=totals.get("rate"),
        wall_s=totals.get("wall"),
        gpu_s=totals.get("gpu"),
        fallbacks=tuple(dict.fromkeys(fallbacks)),
        warnings=tuple(dict.fromkeys(w for w in warnings if w)),
        errors=tuple(dict.fromkeys(e for e in errors if e)),
    )


def _read_values(found: _TrtQuantity, text: str) -> None:
    for match in _VALUE.finditer(text):
        value = parse_finite_number(match["value"])
        if value is None:
            continue
        if match["p"] is not None:
            found.percentiles[float(match["p"])] = value * 1e-3
        else:
            found.values[match[1]] = value * 1e-3


# ---- exported files -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TrtQuery:
    """One query of ``--exportTimes``, in seconds on trtexec's own clock (0 where its timing began).

    Attributes:
        start_s: Time at which it was enqueued.
        end_s: Time at which its results were on the host.
        compute_s: Its duration on the GPU.
        latency_s: Latency as defined by trtexec; ``None`` in generations that do not export it.
    """

    start_s: float
    end_s: float
    compute_s: float
    latency_s: float | None


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One layer of ``--exportProfile``.

    Attributes:
        name: The layer.
        mean_s: Mean time per run, seconds.
        median_s: Median time per run, seconds; ``None`` in generations that do not export it.
        share: Share of all layers' time, 0..1; ``None`` if not exported.
    """

    name: str
    mean_s: float
    median_s: float | None
    share: float | None


def _load_entries(text: str) -> list[dict[str, Any]]:
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [e for e in whole if isinstance(e, dict)] if isinstance(whole, list) else []


def _read_milliseconds(entry: Mapping[str, Any], *keys: str) -> float | None:
    for key in keys:
        value = entry.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            found = parse_finite_number(str(value))
            return None if found is None else found * 1e-3
    return None


def parse_query_times(text: str) -> tuple[TrtQuery, ...]:
    """Parse the queries of ``--exportTimes``, in order; empty if the file is not such a file or is cut short."""
    queries = []
    for entry in _load_entries(text):
        start = _read_milliseconds(entry, "startEnqMs", "startInMs")
        end = _read_milliseconds(entry, "endD2hMs", "endOutMs")
        compute = _read_milliseconds(entry, "computeMs")
        if start is None or end is None or compute is None or end < start:
            return ()
        queries.append(TrtQuery(start, end, compute, _read_milliseconds(entry, "latencyMs", "latency")))
    return tuple(queries)


def parse_layer_times(text: str) -> tuple[int | None, tuple[LayerTime, ...]]:
    """Parse the number of runs and the layers of ``--exportProfile``; (``None``, ()) if the file is not such a file."""
    count: int | None = None
    layers = []
    for entry in _load_entries(text):
        name, mean = entry.get("name"), _read_milliseconds(entry, "averageMs")
        if isinstance(entry.get("count"), int) and name is None:
            count = entry["count"]
        elif isinstance(name, str) and mean is not None:
            percentage = parse_finite_number(str(entry.get("percentage")))
            share = None if percentage is None else percentage / 100
            layers.append(LayerTime(name, mean, _read_milliseconds(entry, "medianMs"), share))
    return count, tuple(layers)
