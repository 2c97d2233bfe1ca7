"""Bring a trace onto the host's clock by marks on its logic inputs.

:func:`fit_logic_marks` finds the clock map, :func:`retime_trace` applies one, wherever it comes from, to a trace.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from deepen.clock.host_clock import MAX_DRIFT, ClockMap
from deepen.clock.matched_events import ClockMatch, fit_matches
from deepen.errors import MeasureError
from deepen.records import PowerTrace

__all__ = ["find_logic_edges", "fit_logic_marks", "retime_trace"]

_SHARE = 0.5  # of the marks that must be found
_Floats = NDArray[np.float64]


def retime_trace(trace: PowerTrace, clock: ClockMap) -> PowerTrace:
    """Move a trace onto another clock.

    Args:
        trace: The trace.
        clock: From the trace's present time to the host's.
    """
    before = trace.clock
    whole = clock
    if before is not None:
        whole = ClockMap(
            before.device_s, clock.to_host(before.host_s), before.rate * clock.rate, clock.error_s, clock.method
        )
    gaps = tuple((clock.to_host(a), clock.to_host(b)) for a, b in trace.gaps)
    return replace(trace, t_s=clock.to_host(trace.t_s), gaps=gaps, clock=whole)


def find_logic_edges(trace: PowerTrace, bit: int) -> tuple[_Floats, NDArray[np.bool_]]:
    """Moments at which a logic input changed: in the middle between two samples.

    Args:
        trace: A trace with logic inputs.
        bit: Number of the input.

    Returns:
        Times (seconds, shape (k,)) and whether the input rose (shape (k,)).

    Raises:
        MeasureError: If the trace has no logic inputs.
    """
    if trace.logic is None:
        raise MeasureError(f"the trace of {trace.meter_id} has no logic inputs", cure="use another way to align it")
    level = (trace.logic >> bit) & 1
    at = np.flatnonzero(np.diff(level.astype(np.int8)))
    times = (trace.t_s[at] + trace.t_s[at + 1]) / 2
    return times, level[at + 1].astype(bool)


def fit_logic_marks(
    edges_s: _Floats,
    marks_s: _Floats,
    *,
    resolution_s: float,
    error_s: float = 0.0,
    max_offset_s: float = 1.0,
    max_drift: float = MAX_DRIFT,
) -> ClockMap:
    """Fit a clock map to the edges seen by a logic input and the times at which the host made them.

    Edges may be missing, and others may be too many:

    1. Every edge is paired with every mark within ``max_offset_s``; each pair votes for its offset.
    2. The offset is the one at which most edges have a mark, at least half of the marks.
    3. Marks at equal distances fit at several offsets: then there is no answer, unless ``max_offset_s`` leaves one.
    4. The map goes through the pairs near that offset, for each mark the nearest edge.

    Args:
        edges_s: Edges on the trace's clock, seconds, ascending; float64, shape (k,).
        marks_s: Times at which the host made them, seconds, ascending; float64, shape (n,).
        resolution_s: Sample period of the trace: an edge is known to within it.
        error_s: Standard uncertainty that all marks have in common (the way from the host's call to the pin).
        max_offset_s: Largest difference of the two clocks to look for.
        max_drift: Largest believable difference of rates, a share.

    Raises:
        MeasureError: If fewer than half of the marks are found, or another offset fits nearly as well.
    """
    edges_s, marks_s = np.asarray(edges_s, dtype=np.float64), np.asarray(marks_s, dtype=np.float64)
    if edges_s.size < 1 or marks_s.size < 1:
        raise MeasureError(f"{edges_s.size} edges on the logic input and {marks_s.size} marks", cure="check the wire")
    # 1. Pairs and their offsets.
    first = np.searchsorted(marks_s, edges_s - max_offset_s)
    last = np.searchsorted(marks_s, edges_s + max_offset_s, side="right")
    counts = last - first
    which = np.repeat(np.arange(edges_s.size), counts)
    mark = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    offsets = marks_s[mark] - edges_s[which]
    # 2. The offset with most votes within the width that drift and sampling allow.
    order = np.argsort(offsets, kind="stable")
    width = 2 * resolution_s + max_drift * float(np.ptp(marks_s))
    ordered = offsets[order]
    upto = np.searchsorted(ordered, ordered + width, side="right")
    votes = upto - np.arange(ordered.size)
    if not votes.size or votes.max() < max(1, math.ceil(_SHARE * marks_s.size)):
        most = int(votes.max()) if votes.size else 0
        raise MeasureError(
            f"{most} of {marks_s.size} marks are found on the logic input",
            cure="check the wire, the input and the polarity",
        )
    # 3. No rival elsewhere.
    best = int(np.argmax(votes))
    apart = np.abs(ordered - ordered[best]) > width
    rival = int(votes[apart].max()) if apart.any() else 0
    if rival > 0 and rival >= votes[best] - max(1, votes[best] // 10):
        raise MeasureError(
            f"marks fit at two offsets ({int(votes[best])} and {rival} of {marks_s.size}): they come "
            "at equal distances",
            cure="vary the distances, or give a smaller max_offset_s",
        )
    # 4. Fit the pairs there.
    pairs = order[best : upto[best]]
    sigma = resolution_s / math.sqrt(12)
    matches: dict[int, ClockMatch] = {}
    centre = float(np.median(offsets[pairs]))
    for p in sorted(pairs.tolist(), key=lambda p: abs(offsets[p] - centre), reverse=True):  # the nearest one stays
        matches[int(mark[p])] = ClockMatch(float(edges_s[which[p]]), float(marks_s[mark[p]]), sigma)
    found = fit_matches(list(matches.values()), "marks", max_drift=max_drift)
    return replace(found, error_s=math.hypot(found.error_s, error_s))
