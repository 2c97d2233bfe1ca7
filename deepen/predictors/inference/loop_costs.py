"""Costs of the loops inside a kernel, beside operations and bytes, computed from a kernel's features.

A roofline counts multiply-accumulates and bytes. Kernels of processors are nests of loops, and the outer ones cost,
too: runtimes that turn a convolution into a matrix product copy it window by window, row of the map by row (im2col:
Chellapilla et al., High Performance Convolutional Neural Networks for Document Processing, 2006), start one product per
image and group, and compute whole blocks of vector lanes. Each count here is what such a cost is proportional to;
whether a runtime has that cost, a non-negative fit decides (:mod:`deepen.predictors.inference.roofline`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["LOOP_TERMS", "compute_loop_terms"]

Floats = NDArray[np.float64]

LOOP_TERMS = ("runs", "unrolled_inside", "gathered", "lanes_idle", "products", "bytes_beyond_cache")
"""``runs``: stretches of memory that an inner loop walks along without a jump (a row of a map per tap of a window, a
channel, a row to normalise). ``unrolled_inside``: bytes of im2col that are copied from the map; the others are set to
zero, which costs less. ``gathered``: those of them that are picked one by one, because neighbours in a row of the
output are not neighbours in the input. ``lanes_idle``: multiply-accumulates on lanes beyond the last output position
of an image. ``products``: matrix products started. ``bytes_beyond_cache``: bytes moved beyond what a cache keeps from
one run to the next."""

_LANES = 16
"""Output positions computed at once: two vectors of 8 or one of 16 floats."""
_CACHE_BYTES = 16 * 2.0**20
"""As seen on one server (products of a matrix and a vector: 19 pJ per byte of weights below 17 MB, 50 to 65 above);
caches of phones are smaller, where a fit finds less use for the term."""
_MOST_TAPS = 64
"""Windows with more taps in a direction are taken to lie inside."""


def compute_loop_terms(raw: Floats, index: Mapping[str, int]) -> Floats:
    """Compute the counts.

    Args:
        raw: Features in natural units, float64, shape (n, features).
        index: Column of each feature; missing ones count as 0.

    Returns:
        float64, shape (n, len(LOOP_TERMS)), never negative.
    """

    def of(name: str) -> Floats:
        return np.maximum(raw[:, index[name]], 0.0) if name in index else np.zeros(raw.shape[0])

    window = (of("k_w") > 0) & (of("m") > 0)
    images = np.where(window, np.maximum(of("batch"), 1.0), 1.0)
    positions = np.where(window, of("m") / images, 0.0)
    # One position alone is a product of a matrix and a vector, which has code of its own.
    idle = np.where(positions > 1, np.ceil(positions / _LANES) * _LANES / np.maximum(positions, 1.0) - 1.0, 0.0)
    unrolled = of("im2col_bytes") * _compute_unpadded_share(raw, index)
    moved = of("bytes_in") + of("bytes_weights") + of("bytes_written")
    # On a map of width 1 neighbours along the height are neighbours in memory.
    step = np.where((of("w_in") == 1) & (of("w_out") == 1), of("stride_h"), of("stride_w"))
    terms = (
        _count_memory_runs(of),
        unrolled,
        unrolled * (step > 1),
        of("macs") * np.maximum(idle, 0.0),
        of("gemm_batch") * images,
        np.maximum(moved - _CACHE_BYTES, 0.0),
    )
    return np.stack(terms, axis=1)


def _count_memory_runs(of: Callable[[str], Floats]) -> Floats:
    """Stretches of memory walked along."""
    walked = of("inner_runs")  # counted from the shapes of all operands
    looped = np.where(walked > 1, walked, 0.0)  # one stretch is no loop: the constant has it
    elements, inner, outer = of("elements_out"), of("inner_size"), of("outer_size")
    rows = np.maximum(np.where((of("w_in") == 1) & (of("w_out") == 1), of("h_out"), of("w_out")), 1.0)
    moved = np.where(inner > 1, elements / np.maximum(inner, 1.0), outer)
    pooled = (of("k_w") > 0) & (of("m") == 0) & (moved == 0)
    moved = np.where(pooled, elements / rows, moved)
    unrolled = of("im2col_bytes")
    elementary = unrolled / np.maximum(of("dtype_bytes"), 1.0)
    return np.where(unrolled > 0, elementary / rows, np.where(walked > 0, looped, moved))


def _compute_unpadded_share(raw: Floats, index: Mapping[str, int]) -> Floats:
    """Share of a window's taps that meet the map rather than its padding, over all output positions, shape (n,)."""
    share = np.ones(raw.shape[0])
    for axis in "hw":
        names = [f"{axis}_in", f"{axis}_out", *(f"{n}_{axis}" for n in ("k", "stride", "dilation", "pad"))]
        if not all(n in index for n in names):
            continue
        size, out, taps, stride, dilation, pad = (raw[:, index[n]] for n in names)
        rows = np.flatnonzero((pad > 0) & (taps > 1) & (taps <= _MOST_TAPS) & (out > 0) & (stride > 0))
        if not rows.size:
            continue
        size, out, taps, stride, dilation, front = (
            v[rows] for v in (size, out, taps, stride, np.maximum(dilation, 1.0), np.floor(pad / 2))
        )
        met = np.zeros(rows.size)
        for tap in range(int(taps.max())):
            at = tap * dilation - front  # where this tap lies at the first output position
            first = np.maximum(np.ceil(-at / stride), 0.0)
            last = np.minimum(np.floor((size - 1 - at) / stride), out - 1)
            met += np.where(tap < taps, np.maximum(last - first + 1, 0.0), 0.0)
        share[rows] *= met / (taps * out)
    return share
