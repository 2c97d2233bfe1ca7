"""Conversions of parameters into features that several families share."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from deepen.kernels.families.definition import Params

__all__ = [
    "compute_axis_features",
    "compute_lane_waste",
    "compute_shape_features",
    "compute_spatial_features",
    "compute_window_features",
    "count_broadcast_runs",
]


def compute_lane_waste(size: int, unit: int) -> float:
    """Share of padding in the work of a vector unit of ``unit`` lanes on ``size`` elements, 0..1; 0 for a multiple."""
    if size <= 0:
        return 0.0
    padded = -(-size // unit) * unit
    return (padded - size) / padded


def _pad_to_three(values: Sequence[int], fill: int) -> tuple[int, int, int]:
    tail = [*[fill] * (3 - len(values)), *values][-3:]
    return tail[0], tail[1], tail[2]


def compute_spatial_features(pattern: str, sizes: Sequence[int]) -> dict[str, float]:
    """Features d, h, w of up to three spatial sizes; those a kernel does not have are 1 (a 1-D size is w)."""
    d, h, w = _pad_to_three(sizes, 1)
    return {pattern.format("d"): d, pattern.format("h"): h, pattern.format("w"): w}


def compute_window_features(params: Params) -> dict[str, float]:
    """Kernel, stride, dilation and total pads per direction."""
    rank = len(params["spatial"])
    k, s = _pad_to_three(params["kernel"], 1), _pad_to_three(params["stride"], 1)
    d = _pad_to_three(params["dilation"], 1)
    p = _pad_to_three([params["pads"][i] + params["pads"][rank + i] for i in range(rank)], 0)
    named = {"k": k, "stride": s, "dilation": d, "pad": p}
    return {f"{name}_{axis}": float(v) for name, three in named.items() for axis, v in zip("dhw", three, strict=True)}


def compute_shape_features(shape: Sequence[int], prefix_out: bool = True) -> dict[str, float]:
    """Compute features of a shape read as batch, channels, spatial sizes (channels first; rank 1 is channels only)."""
    batch = shape[0] if len(shape) > 1 else 1
    channels = shape[1] if len(shape) > 1 else (shape[0] if shape else 1)
    found = {"batch": float(batch), "c_in": float(channels), **compute_spatial_features("{}_in", shape[2:])}
    if prefix_out:
        found |= {"c_out": float(channels), **compute_spatial_features("{}_out", shape[2:])}
    return found


def compute_axis_features(shape: Sequence[int], axis: int) -> dict[str, float]:
    """Size of an axis, and the products of the sizes before and after it."""
    return {
        "axis_size": float(shape[axis]) if shape else 1.0,
        "outer_size": float(prod(shape[:axis])),
        "inner_size": float(prod(shape[axis + 1 :])),
    }


def count_broadcast_runs(shapes: Sequence[Sequence[int]], out: Sequence[int]) -> int:
    """Count the stretches an element-wise loop walks in which every operand is either contiguous or one value.

    Neighbouring axes that the same operands are spread along are one axis to the loop (ONNX Runtime:
    ``BroadcastIterator`` in ``core/providers/cpu/math/element_wise_ops.h``), so a stretch covers the innermost of them.

    Args:
        shapes: Shapes of the operands, to be broadcast.
        out: Shape of the result.

    Returns:
        1 if nothing is broadcast or an operand is a single value; 0 for a result without elements.
    """
    span, innermost = 1, None
    for back, size in enumerate(reversed(out), 1):
        if size == 1:
            continue
        spread = tuple(len(shape) < back or shape[-back] == 1 for shape in shapes)
        innermost = innermost or spread
        if spread != innermost:
            break
        span *= size
    return prod(out) // max(span, 1)
