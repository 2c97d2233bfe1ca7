"""Passes over the body of a loop, until what is said of its tensors holds in every round."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from deepen.graph.onnx_reader.graph_scope import GraphScope, GraphUnderConstruction
from deepen.graph.onnx_reader.growing_states import Growth, find_growth
from deepen.graph.onnx_reader.proto_values import TensorType

if TYPE_CHECKING:
    import onnx

__all__ = ["BodyPasses", "get_tensor_type"]

_MAX_RETRY_DEPTH = 3  # bodies nested deeper are flattened once, so that time does not double with every level


@dataclass(slots=True)
class BodyPasses:
    """Passes over the body of one Loop or Scan, of which only the last one counts.

    Attributes:
        flattener: The pass over the model.
        scope: Graph around the body.
        body: The body.
        path: Its path.
        assume: Values taken for inputs of the body.
        multiplicity: Executions of the node around it.
        marks: How many nodes, warnings and unknown parts there were before.
    """

    flattener: GraphUnderConstruction
    scope: GraphScope
    body: onnx.GraphProto
    path: str
    assume: dict[str, NDArray[Any]]
    multiplicity: float
    marks: tuple[int, int, int] = field(init=False)

    def __post_init__(self) -> None:
        into = self.flattener
        self.marks = (len(into.nodes), len(into.warnings), len(into.unknowns))

    def flatten_body(self, bound: dict[str, TensorType]) -> GraphScope:
        """Flatten the body with these types of its inputs, in place of the pass before."""
        into = self.flattener
        del into.nodes[self.marks[0] :], into.warnings[self.marks[1] :], into.unknowns[self.marks[2] :]
        inner = into.open_scope(self.path, self.body, self.scope)
        for name, value in self.assume.items():
            into.define(inner, name, TensorType(9, ()), constant=True, value=value)
        into.define_inputs(inner, bound)
        into.flatten_nodes(inner, self.multiplicity)
        return inner

    def flatten_steadily(
        self, bound: dict[str, TensorType], states: Sequence[str], outputs: Sequence[onnx.ValueInfoProto]
    ) -> tuple[GraphScope, list[bool], Mapping[str, Growth]]:
        """Flatten a body that passes states from one round to the next, claiming nothing that not all rounds share.

        1. States are first assumed to keep their shape; in deeply nested bodies, to have an unknown one.
        2. The body is flattened. A state is steady if its shape after the body is known and equals that before.
        3. If some grow, the body is flattened for the second round, to see whether they grow by as much again.
        4. If a state with a known shape is not steady, its shape is dropped and the body is flattened again; the second
           time, all shapes are dropped, so that there are at most four passes.

        Returns:
            The body's scope; for each state whether its shape is the same after every round; and those that grow.
        """
        growth: Mapping[str, Growth] = {}
        nested = self.scope.depth >= _MAX_RETRY_DEPTH
        bound = dict(bound)
        if nested:  # 1
            self._drop_shapes(bound, states)
        for attempt in range(4):
            inner = self.flatten_body(bound)  # 2
            shapes = self._list_state_shapes(inner, states, outputs)
            steady = [before is not None and before == after for _, before, after in shapes]
            unsteady = [name for (name, _, _), same in zip(shapes, steady, strict=True) if not same]
            if not any(name in bound and bound[name].dims is not None for name in unsteady):
                break
            if not attempt:
                growth = self._confirm_growth(bound, find_growth(shapes), states, outputs)  # 3
            self._drop_shapes(bound, states if attempt else unsteady)  # 4
        return inner, steady, growth

    def _confirm_growth(
        self,
        bound: dict[str, TensorType],
        growth: Mapping[str, Growth],
        states: Sequence[str],
        outputs: Sequence[onnx.ValueInfoProto],
    ) -> Mapping[str, Growth]:
        """Keep the states that grow in the second round as in the first."""
        if not growth:
            return {}
        second = bound | {
            name: TensorType(bound[name].elem_type, g.compute_dims(1)) for name, g in growth.items() if name in bound
        }
        again = find_growth(self._list_state_shapes(self.flatten_body(second), states, outputs))
        return {name: g for name, g in growth.items() if name in again and again[name].step == g.step}

    def flatten_grown(self, bound: dict[str, TensorType], growth: Mapping[str, Growth], rounds: int) -> GraphScope:
        """Flatten the body with states of average size; values that depend on the size are not kept."""
        into, prefix = self.flattener, f"{self.path}/"
        known = {name for name in into.values if name.startswith(prefix)}
        constant = {name for name, tensor in into.tensors.items() if name.startswith(prefix) and tensor.constant}
        sizes = {name: TensorType(bound[name].elem_type, g.average_dims(rounds)) for name, g in growth.items()}
        inner = self.flatten_body(bound | sizes)
        for name in [name for name in into.values if name.startswith(prefix) and name not in known]:
            del into.values[name]
        for name, tensor in list(into.tensors.items()):
            if name.startswith(prefix) and tensor.constant and name not in constant:
                into.tensors[name] = replace(tensor, constant=False)
        return inner

    def _list_state_shapes(
        self, inner: GraphScope, states: Sequence[str], outputs: Sequence[onnx.ValueInfoProto]
    ) -> list[tuple[str, tuple[int, ...] | None, tuple[int, ...] | None]]:
        """List name, shape before the round and shape after it of every state."""
        return [
            (
                name,
                get_tensor_type(self.flattener, inner, name).dims,
                get_tensor_type(self.flattener, inner, output.name).dims,
            )
            for name, output in zip(states, outputs, strict=False)
        ]

    @staticmethod
    def _drop_shapes(bound: dict[str, TensorType], names: Collection[str]) -> None:
        for name in names:
            if name in bound:
                bound[name] = TensorType(bound[name].elem_type, None)


def get_tensor_type(flattener: GraphUnderConstruction, scope: GraphScope, name: str) -> TensorType:
    """Type of a tensor read in a scope; of unknown element type and shape where nothing is known."""
    return flattener.types.get(scope.resolve(name)) or TensorType(0, None)
