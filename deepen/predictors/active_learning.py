"""Active learning: the models or kernels to measure next, whose energy would tell most about all the others.

Calibration believes that log factors of kernels are a Gaussian process, with the covariance of
:mod:`deepen.predictors.inference.factor_covariance`.
Under that belief the uncertainty of every candidate is known before anything is measured, and so is how much measuring
one would take away from all of them. Candidates are chosen one after the other by the mean variance they remove (active
learning by Cohn, Ghahramani and Jordan, JAIR 1996, for a linear model): uncertain ones, and, because what one has told
no other has to tell again, different ones. No measured energy of a candidate is looked at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.errors import ConfigError
from deepen.predictors.inference.columns import compute_work_terms, select_base_roofline_terms
from deepen.predictors.inference.factor_covariance import FactorPrior, compute_factor_covariance, compute_log_positions
from deepen.predictors.kernel_counts import KernelCounts
from deepen.predictors.predictor import Predictor

__all__ = [
    "MeasurementProposal",
    "estimate_untrained_energy",
    "list_cell_candidates",
    "propose_kernels",
    "sample_kernel_candidates",
]

Floats = NDArray[np.float64]

_NOISE = 0.03
"""Relative standard deviation of a measurement that repeats do not remove."""
_MOST_TARGETS = 2000
_CALL = 1e5


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
    candidates: KernelCounts,
    count: int,
    base: Predictor | None = None,
    measured: Sequence[int] = (),
    belief: FactorPrior | None = None,
    seed: int = 0,
) -> list[MeasurementProposal]:
    """Choose what to measure next, best first.

    Args:
        candidates: Models, or kernels alone, that could be measured.
        count: Number to choose; fewer come back where fewer are left.
        base: The predictor that will be calibrated; ``None``: the physical form.
        measured: Candidates that are measured already.
        belief: Prior of the factors; default: that of calibration.
        seed: Seed of the choice of candidates that uncertainty is averaged over, where there are very many.

    Raises:
        ConfigError: If there are no candidates or the count is not positive.
    """
    if count < 1 or not candidates.names:
        raise ConfigError("a plan needs at least one candidate and a count of at least 1")
    n = len(candidates)
    # 1. Share of each kernel in each candidate's energy, and the prior covariance of the kernels' log factors.
    if base is None:
        joules = estimate_untrained_energy(candidates.features, candidates.feature_names)
    else:
        joules = base.energies(candidates.families, candidates.features).energy_j
    parts = candidates.to_matrix() * joules
    share = parts / np.maximum(parts.sum(axis=1, keepdims=True), 1e-300)
    place = compute_log_positions(candidates.features, candidates.feature_names)
    prior = compute_factor_covariance(belief or FactorPrior(), candidates.families, place, candidates.families, place)
    # 2. The candidates that uncertainty is averaged over.
    targets = np.arange(n)
    if n > _MOST_TARGETS:
        targets = np.sort(np.random.default_rng(seed).choice(n, _MOST_TARGETS, replace=False))
    covered = share @ prior  # covariance of each candidate with each kernel
    cross = covered @ share[targets].T  # of each candidate with each target, shape (n, targets)
    variance = np.einsum("ij,ij->i", covered, share)
    target_variance = variance[targets].copy()
    # 3. One after the other: those measured already, then whichever removes most variance from all targets.
    free = np.ones(n, dtype=bool)
    found: list[MeasurementProposal] = []
    waiting = list(dict.fromkeys(int(i) for i in measured))
    while waiting or (len(found) < count and free.any()):
        gain = (cross**2).sum(axis=1) / (variance + _NOISE**2)
        best = waiting.pop(0) if waiting else int(np.argmax(np.where(free, gain, -1.0)))
        known = best in measured
        before = float(np.sqrt(max(variance[best], 0.0)))
        # 4. Measuring it takes away what it tells of the others: the rank-one downdate of the covariance.
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


def list_cell_candidates(runtime: str) -> KernelCounts:
    """List the networks of NAS-Bench-201 as candidates.

    Args:
        runtime: Runtime to split them for.

    Raises:
        ConfigError: If there is no such runtime.
    """
    from deepen.spaces.nasbench201_kernels import count_kernels
    from deepen.spaces.nasbench201_networks import iter_cells

    names = tuple(iter_cells())
    return KernelCounts.from_kernels(*count_kernels(names, runtime), names)


def sample_kernel_candidates(families: Sequence[str], count: int = 600, seed: int = 0) -> KernelCounts:
    """Sample kernels of some families as candidates, named by family and parameters.

    Args:
        families: Families to sample.
        count: Kernels in all.
        seed: Seed of the samples.

    Raises:
        ConfigError: If there is no such family.
    """
    from deepen.kernels.building.kernel_from_parameters import make_kernel_from_params
    from deepen.kernels.sampling.sampler import sample_kernels

    kernels = [make_kernel_from_params(s.family, s.params) for s in sample_kernels(list(families), count, seed)]
    names = [f"{k.family} {_format_params(k.params)}" for k in kernels]
    return KernelCounts.from_kernels(kernels, names=names)


def _format_params(params: Mapping[str, Any]) -> str:
    """Parameters of a kernel as JSON, without those that are at rest."""
    kept = {key: value for key, value in params.items() if value not in (False, "none", "", None)}
    return json.dumps(kept, separators=(",", ":"))
