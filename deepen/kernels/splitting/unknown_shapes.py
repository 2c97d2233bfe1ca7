"""Kernels whose shapes are unknown: which operator hides them, and how much of the model lies behind it.

A node *hides* shapes if the shapes of all it reads are known and that of an output is not. Every node that reads or
writes a tensor of unknown shape lies behind exactly one such node. One part of a model is made of each, however many
nodes lie behind it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from deepen.errors import GraphError
from deepen.graph.types import Graph, Node, UnknownPart
from deepen.kernels.describe import are_node_macs_known
from deepen.kernels.splitting.value_numbering import CONTROL_FLOW, is_standard_domain
from deepen.kernels.types import Kernel

__all__ = ["describe_unknown_part", "find_unknown_parts", "refuse_unknown_products"]

_READS_NO_DATA = frozenset({"Shape", "Size"})
_KNOWN_DOMAINS = frozenset(
    {"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"}
)
"""Domains of operators that are specified; those of any other are custom operators, which may do anything."""


@dataclass(slots=True)
class _HiddenNodes:
    """Executed nodes behind one node, itself included, and those of them whose multiply-accumulates are unknown."""

    tensor: str = ""
    nodes: list[str] = field(default_factory=list)
    products: list[str] = field(default_factory=list)


def find_unknown_parts(graph: Graph, kernels: Iterable[Kernel]) -> tuple[UnknownPart, ...]:
    """Find the parts of a model whose work is unknown.

    Args:
        graph: The graph that was split.
        kernels: Its kernels; only what they execute counts.

    Returns:
        The parts that reading the graph found, each with the products that depend on it; one for every other node that
        hides shapes, or whose own multiply-accumulates nothing counts; one for every other custom operator.
    """
    executed = {name for kernel in kernels if kernel.multiplicity for name in kernel.node_names}
    by_node = {node.name: node for node in graph.nodes}
    hidden = _find_hidden_nodes(graph, executed)
    stated = {part.node for part in graph.unknowns}
    parts = [
        replace(part, products=len(hidden[part.node].products)) if part.node in hidden else part
        for part in graph.unknowns
    ]
    for name, found in hidden.items():
        if name not in stated and name in by_node and found.nodes:
            parts.append(_make_part(by_node[name], found))
    stated |= {part.node for part in parts}
    parts += [
        UnknownPart(node.name, operator := _qualify(node), "shape", f"nothing is known of the work of {operator}")
        for node in graph.nodes
        if node.domain not in _KNOWN_DOMAINS and node.name in executed and node.name not in stated
    ]
    return tuple(parts)


def _find_hidden_nodes(graph: Graph, executed: Collection[str]) -> dict[str, _HiddenNodes]:
    """Find what lies behind each node that hides shapes.

    1. A tensor of unknown shape is hidden by the node that hides one of the inputs of its writer, else by its writer.
    2. A tensor of unknown shape that no node writes is passed into a body: the node around it decides.
    3. A sequence has no shape and hides nothing; the node that takes a tensor out of it may.
    4. A node behind another belongs to its part; so does a product without a formula, to a part of its own.
    """
    used = {name for node in graph.nodes for name in node.inputs if name} | {t.name for t in graph.outputs}
    written = {name for node in graph.nodes for name in node.outputs if name}
    is_open = {tensor.name for tensor in graph.tensors.values() if tensor.shape is None and not tensor.constant}
    hidden_by: dict[str, str] = {}
    found: dict[str, _HiddenNodes] = {}
    for node in graph.nodes:
        if not node.multiplicity:
            continue
        causes = [hidden_by[name] for name in node.inputs if name in hidden_by]
        if node.scope and not causes and any(n in is_open and n not in written for n in node.inputs):  # 2
            causes.append(node.scope.rpartition(".")[0])
        outputs = [name for name in node.outputs if name in is_open and name in used]
        if not causes and _makes_no_tensor(node, outputs, graph):  # 3
            outputs = []
        known_work = are_node_macs_known(node, graph)
        if not causes and not outputs and known_work:
            continue
        root = causes[0] if causes else node.name
        for name in outputs:  # 1
            hidden_by[name] = root
        part = found.setdefault(root, _HiddenNodes())
        part.tensor = part.tensor or (outputs[0] if root == node.name and outputs else "")
        if node.name in executed and node.op_type not in _READS_NO_DATA:  # 4
            part.nodes.append(node.name)
            if not known_work:
                part.products.append(node.name)
    return found


def _makes_no_tensor(node: Node, outputs: Collection[str], graph: Graph) -> bool:
    """Return whether the outputs are sequences or maps: inference knows the element type of every other one."""
    plain = is_standard_domain(node.domain) or node.domain == "ai.onnx.ml"
    return plain and all(not graph.tensors[name].dtype for name in outputs)


def _make_part(node: Node, hidden: _HiddenNodes) -> UnknownPart:
    operator = _qualify(node)
    behind = len(hidden.nodes) - (node.name in hidden.nodes)
    if not hidden.tensor:
        cause = f"no rule counts the multiply-accumulates of {operator} '{node.name}'"
        return UnknownPart(node.name, operator, "shape", cause, products=len(hidden.products))
    kind: Literal["shape", "size", "rounds", "branch"] = "shape"
    verb = "hides the shapes"
    if is_standard_domain(node.domain):
        kind, verb = "size", "decides from its data the sizes"
        if node.op_type in CONTROL_FLOW:
            kind = "branch" if node.op_type == "If" else "rounds"
    count = len(hidden.products)
    products = f", {count} of them matrix products or convolutions" if count else ""
    what = f"of {behind} nodes behind it{products}" if behind else "of its output"
    cause = f"{operator} '{node.name}' {verb} {what}"
    return UnknownPart(node.name, operator, kind, cause, f"--shape {hidden.tensor}=DIMS", count)


def _qualify(node: Node) -> str:
    return node.op_type if is_standard_domain(node.domain) else f"{node.domain}.{node.op_type}"


def describe_unknown_part(part: UnknownPart) -> str:
    """Describe a part in one line: its cause, and the option that answers it."""
    return f"{part.cause}; give {part.cure}" if part.cure else part.cause


def refuse_unknown_products(unknowns: Iterable[UnknownPart]) -> None:
    """Refuse a model with matrix products or convolutions of hidden shape.

    Raises:
        GraphError: If a part of kind ``shape`` has some; it names the operator that hides the first ones.
    """
    part = next((part for part in unknowns if part.kind == "shape" and part.products), None)
    if part is not None:
        bound = "take a lower bound with --allow-unknown"
        raise GraphError(
            f"the work is unknown: {part.cause}", cure=f"give {part.cure}, or {bound}" if part.cure else bound
        )
