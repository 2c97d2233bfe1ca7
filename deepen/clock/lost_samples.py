"""Detection of samples lost or counted twice, unseen by the counters: lasting steps of the delay floor."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from deepen.clock.delay_floor import combine_with_clock_prior, estimate_robust_slope, fit_supporting_line
from deepen.clock.stream_types import SampleLoss

__all__ = ["find_lost_samples"]

_SCALES = {1: (16, 32, 64, 128, 256, 512), 4: (8, 16, 32), 16: (4, 8, 16, 32), 64: (4, 8, 16, 32)}
"""Group size -> window sizes: steps are sought among the least delayed arrival of every group, with windows of that
many groups on either side."""
_CHANCE = 1e-6
_TRANSFERS_S = 2e-3
"""Longest time between two transfers, seconds (two USB full-speed frames)."""
_MAX_PASSES = 64


def find_lost_samples(
    at: NDArray[np.int64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    rate_hz: float,
    quantum: int,
    max_drift: float,
) -> tuple[tuple[SampleLoss, ...], NDArray[np.float64]]:
    """Find the samples lost from a stream, and the delays without the steps they cause.

    Steps and slope look alike where steps are few.

    1. A clock within ``max_drift`` is assumed first; if the supporting line is believable as it is, that result stands.
    2. Otherwise a slope of any size is tried as well; it is taken only if the first fit leaves clearly more delay
       unexplained, in which case the stream is off throughout.

    Args:
        at: Positions after reads; int64, shape (n,).
        x: Their device times, seconds; shape (n,).
        y: Their delays, seconds; shape (n,).
        rate_hz: Nominal sample rate, hertz.
        quantum: Losses are multiples of this many samples.
        max_drift: Largest believable difference of the clocks, a share.

    Returns:
        The losses in order of position, and ``y`` lowered by the steps taken out.
    """
    # 1. A believable clock.
    believable = _remove_steps(at, x, y, rate_hz, quantum, max_drift)
    if abs(fit_supporting_line(x, y, float(x.mean()))[0]) <= max_drift:
        return believable
    # 2. A slope of any size.
    free = _remove_steps(at, x, y, rate_hz, quantum, math.inf)
    return believable if _mean_excess_delay_s(x, believable[1]) <= 1.1 * _mean_excess_delay_s(x, free[1]) else free


def _mean_excess_delay_s(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return the mean delay above the floor, seconds."""
    slope, intercept = fit_supporting_line(x, y, float(x.mean()))
    return float(np.mean(y - intercept - slope * x))


