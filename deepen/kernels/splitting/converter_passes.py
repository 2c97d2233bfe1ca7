"""What a converter removes before anything runs: repeated expressions, products with zero, and what nobody reads.

A runtime that loads a converted file never sees these nodes. ONNX Runtime is asked instead of guessed at
(:mod:`deepen.kernels.splitting.onnxruntime_graph`); runtimes that go by rules say in their rule file what their
converter does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.graph.types import Graph, Node
from deepen.kernels.splitting.value_numbering import CONTROL_FLOW, is_deterministic, make_attribute_key

__all__ = ["ConverterPasses", "apply_converter_passes", "find_zero_tensors"]

_KEEPS_ZERO = frozenset({
    "Relu", "AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "Dropout", "Neg", "Abs", "Sqrt",
    "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Expand", "Tile", "LeakyRelu",
})  # fmt: skip
"""Operators that make zeros of zeros, whatever their attributes and further inputs."""


@dataclass(frozen=True, slots=True)
class ConverterPasses:
    """What a converter does.

    Attributes:
        merge: Nodes that compute the same become one.
        zeros: A product with the constant 0 is the constant 0; a sum with it disappears.
    """

    merge: bool = False
    zeros: bool = False

    def __bool__(self) -> bool:
        return self.merge or self.zeros


def find_zero_tensors(nodes: Sequence[Node], values: Mapping[str, NDArray[Any]]) -> set[str]:
    """Tensors that hold nothing but zeros whatever the input: a product with the constant 0 and what follows from it.

    Args:
        nodes: In topological order.
        values: Values of small constants by name.
    """
    zero = {name for name, value in values.items() if _is_zero(value)}
    for node in nodes:
        given = [name for name in node.inputs if name]
        if not given:
            continue
        if node.op_type == "Mul":
            hit = not zero.isdisjoint(given)
        elif node.op_type in ("Add", "Sub", "Sum", "Concat"):
            hit = zero.issuperset(given)
        else:
            hit = node.op_type in _KEEPS_ZERO and given[0] in zero
        if hit:
            zero.update(name for name in node.outputs if name)
    return zero


def _is_zero(value: NDArray[Any]) -> bool:
    return value.size > 0 and value.dtype.kind in "fiu" and not bool(np.any(value))


def apply_converter_passes(graph: Graph, wanted: ConverterPasses) -> tuple[Graph, tuple[str, ...]]:
    """Leave out what a converter removes.

    Only graphs without control flow are touched: a body may read anything.

    Args:
        graph: The graph.
        wanted: What the converter does.

    Returns:
        The graph without those nodes, and their names.
    """
    if not wanted or any(node.scope or node.op_type in CONTROL_FLOW for node in graph.nodes):
        return graph, ()
    outputs = {t.name for t in graph.outputs}
    zero = find_zero_tensors(graph.nodes, graph.values) if wanted.zeros else set()
    alias: dict[str, str] = {}
    first: dict[Any, Node] = {}
    kept: list[Node] = []
    for original in graph.nodes:
        node = replace(original, inputs=tuple(alias.get(name, name) for name in original.inputs))
        if outputs.isdisjoint(node.outputs):
            if zero and _computes_only_zeros(node, zero):
                continue
            same = _find_nonzero_term(node, graph, zero) if zero else None
            if same is not None:
                alias[node.outputs[0]] = same
                continue
            earlier = _find_equal_earlier_node(node, first) if wanted.merge else None
            if earlier is not None:
                alias.update(zip(node.outputs, earlier.outputs, strict=True))
                continue
        kept.append(node)
    kept = _keep_live_nodes(kept, outputs)
    names = {node.name for node in kept}
    return replace(graph, nodes=tuple(kept)), tuple(n.name for n in graph.nodes if n.name not in names)


def _computes_only_zeros(node: Node, zero: Collection[str]) -> bool:
    """Whether a node computes zeros from constants alone once zeros are folded."""
    return all(name in zero for name in node.outputs if name)


def _find_nonzero_term(node: Node, graph: Graph, zero: Collection[str]) -> str | None:
    """What a sum with zeros amounts to: its other term, where that has the shape of the sum."""
    if node.op_type not in ("Add", "Sub") or len(node.inputs) != 2:
        return None
    a, b = node.inputs
    term = a if b in zero else b if a in zero and node.op_type == "Add" else None
    if term is None:
        return None
    before, after = graph.tensors.get(term), graph.tensors.get(node.outputs[0])
    if before is None or after is None or before.shape is None or before.shape != after.shape:
        return None
    return term


def _find_equal_earlier_node(node: Node, first: dict[Any, Node]) -> Node | None:
    """An earlier node that computes the same value; remembers the node if there is none."""
    key = make_attribute_key(node) if is_deterministic(node) else None
    if key is None:
        return None
    try:
        found = first.setdefault((node.op_type, node.domain, key, node.inputs, len(node.outputs)), node)
    except TypeError:  # an attribute value that cannot be hashed: take the node as it is
        return None
    return None if found is node else found


def _keep_live_nodes(nodes: Sequence[Node], outputs: Collection[str]) -> list[Node]:
    """Nodes whose result reaches an output."""
    wanted = set(outputs)
    kept = []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.outputs):
            wanted.update(node.inputs)
            kept.append(node)
    return kept[::-1]
