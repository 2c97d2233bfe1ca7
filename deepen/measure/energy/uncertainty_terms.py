"""Terms of the uncertainty of windows, found from a trace; ``integrate.integrate_power`` adds them up."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.measure.energy.idle_power import IdlePower, IdlePowerLine
from deepen.measure.energy.running_integrals import RunningIntegrals

__all__ = [
    "SamplePoints",
    "add_edge_covariance",
    "compute_alignment_terms",
    "compute_gap_term",
    "compute_missing_time",
    "compute_noise_term",
    "compute_sampling_terms",
    "estimate_idle_power",
]

_Floats = NDArray[np.float64]

_REACH = 2.0  # standard deviations within which a shift is looked for: 95 % of a normal distribution
_SHIFTS = 64  # shifts tried for each window, fewer for very many windows
_MOST_MOMENTS = 400_000
_AROUND = np.array([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5])  # sample periods around an edge at which power is looked at
_NOISE_REACH = 32  # sample periods on both sides of a window from which noise is learned too
_IDLE_PARTS = 10  # parts of an idle stretch whose spread gives its uncertainty


class SamplePoints:
    """Moments of the trace that the windows need, in one array, with the places of their answers."""

    def __init__(self, edges: _Floats, own_s: _Floats, quiet: _Floats, clock_s: float, period_s: float) -> None:
        self.edges = edges
        reach = _NOISE_REACH * period_s
        blocks: dict[str, _Floats] = {
            "edges": edges[:, :, None],
            "around": edges[:, :, None] + _AROUND * period_s,
            "reach": (edges + np.array([-reach, reach]))[:, :, None],
            "idle": quiet[:, :1, None] + (quiet[:, 1:] - quiet[:, :1])[:, :, None] * np.linspace(0, 1, _IDLE_PARTS + 1),
        }
        count = 2 * max(4, min(_SHIFTS, _MOST_MOMENTS // max(1, 2 * edges.shape[0])) // 2)
        shifts = np.delete(np.linspace(-_REACH, _REACH, count + 1), count // 2)  # all but no shift
        if clock_s > 0:
            blocks["shifted"] = edges[:, :, None] + shifts * clock_s
        if (own_s > 0).any():
            blocks["jittered"] = edges[:, :, None] + shifts * own_s[:, None, None]
        self._blocks = blocks
        self._where: dict[str, tuple[slice, tuple[int, ...]]] = {}
        start = 0
        for name, block in blocks.items():
            self._where[name] = (slice(start, start + block.size), block.shape)
            start += block.size

    def all_moments(self) -> _Floats:
        """All moments, shape (m,)."""
        return np.concatenate([block.ravel() for block in self._blocks.values()])

    def has_group(self, name: str) -> bool:
        """Tell whether a block of moments was asked for."""
        return name in self._blocks

    def of(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        """Values at one block of moments, in its shape: mostly (windows, 2 edges, moments around each)."""
        where, shape = self._where[name]
        return values[where].reshape(shape)

    def at(self, name: str) -> _Floats:
        """The moments of one block, same shape."""
        return self._blocks[name]


def _compute_overlaps(found: RunningIntegrals, edges: _Floats) -> tuple[_Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Seconds of every bridge that lie in a window: (overlaps, windows, bridges), each shape (k,)."""
    b = found.bridges
    if not b.start_s.size:
        none = np.empty(0, np.int64)
        return np.empty(0), none, none
    first = np.searchsorted(b.end_s, edges[:, 0], side="right")
    last = np.maximum(np.searchsorted(b.start_s, edges[:, 1], side="left"), first)
    counts = last - first
    windows = np.repeat(np.arange(edges.shape[0]), counts)
    bridges = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    seconds = np.minimum(b.end_s[bridges], edges[windows, 1]) - np.maximum(b.start_s[bridges], edges[windows, 0])
    return np.maximum(seconds, 0.0), windows, bridges


def compute_missing_time(found: RunningIntegrals, edges: _Floats) -> _Floats:
    """Time without samples in every window, seconds; shape (n,)."""
    seconds, windows, bridges = _compute_overlaps(found, edges)
    share = found.bridges.missing_s / (found.bridges.end_s - found.bridges.start_s)
    total = np.bincount(windows, weights=seconds * share[bridges], minlength=edges.shape[0])
    return np.asarray(total, dtype=np.float64)


def estimate_idle_power(found: RunningIntegrals, plan: SamplePoints) -> list[IdlePower]:
    """Idle power of every idle stretch, with the spread of its parts as the uncertainty."""
    t_s, energy = plan.at("idle")[:, 0], plan.of("idle", found.energy_j)[:, 0]
    watts = (np.diff(energy, axis=1) / np.diff(t_s, axis=1)).astype(np.float64)
    std = watts.std(axis=1, ddof=1) / math.sqrt(_IDLE_PARTS)
    return [
        IdlePower(float(t), float(w), float(u))
        for t, w, u in zip(t_s.mean(axis=1), watts.mean(axis=1), std, strict=True)
    ]


