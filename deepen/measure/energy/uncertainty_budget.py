"""What the uncertainty of an energy is made of, in joules, and what a reader should know beside it.

Terms are standard uncertainties, combined as the root of the sum of squares and expanded with a coverage factor of 2
for about 95 % (JCGM 100:2008, 5.1.2 and 6.2.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from deepen.records import Accuracy, Source

__all__ = ["COVERAGE", "MeasurementWarning", "UncertaintyBudget", "classify_trace_warnings", "warn_missing_accuracy"]

COVERAGE = 2.0
"""Coverage factor of expanded uncertainties: about 95 % for a normal distribution."""


@dataclass(frozen=True, slots=True)
class UncertaintyBudget:
    """Standard uncertainty of an energy, term by term, joules.

    Attributes:
        gain: Error of the instrument in proportion to the reading.
        offset: Constant error of every reading; cancels in net energy where the same instrument measured idle power.
        alignment: The window sits at the wrong place of the trace, or its edges are uncertain.
        sampling: Course of power between samples, at the edges and at steps inside.
        noise: Noise of samples.
        idle: Idle power that was subtracted.
        gaps: Energy interpolated over gaps.
        repeats: Standard error of the mean over repeated blocks.
    """

    gain: float = 0.0
    offset: float = 0.0
    alignment: float = 0.0
    sampling: float = 0.0
    noise: float = 0.0
    idle: float = 0.0
    gaps: float = 0.0
    repeats: float = 0.0

    def terms(self) -> dict[str, float]:
        """Every term by name, joules."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def per_run(self, runs: int) -> UncertaintyBudget:
        """The same for one of so many runs."""
        return UncertaintyBudget(**{name: value / runs for name, value in self.terms().items()})

    @property
    def standard_j(self) -> float:
        """Combined standard uncertainty, joules."""
        return math.sqrt(sum(value * value for value in self.terms().values()))

    @property
    def expanded_j(self) -> float:
        """Expanded uncertainty, joules: :data:`COVERAGE` times the standard one."""
        return COVERAGE * self.standard_j


def warn_missing_accuracy(accuracy: Accuracy, source: Source, meter: str) -> tuple[MeasurementWarning, ...]:
    """Say it where an instrument that measures states nothing about its accuracy."""
    if source != "measured" or accuracy.reference:
        return ()
    return (MeasurementWarning("accuracy", f"{meter} states no accuracy; gain and offset are not in the uncertainty"),)


@dataclass(frozen=True, slots=True)
class MeasurementWarning:
    """Something a reader of a number should know.

    Attributes:
        code: Stable name: ``short-window``, ``gap``, ``loss``, ``clipping``, ``range-switching``, ``temperature``,
            ``idle-drift``, ``alignment``, ``accuracy``, or ``trace`` (anything else the instrument or its reader had
            to say).
        text: One line for people.
    """

    code: str
    text: str

    def __str__(self) -> str:
        return f"{self.code}: {self.text}"

    def document(self) -> Mapping[str, str]:
        """As JSON."""
        return {"code": self.code, "text": self.text}


_WORDS = {
    "clipping": ("clip", "overload", "overcurrent", "saturat"),
    "range-switching": ("range switch", "range-switch", "switched range", "changes of range", "range change"),
    "temperature": ("temperature", "thermal"),
    "loss": ("lost", "loss", "missing sample", "dropped", "gap", "cut short"),
}


def classify_trace_warnings(warnings: Iterable[str]) -> tuple[MeasurementWarning, ...]:
    """Give a trace's own warnings their codes, by the words in them; each text once."""
    found: dict[str, MeasurementWarning] = {}
    for text in warnings:
        low = text.lower()
        code = next((c for c, words in _WORDS.items() if any(w in low for w in words)), "trace")
        found.setdefault(text, MeasurementWarning(code, text))
    return tuple(found.values())
