"""Groups of ONNX nodes that several families write."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from deepen.kernels.families.operator_costs import ACTIVATIONS, get_activation_attributes

if TYPE_CHECKING:
    from deepen.kernels.families.onnx_writer import KernelModelWriter

__all__ = ["QUANTISED_DTYPES", "write_activation", "write_operator"]


QUANTISED_DTYPES = ("uint8", "int8")
"""Types on which an operator of real numbers is run between a dequantisation and a quantisation."""

QUANT_SCALE = 0.02
"""Scale of quantised tensors; any normal number will do."""


def write_operator(
    writer: KernelModelWriter, dtype: str, op_type: str, names: Sequence[str], **attributes: Any
) -> None:
    """Add an operator that writes ``y``; on 8-bit integers as exporters write it: dequantise, compute, quantise.

    Args:
        writer: Model to add it to.
        dtype: Data type of every tensor outside.
        op_type: An operator that computes with real numbers.
        names: Tensors it reads; one given twice is dequantised once.
        attributes: Its attributes.
    """
    if dtype not in QUANTISED_DTYPES:
        writer.node(op_type, names, "y", **attributes)
        return
    scale, zero = writer.scalar(QUANT_SCALE, "float32"), writer.scalar(0, dtype)
    real = {name: writer.node("DequantizeLinear", [name, scale, zero]) for name in dict.fromkeys(names)}
    out = writer.node(op_type, [real[name] for name in names], **attributes)
    writer.node("QuantizeLinear", [out, scale, zero], "y")


def write_activation(writer: KernelModelWriter, name: str, x: str, y: str, dtype: str, slope: str = "slope") -> None:
    """Add an activation, in the operators exporters write it with.

    Args:
        writer: Model to add it to.
        name: Activation name.
        x: Tensor it reads.
        y: Tensor it writes.
        dtype: Their data type.
        slope: Weight a PReLU reads.
    """
    operator = ACTIVATIONS[name][2]
    if name == "clip":
        writer.node("Clip", [x, writer.scalar(0, dtype), writer.scalar(6, dtype)], y)
    elif name == "prelu":
        writer.node("PRelu", [x, slope], y)
    elif operator:
        writer.node(operator, [x], y, **get_activation_attributes(name))
    elif name == "silu":
        writer.node("Mul", [x, writer.node("Sigmoid", [x])], y)
    elif name == "quickgelu":
        scaled = writer.node("Mul", [x, writer.scalar(1.702, dtype)])
        writer.node("Mul", [x, writer.node("Sigmoid", [scaled])], y)
    elif name == "mish":
        writer.node("Mul", [x, writer.node("Tanh", [writer.node("Softplus", [x])])], y)
    elif name == "gelu":
        inner = writer.node("Erf", [writer.node("Div", [x, writer.scalar(math.sqrt(2), dtype)])])
        shifted = writer.node("Add", [inner, writer.scalar(1, dtype)])
        writer.node("Mul", [writer.node("Mul", [x, shifted]), writer.scalar(0.5, dtype)], y)
    else:  # gelutanh
        cube = writer.node("Pow", [x, writer.scalar(3, dtype)])
        inner = writer.node("Add", [x, writer.node("Mul", [cube, writer.scalar(0.044715, dtype)])])
        curve = writer.node("Tanh", [writer.node("Mul", [inner, writer.scalar(math.sqrt(2 / math.pi), dtype)])])
        shifted = writer.node("Add", [curve, writer.scalar(1, dtype)])
        writer.node("Mul", [writer.node("Mul", [x, shifted]), writer.scalar(0.5, dtype)], y)
