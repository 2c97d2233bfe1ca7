"""The prior of calibration, before it has seen a measurement: factors of similar kernels are similar.

The logarithm of a kernel's factor (its energy on the new device over the base's) is a Gaussian process: one part is
shared by all kernels, one by the kernels of a family, one falls off with the distance of two kernels of a family, and
one is a configuration's own::

    k(a, b) = common^2 + [same family] * (family^2 + near^2 * m(|p_a - p_b| / length)) + [a = b] * own^2

``m`` is the Matern covariance with smoothness 5/2 (Rasmussen and Williams, Gaussian Processes for Machine Learning,
2006, equation 4.17), ``p`` a kernel's :func:`compute_log_positions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepen.predictors.inference.gaussian_process import SQRT5, evaluate_matern

__all__ = ["FactorPrior", "compute_factor_covariance", "compute_log_positions"]

Floats = NDArray[np.float64]

_POSITION = (
    "macs", "ops", "bytes_in", "bytes_weights", "bytes_written", "c_in", "c_out", "h_out", "w_out", "k_h", "k_w",
    "stride_h", "groups", "op_code", "activation_code",
)  # fmt: skip
"""Features that make kernels of a family alike: work, traffic, shape and window."""
_SAME = 1e-9


@dataclass(frozen=True, slots=True)
class FactorPrior:
    """Standard deviations of the parts of a log factor.

    Attributes:
        common: Shared by all kernels.
        family: Shared by the kernels of a family.
        near: Shared by kernels of a family as far as they are alike.
        own: Of one configuration.
        length: Distance (in units of natural logarithms) at which ``near`` has fallen to about half.
    """

    common: float = 0.5
    family: float = 0.3
    near: float = 0.3
    own: float = 0.02
    length: float = 2.0

    @property
    def variance(self) -> float:
        """Of the log factor of a kernel nothing is known about."""
        return self.common**2 + self.family**2 + self.near**2 + self.own**2


def compute_log_positions(raw: Floats, feature_names: Sequence[str]) -> Floats:
    """Compute the positions of kernels, in log units.

    Args:
        raw: Features in natural units, shape (n, len(feature_names)).
        feature_names: Their names.

    Returns:
        shape (n, p).
    """
    index = {name: i for i, name in enumerate(feature_names)}
    chosen = raw[:, [index[name] for name in _POSITION if name in index]]
    # Rounded, so that a configuration read back from a file is at distance zero from itself.
    return np.asarray(np.round(np.sign(chosen) * np.log1p(np.abs(chosen)), 6), dtype=np.float64)


def compute_factor_covariance(
    belief: FactorPrior, families: Sequence[str], x: Floats, other_families: Sequence[str], other: Floats
) -> Floats:
    """Prior covariance of the log factors of two lists of kernels, shape (n, m).

    Args:
        belief: The standard deviations.
        families: Families of the first list.
        x: Their positions, shape (n, p).
        other_families: Families of the second list.
        other: Their positions, shape (m, p).
    """
    found = np.full((len(families), len(other_families)), belief.common**2)
    own, theirs = np.array(families, dtype=object), np.array(other_families, dtype=object)
    for name in dict.fromkeys(families):
        rows, columns = np.flatnonzero(own == name), np.flatnonzero(theirs == name)
        if not columns.size:
            continue
        gap = _compute_distances(x[rows], other[columns])
        block = (
            belief.family**2
            + belief.near**2 * evaluate_matern(SQRT5 * (gap / belief.length))
            + belief.own**2 * (gap < _SAME)
        )
        found[np.ix_(rows, columns)] += block
    return found


def _compute_distances(a: Floats, b: Floats) -> Floats:
    # Differences first: the expanded square does not put a configuration at distance zero from itself.
    found = np.zeros((len(a), len(b)))
    for column in range(a.shape[1]):
        found += (a[:, column, None] - b[None, :, column]) ** 2
    return np.asarray(np.sqrt(found))
