"""The relative efficiency score: inferences per joule of a device, compared with those of the others.

**Model.** ``log energy[device, row] = work[row] - efficiency[device] + residual``. Both effects are fitted together
over the rows with an energy, and the score is ``100 * exp(efficiency - efficiency of the reference)``: 100 is the
median device (or one that is named), 200 does the same work with half the energy.

**Reasons.** Energies of networks span two orders of magnitude, so ratios can be compared and differences cannot: the
largest network dominates a sum of energies, the smallest a sum of their inverses. A mean over a device's rows depends
on the rows it happens to have; with an effect for each row, a missing row only costs precision.

**Robustness.** The fit minimises Huber's loss (Annals of Mathematical Statistics 35, 1964) with k = 1.345, which keeps
95 % of the efficiency of least squares if residuals are normal; its scale is the median absolute deviation of the
residuals after a fit of least absolute deviations. The loss is convex, so there is one solution whatever the start, and
a single wrong value, however wrong, moves a score by no more than a few times ``k * scale / rows``. Rows that are
bounded in this way are counted for each device.

**Confidence.** Rows of one network under several delegates are not independent; the bootstrap draws whole networks
(Davison and Hinkley, Bootstrap Methods and their Application, 1997, ch. 3.8), refits, and takes percentiles, widened
for the small number of networks (Hesterberg, The American Statistician 69, 2015, section 5.3: the tail is that of the
normal at ``t * sqrt(n / (n - 1))``, t of Student's distribution with n - 1 degrees of freedom). The interval covers the
choice of networks: the change of the score with other networks of the same kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepen.errors import ConfigError, DatasetError, make_unknown_name_error
from deepen.extras import require_packages
from deepen.robust_statistics import estimate_mad_scale
from deepen.scoring.app_rows import AppTable

__all__ = ["RelativeScore", "RelativeScores", "compute_relative_scores"]

HUBER_K = 1.345
_MIN_SCALE = 1e-6  # of log energy: rows that agree to rounding have no scale
_ABSOLUTE = 1e-3  # of the scale: with so small a bound, Huber's loss is practically the absolute value
_TOLERANCE = 1e-10
_MAX_ROUNDS = 2000
_BOOTSTRAP_TOLERANCE = 1e-6
_CHUNK = 2_000_000
_TINY = 1e-300

_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RelativeScore:
    """Relative efficiency of one device.

    Attributes:
        device: Device.
        score: 100 for the reference, 200 for half the energy.
        interval: Bootstrap interval of the score.
        rank: 1 is the most efficient.
        rank_interval: Bootstrap interval of the rank.
        rows: Rows with an energy.
        bounded: Rows whose influence was bounded because they are far from the model.
    """

    device: str
    score: float
    interval: tuple[float, float]
    rank: int
    rank_interval: tuple[int, int]
    rows: int
    bounded: int


@dataclass(frozen=True, slots=True)
class RelativeScores:
    """Relative efficiencies of several devices.

    Attributes:
        scores: One for each device, in table order.
        reference: Device with the score 100; ``median`` if none was named.
        confidence: Probability of the intervals.
        resamples: Bootstrap samples used.
        groups: Number of independent groups of rows that the samples were drawn from.
        scale: Robust standard deviation of log energy around the model: 0.3 is about 30 %.
        better: Share of samples in which device i is more efficient than device j; float64, shape (n, n).
        warnings: Warnings for the user.
    """

    scores: tuple[RelativeScore, ...]
    reference: str
    confidence: float
    resamples: int
    groups: int
    scale: float
    better: _Floats
    warnings: tuple[str, ...] = ()


def compute_relative_scores(
    table: AppTable,
    *,
    reference: str | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> RelativeScores:
    """Score devices by energy per inference, robustly.

    1. Take the rows with an energy on at least two devices; such rows must connect all devices.
    2. Fit least absolute deviations for the scale, then device and row effects with Huber's loss.
    3. Refit on bootstrap samples of whole groups.
    4. Turn effects into scores relative to the reference, with percentile intervals.
    5. Rank devices, with percentile intervals of the ranks; exact ties share the better rank.

    Args:
        table: Rows of all devices; rows without an energy do not count.
        reference: Device that gets 100; the median device if not given. With a reference that is in every comparison,
            scores from different sets of devices can be compared.
        confidence: Probability of the intervals.
        resamples: Bootstrap samples.
        seed: Seed of the bootstrap.

    Raises:
        ConfigError: If the reference is unknown, or the confidence or the number of samples is out of range.
        DatasetError: If there are fewer than two devices, or no rows connect some of them with the others.
    """
    if not 0 < confidence < 1 or resamples < 20:
        raise ConfigError("the bootstrap needs a confidence between 0 and 1 and at least 20 samples")
    if reference is not None and reference not in table.devices:
        raise make_unknown_name_error("device", reference, table.devices)
    # 1
    present = ~np.isnan(table.energy_j)
    shared = present.sum(axis=0) >= 2  # a row of one device alone holds no information on the others
    y = np.log(np.where(present, table.energy_j, 1.0))[:, shared]
    seen = present[:, shared].astype(np.float64)
    groups = np.array(table.groups)[shared]
    _check_connected(table.devices, seen)
    # 2
    scale, start = _fit_least_absolute(y, seen)
    effect, rest = _fit_huber(y[None], seen[None], np.array([scale]), start[None], _TOLERANCE)
    bounded = (np.abs(rest[0]) > HUBER_K * scale) & (seen > 0)
    # 3
    draws, used, names = _bootstrap_groups(y, seen, groups, scale, effect[0], resamples, seed)
    # 4
    at = table.devices.index(reference) if reference is not None else None
    level = effect[0][at] if at is not None else np.median(effect[0])
    levels = draws[:, at] if at is not None else np.median(draws, axis=1)
    score = 100 * np.exp(level - effect[0])
    sampled = 100 * np.exp(levels[:, None] - draws)
    tail = _compute_tail_percentiles(confidence, names)
    low, high = np.quantile(sampled, tail, axis=0)
    # 5
    rank = 1 + (effect[0][None, :] < effect[0][:, None] - 1e-9).sum(axis=1)
    ranks = 1 + (draws[:, None, :] < draws[:, :, None] - 1e-9).sum(axis=2)
    rank_low, rank_high = np.quantile(ranks, tail, axis=0, method="closest_observation")
    better = (draws[:, :, None] < draws[:, None, :]).mean(axis=0)
    scores = tuple(
        RelativeScore(
            device,
            float(score[i]),
            (float(low[i]), float(high[i])),
            int(rank[i]),
            (int(rank_low[i]), int(rank_high[i])),
            int(present[i].sum()),
            int(bounded[i].sum()),
        )
        for i, device in enumerate(table.devices)
    )
    warnings = list(_collect_warnings(table, shared, names, used, resamples))
    return RelativeScores(
        scores, reference or "median", confidence, used, names, scale, np.asarray(better), tuple(warnings)
    )


def _compute_tail_percentiles(confidence: float, groups: int) -> tuple[float, float]:
    """Compute the percentiles of an interval, widened for a bootstrap over few groups (Hesterberg, see above)."""
    require_packages("a relative score", "scipy")
    from scipy.stats import norm, t

    if groups < 2:
        return 0.0, 1.0
    wide = float(t.ppf((1 + confidence) / 2, groups - 1)) * (groups / (groups - 1)) ** 0.5
    outside = float(norm.sf(wide))
    return outside, 1 - outside


def _collect_warnings(table: AppTable, shared: NDArray[np.bool_], groups: int, used: int, wanted: int) -> list[str]:
    found = [*table.warnings]
    alone = int(np.count_nonzero(~shared & ~np.isnan(table.energy_j).all(axis=0)))
    if alone:
        found.append(f"{alone} rows are left out: only one device has them")
    if groups < 8:
        found.append(f"only {groups} independent groups of rows: the intervals are too narrow; measure more networks")
    if used < wanted:
        found.append(f"{wanted - used} of {wanted} bootstrap samples left a device without rows and were left out")
    return found


def _check_connected(devices: Sequence[str], seen: _Floats) -> None:
    if len(devices) < 2:
        raise DatasetError("a relative score needs at least two devices; add rows of another device")
    reached = _find_connected_devices(seen)
    if not reached.all():
        apart = ", ".join(d for d, r in zip(devices, reached, strict=True) if not r)
        raise DatasetError(
            f"{apart} cannot be compared with {devices[0]}: no row connects them; measure one workload on both"
        )


def _find_connected_devices(seen: _Floats) -> NDArray[np.bool_]:
    """Mark the devices that rows connect with the first one, directly or over others; shape (devices,)."""
    reached = np.zeros(seen.shape[0], dtype=bool)
    reached[0] = True
    while True:
        rows = (seen[reached] > 0).any(axis=0)
        grown = reached | (seen[:, rows] > 0).any(axis=1)
        if grown.sum() == reached.sum():
            return reached
        reached = grown


def _fit_least_absolute(y: _Floats, seen: _Floats) -> tuple[float, _Floats]:
    """Fit least absolute deviations; returns the scale of the residuals and the device effects."""
    effect = np.zeros(y.shape[0])
    scale = _estimate_scale((y - _weighted_mean(y, seen)) * seen, seen)
    for _ in range(3):  # the bound depends on the scale, which converges
        effects, rest = _fit_huber(
            y[None], seen[None], np.array([_ABSOLUTE * scale]), effect[None], _BOOTSTRAP_TOLERANCE
        )
        effect, scale = effects[0], _estimate_scale(rest[0], seen)
    return scale, effect


def _estimate_scale(rest: _Floats, seen: _Floats) -> float:
    """Estimate the scale: median absolute deviation times 1.4826, corrected for the degrees of freedom."""
    values = rest[seen > 0]
    free = max(1, values.size - seen.shape[0] - seen.shape[1] + 1)
    return max(_MIN_SCALE, estimate_mad_scale(values, 0.0) * float(np.sqrt(values.size / free)))


def _fit_huber(y: _Floats, count: _Floats, scale: _Floats, start: _Floats, tolerance: float) -> tuple[_Floats, _Floats]:
    """Fit device and row effects with Huber's loss by iteratively reweighted least squares.

    Args:
        y: Log energies; shape (b, devices, rows) or (1, devices, rows).
        count: Multiplicity of each value, 0 where it is missing; shape (b, devices, rows).
        scale: Scale of the loss; shape (b,).
        start: Device effects to start from; shape (b, devices).
        tolerance: The fit ends when no effect changes by more than this.

    Returns:
        Device effects that sum to zero, shape (b, devices), and the residuals, shape (b, devices, rows).
    """
    devices = y.shape[1]
    diagonal = np.arange(devices)
    bound = (HUBER_K * scale)[:, None, None]
    effect = start - start.mean(axis=1, keepdims=True)
    weight = count
    rest = y - effect[:, :, None]
    rest = rest - _weighted_mean(rest, weight)[:, None, :]
    for _ in range(_MAX_ROUNDS):
        size = np.abs(rest)
        weight = count * np.where(size <= bound, 1.0, bound / np.maximum(size, _TINY))
        # Least squares with the row effects eliminated: (D - W R^-1 W') effect = W (y - row means).
        share = weight / np.maximum(weight.sum(axis=1), _TINY)[:, None, :]
        normal = -(weight @ share.transpose(0, 2, 1))
        normal[:, diagonal, diagonal] += weight.sum(axis=2)
        # Effects are determined up to a constant: an equation more sets their sum to zero.
        normal += np.trace(normal, axis1=1, axis2=2)[:, None, None] / devices**2
        target = (weight * (y - (share * y).sum(axis=1)[:, None, :])).sum(axis=2)
        new = np.linalg.solve(normal, target[:, :, None])[:, :, 0]
        change = float(np.abs(new - effect).max())
        effect = new
        rest = y - effect[:, :, None]
        rest = rest - _weighted_mean(rest, weight)[:, None, :]
        if change < tolerance:
            break
    return effect, rest


def _weighted_mean(values: _Floats, weight: _Floats) -> _Floats:
    """Compute the mean over devices of each row; shape (..., rows)."""
    total = (values * weight).sum(axis=-2) / np.maximum(weight.sum(axis=-2), _TINY)
    return np.asarray(total, dtype=np.float64)


def _bootstrap_groups(
    y: _Floats, seen: _Floats, groups: NDArray[np.str_], scale: float, start: _Floats, resamples: int, seed: int
) -> tuple[_Floats, int, int]:
    """Fit the device effects of resampled groups; ``(effects (used, devices), used, number of groups)``."""
    names, member = np.unique(groups, return_inverse=True)
    generator = np.random.default_rng(seed)
    times = generator.multinomial(names.size, np.full(names.size, 1 / names.size), size=resamples).astype(np.float64)
    count = times[:, member]  # (b, rows)
    # A sample in which no rows connect some devices with the others cannot compare them.
    fine = [b for b in range(resamples) if _find_connected_devices(seen[:, count[b] > 0]).all()]
    if len(fine) < resamples // 2:
        raise DatasetError(
            "too few rows for confidence intervals: most bootstrap samples leave devices that share no row; measure "
            "more networks on all devices"
        )
    chunk = max(1, _CHUNK // max(1, y.size))
    parts = []
    for first in range(0, len(fine), chunk):
        chosen = fine[first : first + chunk]
        counts = seen[None] * count[chosen][:, None, :]
        effects, _ = _fit_huber(
            y[None], counts, np.full(len(chosen), scale), np.repeat(start[None], len(chosen), 0), _BOOTSTRAP_TOLERANCE
        )
        parts.append(effects)
    return np.concatenate(parts), len(fine), int(names.size)
