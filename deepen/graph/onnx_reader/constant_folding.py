"""Evaluates nodes that compute small constants, with the ``onnx`` reference operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepen.graph.onnx_reader.without_weights import SMALL_ELEMENTS

if TYPE_CHECKING:
    import onnx

__all__ = ["NON_DETERMINISTIC", "evaluate_node", "fold_node", "is_foldable"]

NON_DETERMINISTIC = frozenset(
    {"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
"""Operators whose output is not constant even where their inputs are."""

# Deterministic, cheap, and never with an intermediate result larger than their inputs and outputs.
_FOLDABLE = frozenset({
    "Abs", "Add", "And", "ArgMax", "ArgMin", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor",
    "Cast", "CastLike", "Ceil", "Clip", "Concat", "ConstantOfShape", "CumSum", "DequantizeLinear", "Div", "Equal",
    "Exp", "Expand", "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Greater", "GreaterOrEqual",
    "Identity", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mod", "Mul", "Neg", "NonZero", "Not", "Or",
    "Pad", "Pow", "QuantizeLinear", "Range", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "Relu", "Reshape", "Round", "ScatterElements", "ScatterND", "Shape",
    "Sign", "Size", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tile", "TopK", "Transpose", "Trilu",
    "Unsqueeze", "Where", "Xor",
})  # fmt: skip
_MAX_VALUE_SIZED = frozenset({"NonZero"})  # size of the output depends on values, but is bounded by the input's


def is_foldable(op_type: str, domain: str) -> bool:
    """Return whether :func:`fold_node` can evaluate the operator."""
    return not domain and op_type in _FOLDABLE


def fold_node(
    node: onnx.NodeProto,
    inputs: Sequence[NDArray[Any] | None],
    outputs: Sequence[tuple[int, ...] | None],
    opsets: Mapping[str, int],
) -> list[NDArray[Any]] | None:
    """Evaluate one node on small constants.

    Args:
        node: A node for which :func:`is_foldable` holds.
        inputs: Values of its inputs; ``None`` for an omitted optional one.
        outputs: Static shapes of its outputs; a node with an output too large to keep is not evaluated.
        opsets: Operator-set versions by domain.

    Returns:
        One value per output, or ``None`` if one is large or cannot be computed.
    """
    sized_by_value = node.op_type in _MAX_VALUE_SIZED
    if not sized_by_value and any(dims is None or prod(dims) > SMALL_ELEMENTS for dims in outputs):
        return None
    arrays = evaluate_node(node, inputs, opsets, outputs)
    if arrays is None:
        return None
    for array, dims in zip(arrays, outputs, strict=False):
        if array.size > SMALL_ELEMENTS or (dims is not None and array.shape != dims):
            return None
    return arrays if len(arrays) >= len(outputs) else None


def evaluate_node(
    node: onnx.NodeProto,
    inputs: Sequence[NDArray[Any] | None],
    opsets: Mapping[str, int],
    outputs: Sequence[tuple[int, ...] | None] = (None,),
) -> list[NDArray[Any]] | None:
    """Evaluate one node, however large its outputs; ``None`` if it cannot be computed."""
    try:
        return [np.asarray(result) for result in _run_operator(node, inputs, outputs, opsets)]
    except Exception:  # reference operators raise exceptions of any class on odd input; an unknown value is no error
        return None


def _run_operator(
    node: onnx.NodeProto,
    inputs: Sequence[NDArray[Any] | None],
    outputs: Sequence[tuple[int, ...] | None],
    opsets: Mapping[str, int],
) -> Sequence[Any]:
    if node.op_type == "Identity":
        return [inputs[0]]
    if node.op_type == "ConstantOfShape":  # by far the most frequent in the models inside the onnx wheel
        from onnx import numpy_helper

        fill = numpy_helper.to_array(node.attribute[0].t).reshape(-1)[0] if node.attribute else np.float32(0)
        return [np.full(outputs[0] or (), fill)]
    if node.op_type == "NonZero" and inputs[0] is not None and not inputs[0].ndim:
        return [np.array(np.nonzero(inputs[0].reshape(1)))]  # as ONNX Runtime: the reference gives no row of places
    from onnx.reference.ops import load_op

    parameters = {"log": _silence_reference_log, "opsets": dict(opsets), "verbose": 0, "new_ops": None}
    operator = load_op("", node.op_type, opsets.get(""))
    result: Sequence[Any] = operator(node, parameters).run(*inputs)
    return result


def _silence_reference_log(*_: object) -> None:
    """Discard the reference operators' log lines."""
