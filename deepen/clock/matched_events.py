"""The clock of a trace, fitted to moments known on both clocks: marks on logic inputs, or pulses of a load."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deepen.clock.host_clock import MAX_DRIFT, ClockMap
from deepen.errors import MeasureError

__all__ = ["ClockMatch", "fit_matches"]


@dataclass(frozen=True, slots=True)
class ClockMatch:
    """A moment on both clocks.

    Attributes:
        trace_s: The moment on the trace's clock, seconds.
        host_s: The moment on the host's clock, seconds.
        error_s: Standard uncertainty of their difference, seconds.
    """

    trace_s: float
    host_s: float
    error_s: float


def fit_matches(matches: Sequence[ClockMatch], method: str, *, max_drift: float = MAX_DRIFT) -> ClockMap:
    """Fit a clock map to matched moments by weighted least squares.

    If they are too few or too close to show a drift, the rate stays 1, and the effect of the largest believable drift
    within their stretch is part of the error. The error is the larger of the stated errors of the matches and of their
    scatter around the line, at the ends of the stretch.

    Args:
        matches: At least one.
        method: Name of the method in the clock map.
        max_drift: Largest believable difference of the clocks, a share.

    Raises:
        MeasureError: If there is no match, or the matches drift apart more than clocks do.
    """
    if not matches:
        raise MeasureError("no moment is known on both clocks")
    t = np.array([m.trace_s for m in matches])
    offset = np.array([m.host_s - m.trace_s for m in matches])
    sigma = np.maximum(np.array([m.error_s for m in matches]), 1e-12)
    weight = 1 / sigma**2
    middle = float(weight @ t / weight.sum())
    reference = float(offset[0])
    level = float(weight @ (offset - reference) / weight.sum())
    inertia = float(weight @ (t - middle) ** 2)
    slope, slope_error = 0.0, max_drift / math.sqrt(3)
    reach = float(np.abs(t - middle).max())
    if inertia > 0:
        fitted = float(weight @ ((t - middle) * (offset - reference - level))) / inertia
        residual = offset - reference - level - fitted * (t - middle)
        # Birge ratio: the scatter counts if it exceeds the stated errors.
        birge = max(1.0, float(weight @ residual**2) / (t.size - 2)) if t.size > 2 else 1.0
        fitted_error = math.sqrt(birge / inertia)
        if abs(fitted) > max_drift + 3 * fitted_error:
            raise MeasureError(
                f"the trace's clock and the host's drift apart by {1e6 * fitted:.0f} ppm, more than "
                "clocks do: samples were lost in between, or moments were matched wrongly",
                cure="measure again",
            )
        if fitted_error < slope_error:
            slope, slope_error = fitted, fitted_error
    residual = offset - reference - level - slope * (t - middle)
    birge = max(1.0, float(weight @ residual**2) / (t.size - 1)) if t.size > 1 else 1.0
    level_error = math.sqrt(birge / weight.sum())
    error_s = math.hypot(level_error, slope_error * reach)
    return ClockMap(middle, middle + reference + level, 1.0 + slope, error_s, method)
