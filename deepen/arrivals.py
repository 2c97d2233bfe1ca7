"""When did a sample happen, if all the host knows is when its bytes came in.

Bytes arrive late, never early: the moment a read returns is the moment the last sample in it was taken, plus a
transport delay that varies by milliseconds (USB frames, buffers, scheduling) but has a floor. Over the instrument's own
time (position / rate), the arrival times therefore lie above a line, and the line under them is the clock map (lower
convex hull; the edge above the mean minimises the summed delay: S. Moon, P. Skelly, D. Towsley, "Estimation and removal
of clock skew from network delay measurements", INFOCOM 1999).

Samples lost without a trace in the counters make everything after them arrive later for ever, whereas a stalled
transport catches up: a step of the floor is a loss, and its height over the sample period the number of samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from deepen.clock import ClockMap

_Values = TypeVar("_Values", float, NDArray[np.float64])

__all__ = ["CLOCK_TOLERANCE", "ArrivalLog", "Arrivals", "Loss", "fit_arrivals", "insert_losses"]

UNKNOWN_TRANSPORT_S = 1e-3
"""Least transport delay where no round trip is known: between 0 and this (one USB full-speed frame) or the median delay
above the floor, whichever is more."""
CLOCK_TOLERANCE = 50e-6
"""Standard deviation of the rates of quartz clocks over their nominal ones (tolerances of 20 to 100 ppm are sold)."""
_SCALES = {1: (16, 32, 64, 128, 256, 512), 4: (8, 16, 32), 16: (4, 8, 16, 32), 64: (4, 8, 16, 32)}
"""Steps are looked for among the least delayed of every so many arrivals, over stretches of so many of those."""
_CHANCE = 1e-6
_WANDER_S = 60.0
_TRANSFERS_S = 2e-3
"""Time between two transfers, at most (one USB full-speed frame, or two)."""
_MAX_PASSES = 64


@dataclass(frozen=True, slots=True)
class Loss:
    """Samples lost without the instrument's counters saying so.

    Attributes:
        after_index: Position of the last sample known to be before the loss.
        samples: How many are missing; negative where more came than time allows (something was counted twice).
        error_samples: Standard uncertainty of that number.
        before_index: Position of the first sample known to be after it.
    """

    after_index: int
    samples: int
    error_samples: float
    before_index: int


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What arrival times say about a stream.

    Attributes:
        clock: From the instrument's time (position / nominal rate, losses inserted) to the host's monotonic clock.
        losses: Losses found by the clock, in order.
        throughout: Samples missing without a place (the stream is slower than any believable clock); not in ``losses``.
        delay_s: Median transport delay above the floor, seconds.
        rate_hz: True sample rate on the host's clock, hertz.
        rate_error: Standard uncertainty of ``clock.rate``, a share.
        nominal_hz: Rate the instrument states, hertz.
        problems: What a reader should know, one line each.
    """

    clock: ClockMap
    losses: tuple[Loss, ...]
    throughout: int
    delay_s: float
    rate_hz: float
    rate_error: float
    nominal_hz: float
    problems: tuple[str, ...]

    def positions(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Positions with the losses found by the clock inserted; float64, same shape, strictly ascending.

        Args:
            index: Positions as the parser counted them, ascending.
        """
        return insert_losses(index, self.losses)

    def times(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Host times of samples, seconds; float64, same shape."""
        return self.clock.to_host(self.positions(index) / self.nominal_hz)


def insert_losses(index: NDArray[np.int64], losses: Sequence[Loss]) -> NDArray[np.float64]:
    """Positions with losses inserted; float64, same shape, strictly ascending.

    What lies after a loss moves on by what is missing. Where something was counted twice, the doubtful stretch is
    squeezed (nobody knows which of its samples are too many), and what lies after it moves back.

    Args:
        index: Positions as the parser counted them, ascending.
        losses: Losses, in order.
    """
    at: list[int] = []
    moved: list[int] = []
    total = 0
    for start, end, samples in _doubtful(losses):
        at += [start if samples < 0 else end - 1, end]
        moved += [total, total + samples]
        total += samples
    if not at:
        return index.astype(np.float64)
    return np.asarray(index + np.interp(index, at, moved), np.float64)


def _doubtful(losses: Sequence[Loss]) -> list[tuple[int, int, int]]:
    """Stretches (after, before, samples) of losses, ascending, apart, and long enough for what is taken out of them."""
    found: list[tuple[int, int, int]] = []
    for loss in losses:
        start, end, samples = loss.after_index, max(loss.before_index, loss.after_index + 1), loss.samples
        start = min(start, end + samples - 1)
        while found and start < found[-1][1]:
            first, last, more = found.pop()
            start, end, samples = min(start, first), max(end, last), samples + more
            start = min(start, end + samples - 1)
        found.append((start, end, samples))
    return found


class ArrivalLog:
    """Keeps the arrivals that matter, in bounded memory: the least delayed one of every stretch.

    An hour takes 5.8 MB, however often the port is read.
    """

    def __init__(self, rate_hz: float, bin_s: float = 0.01) -> None:
        """Set the nominal rate (hertz) and the length of a stretch (seconds)."""
        self._rate_hz = rate_hz
        self._bin_s = bin_s
        self._index: list[int] = []
        self._host_s: list[float] = []
        self._bin = -1

    def add(self, index: int, host_s: float) -> None:
        """Note that the sample before position ``index`` had come in by ``host_s``."""
        stretch = int(index / self._rate_hz / self._bin_s)
        if stretch == self._bin:
            before = self._host_s[-1] - self._index[-1] / self._rate_hz
            if host_s - index / self._rate_hz >= before:
                return
            self._index[-1], self._host_s[-1] = index, host_s
            return
        self._bin = stretch
        self._index.append(index)
        self._host_s.append(host_s)

    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Positions and arrival times kept."""
        return np.array(self._index, dtype=np.int64), np.array(self._host_s, dtype=np.float64)


def fit_arrivals(
    index: NDArray[np.int64],
    host_s: NDArray[np.float64],
    rate_hz: float,
    *,
    round_trip_s: float | None = None,
    begun: tuple[int, float] | None = None,
    max_drift: float = 300e-6,
    quantum: int = 1,
) -> Arrivals:
    """Fit the clock of a stream and find what was lost from it.

    Args:
        index: Position just after the last sample of each read; int64, shape (m,), ascending.
        host_s: When the read returned; float64, shape (m,), ascending.
        rate_hz: Nominal sample rate, hertz.
        round_trip_s: Shortest round trip seen on this port; half of it is taken as the least transport delay.
        begun: A position, and a host time before which its period cannot have begun (the stream was asked for then):
            what lies between that and its arrival bounds the transport delay as a round trip does.
        max_drift: Largest believable clock error, a share; a stream slower than that has lost samples throughout.
        quantum: Losses the instrument's counter cannot see are multiples of this (64 for a 6-bit counter).

    Raises:
        ValueError: If the arrays differ in length or are empty.
    """
    if index.shape != host_s.shape or index.size == 0:
        raise ValueError("arrivals need positions and times, as many of one as of the other")
    x = index / rate_hz
    y = host_s - x
    keep = _lowest(host_s, y, _lowest(x, y))  # a backlog that comes in at once is one arrival
    at, x, y = index[keep], x[keep], y[keep]
    losses, y = _explain(at, x, y, rate_hz, quantum, max_drift)
    line = _floor_line(x, y, max_drift)
    delay_s = float(np.median(y - line.at(x)))
    # Where transfers queue, even the least delayed one has waited: about as long as they usually do, at most.
    floor_s = max(UNKNOWN_TRANSPORT_S, delay_s) if round_trip_s is None else round_trip_s
    if begun is not None:
        excess = _too_many_at_first(at, y - line.at(x), begun, line, rate_hz)
        if excess is not None:
            losses = (excess, *losses)
            y[x > excess.before_index / rate_hz] -= excess.samples / rate_hz
            line = _floor_line(x, y, max_drift)
        first_s = begun[0] / rate_hz
        since_s = first_s + line.at(first_s) - begun[1]
        if since_s > -_slack_s(line, rate_hz):  # else it was streaming before
            floor_s = min(floor_s, max(since_s, 0.0))
    transport_s, transport_error_s = floor_s / 2, floor_s / math.sqrt(12)
    span_s = float(x[-1] - x[0])
    throughout = 0
    problems: list[str] = []
    if line.slope > max_drift + 5 * line.slope_error:
        throughout = round(line.slope * span_s * rate_hz)
        share = 100 * line.slope / (1 + line.slope)
        problems.append(f"{share:.3f} % fewer samples than {rate_hz:g} Hz: lost throughout, or the clock is off")
    elif line.slope < -max_drift - 5 * line.slope_error:
        problems.append(
            f"{-100 * line.slope:.3f} % more samples than {rate_hz:g} Hz: counted twice, or the clock is off"
        )
    problems += [_describe(loss) for loss in losses]
    middle = float(x.mean())
    clock = ClockMap(
        device_s=middle,
        host_s=middle + line.at(middle) - transport_s,
        rate=1 + line.slope,
        error_s=math.hypot(line.error_s, transport_error_s),
        method="arrival",
    )
    true_hz = rate_hz / (1 + line.slope)
    return Arrivals(clock, losses, throughout, delay_s, true_hz, line.slope_error, rate_hz, tuple(problems))


def _slack_s(line: _Line, rate_hz: float) -> float:
    """How much earlier than it was asked for a stream may seem to have begun: it may be in the middle of a period."""
    return 1.5 / rate_hz + 4 * line.error_s


def _too_many_at_first(
    at: NDArray[np.int64], late_s: NDArray[np.float64], begun: tuple[int, float], line: _Line, rate_hz: float
) -> Loss | None:
    """What was counted twice right after the start, where too few arrivals came before to show it.

    The stream then seems to have begun before it was asked for, although the very first arrivals were late by as much.

    Args:
        at: Positions after reads; shape (m,).
        late_s: How long after the floor those came; shape (m,).
        begun: A position, and a time before which its period cannot have begun.
        line: The floor.
        rate_hz: Nominal rate.
    """
    first_s = begun[0] / rate_hz
    early_s = begun[1] - first_s - line.at(first_s)
    known_after = int(np.argmax(late_s < early_s / 2))
    if early_s <= _slack_s(line, rate_hz) or known_after == 0:
        return None
    before_index = int(at[known_after]) - 1
    return Loss(begun[0], -round(early_s * rate_hz), line.error_s * rate_hz, max(before_index, begun[0] + 1))


def _describe(loss: Loss) -> str:
    if loss.samples > 0:
        about = f" (± {loss.error_samples:.0f})" if loss.error_samples >= 0.5 else ""
        return f"{loss.samples}{about} samples lost after sample {loss.after_index}, unseen by the counters"
    return f"{-loss.samples} samples too many after sample {loss.after_index}: something was counted twice"


@dataclass(frozen=True, slots=True)
class _Line:
    """Floor of the arrival delays: ``intercept + slope * x``."""

    slope: float
    intercept: float
    error_s: float
    slope_error: float

    def at(self, x: _Values) -> _Values:
        return self.intercept + self.slope * x


def _lowest(
    t_s: NDArray[np.float64], y: NDArray[np.float64], among: NDArray[np.int64] | None = None, bin_s: float = 0.01
) -> NDArray[np.int64]:
    """Indices of the least delayed arrival of every stretch of ``bin_s``, in order of time."""
    among = np.arange(t_s.size, dtype=np.int64) if among is None else among
    stretch = np.floor((t_s[among] - t_s[0]) / bin_s).astype(np.int64)
    order = np.lexsort((y[among], stretch))
    first = np.append(True, np.diff(stretch[order]) != 0)
    found: NDArray[np.int64] = among[order[first]]
    return found


def _hull(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[int]:
    """Indices of the lower convex hull, left to right (Andrew's monotone chain)."""
    hull: list[int] = []
    xs, ys = x.tolist(), y.tolist()
    for i in range(len(xs)):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (xs[b] - xs[a]) * (ys[i] - ys[a]) <= (ys[b] - ys[a]) * (xs[i] - xs[a]):
                hull.pop()
            else:
                break
        hull.append(i)
    return hull


def _support(x: NDArray[np.float64], y: NDArray[np.float64], middle: float) -> tuple[float, float]:
    """Slope and intercept of the hull's edge above ``middle``."""
    hull = _hull(x, y)
    if len(hull) == 1:
        return 0.0, float(y[hull[0]])
    right = next((k for k in range(1, len(hull)) if x[hull[k]] >= middle), len(hull) - 1)
    a, b = hull[right - 1], hull[right]
    if x[b] == x[a]:
        return 0.0, float(min(y[a], y[b]))
    slope = float((y[b] - y[a]) / (x[b] - x[a]))
    return slope, float(y[a] - slope * x[a])


def _floor_line(x: NDArray[np.float64], y: NDArray[np.float64], max_drift: float) -> _Line:
    """Fit the floor.

    The least delays of single pieces of the stream scatter around the line; their scatter tells how well it is known.
    A slope that a clock can have is drawn towards zero by what is known of clocks (:data:`CLOCK_TOLERANCE`), all the
    more the less the stream tells. In long streams the floor of the pieces also tells how far the clock wanders.
    """
    span = float(x[-1] - x[0])
    slope, intercept = _support(x, y, float(x.mean()))
    above = y - intercept - slope * x
    pieces = min(16, x.size // 8)
    if pieces >= 4:
        floors = np.array([part.min() for part in np.array_split(above, pieces)])
        scatter = float(np.std(floors)) / math.sqrt(pieces)
        wander = float(np.quantile(floors, 0.9)) if span >= _WANDER_S else 0.0
    else:  # a few arrivals may agree by chance
        scatter, wander = max(float(np.median(above)), UNKNOWN_TRANSPORT_S) / math.sqrt(x.size), 0.0
    slope_error = scatter * math.sqrt(12) / span if span > 0 else math.inf
    if abs(slope) < max_drift + 5 * slope_error:
        slope, slope_error = _believed(slope, slope_error)
        intercept = float(np.min(y - slope * x))
    error_s = math.hypot(scatter, slope_error * span / math.sqrt(12), wander)
    return _Line(slope, intercept, error_s, slope_error)


def _believed(slope: float, error: float) -> tuple[float, float]:
    """Combine a slope that was found with what is known of clocks (both normal): the mean and its error."""
    if not math.isfinite(error):
        return 0.0, CLOCK_TOLERANCE
    trust = CLOCK_TOLERANCE**2 / (CLOCK_TOLERANCE**2 + error**2)
    return trust * slope, CLOCK_TOLERANCE * math.sqrt(1 - trust)


def _steady_slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Slope of the floor and its error, little moved by a few steps.

    The median slope between the floors of pieces some distance apart; of the distances the one with the least spread
    counts (near ones cross few steps, far ones have less noise). Short streams tell none.
    """
    pieces = min(64, x.size // 24)
    if pieces < 8:
        return _support(x, y, float(x.mean()))[0], math.inf
    lowest = np.array([part[np.argmin(y[part])] for part in np.array_split(np.arange(x.size), pieces)])
    best = (0.0, math.inf)
    for lag in (1, 2, 4, 8, 16):
        if lag > pieces // 4:
            break
        slopes = (y[lowest[lag:]] - y[lowest[:-lag]]) / (x[lowest[lag:]] - x[lowest[:-lag]])
        middle = float(np.median(slopes))
        error = 1.4826 * float(np.median(np.abs(slopes - middle))) / math.sqrt(slopes.size / lag)
        best = min(best, (middle, error), key=lambda pair: pair[1])
    return best


def _explain(
    at: NDArray[np.int64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    rate_hz: float,
    quantum: int,
    max_drift: float,
) -> tuple[tuple[Loss, ...], NDArray[np.float64]]:
    """Tell steps from slope: with few steps both look alike, so the clock is taken as believable first.

    Where that leaves far more delay unexplained than a slope of any size does, the stream is off throughout.
    """
    believable = _remove_steps(at, x, y, rate_hz, quantum, max_drift)
    if abs(_support(x, y, float(x.mean()))[0]) <= max_drift:
        return believable
    free = _remove_steps(at, x, y, rate_hz, quantum, math.inf)
    return believable if _unexplained_s(x, believable[1]) <= 1.1 * _unexplained_s(x, free[1]) else free


def _unexplained_s(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Mean delay above the floor, seconds."""
    slope, intercept = _support(x, y, float(x.mean()))
    return float(np.mean(y - intercept - slope * x))


def _remove_steps(
    at: NDArray[np.int64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    rate_hz: float,
    quantum: int,
    max_drift: float,
) -> tuple[tuple[Loss, ...], NDArray[np.float64]]:
    """Find lasting steps of the floor and take them out.

    At every point the floor of the stretch before is compared with that of the stretch after; a stall raises neither
    (transport catches up), a loss raises the second for good. How likely ``n`` arrivals all came later than a height
    is the share of all arrivals that do to the power of ``n`` (fewer where neighbours are late together); a step is
    believed below one chance in a million per stream. Short stretches find large losses where they are, long ones find
    small ones at all, and where most arrivals are late the least delayed of every few tell more than all of them.
    """
    found: list[Loss] = []
    y = y.copy()
    if x.size < 8:
        return (), y
    tests = [(m, n) for m, ns in _SCALES.items() for n in ns if 2 * n <= max(x.size // m, 8)]
    # Where several samples come in one transfer, that the last of them just misses it looks like one lost.
    together = 1 / rate_hz < _TRANSFERS_S
    least_s = max(0.6 * quantum, 1.5 if together else 0.0) / rate_hz
    for m, n in tests:
        for _ in range(_MAX_PASSES):
            slope, slope_error = _steady_slope(x, y)
            if math.isfinite(max_drift):
                slope, slope_error = _believed(min(max(slope, -max_drift), max_drift), slope_error)
            level = y - slope * x
            slack = 4 * slope_error * m * n * float(np.median(np.diff(x))) if math.isfinite(slope_error) else 0.0
            lowest = _lowest_of_each(level, m)
            chosen = _steps(level[lowest], n, least_s, slack, _CHANCE / (x.size * len(tests)))
            losses = [_take_out(at, y, level, int(lowest[k]), m * n, rate_hz, quantum, least_s) for k in chosen]
            found += losses
            if not any(loss.samples for loss in losses):
                break
    return tuple(sorted((loss for loss in found if loss.samples), key=lambda loss: loss.before_index)), y


def _lowest_of_each(level: NDArray[np.float64], m: int) -> NDArray[np.int64]:
    """Index of the least of every ``m`` points in a row (the last ones may be fewer)."""
    padded = np.concatenate([level, np.full(-level.size % m, np.inf)]).reshape(-1, m)
    least: NDArray[np.int64] = padded.argmin(axis=1) + np.arange(0, padded.size, m)
    return least


def _steps(level: NDArray[np.float64], n: int, least_s: float, slack_s: float, chance: float) -> list[int]:
    """Points after which the floor is another, the surest first, no two within ``2 n`` of each other.

    Steps much smaller than the largest wait until that one is out: it tilts the slope they are judged by.
    """
    before, after = _floors(level, n)
    # What lasts: a stall or a busy spell is over before the longest stretch is.
    long_before, long_after = _floors(level, min(level.size, 512))
    step = np.where(after > before, np.maximum(long_after - before, 0), np.minimum(after - long_before, 0))
    height = np.maximum(np.abs(step) - slack_s, 0.0)
    place = np.arange(level.size)
    # Delays above the floor of the own side of a step; near an end, a side has too few arrivals to tell its floor.
    first, last = place + 1 < n, level.size - 1 - place < n
    own = np.maximum(np.where(first, after, long_before), np.where(last, before, long_after))
    excess = np.maximum(level - own, 0.0)
    inner = ~(first | last)
    if 4 * np.count_nonzero(inner) >= level.size:
        excess = excess[inner]
    counts = np.where(step > 0, np.minimum(n, level.size - 1 - place), np.minimum(n, 1 + place))
    later = 1 - np.searchsorted(np.sort(excess), height, side="right") / (excess.size + 1)
    log_chance = counts / _together(excess) * np.log(later)
    log_chance[height < least_s] = 0.0
    sure = log_chance < math.log(chance)
    suspects = np.flatnonzero(sure & (height >= 0.5 * height.max(where=sure, initial=0.0)))
    chosen: list[int] = []
    for k in suspects[np.argsort(log_chance[suspects], kind="stable")].tolist():
        if all(abs(k - other) > 2 * n for other in chosen):
            chosen.append(k)
    return chosen


def _together(excess: NDArray[np.float64]) -> float:
    """How many neighbouring arrivals are late together (the integrated autocorrelation of a first-order process)."""
    centred = excess - excess.mean()
    power = float(centred @ centred)
    if power == 0:
        return 1.0
    rho = min(max(float(centred[:-1] @ centred[1:]) / power, 0.0), 0.95)
    return (1 + rho) / (1 - rho)


def _floors(level: NDArray[np.float64], n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least level of the ``n`` points up to and including each point, and of the ``n`` points after it."""
    from scipy.ndimage import minimum_filter1d

    size = level.size
    padded = np.concatenate([np.full(n, np.inf), level, np.full(n + 1, np.inf)])
    # origin shifts the window so that entry k covers padded[k - n + 1 : k + 1]
    trailing = minimum_filter1d(padded, n, mode="nearest", origin=(n - 1) // 2)
    before = trailing[n : n + size]
    after = trailing[2 * n : 2 * n + size]
    return before, np.where(np.isfinite(after), after, before)


def _take_out(
    at: NDArray[np.int64],
    y: NDArray[np.float64],
    level: NDArray[np.float64],
    k: int,
    n: int,
    rate_hz: float,
    quantum: int,
    least_s: float,
) -> Loss:
    """Place and size the step near point ``k``, lower everything after it in ``y``, and say what was lost.

    Of a loss, the last arrival below the middle of the step is before it; of a double count, the first one is after
    it.
    """
    first, last = max(0, k - n + 1), min(level.size, k + n + 1)
    before, after = float(level[first : k + 1].min()), float(level[k + 1 : last].min())
    low = np.flatnonzero(level[first:last] < (before + after) / 2) + first
    if after > before:
        edge = int(low[-1]) + 1
        close = np.flatnonzero(level[edge:last] < after + (after - before) / 2)
        known_after = edge + int(close[0]) if close.size else edge
    else:
        edge = known_after = int(low[0])
    known_after = min(known_after, level.size - 1)
    height = after - before
    if first < edge < last:
        height = float(level[edge:last].min() - level[first:edge].min())
    # The floor of n delays lies about (median delay above it) / n above the true one, on both sides.
    spread = max(float(np.median(part) - part.min()) for part in (level[first:edge], level[edge:last]) if part.size)
    samples = round(height * rate_hz / quantum) * quantum if abs(height) >= least_s else 0
    y[edge:] -= samples / rate_hz
    error = math.hypot(spread / max(edge - first, 1), spread / max(last - edge, 1)) * rate_hz
    after_index, before_index = int(at[max(edge - 1, 0)]) - 1, int(at[known_after]) - 1
    after_index = min(after_index, before_index + 2 * samples)  # room for what was counted twice
    return Loss(after_index, samples, max(error, abs(height * rate_hz - samples)), before_index)
