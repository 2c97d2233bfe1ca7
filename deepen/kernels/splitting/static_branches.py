"""Dissolves If nodes whose condition is known, as runtimes do: the branch taken becomes part of the graph around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from deepen.graph.onnx_reader.proto_values import iter_graphs, list_subgraphs
from deepen.graph.types import Graph, Node, get_scalar_value

if TYPE_CHECKING:
    import onnx

__all__ = ["inline_if_branches"]


def inline_if_branches(graph: Graph, *, assume: bool = False) -> tuple[Graph, tuple[str, ...]]:
    """Dissolve every If whose condition is a known constant.

    Nodes keep their names. Tensors of a dissolved branch keep their full name (``scope/name``) and bear it in the model
    too. What the If wrote comes from an ``Identity`` named ``<if>.output<i>``, which runtimes eliminate.

    Args:
        graph: Not changed.
        assume: Whether to dissolve the other If nodes too, in favour of the branch that the graph counts.

    Returns:
        The graph (the same one if there is nothing to do) and the names of nodes that are gone: the If nodes, and all
        nodes of branches not taken.
    """
    counted = {node.scope for node in graph.nodes if node.multiplicity} if assume else set()
    taken: dict[str, str] = {}
    for node in graph.nodes:
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
    _inline_in_proto(model.graph, taken, outputs)
    nodes, gone = _inline_branch_nodes(graph, taken, outputs)
    return replace(graph, nodes=tuple(nodes), model=model), tuple(gone)


def _inline_branch_nodes(
    graph: Graph, taken: Mapping[str, str], outputs: Mapping[str, list[str]]
) -> tuple[list[Node], list[str]]:
    """Move the nodes of branches taken to the scope around them."""
    home: dict[str, str] = {}  # scope of a taken branch -> scope it dissolves into
    skipped: list[str] = []  # scopes of branches not taken
    gone: list[str] = []
    found: list[Node] = []
    pending: dict[str, Node] = {}  # scope of a taken branch -> its If, to be closed behind the branch

    def close(scope: str) -> None:
        node = pending.pop(scope)
        around = home.get(node.scope, node.scope)
        for index, (source, target) in enumerate(zip(outputs[node.name], node.outputs, strict=True)):
            if target:
                found.append(
                    replace(
                        node, name=f"{node.name}.output{index}", op_type="Identity", inputs=(source,),
                        outputs=(target,), attributes={}, scope=around,
                    )
                )  # fmt: skip

    def inside(scope: str, outer: str) -> bool:
        return scope == outer or scope.startswith((f"{outer}/", f"{outer}."))

    for node in graph.nodes:
        for scope in reversed(list(pending)):
            if not inside(node.scope, scope):
                close(scope)
        if any(inside(node.scope, scope) for scope in skipped):
            gone.append(node.name)
        elif node.name in taken:
            branch = f"{node.name}.{taken[node.name]}"
            other = "else_branch" if taken[node.name] == "then_branch" else "then_branch"
            home[branch] = home.get(node.scope, node.scope)
            skipped.append(f"{node.name}.{other}")
            pending[branch] = node
            gone.append(node.name)
        else:
            found.append(replace(node, scope=home[node.scope]) if node.scope in home else node)
    for scope in reversed(list(pending)):
        close(scope)
    return found, gone


def _inline_in_proto(graph: onnx.GraphProto, taken: Mapping[str, str], outputs: dict[str, list[str]]) -> None:
    """Dissolve in the protobuf message; ``outputs`` collects what each dissolved If hands out, by full name."""
    kept: list[onnx.NodeProto] = []
    changed = False
    for node in list(graph.node):
        for _, body in list_subgraphs(node):
            _inline_in_proto(body, taken, outputs)
        if node.name not in taken:
            kept.append(node)
            continue
        changed = True
        body = dict(list_subgraphs(node))[taken[node.name]]
        scope = f"{node.name}.{taken[node.name]}"
        local = {name for inner in body.node for name in inner.output if name}
        local |= {tensor.name for tensor in body.initializer}
        names = {name: name if name.startswith(f"{node.name}.") else f"{scope}/{name}" for name in local}
        _rename_tensors(body, names)
        graph.initializer.extend(body.initializer)
        graph.value_info.extend(body.value_info)
        kept.extend(body.node)
        outputs[node.name] = [names.get(value.name, value.name) for value in body.output]
        for index, (source, target) in enumerate(zip(outputs[node.name], node.output, strict=True)):
            if target:
                identity = type(node)(op_type="Identity", name=f"{node.name}.output{index}")
                identity.input.append(source)
                identity.output.append(target)
                kept.append(identity)
    if changed:
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
