"""Splits a graph into the kernels a runtime executes.

1. ``If`` nodes of known condition are inlined (:mod:`deepen.kernels.splitting.static_branches`); for runtimes that go
   by rules, the converter's passes are applied too (:mod:`deepen.kernels.splitting.converter_passes`).
2. ONNX Runtime is asked for the graph it executes (:mod:`deepen.kernels.splitting.onnxruntime_graph`), and its answer
   is mapped back to the model's nodes (:mod:`deepen.kernels.splitting.node_mapping`). Other runtimes fuse by rules
   (:mod:`deepen.kernels.splitting.fusion_rules`).
3. Each group of nodes is described as a kernel (:mod:`deepen.kernels.describe`).
4. Two invariants are checked: every node is in exactly one kernel or is folded, and the kernels' multiply-accumulates
   sum to those of the nodes that are executed.

Terms for nodes that do not run, each a subset of the one before:

* *folded*: in no kernel, for example an ``Identity``, a cancelled ``Reshape`` or an ``If`` whose body has the kernels;
* *never executed*: folded, and its arithmetic is not done at run time either. It is computed from constants, dead (its
  result is not used), merged with an equal node, or removed. Its multiply-accumulates are not expected in any kernel;
* *removed*: never executed because step 1 took it out of the graph.

A kernel with a *zero operand* is none of these: it runs, but all its multiplications are by zero.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from deepen.errors import GraphError, make_unknown_name_error
from deepen.graph.types import Graph, Node, TensorInfo
from deepen.kernels.describe import count_node_macs, describe_kernel, note_estimated_work
from deepen.kernels.splitting import fusion_rules, onnxruntime_graph
from deepen.kernels.splitting.converter_passes import apply_converter_passes, find_zero_tensors
from deepen.kernels.splitting.node_mapping import ExecutedNode, map_scope
from deepen.kernels.splitting.static_branches import inline_if_branches
from deepen.kernels.splitting.unknown_shapes import describe_unknown_part, find_unknown_parts
from deepen.kernels.splitting.value_numbering import CONTROL_FLOW, find_constant_tensors, may_pass_input_through
from deepen.kernels.types import Kernel, ModelSplit

if TYPE_CHECKING:
    import onnx

__all__ = ["list_split_runtimes", "split_graph"]

ORACLE = "onnxruntime"

_PASSED_THROUGH = frozenset({"Identity", "Dropout", "Expand"})
"""Operators whose input the next kernel reads where they are eliminated (an Expand, in favour of broadcasting)."""


def list_split_runtimes() -> list[str]:
    """List the runtimes that :func:`split_graph` accepts."""
    return sorted({ORACLE, *fusion_rules.list_rule_names()})


def split_graph(graph: Graph, runtime: str = ORACLE) -> ModelSplit:
    """Split a graph into the kernels a runtime executes, in the four steps of the module's docstring.

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
    # 1 and 2. Rewrite the graph as the runtime does before fusing, then find the nodes that run as one.
    if runtime == ORACLE and onnxruntime_graph.is_onnxruntime_available():
        work, answer = _query_onnxruntime(graph)
        work.map_executed_graph(answer.model.graph)
        work.warnings += answer.notes
        method, evidence = "oracle", answer.evidence
    else:
        found = fusion_rules.load_rules(runtime)
        inlined, removed = inline_if_branches(graph)
        converted, removed_by_converter = apply_converter_passes(inlined, found.simplification)
        zeros = find_zero_tensors(inlined.nodes, inlined.values)
        work = _GraphSplitter(converted, [*removed, *removed_by_converter], zero_tensors=zeros)
        work.apply_fusion_rules(found)
        method, evidence = "rules", found.evidence
        if runtime == ORACLE:
            work.warnings.append("onnxruntime is not installed: split by rules instead; pip install onnxruntime")
    # 3. Describe each group of nodes as a kernel.
    kernels = work.kernels()
    # 4. Check that no node and no multiply-accumulate is lost or counted twice.
    _check_invariants(graph, kernels, work)
    names = {n.name for n in graph.nodes}
    unknowns = find_unknown_parts(work.graph, kernels)
    stated = {part.node for part in graph.unknowns}
    notes = [
        describe_unknown_part(part) for part in unknowns if part.node not in stated and (part.cure or part.products)
    ]
    other = {name for k in kernels if k.family == "other" for name in k.node_names}
    estimated = note_estimated_work(n for n in graph.nodes if n.name in other)
    return ModelSplit(
        kernels=kernels,
        folded=tuple(name for name in work.folded if name in names),
        unassigned=tuple((k.name, k.op_types) for k in kernels if k.family == "other"),
        runtime=runtime,
        method=method,
        evidence=evidence,
        warnings=tuple(dict.fromkeys((*graph.warnings, *work.warnings, *notes, *estimated))),
        unknowns=unknowns,
    )


