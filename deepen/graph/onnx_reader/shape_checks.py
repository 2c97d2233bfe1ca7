"""Finds contradictions between the shapes of a node's inputs that shape inference accepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

__all__ = ["find_shape_contradiction"]

_POOLS = frozenset({"AveragePool", "LpPool", "MaxPool"})

_Dims = tuple[int, ...] | None


def find_shape_contradiction(
    op_type: str, attributes: Mapping[str, Any], inputs: Sequence[_Dims], outputs: Sequence[_Dims]
) -> str | None:
    """Find the reason why a standard operator cannot run on these shapes.

    Args:
        op_type: Operator of the standard domain.
        attributes: Its attributes as plain values.
        inputs: Static shapes of its inputs; ``None`` where unknown or omitted.
        outputs: The same of its outputs.

    Returns:
        The reason, or ``None`` if the shapes fit or are unknown.
    """
    for dims in outputs:
        if dims is not None and any(dim < 0 for dim in dims):
            return f"its output would have the shape {_format_dims(dims)}; the input is too small"
    if op_type in _POOLS and inputs:
        return _check_window(attributes, inputs[0], attributes.get("kernel_shape", ()))
    match op_type:
        case "Conv" | "ConvInteger":
            return _check_conv(attributes, inputs[:2])
        case "QLinearConv":
            return _check_conv(attributes, (inputs[0], inputs[3])) if len(inputs) > 3 else None
        case "Gemm":
            return _check_gemm(attributes, inputs)
        case "MatMul" | "MatMulInteger":
            return _check_matmul(inputs)
        case "Reshape" if inputs and outputs and inputs[0] is not None and outputs[0] is not None:
            if prod(inputs[0]) != prod(outputs[0]):
                return f"{_format_dims(inputs[0])} cannot become {_format_dims(outputs[0])}"
    return None


def _check_window(attributes: Mapping[str, Any], data: _Dims, kernel: Sequence[int]) -> str | None:
    """Check that a window fits into the padded input; shape inference rounds towards zero and accepts it."""
    if data is None or attributes.get("auto_pad", "NOTSET") not in {"NOTSET", "VALID"} or attributes.get("ceil_mode"):
        return None
    rank = len(kernel)
    pads = attributes.get("pads") or (0,) * 2 * rank
    dilations = attributes.get("dilations") or (1,) * rank
    if len(data) != rank + 2 or len(pads) != 2 * rank or len(dilations) != rank or 0 in data:
        return None
    for axis in range(rank):
        padded = data[2 + axis] + pads[axis] + pads[rank + axis]
        if (kernel[axis] - 1) * dilations[axis] + 1 > padded:
            window = _format_dims(tuple(kernel))
            return f"its window {window} does not fit into the input {_format_dims(data)}; the input is too small"
    return None


def _check_conv(attributes: Mapping[str, Any], inputs: Sequence[_Dims]) -> str | None:
    if len(inputs) < 2:
        return None
    data, weight = inputs
    if data is None or weight is None or len(data) < 2 or len(weight) < 2:
        return None
    groups = attributes.get("group", 1)
    if len(data) != len(weight):
        return f"an input of {len(data)} dimensions does not fit a weight of {len(weight)}"
    if data[1] != weight[1] * groups:
        return f"{data[1]} input channels do not fit the weight {_format_dims(weight)} with {groups} groups"
    return _check_window(attributes, data, weight[2:])


def _check_gemm(attributes: Mapping[str, Any], inputs: Sequence[_Dims]) -> str | None:
    if len(inputs) < 2:
        return None
    a, b = inputs[:2]
    if a is None or b is None or len(a) != 2 or len(b) != 2:
        return None
    k_a = a[0] if attributes.get("transA") else a[1]
    k_b = b[1] if attributes.get("transB") else b[0]
    return None if k_a == k_b else f"{_format_dims(a)} and {_format_dims(b)} cannot be multiplied"


def _check_matmul(inputs: Sequence[_Dims]) -> str | None:
    if len(inputs) < 2:
        return None
    a, b = inputs[:2]
    if not a or not b:
        return None
    k_b = b[-2] if len(b) > 1 else b[0]
    return None if a[-1] == k_b else f"{_format_dims(a)} and {_format_dims(b)} cannot be multiplied"


def _format_dims(dims: tuple[int, ...]) -> str:
    return "x".join(map(str, dims)) or "scalar"
