"""Bounds of sizes that only a run decides: how much NonZero finds, how many boxes NonMaxSuppression keeps.

Each rule is the definition of its operator at https://onnx.ai/onnx/operators/index.html: no output is larger. An axis
that the rule leaves open has no bound (``Range`` up to a number that is computed from data).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["OpenShape", "bound_output_shapes"]

Dims = tuple[int, ...]
Inputs = Sequence[Dims | None]
Values = Sequence[NDArray[Any] | None]


@dataclass(frozen=True, slots=True)
class OpenShape:
    """Shape of a tensor whose size along some axes only a run decides.

    Attributes:
        dims: Size of each axis; ``None`` where a run decides it.
        bounds: Largest size of each axis.
    """

    dims: tuple[int | None, ...]
    bounds: Dims

    def fill(self, size: int) -> Dims:
        """Give every open axis a size."""
        return tuple(size if dim is None else dim for dim in self.dims)


_Rule = Callable[[Mapping[str, Any], Inputs, Values], "list[OpenShape | None]"]


def bound_output_shapes(
    op_type: str, domain: str, attributes: Mapping[str, Any], shapes: Inputs, values: Values
) -> list[OpenShape | None]:
    """Bound the shapes of a node's outputs.

    Args:
        op_type: Operator.
        domain: Its domain.
        attributes: Its attributes as plain values.
        shapes: Shapes of its inputs; ``None`` where unknown or omitted.
        values: Their values, where they are small constants.

    Returns:
        One for each output, ``None`` where the operator bounds nothing; empty if there is no rule, or the shapes it
        reads are not known.
    """
    rule = (_RULES if domain in {"", "ai.onnx"} else _MICROSOFT_RULES if domain == "com.microsoft" else {}).get(op_type)
    if rule is None or not shapes or shapes[0] is None:
        return []
    padded = (*shapes, *(None,) * 6)
    return rule(attributes, padded, (*values, *(None,) * 6))


def _find_nonzero(attributes: Mapping[str, Any], shapes: Inputs, values: Values) -> list[OpenShape | None]:
    shape = shapes[0] or ()
    return [OpenShape((max(1, len(shape)), None), (max(1, len(shape)), prod(shape)))]


def _suppress_boxes(attributes: Mapping[str, Any], shapes: Inputs, values: Values) -> list[OpenShape | None]:
    """NonMaxSuppression keeps at most so many boxes of each class and image; by default, none at all."""
    scores = shapes[1]
    if scores is None or len(scores) != 3:
        return []
    batch, classes, boxes = scores
    kept = boxes
    if len(shapes) > 2 and (shapes[2] is None or values[2] is not None):
        kept = min(boxes, _read_number(values[2], 0))
    return [OpenShape((None, 3), (batch * classes * max(0, kept), 3))]


def _compress(attributes: Mapping[str, Any], shapes: Inputs, values: Values) -> list[OpenShape | None]:
    shape, condition, axis = shapes[0] or (), shapes[1], attributes.get("axis")
    most = prod(condition) if condition is not None else None
    if axis is None:
        found = prod(shape) if most is None else min(most, prod(shape))
        return [OpenShape((None,), (found,))]
    return [_open_axes(shape, [axis], most)]


def _find_unique(attributes: Mapping[str, Any], shapes: Inputs, values: Values) -> list[OpenShape | None]:
    shape, axis = shapes[0] or (), attributes.get("axis")
    size = prod(shape) if axis is None else shape[axis] if -len(shape) <= axis < len(shape) else None
    if size is None:
        return []
    unique = OpenShape((None,), (size,)) if axis is None else _open_axes(shape, [axis])
    counts = OpenShape((None,), (size,))
    return [unique, counts, OpenShape((size,), (size,)), counts]


def _find_unique_of_vector(attributes: Mapping[str, Any], shapes: Inputs, values: Values) -> list[OpenShape | None]:
    """``com.microsoft.Unique``: the values, the position of each in the input, and the counts."""
    size = prod(shapes[0] or ())
    found = OpenShape((None,), (size,))
    return [found, OpenShape((size,), (size,)), found]


def _choose_largest(attributes: Mapping[str, Any], shapes: Inputs, values: Values) -> list[OpenShape | None]:
    found = _open_axes(shapes[0] or (), [attributes.get("axis", -1)])
    return [found, found]


def _slice(attributes: Mapping[str, Any], shapes: Inputs, values: Values) -> list[OpenShape | None]:
    """A slice is at most as large as what it is cut from."""
    shape, starts, axes = shapes[0] or (), shapes[1], values[3]
    if axes is not None:
        return [_open_axes(shape, axes.reshape(-1).tolist())]
    cut = prod(starts) if starts is not None and shapes[3] is None else len(shape)
    return [_open_axes(shape, range(min(cut, len(shape))))]


def _split(attributes: Mapping[str, Any], shapes: Inputs, values: Values) -> list[OpenShape | None]:
    if shapes[1] is None:
        return []
    return [_open_axes(shapes[0] or (), [attributes.get("axis", 0)])] * prod(shapes[1])


def _open_axes(shape: Dims, axes: Sequence[int], most: int | None = None) -> OpenShape | None:
    """Open some axes of a shape, whose sizes are their bounds."""
    if not all(-len(shape) <= axis < len(shape) for axis in axes):
        return None
    opened = {axis % len(shape) for axis in axes}
    dims = tuple(None if axis in opened else size for axis, size in enumerate(shape))
    bounds = tuple(size if most is None or axis not in opened else min(size, most) for axis, size in enumerate(shape))
    return OpenShape(dims, bounds)


def _read_number(value: NDArray[Any] | None, default: int) -> int:
    return default if value is None or value.size != 1 else int(np.reshape(value, -1)[0])


_RULES: dict[str, _Rule] = {
    "Compress": _compress,
    "NonMaxSuppression": _suppress_boxes,
    "NonZero": _find_nonzero,
    "Slice": _slice,
    "Split": _split,
    "TopK": _choose_largest,
    "Unique": _find_unique,
}
_MICROSOFT_RULES: dict[str, _Rule] = {"Unique": _find_unique_of_vector}
