"""Fuses nodes by rules, for runtimes that cannot be asked which kernels they run.

Rules are data (``kernels/rules/*.toml``): every verdict (``fuse``, ``keep`` or ``undecided``) has its evidence beside
it. ``undecided`` marks a question that no public source settles; such nodes stay apart.

1. Operators the rules call folded, control flow and nodes that compute constants are folded.
2. Patterns of several operators are matched by exact operators and connections, longest patterns first.
3. The remaining nodes start as groups of one.
4. Groups grow in topological order: the only reader of a group's last node joins the group if the rules fuse the two
   operators.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any, Literal, cast

from deepen import catalog
from deepen.errors import ConfigError, make_unknown_name_error
from deepen.graph.types import Graph, Node
from deepen.kernels.splitting.converter_passes import ConverterPasses
from deepen.kernels.splitting.value_numbering import CONTROL_FLOW

__all__ = ["FusionPattern", "FusionRules", "fuse_nodes", "list_rule_names", "load_rules"]

FusionVerdict = Literal["fuse", "keep", "undecided"]
_VERDICTS = ("fuse", "keep", "undecided")
_COMMUTATIVE = frozenset({"Add", "Mul"})


@dataclass(frozen=True, slots=True)
class FusionPatternNode:
    """One node of a pattern.

    Attributes:
        id: Its name in the pattern.
        ops: Operators it may be.
        inputs: Its operands: ``x`` (the pattern's input, the same tensor everywhere), ``c`` (a constant), ``?`` (any
            tensor), or the id of an earlier node.
    """

    id: str
    ops: tuple[str, ...]
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FusionPattern:
    """A multi-operator pattern; the last node is its root.

    Attributes:
        name: Its name, for example ``hswish``.
        nodes: In order; operands refer to earlier nodes.
        verdict: ``fuse`` if it runs as one kernel.
        evidence: Source of the verdict.
        same_shape: Whether its output must have the shape of ``x``.
    """

    name: str
    nodes: tuple[FusionPatternNode, ...]
    verdict: FusionVerdict
    evidence: str
    same_shape: bool = False


@dataclass(frozen=True, slots=True)
class FusionRules:
    """Fusion rules of one runtime.

    Attributes:
        runtime: Its name.
        version: Version of the rule file.
        classes: Class name -> operators. An operator's own name is a class too; ``DepthwiseConv`` is a ``Conv`` whose
            groups equal its input channels.
        pairs: (class, class) -> (verdict, evidence).
        patterns: Multi-operator patterns, longest first.
        folded: Operators that do no work at run time.
        simplification: Passes of the converter, which come first.
    """

    runtime: str
    version: int
    classes: Mapping[str, frozenset[str]]
    pairs: Mapping[tuple[str, str], tuple[FusionVerdict, str]]
    patterns: tuple[FusionPattern, ...]
    folded: frozenset[str]
    simplification: ConverterPasses = field(default_factory=ConverterPasses)

    @property
    def evidence(self) -> str:
        """Source that a split by these rules cites."""
        return f"kernels/rules/{self.runtime}.toml, version {self.version}"

    def verdict(self, first: Collection[str], second: Collection[str]) -> FusionVerdict:
        """Return the verdict on two neighbours, each given by its classes: that of the first listed pair to match."""
        for (a, b), (verdict, _) in self.pairs.items():
            if a in first and b in second:
                return verdict
        return "keep"


def list_rule_names() -> list[str]:
    """List the runtimes that have a rule file."""
    return catalog.list_names("kernels", "rules")


def _make_rule_error(name: str, problem: str) -> ConfigError:
    return ConfigError(f"kernels/rules/{name}.toml: {problem}")


def _parse_verdict(name: str, entry: Mapping[str, Any], where: str) -> tuple[FusionVerdict, str]:
    verdict, evidence = entry.get("verdict"), str(entry.get("evidence", "")).strip()
    if verdict not in _VERDICTS:
        raise _make_rule_error(name, f"{where} needs a verdict out of {', '.join(_VERDICTS)}")
    if not evidence:
        raise _make_rule_error(name, f"{where} gives no evidence for its verdict")
    return cast(FusionVerdict, verdict), evidence


def _parse_pattern(name: str, entry: Mapping[str, Any]) -> FusionPattern:
    title = str(entry.get("name", ""))
    verdict, evidence = _parse_verdict(name, entry, f"pattern '{title}'")
    known: set[str] = set()
    nodes = []
    for raw in entry.get("nodes", ()):
        ops = raw.get("op", ())
        node = FusionPatternNode(
            str(raw.get("id", "")), (ops,) if isinstance(ops, str) else tuple(ops), tuple(raw["inputs"])
        )
        unknown = [i for i in node.inputs if i not in {"x", "c", "?"} and i not in known]
        if unknown or not node.ops or not node.id:
            raise _make_rule_error(
                name, f"pattern '{title}', node '{node.id}': unknown operand {unknown or 'or no operator'}"
            )
        known.add(node.id)
        nodes.append(node)
    if not nodes:
        raise _make_rule_error(name, f"pattern '{title}' has no nodes")
    return FusionPattern(title, tuple(nodes), verdict, evidence, bool(entry.get("same_shape", False)))


def _parse_converter_passes(name: str, entry: Mapping[str, Any]) -> ConverterPasses:
    if not entry:
        return ConverterPasses()
    unknown = set(entry) - {"merge", "zeros", "evidence"}
    if unknown or not str(entry.get("evidence", "")).strip():
        raise _make_rule_error(
            name, f"[converter] has merge, zeros and evidence, {', '.join(sorted(unknown)) or 'which it lacks'}"
        )
    if not all(isinstance(entry.get(key, False), bool) for key in ("merge", "zeros")):
        raise _make_rule_error(name, "[converter]: merge and zeros are true or false")
    return ConverterPasses(bool(entry.get("merge", False)), bool(entry.get("zeros", False)))


def load_rules(runtime: str) -> FusionRules:
    """Read the rules of a runtime.

    Raises:
        ConfigError: If there are none (with the nearest names), or the file breaks its format.
    """
    if runtime not in list_rule_names():
        raise make_unknown_name_error("runtime", runtime, {*list_rule_names(), "onnxruntime"})
    raw = catalog.load_toml("kernels", "rules", runtime)
    try:
        classes = {str(k): frozenset(map(str, v)) for k, v in raw.get("classes", {}).items()}
        pairs: dict[tuple[str, str], tuple[FusionVerdict, str]] = {}
        for entry in raw.get("pair", ()):
            judged = _parse_verdict(runtime, entry, f"pair {entry.get('first')} -> {entry.get('second')}")
            firsts, seconds = entry["first"], entry["second"]
            for a in [firsts] if isinstance(firsts, str) else firsts:
                for b in [seconds] if isinstance(seconds, str) else seconds:
                    pairs.setdefault((a, b), judged)
        patterns = sorted((_parse_pattern(runtime, e) for e in raw.get("pattern", ())), key=lambda p: -len(p.nodes))
        return FusionRules(
            runtime,
            int(raw["version"]),
            classes,
            pairs,
            tuple(patterns),
            frozenset(map(str, raw.get("folded", ()))),
            _parse_converter_passes(runtime, raw.get("converter", {})),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _make_rule_error(
            runtime, f"broken entry ({type(error).__name__}: {error}); see kernels/README.md"
        ) from error


@dataclass(slots=True)
class _IndexedScope:
    """Nodes of one scope, with indices by name and tensor."""

    by_name: dict[str, Node]
    position: dict[str, int]
    producer: dict[str, Node]
    readers: dict[str, list[Node]]
    constant: Collection[str]
    kept: Collection[str]  # tensors read outside the scope: outputs of the graph, and tensors that bodies read
    graph: Graph

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a tensor; ``None`` if unknown."""
        tensor = self.graph.tensors.get(name)
        return None if tensor is None else tensor.shape

    def single_reader(self, name: str) -> Node | None:
        """The only node that reads a tensor; ``None`` if there are none or several, or it is read outside the scope."""
        readers = self.readers.get(name, [])
        distinct = {n.name for n in readers}
        return readers[0] if len(distinct) == 1 and name not in self.kept else None


