"""Sizes that only a run decides, as one model is read: given by the user, bounded by the operator, or unknown."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from deepen.errors import GraphError
from deepen.graph.onnx_reader.proto_values import TensorType
from deepen.graph.onnx_reader.size_bounds import OpenShape, bound_output_shapes
from deepen.graph.types import Node, TensorInfo, UnknownPart

__all__ = ["RuntimeSizes"]

_NAMED = 3  # in a note; there may be hundreds


@dataclass(slots=True)
class RuntimeSizes:
    """Sizes of one model that only a run decides.

    Attributes:
        given: Size by full name of a tensor, as the user says.
        used: Names of ``given`` that were needed.
        bounded: Tensors counted at their upper bound: name -> (node, size along the open axis).
        unknown: Tensors with one axis of unknown size, by the node that makes them.
    """

    given: Mapping[str, int] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    bounded: dict[str, tuple[Node, int]] = field(default_factory=dict)
    unknown: dict[str, UnknownPart] = field(default_factory=dict)

    def complete_types(
        self,
        node: Node,
        types: Sequence[TensorType | None],
        shapes: Sequence[tuple[int, ...] | None],
        values: Sequence[NDArray[Any] | None],
    ) -> list[TensorType | None]:
        """Complete the types of a node's outputs whose shapes nothing else tells.

        1. A size that the user gives is the size of every open axis.
        2. Else the largest size that the operator allows is taken.
        3. Else one open axis is reported, if the node's inputs are known.

        Args:
            node: With full names.
            types: Types of its outputs.
            shapes: Shapes of its inputs; ``None`` where unknown or omitted.
            values: Values of its inputs, where they are small constants.

        Raises:
            GraphError: If the user gives one size where the number of axes is not known.
        """
        found = list(types)
        ruled = bound_output_shapes(node.op_type, node.domain, node.attributes, shapes, values)
        for index, (name, known) in enumerate(zip(node.outputs, types, strict=True)):
            if not name or (known is not None and known.dims is not None):
                continue
            rule = ruled[index] if index < len(ruled) else None
            dims = rule.dims if rule is not None else _read_open_dims(known)
            chosen = None
            if name in self.given:  # 1
                if dims is None:
                    raise GraphError(
                        f"'{name}' has several axes of unknown size", cure=f"give all of them with --shape {name}=DIMS"
                    )
                self.used.add(name)
                chosen = OpenShape(dims, ()).fill(self.given[name])
            elif rule is not None:  # 2
                chosen = rule.bounds
                if None in rule.dims:
                    self.bounded[name] = (node, rule.bounds[rule.dims.index(None)])
            elif dims is not None and dims.count(None) == 1 and not self._is_hidden(node, shapes):  # 3
                cause = f"{node.op_type} '{node.name}' decides from its data the size of '{name}'"
                self.unknown[node.name] = UnknownPart(node.name, node.op_type, "size", cause, f"--size {name}=N")
            if chosen is not None:
                found[index] = TensorType(_choose_element_type(node, index, known), chosen)
        return found

    @staticmethod
    def _is_hidden(node: Node, shapes: Sequence[tuple[int, ...] | None]) -> bool:
        return any(name and shape is None for name, shape in zip(node.inputs, shapes, strict=True))

    def check_used(self, tensors: Mapping[str, TensorInfo]) -> None:
        """Check that every size given was needed.

        Raises:
            GraphError: If one was not.
        """
        for name in self.given:
            if name not in self.used:
                shape = tensors[name].shape if name in tensors else None
                what = "x".join(map(str, shape)) or "scalar" if shape is not None else "hidden by an earlier node"
                raise GraphError(f"no run decides the shape of '{name}' ({what})", cure=f"leave out --size {name}")

    def describe_bounds(self, executed: Collection[str]) -> str:
        """Describe which tensors are counted at their upper bound, in one note; empty if there are none."""
        found = [(name, node, size) for name, (node, size) in self.bounded.items() if node.name in executed]
        if not found:
            return ""
        named = ", ".join(f"'{name}' ({node.op_type}) {size}" for name, node, size in found[:_NAMED])
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        return (
            f"sizes that depend on data are counted at their upper bound: {named}{more}; "
            f"give the usual one with --size {found[0][0]}=N"
        )


def _read_open_dims(known: TensorType | None) -> tuple[int | None, ...] | None:
    """Sizes of the axes of a partly known shape, ``None`` where open; ``None`` if even the rank is."""
    if known is None or known.proto is None or not known.proto.tensor_type.HasField("shape"):
        return None
    dims = known.proto.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None for dim in dims)


_INT64 = 7
_INDICES = {"NonMaxSuppression": (0,), "NonZero": (0,), "TopK": (1,), "Unique": (1, 2, 3)}


def _choose_element_type(node: Node, index: int, known: TensorType | None) -> int:
    """Element type of an output: what inference says, else that of indices."""
    if known is not None and known.elem_type:
        return known.elem_type
    return _INT64 if index in _INDICES.get(node.op_type, ()) else 0
