"""Recognises the nodes fused behind a main operator: bias, batch normalisation, residual, activation.

The *anchor* of a group is its main operator, such as the convolution. An activation may be one node or several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from math import prod
from typing import Any

from deepen.graph.types import Node
from deepen.kernels.families.definition import IGNORED, NodeGroup
from deepen.kernels.families.operator_costs import find_activation

__all__ = ["EXPRESSIONS", "FusedTail", "match_expression", "match_fused_tail", "match_whole_group"]

# An expression is "x" (the bound input), "c" (any constant) or (operator, operand, ...).
_CLIP3 = ("Clip", ("Add", "x", "c"))
_ERF_DIV = ("Add", ("Erf", ("Div", "x", "c")), "c")
_ERF_MUL = ("Add", ("Erf", ("Mul", "x", "c")), "c")
_CUBE = (("Pow", "x", "c"), ("Mul", ("Mul", "x", "x"), "x"), ("Mul", "x", ("Mul", "x", "x")))


def _make_gelu_forms(inner: Any) -> tuple[Any, ...]:
    return (
        ("Mul", ("Mul", "x", inner), "c"),
        ("Mul", ("Mul", "x", "c"), inner),
        ("Mul", "x", ("Mul", inner, "c")),
        ("Mul", "x", ("Div", inner, "c")),
        ("Div", ("Mul", "x", inner), "c"),
    )


def _make_tanh_gelu_forms() -> tuple[Any, ...]:
    forms: list[Any] = []
    for cube in _CUBE:
        for arg in (
            ("Mul", ("Add", "x", ("Mul", cube, "c")), "c"),
            ("Mul", ("Mul", "x", "c"), ("Add", ("Mul", ("Mul", "x", "c"), "x"), "c")),
        ):
            forms += _make_gelu_forms(("Add", ("Tanh", arg), "c"))
    return tuple(forms)


EXPRESSIONS: dict[str, tuple[Any, ...]] = {
    "hardswish": (
        ("Mul", "x", ("HardSigmoid", "x")),
        ("Div", ("Mul", "x", _CLIP3), "c"),
        ("Mul", "x", ("Div", _CLIP3, "c")),
        ("Mul", ("Mul", "x", _CLIP3), "c"),
        ("Mul", "x", ("Mul", _CLIP3, "c")),
    ),
    "silu": (("Mul", "x", ("Sigmoid", "x")),),
    "quickgelu": (("Mul", "x", ("Sigmoid", ("Mul", "x", "c"))),),
    "gelu": _make_gelu_forms(_ERF_DIV) + _make_gelu_forms(_ERF_MUL),
    "gelutanh": _make_tanh_gelu_forms(),
    "mish": (("Mul", "x", ("Tanh", ("Softplus", "x"))),),
}
"""Activations that exporters write as several operators, by activation name."""

_COMMUTATIVE = frozenset({"Add", "Mul"})


@cache
def _count_pattern_nodes(expression: Any) -> int:
    return 0 if isinstance(expression, str) else 1 + sum(_count_pattern_nodes(e) for e in expression[1:])


@cache
def _list_pattern_operators(expression: Any) -> frozenset[str]:
    if isinstance(expression, str):
        return frozenset()
    return frozenset({expression[0]}).union(*map(_list_pattern_operators, expression[1:]))


def match_expression(
    group: NodeGroup, output: str, expression: Any, x: str | None = None
) -> tuple[str, list[Node]] | None:
    """Match an expression that ends in a tensor.

    1. ``c`` matches a constant.
    2. ``x`` matches an activation: ``x`` if it is given, else the same one everywhere.
    3. An operator matches a node of that type whose operands match; of ``Add`` and ``Mul`` in any order. Further inputs
       of the node must be constants.

    Casts and identities between the nodes are skipped.

    Args:
        group: Only nodes of this group may take part.
        output: Tensor that the expression's root writes.
        expression: See :data:`EXPRESSIONS`.
        x: The tensor that ``x`` must match, if it is known.

    Returns:
        The tensor ``x`` stands for and the nodes used, or ``None``.
    """
    found = _ExpressionMatcher(group).match(output, expression, x)
    return None if found is None or found[0] is None else (found[0], found[1])


class _ExpressionMatcher:
    """Matches expressions, as :func:`match_expression` describes it, against the nodes of one group."""

    def __init__(self, group: NodeGroup) -> None:
        self.group = group
        self.by_output = {name: n for n in group.nodes for name in n.outputs}

    def skip_ignored(self, name: str) -> str:
        """Name of the tensor that reaches a tensor through casts and identities."""
        node = self.by_output.get(name)
        while node is not None and node.op_type in IGNORED and node.inputs and not self.group.is_const(name):
            name = node.inputs[0]
            node = self.by_output.get(name)
        return name

    def match(self, name: str, want: Any, bound: str | None) -> tuple[str | None, list[Node]] | None:
        """Match a tensor; returns what ``x`` is bound to then, and the nodes used."""
        group = self.group
        if want == "c":  # 1
            return (bound, []) if group.is_const(name) else None
        if want == "x":  # 2
            if group.is_const(name):
                return None
            if bound is None or bound == name or self.skip_ignored(name) == self.skip_ignored(bound):
                return (bound or name, [])
            return None
        node = self.by_output.get(self.skip_ignored(name))
        if node is None or node.op_type != want[0]:  # 3
            return None
        operands = want[1:]
        if len(node.inputs) < len(operands) or not all(group.is_const(i) for i in node.inputs[len(operands) :] if i):
            return None
        given = node.inputs[: len(operands)]
        orders = permutations(given) if node.op_type in _COMMUTATIVE else [given]
        for order in orders:
            state: tuple[str | None, list[Node]] | None = (bound, [node])
            for tensor, operand in zip(order, operands, strict=True):
                assert state is not None
                step = self.match(tensor, operand, state[0])
                if step is None:
                    state = None
                    break
                state = (step[0], state[1] + step[1])
            if state is not None:
                return state
        return None


def match_whole_group(group: NodeGroup, forms: Sequence[Any]) -> str | None:
    """Return the tensor ``x`` if the group's compute nodes are exactly one of the expressions, else ``None``."""
    names = {n.name for n in group.compute}
    operators = {n.op_type for n in group.compute}
    matcher = _ExpressionMatcher(group)
    for form in forms:
        if form[0] not in operators or _count_pattern_nodes(form) < len(names):
            continue
        if _list_pattern_operators(form) != operators:
            continue
        for node in group.compute:
            found = matcher.match(node.outputs[0], form, None)
            if found and found[0] is not None and {n.name for n in found[1]} == names:
                return found[0]
    return None