def _query_onnxruntime(graph: Graph) -> tuple[_GraphSplitter, onnxruntime_graph.ExecutedGraph]:
    """Ask the runtime for the graph it executes.

    Where the runtime refuses a branch of an If that the graph does not count, it is asked again without that branch.
    """
    inlined, removed = inline_if_branches(graph)
    try:
        return _GraphSplitter(inlined, removed), onnxruntime_graph.get_executed_graph(inlined)
    except GraphError:
        counted_only, removed_too = inline_if_branches(graph, assume=True)
        if len(removed_too) == len(removed):
            raise
        work = _GraphSplitter(counted_only, removed_too)
        answer = onnxruntime_graph.get_executed_graph(counted_only)
        work.warnings.append(
            "the runtime refuses a branch of an If for these input shapes; only the branches counted were split"
        )
        return work, answer


@dataclass(slots=True)
class _KernelNodes:
    """Nodes that run as one kernel, and the operators the runtime executes for them."""

    nodes: Sequence[Node]
    runtime_ops: tuple[str, ...]


@dataclass(slots=True)
class _GraphSplitter:
    """One split in progress; the module's docstring defines its terms.

    Attributes:
        graph: The graph to split, rewritten by step 1.
        removed: Names of the nodes that step 1 removed.
        pieces: Groups found so far, in execution order.
        folded: Names of nodes in no kernel.
        never_executed: Names of those whose multiply-accumulates are not expected in any kernel.
        warnings: Warnings for the user.
        zero_tensors: Tensors that are zeros for any input, including those a converter folded.
        scopes: Nodes of each scope: the main graph (``""``) and the bodies of control-flow nodes.
        entered: Scopes that were found in the runtime's graph.
        constant: Tensors that depend on no input.
        captured: Tensors written in each scope and read in another.
    """

    graph: Graph
    removed: Sequence[str]
    pieces: list[_KernelNodes] = field(default_factory=list)
    folded: list[str] = field(init=False)
    never_executed: set[str] = field(init=False)
    warnings: list[str] = field(default_factory=list)
    zero_tensors: set[str] = field(default_factory=set)
    scopes: dict[str, list[Node]] = field(init=False)
    entered: set[str] = field(default_factory=set)
    constant: set[str] = field(init=False)
    captured: dict[str, set[str]] = field(init=False)

    def __post_init__(self) -> None:
        self.zero_tensors = self.zero_tensors or find_zero_tensors(self.graph.nodes, self.graph.values)
        self.folded = list(self.removed)
        self.never_executed = set(self.removed)
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
        self.never_executed.update(
            n.name for n in self.graph.nodes if all(not o or o in self.constant for o in n.outputs)
        )
        self.captured = {}
        if len(self.scopes) > 1:
            written_in = {name: n.scope for n in self.graph.nodes for name in n.outputs if name}
            for node in self.graph.nodes:
                for name in node.inputs:
                    if written_in.get(name, node.scope) != node.scope:
                        self.captured.setdefault(written_in[name], set()).add(name)

    # --- by asking the runtime ----------------------------------------------------------------------------------

    def map_executed_graph(self, answer: onnx.GraphProto) -> None:
        """Group nodes by the runtime's graph."""
        assert self.graph.model is not None
        self._map_body("", self.graph.model.graph, answer, ChainMap())
        self._split_unexecuted_bodies()

    def _map_body(
        self, scope: str, original: onnx.GraphProto, answer: onnx.GraphProto, outer: ChainMap[str, str]
    ) -> None:
        """Map one scope of the runtime's graph, then the bodies inside it.

        Args:
            scope: Scope to map.
            original: Its graph in the model.
            answer: Its graph in the runtime's answer.
            outer: Names of the tensors of the scopes around it: name in the answer -> full name.
        """
        self.entered.add(scope)
        # 1. Give the tensors of the answer the full names they have in ``Graph``.
        names: dict[str, str] = {}
        prefix = f"{scope}/" if scope else ""
        local = [o for proto in answer.node for o in proto.output]
        local += [i.name for i in answer.input] + [t.name for t in answer.initializer]
        tensors = self.graph.tensors
        for name in filter(None, local):
            full = prefix + name
            names[name] = name if full not in tensors and name in tensors else full  # of an inlined branch

        def find_full_name(name: str) -> str:
            return names.get(name) or outer.get(name, name)

        # 2. Tie the executed nodes to the model's nodes.
        executed_nodes = [
            ExecutedNode(
                proto.name, proto.op_type, proto.domain,
                tuple(map(find_full_name, proto.input)), tuple(map(find_full_name, proto.output)), proto,
            )
            for proto in answer.node
        ]  # fmt: skip
        nodes = self.scopes.get(scope, [])
        outputs = {names.get(o.name) or outer.get(o.name, prefix + o.name) for o in original.output}
        mapped = map_scope(
            nodes, executed_nodes, constant=self.constant, outputs=outputs, captured=self.captured.get(scope, ()),
            values=self.graph.values, neutral=lambda node: may_pass_input_through(node, self.graph),
        )  # fmt: skip
        self.folded += mapped.folded
        self.never_executed.update(mapped.never_executed)
        self.warnings += mapped.warnings
        # 3. Collect the groups, and go on with the bodies of the control-flow nodes the runtime executes.
        bodies = {proto.name: proto for proto in original.node if proto.op_type in CONTROL_FLOW}
        for group in mapped.groups:
            self.pieces.append(_KernelNodes(group.nodes, tuple(r.qualified for r in group.runtime)))
        visible = outer.new_child(names)
        for name, executed in mapped.containers.items():
            taken = {a.name: a.g for a in executed.proto.attribute if a.HasField("g")}
            for attribute in bodies[name].attribute:
                if attribute.HasField("g"):
                    self._map_body(f"{name}.{attribute.name}", attribute.g, taken[attribute.name], visible)

    def _split_unexecuted_bodies(self) -> None:
        """Split, node by node, the bodies that the runtime's graph does not have: it rewrote the node around them."""
        for scope, nodes in self.scopes.items():
            if scope in self.entered:
                continue
            names = []
            for node in nodes:
                if node.name in self.never_executed or node.op_type in CONTROL_FLOW:
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
        """Group the nodes of every scope by fusion rules."""
        main_outputs = {t.name for t in self.graph.outputs}
        for scope, nodes in self.scopes.items():
            read = {i for n in nodes for i in n.inputs}
            ends = {o for n in nodes for o in n.outputs if o and o not in read}
            read_outside = self.captured.get(scope, set()) | (main_outputs if not scope else ends)
            groups, folded = fusion_rules.fuse_nodes(nodes, self.graph, found, self.constant, read_outside)
            self.folded += folded
            self.pieces += [_KernelNodes(group, ()) for group in groups]

    # --- kernels ------------------------------------------------------------------------------------------------

    def kernels(self) -> tuple[Kernel, ...]:
        """Describe every group as a kernel."""
        boundaries = _GroupBoundaries(self.graph, self.folded)
        found = []
        for piece in self.pieces:
            read, written = boundaries.of(piece.nodes, self.constant)
            kernel = describe_kernel(
                boundaries.rewire_inputs(piece.nodes),
                self.graph,
                name=piece.nodes[0].name,
                inputs=read,
                outputs=written,
                runtime_ops=piece.runtime_ops,
                multiplicity=max(n.multiplicity for n in piece.nodes),
            )
            zero_operand = _multiplies_zeros(kernel, piece, self.zero_tensors)
            found.append(replace(kernel, zero_operand=True) if zero_operand else kernel)
        return tuple(found)


