"""The energy of models over their whole life: training and use together.

``candidates`` are the models compared, ``reading`` reads them, ``greenness`` is the metric, ``envelope`` finds the best
candidate for every usage, ``spread`` propagates uncertainties, ``analysis`` combines them.
"""

from __future__ import annotations

from deepen.scoring.lifecycle.analysis import BreakEven, Lifecycle, RankedCandidate, UsageRegime, analyse_lifecycle
from deepen.scoring.lifecycle.candidates import LifecycleCandidates
from deepen.scoring.lifecycle.envelope import LowerEnvelope, find_lower_envelope
from deepen.scoring.lifecycle.greenness import LifecycleConditions, compute_break_even, compute_greenness
from deepen.scoring.lifecycle.reading import read_candidates

__all__ = [
    "BreakEven",
    "Lifecycle",
    "LifecycleCandidates",
    "LifecycleConditions",
    "LowerEnvelope",
    "RankedCandidate",
    "UsageRegime",
    "analyse_lifecycle",
    "compute_break_even",
    "compute_greenness",
    "find_lower_envelope",
    "read_candidates",
]
