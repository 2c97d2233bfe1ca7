"""From blocks of runs to one figure: which blocks count, the mean, and its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepen.records import Interval

__all__ = ["Judgement", "Trial", "Uncertainty", "judge", "relative_error", "trend", "uncertainty"]

PREEMPTED = 0.95
"""A single-threaded block whose CPU time is below this share of its wall time was interrupted by other work."""
OUTLIER_MADS = 5.0
"""Distance from the median, in standard deviations estimated from the median absolute deviation, that rejects."""
OUTLIER_SHARE = 0.02
"""Least distance from the median, as a share of it, that rejects: very quiet series keep their small steps."""
_MAD_TO_SIGMA = 1.4826  # for a normal distribution


@dataclass(frozen=True, slots=True)
class Trial:
    """One block of runs.

    Attributes:
        interval: When it ran; carries runs and CPU time.
        gross_j: Energy drawn per run, joules.
        net_j: Energy per run after idle power, joules.
    """

    interval: Interval
    gross_j: float
    net_j: float

    @property
    def latency_s(self) -> float:
        """Wall time per run, seconds."""
        return self.interval.duration_s / self.interval.runs


@dataclass(frozen=True, slots=True)
class Judgement:
    """Which trials count.

    Attributes:
        accepted: Trials that count, in order.
        rejected: The others, as ``{"reason", "energy_j"}``.
        preempted: How many were interrupted by other work (rejected or, where excused, kept).
        warnings: What a reader should know about the decision.
    """

    accepted: tuple[Trial, ...]
    rejected: tuple[dict[str, Any], ...]
    preempted: int
    warnings: tuple[str, ...] = ()

    @property
    def rejected_share(self) -> float:
        """Share of trials left out."""
        total = len(self.accepted) + len(self.rejected)
        return len(self.rejected) / total if total else 0.0


def _outliers(values: Sequence[float]) -> list[str]:
    """Reason to reject each value, empty for none; needs five values to say anything."""
    if len(values) < 5:
        return [""] * len(values)
    array = np.asarray(values)
    median = float(np.median(array))
    sigma = _MAD_TO_SIGMA * float(np.median(np.abs(array - median)))
    limit = max(OUTLIER_MADS * sigma, OUTLIER_SHARE * abs(median))
    return [
        f"outlier: {100 * (v - median) / abs(median):+.1f} % from the median"
        if median and abs(v - median) > limit
        else ""
        for v in values
    ]


def judge(trials: Sequence[Trial], threads: int, *, excuse_preemption: bool, max_rejected: float) -> Judgement:
    """Decide which trials count.

    A single-threaded block that got much less processor time than wall time was interrupted: its latency is not that of
    the workload, and a whole-machine meter has counted the other program's energy. What is left goes through a robust
    outlier test (median and median absolute deviation) on energy per run. Where a meter counts the worker alone, the
    energy of an interrupted block is still right: if more than ``max_rejected`` of the blocks were interrupted these
    are kept, and the result says so.

    Args:
        trials: All blocks, in order.
        threads: Intra-operator threads.
        excuse_preemption: Whether the meter counts the worker alone.
        max_rejected: Share of blocks that may be rejected.
    """
    reasons = [""] * len(trials)
    preempted = []
    for i, trial in enumerate(trials):
        share = trial.interval.cpu_s / trial.interval.duration_s if trial.interval.duration_s > 0 else math.nan
        if threads == 1 and share < PREEMPTED:
            preempted.append(i)
            reasons[i] = f"preempted: {100 * share:.0f} % of a core"
    warnings: list[str] = []
    if excuse_preemption and trials and len(preempted) > max_rejected * len(trials):
        reasons = [""] * len(trials)
        warnings.append(
            f"{len(preempted)} of {len(trials)} blocks were interrupted by other work and kept, because the power "
            "source counts this worker alone; the latency is too long"
        )
    kept = [i for i, reason in enumerate(reasons) if not reason]
    for i, reason in zip(kept, _outliers([trials[i].net_j for i in kept]), strict=True):
        reasons[i] = reason
    return Judgement(
        accepted=tuple(t for t, reason in zip(trials, reasons, strict=True) if not reason),
        rejected=tuple(
            {"reason": reason, "energy_j": t.net_j} for t, reason in zip(trials, reasons, strict=True) if reason
        ),
        preempted=len(preempted),
        warnings=tuple(warnings),
    )


def relative_error(values: Sequence[float]) -> float:
    """Relative standard error of the mean; infinite for fewer than two values or a mean that is not positive."""
    if len(values) < 2:
        return math.inf
    mean = float(np.mean(values))
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) / mean if mean > 0 else math.inf


def trend(values: Sequence[float]) -> float:
    """Relative change from the first to the last value along a fitted line, if it is significant, else 0.

    Ordinary least squares; significant means a slope of more than three of its standard errors.
    """
    n = len(values)
    if n < 6:
        return 0.0
    x = np.arange(n) - (n - 1) / 2
    y = np.asarray(values)
    sxx = float(x @ x)
    slope = float(x @ y) / sxx
    residual = y - y.mean() - slope * x
    error = math.sqrt(float(residual @ residual) / (n - 2) / sxx)
    mean = float(y.mean())
    return slope * (n - 1) / mean if mean and abs(slope) > 3 * error else 0.0


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """Terms of the standard uncertainty of net energy per run, joules each.

    The scale of a modelled source is not among them: its figures are an assumption, named by the calibration id.

    Attributes:
        repeats_j: Standard error of the mean over blocks.
        resolution_j: Step and update interval of the meter at the edges of blocks.
        idle_j: Idle power, the same for all blocks.
    """

    repeats_j: float
    resolution_j: float
    idle_j: float

    @property
    def total_j(self) -> float:
        """Root of the sum of squares: the terms are independent."""
        return math.sqrt(self.repeats_j**2 + self.resolution_j**2 + self.idle_j**2)


def uncertainty(
    accepted: Sequence[Trial], *, resolution_j: float, update_s: float, power_w: float, idle_std_w: float
) -> Uncertainty:
    """Compute the uncertainty of the mean net energy per run.

    Each edge of a block meets a counter that is stale by up to ``update_s`` and rounded to ``resolution_j``: both
    uniform, so a standard deviation of width / sqrt(12) per edge and width / sqrt(6) per block (JCGM 100:2008, 4.3.7).

    Args:
        accepted: Blocks that count; with fewer than two their spread is unknown and taken as 0.
        resolution_j: Smallest step of energy the meter tells, joules.
        update_s: Time between its updates, seconds.
        power_w: Mean power above idle in the blocks, watts.
        idle_std_w: Standard uncertainty of idle power, watts.
    """
    n = len(accepted)
    runs = accepted[0].interval.runs
    values = [t.net_j for t in accepted]
    repeats = float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    edge = math.hypot(resolution_j, abs(power_w) * update_s) / math.sqrt(6)
    latency = float(np.mean([t.latency_s for t in accepted]))
    return Uncertainty(repeats, edge / runs / math.sqrt(n), idle_std_w * latency)
