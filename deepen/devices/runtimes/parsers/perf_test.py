"""Parser of the output of ``onnxruntime_perf_test``.

Source: ONNX Runtime ``onnxruntime/test/perftest/performance_runner.cc`` and ``performance_result.cc``. Generations:
``Total time cost:`` and ``Min Latency is 0.1sec`` (old), ``Session creation time cost:0.1 s`` and
``Min Latency: 0.1 s`` (new), with builds in between. The first inference is printed in whole milliseconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from deepen.devices.runtimes.parsers.text import NUMBER, RunStatistics, parse_finite_number, parse_log_lines

__all__ = ["SUMMARY", "PerfReport", "parse_perf_test"]

SUMMARY = re.compile(r"^(?:Session creation time cost|Total (?:inference )?time cost) *:")
"""The first line printed after the last run."""

_KEYS = {
    "Session creation time cost": "session", "First inference time cost": "first", "Total inference time cost": "total",
    "Total time cost": "total", "Total inference requests": "requests", "Total iterations": "requests",
    "Average inference time cost": "mean", "Average inference time cost total": "mean", "Average time cost": "mean",
    "Total inference run time": "wall", "Number of inferences per second": "rate", "Avg CPU usage": "cpu",
    "Peak working set size": "memory", "Runs": "runs",
}  # fmt: skip
_PAIR = re.compile(rf"^(?P<key>[A-Z][A-Za-z ]+?) *: *(?P<value>{NUMBER}) *(?P<unit>s|ms|us|%|bytes)?$")
_LATENCY = re.compile(rf"^(?P<which>Min|Max|P\d+) Latency(?: is|:) *(?P<value>{NUMBER}) ?(?:s|sec)$")
_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "%": 0.01, "bytes": 1.0, None: 1.0}
_UNASSIGNED = re.compile(r"Some nodes were not assigned to the preferred execution providers")
_WORDS = re.compile(
    r"is not supported in this build|Failed to create \w*ExecutionProvider|assigned to the default CPU EP|"
    r"disable_cpu_ep_fallback"
)


@dataclass(frozen=True, slots=True)
class PerfReport:
    """Report of one run of the tool; ``None`` for values missing from it.

    Attributes:
        runs: Durations of the runs that count.
        session_s: Time to create the session, seconds.
        first_s: Duration of the warm-up run, seconds; known to a millisecond only.
        total_s: Sum of the runs' durations, seconds.
        wall_s: Time from the start of the first counted run to the end of the last, seconds.
        cpu_share: Share of all processors' time that was used, 0..1, as the tool samples it.
        memory_bytes: Peak working set, bytes.
        fallback: The line that reports nodes outside the requested provider; empty if there is none.
        errors: Lines that report an error.
        problems: Contradictions in the output.
    """

    runs: RunStatistics | None
    session_s: float | None
    first_s: float | None
    total_s: float | None
    wall_s: float | None
    cpu_share: float | None
    memory_bytes: float | None
    fallback: str
    errors: tuple[str, ...]
    problems: tuple[str, ...]


def parse_perf_test(text: str) -> PerfReport:
    """Parse the tool's output, standard output and standard error together.

    1. Collect values and error lines; the first value of a repeated key counts.
    2. Check that the total, the number of runs and their mean agree; generations without a mean get it from the others.
    3. Put the statistics of the runs together.
    """
    # 1. Lines.
    found: dict[str, float] = {}
    latency: dict[str, float] = {}
    fallback = ""
    errors: list[str] = []
    for line in parse_log_lines(text):
        plain = line.text.strip()
        if match := _LATENCY.match(plain):
            value = parse_finite_number(match["value"])
            if value is not None:
                latency[match["which"]] = value
        elif match := _PAIR.match(plain):
            key, value = _KEYS.get(match["key"]), parse_finite_number(match["value"])
            # "Avg CPU usage" is printed twice, the second time without its unit; the first one stays.
            if key is not None and value is not None and not (key == "cpu" and match["unit"] is None):
                found.setdefault(key, value * _UNITS[match["unit"]])
        elif _UNASSIGNED.search(plain) or _WORDS.search(plain):
            fallback = fallback or plain
        elif re.search(r"\[E:onnxruntime|^(?:Error|Exception|Failed)|: FAIL :", plain):
            errors.append(plain)
    # 2. Number, total and mean.
    count = found.get("requests", found.get("runs"))
    total, mean = found.get("total"), found.get("mean")
    problems: list[str] = []
    if total and count and mean is not None and abs(total / count - mean) > 1e-4 * mean + 1e-9:
        problems.append(f"{total:g} s for {count:g} runs is not {mean:g} s each")
    if mean is None and total is not None and count:
        mean = total / count
    # 3. Statistics.
    runs = None
    if count is not None and count >= 1 and mean is not None:
        percentiles = {_parse_percentile(k): v for k, v in latency.items() if k.startswith("P")}
        runs = RunStatistics(
            count=int(count),
            mean_s=mean,
            min_s=latency.get("Min"),
            max_s=latency.get("Max"),
            median_s=percentiles.get(50.0),
            percentiles_s=percentiles,
        )
    return PerfReport(
        runs=runs,
        session_s=found.get("session"),
        first_s=found.get("first"),
        total_s=total,
        wall_s=found.get("wall", total),
        cpu_share=found.get("cpu"),
        memory_bytes=found.get("memory"),
        fallback=fallback,
        errors=tuple(errors),
        problems=tuple(problems),
    )


def _parse_percentile(name: str) -> float:
    """Parse a percentile: P90 is 90, P999 is 99.9."""
    digits = name[1:]
    return float(digits) if len(digits) <= 2 else float(f"{digits[:2]}.{digits[2:]}")
