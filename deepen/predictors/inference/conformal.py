"""Intervals of kernels: quantiles of held-out residuals (models: :mod:`deepen.predictors.inference.model_uncertainty`).

The split-conformal quantile of absolute held-out residuals in log energy (Lei et al., Distribution-Free Predictive
Inference for Regression, JASA 2018), per family; families with few residuals lean on all families' residuals.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["DEFAULT_CORRELATION", "NOMINAL", "compute_conformal_quantile", "compute_family_half_width", "make_interval"]

Floats = NDArray[np.float64]

NOMINAL = 0.9
"""Nominal coverage of every interval."""
Z = 1.6448536269514722
"""Half-width of a 90 % interval of a normal distribution, in standard deviations."""
DEFAULT_CORRELATION = 0.3
"""Between-kernel error correlation where fewer than five whole models were measured (a cautious middle)."""
_ENOUGH = 20


def compute_conformal_quantile(residuals: Floats) -> float:
    """Quantile of absolute residuals with the finite-sample correction ``ceil((n + 1) * 0.9) / n``."""
    n = residuals.size
    rank = min(int(np.ceil((n + 1) * NOMINAL)), n)
    return float(np.sort(np.abs(residuals))[rank - 1])


def compute_family_half_width(own: Floats, pooled: Floats) -> float:
    """Half-width in log energy for a family.

    Args:
        own: Held-out residuals of the family.
        pooled: Held-out residuals of all families.
    """
    share = min(own.size / _ENOUGH, 1.0)
    return share * compute_conformal_quantile(own) + (1.0 - share) * compute_conformal_quantile(pooled)


def make_interval(energy_j: Floats, log_half_width: Floats) -> tuple[Floats, Floats]:
    """Make the ends of intervals around energies, never below zero, from half-widths in log energy."""
    factor = np.exp(np.minimum(log_half_width, 20.0))
    return energy_j / factor, energy_j * factor
