"""Demands that a graph's operators make on the values of its inputs: indices in range, lengths, rounds, sizes, masks.

An input is followed through operators that pass its values on (Cast, Reshape, Slice, sums with constants, states of a
Loop ...) to the operators that give them a meaning, and the limits found there are carried back to the input:
``Gather`` wants an index of its axis, ``Loop`` a number of rounds, ``LSTM`` lengths, and so on. Operators are those of
https://onnx.ai/onnx/operators and of ``docs/ContribOperators.md`` of ONNX Runtime.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deepen.graph.types import Graph, Node

__all__ = ["DemandFinder", "DemandKind", "InputDemand"]

DemandKind = Literal[
    "condition", "equals", "rounds", "shape", "size", "length", "mask", "position", "segment", "index", "data"
]
"""Meaning of an input's values, from the one that decides most about a run's work to the one that decides least."""

_MAX_HOPS = 120  # operators between an input and what gives it a meaning
_TO_SOFTMAX = 3  # operators between the sum with a mask and the softmax


@dataclass(frozen=True, slots=True)
class InputDemand:
    """A demand on every element of a tensor.

    Attributes:
        kind: Meaning of the values.
        low: Least value allowed.
        high: Largest value allowed.
        want: Value that makes the model do its work (one for all elements, or one for each of a vector); ``None`` where
            any allowed one does.
        avoid: Values with a special meaning, such as the padding token.
        node: Name of the node that makes the demand.
    """

    kind: DemandKind
    low: float = -math.inf
    high: float = math.inf
    want: float | tuple[int, ...] | None = None
    avoid: frozenset[float] = frozenset()
    node: str = ""

    def shift(self, offsets: NDArray[Any]) -> InputDemand:
        """Carry the demand on ``x + offset`` back to ``x``."""
        least, most = float(offsets.min()), float(offsets.max())
        return self._map(lambda v: v - least, lambda v: v - most)

    def scale(self, factor: float) -> InputDemand:
        """Carry the demand on ``factor * x`` back to ``x``; the factor is positive."""
        return self._map(lambda v: math.ceil(v / factor), lambda v: math.floor(v / factor))

    def reflect(self, total: float) -> InputDemand:
        """Carry the demand on ``total - x`` back to ``x``."""
        turned = replace(self, low=-self.high, high=-self.low)
        turned = replace(turned, want=-self.want) if isinstance(self.want, int | float) else turned
        return turned._map(lambda v: v + total, lambda v: v + total)

    def _map(self, low: Callable[[float], float], high: Callable[[float], float]) -> InputDemand:
        want = high(self.want) if isinstance(self.want, int | float) else None
        return replace(
            self,
            low=low(self.low) if math.isfinite(self.low) else self.low,
            high=high(self.high) if math.isfinite(self.high) else self.high,
            want=want,
            avoid=frozenset(map(high, self.avoid)),
        )


_PASSES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(
        [
            "Identity",
            "Cast",
            "CastLike",
            "Reshape",
            "Squeeze",
            "Unsqueeze",
            "Flatten",
            "Transpose",
            "Expand",
            "Tile",
            "Slice",
            "Gather",
            "GatherElements",
            "GatherND",
            "Split",
            "Pad",
            "Clip",
            "ReduceMax",
            "ReduceMin",
            "Abs",
            "Floor",
            "Ceil",
            "Round",
            "Dropout",
            "Trilu",
            "Relu",
        ],
        (0,),
    ),
    "ScatterND": (2,),
    "ScatterElements": (2,),
}
"""Positions of the inputs whose values an operator passes on unchanged."""
_PASS_ALL = frozenset(["Concat", "Min", "Max", "And", "Or", "Xor", "Mul"])
_COMPARISONS = frozenset(["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"])
_RANGES = frozenset({"Range", "CumSum", "NonZero"})
_SEARCHES = frozenset({"BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch"})
_INTEGER_DATA = frozenset(["MatMulInteger", "ConvInteger", "QLinearConv", "QLinearMatMul", "DequantizeLinear"])


class DemandFinder:
    """Finds the demands on tensors of one graph; what is found once is kept."""

    def __init__(self, graph: Graph, rounds: Mapping[str, int] | None = None) -> None:
        """Map tensors to the nodes that read and write them.

        Args:
            graph: The graph.
            rounds: Rounds wanted, by name of a Loop.
        """
        self._graph = graph
        self._rounds = dict(rounds or {})
        self._readers: dict[str, list[tuple[Node, int]]] = {}
        self._writers: dict[str, Node] = {}
        for node in graph.nodes:
            for position, name in enumerate(node.inputs):
                if name:
                    self._readers.setdefault(name, []).append((node, position))
            self._writers.update(dict.fromkeys(node.outputs, node))
        self._executed = {node.scope for node in graph.nodes if node.multiplicity > 0}
        self._known: dict[str, tuple[InputDemand, ...]] = {}
        self._formals = _list_loop_formals(graph)
        self._body_inputs = {name for names in self._formals.values() for name in names}

    def find(self, name: str, hops: int = _MAX_HOPS) -> tuple[InputDemand, ...]:
        """Find the demands on a tensor: those of its readers, carried back through operators that pass values on."""
        if name not in self._known:
            self._known[name] = ()  # of a circle through a Loop's states
            found = [
                demand for node, position in self._readers.get(name, ()) for demand in self._ask(node, position, hops)
            ]
            self._known[name] = tuple(dict.fromkeys(found))
        return self._known[name]

    # ---- one reader -------------------------------------------------------------------------------------------------

    def _ask(self, node: Node, position: int, hops: int) -> list[InputDemand]:
        """Demands of one node on its input at a position."""
        own = self._find_own_demand(node, position)
        if own is not None:
            return [replace(own, node=own.node or node.name)]
        if hops <= 0:
            return []
        if node.op_type in _COMPARISONS:
            return self._compare(node, position, hops - 1)
        if node.op_type == "Loop":
            formals = self._formals.get(node.name, ())
            return list(self.find(formals[position], hops - 1)) if position < len(formals) else []
        behind = [demand for name in node.outputs if name for demand in self.find(name, hops - 1)]
        if node.op_type in ("Add", "Sub", "Mul", "Div", "Mod", "Neg"):
            return self._invert_arithmetic(node, position, behind)
        if node.op_type in ("ReduceSum", "CumSum") and position == 0:
            # The sum over a mask of ones is the length; each element of the mask is 0 or 1.
            summed = [d for d in behind if d.kind in ("length", "position", "index", "rounds", "size")]
            return [InputDemand("mask", 0, 1, 1, node=d.node) for d in summed] or [InputDemand("data", node=node.name)]
        if node.op_type == "Not":
            return [replace(d, want=1 - d.want) if isinstance(d.want, int | float) else d for d in behind]
        if node.op_type == "Where" and position > 0:
            return behind
        if position in _PASSES.get(node.op_type, ()) or node.op_type in _PASS_ALL:
            return behind
        return [InputDemand("data", node=node.name)]

    def _invert_arithmetic(self, node: Node, position: int, behind: list[InputDemand]) -> list[InputDemand]:
        """Carry demands back through arithmetic; with an operand that is not constant, as far as that is possible."""
        if node.op_type == "Neg":
            return [d.reflect(0) for d in behind]
        other = self._get_value(node.inputs[1 - position])
        if node.op_type in ("Mod", "Div") and position == 1:
            whole = self._get_dtype(node.inputs[1]).startswith(("int", "uint"))
            return [InputDemand("size", 1, want=1) if whole else InputDemand("data")]  # never divide by zero
        if node.op_type == "Mod":
            return [InputDemand("data")]
        if node.op_type in ("Add", "Sub") and self._leads_to_softmax(node.outputs[0]):
            return [InputDemand("mask", 0, 1, 1)]
        if other is None or not other.size or other.dtype == object:
            if node.op_type in ("Add", "Sub") and position == 0:  # both are at least 0 and share what is allowed
                return [replace(d, high=d.high // 2 if math.isfinite(d.high) else d.high, want=None) for d in behind]
            return [InputDemand("data")] if node.op_type != "Mul" and not behind else behind
        if node.op_type == "Add":
            return [d.shift(other) for d in behind]
        if node.op_type == "Sub":
            return [d.shift(-other) if position == 0 else d.reflect(float(other.max())) for d in behind]
        factor = float(np.abs(other).max())
        if factor == 0:
            return [InputDemand("data")]
        return [d.scale(factor if node.op_type == "Mul" else 1 / factor) for d in behind]

    def _compare(self, node: Node, position: int, hops: int) -> list[InputDemand]:
        """Demands of a comparison: a length (with a range), rounds (with a Loop's counter), or a constant."""
        other = node.inputs[1 - position]
        value = self._get_value(other)
        if value is not None and value.size == 1 and value.dtype != object:
            return self._compare_with_constant(node, position, float(value.reshape(-1)[0]), hops)
        counted, is_counter = self._count_range(other)
        if is_counter:
            return [InputDemand("rounds", 1, want=self._rounds.get(node.scope.rpartition(".")[0]))]
        if counted and node.op_type == "Equal":  # one-hot codes by comparison
            return [_make_index_demand(counted)]
        if counted:
            return [InputDemand("length", 1, math.inf, counted)]
        return [InputDemand("data")]

    def _compare_with_constant(self, node: Node, position: int, constant: float, hops: int) -> list[InputDemand]:
        decides = [d for d in self.find(node.outputs[0], hops) if d.kind == "condition"]
        if not decides:
            avoid = frozenset({constant}) if node.op_type == "Equal" else frozenset()
            return [InputDemand("data", avoid=avoid)]
        wanted = bool(decides[0].want)
        if node.op_type == "Equal":
            if wanted:
                return [InputDemand("equals", constant, constant, constant)]
            return [InputDemand("data", avoid=frozenset({constant}))]
        above = node.op_type.startswith("Greater") == (position == 0)  # the comparison holds for large values
        step = 0 if node.op_type.endswith("OrEqual") == wanted else 1
        if above == wanted:
            return [InputDemand("equals", constant + step, want=constant + step)]
        return [InputDemand("equals", high=constant - step, want=constant - step)]

    def _count_range(self, name: str) -> tuple[int, bool]:
        """Numbers in the range that a tensor was made of (0: it is none), and whether it is a Loop's counter."""
        for _ in range(12):
            value = self._get_value(name)
            if value is not None:
                return (int(value.max()) + 1 if value.size > 1 and value.dtype != object else 0), False
            if name in self._body_inputs:
                return 0, True
            node = self._writers.get(name)
            if node is None or not node.inputs:
                return 0, False
            if node.op_type in _RANGES:
                tensor = self._graph.tensors.get(name)
                return (max(tensor.shape, default=0) if tensor and tensor.shape else 0), False
            if node.op_type not in _PASSES and node.op_type not in ("Add", "Sub"):
                return 0, False
            name = node.inputs[0]
        return 0, False

    def _leads_to_softmax(self, name: str, hops: int = _TO_SOFTMAX) -> bool:
        readers = [node for node, _ in self._readers.get(name, ())]
        if any(node.op_type in ("Softmax", "LogSoftmax") for node in readers):
            return True
        return hops > 0 and any(
            self._leads_to_softmax(node.outputs[0], hops - 1)
            for node in readers
            if node.op_type in ("Reshape", "Add", "Cast", "Where", "Max", "Mul", "Unsqueeze", "Expand") and node.outputs
        )

    # ---- operators that give a meaning ------------------------------------------------------------------------------

    def _find_own_demand(self, node: Node, position: int) -> InputDemand | None:
        """Return the demand that the node itself makes on an input; ``None`` if it only passes values on."""
        size = self._get_axis_size
        match node.op_type, position:
            case (("Gather" | "GatherElements" | "ScatterElements" | "Scatter"), 1):
                return _make_index_demand(size(node, 0, node.attributes.get("axis", 0)))
            case (("GatherND" | "ScatterND"), 1):
                return _make_index_demand(min(self._get_shape(node, 0), default=1))
            case "OneHot", 0:
                depth = self._get_value(node.inputs[1]) if len(node.inputs) > 1 else None
                return _make_index_demand(int(depth.reshape(-1)[0]) if depth is not None and depth.size else None)
            case "EmbedLayerNormalization", (0 | 1 | 8):
                return _make_index_demand(size(node, {0: 2, 1: 4, 8: 3}[position], 0))
            case "RotaryEmbedding", (1 | 3):
                table = (2 if position == 1 else None) if node.domain else (1 if position == 3 else None)
                return None if table is None else replace(_make_index_demand(size(node, table, 0)), kind="position")
            case (("SequenceAt" | "SequenceErase"), 1):
                return InputDemand("index", 0, 0, 0)
            case (("LSTM" | "GRU" | "RNN" | "DynamicQuantizeLSTM"), 4):
                steps = size(node, 0, 1 if node.attributes.get("layout", 0) else 0)
                return InputDemand("length", 0, steps or math.inf, steps)
            case "ReverseSequence", 1:
                steps = size(node, 0, node.attributes.get("time_axis", 0))
                return InputDemand("length", 1, steps or math.inf, steps)
            case "GroupQueryAttention", (5 | 6):
                total = self._get_total_length(node)
                return InputDemand("length", 0, want=total - (position == 5))
            case ("MultiHeadAttention", 4) | ("Attention", 3) | ("EmbedLayerNormalization", 7):
                return InputDemand("mask", 0, 1, 1)
            case "Loop", 0:
                return InputDemand("rounds", 1, want=self._rounds.get(node.name))
            case "Loop", 1:
                return InputDemand("condition", 0, 1, 1)
            case "If", 0:
                return InputDemand("condition", 0, 1, self._get_counted_branch(node))
            case ("Range", 1) | (("ConstantOfShape" | "HannWindow" | "HammingWindow" | "BlackmanWindow"), 0):
                return InputDemand("size", 1, want=self._get_output_shape(node))
            case "Range", (0 | 2):
                return InputDemand("size", position // 2, want=position // 2)
            case (("Reshape" | "Expand" | "CenterCropPad" | "Col2Im"), 1):
                return InputDemand("shape", 1, want=self._get_output_shape(node))
            case ("Tile", 1) | ("Slice", 4):
                return InputDemand("shape", 1, want=1)
            case ("Slice", (1 | 3)) | ("Pad", 1) | ("Trilu", 1) | (("CumSum" | "Unsqueeze" | "Squeeze"), 1):
                return InputDemand("shape", 0, want=0)
            case "Slice", 2:
                return InputDemand("size", 1, want=max(self._get_shape(node, 0), default=1))
            case "Resize", 2:
                return InputDemand("shape", 1, want=1)
            case "Resize", 3:
                return InputDemand("shape", 1, want=self._get_output_shape(node) or tuple(self._get_shape(node, 0)))
            case "TopK", 1:
                most = size(node, 0, node.attributes.get("axis", -1)) or 1
                return InputDemand("size", 1, most, min(most, 100))
            case "NonMaxSuppression", (2 | 3 | 4):
                boxes = size(node, 0, 1) or 100
                return InputDemand("size", 0, want={2: min(boxes, 100), 3: 0.5, 4: 0.0}[position])
            case "Dropout", 2:
                return InputDemand("condition", 0, 1, 0)
            case "Where", 0:
                hidden = self._get_value(node.inputs[1])  # what a hidden place gets is far below any score
                hides = hidden is not None and hidden.dtype.kind == "f" and hidden.size > 0 and hidden.min() < -1e3
                return InputDemand("mask", 0, 1, float(not hides))
            case ("NonZero", 0) | ("Compress", 1):
                return InputDemand("mask", 0, 1, 1)
        if node.op_type in _SEARCHES and node.domain:
            return self._ask_of_search(node, position)
        if node.op_type in _INTEGER_DATA:
            return InputDemand("data")
        return None

    def _ask_of_search(self, node: Node, position: int) -> InputDemand | None:
        """Demands of beam search and its kin: prompt, most and fewest tokens, beams; sixteen new tokens are decoded."""
        tensor = self._graph.tensors.get(node.inputs[0])
        prompt = tensor.shape[-1] if tensor is not None and tensor.shape else 1
        total = self._rounds.get(node.name, 16) + prompt
        wants = {1: total, 2: total, 3: 1 if node.op_type != "BeamSearch" else 4, 4: 1, 5: 1, 6: 1}
        if position == 0:
            vocabulary = node.attributes.get("vocab_size", 0)
            return _make_index_demand(vocabulary if isinstance(vocabulary, int) and vocabulary > 0 else None)
        if position not in wants:
            return InputDemand("mask", 0, 1, 1)
        return InputDemand("rounds" if position == 1 else "size", 1, want=wants[position])

    # ---- what is known of tensors -----------------------------------------------------------------------------------

    def _get_value(self, name: str) -> NDArray[Any] | None:
        return self._graph.values.get(name)

    def _get_dtype(self, name: str) -> str:
        tensor = self._graph.tensors.get(name)
        return tensor.dtype if tensor is not None else ""

    def _get_shape(self, node: Node, position: int) -> tuple[int, ...]:
        tensor = self._graph.tensors.get(node.inputs[position]) if position < len(node.inputs) else None
        return tensor.shape or () if tensor is not None else ()

    def _get_axis_size(self, node: Node, position: int, axis: object) -> int | None:
        shape = self._get_shape(node, position)
        return shape[axis] if isinstance(axis, int) and -len(shape) <= axis < len(shape) else None

    def _get_output_shape(self, node: Node) -> tuple[int, ...] | None:
        tensor = self._graph.tensors.get(node.outputs[0]) if node.outputs else None
        return tensor.shape if tensor is not None else None

    def _get_total_length(self, node: Node) -> int:
        """Tokens in the cache and of this step, at most as many as the table of rotations has rows."""
        query, past = self._get_shape(node, 0), self._get_shape(node, 3)
        total = (query[1] if len(query) > 1 else 1) + (past[2] if len(past) > 2 else 0)
        rows = self._get_axis_size(node, 7, 0)
        return min(total, rows) if rows else total

    def _get_counted_branch(self, node: Node) -> int:
        """The condition's value with which the branch runs that the graph counts."""
        return int(f"{node.name}.then_branch" in self._executed or f"{node.name}.else_branch" not in self._executed)


def _make_index_demand(limit: int | None) -> InputDemand:
    return InputDemand("index", 0, math.inf if limit is None else limit - 1)


def _list_loop_formals(graph: Graph) -> dict[str, tuple[str, ...]]:
    """List the full names of the body's inputs by name of each Loop; they stand where the Loop's own inputs stand."""
    found: dict[str, tuple[str, ...]] = {}
    waiting = [] if graph.model is None or not any(n.op_type == "Loop" for n in graph.nodes) else [graph.model.graph]
    while waiting:
        for node in waiting.pop().node:
            for attribute in node.attribute:
                bodies = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
                waiting += bodies
                if node.op_type == "Loop" and attribute.name == "body":
                    found[node.name] = tuple(f"{node.name}.body/{value.name}" for value in attribute.g.input)
    return found
