"""Features of a kernel: one definition, used for sampling, training and prediction.

Most features are functions of the kernel's family and parameters alone (:mod:`deepen.kernels.families`); the rest are
its multiply-accumulates, operations and bytes. A feature a family does not have is 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.errors import PredictorError
from deepen.graph.types import DTYPE_BYTES
from deepen.kernels.families.operator_costs import get_activation_code
from deepen.kernels.families.registry import load_family_definitions
from deepen.kernels.types import Kernel

__all__ = ["FEATURES_VERSION", "FEATURE_NAMES", "build_feature_matrix", "compute_features"]

FEATURES_VERSION = 3
"""Version of the definition below; it rises with any change to a name, the order or a value."""

FEATURE_NAMES: tuple[str, ...] = (
    # work and traffic
    "macs", "ops", "bytes_in", "bytes_weights", "bytes_out", "bytes_read", "bytes_written", "intensity",
    "elements_in", "elements_out", "im2col_bytes",
    # shape
    "batch", "c_in", "c_out", "d_in", "h_in", "w_in", "d_out", "h_out", "w_out", "rank", "n_inputs", "n_outputs",
    "axis_size", "outer_size", "inner_size", "inner_runs",
    # window
    "k_d", "k_h", "k_w", "stride_d", "stride_h", "stride_w", "dilation_d", "dilation_h", "dilation_w",
    "pad_d", "pad_h", "pad_w", "groups", "is_1x1",
    # matrix product
    "m", "n", "k", "gemm_batch", "trans_a", "trans_b",
    # kind
    "dtype_bytes", "out_dtype_bytes", "weight_dtype_bytes", "op_code", "activation_code", "has_bias", "has_residual",
    "broadcast", "n_weights", "zero_operand",
    # share of padding a 16-lane vector unit wastes, 0..1
    "waste_c_in_16", "waste_c_out_16", "waste_m_16", "waste_n_16", "waste_k_16",
)  # fmt: skip
"""Every feature, in the one order :func:`build_feature_matrix` uses.

Bytes are per execution, each tensor once. ``intensity`` is (macs + ops) / (bytes_read + bytes_written).
``im2col_bytes`` is the scratch memory of a convolution by matrix product (batch x groups x k x output positions x bytes
per element; 0 where none is needed). ``m, n, k`` are the sizes of the (implicit) matrix product per group,
``gemm_batch`` the number of products.
``pad_*`` add both sides. ``outer_size`` and ``inner_size`` are the products of the sizes before and after the axis.
``inner_runs`` is the number of stretches that an inner loop walks without a jump in any tensor (1: all of it in one; 0:
not counted for the family): loops over broadcast operands and strided copies cost by the stretch, not by the element.
``zero_operand`` is 1 for a kernel that multiplies by zeros only (a convolution of a tensor that is zero whatever the
input is): it runs as long as any other, on less power.
"""

_KNOWN = frozenset(FEATURE_NAMES)


def compute_features(kernel: Kernel) -> dict[str, float]:
    """Compute the features of a kernel.

    Args:
        kernel: Any kernel; of family ``other``, only work, traffic and element counts are computed.

    Returns:
        Every name of :data:`FEATURE_NAMES`, in that order.
    """
    found: dict[str, float] = dict.fromkeys(FEATURE_NAMES, 0.0)
    item = load_family_definitions().get(kernel.family)
    if item is None:
        inputs, weights, outputs = kernel.inputs, kernel.weights, kernel.outputs
        found["bytes_in"] = sum(t.nbytes for t in inputs)
        found["bytes_weights"] = sum(t.nbytes for t in weights)
        found["elements_in"] = sum(t.elements for t in inputs)
        found["elements_out"] = sum(t.elements for t in outputs)
        found["n_inputs"], found["n_outputs"] = len(inputs), len(outputs)
        shapes = [t.shape for t in (*inputs, *outputs) if t.shape is not None]
        found["rank"] = len(shapes[0]) if shapes else 0
        found["dtype_bytes"] = DTYPE_BYTES.get(str(kernel.params.get("dtype", "")), 0)
    else:
        layout, params = item.layout(kernel.params), kernel.params
        found["bytes_in"] = sum(s.nbytes for s in layout.inputs)
        found["bytes_weights"] = sum(s.nbytes for s in layout.weights)
        found["elements_in"] = sum(prod(s.shape) for s in layout.inputs)
        found["elements_out"] = sum(prod(s.shape) for s in layout.outputs)
        found["n_inputs"], found["n_outputs"] = len(layout.inputs), len(layout.outputs)
        found["rank"] = len(layout.inputs[0].shape)
        found["dtype_bytes"] = DTYPE_BYTES.get(layout.inputs[0].dtype, 0)
        found["out_dtype_bytes"] = DTYPE_BYTES.get(layout.outputs[0].dtype, 0)
        found["weight_dtype_bytes"] = DTYPE_BYTES.get(layout.weights[0].dtype, 0) if layout.weights else 0
        found["n_weights"] = len(layout.weights)
        found |= _encode_flags(params)
        found |= item.dims(params)
    found["macs"], found["ops"] = kernel.macs, kernel.ops
    found["zero_operand"] = float(kernel.zero_operand)
    found["bytes_read"], found["bytes_written"] = kernel.bytes_read, kernel.bytes_written
    found["bytes_out"] = kernel.bytes_written
    found["intensity"] = (kernel.macs + kernel.ops) / max(kernel.bytes_read + kernel.bytes_written, 1)
    assert len(found) == len(FEATURE_NAMES), set(found) - _KNOWN  # dims name features, nothing else
    return dict(zip(found, map(float, found.values()), strict=True))


def _encode_flags(params: Mapping[str, Any]) -> dict[str, float]:
    return {
        "has_bias": float(bool(params.get("bias", False))),
        "has_residual": float(bool(params.get("residual", False) or params.get("skip", False))),
        "trans_a": float(bool(params.get("trans_a", False))),
        "trans_b": float(bool(params.get("trans_b", False))),
        "activation_code": float(get_activation_code(params.get("activation", "none"))),
    }


def build_feature_matrix(rows: Sequence[Mapping[str, float]]) -> NDArray[np.float64]:
    """Put feature dictionaries in one array.

    Args:
        rows: Results of :func:`compute_features`, also from a stored dataset.

    Returns:
        float64, shape (len(rows), len(FEATURE_NAMES)), columns in the order of :data:`FEATURE_NAMES`.

    Raises:
        PredictorError: If a row has other names than this version of the definition.
    """
    array = np.empty((len(rows), len(FEATURE_NAMES)), dtype=np.float64)
    for i, row in enumerate(rows):
        if tuple(row) == FEATURE_NAMES:
            array[i] = tuple(row.values())
            continue
        if row.keys() != _KNOWN:
            missing, extra = sorted(_KNOWN - row.keys()), sorted(row.keys() - _KNOWN)
            raise PredictorError(
                f"row {i} is not of features version {FEATURES_VERSION}: missing {', '.join(missing[:3]) or 'none'}, "
                f"unknown {', '.join(extra[:3]) or 'none'}; compute the features again with this release"
            )
        array[i] = [row[name] for name in FEATURE_NAMES]
    return array
