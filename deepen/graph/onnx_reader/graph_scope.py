"""Tensor names of nested graphs, and what a pass over them has found so far: nodes, tensors, types, small values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepen.errors import GraphError
from deepen.graph.onnx_reader import proto_values
from deepen.graph.onnx_reader.long_lists import LongList
from deepen.graph.onnx_reader.proto_values import TensorType
from deepen.graph.onnx_reader.runtime_sizes import RuntimeSizes
from deepen.graph.onnx_reader.runtime_types import RuntimeTypes
from deepen.graph.onnx_reader.sequence_types import SequenceTypes
from deepen.graph.onnx_reader.shape_inference import DeclaredTypes
from deepen.graph.onnx_reader.without_weights import MAX_ELEMENTS
from deepen.graph.read_options import ReadOptions
from deepen.graph.types import Node, TensorInfo, UnknownPart

if TYPE_CHECKING:
    import onnx

__all__ = ["GraphScope", "GraphUnderConstruction", "choose_more_specific_type"]


@dataclass(slots=True)
class GraphScope:
    """Tensor names and known types of one graph: the main graph or a body.

    Attributes:
        path: Empty for the main graph, else the path of the body.
        graph: The graph.
        parent: The scope around it.
        names: Full name of each tensor by its name in the file.
        inferred: Types that whole-model inference found.
        declared: Types that the file declares, used where nothing else is known.
    """

    path: str
    graph: onnx.GraphProto
    parent: GraphScope | None
    names: dict[str, str] = field(default_factory=dict)
    inferred: dict[str, TensorType] = field(default_factory=dict)
    declared: Mapping[str, onnx.TypeProto] = field(default_factory=dict)

    def resolve(self, name: str) -> str:
        """Full name of a tensor read in this scope; empty for an omitted one."""
        scope: GraphScope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        return ""

    def full(self, name: str) -> str:
        """Full name of a tensor written in this scope; empty for an omitted one."""
        return f"{self.path}/{name}" if self.path and name else name

    @property
    def depth(self) -> int:
        """Number of scopes around this one."""
        return 0 if self.parent is None else self.parent.depth + 1


@dataclass(slots=True)
class GraphUnderConstruction(ABC):
    """Nodes, tensors and values of all graphs of a model, as far as a pass over it has come.

    Attributes:
        model: Inferred model; shapes found here are written back into it.
        declared: Types the file declares, used where nothing else is known.
        strict_shapes: Whether a node that cannot take its input shapes is an error (the caller asked for these shapes)
            or only a warning (they are the model's own).
        tolerance_depth: Number of enclosing If branches that may never run; above 0, contradictions are ignored.
        contradictions: How many were ignored in branches that may run.
        opsets: Operator-set versions by domain.
        nodes: Nodes so far.
        tensors: Tensors by full name.
        types: Their types, including partly known ones and sequences.
        values: Values of small constants.
        options: The user's answers to what the file leaves open.
        sizes: Sizes that only a run decides.
        resized: Tensors whose sizes are from a rule of these, or behind one.
        unknowns: Where it stays unknown how much work is done.
        warnings: Warnings for the user.
        long_lists: Lists of attributes that stay in the file.
        inference_warning: The warning that shape inference failed, once it has.
        runtime: Asked about operators that the ``onnx`` library does not know.
        given: Shapes of tensors by full name, as the user gives them; they override what is inferred.
        sequences: Elements of sequences by full name, as far as known.
    """

    model: onnx.ModelProto
    declared: DeclaredTypes
    options: ReadOptions = field(default_factory=ReadOptions)
    strict_shapes: bool = False
    tolerance_depth: int = 0
    contradictions: int = 0
    opsets: dict[str, int] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, TensorInfo] = field(default_factory=dict)
    types: dict[str, TensorType] = field(default_factory=dict)
    values: dict[str, NDArray[Any]] = field(default_factory=dict)
    sizes: RuntimeSizes = field(init=False)
    resized: set[str] = field(default_factory=set)
    unknowns: list[UnknownPart] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    long_lists: Sequence[LongList] = ()
    inference_warning: str = ""
    runtime: RuntimeTypes | None = None
    given: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    sequences: dict[str, SequenceTypes] = field(default_factory=dict)
    _patches: dict[tuple[str, str], tuple[onnx.GraphProto, TensorType]] = field(default_factory=dict)
    _protos: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sizes = RuntimeSizes(self.options.sizes)

    @abstractmethod
    def flatten_nodes(self, scope: GraphScope, multiplicity: float) -> None:
        """Flatten the nodes of one graph, in order, each executed ``multiplicity`` times."""

    def open_scope(self, path: str, graph: onnx.GraphProto, parent: GraphScope | None) -> GraphScope:
        """Start a graph: index its inferred types and define its initialisers."""
        scope = GraphScope(path, graph, parent, declared=self.declared.get(path, {}))
        scope.inferred = {value.name: TensorType.of(value.type) for value in (*graph.value_info, *graph.output)}
        for tensor in graph.initializer:
            tensor_type = TensorType(tensor.data_type, tuple(tensor.dims))
            self.define(scope, tensor.name, tensor_type, constant=True, value=proto_values.read_tensor_value(tensor))
        for sparse in graph.sparse_initializer:
            tensor_type = TensorType(sparse.values.data_type, tuple(sparse.dims))
            value = proto_values.read_sparse_value(sparse)
            self.define(scope, sparse.values.name, tensor_type, constant=True, value=value)
        return scope

    def define_inputs(self, scope: GraphScope, bound: Mapping[str, TensorType]) -> None:
        """Define the formal inputs of a graph.

        Args:
            scope: The graph.
            bound: Types known from outside, by input name; the more specific one of the two is used.
        """
        for value in scope.graph.input:
            if value.name not in scope.names:
                tensor_type = choose_more_specific_type(TensorType.of(value.type), bound.get(value.name))
                said = None
                if (
                    not scope.path
                    and value.name in self.options.branches
                    and tensor_type
                    and tensor_type.dims is not None
                ):
                    said = np.full(tensor_type.dims, self.options.branches[value.name])
                self.define(scope, value.name, tensor_type, value=said)

    def define(
        self,
        scope: GraphScope,
        name: str,
        tensor_type: TensorType | None,
        *,
        constant: bool = False,
        value: NDArray[Any] | None = None,
    ) -> str:
        """Register a tensor (again, if its body is walked a second time) and return its full name."""
        full = scope.names[name] = scope.full(name)
        self.values.pop(full, None)
        self.sequences.pop(full, None)
        self._protos.pop(full, None)
        self._patches.pop((scope.path, name), None)
        tensor_type = tensor_type or TensorType(0, None)
        self.types[full] = tensor_type
        dims = tensor_type.dims
        if dims and min(dims) < 0:  # reported by `find_shape_contradiction`, or tolerated
            dims = None
        elif dims and prod(dims) > MAX_ELEMENTS:
            raise GraphError(f"tensor '{full}' would have {prod(dims):,} elements; check the input shapes")
        if value is not None:
            self.values[full] = value
        self.tensors[full] = TensorInfo(
            full, dims, proto_values.get_dtype_name(tensor_type.elem_type), constant or value is not None
        )
        return full

    def warn(self, text: str) -> None:
        """Add a warning; the graph made of all this holds each once."""
        self.warnings.append(text)


def choose_more_specific_type(first: TensorType | None, second: TensorType | None) -> TensorType | None:
    """Choose the more specific of two types; of equals, the first."""
    if first is None or second is None:
        return first or second
    return first if first.specificity >= second.specificity else second
