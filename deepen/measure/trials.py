"""From blocks of runs to one figure: choose the blocks that count, their mean, and its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepen.measure.energy.uncertainty_budget import UncertaintyBudget
from deepen.records import Interval, MeasurementWarning
from deepen.robust_statistics import estimate_mad_scale

__all__ = ["Trial", "TrialSelection", "combine_trials", "compute_relative_error", "estimate_trend", "select_trials"]

PREEMPTED = 0.95
"""A single-threaded block whose CPU time is below this share of its wall time was interrupted by other work."""
OUTLIER_MADS = 5.0
"""Distance from the median, in standard deviations estimated from the median absolute deviation, that rejects."""
OUTLIER_SHARE = 0.02
"""Least distance from the median, as a share of it, that rejects: very quiet series keep their small steps."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One block of runs.

    Attributes:
        interval: The time it ran; carries runs and CPU time.
        gross_j: Energy drawn per run, joules.
        net_j: Energy per run after idle power, joules.
        budget: Terms of the uncertainty of ``net_j``, joules.
    """

    interval: Interval
    gross_j: float
    net_j: float
    budget: UncertaintyBudget = field(default_factory=UncertaintyBudget)

    @property
    def latency_s(self) -> float:
        """Wall time per run, seconds."""
        return self.interval.duration_s / self.interval.runs


@dataclass(frozen=True, slots=True)
class TrialSelection:
    """The trials that count, and those that do not.

    Attributes:
        accepted: Trials that count, in order.
        rejected: The others, as ``{"reason", "energy_j"}``.
        preempted: Number of trials interrupted by other work (rejected or, where excused, kept).
        warnings: Remarks on the decision.
    """

    accepted: tuple[Trial, ...]
    rejected: tuple[dict[str, Any], ...]
    preempted: int
    warnings: tuple[MeasurementWarning, ...] = ()

    @property
    def rejected_share(self) -> float:
        """Share of trials left out."""
        total = len(self.accepted) + len(self.rejected)
        return len(self.rejected) / total if total else 0.0


def _find_outliers(values: Sequence[float]) -> list[str]:
    """Find the reason to reject each value, empty for none; with fewer than five values there is none."""
    if len(values) < 5:
        return [""] * len(values)
    array = np.asarray(values)
    median = float(np.median(array))
    sigma = estimate_mad_scale(array, median)
    limit = max(OUTLIER_MADS * sigma, OUTLIER_SHARE * abs(median))
    return [
        f"outlier: {100 * (v - median) / abs(median):+.1f} % from the median"
        if median and abs(v - median) > limit
        else ""
        for v in values
    ]


def select_trials(
    trials: Sequence[Trial], threads: int, *, excuse_preemption: bool, max_rejected: float
) -> TrialSelection:
    """Choose the trials that count.

    1. A single-threaded block that got much less processor time than wall time was interrupted and is rejected: its
       latency is not that of the workload, and a whole-machine meter has counted the other program's energy.
    2. Where a meter counts the worker alone, the energy of an interrupted block is still right: if more than
       ``max_rejected`` of the blocks were interrupted, they are kept, with a warning.
    3. The others go through a robust outlier test (median and median absolute deviation) on energy per run.

    Args:
        trials: All blocks, in order.
        threads: Intra-operator threads.
        excuse_preemption: Whether the meter counts the worker alone.
        max_rejected: Share of blocks that may be rejected.
    """
    # 1. Interrupted blocks.
    reasons = [""] * len(trials)
    preempted = []
    for i, trial in enumerate(trials):
        share = trial.interval.cpu_s / trial.interval.duration_s if trial.interval.duration_s > 0 else math.nan
        if threads == 1 and share < PREEMPTED:
            preempted.append(i)
            reasons[i] = f"preempted: {100 * share:.0f} % of a core"
    warnings: list[MeasurementWarning] = []
    # 2. Unless they may be kept.
    if excuse_preemption and trials and len(preempted) > max_rejected * len(trials):
        reasons = [""] * len(trials)
        text = (
            f"{len(preempted)} of {len(trials)} blocks were interrupted by other work and kept, because the power "
            "source counts this worker alone; the latency is too long"
        )
        warnings.append(MeasurementWarning("preempted", text))
    # 3. Outliers.
    kept = [i for i, reason in enumerate(reasons) if not reason]
    for i, reason in zip(kept, _find_outliers([trials[i].net_j for i in kept]), strict=True):
        reasons[i] = reason
    return TrialSelection(
        accepted=tuple(t for t, reason in zip(trials, reasons, strict=True) if not reason),
        rejected=tuple(
            {"reason": reason, "energy_j": t.net_j} for t, reason in zip(trials, reasons, strict=True) if reason
        ),
        preempted=len(preempted),
        warnings=tuple(warnings),
    )


def compute_relative_error(values: Sequence[float]) -> float:
    """Relative standard error of the mean; infinite for fewer than two values or a mean that is not positive."""
    if len(values) < 2:
        return math.inf
    mean = float(np.mean(values))
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) / mean if mean > 0 else math.inf


def estimate_trend(values: Sequence[float]) -> float:
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


def combine_trials(
    accepted: Sequence[Trial], *, resolution_j: float, update_s: float, idle_std_w: float
) -> UncertaintyBudget:
    """Form the uncertainty of the mean net energy per run from that of the blocks.

    What is wrong with the instrument, the clock or idle power is wrong in every block alike, so these terms are means
    over the blocks; so is sampling: a block begins and ends with a jump of power, which samples smear over both edges,
    and what leaks out is missing every time. Noise differs from block to block and shrinks with the root of their
    number.

    A counter that is updated every ``update_s`` and rounded to ``resolution_j`` is stale and rounded at each edge of a
    block: both uniform, so a standard deviation of width / sqrt(12) per edge and width / sqrt(6) per block
    (JCGM 100:2008, 4.3.7). The larger of this and the sampling term found from the trace counts. The scale of a
    modelled source is not among the terms: its figures are an assumption, named by the calibration id.

    Args:
        accepted: Blocks that count; with fewer than two their spread is unknown and taken as 0.
        resolution_j: Smallest step of energy the meter tells, joules.
        update_s: Time between its updates, seconds.
        idle_std_w: Standard uncertainty of idle power, watts.
    """
    n = len(accepted)
    runs = accepted[0].interval.runs
    values = [t.net_j for t in accepted]
    power_w = float(np.mean(values)) / float(np.mean([t.latency_s for t in accepted]))
    edge = math.hypot(resolution_j, abs(power_w) * update_s) / math.sqrt(6)

    def alike(term: str) -> float:
        return float(np.mean([getattr(t.budget, term) for t in accepted]))

    return UncertaintyBudget(
        gain=alike("gain"),
        offset=alike("offset"),
        alignment=alike("alignment"),
        sampling=max(alike("sampling"), edge / runs / math.sqrt(n)),
        noise=math.sqrt(sum(t.budget.noise**2 for t in accepted)) / n,
        idle=idle_std_w * float(np.mean([t.latency_s for t in accepted])),
        gaps=alike("gaps"),
        repeats=float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else 0.0,
    )
