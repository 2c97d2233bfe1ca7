"""Splits a graph into the kernels a runtime executes.

ONNX Runtime is asked (:mod:`deepen.kernels.splitting.onnxruntime_graph`) and its answer mapped back to the model's
nodes (:mod:`deepen.kernels.splitting.node_mapping`); other runtimes follow rules
(:mod:`deepen.kernels.splitting.fusion_rules`). Whatever the method, two
invariants are checked: every node is in exactly one kernel or does no work, and the kernels' multiply-accumulates sum
to those of the nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from deepen.errors import GraphError, make_unknown_name_error
from deepen.graph.types import Graph, Node, TensorInfo
from deepen.kernels.describe import count_node_macs, describe_kernel
from deepen.kernels.splitting import fusion_rules, onnxruntime_graph
from deepen.kernels.splitting.converter_passes import apply_converter_passes, find_zero_tensors
from deepen.kernels.splitting.node_mapping import ExecutedNode, map_scope
from deepen.kernels.splitting.static_branches import inline_if_branches
from deepen.kernels.splitting.value_numbering import CONTROL_FLOW, find_constant_tensors, may_pass_input_through
from deepen.kernels.types import Kernel, ModelSplit

if TYPE_CHECKING:
    import onnx

__all__ = ["list_split_runtimes", "split_graph"]

ORACLE = "onnxruntime"

_PASSED_THROUGH = frozenset({"Identity", "Dropout", "Expand"})
"""Operators whose input the next kernel reads where they are eliminated (an Expand, in favour of broadcasting)."""


def list_split_runtimes() -> list[str]:
    """Runtimes :func:`split_graph` knows."""
    return sorted({ORACLE, *fusion_rules.list_rule_names()})


def split_graph(graph: Graph, runtime: str = ORACLE) -> ModelSplit:
    """Split a graph into the kernels a runtime executes.

    Args:
        graph: From :func:`deepen.graph.load_graph`.
        runtime: ``onnxruntime`` (asked, level EXTENDED on the CPU; by rules where it is not installed), or the name of
            a rule file in ``kernels/rules``.

    Raises:
        ConfigError: If there is no such runtime.
        GraphError: If the runtime does not accept the model, or an invariant does not hold.
        StorageError: If the temporary folder cannot be written.
    """
    if runtime not in list_split_runtimes():
        raise make_unknown_name_error("runtime", runtime, list_split_runtimes())
    if runtime == ORACLE and onnxruntime_graph.is_onnxruntime_available():
        work, answer = _query_onnxruntime(graph)
        work.map_executed_graph(answer.model.graph)
        method, evidence = "oracle", answer.evidence
    else:
        found = fusion_rules.load_rules(runtime)
        whole, gone = inline_if_branches(graph)
        flat, removed = apply_converter_passes(whole, found.simplification)
        work = _GraphSplitter(flat, [*gone, *removed], zero=find_zero_tensors(whole.nodes, whole.values))
        work.apply_fusion_rules(found)
        method, evidence = "rules", found.evidence
        if runtime == ORACLE:
            work.warnings.append("onnxruntime is not installed: split by rules instead; pip install onnxruntime")
    kernels = work.kernels()
    _check_invariants(graph, kernels, work)
    names = {n.name for n in graph.nodes}
    return ModelSplit(
        kernels=kernels,
        folded=tuple(name for name in work.folded if name in names),
        unassigned=tuple((k.name, k.op_types) for k in kernels if k.family == "other"),
        runtime=runtime,
        method=method,
        evidence=evidence,
        warnings=tuple(dict.fromkeys((*graph.warnings, *work.warnings))),
    )


def _query_onnxruntime(graph: Graph) -> tuple[_GraphSplitter, onnxruntime_graph.ExecutedGraph]:
    """Ask the runtime; where it refuses the branch of an If that is not counted, ask without that branch."""
    flat, gone = inline_if_branches(graph)
    try:
        return _GraphSplitter(flat, gone), onnxruntime_graph.get_executed_graph(flat)
    except GraphError:
        without, more = inline_if_branches(graph, assume=True)
        if len(more) == len(gone):
            raise
        work = _GraphSplitter(without, more)
        answer = onnxruntime_graph.get_executed_graph(without)
        work.warnings.append(
            "the runtime refuses a branch of an If for these input shapes; only the branches counted were split"
        )
        return work, answer


@dataclass(slots=True)
class _KernelNodes:
    """Nodes that run as one kernel, and what the runtime executes for them."""

    nodes: Sequence[Node]
    runtime_ops: tuple[str, ...]


@dataclass(slots=True)
class _GraphSplitter:
    """One split in progress.

    Attributes:
        graph: What is split: If nodes of known condition are dissolved.
        gone: Nodes that went with them.
        pieces: Found so far, in execution order.
        folded: Names of nodes that do no work.
        idle: Those of them whose multiply-accumulates really vanish: constant, dead, merged or in a branch not taken.
        warnings: What a reader should know.
        zero: Tensors that are zeros whatever the input is, those included that a converter folded.
    """

    graph: Graph
    gone: Sequence[str]
    pieces: list[_KernelNodes] = field(default_factory=list)
    folded: list[str] = field(init=False)
    idle: set[str] = field(init=False)
    warnings: list[str] = field(default_factory=list)
    zero: set[str] = field(default_factory=set)
    scopes: dict[str, list[Node]] = field(init=False)
    entered: set[str] = field(default_factory=set)
    constant: set[str] = field(init=False)
    captured: dict[str, set[str]] = field(init=False)

    def __post_init__(self) -> None:
        self.zero = self.zero or find_zero_tensors(self.graph.nodes, self.graph.values)
        self.folded = list(self.gone)
        self.idle = set(self.gone)
        self.scopes = {}
        for node in self.graph.nodes:
            self.scopes.setdefault(node.scope, []).append(node)
        tensors = self.graph.tensors
        produced = {name for n in self.graph.nodes if n.op_type != "Constant" for name in n.outputs}
        replaceable = {t.name for t in self.graph.inputs}
        if self.graph.model is not None:
            from deepen.kernels.splitting.skeleton_model import list_overridable_initialisers

            replaceable |= list_overridable_initialisers(self.graph.model)
        stored = {t.name for t in tensors.values() if t.constant and t.name not in produced} - replaceable
        static = {t.name for t in tensors.values() if t.shape is not None}
        self.constant = find_constant_tensors(self.graph.nodes, stored, static=static)
        self.idle.update(n.name for n in self.graph.nodes if all(not o or o in self.constant for o in n.outputs))
        self.captured = {}
        if len(self.scopes) > 1:
            for scope in self.scopes:
                self.captured[scope] = {i for n in self.graph.nodes if n.scope != scope for i in n.inputs if i}

    # --- by the oracle ------------------------------------------------------------------------------------------

    def map_executed_graph(self, answer: onnx.GraphProto) -> None:
        """Map the runtime's graph."""
        assert self.graph.model is not None
        self._map("", self.graph.model.graph, answer, {})
        self._split_unexecuted_bodies()

    def _map(self, scope: str, original: onnx.GraphProto, answer: onnx.GraphProto, outer: Mapping[str, str]) -> None:
        self.entered.add(scope)
        names = dict(outer)
        prefix = f"{scope}/" if scope else ""
        local = [o for proto in answer.node for o in proto.output]
        local += [i.name for i in answer.input] + [t.name for t in answer.initializer]
        tensors = self.graph.tensors
        for name in filter(None, local):
            full = prefix + name
            names[name] = name if full not in tensors and name in tensors else full  # of a dissolved branch
        done = [
            ExecutedNode(
                proto.name, proto.op_type, proto.domain,
                tuple(names.get(i, i) for i in proto.input), tuple(names.get(o, o) for o in proto.output), proto,
            )
            for proto in answer.node
        ]  # fmt: skip
        nodes = self.scopes.get(scope, [])
        outputs = {names.get(o.name, prefix + o.name) for o in original.output}
        mapped = map_scope(
            nodes, done, constant=self.constant, outputs=outputs, captured=self.captured.get(scope, ()),
            values=self.graph.values, neutral=lambda node: may_pass_input_through(node, self.graph),
        )  # fmt: skip
        self.folded += mapped.folded
        self.idle.update(mapped.idle)
        self.warnings += mapped.warnings
        bodies = {proto.name: proto for proto in original.node if proto.op_type in CONTROL_FLOW}
        for group in mapped.groups:
            self.pieces.append(_KernelNodes(group.nodes, tuple(r.qualified for r in group.runtime)))
        for name, executed in mapped.containers.items():
            taken = {a.name: a.g for a in executed.proto.attribute if a.HasField("g")}
            for attribute in bodies[name].attribute:
                if attribute.HasField("g"):
                    self._map(f"{name}.{attribute.name}", attribute.g, taken[attribute.name], names)

    def _split_unexecuted_bodies(self) -> None:
        """Bodies the runtime does not execute as such (it dissolved the node they belong to): node by node."""
        for scope, nodes in self.scopes.items():
            if scope in self.entered:
                continue
            names = []
            for node in nodes:
                if node.name in self.idle or node.op_type in CONTROL_FLOW:
                    self.folded.append(node.name)
                else:
                    names.append(node.name)
                    self.pieces.append(_KernelNodes([node], ()))
            if names:
                self.warnings.append(
                    f"the runtime rewrites the node around '{scope}'; its {len(names)} nodes are split one by one"
                )

    # --- by rules -----------------------------------------------------------------------------------------------

    def apply_fusion_rules(self, found: fusion_rules.FusionRules) -> None:
        """Apply rules to every scope."""
        main_outputs = {t.name for t in self.graph.outputs}
        for scope, nodes in self.scopes.items():
            read = {i for n in nodes for i in n.inputs}
            ends = {o for n in nodes for o in n.outputs if o and o not in read}
            kept = self.captured.get(scope, set()) | (main_outputs if not scope else ends)
            groups, folded = fusion_rules.fuse_nodes(nodes, self.graph, found, self.constant, kept)
            self.folded += folded
            self.pieces += [_KernelNodes(group, ()) for group in groups]

    # --- kernels ------------------------------------------------------------------------------------------------

    def kernels(self) -> tuple[Kernel, ...]:
        """Describe every piece."""
        edges = _GroupBoundaries(self.graph, self.folded)
        found = []
        for piece in self.pieces:
            read, written = edges.of(piece.nodes, self.constant)
            kernel = describe_kernel(
                edges.rewire_inputs(piece.nodes),
                self.graph,
                name=piece.nodes[0].name,
                inputs=read,
                outputs=written,
                runtime_ops=piece.runtime_ops,
                multiplicity=max(n.multiplicity for n in piece.nodes),
            )
            found.append(replace(kernel, zero_operand=True) if _multiplies_zeros(kernel, piece, self.zero) else kernel)
        return tuple(found)


