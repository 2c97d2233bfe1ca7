"""The energy of models over their whole life: training and use together.

``candidates`` are what is compared, ``reading`` reads them, ``greenness`` is the metric, ``envelope`` finds the best
one for every usage at once, ``spread`` carries uncertainties through, ``analysis`` puts all of it together.
"""

from __future__ import annotations

from deepen.scoring.lifecycle.analysis import BreakEven, Lifecycle, Ranked, Regime, analyse
from deepen.scoring.lifecycle.candidates import Candidates
from deepen.scoring.lifecycle.envelope import Envelope, lower_envelope
from deepen.scoring.lifecycle.greenness import Conditions, break_even, greenness
from deepen.scoring.lifecycle.reading import read_candidates

__all__ = [
    "BreakEven",
    "Candidates",
    "Conditions",
    "Envelope",
    "Lifecycle",
    "Ranked",
    "Regime",
    "analyse",
    "break_even",
    "greenness",
    "lower_envelope",
    "read_candidates",
]