@dataclass(slots=True)
class FusedTail:
    """Nodes that follow a group's main operator inside the group: bias, residual, activation.

    Attributes:
        activation: Name from :data:`deepen.kernels.families.operator_costs.ACTIVATIONS`.
        bias: Whether a constant is added per channel (a folded batch normalisation does).
        residual: Whether another activation is added.
        end: Last tensor reached.
        used: Names of the nodes it consists of.
    """

    activation: str
    bias: bool
    residual: bool
    end: str
    used: set[str]


_PASS = frozenset({*IGNORED, "QuantizeLinear", "DequantizeLinear"})
_FOLDED = frozenset({"Mul", "Div", "Add", "Sub"})


def _match_activation_after(group: NodeGroup, tensor: str, taken: set[str]) -> tuple[str, str, set[str]] | None:
    """Match the activation that starts at a tensor: (name, its output, names of its nodes)."""
    direct = [n for n in group.consumers(tensor) if n.name not in taken]
    if len(direct) == 1 and (name := find_activation(direct[0].op_type)):
        return name, direct[0].outputs[0], {direct[0].name}
    if not direct:
        return None
    for name, forms in EXPRESSIONS.items():
        for node in group.compute:
            if node.name in taken or node.op_type not in ("Mul", "Div"):
                continue
            for form in forms:
                found = match_expression(group, node.outputs[0], form, tensor)
                if found and not taken & {n.name for n in found[1]}:
                    return name, node.outputs[0], {n.name for n in found[1]}
    return None


def match_fused_tail(group: NodeGroup, tensor: str, channels: int, taken: set[str]) -> FusedTail:
    """Follow the nodes fused behind an anchor, one after the other, as far as they are of these forms.

    1. An activation; at most one.
    2. A batch normalisation before the activation: a bias.
    3. A product, quotient, sum or difference with one constant, or with one per channel: a folded normalisation; sums
       and differences are a bias.
    4. A sum with another activation of the same shape: the residual; at most one.
    5. Casts, identities and (de)quantisations.

    Args:
        group: The node group.
        tensor: The anchor's output.
        channels: Its number of channels, to distinguish a bias or folded scale from a broadcast tensor.
        taken: Names of nodes already accounted for.
    """
    tail = FusedTail("none", False, False, tensor, set())
    while True:
        seen = taken | tail.used
        nexts = [n for n in group.consumers(tail.end) if n.name not in seen]
        if tail.activation == "none" and (found := _match_activation_after(group, tail.end, seen)):  # 1
            tail.activation, tail.end, names = found
            tail.used |= names
            continue
        if len(nexts) != 1:
            return tail
        node = nexts[0]
        if node.op_type == "BatchNormalization" and tail.activation == "none":  # 2
            tail.bias = True
        elif node.op_type in _FOLDED and len(node.inputs) == 2:
            other = node.inputs[1] if node.inputs[0] == tail.end else node.inputs[0]
            if group.is_const(other):  # 3
                if prod(group.shape(other)) not in (1, channels):
                    return tail
                tail.bias = tail.bias or node.op_type in ("Add", "Sub")
            elif node.op_type == "Add" and not tail.residual and group.shape(other) == group.shape(tail.end):  # 4
                tail.residual = True
            else:
                return tail
        elif node.op_type not in _PASS:  # 5
            return tail
        tail.used.add(node.name)
        tail.end = node.outputs[0]
