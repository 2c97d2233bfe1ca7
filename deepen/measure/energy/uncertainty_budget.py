"""The uncertainty of an energy, term by term, in joules.

Terms are standard uncertainties, combined as the root of the sum of squares and expanded with a coverage factor of 2
for about 95 % (JCGM 100:2008, 5.1.2 and 6.2.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from deepen.records import Accuracy, MeasurementWarning, Source

__all__ = ["COVERAGE", "UncertaintyBudget", "warn_missing_accuracy"]

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
    """Warn of an instrument that measures and states nothing about its accuracy."""
    if source != "measured" or accuracy.reference:
        return ()
    return (MeasurementWarning("accuracy", f"{meter} states no accuracy; gain and offset are not in the uncertainty"),)