def _match_pattern(
    pattern: FusionPattern, root: Node, scope: _IndexedScope, taken: Collection[str]
) -> list[Node] | None:
    """Match a pattern whose last node is ``root``.

    1. Operators and operands are the pattern's, all nodes distinct; operands of ``Add`` and ``Mul`` in any order.
    2. The output has the shape of ``x`` if the pattern asks for it.
    3. No node outside the pattern reads an inner result.

    Returns:
        The nodes in topological order, or ``None`` if the pattern does not match.
    """
    wanted = {node.id: node for node in pattern.nodes}

    def walk(node: Node, want: FusionPatternNode, bound: dict[str, str]) -> Iterator[dict[str, str]]:
        if node.op_type not in want.ops or node.name in taken or len(node.inputs) < len(want.inputs):
            return
        given = node.inputs[: len(want.inputs)]
        for order in permutations(given) if node.op_type in _COMMUTATIVE else [given]:
            states = [{**bound, want.id: node.name}]
            for name, operand in zip(order, want.inputs, strict=True):
                states = [s for state in states for s in operand_states(name, operand, state)]
            yield from states

    def operand_states(name: str, operand: str, bound: dict[str, str]) -> Iterator[dict[str, str]]:
        if operand == "?":
            yield bound
        elif operand == "c":
            if name in scope.constant:
                yield bound
        elif operand == "x":
            if name not in scope.constant and bound.get("x", name) == name:
                yield {**bound, "x": name}
        elif (before := scope.producer.get(name)) is not None and bound.get(operand, before.name) == before.name:
            yield from walk(before, wanted[operand], bound)

    for state in walk(root, pattern.nodes[-1], {}):  # 1
        members = {name for key, name in state.items() if key != "x"}
        if len(members) != len(pattern.nodes):
            continue
        if pattern.same_shape and scope.shape(state["x"]) != scope.shape(root.outputs[0]):  # 2
            continue
        # 3
        inner = [name for member in members if member != root.name for name in scope.by_name[member].outputs if name]
        if all(
            name not in scope.kept and all(reader.name in members for reader in scope.readers.get(name, []))
            for name in inner
        ):
            return sorted((scope.by_name[m] for m in members), key=lambda n: scope.position[n.name])
    return None


