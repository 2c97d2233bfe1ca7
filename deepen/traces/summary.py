"""Summary of a trace in one pass: extremes, mean, energy, and a plot in characters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.errors import MeasureError
from deepen.traces.open import iterate_chunks
from deepen.traces.types import CHUNK, TraceFile
from deepen.units import format_si

__all__ = ["TraceSummary", "plot_summary", "summarise_trace"]

_BINS = 72
"""Columns of the plot; with the scale beside them they fill 80 characters."""


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """Extremes, mean, energy and outline of a trace.

    Attributes:
        min_w: Least power; ``nan`` without samples.
        mean_w: Mean over time; ``nan`` below two samples.
        max_w: Most power; ``nan`` without samples.
        energy_j: Integral over the whole trace, gaps bridged by a straight line.
        start_s: Time of the first sample, or start of the period of which it is the mean, seconds.
        end_s: Time of the last, seconds.
        low_w: Least power in each of k equal stretches; ``nan`` inside a gap, shape (k,).
        high_w: Highest power in each, shape (k,).
    """

    min_w: float
    mean_w: float
    max_w: float
    energy_j: float
    start_s: float
    end_s: float
    low_w: NDArray[np.float64]
    high_w: NDArray[np.float64]


def summarise_trace(file: TraceFile, bins: int = _BINS) -> TraceSummary:
    """Summarise an opened trace in one pass and bounded memory.

    Args:
        file: The trace.
        bins: Number of stretches for the plot.

    Raises:
        MeasureError: If the file is damaged or has no samples.
    """
    info = file.info
    if not info.samples:
        raise MeasureError(f"{info.path}: has no samples; record again")
    low, high = np.full(bins, np.inf), np.full(bins, -np.inf)
    energy_j, t_last, p_last = 0.0, math.nan, math.nan
    start_s = info.start_s
    if info.sampling == "mean" and info.rate_hz > 0:
        start_s, t_last, p_last = start_s - 1 / info.rate_hz, start_s - 1 / info.rate_hz, 0.0  # the first period
    width_s = max(info.end_s - start_s, 1e-12) / bins
    for piece in iterate_chunks(file, CHUNK):
        t_s, power_w = piece.t_s, piece.power_w
        at = np.clip(((t_s - start_s) / width_s).astype(np.int64), 0, bins - 1)
        first = np.flatnonzero(np.diff(at, prepend=-1))
        low[at[first]] = np.minimum(low[at[first]], np.minimum.reduceat(power_w, first))
        high[at[first]] = np.maximum(high[at[first]], np.maximum.reduceat(power_w, first))
        if math.isfinite(t_last):
            t_s, power_w = np.concatenate([[t_last], t_s]), np.concatenate([[p_last], power_w])
        steps = np.diff(t_s)
        # A sample that is the mean of its period counts for that period alone.
        mean = info.sampling == "mean"
        energy_j += float(steps @ (power_w[1:] if mean else (power_w[1:] + power_w[:-1]) / 2))
        t_last, p_last = float(t_s[-1]), float(power_w[-1])
    least_w, most_w = float(low.min()), float(high.max())
    _fill_empty_bins(low, high, start_s + (np.arange(bins) + 0.5) * width_s, info.gaps)
    return TraceSummary(
        min_w=least_w,
        mean_w=energy_j / (info.end_s - start_s) if info.end_s > start_s else math.nan,
        max_w=most_w,
        energy_j=energy_j,
        start_s=start_s,
        end_s=info.end_s,
        low_w=low,
        high_w=high,
    )


def _fill_empty_bins(
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    at_s: NDArray[np.floating[Any]],
    gaps: tuple[tuple[float, float], ...],
) -> None:
    """Fill stretches without a sample with the line between their neighbours, in place; ``nan`` inside a gap."""
    empty = ~np.isfinite(low)
    for values in (low, high):
        values[empty] = np.interp(at_s[empty], at_s[~empty], values[~empty])
    for start_s, end_s in gaps:
        hole = empty & (at_s > start_s) & (at_s < end_s)
        low[hole] = high[hole] = np.nan


def plot_summary(summary: TraceSummary, height: int = 10) -> str:
    """Draw the range of the power over time with characters.

    Args:
        summary: Summary of the trace.
        height: Number of lines.

    Returns:
        Lines of text: for every stretch of time a bar from its least to its most power, gaps left empty.
    """
    bottom, top = min(0.0, summary.min_w), summary.max_w
    step = (top - bottom) / height or 1.0
    lines = []
    for row in range(height, 0, -1):
        floor, ceiling = bottom + (row - 1) * step, bottom + row * step
        # The lowest line takes the bottom edge as well.
        covered = (summary.high_w > floor) | ((row == 1) & (summary.high_w >= floor))
        cells = np.where(covered & (summary.low_w <= ceiling), "█", " ")
        scale = format_si(ceiling, "W") if row in (height, height // 2) else ""
        lines.append(f"{scale:>9} ┤{''.join(cells)}")
    span = f"{0:.0f} s".ljust(len(summary.low_w) - 12) + f"{summary.end_s - summary.start_s:.6g} s".rjust(12)
    return "\n".join([*lines, f"{'':>9} └{'─' * len(summary.low_w)}", f"{'':>11}{span}"])
