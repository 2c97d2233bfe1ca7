"""Describes a group of nodes as a kernel: family, parameters, multiply-accumulates, operations, bytes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from deepen.graph.types import Graph, Node, TensorInfo
from deepen.kernels.families.catalog import complete_params
from deepen.kernels.families.definition import FamilyDefinition, NodeGroup, Params, UnknownShapeError, index_graph
from deepen.kernels.families.kernel_layout import KernelLayout
from deepen.kernels.families.multiply_accumulates import are_node_macs_known, count_node_macs
from deepen.kernels.families.operator_work import count_bytes_read, count_node_ops, note_estimated_work
from deepen.kernels.families.registry import load_family_definitions, map_operators_to_readers
from deepen.kernels.types import Kernel

__all__ = [
    "are_node_macs_known",
    "count_node_macs",
    "describe_kernel",
    "find_boundary_tensors",
    "note_estimated_work",
]


def describe_kernel(
    nodes: Sequence[Node],
    graph: Graph,
    *,
    name: str = "",
    inputs: Sequence[TensorInfo] | None = None,
    outputs: Sequence[TensorInfo] | None = None,
    runtime_ops: Sequence[str] = (),
    multiplicity: float | None = None,
) -> Kernel:
    """Describe a group of nodes the runtime executes as one kernel.

    The nodes decide the family; families of the operators the runtime executes for them are tried first, because a
    fused group may be written in ways no list of patterns covers. Bytes are those of the tensors the parameters define,
    so that two kernels with equal parameters have equal features; a tensor read twice counts once, and all counts are
    of one execution.

    Args:
        nodes: Original nodes of the group, in topological order; at least one.
        graph: The graph they are from.
        name: Kernel name; the first node's name if empty.
        inputs: Activations the group reads; found from the nodes if left out.
        outputs: Tensors it writes for other groups; found from the nodes if left out.
        runtime_ops: Operators the runtime executes, with domain (``com.microsoft.FusedConv``; no domain for ONNX).
        multiplicity: Executions per inference; the first node's if left out.

    Returns:
        The kernel; its family is ``other`` if no family matches or a shape is unknown.
    """
    edge_in, edge_out = find_boundary_tensors(nodes, graph) if inputs is None or outputs is None else ((), ())
    group = NodeGroup(
        tuple(nodes),
        graph,
        tuple(edge_in if inputs is None else inputs),
        tuple(edge_out if outputs is None else outputs),
        tuple(runtime_ops),
    )
    weights = _find_weights(group)
    item, params = _identify_family(group)
    if item is None:
        family, ops = "other", sum(count_node_ops(n, graph) for n in group.compute)
        read = sum(t.nbytes for t in {t.name: t for t in (*group.inputs, *weights)}.values())
        if len(nodes) == 1:
            read = count_bytes_read(nodes[0], graph)
        written = sum(t.nbytes for t in group.outputs)
    else:
        family, params = item.family, complete_params(item.family, params)
        layout, ops = item.layout(params), item.ops(params)
        read, written = _count_bytes(layout)
    return Kernel(
        name=name or nodes[0].name,
        family=family,
        op_types=tuple(n.op_type for n in nodes),
        params=params,
        inputs=group.inputs,
        weights=weights,
        outputs=group.outputs,
        node_names=tuple(n.name for n in nodes),
        macs=sum(count_node_macs(n, graph) for n in nodes),
        ops=int(ops),
        bytes_read=read,
        bytes_written=written,
        runtime_ops=group.runtime_ops,
        multiplicity=nodes[0].multiplicity if multiplicity is None else multiplicity,
    )


def find_boundary_tensors(nodes: Sequence[Node], graph: Graph) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """Find the activations a group exchanges with the rest of the graph.

    Returns:
        Activations read; and tensors written that are read outside the group, or nowhere.
    """
    members = {n.name for n in nodes}
    group = NodeGroup(tuple(nodes), graph, (), ())
    index = index_graph(graph)
    written = [
        o for n in nodes for o in n.outputs
        if o and (o in index.outputs or o not in index.readers or not members.issuperset(index.readers[o]))
    ]  # fmt: skip
    read = [name for name in _list_external_reads(group) if not group.is_const(name)]
    return tuple(_get_tensor(graph, name) for name in read), tuple(_get_tensor(graph, name) for name in written)


def _get_tensor(graph: Graph, name: str) -> TensorInfo:
    return graph.tensors.get(name) or TensorInfo(name, None, "")


def _list_external_reads(group: NodeGroup) -> list[str]:
    own = {name for n in group.nodes for name in n.outputs if name}
    return list(dict.fromkeys(i for n in group.nodes for i in n.inputs if i and i not in own))


def _find_weights(group: NodeGroup) -> tuple[TensorInfo, ...]:
    return tuple(_get_tensor(group.graph, name) for name in _list_external_reads(group) if group.is_const(name))


def _count_bytes(layout: KernelLayout) -> tuple[int, int]:
    return sum(s.nbytes for s in (*layout.inputs, *layout.weights)), sum(s.nbytes for s in layout.outputs)


def _identify_family(group: NodeGroup) -> tuple[FamilyDefinition | None, Params]:
    try:
        found = _read_params(group)
        core = group.find_integer_core() if found is None else None
        found = _read_params(core) if core is not None else found
        if found is not None:
            return found
    except UnknownShapeError:
        pass
    return None, _make_other_params(group)


def _read_params(group: NodeGroup) -> tuple[FamilyDefinition, Params] | None:
    for item in _list_candidate_families(group.runtime_ops, group.op_types):
        params = item.read(group)
        if params is not None:
            return item, params
    return None


@lru_cache(maxsize=4096)
def _list_candidate_families(runtime_ops: tuple[str, ...], op_types: tuple[str, ...]) -> tuple[FamilyDefinition, ...]:
    """List the families to try: those of the executed operators, then those of the nodes, each in reading order."""
    by_op = map_operators_to_readers()
    order = {name: number for number, name in enumerate(load_family_definitions())}
    found: dict[str, FamilyDefinition] = {}
    runtime = {op.rpartition(".")[2] for op in runtime_ops}
    for ops in (runtime, set(op_types)):
        named = {item.family: item for op in ops for item in by_op.get(op, ())}
        for family in sorted(named, key=order.__getitem__):
            found.setdefault(family, named[family])
    return tuple(found.values())


def _make_other_params(group: NodeGroup) -> dict[str, Any]:
    def shapes(tensors: Sequence[TensorInfo]) -> list[list[int] | None]:
        return [None if t.shape is None else list(t.shape) for t in tensors]

    dtypes = [t.dtype for t in (*group.inputs, *group.outputs) if t.dtype]
    return {
        "op_types": list(group.op_types),
        "in_shapes": shapes(group.inputs),
        "out_shapes": shapes(group.outputs),
        "dtype": dtypes[0] if dtypes else "",
    }
