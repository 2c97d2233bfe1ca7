"""The clock of a sample stream, fitted to the arrival times of its reads.

All the host knows of a sample is when its bytes came in. Bytes arrive late, never early: a read returns at the moment
its last sample was taken, plus a transport delay that varies by milliseconds (USB frames, buffers, scheduling) but has
a floor. Over the instrument's own time (position / rate), the arrival times therefore lie above a line, and the line
under them is the clock map (lower convex hull; the edge above the mean minimises the summed delay: S. Moon, P. Skelly,
D. Towsley, "Estimation and removal of clock skew from network delay measurements", INFOCOM 1999).

Samples that the counters did not see lost make everything after them arrive later for good, whereas a stalled
transport catches up. A lasting step of the floor is therefore a loss; its height divided by the sample period is the
number of samples lost.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from deepen.clock.delay_floor import UNKNOWN_TRANSPORT_S, DelayFloor, fit_delay_floor, select_least_delayed
from deepen.clock.host_clock import MAX_DRIFT, ClockMap
from deepen.clock.lost_samples import find_lost_samples
from deepen.clock.stream_types import ArrivalFit, SampleLoss

__all__ = ["ArrivalLog", "fit_arrivals"]


class ArrivalLog:
    """A record of arrivals in bounded memory: it keeps the least delayed one of every stretch.

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
        """Record that the sample before position ``index`` had come in by ``host_s``."""
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
        """Return the positions (int64) and arrival times (seconds) kept; both of shape (m,)."""
        return np.array(self._index, dtype=np.int64), np.array(self._host_s, dtype=np.float64)


def fit_arrivals(
    index: NDArray[np.int64],
    host_s: NDArray[np.float64],
    rate_hz: float,
    *,
    round_trip_s: float | None = None,
    begun: tuple[int, float] | None = None,
    max_drift: float = MAX_DRIFT,
    quantum: int = 1,
) -> ArrivalFit:
    """Fit the clock of a stream and find the samples lost from it.

    1. Reduce the arrivals to the least delayed of every stretch, in host and in device time: a backlog that comes in at
       once is one arrival.
    2. Take lasting steps out as losses, and fit the floor of the delays.
    3. Bound the least transport delay: by the round trip, by the start of the stream, or by the usual delay.
    4. Report a slope that no clock has as a loss without a place.
    5. Put the clock half the bound before the floor.

    Args:
        index: Position just after the last sample of each read; int64, shape (m,), ascending.
        host_s: When the read returned; float64, shape (m,), ascending.
        rate_hz: Nominal sample rate, hertz.
        round_trip_s: Shortest round trip seen on this port; half of it is taken as the least transport delay.
        begun: A position, and a host time before which its period cannot have begun (when the stream was requested):
            the time from then to its arrival bounds the transport delay as a round trip does.
        max_drift: Largest believable clock error, a share; a stream slower than that has lost samples throughout.
        quantum: Losses the instrument's counter cannot see are multiples of this (64 for a 6-bit counter).

    Raises:
        ValueError: If the arrays differ in length or are empty.
    """
    if index.shape != host_s.shape or index.size == 0:
        raise ValueError("arrivals need positions and times, as many of one as of the other")
    # 1. Least delayed arrivals.
    x = index / rate_hz
    y = host_s - x
    keep = select_least_delayed(host_s, y, select_least_delayed(x, y))
    at, x, y = index[keep], x[keep], y[keep]
    # 2. Losses and floor.
    losses, y = find_lost_samples(at, x, y, rate_hz, quantum, max_drift)
    line = fit_delay_floor(x, y, max_drift)
    delay_s = float(np.median(y - line.at(x)))
    # 3. Least transport delay. Where transfers queue, even the least delayed one has waited, at most the usual delay.
    floor_s = max(UNKNOWN_TRANSPORT_S, delay_s) if round_trip_s is None else round_trip_s
    if begun is not None:
        excess = _find_initial_double_count(at, y - line.at(x), begun, line, rate_hz)
        if excess is not None:
            losses = (excess, *losses)
            y[x > excess.before_index / rate_hz] -= excess.samples / rate_hz
            line = fit_delay_floor(x, y, max_drift)
        first_s = begun[0] / rate_hz
        since_s = first_s + line.at(first_s) - begun[1]
        if since_s > -_start_tolerance_s(line, rate_hz):  # else it was streaming before
            floor_s = min(floor_s, max(since_s, 0.0))
    transport_s, transport_error_s = floor_s / 2, floor_s / math.sqrt(12)
    # 4. A rate that no clock explains.
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
    problems += [_describe_loss(loss) for loss in losses]
    # 5. The clock.
    middle = float(x.mean())
    clock = ClockMap(
        device_s=middle,
        host_s=middle + line.at(middle) - transport_s,
        rate=1 + line.slope,
        error_s=math.hypot(line.error_s, transport_error_s),
        method="arrival",
    )
    true_hz = rate_hz / (1 + line.slope)
    return ArrivalFit(clock, losses, throughout, delay_s, true_hz, line.slope_error, rate_hz, tuple(problems))


def _start_tolerance_s(line: DelayFloor, rate_hz: float) -> float:
    """Return how far before the request a stream may seem to begin, seconds: it may be in the middle of a period."""
    return 1.5 / rate_hz + 4 * line.error_s


def _find_initial_double_count(
    at: NDArray[np.int64], late_s: NDArray[np.float64], begun: tuple[int, float], line: DelayFloor, rate_hz: float
) -> SampleLoss | None:
    """Find samples counted twice right after the start, where too few arrivals came before to show a step.

    The stream then seems to have begun before it was requested, although its very first arrivals were late by as much.

    Args:
        at: Positions after reads; shape (m,).
        late_s: Delays of those arrivals above the floor, seconds; shape (m,).
        begun: A position, and a time before which its period cannot have begun.
        line: The floor.
        rate_hz: Nominal sample rate, hertz.

    Returns:
        The double count as a negative loss; ``None`` if there is none.
    """
    first_s = begun[0] / rate_hz
    early_s = begun[1] - first_s - line.at(first_s)
    known_after = int(np.argmax(late_s < early_s / 2))
    if early_s <= _start_tolerance_s(line, rate_hz) or known_after == 0:
        return None
    before_index = int(at[known_after]) - 1
    return SampleLoss(begun[0], -round(early_s * rate_hz), line.error_s * rate_hz, max(before_index, begun[0] + 1))


def _describe_loss(loss: SampleLoss) -> str:
    if loss.samples > 0:
        about = f" (± {loss.error_samples:.0f})" if loss.error_samples >= 0.5 else ""
        return f"{loss.samples}{about} samples lost after sample {loss.after_index}, unseen by the counters"
    return f"{-loss.samples} samples too many after sample {loss.after_index}: something was counted twice"
