"""Maps the nodes a runtime executes back to the nodes of the model file.

1. Tie each executed node to tensors of the model: by the names of the tensors it writes, else by its own name (of
   a Gemm, the name of the product it was made of).
2. Find the nodes that the runtime merges with an equal one.
3. Assign nodes: walk the model backwards from the tied tensors of an executed node, up to tensors that are tied to
   others. The nodes on the way are those it stands for.
4. Merge executed nodes without nodes of their own (casts, transposes and reshapes the runtime inserted) into the
   executed node they serve.
5. Collect the groups: nodes of the model, and the executed nodes that stand for them.
6. Account for the nodes in no group: folded, or attached to a neighbour.
7. Finish each group: take out control-flow nodes, eliminated nodes, and layout operators that run on their own.

:mod:`deepen.kernels.splitting.split` defines *folded* and *never executed*.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from deepen.errors import GraphError
from deepen.graph.types import Node
from deepen.kernels.splitting.value_numbering import CONTROL_FLOW, find_duplicate_nodes, is_standard_domain

__all__ = ["LAYOUT", "ExecutedNode", "MappedGroup", "MappedScope", "map_scope"]

LAYOUT = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast", "Expand"})
"""Operators that only change the layout or type of data; a runtime inserts, moves and cancels them."""

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
        """Operator type, with its domain unless that is the ONNX standard one."""
        return self.op_type if is_standard_domain(self.domain) else f"{self.domain}.{self.op_type}"


@dataclass(slots=True)
class MappedGroup:
    """Nodes of the model that run as one kernel.

    Attributes:
        nodes: In the model's order.
        runtime: Nodes the runtime executes for them, in its order.
        order: Position of the first of these in the executed graph.
    """

    nodes: list[Node]
    runtime: list[ExecutedNode]
    order: int


@dataclass(slots=True)
class MappedScope:
    """Groups of one scope of a model, and its nodes in no group.

    Attributes:
        groups: In execution order.
        folded: Names of nodes in no group.
        never_executed: Names of those that are dead or merged with an equal node; others that are never executed
            (computed from constants) are known before mapping.
        containers: If/Loop/Scan node of the model -> node the runtime executes for it.
        warnings: Warnings for the user.
    """

    groups: list[MappedGroup] = field(default_factory=list)
    folded: list[str] = field(default_factory=list)
    never_executed: list[str] = field(default_factory=list)
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
    """Map one scope, in the seven steps of the module's docstring.

    Args:
        nodes: The scope's nodes in the model, topological.
        executed: The scope's nodes in the runtime's graph, topological.
        constant: Tensors that do not depend on any input.
        outputs: The scope's outputs.
        captured: Tensors of this scope that bodies below it read.
        values: Values of small constants.
        neutral: Returns whether a node may pass its input through unchanged (then a runtime may eliminate it).

    Raises:
        GraphError: If a node that computes something cannot be attributed to anything executed.
    """
    return _ScopeMapper(nodes, executed, constant, {*outputs, *captured}, set(outputs), values, neutral).run()


def _have_same_operator(node: Node, executed: ExecutedNode) -> bool:
    return (node.op_type, node.domain) == (executed.op_type, executed.domain)


class _ScopeMapper:
    """State of mapping one scope; :func:`map_scope` documents the parameters.

    Attributes:
        producer: Tensor -> the node that writes it.
        position: Node name -> its index in ``nodes``.
        executed_position: ``id`` of an executed node -> its index in ``executed``.
        tied_tensors: For each executed node, the tensors of the model it is tied to.
        kept_twin: Name of a merged node -> name of the equal node that the runtime kept.
        executed_by: Node name -> index of the executed node that stands for it.
        merged_into: For each executed node, the index of the one it is merged into; its own index if none.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        executed: Sequence[ExecutedNode],
        constant: Collection[str],
        read_outside: set[str],
        outputs: set[str],
        values: Mapping[str, Any],
        neutral: Callable[[Node], bool],
    ) -> None:
        self.nodes = nodes
        self.executed = executed
        self.constant = constant
        self.read_outside = read_outside
        self.outputs = outputs
        self.values = values
        self.neutral = neutral
        self.producer = {name: node for node in nodes for name in node.outputs if name}
        self.position = {node.name: index for index, node in enumerate(nodes)}
        self.executed_position = {id(node): index for index, node in enumerate(executed)}
        self.tied_tensors: list[tuple[str, ...]] = [()] * len(executed)
        self.kept_twin: dict[str, str] = {}
        self.executed_by: dict[str, int] = {}
        self.merged_into: list[int] = list(range(len(executed)))
        self.result = MappedScope()

    # --- steps 1 and 2: ties ------------------------------------------------------------------------------------

    def match_by_name(self) -> None:
        """Tie executed nodes to tensors of the model.

        1. An executed node is tied to the tensors of the model it writes.
        2. If there are none, it is tied to the outputs of the node that has its name and operator.
        3. A transpose or cast that the runtime put behind a node takes over the name of that node's output, so rule 1
           ties the wrong one of them. It loses its ties, and is merged into the node that rule 2 tied to that output.
        """
        by_name = {node.name: node for node in self.nodes}
        for index, executed in enumerate(self.executed):
            written = tuple(name for name in executed.outputs if name in self.producer)
            namesake = by_name.get(executed.name)
            if written:  # 1
                self.tied_tensors[index] = written
            elif namesake is not None and _have_same_operator(namesake, executed):  # 2
                self.tied_tensors[index] = tuple(name for name in namesake.outputs if name)
        # 3
        tied_by_name = {
            name: index
            for index, executed in enumerate(self.executed)
            for name in self.tied_tensors[index]
            if name not in executed.outputs
        }
        for index, executed in enumerate(self.executed):
            rivals = {tied_by_name.get(name, index) for name in self.tied_tensors[index] if name in executed.outputs}
            if rivals and rivals != {index} and index not in rivals:
                self.tied_tensors[index] = ()
                self.merged_into[index] = min(rivals)

    def match_merged_products(self) -> None:
        """Tie each Gemm that is tied to nothing to the product it was made of, or to the addition of its bias.

        The runtime makes a Gemm and two reshapes of a product and an addition on a tensor of three dimensions or more.
        Where two of these follow each other it removes the tensor between them. The Gemm's name begins with that of
        the product; if no product has such a name, the only one that reads its weight is meant.
        """
        untied = [i for i, r in enumerate(self.executed) if r.op_type == "Gemm" and not self.tied_tensors[i]]
        if not untied:
            return
        readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in set(node.inputs):
                readers.setdefault(name, []).append(node)
        products = [n for n in self.nodes if n.op_type == "MatMul"]
        for index in untied:
            executed = self.executed[index]
            found = [n for n in readers.get(executed.inputs[1], ()) if n.op_type == "MatMul"]
            named = [n for n in products if executed.name.startswith(f"{n.name}/")]
            found = [max(named, key=lambda n: len(n.name))] if named else found
            if len(found) != 1 or self.merged_into[index] != index:
                continue
            behind = readers.get(found[0].outputs[0], ()) if executed.inputs[2:] else ()
            biased = [n for n in behind if n.op_type == "Add" and any(i in self.constant for i in n.inputs)]
            self.tied_tensors[index] = tuple((biased or found)[0].outputs)

    def find_merged_nodes(self) -> None:
        """Find the nodes the runtime merges with an equal one; of equal nodes, it keeps the one that is tied.

        A merged result has several readers, so it is a tensor of the executed graph. If none of the equal nodes is
        tied, the runtime fused each of them into its reader before it could merge them: all of them run.
        """
        tied = {self.producer[name].name for names in self.tied_tensors for name in names}
        classes: dict[str, list[str]] = {}
        for name, earlier in find_duplicate_nodes(self.nodes, self.values, self.outputs).items():
            classes.setdefault(earlier.name, [earlier.name]).append(name)
        for names in classes.values():
            kept = next((name for name in names if name in tied), None)
            if kept is not None:
                self.kept_twin.update((name, kept) for name in names if name not in tied)

    # --- steps 3 to 5: groups -----------------------------------------------------------------------------------

    def assign_nodes(self) -> None:
        """Assign to every executed node the model's nodes between its tied tensors and those of other executed nodes.

        The walk backwards from an executed node stops at

        1. nodes that are assigned already, or that write tensors tied to another executed node;
        2. nodes that compute constants, and nodes merged with an equal one.
        """
        boundary = {name for names in self.tied_tensors for name in names}
        starts = {self.producer[name].name for name in boundary}
        for index, names in enumerate(self.tied_tensors):
            stack = [self.producer[name] for name in names]
            first = {node.name for node in stack}
            while stack:
                node = stack.pop()
                if node.name in self.executed_by or (node.name in starts and node.name not in first):  # 1
                    continue
                if node.name not in first and (self._is_constant(node) or node.name in self.kept_twin):  # 2
                    continue
                self.executed_by[node.name] = index
                for name in node.inputs:
                    if name and name not in boundary and name in self.producer:
                        stack.append(self.producer[name])

    def _is_constant(self, node: Node) -> bool:
        return all(not name or name in self.constant for name in node.outputs)

    def merge_unmatched(self) -> None:
        """Merge executed nodes without nodes of their own into the executed node they serve.

        1. That is the first executed node that reads their outputs, found from the last one to the first, so that a
           chain of them ends in the same node.
        2. If there is none, it is the executed node that writes their input.
        """
        owners = set(self.executed_by.values())
        readers: dict[str, list[int]] = {}
        writer: dict[str, int] = {}
        for index, executed in enumerate(self.executed):
            for name in executed.inputs:
                readers.setdefault(name, []).append(index)
            for name in executed.outputs:
                writer[name] = index
        for index in reversed(range(len(self.executed))):  # 1
            if index in owners or self.merged_into[index] != index:
                continue
            executed = self.executed[index]
            after = [r for name in executed.outputs for r in readers.get(name, []) if self._find_root(r) != index]
            if after:
                self.merged_into[index] = self._find_root(min(after))
        # 2
        for index, executed in enumerate(self.executed):
            if index in owners or self.merged_into[index] != index:
                continue
            before = [
                writer[name] for name in executed.inputs if name in writer and self._find_root(writer[name]) != index
            ]
            if before:
                self.merged_into[index] = self._find_root(before[0])

    def _find_root(self, index: int) -> int:
        seen = set()
        while self.merged_into[index] != index and index not in seen:
            seen.add(index)
            index = self.merged_into[index]
        return index

    def collect_groups(self) -> dict[int, MappedGroup]:
        """Collect the groups: nodes and executed nodes, by the executed node that is merged into no other."""
        groups: dict[int, MappedGroup] = {}
        for index, executed in enumerate(self.executed):
            root = self._find_root(index)
            made = groups.setdefault(root, MappedGroup([], [], index))
            made.runtime.append(executed)
        for node in self.nodes:
            if node.name in self.executed_by:
                groups[self._find_root(self.executed_by[node.name])].nodes.append(node)
        return groups

    # --- step 6: nodes in no group ------------------------------------------------------------------------------

    def find_live_nodes(self, *, merged: bool) -> set[str]:
        """Find the names of nodes whose outputs reach an output of the scope.

        Args:
            merged: Whether to follow the equal node that the runtime kept in place of each merged node.
        """
        by_name = {node.name: node for node in self.nodes}
        live: set[str] = set()
        stack = [self.producer[name] for name in self.read_outside if name in self.producer]
        while stack:
            node = stack.pop()
            if merged and node.name in self.kept_twin:
                node = by_name[self.kept_twin[node.name]]
            if node.name in live:
                continue
            live.add(node.name)
            stack += [self.producer[name] for name in node.inputs if name in self.producer]
        return live

    def attribute_unexecuted_nodes(self, groups: Mapping[int, MappedGroup]) -> None:
        """Account for the nodes that no executed node stands for.

        1. Eliminated: an operator of :data:`VANISHING`, or computed from constants. Folded.
        2. Dead: no output of the scope depends on it. Folded, never executed, with a warning.
        3. Merged: it equals a node that runs, or serves only such nodes. Folded, never executed.
        4. Eliminated: a layout operator, a node without inputs, or one that may pass its input through. Folded.
        5. Renamed by the runtime: any other node. Attached to the group of a neighbour, with a warning.

        Raises:
            GraphError: If a node of rule 5 has no neighbour in a group.
        """
        unexecuted = [node for node in self.nodes if node.name not in self.executed_by]
        if not unexecuted:
            return
        live = self.find_live_nodes(merged=False)
        live_after_merging = self.find_live_nodes(merged=True)
        attached = []
        for node in unexecuted:
            if node.op_type in VANISHING or self._is_constant(node):  # 1
                self.result.folded.append(node.name)
            elif node.name not in live:  # 2
                self.result.folded.append(node.name)
                self.result.never_executed.append(node.name)
                self.result.warnings.append(f"node '{node.name}' ({node.op_type}) computes nothing that is used")
            elif node.name not in live_after_merging:  # 3
                self.result.folded.append(node.name)
                self.result.never_executed.append(node.name)
            elif node.op_type in LAYOUT or not node.inputs or self.neutral(node):  # 4
                self.result.folded.append(node.name)
            else:  # 5
                attached.append(node)
        for node in attached:
            root = self._find_neighbour_group(node)
            if root is None:
                raise GraphError(
                    f"node '{node.name}' ({node.op_type}) is not in the graph the runtime executes and cannot be "
                    "attributed to any part of it; please report the model"
                )
            groups[root].nodes.append(node)
            self.executed_by[node.name] = root
            self.result.warnings.append(
                f"node '{node.name}' ({node.op_type}) was counted with the kernel before it: the runtime renamed it"
            )

    def _find_neighbour_group(self, node: Node) -> int | None:
        """Find the group of the nearest node before this one, else of a node that reads it."""
        seen = {node.name}
        stack = [node]
        while stack:
            current = stack.pop()
            for name in current.inputs:
                before = self.producer.get(name)
                if before is None or before.name in seen:
                    continue
                seen.add(before.name)
                if before.name in self.executed_by:
                    return self._find_root(self.executed_by[before.name])
                stack.append(before)
        after = [self.position[name] for output in node.outputs for name in self.readers.get(output, ())]
        for index in sorted(after):
            if self.nodes[index].name in self.executed_by:
                return self._find_root(self.executed_by[self.nodes[index].name])
        return None

    @cached_property
    def readers(self) -> dict[str, list[str]]:
        """Tensor -> names of the nodes that read it."""
        found: dict[str, list[str]] = {}
        for node in self.nodes:
            for name in filter(None, node.inputs):
                found.setdefault(name, []).append(node.name)
        return found

    # --- step 7: finishing --------------------------------------------------------------------------------------

    def _find_absorbed_transposes(self, group: MappedGroup) -> set[str]:
        """Find the names of the transposes that are part of a product: the nearest before each transposed operand."""
        executed = next((r for r in group.runtime if r.op_type in TRANSPOSING and r.proto is not None), None)
        product = next((n for n in reversed(group.nodes) if n.op_type == "MatMul"), None)
        if executed is None or product is None:
            return set()
        flags = {a.name: a.i for a in executed.proto.attribute}
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

    def split_off_layout(self, group: MappedGroup) -> list[MappedGroup]:
        """Take eliminated nodes out of a group, and give layout operators that run on their own a group each.

        1. Nodes that the runtime eliminated are folded, unless the group would be empty then.
        2. Layout operators of the group are paired with executed ones of the same type; a transpose that is part of a
           product stays with it.
        3. The group stays whole if it has no layout operators, or if it is undecidable which of its nodes the unpaired
           executed ones stand for.
        4. Otherwise each pair becomes a group, the other nodes become one, and unpaired layout operators are folded.

        Returns:
            The groups made of it, at least one.
        """
        # 1
        run = {r.op_type for r in group.runtime}
        eliminated = {
            n.name: None for n in group.nodes
            if n.op_type in VANISHING or self._is_constant(n) or (n.op_type not in run and self.neutral(n))
        }  # fmt: skip
        if 0 < len(eliminated) < len(group.nodes):
            self.result.folded += eliminated
            group.nodes = [n for n in group.nodes if n.name not in eliminated]
        # 2
        absorbed = self._find_absorbed_transposes(group)
        layout = [n for n in group.nodes if n.op_type in LAYOUT and n.name not in absorbed]
        other = [n for n in group.nodes if n.op_type not in LAYOUT or n.name in absorbed]
        spare: dict[str, list[ExecutedNode]] = {}
        for executed in reversed(group.runtime):
            spare.setdefault(executed.op_type, []).append(executed)
        pairs = [(node, spare[node.op_type].pop()) for node in layout if spare.get(node.op_type)]
        used = {id(executed) for _, executed in pairs}
        core = [r for r in group.runtime if r.op_type not in LAYOUT]
        rest = core + [r for r in group.runtime if r.op_type in LAYOUT and id(r) not in used]
        # 3
        if not layout or (bool(other) != bool(rest) and not (pairs and not other and not core)):
            return [group]
        if not other and not pairs:
            return [group]
        # 4
        paired = {node.name for node, _ in pairs}
        self.result.folded += [n.name for n in layout if n.name not in paired]
        made = [MappedGroup([node], [same], self.executed_position[id(same)]) for node, same in pairs]
        if other:
            rest.sort(key=lambda r: self.executed_position[id(r)])
            made.append(MappedGroup(other, rest, self.executed_position[id(rest[0])]))
        else:
            made[0].runtime += rest
        return made

    def run(self) -> MappedScope:
        """Map the scope, in the seven steps of the module's docstring."""
        self.match_by_name()  # 1
        self.match_merged_products()
        self.find_merged_nodes()  # 2
        self.assign_nodes()  # 3
        self.merge_unmatched()  # 4
        groups = self.collect_groups()  # 5
        self.attribute_unexecuted_nodes(groups)  # 6
        # 7
        for root in sorted(groups, key=lambda r: groups[r].order):
            group = groups[root]
            group.nodes.sort(key=lambda n: self.position[n.name])
            containers = [n for n in group.nodes if n.op_type in CONTROL_FLOW]
            group.nodes = [n for n in group.nodes if n.op_type not in CONTROL_FLOW]
            for node in containers:
                match = next((r for r in group.runtime if r.op_type == node.op_type), None)
                if match is not None:
                    self.result.containers[node.name] = match
                self.result.folded.append(node.name)
            if group.nodes:
                self.result.groups += self.split_off_layout(group)
            elif not containers:
                self._attach_unmatched(group)
        self.result.groups.sort(key=lambda g: g.order)
        return self.result

    def _attach_unmatched(self, group: MappedGroup) -> None:
        """Attach executed nodes that stand for no node to the group before, so that none is lost."""
        names = ", ".join(r.qualified for r in group.runtime)
        if self.result.groups:
            self.result.groups[-1].runtime += group.runtime
        self.result.warnings.append(f"the runtime executes {names}, which stands for no node of the model")
