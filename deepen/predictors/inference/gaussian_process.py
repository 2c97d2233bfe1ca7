"""The covariance of Gaussian processes: all that predicting with one needs, ``k(x, X) @ alpha``.

Matern-5/2 with one length scale per column (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006,
equation 4.17 and section 5.1). Processes over features of kernels and those over factors of calibration share it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["SQRT5", "compute_matern", "compute_scaled_distances", "evaluate_matern"]

Floats = NDArray[np.float64]

SQRT5 = float(np.sqrt(5.0))
"""Factor on distances in units of the length scale, as the covariance takes them."""


def evaluate_matern(scaled: Floats) -> Floats:
    """Evaluate the Matern-5/2 correlation at :data:`SQRT5` times distances in units of the length scale."""
    return np.asarray((1.0 + scaled + scaled * scaled / 3.0) * np.exp(-scaled))


def compute_matern(a: Floats, b: Floats, inverse_length: Floats) -> Floats:
    """Compute the Matern-5/2 correlation between rows, shape (len(a), len(b))."""
    return evaluate_matern(compute_scaled_distances(a * inverse_length, b * inverse_length))


def compute_scaled_distances(p: Floats, q: Floats) -> Floats:
    """Compute :data:`SQRT5` times the Euclidean distances between rows, shape (len(p), len(q))."""
    square = (p * p).sum(1)[:, None] + (q * q).sum(1)[None, :] - 2.0 * (p @ q.T)
    return np.asarray(SQRT5 * np.sqrt(np.maximum(square, 0.0)))
