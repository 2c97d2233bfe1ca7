"""Normalises the structure of a model: functions inlined, nodes named and ordered, every reference defined."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from deepen.errors import GraphError
from deepen.graph.onnx_reader.proto_values import iter_graphs, list_subgraphs
from deepen.graph.onnx_reader.shape_inference import shorten_error

if TYPE_CHECKING:
    import onnx

__all__ = ["normalise_model", "sort_nodes"]

_MAX_NODES = 1_000_000
_MAX_CALL_DEPTH = 100
_MAX_VERSION = 10_000

_KNOWN_DOMAINS = {"ai.onnx.ml": 3, "com.microsoft": 1, "com.microsoft.nchwc": 1, "com.ms.internal.nhwc": 1}
"""Domains whose operators ONNX Runtime takes without an import, and the version assumed."""


def normalise_model(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Bring a parsed model into the form that the rest of the reader relies on.

    1. It has a graph, an IR version and plausible operator sets; the domain ``ai.onnx`` is written as empty. Domains
       that a runtime knows need no import.
    2. Local functions are inlined.
    3. Every node has a unique name; nodes in bodies are named ``owner.attribute/name``.
    4. Every tensor that is read is written exactly once, and nodes are in topological order. Of initialisers with the
       same name, the last one counts, as in ONNX Runtime.

    Args:
        model: May be changed.

    Returns:
        The model and warnings.

    Raises:
        GraphError: If it is no model, reads a tensor that is not defined, writes one twice, or has a cycle.
    """
    # 1
    if not model.HasField("graph"):
        raise GraphError("not an ONNX model (it holds no graph)")
    if model.ir_version <= 0:
        raise GraphError("not an ONNX model (it states no IR version)")
    _check_opsets(model.opset_import)
    if not model.opset_import:
        model.opset_import.add(domain="", version=1)  # IR versions 1 and 2 had no other
    warnings: tuple[str, ...] = _import_known_domains(model)
    if model.functions:
        model, more = _inline_functions(model)  # 2
        warnings += more
    _name_nodes(model.graph, "", set())  # 3
    for graph in iter_graphs(model.graph):
        warnings += _drop_repeated_initialisers(graph)
    _check_references(model.graph, [])  # 4
    return model, warnings


def _import_known_domains(model: onnx.ModelProto) -> tuple[str, ...]:
    """Import the domains that nodes use and a runtime knows without an import; returns notes.

    Raises:
        GraphError: If a domain is used that nothing imports or knows.
    """
    imported = {opset.domain for opset in model.opset_import} | {function.domain for function in model.functions}
    for node in _iter_nodes(model.graph.node):
        if node.domain not in imported and node.domain not in ("", "ai.onnx") and node.domain not in _KNOWN_DOMAINS:
            cause = f"the domain '{node.domain}' of node '{node.name}' ({node.op_type}) is not imported"
            raise GraphError(cause, cure="add it to the model's opset_import")
    from onnx import defs

    used = {"" if node.domain == "ai.onnx" else node.domain for node in _iter_nodes(model.graph.node)}
    notes = []
    for domain in sorted(used - imported):
        version = _KNOWN_DOMAINS[domain] if domain else defs.onnx_opset_version()
        model.opset_import.add(domain=domain, version=version)
        name = domain or "ai.onnx"
        notes.append(f"the domain '{name}' is used but not imported; version {version} of it is taken")
    return tuple(notes)


def _drop_repeated_initialisers(graph: onnx.GraphProto) -> tuple[str, ...]:
    """Drop all but the last of several initialisers of the same name; returns notes."""
    last = {tensor.name: index for index, tensor in enumerate(graph.initializer)}
    if len(last) == len(graph.initializer):
        return ()
    repeated = [index for index, tensor in enumerate(graph.initializer) if last[tensor.name] != index]
    names = dict.fromkeys(graph.initializer[index].name for index in repeated)
    for index in reversed(repeated):
        del graph.initializer[index]
    return tuple(f"initialiser '{name}' is defined twice; the last one counts" for name in names)


