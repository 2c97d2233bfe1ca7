"""The label of a kernel for people: the layer it is, its operators and its main shapes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from deepen.graph.types import TensorInfo
from deepen.kernels.families.multiply_accumulates import MAC_OPS
from deepen.kernels.types import Kernel

__all__ = ["KernelLabel", "format_shape", "label_kernel"]

Shape = tuple[int, ...] | None

_MOVERS = frozenset(("Expand", "Flatten", "Gather", "Reshape", "Shape", "Slice", "Squeeze", "Transpose", "Unsqueeze"))
"""Operators that bring operands into shape for the one that computes."""
_WRAPPERS = frozenset(
    ("Cast", "CastLike", "Constant", "DequantizeLinear", "DynamicQuantizeLinear", "Identity", "QuantizeLinear")
)
"""Operators that only convert what others work on. Either names a kernel only where there is no other."""


class KernelLabel(NamedTuple):
    """The label of one kernel of a model.

    Attributes:
        name: Unique inside the model (its first node's name).
        layer: Name of the node that decides what it computes, unique too: of the convolution, not of its bias.
        op_types: Operators of its nodes, in order.
        input_shape: Shape of the largest activation it reads; ``None`` if it reads none or the shape is unknown.
        weight_shape: Shape of its largest weight; ``None`` if it has none.
        output_shape: Shape of its first output; ``None`` if unknown.
    """

    name: str
    layer: str = ""
    op_types: tuple[str, ...] = ()
    input_shape: Shape = None
    weight_shape: Shape = None
    output_shape: Shape = None


def label_kernel(kernel: Kernel) -> KernelLabel:
    """Label a kernel."""
    ranks = [0 if op in MAC_OPS else 3 if op in _WRAPPERS else 2 if op in _MOVERS else 1 for op in kernel.op_types]
    deciding = min(range(len(ranks)), key=ranks.__getitem__, default=None)
    return KernelLabel(
        kernel.name,
        kernel.name if deciding is None else kernel.node_names[deciding],
        kernel.op_types,
        _find_largest_shape(kernel.inputs),
        _find_largest_shape(kernel.weights),
        kernel.outputs[0].shape if kernel.outputs else None,
    )


def _find_largest_shape(tensors: Iterable[TensorInfo]) -> Shape:
    largest = max(tensors, key=lambda t: t.elements, default=None)
    return None if largest is None else largest.shape


def format_shape(shape: Shape, unknown: str = "?") -> str:
    """Format a shape as ``1x3x224x224``."""
    return unknown if shape is None else "x".join(map(str, shape)) or "scalar"
