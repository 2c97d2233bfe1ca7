"""Optimisation passes of model converters: common subexpressions, products with zero, dead nodes.

A runtime that loads a converted file never sees the nodes these passes remove. The rule file of a runtime names the
passes of its converter. ONNX Runtime has no converter; it is asked for the graph it executes
(:mod:`deepen.kernels.splitting.onnxruntime_graph`).
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
"""Operators whose output is zeros if their first input is, for any attributes and further inputs."""


@dataclass(frozen=True, slots=True)
class ConverterPasses:
    """Passes a converter applies.

    Attributes:
        merge: Common subexpressions are merged: of nodes that compute the same value, the first one stays.
        zeros: A product with the constant 0 is folded into the constant 0; a sum with it is removed.
    """

    merge: bool = False
    zeros: bool = False

    def __bool__(self) -> bool:
        return self.merge or self.zeros


def find_zero_tensors(nodes: Sequence[Node], values: Mapping[str, NDArray[Any]]) -> set[str]:
    """Find the tensors that hold zeros for any input of the model.

    1. Constants whose values are all 0.
    2. Products with a zero tensor.
    3. Sums, differences and concatenations of zero tensors only.
    4. Results of an operator in :data:`_KEEPS_ZERO` on a zero tensor.

    Args:
        nodes: In topological order.
        values: Values of small constants by name.
    """
    zero = {name for name, value in values.items() if _is_zero(value)}  # 1
    for node in nodes:
        given = [name for name in node.inputs if name]
        if not given:
            continue
        if node.op_type == "Mul":
            is_zero = not zero.isdisjoint(given)  # 2
        elif node.op_type in ("Add", "Sub", "Sum", "Concat"):
            is_zero = zero.issuperset(given)  # 3
        else:
            is_zero = node.op_type in _KEEPS_ZERO and given[0] in zero  # 4
        if is_zero:
            zero.update(name for name in node.outputs if name)
    return zero


def _is_zero(value: NDArray[Any]) -> bool:
    return value.size > 0 and value.dtype.kind in "fiu" and not bool(np.any(value))


def apply_converter_passes(graph: Graph, wanted: ConverterPasses) -> tuple[Graph, tuple[str, ...]]:
    """Remove the nodes that a converter removes.

    A node that writes an output of the graph always stays. Of the others, these are removed:

    1. a node whose outputs are all zeros (pass ``zeros``);
    2. a sum of a tensor and zeros; its readers read that tensor (pass ``zeros``);
    3. a node that computes the same as an earlier one; its readers read the earlier one's outputs (pass ``merge``);
    4. a node whose result reaches no output of the graph, also because its readers were removed (either pass).

    A graph with control flow is returned as it is: the bodies may read any tensor.

    Args:
        graph: The graph.
        wanted: Passes of the converter.

    Returns:
        The graph without the removed nodes, and the names of these nodes.
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
            if zero and _computes_only_zeros(node, zero):  # 1
                continue
            term = _find_nonzero_term(node, graph, zero) if zero else None  # 2
            if term is not None:
                alias[node.outputs[0]] = term
                continue
            earlier = _find_equal_earlier_node(node, first) if wanted.merge else None  # 3
            if earlier is not None:
                alias.update(zip(node.outputs, earlier.outputs, strict=True))
                continue
        kept.append(node)
    kept = _keep_live_nodes(kept, outputs)  # 4
    names = {node.name for node in kept}
    return replace(graph, nodes=tuple(kept)), tuple(n.name for n in graph.nodes if n.name not in names)


def _computes_only_zeros(node: Node, zero: Collection[str]) -> bool:
    """Return whether all outputs of a node are zeros, so that folding makes them constants."""
    return all(name in zero for name in node.outputs if name)


def _find_nonzero_term(node: Node, graph: Graph, zero: Collection[str]) -> str | None:
    """Return the tensor that a sum or difference with zeros equals: its other term, if that has the result's shape."""
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
    """Return an earlier node that computes the same value; if there is none, add the node to ``first``."""
    key = make_attribute_key(node) if is_deterministic(node) else None
    if key is None:
        return None
    try:
        found = first.setdefault((node.op_type, node.domain, key, node.inputs, len(node.outputs)), node)
    except TypeError:  # an attribute value that cannot be hashed: take the node as it is
        return None
    return None if found is node else found


def _keep_live_nodes(nodes: Sequence[Node], outputs: Collection[str]) -> list[Node]:
    """Keep the nodes whose result reaches an output."""
    wanted = set(outputs)
    kept = []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.outputs):
            wanted.update(node.inputs)
            kept.append(node)
    return kept[::-1]