def _check_opsets(opsets: Iterable[onnx.OperatorSetIdProto]) -> None:
    for opset in opsets:
        if opset.domain == "ai.onnx":
            opset.domain = ""
        if not 0 < opset.version < _MAX_VERSION:
            raise GraphError(f"operator set '{opset.domain or 'ai.onnx'}' has the impossible version {opset.version}")


def _iter_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterable[onnx.NodeProto]:
    for node in nodes:
        yield node
        for _, body in list_subgraphs(node):
            yield from _iter_nodes(body.node)


def _inline_functions(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Inline the local functions of a model.

    1. Refuse recursive functions, deep call chains and models that would expand beyond :data:`_MAX_NODES`.
    2. Import the operator sets that only the functions import.
    3. Inline; functions written for another version of an operator set are converted to the model's if possible.
    4. Functions that cannot be converted stay single nodes, with a warning.

    Returns:
        The model and warnings.

    Raises:
        GraphError: As in step 1, or if ``onnx`` cannot inline the functions.
    """
    from onnx import checker, inliner, shape_inference

    sizes: dict[tuple[str, str, str], int | None] = {}  # expanded nodes by function; None while being counted
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}

    def count_expanded_nodes(nodes: Iterable[onnx.NodeProto], depth: int) -> int:
        total = 0
        for node in _iter_nodes(nodes):
            key = (node.domain, node.op_type, node.overload)
            total += count_function_nodes(key, depth + 1) if key in functions else 1
        return total

    def count_function_nodes(key: tuple[str, str, str], depth: int) -> int:
        if key in sizes:
            known = sizes[key]
            if known is None:
                raise GraphError(f"local function '{key[1]}' calls itself")
            return known
        if depth > _MAX_CALL_DEPTH:
            raise GraphError(f"local functions call one another more than {_MAX_CALL_DEPTH} levels deep")
        sizes[key] = None
        sizes[key] = found = count_expanded_nodes(functions[key].node, depth)
        return found

    # 1
    for key in functions:
        count_function_nodes(key, 0)
    if count_expanded_nodes(model.graph.node, 0) > _MAX_NODES:
        raise GraphError(f"local functions expand to more than {_MAX_NODES:,} nodes")
    # 2
    imported = {opset.domain for opset in model.opset_import}
    for function in model.functions:
        _check_opsets(function.opset_import)
        for opset in function.opset_import:
            if opset.domain not in imported:
                imported.add(opset.domain)
                model.opset_import.add(domain=opset.domain, version=opset.version)
    # 3
    failures = (shape_inference.InferenceError, checker.ValidationError, RuntimeError, ValueError, TypeError)
    try:
        inlined = inliner.inline_local_functions(model)
    except failures as error:
        raise GraphError(f"local functions cannot be inlined: {shorten_error(error)}") from error
    if inlined.functions:  # they are written for another operator set
        with suppress(*failures):  # converting is an attempt; what cannot be converted is reported below
            inlined = inliner.inline_local_functions(model, convert_version=True)
    # 4
    left = sorted({function.name for function in inlined.functions})
    if left:
        return inlined, (f"local functions {', '.join(left)} need another operator set and stay single nodes",)
    return inlined, ()


def _name_nodes(graph: onnx.GraphProto, scope: str, used: set[str]) -> None:
    """Give every node a unique name; of several nodes with the same name, the first one keeps it."""
    prefix = f"{scope}/" if scope else ""
    unnamed: list[tuple[int, onnx.NodeProto]] = []
    for index, node in enumerate(graph.node):
        if not node.op_type:
            raise GraphError(f"node '{node.name}' names no operator")
        if node.domain == "ai.onnx":
            node.domain = ""
        wanted = prefix + node.name
        if not node.name or wanted in used:
            unnamed.append((index, node))
            continue
        used.add(wanted)
        if prefix:
            node.name = wanted
    counters: dict[str, int] = {}
    for index, node in unnamed:
        base = prefix + (node.name or f"{node.op_type}_{index}")
        name = base
        while name in used:
            counters[base] = counters.get(base, 0) + 1
            name = f"{base}_{counters[base]}"
        used.add(name)
        node.name = name
    for node in graph.node:
        for attribute, body in list_subgraphs(node):
            _name_nodes(body, f"{node.name}.{attribute}", used)


def _check_references(graph: onnx.GraphProto, outer: Sequence[set[str]]) -> None:
    """Check references and bring nodes into topological order, in this graph and its bodies.

    Args:
        graph: Its nodes may be re-ordered.
        outer: Names visible from the graphs around it.
    """
    defined: set[str] = set()
    for value in graph.input:
        if value.name in defined:
            raise GraphError(f"input '{value.name}' is declared twice")
        defined.add(value.name)
    weights = [tensor.name for tensor in graph.initializer]
    weights += [sparse.values.name for sparse in graph.sparse_initializer]
    if len(set(weights)) != len(weights):
        twice = next(name for index, name in enumerate(weights) if name in weights[:index])
        raise GraphError(f"initialiser '{twice}' is defined twice")
    defined.update(weights)
    writer: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in node.output:
            if not name:
                continue
            if name in writer or name in defined:
                raise GraphError(f"tensor '{name}' is written twice (by node '{node.name}')")
            writer[name] = index
    reads = [_list_reads(node) for node in graph.node]
    in_order = True
    for index, names in enumerate(reads):
        for name in names:
            if name in defined:
                continue
            if name in writer:
                in_order = in_order and writer[name] < index
            elif not any(name in scope for scope in outer):
                raise GraphError(f"node '{graph.node[index].name}' reads tensor '{name}', which nothing defines")
    if not in_order:
        _sort_topologically(graph, reads, writer)
    visible = [*outer, defined | writer.keys()]
    for value in graph.output:
        if value.name and not any(value.name in scope for scope in visible):
            raise GraphError(f"output '{value.name}' is written by no node")
    for node in graph.node:
        for _, body in list_subgraphs(node):
            _check_references(body, visible)


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Bring the nodes of a graph into topological order, in place.

    Raises:
        GraphError: If the graph has a cycle.
    """
    writer = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    _sort_topologically(graph, [_list_reads(node) for node in graph.node], writer)


def _list_reads(node: onnx.NodeProto) -> list[str]:
    """List the tensors of its graph that a node reads, including those read inside its bodies."""
    names = [name for name in node.input if name]
    for _, body in list_subgraphs(node):
        names += _list_free_names(body)
    return names


def _list_free_names(graph: onnx.GraphProto) -> list[str]:
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {sparse.values.name for sparse in graph.sparse_initializer}
    own |= {name for node in graph.node for name in node.output}
    names = [name for node in graph.node for name in _list_reads(node)]
    names += [value.name for value in graph.output if value.name]
    return [name for name in dict.fromkeys(names) if name not in own]


def _sort_topologically(graph: onnx.GraphProto, reads: list[list[str]], writer: dict[str, int]) -> None:
    """Sort nodes by Kahn's algorithm; of the nodes that are ready, the first one in the file comes first.

    Raises:
        GraphError: If the graph has a cycle.
    """
    waiting = [0] * len(reads)
    readers: list[list[int]] = [[] for _ in reads]
    for index, names in enumerate(reads):
        for before in {writer[name] for name in names if name in writer}:
            waiting[index] += 1
            readers[before].append(index)
    ready = [index for index, count in enumerate(waiting) if not count]
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers[index]:
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(reads):
        stuck = next(index for index, count in enumerate(waiting) if count)
        raise GraphError(f"the graph has a cycle through node '{graph.node[stuck].name}'")
    nodes = [type(node).FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    graph.node.extend(nodes[index] for index in order)
