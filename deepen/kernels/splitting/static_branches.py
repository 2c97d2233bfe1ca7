"""Inlines If nodes whose condition is known, as runtimes do: the branch taken becomes part of the graph around it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from deepen.graph.onnx_reader.proto_values import iter_graphs, list_subgraphs
from deepen.graph.types import Graph, Node, get_scalar_value

if TYPE_CHECKING:
    import onnx

__all__ = ["inline_if_branches"]


def inline_if_branches(graph: Graph, *, assume: bool = False) -> tuple[Graph, tuple[str, ...]]:
    """Inline every If whose condition is a known constant.

    1. The branch to inline is the one the condition selects; with ``assume``, an If of unknown condition is inlined
       too, with the branch that the graph counts.
    2. Nodes of an inlined branch move to the scope around the If. They keep their names, and their tensors keep their
       full names (``scope/name``), which they now have in the protobuf model too.
    3. Nodes of the branch not taken, and the If itself, are removed.
    4. The outputs of the If are written by ``Identity`` nodes ``<if>.output<i>`` behind the branch; runtimes eliminate
       them.

    Args:
        graph: Not changed.
        assume: Whether to inline If nodes of unknown condition too.

    Returns:
        The graph (the same object if no If is inlined) and the names of the removed nodes.
    """
    counted = {node.scope for node in graph.nodes if node.multiplicity} if assume else set()
    taken: dict[str, str] = {}  # If node -> name of the branch to inline
    for node in graph.nodes:  # 1
        if node.op_type == "If" and not node.domain and node.inputs:
            condition = get_scalar_value(graph.values, node.inputs[0])
            if condition is not None:
                taken[node.name] = "then_branch" if condition else "else_branch"
            elif assume:
                taken[node.name] = "else_branch" if f"{node.name}.else_branch" in counted else "then_branch"
    if not taken or graph.model is None:
        return graph, ()
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    outputs: dict[str, list[str]] = {}
    _inline_in_proto(model.graph, taken, outputs)  # 2 to 4 in the protobuf model
    nodes, removed = _inline_branch_nodes(graph, taken, outputs)  # 2 to 4 in the nodes of the graph
    return replace(graph, nodes=tuple(nodes), model=model), tuple(removed)


def _inline_branch_nodes(
    graph: Graph, taken: Mapping[str, str], outputs: Mapping[str, list[str]]
) -> tuple[list[Node], list[str]]:
    """Apply rules 2 to 4 of :func:`inline_if_branches` to the nodes; returns nodes and the names of removed ones."""
    target_scope: dict[str, str] = {}  # scope of a taken branch -> scope it is inlined into
    skipped: set[str] = set()  # scopes of branches not taken
    is_skipped: dict[str, bool] = {}  # scope of a node -> whether it lies in a branch not taken
    removed: list[str] = []
    found: list[Node] = []
    pending: dict[str, Node] = {}  # scope of a taken branch -> its If, to be closed behind the branch

    def write_if_outputs(scope: str) -> None:
        node = pending.pop(scope)
        around = target_scope.get(node.scope, node.scope)
        for index, (source, target) in enumerate(zip(outputs[node.name], node.outputs, strict=True)):
            if target:
                found.append(
                    replace(
                        node, name=f"{node.name}.output{index}", op_type="Identity", inputs=(source,),
                        outputs=(target,), attributes={}, scope=around,
                    )
                )  # fmt: skip

    def is_inside(scope: str, outer: str) -> bool:
        return scope == outer or scope.startswith((f"{outer}/", f"{outer}."))

    for node in graph.nodes:
        for scope in reversed(list(pending)):
            if not is_inside(node.scope, scope):
                write_if_outputs(scope)  # 4
        if node.scope not in is_skipped:  # an If comes before the nodes of its branches
            is_skipped[node.scope] = not skipped.isdisjoint(_list_enclosing_scopes(node.scope))
        if is_skipped[node.scope]:  # 3
            removed.append(node.name)
        elif node.name in taken:  # 3
            branch = f"{node.name}.{taken[node.name]}"
            other = "else_branch" if taken[node.name] == "then_branch" else "then_branch"
            target_scope[branch] = target_scope.get(node.scope, node.scope)
            skipped.add(f"{node.name}.{other}")
            pending[branch] = node
            removed.append(node.name)
        else:  # 2
            found.append(replace(node, scope=target_scope[node.scope]) if node.scope in target_scope else node)
    for scope in reversed(list(pending)):
        write_if_outputs(scope)  # 4
    return found, removed


def _list_enclosing_scopes(scope: str) -> list[str]:
    """List every path that can be a scope around a scope, and the scope itself."""
    return [scope[: mark.start()] for mark in re.finditer(r"[/.]|$", scope)]


def _inline_in_proto(graph: onnx.GraphProto, taken: Mapping[str, str], outputs: dict[str, list[str]]) -> None:
    """Apply rules 2 to 4 of :func:`inline_if_branches` to a protobuf graph, innermost bodies first.

    Args:
        graph: Changed in place.
        taken: If node -> name of the branch to inline.
        outputs: Filled with the full names of the tensors that each inlined branch returns, by If node.
    """
    kept: list[onnx.NodeProto] = []
    changed = False
    for node in list(graph.node):
        for _, body in list_subgraphs(node):
            _inline_in_proto(body, taken, outputs)
        if node.name not in taken:
            kept.append(node)
            continue
        changed = True
        body = dict(list_subgraphs(node))[taken[node.name]]  # 2; the other branch is left out with the If (3)
        scope = f"{node.name}.{taken[node.name]}"
        local = {name for inner in body.node for name in inner.output if name}
        local |= {tensor.name for tensor in body.initializer}
        names = {name: name if name.startswith(f"{node.name}.") else f"{scope}/{name}" for name in local}
        _rename_tensors(body, names)
        graph.initializer.extend(body.initializer)
        graph.value_info.extend(body.value_info)
        kept.extend(body.node)
        outputs[node.name] = [names.get(value.name, value.name) for value in body.output]  # 4
        for index, (source, target) in enumerate(zip(outputs[node.name], node.output, strict=True)):
            if target:
                identity = type(node)(op_type="Identity", name=f"{node.name}.output{index}")
                identity.input.append(source)
                identity.output.append(target)
                kept.append(identity)
    if changed:  # copies, because clearing the repeated field would invalidate the messages still referred to
        copies = [type(node).FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(copies)


def _rename_tensors(body: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for graph in iter_graphs(body):
        for tensor in graph.initializer:
            tensor.name = names.get(tensor.name, tensor.name)
        for value in graph.value_info:
            value.name = names.get(value.name, value.name)
        for node in graph.node:
            for field in (node.input, node.output):
                for index, name in enumerate(field):
                    if name in names:
                        field[index] = names[name]
