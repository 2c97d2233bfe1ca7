"""Number of rounds of a Loop, by running the few small tensors that its condition depends on.

Exporters write a while-loop as a Loop whose body compares a counter with a constant, or with a length that is known
once the input shapes are. What the condition depends on is then a handful of scalars: the iteration number, and states
whose first values are known. They are computed round after round; whatever else the condition asks (have all sequences
ended?) is taken to say "go on", which makes the result an upper bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepen.graph.onnx_reader.constant_folding import evaluate_node, is_foldable
from deepen.graph.onnx_reader.without_weights import SMALL_ELEMENTS

if TYPE_CHECKING:
    import onnx

__all__ = ["RoundCount", "count_rounds"]

_MOST_EVALUATIONS = 100_000  # about a second
_SLOW = 30  # evaluations by numpy that one by the reference operators takes the time of
_ROUNDS_BEFORE_LEAP = 64

_Value = NDArray[Any] | None
_GROWING = frozenset({"ConstantOfShape", "Expand", "Pad", "Range", "Tile"})  # a large output from a small input

# Operators under which a counter with a constant step keeps it, and those that compare such a counter with a constant
# or another counter once and for all: from true to false or from false to true, never back.
_AFFINE = frozenset({"Add", "Cast", "Constant", "Identity", "Reshape", "Squeeze", "Sub", "Unsqueeze"})
_MONOTONE = _AFFINE | {"And", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}

_QUICK: dict[str, Callable[..., Any]] = {
    "Add": np.add, "And": np.logical_and, "Equal": np.equal, "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal, "Identity": lambda value: value, "Less": np.less,
    "LessOrEqual": np.less_equal, "Mul": np.multiply, "Neg": np.negative, "Not": np.logical_not,
    "Or": np.logical_or, "Sub": np.subtract, "Where": np.where, "Xor": np.logical_xor,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class RoundCount:
    """Rounds of a Loop.

    Attributes:
        rounds: Executions of the body; ``None`` if nothing bounds them.
        exact: Whether it is that number rather than an upper bound.
        states: Values of the states after the last round, as far as known; empty unless the number is exact.
    """

    rounds: int | None
    exact: bool = True
    states: tuple[_Value, ...] = ()


def count_rounds(
    body: onnx.GraphProto,
    first: Sequence[_Value],
    get_value: Callable[[str], _Value],
    most: int | None,
    opsets: Mapping[str, int],
) -> RoundCount:
    """Count the rounds of a Loop that starts.

    1. Find the nodes that the condition depends on, and the states they read, which have to be computed as well.
    2. Run them. The condition is true in every round that runs; a condition that cannot be computed goes on.
    3. Stop when the condition is false or ``most`` is reached.
    4. A counter with a constant step is advanced by doubling steps, then by halving ones, to the round it ends in.
    5. Nothing bounds the rounds if what was computed no longer changes.

    Args:
        body: The Loop's body: (iteration, condition, states...) -> (condition, states..., ...).
        first: First values of the states; ``None`` where they are not known.
        get_value: Value of a tensor of the body that is the same in every round, by its name there.
        most: Largest number of rounds, the Loop's first input.
        opsets: Operator-set versions by domain.
    """
    counter = _RoundCounter(body, get_value, opsets, len(first))  # 1
    states: tuple[_Value, ...] = tuple(first)
    exact, leapt = True, False
    done = evaluations = 0
    while most is None or done < most:
        if evaluations > _MOST_EVALUATIONS:
            return RoundCount(None)
        goes_on, after = counter.run(done, states)  # 2
        done += 1
        evaluations += counter.cost
        if goes_on is False:  # 3
            return RoundCount(done, exact, after if exact else ())
        exact = exact and goes_on is not None
        if not counter.reads_iteration and counter.are_equal(states, after):  # 5
            return RoundCount(most, exact, after if exact and most is not None else ())
        if done == _ROUNDS_BEFORE_LEAP and not leapt and (step := counter.find_step(states, after)) is not None:  # 4
            leapt = True
            leap = counter.leap(done, after, step, most)
            after = counter.advance(after, step, leap)
            done += leap
        states = after
    return RoundCount(most, exact, states if exact else ())


class _RoundCounter:
    """The part of a body that decides whether there is another round.

    Attributes:
        nodes: Its nodes, in order.
        reads_iteration: Whether they read the number of the round.
        cost: Evaluations a round takes.
    """

    def __init__(
        self, body: onnx.GraphProto, get_value: Callable[[str], _Value], opsets: Mapping[str, int], states: int
    ) -> None:
        formal = [value.name for value in body.input]
        self._iteration = formal[0] if formal else ""
        self._condition = formal[1] if len(formal) > 1 else ""
        self._states = formal[2 : 2 + states]
        self._outputs = [value.name for value in body.output[: 1 + states]]
        self._opsets = opsets
        self._constants: dict[str, _Value] = {}
        makers = {name: node for node in body.node for name in node.output if name}
        next_of = dict(zip(self._states, self._outputs[1:], strict=False))
        needed: set[str] = set()
        pending = self._outputs[:1]
        members: set[int] = set()
        while pending:
            name = pending.pop()
            if not name or name in needed:
                continue
            needed.add(name)
            if name in next_of:
                pending.append(next_of[name])
            elif name not in formal and (value := get_value(name)) is not None:
                self._constants[name] = value
            elif name in makers and _is_runnable(makers[name]):
                members.add(id(makers[name]))
                pending += makers[name].input
        self.nodes = [node for node in body.node if id(node) in members]
        self.cost = 5 + sum(1 if node.op_type in _QUICK else _SLOW for node in self.nodes)
        self.reads_iteration = self._iteration in needed
        self._read = [name in needed for name in self._states]

    def run(self, iteration: int, states: Sequence[_Value]) -> tuple[bool | None, tuple[_Value, ...]]:
        """Run one round: whether there is another one (``None`` if unknown), and the states after it."""
        values: dict[str, _Value] = dict(self._constants)
        values[self._iteration] = np.array(iteration, np.int64)
        values[self._condition] = np.array(True)
        values.update(zip(self._states, states, strict=False))
        for node in self.nodes:
            results = _run_node(node, [values.get(name) for name in node.input], self._opsets)
            values.update(zip(node.output, results, strict=False))
        after = tuple(
            values.get(name) if read else None for name, read in zip(self._outputs[1:], self._read, strict=False)
        )
        condition = values.get(self._outputs[0])
        return (bool(condition.reshape(-1)[0]) if condition is not None and condition.size == 1 else None), after

    def are_equal(self, before: Sequence[_Value], after: Sequence[_Value]) -> bool:
        """Return whether a round changed none of the states that were computed."""
        return all(
            not read or (a is None and b is None) or (a is not None and b is not None and np.array_equal(a, b))
            for a, b, read in zip(before, after, self._read, strict=False)
        )

    def find_step(self, before: Sequence[_Value], after: Sequence[_Value]) -> tuple[int, ...] | None:
        """Find what every round adds to each state; ``None`` unless that is certain for all rounds to come."""
        steps = []
        for a, b, read, output in zip(before, after, self._read, self._outputs[1:], strict=False):
            known = read and a is not None and b is not None
            if known and not self._is_made_by(output, _AFFINE):
                return None
            if known and (a.size != 1 or a.dtype.kind != "i" or b.dtype != a.dtype):  # type: ignore[union-attr]
                return None
            steps.append(int(b.reshape(-1)[0]) - int(a.reshape(-1)[0]) if known else 0)  # type: ignore[union-attr]
        return tuple(steps) if self._is_made_by(self._outputs[0], _MONOTONE) else None

    def _is_made_by(self, name: str, op_types: frozenset[str]) -> bool:
        """Return whether only these operators, on integers, lead to a tensor."""
        makers = {output: node for node in self.nodes for output in node.output}
        pending, seen = [name], set()
        while pending:
            node = makers.get(pending.pop())
            if node is None or id(node) in seen:
                continue
            seen.add(id(node))
            if node.op_type not in op_types:
                return False
            if node.op_type == "Cast" and next((a.i for a in node.attribute if a.name == "to"), 0) not in _EXACT_CASTS:
                return False
            pending += node.input
        return True

    @staticmethod
    def advance(states: Sequence[_Value], step: Sequence[int], rounds: int) -> tuple[_Value, ...]:
        """Compute the states after this many more rounds."""
        return tuple(
            None if value is None else (value + np.asarray(by * rounds, value.dtype)).astype(value.dtype)
            for value, by in zip(states, step, strict=True)
        )

    def leap(self, done: int, states: Sequence[_Value], step: Sequence[int], most: int | None) -> int:
        """Find how many more rounds surely run: the last of them is the one before that in which the Loop ends."""
        limit = min(2**31 if most is None else most - done - 1, 2**31)
        room = [
            (np.iinfo(value.dtype).max - abs(int(value.reshape(-1)[0]))) // abs(by)
            for value, by in zip(states, step, strict=True)
            if value is not None and by
        ]
        limit = max(0, min([limit, *room]) - 1)

        def goes_on(rounds: int) -> bool:
            return self.run(done + rounds, self.advance(states, step, rounds))[0] is not False

        low, high = 0, 1  # the Loop goes on after `low` more rounds
        while high <= limit and goes_on(high):
            low, high = high, 2 * high
        high = min(high, limit)
        while low + 1 < high:
            middle = (low + high) // 2
            low, high = (middle, high) if goes_on(middle) else (low, middle)
        return low


_EXACT_CASTS = frozenset({6, 7, 9})  # int32, int64, bool: a counter keeps its value


def _is_runnable(node: onnx.NodeProto) -> bool:
    return is_foldable(node.op_type, node.domain) and node.op_type not in _GROWING


def _run_node(node: onnx.NodeProto, inputs: Sequence[_Value], opsets: Mapping[str, int]) -> Sequence[_Value]:
    """Run one node; an And or Or may be known although one of its inputs is not."""
    if any(value is None and name for value, name in zip(inputs, node.input, strict=True)):
        decisive = {"And": False, "Or": True}.get(node.op_type)
        for value in inputs:
            if decisive is not None and value is not None and value.size and np.all(value == decisive):
                return [value]
        return [None] * len(node.output)
    if node.op_type in _QUICK and opsets.get("", 1) >= 7:  # before, broadcasting was an attribute
        return [np.asarray(_QUICK[node.op_type](*inputs))]
    results = evaluate_node(node, inputs, opsets)
    if results is None or any(value.size > SMALL_ELEMENTS for value in results):
        return [None] * len(node.output)
    return results
