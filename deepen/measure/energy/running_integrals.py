"""One pass over a trace: running integrals, told at any number of moments, in bounded memory.

What integration needs of a trace of any length are running sums at the edges of windows: energy, and three sums that
say how well the energy is known. They are formed block by block (a block fits into the processor's cache), so that
hours at 100 kS/s cost the memory of one chunk and of the moments asked for.

Between samples power is taken as the trace says: a line between ``point`` samples, constant within the bin of a
``mean`` sample. Samples strictly inside a gap are left out; the stretch from the last good sample before a gap to the
first after it is a *bridge*: its energy is interpolated, and it is reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepen.errors import MeasureError
from deepen.records import PowerTrace

__all__ = ["GapBridges", "RunningIntegrals", "compute_running_integrals", "iterate_pieces"]

BLOCK = 1 << 16
"""Samples per block: six arrays of this many float64 take 3 MiB."""

_Floats = NDArray[np.float64]
_TAIL = 3  # samples of the block before that the noise sum looks back at


@dataclass(frozen=True, slots=True)
class GapBridges:
    """Stretches without trustworthy samples whose energy was interpolated; arrays of shape (k,), ascending.

    Attributes:
        start_s: Last good sample before.
        end_s: First good sample after.
        missing_s: Part of the stretch that lacks samples, seconds: its length less one sample period.
        step_w: Power after less power before.
    """

    start_s: _Floats
    end_s: _Floats
    missing_s: _Floats
    step_w: _Floats


@dataclass(frozen=True, slots=True)
class RunningIntegrals:
    """Running sums at the moments asked for; arrays of shape (m,), in the order of the moments.

    Sums run from the start of the trace; a difference of two is the sum over the stretch between.

    Attributes:
        energy_j: Energy; extended precision, so that differences of an hour's sums keep nine digits.
        power_w: Power at the moment.
        square: Integral of the squared power, W² s.
        steps: Sum over segments of (change of power times duration)², J²; bridges are left out. At a moment it counts
            the segments that lie wholly before.
        noise: Sum over segments of the product of the absolute values of two (change times duration), two segments
            apart, J². White noise of standard deviation s gives 4 s² dt² / pi for each; a step of power next to none.
        segment_s: Duration of the segment (between two samples) the moment lies in.
        segment_j: Change of power over that segment times its duration, joules; 0 for a bridge.
        into: Where in the segment the moment lies, 0..1.
        start_s: Where the trace begins.
        end_s: Where it ends.
        period_s: Sample period.
        samples: Trustworthy samples.
        dropped: Samples known to be lost.
        bridges: Where energy was interpolated.
    """

    energy_j: NDArray[np.longdouble]
    power_w: _Floats
    square: _Floats
    steps: _Floats
    noise: _Floats
    segment_s: _Floats
    segment_j: _Floats
    segment_fraction: _Floats
    start_s: float
    end_s: float
    period_s: float
    samples: int
    dropped: int
    bridges: GapBridges


def compute_running_integrals(
    chunks: Iterable[PowerTrace], at_s: _Floats, gaps: tuple[tuple[float, float], ...] = ()
) -> RunningIntegrals:
    """Pass over a trace once.

    Moments outside the trace get the power of the nearest sample, so that a moment shifted a little past the end (to
    learn what a clock error would cost) has a meaning; whether a *window* lies inside is for the caller to check.

    Args:
        chunks: Consecutive pieces of one trace.
        at_s: Moments, any order, shape (m,).
        gaps: Gaps known beforehand, beside those of the chunks: needed where a chunk tells of a gap that began in the
            one before it.

    Raises:
        MeasureError: If there are fewer than two trustworthy samples, a sample is not a number, chunks do not ascend,
            or a gap is told too late.
    """
    order = np.argsort(at_s, kind="stable")
    pass_ = _IntegrationPass(np.ascontiguousarray(at_s[order], dtype=np.float64), gaps)
    for chunk in chunks:
        pass_.take(chunk)
    return pass_.finish(order)


class _IntegrationPass:
    """State between blocks."""

    def __init__(self, at_s: _Floats, gaps: tuple[tuple[float, float], ...]) -> None:
        m = at_s.size
        self.at_s = at_s
        self.gaps: tuple[Sequence[float], ...] = gaps
        self.next = 0  # first moment not told yet
        self.energy_j = np.zeros(m, np.longdouble)
        self.columns = np.zeros((7, m))  # power, square, steps, noise, segment_s, segment_j, into
        self.total_j = np.longdouble(0.0)
        self.totals = np.zeros(3)  # square, steps, noise
        self.tail: tuple[_Floats, _Floats] = (np.empty(0), np.empty(0))
        self.bridged = np.empty(0, bool)  # which segments of the tail are bridges
        self.start_s = np.nan
        self.period_s = 0.0
        self.samples = 0
        self.left_out = 0  # samples inside gaps
        self.dropped = 0
        self.meter = ""
        self.mean = False
        self.bridges: list[tuple[float, float, float, float]] = []

    def take(self, chunk: PowerTrace) -> None:
        """Add the next piece of the trace."""
        self.dropped += chunk.dropped
        t_s, power_w = chunk.t_s, chunk.power_w
        if not t_s.size:
            return
        if not self.meter:
            self.meter, self.mean = chunk.meter_id, chunk.sampling == "mean"
        if self.tail[0].size and t_s[0] <= self.tail[0][-1]:
            raise MeasureError(
                f"the trace of {self.meter}: a chunk begins at {t_s[0]:.6f} s, before the one ahead of it has ended"
            )
        if not self.period_s:
            if chunk.rate_hz > 0:
                self.period_s = 1.0 / chunk.rate_hz
            elif t_s.size > 1:
                self.period_s = float(np.median(np.diff(t_s)))
        gaps = _merge_gaps([*chunk.gaps, *self.gaps])
        self._check_gap_order(gaps)
        self.gaps = tuple(g for g in gaps.tolist() if g[1] > t_s[-1])  # what goes on in the next chunk
        for start in range(0, t_s.size, BLOCK):
            with np.errstate(invalid="ignore", over="ignore"):  # what is no number is found in the sums
                self._add(t_s, power_w, start, min(start + BLOCK, t_s.size), gaps)

    def _check_gap_order(self, gaps: _Floats) -> None:
        if not self.tail[0].size:
            return
        last = self.tail[0][-1]
        late = gaps[(gaps[:, 0] < last) & (last < gaps[:, 1])]
        if late.size:
            raise MeasureError(
                f"the trace of {self.meter} tells of the gap at {late[0, 0]:.6f} s only after samples "
                "inside it were used",
                cure="pass the gaps of the whole trace beforehand",
            )

    def _add(self, all_t_s: _Floats, all_power_w: _Floats, start: int, stop: int, gaps: _Floats) -> None:
        """Add samples ``start`` to ``stop`` of a chunk."""
        t_s, power_w = all_t_s[start:stop], all_power_w[start:stop]
        here = gaps[np.searchsorted(gaps[:, 1], t_s[0], side="right") : np.searchsorted(gaps[:, 0], t_s[-1])]
        if here.size:
            good = np.ones(t_s.size, bool)
            firsts = np.searchsorted(t_s, here[:, 0], side="right")
            lasts = np.searchsorted(t_s, here[:, 1], side="left")
            for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
                good[first:last] = False
            self.left_out += int(good.size - np.count_nonzero(good))
            t_s, power_w = t_s[good], power_w[good]
            if not t_s.size:
                return
        self.samples += t_s.size
        before = self.tail[0].size
        if not before:
            if self.mean and self.period_s:  # the first bin begins one period before its time
                t_s = np.concatenate([[t_s[0] - self.period_s], t_s])
                power_w = np.concatenate([power_w[:1], power_w])
            self.start_s = float(t_s[0])
        elif not here.size and start >= before and np.array_equal(all_t_s[start - before : start], self.tail[0]):
            t_s, power_w = all_t_s[start - before : stop], all_power_w[start - before : stop]  # no copy
        else:
            t_s, power_w = np.concatenate([self.tail[0], t_s]), np.concatenate([self.tail[1], power_w])
        fresh = max(before - 1, 0)  # first segment that is new
        bridged = np.zeros(max(t_s.size - 1, 0), bool)
        bridged[:fresh] = self.bridged
        middles = (gaps[:, 0] + gaps[:, 1]) / 2
        middles = middles[np.searchsorted(middles, t_s[fresh], side="right") : np.searchsorted(middles, t_s[-1])]
        if middles.size:
            t_s, power_w, bridged = self._bridge(t_s, power_w, bridged, middles, fresh)
        self._sum(t_s, power_w, bridged, fresh)
        self.tail = (t_s[-_TAIL:].copy(), power_w[-_TAIL:].copy())
        self.bridged = bridged[bridged.size - (self.tail[0].size - 1) :].copy()

    def _bridge(
        self, t_s: _Floats, power_w: _Floats, bridged: NDArray[np.bool_], middles: _Floats, fresh: int
    ) -> tuple[_Floats, _Floats, NDArray[np.bool_]]:
        """Note the segments around these moments; in a trace of means, cut the bin that ends a gap off the bridge."""
        at = np.unique(np.searchsorted(t_s, middles, side="right") - 1)
        at = at[(at >= fresh) & (at < t_s.size - 1)]
        for i in at:
            length = float(t_s[i + 1] - t_s[i])
            step = float(power_w[i + 1] - power_w[i])
            self.bridges.append((float(t_s[i]), float(t_s[i + 1]), max(0.0, length - self.period_s), step))
        bridged[at] = True
        if self.mean:
            cut = at[t_s[at + 1] - t_s[at] > self.period_s * (1 + 1e-9)]
            bridged[at] = False
            bridged[cut] = True
            ends = t_s[cut + 1] - self.period_s
            t_s = np.insert(t_s, cut + 1, ends)
            power_w = np.insert(power_w, cut + 1, (power_w[cut] + power_w[cut + 1]) / 2)
            bridged = np.insert(bridged, cut + 1, False)
        return t_s, power_w, bridged

    def _sum(self, t_s: _Floats, power_w: _Floats, bridged: NDArray[np.bool_], fresh: int) -> None:
        """Sum over the new segments and tell the moments that lie in them."""
        if t_s.size < 2:
            return
        dt = np.diff(t_s)
        change = np.diff(power_w)
        change *= dt
        if bridged.any():
            change[bridged] = 0.0
        level = power_w[1:].copy() if self.mean else (power_w[1:] + power_w[:-1]) / 2
        energy = level * dt
        square = np.multiply(level, energy, out=level)[fresh:]
        noise = np.zeros_like(change)
        np.multiply(change[2:], change[:-2], out=noise[2:])
        np.abs(noise, out=noise)
        steps = (change * change)[fresh:]
        energy, noise = energy[fresh:], noise[fresh:]
        last = int(np.searchsorted(self.at_s, t_s[-1], side="left"))
        at_s = self.at_s[self.next : last]
        i = np.clip(np.searchsorted(t_s, at_s, side="right") - 1, fresh, t_s.size - 2) - fresh
        starts = np.unique(np.concatenate([[0], i]))
        parts = np.add.reduceat(energy, starts)
        if not np.isfinite(parts).all():
            raise MeasureError(
                f"the trace of {self.meter} holds samples that are not numbers between {t_s[0]:.6f} and "
                f"{t_s[-1]:.6f} s",
                cure="declare them as gaps",
            )
        at = np.searchsorted(starts, i)
        running = np.cumsum(np.concatenate([[self.total_j], parts.astype(np.longdouble)]))
        self.energy_j[self.next : last] = running[at]
        columns = self.columns[:, self.next : last]
        for row, values in enumerate((square, steps, noise)):
            summed = np.cumsum(np.concatenate([[self.totals[row]], np.add.reduceat(values, starts)]))
            columns[1 + row] = summed[at]
            self.totals[row] = summed[-1]
        self.total_j = running[-1]
        self._add_partial_segments(at_s, i + fresh, t_s, power_w, change, columns)
        self.next = last

    def _add_partial_segments(
        self, at_s: _Floats, i: NDArray[np.int64], t_s: _Floats, power_w: _Floats, change: _Floats, columns: _Floats
    ) -> None:
        """Add the part of the segment that a moment lies in."""
        length = t_s[i + 1] - t_s[i]
        beyond = np.minimum(at_s - t_s[i], 0.0)  # before the start of the trace: the first power goes on
        into = np.maximum(at_s - t_s[i], 0.0)
        if self.mean:
            power = power_w[i + 1]
            energy = into * power
        else:
            slope = (power_w[i + 1] - power_w[i]) / length
            power = power_w[i] + slope * into
            energy = into * (power_w[i] + power) / 2
        self.energy_j[self.next : self.next + at_s.size] += energy + beyond * power
        columns[0] = power
        columns[1] += (energy + beyond * power) * power
        columns[4] = length
        columns[5] = change[i]
        columns[6] = into / length

    def finish(self, order: NDArray[np.int64]) -> RunningIntegrals:
        """Tell the moments at and after the end, and bring all into the caller's order."""
        t_s, power_w = self.tail
        if self.samples < 2:
            hint = "all others lie in gaps; measure again" if self.left_out else "measure for longer"
            raise MeasureError(
                f"the trace of {self.meter or 'the meter'} has {self.samples} trustworthy samples", cure=hint
            )
        rest = slice(self.next, self.at_s.size)
        past = self.at_s[rest] - t_s[-1]
        self.energy_j[rest] = self.total_j + past * power_w[-1]
        self.columns[0, rest] = power_w[-1]
        self.columns[1:4, rest] = self.totals[:, None]
        self.columns[1, rest] += past * power_w[-1] ** 2
        self.columns[4, rest] = t_s[-1] - t_s[-2]
        self.columns[6, rest] = 1.0  # wholly after the last segment, so no part of a segment is open
        back = np.empty_like(order)
        back[order] = np.arange(order.size)
        power, square, steps, noise, segment_s, segment_j, into = self.columns[:, back]
        bridges = np.array(self.bridges, dtype=np.float64).reshape(-1, 4)
        return RunningIntegrals(
            energy_j=self.energy_j[back],
            power_w=power,
            square=square,
            steps=steps,
            noise=noise,
            segment_s=segment_s,
            segment_j=segment_j,
            segment_fraction=into,
            start_s=self.start_s,
            end_s=float(t_s[-1]),
            period_s=self.period_s,
            samples=self.samples,
            dropped=self.dropped,
            bridges=GapBridges(*(bridges[:, k] for k in range(4))),
        )


def _merge_gaps(gaps: Iterable[Sequence[float]]) -> _Floats:
    """Gaps in order, those that overlap as one, empty ones left out; shape (g, 2)."""
    merged: list[list[float]] = []
    for start, end in sorted((g[0], g[1]) for g in gaps):
        if merged and start < merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        elif end > start:
            merged.append([start, end])
    return np.array(merged, dtype=np.float64).reshape(-1, 2)


def iterate_pieces(trace: PowerTrace | Iterable[PowerTrace]) -> Iterator[PowerTrace]:
    """A whole trace as its only piece, or the pieces themselves."""
    return iter((trace,)) if isinstance(trace, PowerTrace) else iter(trace)
