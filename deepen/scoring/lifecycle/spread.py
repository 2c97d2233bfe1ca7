"""Uncertainty of a ranking: the uncertainties of the candidates propagated by Monte Carlo.

Draws are used because a break-even point is a ratio of differences: if two inference energies are nearly the same, its
denominator may have either sign, and in a share of the cases there is no break-even at all. Interval arithmetic would
give an unbounded interval, and a first-order formula an interval around a point that need not exist (JCGM 101:2008,
section 5.10.1, prescribes draws in this case).

Energies are drawn from log-normal distributions and accuracies from beta distributions, each with the given mean and
standard uncertainty, so that neither leaves its range. All are drawn independently. Errors common to candidates (one
meter's gain, one predictor's bias) cancel in a comparison, so independent draws overstate the uncertainty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepen.scoring.lifecycle.candidates import LifecycleCandidates
from deepen.scoring.lifecycle.envelope import find_lower_envelope
from deepen.scoring.lifecycle.greenness import LifecycleConditions

__all__ = ["CrossingSpread", "DrawnLines", "find_potential_best", "sample_lines"]

_REACH = 5.0
"""Standard uncertainties within which a candidate may still be best; one in 3.5 million is farther off."""

_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CrossingSpread:
    """Distribution of the crossing of two lines over all draws.

    Attributes:
        share: Share of draws in which they cross at all, at x >= 0.
        low: 2.5th percentile of x among the draws in which they do; ``nan`` if they never do.
        high: 97.5th percentile; ``nan`` likewise.
        always: Share of draws in which the first one is nowhere above the other.
    """

    share: float
    low: float
    high: float
    always: float


@dataclass(frozen=True, slots=True)
class DrawnLines:
    """Lines drawn for some candidates.

    Attributes:
        which: Indices of the candidates, ascending; shape (m,).
        a: Intercepts; float64, shape (draws, m).
        b: Slopes; float64, shape (draws, m).
    """

    which: NDArray[np.intp]
    a: _Floats
    b: _Floats

    def best(self, x: float) -> dict[int, float]:
        """Candidate -> share of draws in which it is the lowest at x; candidates that never are do not appear."""
        winner = np.argmin(self.a + self.b * x, axis=1)
        counts = np.bincount(winner, minlength=self.which.size)
        return {int(self.which[k]): float(counts[k] / winner.size) for k in np.flatnonzero(counts)}

    def crossing(self, i: int, j: int) -> CrossingSpread:
        """Compute the distribution of the crossing of candidates i and j."""
        p, q = (int(np.searchsorted(self.which, k)) for k in (i, j))
        with np.errstate(divide="ignore", invalid="ignore"):
            x = (self.a[:, q] - self.a[:, p]) / (self.b[:, p] - self.b[:, q])
        real = x[np.isfinite(x) & (x >= 0)]
        always = float(np.mean((self.a[:, p] <= self.a[:, q]) & (self.b[:, p] <= self.b[:, q])))
        if not real.size:
            return CrossingSpread(0.0, float("nan"), float("nan"), always)
        low, high = np.quantile(real, [0.025, 0.975])
        return CrossingSpread(real.size / x.size, float(low), float(high), always)


def find_potential_best(candidates: LifecycleCandidates, conditions: LifecycleConditions) -> NDArray[np.intp]:
    """Candidates that may be the best one at some intensity once uncertainties are counted; indices, ascending.

    One is out of reach when its line, drawn as low as it may be, lies above the lower envelope of all lines drawn as
    high as they may be. That envelope is concave, so the distance to a straight line is largest at one of its corners.
    """
    low_a, low_b = _shift_lines(candidates, conditions, -_REACH)
    high_a, high_b = _shift_lines(candidates, conditions, +_REACH)
    envelope = find_lower_envelope(high_a, high_b)
    first, slopes = np.array(envelope.lines), high_b[list(envelope.lines)]
    # The corner where the envelope's slope falls below the line's own; for a line flatter than all, there is none.
    corners = np.concatenate([[0.0], envelope.breaks])
    corner = np.searchsorted(-slopes, -low_b, side="left")
    flattest = corner == corners.size
    corner = np.where(flattest, 0, corner)
    height = high_a[first] + slopes * corners
    low_enough = flattest | (low_a + low_b * corners[corner] <= height[corner])
    return np.flatnonzero(low_enough)


def _shift_lines(
    candidates: LifecycleCandidates, conditions: LifecycleConditions, by: float
) -> tuple[_Floats, _Floats]:
    """Compute the lines with every figure ``by`` standard uncertainties off, for better (-) or worse (+)."""
    accuracy = candidates.accuracy - by * candidates.accuracy_u
    merit = np.clip(accuracy, 1e-12, 1.0) ** conditions.tau
    parts = sum(_evaluate_log_normal(candidates.parts_j[:, k], candidates.parts_u_j[:, k], by) for k in range(3))
    once = parts * conditions.training_weight(candidates.pue_included) / merit
    each = (
        _evaluate_log_normal(candidates.inference_j, candidates.inference_u_j, by) * conditions.inference_weight / merit
    )
    return np.asarray(once, dtype=np.float64), np.asarray(each, dtype=np.float64)


def _evaluate_log_normal(mean: _Floats, u: _Floats, z: float | _Floats) -> _Floats:
    """Evaluate a log-normal distribution of this mean and deviation at ``z`` standard deviations of the logarithm."""
    relative = np.divide(u, mean, out=np.zeros_like(mean), where=mean > 0)
    sigma = np.sqrt(np.log1p(relative**2))
    return np.asarray(mean * np.exp(sigma * z - sigma**2 / 2), dtype=np.float64)


def sample_lines(
    candidates: LifecycleCandidates, conditions: LifecycleConditions, which: NDArray[np.intp], draws: int, seed: int
) -> DrawnLines:
    """Draw lines for some candidates.

    Args:
        candidates: The candidates.
        conditions: Conditions common to all; taken as exact.
        which: Indices of those to draw for, ascending.
        draws: Number of draws.
        seed: Seed.
    """
    generator = np.random.default_rng(seed)
    some = candidates.take(which)
    shape = (draws, len(some))
    accuracy = np.broadcast_to(some.accuracy, shape).copy()
    uncertain = np.flatnonzero(some.accuracy_u > 0)
    if uncertain.size:
        mean, u = some.accuracy[uncertain], some.accuracy_u[uncertain]
        size = mean * (1 - mean) / u**2 - 1  # alpha + beta of the beta distribution with this mean and variance
        drawn = generator.beta(mean * size, (1 - mean) * size, (draws, uncertain.size))
        accuracy[:, uncertain] = np.clip(drawn, 1e-12, 1.0)
    once = np.zeros(shape)
    for k in range(some.parts_j.shape[1]):
        once += _evaluate_log_normal(some.parts_j[:, k], some.parts_u_j[:, k], generator.standard_normal(shape))
    each = _evaluate_log_normal(some.inference_j, some.inference_u_j, generator.standard_normal(shape))
    merit = accuracy**conditions.tau
    return DrawnLines(
        np.asarray(which, dtype=np.intp),
        once * conditions.training_weight(some.pue_included) / merit,
        each * conditions.inference_weight / merit,
    )