def compute_alignment_terms(
    found: RunningIntegrals, plan: SamplePoints, energy: _Floats, idle: IdlePowerLine | None
) -> tuple[_Floats, _Floats]:
    """Alignment term of gross and of net energy, joules; shape (n,) each."""
    gross, net = np.zeros(energy.shape[0]), np.zeros(energy.shape[0])
    if plan.has_group("shifted"):
        change = (plan.of("shifted", found.energy_j) - energy[:, :, None]).astype(np.float64)
        whole = (_bound_largest_change(change[:, 1] - change[:, 0]) / _REACH) ** 2
        gross += whole
        net += whole
    if plan.has_group("jittered"):
        change = (plan.of("jittered", found.energy_j) - energy[:, :, None]).astype(np.float64)
        gross += ((_bound_largest_change(change) / _REACH) ** 2).sum(axis=1)
        if idle is not None:
            shift = plan.at("jittered") - plan.edges[:, :, None]
            change = change - idle.power_w(plan.edges)[:, :, None] * shift
        net += ((_bound_largest_change(change) / _REACH) ** 2).sum(axis=1)
    return np.sqrt(gross), np.sqrt(net)


def _bound_largest_change(change: _Floats) -> _Floats:
    """Largest change over the shifts (last axis); between two of them it may be larger by half their difference."""
    between = np.abs(np.diff(change, axis=-1)).max(axis=-1) / 2
    largest: _Floats = np.abs(change).max(axis=-1) + between
    return largest


def add_edge_covariance(alignment: _Floats, at_edges: _Floats) -> _Floats:
    """The alignment term with its covariance with the sampling of edges, which is full: both lose what a jump gives."""
    total: _Floats = np.sqrt(alignment**2 + 2 * alignment * at_edges)
    return total


def compute_sampling_terms(found: RunningIntegrals, plan: SamplePoints, mean: bool) -> tuple[_Floats, _Floats]:
    """Sampling term inside windows and at their edges, joules; shape (n,) each."""
    around = plan.of("around", found.power_w)
    spread = around.max(axis=2) - around.min(axis=2)
    length = plan.of("edges", found.segment_s)[:, :, 0]
    if mean:
        f = plan.of("edges", found.segment_fraction)[:, :, 0]
        return np.zeros(f.shape[0]), np.sqrt(((spread * length * f * (1 - f)) ** 2).sum(axis=1))
    own = np.abs(plan.of("edges", found.segment_j)[:, :, 0])
    at_edges = (np.maximum(spread * found.period_s, own) ** 2).sum(axis=1)
    steps = plan.of("edges", found.steps)[:, :, 0]
    inside = steps[:, 1] - steps[:, 0] - own[:, 0] ** 2
    return np.sqrt(np.maximum(inside, 0.0) / 12), np.sqrt(at_edges / 12)


def compute_noise_term(found: RunningIntegrals, plan: SamplePoints, duration: _Floats) -> _Floats:
    """Noise term, from the window and from what lies around it, joules; shape (n,)."""
    own = plan.of("edges", found.noise)[:, :, 0]
    wide = plan.of("reach", found.noise)[:, :, 0]
    reach = np.clip(plan.at("reach")[:, :, 0], found.start_s, found.end_s)
    length = np.maximum(reach[:, 1] - reach[:, 0], np.finfo(float).tiny)
    inside = own[:, 1] - own[:, 0]
    nearby = (wide[:, 1] - wide[:, 0]) * np.minimum(duration / length, 1.0)
    # E|X Y| = (2 / pi) var for independent normal X, Y, and the change of white noise has twice its variance.
    term: _Floats = np.sqrt(np.maximum(np.maximum(inside, nearby), 0.0) * math.pi / 4)
    return term


def compute_gap_term(found: RunningIntegrals, plan: SamplePoints, missing: _Floats, duration: _Floats) -> _Floats:
    """Compute the uncertainty of interpolation over gaps, joules; shape (n,)."""
    if not missing.any():
        return np.zeros(missing.size)
    reach = np.clip(plan.at("reach")[:, :, 0], found.start_s, found.end_s)
    length = np.maximum(reach[:, 1] - reach[:, 0], np.finfo(float).tiny)
    square = plan.of("reach", found.square)[:, :, 0]
    energy = plan.of("reach", found.energy_j)[:, :, 0]
    mean = (energy[:, 1] - energy[:, 0]).astype(np.float64) / length
    variance = np.maximum((square[:, 1] - square[:, 0]) / length - mean**2, 0.0)
    seconds, windows, bridges = _compute_overlaps(found, plan.edges)
    steps = np.bincount(windows, weights=(found.bridges.step_w[bridges] * seconds) ** 2 / 12, minlength=duration.size)
    # Losses come when there is much to do, so that the spread of several gaps adds up instead of averaging out.
    term: _Floats = np.sqrt(variance * missing**2 + steps)
    return term