def _multiplies_zeros(kernel: Kernel, piece: _KernelNodes, zero: set[str]) -> bool:
    """Whether a kernel's multiplications all have a zero: all it reads is zeros, or a factor of 0 is in its weights."""
    if not kernel.macs:
        return False
    if kernel.inputs and all(t.name in zero for t in kernel.inputs):
        return True
    # A product with 0 behind a convolution, in one kernel: the runtime multiplied the weights beforehand.
    return any(n.op_type == "Mul" and not zero.isdisjoint(n.inputs) for n in piece.nodes)


class _GroupBoundaries:
    """What groups of nodes exchange."""

    def __init__(self, graph: Graph, folded: Collection[str]) -> None:
        self.graph = graph
        self.readers: dict[str, list[str]] = {}
        for node in graph.nodes:
            for name in node.inputs:
                if name:
                    self.readers.setdefault(name, []).append(node.name)
        self.outputs = {t.name for t in graph.outputs}
        gone = set(folded)
        self.alias = {
            node.outputs[0]: node.inputs[0]
            for node in graph.nodes
            if node.name in gone
            and node.inputs
            and node.outputs
            and (node.op_type in _PASSED_THROUGH or may_pass_input_through(node, graph))
        }

    def source(self, name: str) -> str:
        """What a tensor really is, when nodes that do no work are left out."""
        while name in self.alias:
            name = self.alias[name]
        return name

    def rewire_inputs(self, nodes: Sequence[Node]) -> list[Node]:
        """The nodes, reading what they really read."""
        if not self.alias:
            return list(nodes)
        found = []
        for node in nodes:
            inputs = tuple(map(self.source, node.inputs))
            found.append(node if inputs == node.inputs else replace(node, inputs=inputs))
        return found

    def of(
        self, nodes: Sequence[Node], constant: Collection[str]
    ) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
        """Activations a group reads, and tensors it writes for others (or nobody: then all that nobody reads)."""
        members = {n.name for n in nodes}
        inside = {o for n in nodes for o in n.outputs if o}
        read: dict[str, None] = {}
        for node in nodes:
            for given in node.inputs:
                name = self.source(given)
                if name and name not in inside and name not in constant:
                    read[name] = None
        written = [
            o for n in nodes for o in n.outputs
            if o and (o in self.outputs or not members.issuperset(self.readers.get(o, ())) or o not in self.readers)
        ]  # fmt: skip
        return tuple(map(self._tensor, read)), tuple(map(self._tensor, written))

    def _tensor(self, name: str) -> TensorInfo:
        return self.graph.tensors.get(name) or TensorInfo(name, None, "")


def _check_invariants(graph: Graph, kernels: Sequence[Kernel], work: Any) -> None:
    """Check the invariants.

    Raises:
        GraphError: If a node is lost or counted twice, or multiply-accumulates are.
    """
    where: dict[str, str] = {}
    for kernel in kernels:
        for name in kernel.node_names:
            if name in where:
                raise GraphError(
                    f"node '{name}' is in two kernels, '{where[name]}' and '{kernel.name}'; please report the model"
                )
            where[name] = kernel.name
    folded = set(work.folded)
    both = folded & where.keys()
    lost = [n.name for n in graph.nodes if n.name not in where and n.name not in folded]
    if lost or both:
        names = sorted(lost or both)
        problem = "belong to no kernel" if lost else "are both folded and in a kernel"
        raise GraphError(f"{len(names)} nodes {problem}, first '{names[0]}'; please report the model")
    expected = sum(count_node_macs(n, work.graph) for n in work.graph.nodes if n.name not in work.idle)
    found = sum(k.macs for k in kernels)
    if expected != found:
        raise GraphError(f"kernels sum to {found} multiply-accumulates, nodes to {expected}; please report the model")
