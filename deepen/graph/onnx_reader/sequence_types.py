"""Types of the tensors inside sequences, which shape inference forgets: a sequence here is the list of its elements.

Source: https://onnx.ai/onnx/operators/index.html, the operators on sequences and optionals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.graph.onnx_reader.proto_values import TensorType

__all__ = ["SequenceTypes", "infer_sequence_operator"]

SequenceTypes = tuple[TensorType, ...]
"""Types of the elements of a sequence, in order."""

_MAX_LENGTH = 100_000
_HOLDS_ONE = frozenset({"Identity", "Optional", "OptionalGetElement"})


def infer_sequence_operator(
    op_type: str,
    attributes: Mapping[str, Any],
    inputs: Sequence[TensorType | None],
    sequences: Sequence[SequenceTypes | None],
    values: Sequence[NDArray[Any] | None],
) -> TensorType | SequenceTypes | NDArray[Any] | None:
    """Infer the output of a standard operator that makes, changes or reads a sequence.

    Args:
        op_type: Operator.
        attributes: Its attributes as plain values.
        inputs: Types of its inputs; ``None`` for an omitted one.
        sequences: Elements of the inputs that are known sequences, else ``None``.
        values: Values of its inputs, as far as known.

    Returns:
        The type of a tensor, the elements of a sequence, the value of a length, or ``None`` if it is another operator
        or not known.
    """
    first = sequences[0] if sequences else None
    if op_type == "SequenceConstruct":
        return tuple(known or TensorType(0, None) for known in inputs)
    if op_type == "SequenceEmpty":
        return ()
    if op_type == "SplitToSequence":
        return _split_tensor(attributes, inputs, values)
    if op_type in _HOLDS_ONE:
        return first
    if first is None:
        return None
    position = _read_position(values[1]) if len(values) > 1 and op_type in ("SequenceAt", "SequenceErase") else None
    match op_type:
        case "SequenceLength":
            return np.array(len(first), np.int64)
        case "SequenceAt":
            return _get_element(first, position)
        case "SequenceErase":
            at = position if len(inputs) > 1 and inputs[1] is not None else -1
            if at is None or not -len(first) <= at < len(first):
                return None
            at %= len(first)
            return (*first[:at], *first[at + 1 :])
        case "SequenceInsert":
            given = len(inputs) > 2 and inputs[2] is not None
            at = _read_position(values[2]) if given else len(first)
            if at is None or not -len(first) <= at <= len(first):
                return None
            at += len(first) * (at < 0)
            return (*first[:at], inputs[1] or TensorType(0, None), *first[at:])
        case "ConcatFromSequence":
            return _join_elements(attributes, first)
    return None


def _read_position(value: NDArray[Any] | None) -> int | None:
    return None if value is None or value.size != 1 else int(value.reshape(-1)[0])


def _get_element(elements: SequenceTypes, position: int | None) -> TensorType | None:
    if position is not None:
        return elements[position] if -len(elements) <= position < len(elements) else None
    alike = {(known.elem_type, known.dims) for known in elements}
    return elements[0] if len(alike) == 1 else None


def _split_tensor(
    attributes: Mapping[str, Any], inputs: Sequence[TensorType | None], values: Sequence[NDArray[Any] | None]
) -> SequenceTypes | None:
    """Split a tensor along an axis: into parts of 1, of a size (the last one smaller), or of given sizes."""
    data = inputs[0] if inputs else None
    axis = int(attributes.get("axis", 0))
    if data is None or data.dims is None or not -len(data.dims) <= axis < len(data.dims):
        return None
    axis %= len(data.dims)
    size = data.dims[axis]
    if len(inputs) < 2 or inputs[1] is None:
        if size > _MAX_LENGTH:
            return None
        keep = bool(attributes.get("keepdims", 1))
        part = TensorType(data.elem_type, (*data.dims[:axis], *((1,) if keep else ()), *data.dims[axis + 1 :]))
        return (part,) * size
    split = values[1] if len(values) > 1 else None
    if split is None:
        return None
    if split.ndim == 0:
        each = int(split)
        if each < 1 or size // each > _MAX_LENGTH:
            return None
        sizes = [each] * (size // each) + ([size % each] if size % each else [])
    else:
        sizes = [int(part) for part in split.reshape(-1)]
    return tuple(TensorType(data.elem_type, (*data.dims[:axis], part, *data.dims[axis + 1 :])) for part in sizes)


def _join_elements(attributes: Mapping[str, Any], elements: SequenceTypes) -> TensorType | None:
    """Concatenate the elements along an axis, or stack them along a new one."""
    shapes = [known.dims for known in elements]
    if not shapes or any(dims is None for dims in shapes):
        return None
    known = [dims for dims in shapes if dims is not None]
    axis, first = int(attributes.get("axis", 0)), known[0]
    if attributes.get("new_axis"):
        axis += (len(first) + 1) * (axis < 0)
        return TensorType(elements[0].elem_type, (*first[:axis], len(known), *first[axis:]))
    axis += len(first) * (axis < 0)
    if not 0 <= axis < len(first) or any(len(dims) != len(first) for dims in known):
        return None
    return TensorType(elements[0].elem_type, (*first[:axis], sum(d[axis] for d in known), *first[axis + 1 :]))
