"""Intervals: quantiles of held-out residuals for kernels, a sum with correlation for models.

Kernels: the split-conformal quantile of absolute held-out residuals in log energy (Lei et al., Distribution-Free
Predictive Inference for Regression, JASA 2018), per family; families with few residuals lean on all families'
residuals.

Models: errors of different configurations in one model are correlated (the same systematic difference between a kernel
alone and inside a model), and equal configurations share one error. With ``s`` the standard error of each distinct
configuration's total, the variance is ``(1 - rho) * sum(s^2) + rho * sum(s)^2``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["DEFAULT_CORRELATION", "NOMINAL", "conformal_quantile", "family_half_width", "model_spread", "to_interval"]

Floats = NDArray[np.float64]

NOMINAL = 0.9
"""Nominal coverage of every interval."""
Z = 1.6448536269514722
"""Half-width of a 90 % interval of a normal distribution, in standard deviations."""
DEFAULT_CORRELATION = 0.3
"""Between-kernel error correlation where fewer than five whole models were measured (a cautious middle)."""
_ENOUGH = 20


def conformal_quantile(residuals: Floats) -> float:
    """Quantile of absolute residuals with the finite-sample correction ``ceil((n + 1) * 0.9) / n``."""
    n = residuals.size
    rank = min(int(np.ceil((n + 1) * NOMINAL)), n)
    return float(np.sort(np.abs(residuals))[rank - 1])


def family_half_width(own: Floats, pooled: Floats) -> float:
    """Half-width in log energy for a family.

    Args:
        own: Held-out residuals of the family.
        pooled: Held-out residuals of all families.
    """
    share = min(own.size / _ENOUGH, 1.0)
    return share * conformal_quantile(own) + (1.0 - share) * conformal_quantile(pooled)


def model_spread(totals: Floats, half_width: Floats, correlation: float) -> float:
    """Half-width of a model's interval, in joules, before any inflation.

    Args:
        totals: Energy of each distinct configuration in the model, all its executions, shape (n,).
        half_width: Its half-width in log energy, shape (n,).
        correlation: Between configurations, 0..1.
    """
    spread = totals * half_width
    variance = (1.0 - correlation) * float((spread**2).sum()) + correlation * float(spread.sum()) ** 2
    return float(np.sqrt(variance))


def to_interval(energy_j: float, log_half_width: float) -> tuple[float, float]:
    """(low, high) around an energy; never below zero."""
    factor = float(np.exp(min(log_half_width, 20.0)))
    return energy_j / factor, energy_j * factor
