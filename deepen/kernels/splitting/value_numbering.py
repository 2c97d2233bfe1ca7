"""Value numbering: finds the constant tensors, and the nodes that compute the same value as an earlier one.

Both follow ONNX Runtime (``ConstantSharing``, ``CommonSubexpressionElimination`` and ``ConstantFolding`` in
``onnxruntime/core/optimizer``), because its fusions depend on them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.graph.types import Graph, Node, get_scalar_value

__all__ = [
    "CONTROL_FLOW",
    "find_constant_tensors",
    "find_duplicate_nodes",
    "is_deterministic",
    "is_standard_domain",
    "make_attribute_key",
    "may_pass_input_through",
]

CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})

_RANDOM = frozenset({
    "RandomUniform", "RandomNormal", "RandomUniformLike", "RandomNormalLike", "Multinomial", "Bernoulli",
})  # fmt: skip

# Kept at run time although their inputs are constant: the runtime looks for quantised operators around them.
_KEPT = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})

# ConstantSharing merges equal constants of these types up to this many elements (observed in version 1.31: 8 are
# merged, 9 are not); larger initialisers are never compared by content.
_SHARED = frozenset(map(np.dtype, ("float32", "float16", "float64", "int32", "int64")))
_SHARED_ELEMENTS = 8


def is_standard_domain(domain: str) -> bool:
    """Return whether an operator domain is the ONNX standard one."""
    return domain in ("", "ai.onnx")


def find_constant_tensors(nodes: Iterable[Node], known: Collection[str], *, static: Collection[str] = ()) -> set[str]:
    """Find the tensors whose value does not depend on any input.

    1. Random operators, control flow and (de)quantisations never write constants: the runtime keeps them.
    2. ``Shape`` and ``Size`` of a tensor of known shape are constants.
    3. Any other operator writes constants if all it reads are constants.
    4. Of the operators without inputs, only ``Constant`` writes a constant.

    Args:
        nodes: In topological order.
        known: Initialisers.
        static: Tensors of known shape.

    Returns:
        ``known`` and every tensor computed from constants alone by an operator the runtime evaluates beforehand.
    """
    constant = set(known)
    for node in nodes:
        kind = node.op_type
        if kind in _RANDOM or kind in _KEPT or kind in CONTROL_FLOW:  # 1
            continue
        if kind in ("Shape", "Size"):  # 2
            fixed = node.inputs[0] in constant or node.inputs[0] in static
        elif node.inputs:  # 3
            fixed = all(not name or name in constant for name in node.inputs)
        else:  # 4
            fixed = kind == "Constant"
        if fixed:
            constant.update(name for name in node.outputs if name)
    return constant


def is_deterministic(node: Node) -> bool:
    """Return whether a node computes the same outputs each time from the same inputs."""
    return node.op_type not in _RANDOM and node.op_type not in CONTROL_FLOW and bool(node.inputs)


def make_attribute_key(node: Node) -> tuple[Any, ...] | None:
    """Make a hashable key of a node's attributes; ``None`` if the value of one is not known."""
    items: list[tuple[str, Any]] = []
    for name, value in sorted(node.attributes.items()):
        if value is None:
            return None
        if isinstance(value, np.ndarray):
            if value.dtype == object:
                return None
            items.append((name, (value.dtype.name, value.shape, value.tobytes())))
        else:
            items.append((name, tuple(value) if isinstance(value, list) else value))
    return tuple(items)


def _make_value_key(array: NDArray[Any]) -> tuple[Any, ...] | None:
    if array.size > _SHARED_ELEMENTS or array.dtype not in _SHARED:
        return None
    return (array.dtype.char, array.shape, array.tobytes())


def find_duplicate_nodes(
    nodes: Sequence[Node], values: Mapping[str, NDArray[Any]], keep: Collection[str]
) -> dict[str, Node]:
    """Find the nodes that compute the same value as an earlier node of the same scope.

    1. Each tensor gets a value number. That of a small constant is its content (at most eight elements), that of any
       other tensor its name.
    2. Two deterministic nodes are equal if operator, attributes, number of outputs and the value numbers of their
       inputs are.
    3. A node that writes a tensor of ``keep`` is never a duplicate.
    4. The outputs of a duplicate get the value numbers of the earlier node's, so that equal chains are found.

    Args:
        nodes: One scope, in topological order.
        values: Values of small constants by name.
        keep: Tensors that must stay (graph outputs).

    Returns:
        Node name -> the earlier node.
    """
    kept = set(keep)
    computed = {name for node in nodes if node.op_type != "Constant" for name in node.outputs}
    number: dict[str, Any] = {}
    first: dict[Any, Node] = {}
    found: dict[str, Node] = {}
    for node in nodes:
        inputs = []
        for name in node.inputs:  # 1
            if name not in number:
                array = None if name in computed else values.get(name)
                number[name] = (None if array is None else _make_value_key(array)) or name
            inputs.append(number[name])
        attributes = None
        if is_deterministic(node):
            attributes = make_attribute_key(node)
        if attributes is None:
            continue
        key = (node.op_type, node.domain, attributes, tuple(inputs), len(node.outputs))  # 2
        try:
            earlier = first.setdefault(key, node)
        except TypeError:  # an attribute value that cannot be hashed: take the node as it is
            continue
        if earlier is node or not kept.isdisjoint(node.outputs):  # 3
            continue
        found[node.name] = earlier  # 4
        for mine, theirs in zip(node.outputs, earlier.outputs, strict=True):
            if mine and theirs:
                number[mine] = number.get(theirs, theirs)
    return found


_NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}
_RESHAPES = frozenset({"Slice", "Reshape", "Expand", "Pad", "Tile", "Resize", "Upsample"})
_JOINS = frozenset({"Concat", "Sum", "Max", "Min", "Mean"})


def may_pass_input_through(node: Node, graph: Graph) -> bool:
    """Return whether a node may pass its first input through unchanged, so that a runtime may eliminate it.

    1. A concatenation, sum, maximum, minimum or mean of one input.
    2. A slice, reshape, pad or the like to the same shape.
    3. A sum with 0 or a product with 1 that does not change the shape.

    The answer is used only for nodes that a runtime did eliminate: rule 2 does not look at values.
    """
    if node.op_type in _JOINS:  # 1
        return len(node.inputs) == 1
    if not node.inputs or not node.outputs:
        return False
    before, after = graph.tensors.get(node.inputs[0]), graph.tensors.get(node.outputs[0])
    if before is None or after is None or before.shape is None or before.shape != after.shape:
        return False
    if node.op_type in _RESHAPES:  # 2
        return True
    neutral = _NEUTRAL.get(node.op_type)  # 3
    return neutral is not None and len(node.inputs) == 2 and get_scalar_value(graph.values, node.inputs[1]) == neutral
