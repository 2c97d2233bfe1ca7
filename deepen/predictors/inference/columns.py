"""From kernel features to the columns regressors see.

Features (:mod:`deepen.kernels.features`) are counts, sizes and flags in natural units over many decades. A column is
``sign(v) * log(1 + |v|)`` of a feature, or one of a few 0/1 columns of a code. Then come logarithms of ratios that an
axis-parallel split or a sum of one-dimensional slopes cannot express by itself, and of what a dimension loses to
padding to the blocks kernels work on: 8 (CPU convolution and matmul; what 16 would waste is a feature already), 4
channels (GPU delegates store channels in slices of four) and 6 rows (the 6 x 8 micro-kernels of XNNPACK on Arm).

Columns are float32 for every learner: thresholds of trees are stored in float32 as well and then compare exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from deepen.errors import PredictorError
from deepen.predictors.inference.loop_costs import LOOP_TERMS, compute_loop_terms

__all__ = [
    "OPERATOR_SPAN",
    "WORK_TERMS",
    "compute_work_terms",
    "list_column_names",
    "make_columns",
    "select_base_roofline_terms",
    "select_coordinate_columns",
    "select_extrapolation_columns",
    "select_physical_coordinates",
    "select_size_columns",
]

_MEASURES = ("macs", "ops", "bytes_in", "bytes_weights", "bytes_written", "im2col_bytes")
_FEW_TERMS = (*_MEASURES, "taps_rest")
WORK_TERMS = (*_FEW_TERMS, *LOOP_TERMS)
"""Features a kernel's work is a non-negative combination of, with a constant (see the module ``roofline``);
``taps_rest``, macs / c_out where c_out is no multiple of 8, else 0: how often a loop over the channels beyond the last
full block starts, which costs about the same for one channel and for seven; and what loops cost
(:mod:`deepen.predictors.inference.loop_costs`)."""

_RATIOS = (
    ("c_out", "c_in"),
    ("macs", "bytes_read"),
    ("macs", "bytes_written"),
    ("ops", "bytes_written"),
    ("bytes_weights", "bytes_read"),
    ("bytes_written", "bytes_read"),
    ("im2col_bytes", "bytes_read"),
    ("n", "m"),
)
_BLOCKED = (
    ("c_in", 8), ("c_out", 8), ("m", 8), ("n", 8), ("k", 8), ("c_in", 4), ("c_out", 4), ("w_out", 4), ("m", 6),
)  # fmt: skip
_RESTS = (("c_in", 8), ("c_out", 8), ("c_in", 4), ("c_out", 4))
_OPERANDS = (("m", "k"), ("k", "n"))
"""Sizes of the two matrices of a product. Whether one fits a cache is a step along the sum of two logarithms, which a
process with a length scale for each of them can only follow by giving up what it learned across both."""
_REST = " rest"
OPERATOR_SPAN = 40
"""Columns of operators; codes of one family lie within that span."""
_CODES: Mapping[str, int] = {"op_code": OPERATOR_SPAN, "activation_code": 20}
"""Categorical features and how many one-hot columns each gets; a code goes to column ``code % count``, and codes of one
family lie within a span of 40 (see ``deepen.kernels.families.operator_costs``)."""
_SHARES = ("intensity", "waste_")
"""Features (by prefix) that say nothing about extrapolation: they are bounded or follow from the others."""
_WORK = ("macs", "ops", "bytes_", "elements_", "im2col_bytes")
"""Features (by prefix) that count work: they follow from sizes and kinds."""
_SUMS = ("bytes_read", "bytes_out")
"""Features that follow from others; a smooth function of the others needs no length scale for them."""

_PRODUCT = (
    "m", "n", "k", "gemm_batch", "groups", "k_h", "k_w", "k_d", "stride_h", "stride_w", "stride_d",
    "m*k", "k*n", "m%8", "n%8",
)  # fmt: skip
"""Coordinates of a matrix product: a convolution is one of output positions x output channels x (input channels x
window), and costs what such a product costs; window and stride say how its operands lie in memory. With groups
(depthwise) there are as many products. Then the sizes of the operands, for the caches, and what is lost to blocks."""
_MOVE = (
    "elements_in", "elements_out", "n_inputs", "n_outputs", "inner_size", "inner_runs", "k_h", "stride_h", "c_out",
    "c_in",
)  # fmt: skip
"""Coordinates of a kernel that moves data: how much, from and to how many tensors, in pieces of which size."""
_KINDS = ("has_", "broadcast", "zero_operand", "dtype_bytes", "out_dtype_bytes", "weight_dtype_bytes", *_CODES)
"""Features (by prefix) that are kinds rather than sizes."""


def list_column_names(feature_names: Sequence[str]) -> tuple[str, ...]:
    """Names of the columns made from these features, in order."""
    known = set(feature_names)
    logs = [f for f in feature_names if f not in _CODES]
    flags = [f"{f}={i}" for f, count in _CODES.items() if f in known for i in range(count)]
    ratios = [f"{a}/{b}" for a, b in _RATIOS if a in known and b in known]
    padded = [f"{f}%{block}" for f, block in _BLOCKED if f in known]
    rests = [f"{f}/{block}{_REST}" for f, block in _RESTS if f in known]
    return (*logs, *flags, *ratios, *padded, *rests, *(f"{a}*{b}" for a, b in _OPERANDS if a in known and b in known))


def select_extrapolation_columns(feature_names: Sequence[str]) -> NDArray[np.bool_]:
    """Select the columns that tell if a kernel lies outside the training range, as a mask of shape (columns,)."""
    names = list_column_names(feature_names)
    return np.array([not (n.startswith(_SHARES) or _is_derived(n)) for n in names])


def select_coordinate_columns(feature_names: Sequence[str]) -> NDArray[np.bool_]:
    """Select the columns that say where a kernel lies, as a mask of shape (columns,): sizes and kinds, no work."""
    inside = select_extrapolation_columns(feature_names)
    placed = [not n.startswith(_WORK) for n in list_column_names(feature_names)]
    return np.asarray(inside & np.array(placed))


def select_size_columns(feature_names: Sequence[str]) -> NDArray[np.bool_]:
    """Select the columns a trend may follow, as a mask of shape (columns,): sizes or kinds, nothing made from them."""
    follows = (*_SHARES, *_SUMS)
    return np.array([not (n.startswith(follows) or _is_derived(n)) for n in list_column_names(feature_names)])


def select_physical_coordinates(feature_names: Sequence[str], varying: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Select the columns a physicist would plot energy over, as a mask of shape (columns,).

    Args:
        feature_names: Features the columns are made from.
        varying: Mask of the columns that vary within the family, shape (columns,): one with sizes of matrix products
            gets the coordinates of products, any other those of moving data; both get the kinds.
    """
    names = list_column_names(feature_names)
    product = any(v and n in ("m", "n", "k") for n, v in zip(names, varying.tolist(), strict=True))
    sizes = _PRODUCT if product else _MOVE
    few = np.array([n in sizes or (n.startswith(_KINDS) and not _is_derived(n)) for n in names])
    return np.asarray(few & varying)


