"""Maps the nodes a runtime executes back to the nodes of the model file.

An executed node is tied to the model by the names of the tensors it writes, else by its own name. Walking the model
backwards from those tensors, up to tensors that other executed nodes write, gives the nodes it stands for. Executed
nodes without any tie (casts, transposes and reshapes the runtime inserted) belong to the node they serve.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deepen.errors import GraphError
from deepen.graph.types import Node
from deepen.kernels.splitting.value_numbering import CONTROL_FLOW, find_duplicate_nodes, is_standard_domain

__all__ = ["LAYOUT", "ExecutedNode", "MappedGroup", "MappedScope", "map_scope"]

LAYOUT = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast", "Expand"})
"""Operators a runtime inserts, moves or cancels because they compute nothing."""

TRANSPOSING = frozenset({"FusedMatMul", "TransposeMatMul"})
"""Operators that read an operand transposed: a Transpose in front of them is part of their kernel."""

VANISHING = frozenset({"Identity", "Dropout", "Constant"})
"""Operators that do no work at run time wherever the runtime eliminates them."""


@dataclass(frozen=True, slots=True)
class ExecutedNode:
    """One node of the graph the runtime executes; tensor names as in ``Graph``."""

    name: str
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    proto: Any = field(default=None, repr=False, compare=False)

    @property
    def qualified(self) -> str:
        """Operator with its domain where that is not the ONNX standard."""
        return self.op_type if is_standard_domain(self.domain) else f"{self.domain}.{self.op_type}"


@dataclass(slots=True)
class MappedGroup:
    """Nodes of the model that run as one kernel.

    Attributes:
        nodes: In the model's order.
        runtime: What the runtime executes for them, in its order.
        order: Position of the first of those in the executed graph.
    """

    nodes: list[Node]
    runtime: list[ExecutedNode]
    order: int


@dataclass(slots=True)
class MappedScope:
    """One scope of a model, mapped.

    Attributes:
        groups: In execution order.
        folded: Names of nodes that do no work at run time.
        idle: Those of them that compute something nobody uses, or that an equal node computes already.
        containers: If/Loop/Scan node of the model -> what the runtime executes for it.
        warnings: What a reader should know.
    """

    groups: list[MappedGroup] = field(default_factory=list)
    folded: list[str] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)
    containers: dict[str, ExecutedNode] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def map_scope(
    nodes: Sequence[Node],
    executed: Sequence[ExecutedNode],
    *,
    constant: Collection[str],
    outputs: Collection[str],
    captured: Collection[str] = (),
    values: Mapping[str, Any],
    neutral: Callable[[Node], bool] = lambda node: False,
) -> MappedScope:
    """Map one scope.

    Args:
        nodes: The scope's nodes in the model, topological.
        executed: The scope's nodes in the runtime's graph, topological.
        constant: Tensors that do not depend on any input.
        outputs: The scope's outputs.
        captured: Tensors of this scope that bodies below it read.
        values: Values of small constants.
        neutral: Whether a node may hand on its input unchanged (then a runtime may eliminate it).

    Raises:
        GraphError: If a node that computes something cannot be attributed to anything executed.
    """
    return _ScopeMapper(nodes, executed, constant, {*outputs, *captured}, set(outputs), values, neutral).run()


class _ScopeMapper:
    def __init__(
        self,
        nodes: Sequence[Node],
        executed: Sequence[ExecutedNode],
        constant: Collection[str],
        used: set[str],
        outputs: set[str],
        values: Mapping[str, Any],
        neutral: Callable[[Node], bool],
    ) -> None:
        self.nodes = nodes
        self.executed = executed
        self.constant = constant
        self.used = used
        self.outputs = outputs
        self.values = values
        self.neutral = neutral
        self.producer = {name: node for node in nodes for name in node.outputs if name}
        self.position = {node.name: index for index, node in enumerate(nodes)}
        self.rank = {id(done): index for index, done in enumerate(executed)}
        self.anchors: list[tuple[str, ...]] = [()] * len(executed)
        self.equal: dict[str, str] = {}  # node -> the equal node that the runtime kept
        self.owner: dict[str, int] = {}  # node name -> index into executed
        self.home: list[int] = list(range(len(executed)))  # executed -> executed it is merged into
        self.result = MappedScope()

    # --- ties ---------------------------------------------------------------------------------------------------

    def match_by_name(self) -> None:
        """Tie executed nodes to tensors of the model: by tensor names, else by node name."""
        by_name = {node.name: node for node in self.nodes}
        for index, done in enumerate(self.executed):
            hits = tuple(name for name in done.outputs if name in self.producer)
            twin = by_name.get(done.name)
            same = twin is not None and twin.op_type == done.op_type and twin.domain == done.domain
            if hits:
                self.anchors[index] = hits
            elif same and twin is not None:
                self.anchors[index] = tuple(name for name in twin.outputs if name)
        # A transpose or cast the runtime put behind a node takes over the name of that node's output.
        tied_by_name = {
            name: index
            for index, done in enumerate(self.executed)
            for name in self.anchors[index]
            if name not in done.outputs
        }
        for index, done in enumerate(self.executed):
            rivals = {tied_by_name.get(name, index) for name in self.anchors[index] if name in done.outputs}
            if rivals and rivals != {index} and index not in rivals:
                self.anchors[index] = ()
                self.home[index] = min(rivals)

    def find_merged_nodes(self) -> None:
        """Find nodes the runtime merges with an equal one; which of them it keeps shows in what is tied."""
        tied = {self.producer[name].name for names in self.anchors for name in names}
        classes: dict[str, list[str]] = {}
        for name, earlier in find_duplicate_nodes(self.nodes, self.values, self.outputs).items():
            classes.setdefault(earlier.name, [earlier.name]).append(name)
        for names in classes.values():
            # A merged result has several readers, so it is a tensor of the executed graph. Where none of these is, the
            # runtime fused each of them into what follows before it could merge them: all of them run.
            kept = next((name for name in names if name in tied), None)
            if kept is not None:
                self.equal.update((name, kept) for name in names if name not in tied)

    # --- attribution --------------------------------------------------------------------------------------------

    def walk(self) -> None:
        """Give every executed node the model's nodes between its outputs and the outputs of other executed nodes."""
        boundary = {name for names in self.anchors for name in names}
        starts = {self.producer[name].name for name in boundary}
        for index, names in enumerate(self.anchors):
            stack = [self.producer[name] for name in names]
            first = {node.name for node in stack}
            while stack:
                node = stack.pop()
                if node.name in self.owner or (node.name in starts and node.name not in first):
                    continue
                if node.name not in first and (self._is_constant(node) or node.name in self.equal):
                    continue
                self.owner[node.name] = index
                for name in node.inputs:
                    if name and name not in boundary and name in self.producer:
                        stack.append(self.producer[name])

    def _is_constant(self, node: Node) -> bool:
        return all(not name or name in self.constant for name in node.outputs)

    def merge_unmatched(self) -> None:
        """Merge executed nodes without nodes of their own into the node they serve: the reader, else the writer."""
        owners = set(self.owner.values())
        readers: dict[str, list[int]] = {}
        writer: dict[str, int] = {}
        for index, done in enumerate(self.executed):
            for name in done.inputs:
                readers.setdefault(name, []).append(index)
            for name in done.outputs:
                writer[name] = index
        for index in reversed(range(len(self.executed))):
            if index in owners or self.home[index] != index:
                continue
            done = self.executed[index]
            after = [r for name in done.outputs for r in readers.get(name, []) if self._root(r) != index]
            if after:
                self.home[index] = self._root(min(after))
        for index, done in enumerate(self.executed):
            if index in owners or self.home[index] != index:
                continue
            before = [writer[name] for name in done.inputs if name in writer and self._root(writer[name]) != index]
            if before:
                self.home[index] = self._root(before[0])

    def _root(self, index: int) -> int:
        seen = set()
        while self.home[index] != index and index not in seen:
            seen.add(index)
            index = self.home[index]
        return index

    def group(self) -> dict[int, MappedGroup]:
        """Collect nodes and executed nodes by root."""
        groups: dict[int, MappedGroup] = {}
        for index, done in enumerate(self.executed):
            root = self._root(index)
            made = groups.setdefault(root, MappedGroup([], [], index))
            made.runtime.append(done)
        for node in self.nodes:
            if node.name in self.owner:
                groups[self._root(self.owner[node.name])].nodes.append(node)
        return groups

    # --- what is left -------------------------------------------------------------------------------------------

    def find_live_nodes(self, *, merged: bool) -> set[str]:
        """Names of nodes whose outputs reach an output of the scope.

        Args:
            merged: Whether to go through the node the runtime kept instead of one that equals it.
        """
        by_name = {node.name: node for node in self.nodes}
        needed: set[str] = set()
        stack = [self.producer[name] for name in self.used if name in self.producer]
        while stack:
            node = stack.pop()
            if merged and node.name in self.equal:
                node = by_name[self.equal[node.name]]
            if node.name in needed:
                continue
            needed.add(node.name)
            stack += [self.producer[name] for name in node.inputs if name in self.producer]
        return needed

    def attribute_unexecuted_nodes(self, groups: Mapping[int, MappedGroup]) -> None:
        """Nodes nothing executed stands for: eliminated, merged with an equal one, dead, or attached to a neighbour."""
        rest = [node for node in self.nodes if node.name not in self.owner]
        if not rest:
            return
        used = self.find_live_nodes(merged=False)
        needed = self.find_live_nodes(merged=True)
        attached = []
        for node in rest:
            if node.op_type in VANISHING or self._is_constant(node):
                self.result.folded.append(node.name)
            elif node.name not in used:
                self.result.folded.append(node.name)
                self.result.idle.append(node.name)
                self.result.warnings.append(f"node '{node.name}' ({node.op_type}) computes nothing that is used")
            elif node.name not in needed:  # equals a node that runs, or serves only such nodes
                self.result.folded.append(node.name)
                self.result.idle.append(node.name)
            elif node.op_type in LAYOUT or not node.inputs or self.neutral(node):
                self.result.folded.append(node.name)
            else:
                attached.append(node)
        for node in attached:
            root = self._neighbour(node)
            if root is None:
                raise GraphError(
                    f"node '{node.name}' ({node.op_type}) is not in the graph the runtime executes and cannot be "
                    "attributed to any part of it; please report the model"
                )
            groups[root].nodes.append(node)
            self.owner[node.name] = root
            self.result.warnings.append(
                f"node '{node.name}' ({node.op_type}) was counted with the kernel before it: the runtime renamed it"
            )

    def _neighbour(self, node: Node) -> int | None:
        seen = {node.name}
        stack = [node]
        while stack:
            current = stack.pop()
            for name in current.inputs:
                before = self.producer.get(name)
                if before is None or before.name in seen:
                    continue
                seen.add(before.name)
                if before.name in self.owner:
                    return self._root(self.owner[before.name])
                stack.append(before)
        for other in self.nodes[self.position[node.name] + 1 :]:
            if other.name in self.owner and not set(other.inputs).isdisjoint(node.outputs):
                return self._root(self.owner[other.name])
        return None

    # --- refinement ---------------------------------------------------------------------------------------------

    def _find_absorbed_transposes(self, group: MappedGroup) -> set[str]:
        """Names of the transposes a product reads its operands through: the nearest in front of each such operand."""
        done = next((r for r in group.runtime if r.op_type in TRANSPOSING and r.proto is not None), None)
        product = next((n for n in reversed(group.nodes) if n.op_type == "MatMul"), None)
        if done is None or product is None:
            return set()
        flags = {a.name: a.i for a in done.proto.attribute}
        inside = {n.name for n in group.nodes}
        found = set()
        for name, flag in zip(product.inputs, ("transA", "transB"), strict=False):
            node = self.producer.get(name) if flags.get(flag) else None
            while node is not None and node.name in inside:
                if node.op_type == "Transpose":
                    found.add(node.name)
                    break
                before = [i for i in node.inputs if i not in self.constant]
                node = self.producer.get(before[0]) if len(before) == 1 else None
        return found

    def trim(self, group: MappedGroup) -> list[MappedGroup]:
        """Take out of a group what the runtime eliminated, and give moved layout operators a kernel of their own."""
        run = {r.op_type for r in group.runtime}
        gone = [
            n for n in group.nodes
            if n.op_type in VANISHING or self._is_constant(n) or (n.op_type not in run and self.neutral(n))
        ]  # fmt: skip
        if 0 < len(gone) < len(group.nodes):
            self.result.folded += [n.name for n in gone]
            group.nodes = [n for n in group.nodes if n not in gone]
        absorbed = self._find_absorbed_transposes(group)
        layout = [n for n in group.nodes if n.op_type in LAYOUT and n.name not in absorbed]
        other = [n for n in group.nodes if n not in layout]
        spare = [r for r in group.runtime if r.op_type in LAYOUT]
        core = [r for r in group.runtime if r.op_type not in LAYOUT]
        pairs: list[tuple[Node, ExecutedNode]] = []
        for node in layout:
            same = next((r for r in spare if r.op_type == node.op_type), None)
            if same is not None:
                spare.remove(same)
                pairs.append((node, same))
        rest = core + spare
        if not layout or (bool(other) != bool(rest) and not (pairs and not other and not core)):
            return [group]  # nothing to take out, or no telling which of them does the rest
        if not other and not pairs:
            return [group]
        paired = {node.name for node, _ in pairs}
        self.result.folded += [n.name for n in layout if n.name not in paired]
        made = [MappedGroup([node], [same], self.rank[id(same)]) for node, same in pairs]
        if other:
            rest.sort(key=lambda r: self.rank[id(r)])
            made.append(MappedGroup(other, rest, self.rank[id(rest[0])]))
        else:
            made[0].runtime += rest
        return made

    def run(self) -> MappedScope:
        self.match_by_name()
        self.find_merged_nodes()
        self.walk()
        self.merge_unmatched()
        groups = self.group()
        self.attribute_unexecuted_nodes(groups)
        for root in sorted(groups, key=lambda r: groups[r].order):
            group = groups[root]
            group.nodes.sort(key=lambda n: self.position[n.name])
            containers = [n for n in group.nodes if n.op_type in CONTROL_FLOW]
            for node in containers:
                match = [r for r in group.runtime if r.op_type == node.op_type]
                if match:
                    self.result.containers[node.name] = match[0]
                group.nodes.remove(node)
                self.result.folded.append(node.name)
            if group.nodes:
                self.result.groups += self.trim(group)
            elif not containers:
                self._surplus(group)
        self.result.groups.sort(key=lambda g: g.order)
        return self.result

    def _surplus(self, group: MappedGroup) -> None:
        """Executed nodes that could not be tied to anything: attach to the kernel before, so that none is lost."""
        names = ", ".join(r.qualified for r in group.runtime)
        if self.result.groups:
            self.result.groups[-1].runtime += group.runtime
        self.result.warnings.append(f"the runtime executes {names}, which stands for no node of the model")
