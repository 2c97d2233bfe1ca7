"""Lines and numbers as benchmark tools print them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

__all__ = ["NUMBER", "LogLine", "RunStatistics", "parse_finite_number", "parse_log_lines"]

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|inf)"
"""Regular expression of a number as written by C++ streams and printf (without a group)."""

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_LOGCAT = re.compile(r"^(?:\d\d-\d\d +[\d:.]+ +\d+ +\d+ +)?(?P<level>[VDIWEF])[ /]tflite *(?:\( *\d+\))? *: ?")
_TF = re.compile(r"^\d{4}-\d\d-\d\d [\d:.]+: (?P<level>[IWEF]) \S+:\d+\] ")
_WORD = re.compile(r"^(?P<level>VERBOSE|INFO|WARN|WARNING|ERROR|FATAL): ")
_TENSORRT = re.compile(r"^\[\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d\] \[(?P<level>[VIWEF])\] ?")
_PREFIXES = (_WORD, _TENSORRT, _LOGCAT, _TF)


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a log without the prefix of its logger.

    Attributes:
        text: The line.
        level: ``V``, ``D``, ``I``, ``W``, ``E`` or ``F``; empty if there was no prefix with a level.
    """

    text: str
    level: str = ""


@dataclass(frozen=True, slots=True)
class RunStatistics:
    """Statistics of the durations of a number of runs, in seconds; ``None`` for values the tool does not print.

    Attributes:
        count: Number of runs.
        mean_s: Mean duration.
        min_s: Shortest duration.
        max_s: Longest duration.
        std_s: Standard deviation, as the tool computes it.
        first_s: Duration of the first run.
        median_s: Median duration.
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
        """Total duration of all runs, seconds; ``None`` if count or mean is unknown."""
        return None if self.count is None or self.mean_s is None else self.count * self.mean_s


def parse_log_lines(text: str) -> Iterator[LogLine]:
    """Yield the lines of a log without the prefixes of known loggers (plain words, logcat, TensorFlow, TensorRT)."""
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
    """Parse a finite number; ``None`` if the text is not one."""
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