def make_columns(raw: NDArray[np.float64], feature_names: Sequence[str]) -> NDArray[np.float32]:
    """Make the columns.

    Args:
        raw: Features in natural units, float64, shape (n, len(feature_names)).
        feature_names: Their names.

    Returns:
        float32, shape (n, len(column_names(feature_names))).

    Raises:
        PredictorError: If a feature is not finite.
    """
    if raw.ndim != 2 or raw.shape[1] != len(feature_names):
        raise PredictorError(f"features must have shape (n, {len(feature_names)}), not {raw.shape}")
    if not np.isfinite(raw).all():
        bad = feature_names[int(np.argmin(np.isfinite(raw).all(axis=0)))]
        raise PredictorError(f"feature '{bad}' is not finite; the kernel's shapes could not be described")
    index = {name: i for i, name in enumerate(feature_names)}
    logs = np.sign(raw) * np.log1p(np.abs(raw))
    parts = [logs[:, [i for f, i in index.items() if f not in _CODES]]]
    for f, count in _CODES.items():
        if f in index:
            parts.append((np.mod(raw[:, index[f]], count)[:, None] == np.arange(count)).astype(np.float64))
    for a, b in _RATIOS:
        if a in index and b in index:
            parts.append((logs[:, index[a]] - logs[:, index[b]])[:, None])
    for f, block in _BLOCKED:
        if f in index:
            size = np.maximum(raw[:, index[f]], 0.0)
            padded = np.ceil(size / block) * block
            parts.append(np.log(np.where(size > 0, padded / np.maximum(size, 1.0), 1.0))[:, None])
    parts += [_compute_block_remainder(raw[:, index[f]], block)[:, None] for f, block in _RESTS if f in index]
    parts += [(logs[:, index[a]] + logs[:, index[b]])[:, None] for a, b in _OPERANDS if a in index and b in index]
    return np.concatenate(parts, axis=1).astype(np.float32)


def compute_work_terms(raw: NDArray[np.float64], feature_names: Sequence[str]) -> NDArray[np.float64]:
    """Take the terms of work and append the constant.

    Returns:
        float64, shape (n, len(WORK_TERMS) + 1), never negative.

    Raises:
        PredictorError: If a term is missing among the features.
    """
    index = {name: i for i, name in enumerate(feature_names)}
    missing = [t for t in _MEASURES if t not in index]
    if missing:
        raise PredictorError(f"features lack {', '.join(missing)}, which every predictor needs")
    terms = np.maximum(raw[:, [index[t] for t in _MEASURES]], 0.0)
    macs = terms[:, 0]
    channels = np.maximum(raw[:, index["c_out"]], 0.0) if "c_out" in index else np.zeros(raw.shape[0])
    starts = macs / np.maximum(channels, 1.0) * (_compute_block_remainder(channels, 8) > 0)
    return np.concatenate([terms, starts[:, None], compute_loop_terms(raw, index), np.ones((raw.shape[0], 1))], axis=1)


def select_base_roofline_terms() -> NDArray[np.bool_]:
    """Select the terms of the plain roofline without loops, as a mask of shape (len(WORK_TERMS) + 1,)."""
    return np.array([name in _FEW_TERMS for name in WORK_TERMS] + [True])


def _is_derived(name: str) -> bool:
    """True for a column made from several features, or from the remainder of a block."""
    return any(sign in name for sign in "/%*")


def _compute_block_remainder(size: NDArray[np.float64], block: int) -> NDArray[np.float64]:
    """Share of a dimension beyond its last full block."""
    size = np.maximum(size, 0.0)
    return np.asarray(np.mod(size, block) / np.maximum(size, 1.0))
