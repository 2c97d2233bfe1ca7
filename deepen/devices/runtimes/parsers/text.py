"""Lines and numbers as benchmark tools print them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

__all__ = ["NUMBER", "LogLine", "RunStatistics", "parse_finite_number", "parse_log_lines"]

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|inf)"
"""What C++ streams and printf write for a number (without a group)."""

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_LOGCAT = re.compile(r"^(?:\d\d-\d\d +[\d:.]+ +\d+ +\d+ +)?(?P<level>[VDIWEF])[ /]tflite *(?:\( *\d+\))? *: ?")
_TF = re.compile(r"^\d{4}-\d\d-\d\d [\d:.]+: (?P<level>[IWEF]) \S+:\d+\] ")
_WORD = re.compile(r"^(?P<level>VERBOSE|INFO|WARN|WARNING|ERROR|FATAL): ")
_TENSORRT = re.compile(r"^\[\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d\] \[(?P<level>[VIWEF])\] ?")
_PREFIXES = (_WORD, _TENSORRT, _LOGCAT, _TF)


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line without what a logger put before it.

    Attributes:
        text: The line.
        level: ``V``, ``D``, ``I``, ``W``, ``E`` or ``F``; empty where no logger named one.
    """

    text: str
    level: str = ""


@dataclass(frozen=True, slots=True)
class RunStatistics:
    """Durations of a number of runs, in seconds; ``None`` where the tool does not say.

    Attributes:
        count: Number of runs.
        mean_s: Mean.
        min_s: Shortest.
        max_s: Longest.
        std_s: Standard deviation, as the tool computes it.
        first_s: The first run.
        median_s: Median.
        percentiles_s: Percentile (in percent) -> duration.
    """

    count: int | None = None
    mean_s: float | None = None
    min_s: float | None = None
    max_s: float | None = None
    std_s: float | None = None
    first_s: float | None = None
    median_s: float | None = None
    percentiles_s: Mapping[float, float] = field(default_factory=dict)

    @property
    def total_s(self) -> float | None:
        """Sum of all runs; ``None`` where count or mean is not known."""
        return None if self.count is None or self.mean_s is None else self.count * self.mean_s


def parse_log_lines(text: str) -> Iterator[LogLine]:
    """Lines of a log: prefixes of the loggers in use (plain words, logcat, TensorFlow, TensorRT) taken off."""
    for raw in text.splitlines():
        clean = _ANSI.sub("", raw.rstrip("\r"))
        for prefix in _PREFIXES:
            found = prefix.match(clean)
            if found is not None:
                yield LogLine(clean[found.end() :], found["level"][0])
                break
        else:
            yield LogLine(clean)


def parse_finite_number(text: str | None) -> float | None:
    """A finite number, or ``None``."""
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
