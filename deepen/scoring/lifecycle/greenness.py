"""The full-cycle metric: accuracy against the energy of training and use together.

``G(MUI) = Acc^tau / (MUI x IEC + TEC)`` ("greenness", Li et al., arXiv 2108.13465), larger is better. TEC is the
energy spent once in a life cycle (training, compression or search, retraining), IEC the energy of one inference, MUI
the number of inferences in a life cycle, tau the weight of accuracy against energy.

The reciprocal, ``(TEC + MUI x IEC) / Acc^tau``, is a straight line over MUI: the candidate with the largest G is the
one with the lowest line, and the best one for each MUI is the lower envelope of all lines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepen.errors import ConfigError
from deepen.scoring.lifecycle.candidates import LifecycleCandidates

__all__ = ["J_PER_KWH", "LifecycleConditions", "compute_break_even", "compute_cost_lines", "compute_greenness"]

J_PER_KWH = 3.6e6
_EXACT = Context(prec=60)

_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LifecycleConditions:
    """Conditions common to all candidates: weight of accuracy, PUE, carbon intensities and the objective.

    Attributes:
        tau: Weight of accuracy against energy; 0 leaves accuracy out.
        training_pue: Power usage effectiveness at the place of training: energy of the building over the machines'.
        inference_pue: The same at the place of inference; 1 for a phone or a board.
        training_g_per_kwh: Carbon intensity of the grid at the place of training, gCO2e/kWh; ``nan`` if not needed.
        inference_g_per_kwh: Carbon intensity of the grid at the place of inference, gCO2e/kWh.
        objective: Rank by ``energy`` or by ``carbon``. The rankings differ only if the two grids do.
    """

    tau: float = 1.0
    training_pue: float = 1.0
    inference_pue: float = 1.0
    training_g_per_kwh: float = math.nan
    inference_g_per_kwh: float = math.nan
    objective: Literal["energy", "carbon"] = "energy"

    def __post_init__(self) -> None:
        if not 0 <= self.tau < math.inf:
            raise ConfigError(f"tau {self.tau:g} is not a number from 0 up; 0 leaves accuracy out, 1 is usual")
        for pue in (self.training_pue, self.inference_pue):
            if not 1 <= pue < math.inf:
                raise ConfigError(
                    f"a PUE of {pue:g} is impossible: it is the building's energy over the machines', 1 up"
                )
        for grid in (self.training_g_per_kwh, self.inference_g_per_kwh):
            if not (math.isnan(grid) or 0 <= grid < math.inf):
                raise ConfigError(f"a carbon intensity of {grid:g} gCO2e/kWh is not a number from 0 up")
        if self.objective not in ("energy", "carbon"):
            raise ConfigError(f"objective '{self.objective}' is neither energy nor carbon")
        if self.objective == "carbon" and not (self.training_g_per_kwh + self.inference_g_per_kwh > 0):
            raise ConfigError("ranking by carbon needs carbon intensities; give --grid, in gCO2e/kWh")

    @property
    def with_carbon(self) -> bool:
        """True if both carbon intensities are known."""
        return not math.isnan(self.training_g_per_kwh + self.inference_g_per_kwh)

    def training_weight(self, pue_included: _Floats) -> _Floats:
        """Weight of one joule of one-off (training) energy, in joules of the building or grams of CO2e; shape (n,)."""
        grams = self.training_g_per_kwh / J_PER_KWH if self.objective == "carbon" else 1.0
        return np.asarray(self.training_pue / pue_included * grams, dtype=np.float64)

    @property
    def inference_weight(self) -> float:
        """Weight of one joule of inference energy, in the same unit as :meth:`training_weight`."""
        return self.inference_pue * (self.inference_g_per_kwh / J_PER_KWH if self.objective == "carbon" else 1.0)


def compute_cost_lines(candidates: LifecycleCandidates, conditions: LifecycleConditions) -> tuple[_Floats, _Floats]:
    """Compute intercept and slope of ``(TEC + MUI x IEC) / Acc^tau`` of each candidate; float64, shape (n,) each."""
    merit = candidates.accuracy**conditions.tau
    once = candidates.training_j * conditions.training_weight(candidates.pue_included) / merit
    return once, candidates.inference_j * conditions.inference_weight / merit


def compute_greenness(candidates: LifecycleCandidates, conditions: LifecycleConditions, inferences: float) -> _Floats:
    """Compute G of each candidate at one usage intensity, 1/J (1/g if the objective is carbon); shape (n,)."""
    once, each = compute_cost_lines(candidates, conditions)
    with np.errstate(divide="ignore"):  # nothing was spent yet: infinitely green
        return np.asarray(1.0 / (once + inferences * each), dtype=np.float64)


def compute_break_even(candidates: LifecycleCandidates, conditions: LifecycleConditions, a: int, b: int) -> float:
    """Compute the number of inferences at which two candidates are equally good.

    ``MUI* = (Acc_A^tau TEC_B - Acc_B^tau TEC_A) / (Acc_B^tau IEC_A - Acc_A^tau IEC_B)``, computed with 60 digits, so
    that the differences of nearly equal energies lose none of the 16 that a float has.

    Args:
        candidates: The candidates.
        conditions: Conditions common to all.
        a: Index of one of the two.
        b: Index of the other one.

    Returns:
        A number from 0 up; ``nan`` if one is better at every intensity, or both are the same.
    """
    merit, once, each = zip(*(_compute_exact_terms(candidates, conditions, i) for i in (a, b)), strict=True)
    over = _EXACT.subtract(_EXACT.multiply(merit[0], once[1]), _EXACT.multiply(merit[1], once[0]))
    under = _EXACT.subtract(_EXACT.multiply(merit[1], each[0]), _EXACT.multiply(merit[0], each[1]))
    if under == 0:
        return math.nan
    at = float(_EXACT.divide(over, under))
    return at if at >= 0 else math.nan


def _compute_exact_terms(
    candidates: LifecycleCandidates, conditions: LifecycleConditions, i: int
) -> tuple[Decimal, Decimal, Decimal]:
    """Compute ``(Acc^tau, TEC, IEC)`` of a candidate, weighted, with 60 digits."""
    merit = _EXACT.power(Decimal(float(candidates.accuracy[i])), Decimal(conditions.tau))
    # The parts are added as floats, as everywhere else, so that the sum equals the energy that is shown.
    pue = _EXACT.divide(Decimal(conditions.training_pue), Decimal(float(candidates.pue_included[i])))
    once = _EXACT.multiply(Decimal(float(candidates.training_j[i])), pue)
    each = _EXACT.multiply(Decimal(float(candidates.inference_j[i])), Decimal(conditions.inference_pue))
    if conditions.objective == "carbon":
        once = _EXACT.multiply(once, Decimal(conditions.training_g_per_kwh))
        each = _EXACT.multiply(each, Decimal(conditions.inference_g_per_kwh))
    return merit, once, each