def _remove_steps(
    at: NDArray[np.int64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    rate_hz: float,
    quantum: int,
    max_drift: float,
) -> tuple[tuple[SampleLoss, ...], NDArray[np.float64]]:
    """Find lasting steps of the floor and take them out.

    At every point the floor of the stretch before is compared with that of the stretch after: a stall raises neither
    (transport catches up), a loss raises the second for good. The probability that ``n`` arrivals all came later than a
    height is the share of all arrivals that did, to the power of ``n`` (of fewer where neighbours are late together); a
    step is accepted below one chance in a million per stream. Short windows locate large losses, long ones detect small
    ones; where most arrivals are late, the least delayed of a group is a better estimate of the floor than all of them.

    For every combination of group size ``m`` and window ``n``, until no more steps are found:

    1. estimate the slope and level the delays with it;
    2. allow for the uncertainty of the slope over one window (``slack``);
    3. detect steps among the group minima, and take each one out.
    """
    found: list[SampleLoss] = []
    y = y.copy()
    if x.size < 8:
        return (), y
    tests = [(m, n) for m, ns in _SCALES.items() for n in ns if 2 * n <= max(x.size // m, 8)]
    # Where a transfer carries several samples, one that just misses its transfer looks like one lost.
    together = 1 / rate_hz < _TRANSFERS_S
    least_s = max(0.6 * quantum, 1.5 if together else 0.0) / rate_hz
    for m, n in tests:
        for _ in range(_MAX_PASSES):
            # 1. Slope and level.
            slope, slope_error = estimate_robust_slope(x, y)
            if math.isfinite(max_drift):
                slope, slope_error = combine_with_clock_prior(min(max(slope, -max_drift), max_drift), slope_error)
            level = y - slope * x
            # 2. Height that the slope's error can make up.
            slack = 4 * slope_error * m * n * float(np.median(np.diff(x))) if math.isfinite(slope_error) else 0.0
            # 3. Steps.
            lowest = _find_group_minima(level, m)
            chosen = _detect_steps(level[lowest], n, least_s, slack, _CHANCE / (x.size * len(tests)))
            losses = [_remove_one_step(at, y, level, int(lowest[k]), m * n, rate_hz, quantum, least_s) for k in chosen]
            found += losses
            if not any(loss.samples for loss in losses):
                break
    return tuple(sorted((loss for loss in found if loss.samples), key=lambda loss: loss.before_index)), y


def _find_group_minima(level: NDArray[np.float64], m: int) -> NDArray[np.int64]:
    """Return the index of the least of every ``m`` consecutive points (the last group may be smaller)."""
    padded = np.concatenate([level, np.full(-level.size % m, np.inf)]).reshape(-1, m)
    least: NDArray[np.int64] = padded.argmin(axis=1) + np.arange(0, padded.size, m)
    return least


def _detect_steps(level: NDArray[np.float64], n: int, least_s: float, slack_s: float, chance: float) -> list[int]:
    """Return the points after which the floor changes, the most certain first, no two within ``2 n`` of each other.

    1. The step at a point is the difference of the floors before and after it, judged over the long stretch on the far
       side: a stall or a busy spell is over before that ends.
    2. The chance of a step is taken from the delays above the floor of its own side.
    3. Steps below half the largest wait for a later pass: the largest tilts the slope by which they are judged.
    """
    # 1. Height of the step at every point.
    before, after = _compute_side_minima(level, n)
    long_before, long_after = _compute_side_minima(level, min(level.size, 512))
    step = np.where(after > before, np.maximum(long_after - before, 0), np.minimum(after - long_before, 0))
    height = np.maximum(np.abs(step) - slack_s, 0.0)
    place = np.arange(level.size)
    # 2. Chance. Near an end, a side has too few arrivals to show its floor; the other side stands in.
    first, last = place + 1 < n, level.size - 1 - place < n
    own = np.maximum(np.where(first, after, long_before), np.where(last, before, long_after))
    excess = np.maximum(level - own, 0.0)
    inner = ~(first | last)
    if 4 * np.count_nonzero(inner) >= level.size:
        excess = excess[inner]
    counts = np.where(step > 0, np.minimum(n, level.size - 1 - place), np.minimum(n, 1 + place))
    later = 1 - np.searchsorted(np.sort(excess), height, side="right") / (excess.size + 1)
    log_chance = counts / _estimate_correlation_length(excess) * np.log(later)
    log_chance[height < least_s] = 0.0
    sure = log_chance < math.log(chance)
    # 3. The largest, apart from each other.
    suspects = np.flatnonzero(sure & (height >= 0.5 * height.max(where=sure, initial=0.0)))
    chosen: list[int] = []
    for k in suspects[np.argsort(log_chance[suspects], kind="stable")].tolist():
        if all(abs(k - other) > 2 * n for other in chosen):
            chosen.append(k)
    return chosen


def _estimate_correlation_length(excess: NDArray[np.float64]) -> float:
    """Estimate the number of neighbouring arrivals that are late together.

    It is the integrated autocorrelation of a first-order process, ``(1 + rho) / (1 - rho)``.
    """
    centred = excess - excess.mean()
    power = float(centred @ centred)
    if power == 0:
        return 1.0
    rho = min(max(float(centred[:-1] @ centred[1:]) / power, 0.0), 0.95)
    return (1 + rho) / (1 - rho)


def _compute_side_minima(level: NDArray[np.float64], n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the least level of the ``n`` points up to and including each point, and of the ``n`` points after it."""
    size = level.size
    # Pieces of n: a window of n is the end of one piece and the beginning of the next (van Herk, 1992).
    pieces = np.full((-(-size // n) + 3, n), np.inf)
    pieces.ravel()[n : n + size] = level
    so_far = np.minimum.accumulate(pieces, axis=1).ravel()
    from_here = np.minimum.accumulate(pieces[:, ::-1], axis=1)[:, ::-1].ravel()
    before = np.minimum(from_here[1 : 1 + size], so_far[n : n + size])
    after = np.minimum(from_here[n + 1 : n + 1 + size], so_far[2 * n : 2 * n + size])
    return before, np.where(np.isfinite(after), after, before)


def _remove_one_step(
    at: NDArray[np.int64],
    y: NDArray[np.float64],
    level: NDArray[np.float64],
    k: int,
    n: int,
    rate_hz: float,
    quantum: int,
    least_s: float,
) -> SampleLoss:
    """Locate and size the step near point ``k``, lower everything after it in ``y``, and return the loss.

    1. The edge: a loss lies after the last arrival below the middle of the step; a double count before the first one.
    2. Height: the difference of the floors on both sides of the edge, in whole quanta; 0 if below ``least_s``.
    3. Error: the floor of ``n`` delays lies about (median delay above it) / n above the true one, on both sides.
    """
    first, last = max(0, k - n + 1), min(level.size, k + n + 1)
    # 1. Edge.
    before, after = float(level[first : k + 1].min()), float(level[k + 1 : last].min())
    low = np.flatnonzero(level[first:last] < (before + after) / 2) + first
    if after > before:
        edge = int(low[-1]) + 1
        close = np.flatnonzero(level[edge:last] < after + (after - before) / 2)
        known_after = edge + int(close[0]) if close.size else edge
    else:
        edge = known_after = int(low[0])
    known_after = min(known_after, level.size - 1)
    # 2. Height.
    height = after - before
    if first < edge < last:
        height = float(level[edge:last].min() - level[first:edge].min())
    # 3. Error.
    spread = max(float(np.median(part) - part.min()) for part in (level[first:edge], level[edge:last]) if part.size)
    samples = round(height * rate_hz / quantum) * quantum if abs(height) >= least_s else 0
    y[edge:] -= samples / rate_hz
    error = math.hypot(spread / max(edge - first, 1), spread / max(last - edge, 1)) * rate_hz
    after_index, before_index = int(at[max(edge - 1, 0)]) - 1, int(at[known_after]) - 1
    after_index = min(after_index, before_index + 2 * samples)  # room for the samples counted twice
    return SampleLoss(after_index, samples, max(error, abs(height * rate_hz - samples)), before_index)
