"""Demands of a model's first operators on the axes of its inputs: layout, channels, features.

An input is followed through operators that keep or permute its axes (Transpose, Cast, Unsqueeze, a subtraction of the
mean) to the ones whose weights say how large an axis must be, or what it is. Definitions of the operators:
https://onnx.ai/onnx/operators/index.html.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deepen.graph.onnx_reader.input_shapes import list_model_inputs
from deepen.graph.onnx_reader.proto_values import iter_graphs, read_attributes, read_constant_value, read_tensor_value

if TYPE_CHECKING:
    import onnx

__all__ = ["AxisDemands", "find_axis_demands"]

_MOST_STEPS = 2000  # of following one input
_MOST_WIDTHS = 20

Axes = tuple[int | None, ...]
"""Axis of the input that each axis of a tensor is; ``None`` for one that the model added."""

_KEEPS_AXES = frozenset({
    "Abs", "Add", "BatchNormalization", "Cast", "Clip", "DequantizeLinear", "Div", "Dropout", "Exp", "Identity",
    "InstanceNormalization", "LayerNormalization", "LeakyRelu", "Log", "Mul", "Neg", "Pow", "PRelu", "QuantizeLinear",
    "Relu", "Sigmoid", "Softmax", "Sqrt", "Sub", "Tanh",
})  # fmt: skip
_BROADCASTS = frozenset({"Add", "Div", "Mul", "Pow", "PRelu", "Sub"})
_KEEPS_SHAPE = frozenset({"Cast", "DequantizeLinear", "Identity", "QuantizeLinear"})
_CONVOLUTIONS = frozenset({"Conv", "ConvInteger", "ConvTranspose", "FusedConv", "QLinearConv"})
_PRODUCTS = frozenset({"FusedMatMul", "MatMul", "MatMulInteger", "QLinearMatMul", "Gemm", "FusedGemm"})
_RECURRENT = frozenset({"DynamicQuantizeLSTM", "GRU", "LSTM", "RNN"})


@dataclass(slots=True)
class AxisDemands:
    """Sizes and meanings that operators give the axes of inputs, by (input, axis).

    Attributes:
        sizes: Sizes that weights demand.
        roles: Meanings: ``pixels``, ``samples`` (of a one-dimensional convolution), ``voxels``, ``tokens``, ``frames``,
            ``batch`` or ``channels``.
        ranks: Number of axes of an input whose shape is not declared, by its name.
        widths: Sizes of axes of weights, the most frequent ones first.
    """

    sizes: dict[tuple[str, int], int] = field(default_factory=dict)
    roles: dict[tuple[str, int], str] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    widths: list[int] = field(default_factory=list)


def find_axis_demands(graph: onnx.GraphProto) -> AxisDemands:
    """Find what the first operators behind each input say of its axes."""
    return _DemandSearch(graph).run()


class _DemandSearch:
    """The search over one graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._inputs = list_model_inputs(graph)
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._small: dict[str, onnx.TensorProto] = {}
        self._constants: dict[str, onnx.NodeProto] = {}
        for body in iter_graphs(graph):  # bodies of If read inputs too
            self._index_graph(body)
        self.found = AxisDemands()

    def _index_graph(self, graph: onnx.GraphProto) -> None:
        """Index the readers of every tensor, and the shapes of constants."""
        for tensor in graph.initializer:
            self._shapes[tensor.name] = tuple(tensor.dims)
            if len(tensor.dims) <= 1:
                self._small[tensor.name] = tensor
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self._readers.setdefault(name, []).append(node)
            if node.op_type == "Constant":
                self._constants[node.output[0]] = node
                value = read_constant_value(node)
                tensors = [a.t for a in node.attribute if a.name == "value"]
                if value is not None:
                    self._shapes[node.output[0]] = value.shape
                elif tensors:
                    self._shapes[node.output[0]] = tuple(tensors[0].dims)
            elif node.input and node.input[0] in self._shapes:
                shape = self._shapes[node.input[0]]
                if node.op_type in _KEEPS_SHAPE:
                    self._shapes[node.output[0]] = shape
                elif node.op_type == "Transpose":
                    perm = read_attributes(node).get("perm") or range(len(shape))[::-1]
                    if sorted(perm) == list(range(len(shape))):
                        self._shapes[node.output[0]] = tuple(shape[axis] for axis in perm)

    def run(self) -> AxisDemands:
        """Follow every input."""
        sizes = Counter(size for shape in self._shapes.values() if len(shape) > 1 for size in shape)
        self.found.widths += [size for size, _ in sizes.most_common(_MOST_WIDTHS)]
        for value in self._inputs:
            if value.type.tensor_type.HasField("shape"):
                self._follow(value.name, len(value.type.tensor_type.shape.dim))
            elif value.type.HasField("tensor_type"):
                rank = self.found.ranks[value.name] = self._find_rank(value.name)
                self._follow(value.name, rank)
        return self.found

    def _find_rank(self, name: str) -> int:
        """Find the rank of an input from its first reader: that of a convolution's weight, or of a product's."""
        seen, pending = {name}, [name]
        while pending:
            for node in self._readers.get(pending.pop(0), ()):
                weight = self._shapes.get(node.input[1]) if len(node.input) > 1 else None
                if node.op_type in _CONVOLUTIONS and weight:
                    return len(weight)
                if node.op_type in _PRODUCTS and weight:
                    return 2
                if node.op_type == "Transpose" and (perm := read_attributes(node).get("perm")):
                    return len(perm)
                if node.op_type in _RECURRENT:
                    return 3
                if node.op_type in _KEEPS_AXES and node.output[0] not in seen and len(seen) < _MOST_STEPS:
                    seen.add(node.output[0])
                    pending.append(node.output[0])
        return 4

    def _follow(self, name: str, rank: int) -> None:
        """Follow one input through the graph."""
        pending: list[tuple[str, Axes]] = [(name, tuple(range(rank)))]
        seen = {name}
        while pending and len(seen) < _MOST_STEPS:
            tensor, axes = pending.pop(0)
            for node in self._readers.get(tensor, ()):
                for position in [i for i, read in enumerate(node.input) if read == tensor]:
                    self._note_demands(name, node, position, axes)
                after = self._map_axes(node, tensor, axes)
                if after is not None and node.output[0] not in seen:
                    seen.add(node.output[0])
                    pending.append((node.output[0], after))

    def _map_axes(self, node: onnx.NodeProto, tensor: str, axes: Axes) -> Axes | None:
        """Map the axes of a tensor to those of what a node makes of it; ``None`` where they cannot be followed."""
        attributes = read_attributes(node)
        if node.op_type in _KEEPS_AXES:
            if node.op_type in _BROADCASTS and any(len(self._shapes.get(i, ())) > len(axes) for i in node.input):
                return None
            return axes if node.input[0] == tensor or node.op_type in _BROADCASTS else None
        if node.input[0] != tensor:
            return None
        if node.op_type == "Transpose":
            perm = attributes.get("perm") or range(len(axes))[::-1]
            return tuple(axes[axis] for axis in perm) if sorted(perm) == list(range(len(axes))) else None
        if node.op_type in {"Squeeze", "Unsqueeze"}:
            given = attributes.get("axes") or (self._read_small(node.input[1]) if len(node.input) > 1 else None)
            if given is None:
                return None
            rank = len(axes) + (len(given) if node.op_type == "Unsqueeze" else 0)
            places = sorted({axis % rank for axis in given if -rank <= axis < rank})
            if node.op_type == "Squeeze":
                return tuple(axis for place, axis in enumerate(axes) if place not in places)
            opened = list(axes)
            for place in places:
                opened.insert(place, None)
            return tuple(opened)
        return None

    def _note_demands(self, name: str, node: onnx.NodeProto, position: int, axes: Axes) -> None:
        for axis, size, role in self._list_demands(node, position, len(axes)):
            own = axes[axis] if -len(axes) <= axis < len(axes) else None
            if own is not None:
                if size:
                    self.found.sizes.setdefault((name, own), size)
                if role:
                    self.found.roles.setdefault((name, own), role)

    def _list_demands(self, node: onnx.NodeProto, position: int, rank: int) -> Iterator[tuple[int, int, str]]:
        """Yield each (axis, size or 0, role) that a node demands of its input at ``position``."""
        shapes = [self._shapes.get(name) for name in node.input]
        attributes: Mapping[str, Any] = read_attributes(node)
        op_type = node.op_type
        if op_type in _CONVOLUTIONS and position == 0:
            weight = shapes[3] if op_type == "QLinearConv" and len(shapes) > 3 else shapes[1]
            channels = 0
            if weight and len(weight) > 1:
                channels = weight[0] if op_type == "ConvTranspose" else weight[1] * attributes.get("group", 1)
            spatial = {3: "samples", 4: "pixels", 5: "voxels"}.get(rank, "")
            yield (0, 0, "batch")
            yield (1, channels, "channels")
            for axis in range(2, rank):
                yield (axis, 0, spatial)
        elif op_type in _PRODUCTS and position == 0 and len(shapes) > 1:
            weight = shapes[3] if op_type == "QLinearMatMul" and len(shapes) > 3 else shapes[1]
            if weight:
                inner = weight[-1] if attributes.get("transB") else weight[-2] if len(weight) > 1 else weight[0]
                yield (-2 if attributes.get("transA") else -1, inner, "channels")
        elif op_type in {"BatchNormalization", "InstanceNormalization"} and position == 0 and shapes[1]:
            yield (1, shapes[1][0], "channels")
        elif op_type == "LayerNormalization" and position == 0 and shapes[1]:
            for back, size in enumerate(reversed(shapes[1]), 1):
                yield (-back, size, "")
        elif op_type in _BROADCASTS:
            other = shapes[1 - position] if position < 2 else None
            for back, size in enumerate(reversed(other or ()), 1):
                if size > 1:
                    yield (-back, size, "")
        elif op_type in _RECURRENT:
            yield from self._list_recurrent_demands(op_type, position, shapes, attributes)
        elif op_type == "Gather" and position == 1:
            yield (rank - 1, 0, "tokens")
        elif op_type == "MatMulNBits" and position == 0:
            yield (-1, attributes.get("K", 0), "channels")
        elif op_type == "Scaler" and position == 0:
            yield (-1, len(attributes.get("scale", ())) if len(attributes.get("scale", ())) > 1 else 0, "")

    @staticmethod
    def _list_recurrent_demands(
        op_type: str, position: int, shapes: Sequence[tuple[int, ...] | None], attributes: Mapping[str, Any]
    ) -> Iterator[tuple[int, int, str]]:
        """Yield demands of LSTM, GRU and RNN on their data (position 0) and first states (5 and 6)."""
        first = attributes.get("layout", 0) == 1
        weight = shapes[1] if len(shapes) > 1 else None
        if position == 0:
            size = 0 if not weight or len(weight) != 3 else weight[1 if op_type.startswith("Dynamic") else 2]
            yield from ((2, size, "channels"), (1 - first, 0, "batch"), (int(first), 0, "frames"))
        elif position in {5, 6} and weight:
            hidden = attributes.get("hidden_size", 0)
            yield from ((int(first), weight[0], ""), (1 - first, 0, "batch"), (2, hidden, ""))

    def _read_small(self, name: str) -> list[int] | None:
        if name in self._small:
            value = read_tensor_value(self._small[name])
        else:
            value = read_constant_value(self._constants[name]) if name in self._constants else None
        return None if value is None else [int(number) for number in value.reshape(-1)]