def _classify_operator(node: Node, graph: Graph, rules: FusionRules) -> frozenset[str]:
    kind = node.op_type
    own = {kind, "any"}
    if kind == "Conv":
        data = graph.tensors.get(node.inputs[0])
        groups = int(node.attributes.get("group", 1))
        if data is not None and data.shape is not None and len(data.shape) > 1 and groups == data.shape[1] > 1:
            own = {"DepthwiseConv", "any"}
    own.update(name for name, members in rules.classes.items() if not own.isdisjoint(members))
    return frozenset(own)


def fuse_nodes(
    nodes: Sequence[Node], graph: Graph, rules: FusionRules, constant: Collection[str], kept: Collection[str]
) -> tuple[list[list[Node]], list[str]]:
    """Group the nodes of one scope, in the four steps of the module's docstring.

    Args:
        nodes: In topological order.
        graph: The graph they are from.
        rules: The fusion rules.
        constant: Tensors that depend on no input.
        kept: Tensors read outside the scope.

    Returns:
        Groups in execution order (of their last nodes) and names of folded nodes.
    """
    readers: dict[str, list[Node]] = {}
    for node in nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    position = {n.name: i for i, n in enumerate(nodes)}
    by_name = {n.name: n for n in nodes}
    scope = _IndexedScope(
        by_name, position, {o: n for n in nodes for o in n.outputs if o}, readers, constant, kept, graph
    )
    # 1
    folded = [
        n.name for n in nodes
        if n.op_type in rules.folded or n.op_type in CONTROL_FLOW or all(not o or o in constant for o in n.outputs)
    ]  # fmt: skip
    out = set(folded)
    # 2
    group_of: dict[str, list[Node]] = {}
    taken = set(folded)
    for pattern in rules.patterns:
        if pattern.verdict != "fuse":
            continue
        for node in nodes:
            if node.op_type in pattern.nodes[-1].ops and node.name not in group_of:
                members = _match_pattern(pattern, node, scope, taken)
                if members:
                    for member in members:
                        group_of[member.name] = members
                        taken.add(member.name)
    # 3
    for node in nodes:
        if node.name not in out:
            group_of.setdefault(node.name, [node])
    # 4
    classes = {n.name: _classify_operator(n, graph, rules) for n in nodes if n.name not in out}
    for node in nodes:
        group = group_of.get(node.name)
        if group is None or group[-1] is not node:
            continue
        _extend_group(group, group_of, classes, scope, rules, out)
    groups = {id(g): g for g in group_of.values()}
    return sorted(groups.values(), key=lambda g: position[g[-1].name]), folded


def _extend_group(
    group: list[Node],
    group_of: dict[str, list[Node]],
    classes: Mapping[str, frozenset[str]],
    scope: _IndexedScope,
    rules: FusionRules,
    out: Collection[str],
) -> None:
    """Append readers of a group's last node as long as the rules fuse them.

    1. The last node has exactly one output that is read.
    2. That output has one reader, behind folded nodes if there are any.
    3. The reader is the first node of another group.
    4. The verdict on the last node and its reader is ``fuse``.
    """
    while True:
        tail = group[-1]
        outputs = [o for o in tail.outputs if o and (o in scope.readers or o in scope.kept)]
        if len(outputs) != 1:  # 1
            return
        reader = scope.single_reader(outputs[0])  # 2
        while reader is not None and reader.name in out and reader.outputs:
            reader = scope.single_reader(reader.outputs[0])
        if reader is None or reader.name in out:
            return
        other = group_of[reader.name]
        if other is group or other[0] is not reader:  # 3
            return
        if rules.verdict(classes[tail.name], classes[reader.name]) != "fuse":  # 4
            return
        group.extend(other)
        for node in other:
            group_of[node.name] = group
