"""Kernels that multiply by zeros: as slow as any, on less power.

Energy of arithmetic depends on the values: wires that do not change cost nothing. Lucas and Juurlink (ALUPower: Data
Dependent Power Consumption in GPUs, MASCOTS 2016) measured one kernel at 155 to 257 W depending on its values, which is
40 % less for the easiest; Bhalachandra et al. (Understanding the Impact of Input Entropy on FPU, CPU, and GPU Power,
2022) find the same direction on processors. Where out-of-order control takes its share of the power the effect is
smaller; half of the graphics processor's is assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from deepen.predictors.inference.family_regressors import KernelEnergies

__all__ = ["ZERO_OPERAND_FACTOR", "apply_zero_operand_factor"]

ZERO_OPERAND_FACTOR = 0.8
"""Energy of a kernel that multiplies by zeros only, over that of the same kernel with other values."""


def apply_zero_operand_factor(
    found: KernelEnergies, raw: NDArray[np.float64], feature_names: Sequence[str]
) -> KernelEnergies:
    """Lower the energy of kernels that multiply by zeros.

    Args:
        found: Predictions for values that are not zeros, n of them.
        raw: Features of the kernels, shape (n, len(feature_names)).
        feature_names: Names of the features.
    """
    if "zero_operand" not in feature_names:
        return found
    zeros = raw[:, list(feature_names).index("zero_operand")] > 0
    if not zeros.any():
        return found
    return replace(found, energy_j=np.where(zeros, ZERO_OPERAND_FACTOR * found.energy_j, found.energy_j))