def _multiplies_zeros(kernel: Kernel, piece: _KernelNodes, zero_tensors: set[str]) -> bool:
    """Return whether all multiplications of a kernel are by zero.

    1. A kernel without multiply-accumulates has none.
    2. All activations it reads are zeros.
    3. A product with 0 follows a convolution in the same kernel: the runtime multiplied the weights by 0 beforehand.
    """
    if not kernel.macs:  # 1
        return False
    if kernel.inputs and all(t.name in zero_tensors for t in kernel.inputs):  # 2
        return True
    return any(n.op_type == "Mul" and not zero_tensors.isdisjoint(n.inputs) for n in piece.nodes)  # 3


class _GroupBoundaries:
    """Tensors that groups of nodes exchange once folded nodes are left out.

    Attributes:
        graph: The graph the groups are from.
        readers: Tensor -> names of the nodes that read it.
        outputs: Outputs of the graph.
        alias: Output of a folded node that passes its input through -> that input.
    """

    def __init__(self, graph: Graph, folded: Collection[str]) -> None:
        self.graph = graph
        self.readers: dict[str, list[str]] = {}
        for node in graph.nodes:
            for name in node.inputs:
                if name:
                    self.readers.setdefault(name, []).append(node.name)
        self.outputs = {t.name for t in graph.outputs}
        skipped = set(folded)
        self.alias = {
            node.outputs[0]: node.inputs[0]
            for node in graph.nodes
            if node.name in skipped
            and node.inputs
            and node.outputs
            and (node.op_type in _PASSED_THROUGH or may_pass_input_through(node, graph))
        }

    def source(self, name: str) -> str:
        """Name of the tensor that is read in place of this one once folded nodes are left out."""
        passed = []
        while name in self.alias:
            passed.append(name)
            name = self.alias[name]
        self.alias.update(dict.fromkeys(passed[:-1], name))  # a second walk from any of them is one step
        return name

    def rewire_inputs(self, nodes: Sequence[Node]) -> list[Node]:
        """Copy nodes so that they read the outputs of nodes that run, not of folded ones."""
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
        """Find the activations a group reads, and the tensors it writes for other groups or that no node reads."""
        members = {n.name for n in nodes}
        inside = {o for n in nodes for o in n.outputs if o}
        read: dict[str, None] = {}
        for node in nodes:
            for original in node.inputs:
                name = self.source(original)
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
    """Check the invariants of a split.

    1. No node is in two kernels.
    2. Every node of the model is either in a kernel or folded, never both.
    3. The multiply-accumulates of the kernels sum to those of all nodes but the never executed ones.

    Raises:
        GraphError: If one of them does not hold.
    """
    # 1.
    where: dict[str, str] = {}
    for kernel in kernels:
        for name in kernel.node_names:
            if name in where:
                raise GraphError(
                    f"node '{name}' is in two kernels, '{where[name]}' and '{kernel.name}'; please report the model"
                )
            where[name] = kernel.name
    # 2.
    folded = set(work.folded)
    both = folded & where.keys()
    lost = [n.name for n in graph.nodes if n.name not in where and n.name not in folded]
    if lost or both:
        names = sorted(lost or both)
        problem = "belong to no kernel" if lost else "are both folded and in a kernel"
        raise GraphError(f"{len(names)} nodes {problem}, first '{names[0]}'; please report the model")
    # 3.
    expected = sum(count_node_macs(n, work.graph) for n in work.graph.nodes if n.name not in work.never_executed)
    found = sum(k.macs for k in kernels)
    if expected != found:
        raise GraphError(f"kernels sum to {found} multiply-accumulates, nodes to {expected}; please report the model")
