"""Bytes that a kernel may find colder inside a model than alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepen.predictors.kernel_counts import KernelCounts

__all__ = ["LAST_LEVEL_CACHE_BYTES", "compute_cold_share", "compute_moved_bytes"]

Floats = NDArray[np.float64]

LAST_LEVEL_CACHE_BYTES = 32 * 2**20
"""Size of the last cache of today's desktop and server processors: it holds the weights of a kernel that repeats
alone."""


def compute_moved_bytes(models: KernelCounts) -> tuple[Floats, Floats]:
    """Compute bytes of weights, and bytes of activations read and written, of the distinct kernels.

    Weights beyond :data:`LAST_LEVEL_CACHE_BYTES` count as none: they are read from memory however often the kernel
    repeats.

    Returns:
        Two arrays of shape (k,).
    """
    weights = models.column("bytes_weights")
    moved = models.column("bytes_in") + models.column("bytes_written")
    return np.where(weights <= LAST_LEVEL_CACHE_BYTES, weights, 0.0), moved


def compute_cold_share(models: KernelCounts, cache_bytes: float) -> Floats:
    """Compute the share of each model's weights that it finds cold, 0..1, shape (n,).

    A model that is run over and over finds what a cache kept of its last run; what exceeds the cache is evicted before
    it is read again.

    Args:
        models: The models.
        cache_bytes: Bytes of weights that the cache keeps.
    """
    total = models.sums(models.column("bytes_weights"))
    return np.where(total > cache_bytes, 1.0 - cache_bytes / np.maximum(total, 1.0), 0.0)
