"""What to measure next: the models or kernels whose energy would tell most about all the others.

Calibration believes that log factors of kernels are a Gaussian process, with the covariance of
:mod:`deepen.predictors.inference.factor_covariance`.
Under that belief the uncertainty of every candidate is known before anything is measured, and so is how much measuring
one would take away from all of them. Candidates are chosen one after the other by the mean variance they remove (active
learning by Cohn, Ghahramani and Jordan, JAIR 1996, for a linear model): uncertain ones, and, because what one has told
no other has to tell again, different ones. No measured energy of a candidate is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepen.errors import ConfigError
from deepen.predictors.inference.columns import compute_work_terms, select_base_roofline_terms
from deepen.predictors.inference.factor_covariance import FactorPrior, compute_factor_covariance, compute_log_positions
from deepen.predictors.predictor import Predictor

__all__ = ["MeasurementCandidates", "MeasurementProposal", "estimate_untrained_energy", "propose_kernels"]

Floats = NDArray[np.float64]

_NOISE = 0.03
"""Relative standard deviation of a measurement that repeats do not remove."""
_MOST_TARGETS = 2000
_CALL = 1e5


@dataclass(frozen=True, slots=True)
class MeasurementCandidates:
    """n candidates made of u distinct kernels.

    Attributes:
        names: What they are called.
        families: Families of the distinct kernels.
        raw: Their features, shape (u, features).
        counts: Executions per inference, shape (n, u); for a kernel alone a one.
    """

    names: tuple[str, ...]
    families: tuple[str, ...]
    raw: Floats
    counts: Floats


@dataclass(frozen=True, slots=True)
class MeasurementProposal:
    """One candidate to measure.

    Attributes:
        index: Its number.
        name: Its name.
        sd: Standard deviation of its log energy before it is measured.
        left: Mean standard deviation of all candidates once it and those before it are measured.
    """

    index: int
    name: str
    sd: float
    left: float


def estimate_untrained_energy(raw: Floats, feature_names: Sequence[str]) -> Floats:
    """Energy of kernels in arbitrary units, shape (n,), where there is no predictor.

    A multiply-accumulate, an operation and a byte count as one, a call as 100,000.
    """
    terms = compute_work_terms(raw, feature_names)[:, select_base_roofline_terms()]
    return np.asarray(terms[:, :-1].sum(axis=1) + _CALL)


def propose_kernels(
    candidates: MeasurementCandidates,
    count: int,
    base: Predictor | None = None,
    measured: Sequence[int] = (),
    belief: FactorPrior | None = None,
    seed: int = 0,
) -> list[MeasurementProposal]:
    """Choose what to measure next, best first.

    Args:
        candidates: What could be measured.
        count: How many to choose; fewer come back where fewer are left.
        base: The predictor that will be calibrated; ``None``: the physical form.
        measured: Candidates that are measured already.
        belief: What is believed of factors; default: that of calibration.
        seed: Seed of the choice of candidates that uncertainty is averaged over, where there are very many.

    Raises:
        ConfigError: If there are no candidates or the count is not positive.
    """
    from deepen.kernels.features import FEATURE_NAMES

    if count < 1 or not candidates.names:
        raise ConfigError("a plan needs at least one candidate and a count of at least 1")
    n = len(candidates.names)
    if base is None:
        joules = estimate_untrained_energy(candidates.raw, FEATURE_NAMES)
    else:
        joules = base.energies(candidates.families, candidates.raw).energy_j
    parts = candidates.counts * joules
    share = parts / np.maximum(parts.sum(axis=1, keepdims=True), 1e-300)
    place = compute_log_positions(candidates.raw, FEATURE_NAMES)
    prior = compute_factor_covariance(belief or FactorPrior(), candidates.families, place, candidates.families, place)
    targets = np.arange(n)
    if n > _MOST_TARGETS:
        targets = np.sort(np.random.default_rng(seed).choice(n, _MOST_TARGETS, replace=False))
    covered = share @ prior  # covariance of each candidate with each kernel
    cross = covered @ share[targets].T  # of each candidate with each target, shape (n, targets)
    variance = np.einsum("ij,ij->i", covered, share)
    target_variance = variance[targets].copy()
    free = np.ones(n, dtype=bool)
    found: list[MeasurementProposal] = []
    waiting = list(dict.fromkeys(int(i) for i in measured))
    while waiting or (len(found) < count and free.any()):
        gain = (cross**2).sum(axis=1) / (variance + _NOISE**2)
        best = waiting.pop(0) if waiting else int(np.argmax(np.where(free, gain, -1.0)))
        known = best in measured
        before = float(np.sqrt(max(variance[best], 0.0)))
        # What is known after measuring: the rank-one downdate of the covariance.
        row = covered @ share[best]
        scale = 1.0 / (variance[best] + _NOISE**2)
        to_targets, to_kernels = cross[best].copy(), covered[best].copy()
        covered -= scale * np.outer(row, to_kernels)
        cross -= scale * np.outer(row, to_targets)
        variance = variance - scale * row**2
        target_variance = target_variance - scale * to_targets**2
        free[best] = False
        if not known:
            left = float(np.sqrt(np.maximum(target_variance, 0.0)).mean())
            found.append(MeasurementProposal(best, candidates.names[best], before, left))
    return found
