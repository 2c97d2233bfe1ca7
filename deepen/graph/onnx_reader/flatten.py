"""From an inferred model to nodes and tensors: one pass in topological order that also completes shapes and values.

Whole-model inference is fast but follows no values, so exports that compute their shapes (Shape, Gather, Concat,
Reshape) stay incomplete. Where that happens this pass infers single nodes again, now with the values it has found
on the way (``onnx.shape_inference.infer_node_outputs``; values by the ``onnx`` reference operators).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepen.errors import GraphError
from deepen.graph.onnx_reader import control_flow, proto_values
from deepen.graph.onnx_reader.constant_folding import NON_DETERMINISTIC, fold_node, is_foldable
from deepen.graph.onnx_reader.operator_schemas import get_operator_schema
from deepen.graph.onnx_reader.proto_values import TensorType
from deepen.graph.onnx_reader.shape_checks import find_shape_contradiction
from deepen.graph.onnx_reader.shape_inference import DeclaredTypes, shorten_error
from deepen.graph.onnx_reader.without_weights import MAX_ELEMENTS, SMALL_ELEMENTS
from deepen.graph.types import Node, TensorInfo

if TYPE_CHECKING:
    import onnx

__all__ = ["GraphFlattener", "GraphScope"]


@dataclass(slots=True)
class GraphScope:
    """Names of one graph.

    Attributes:
        path: Empty for the main graph, else the path of the body.
        graph: The graph.
        parent: The scope around it.
        names: Full name of each tensor by its name in the file.
        inferred: Types that whole-model inference found.
        declared: Types that the file states, looked at where nothing else is known.
    """

    path: str
    graph: onnx.GraphProto
    parent: GraphScope | None
    names: dict[str, str] = field(default_factory=dict)
    inferred: dict[str, TensorType] = field(default_factory=dict)
    declared: Mapping[str, onnx.TypeProto] = field(default_factory=dict)

    def resolve(self, name: str) -> str:
        """Full name of a tensor read here; empty stays empty."""
        scope: GraphScope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        return ""

    def full(self, name: str) -> str:
        """Full name of a tensor written here; empty stays empty."""
        return f"{self.path}/{name}" if self.path and name else name

    @property
    def depth(self) -> int:
        """Number of scopes around this one."""
        return 0 if self.parent is None else self.parent.depth + 1


@dataclass(slots=True)
class GraphFlattener:
    """The pass.

    Attributes:
        model: Inferred model; shapes found here are written back by :meth:`write_back`.
        declared: Types the file states, used where nothing else is known.
        demanding: Whether a node that contradicts the shapes is an error (the caller asked for these shapes) or only a
            warning (the model came so).
        tolerant: Above 0 inside the branch of an If that may never run: contradictions there are nobody's error.
        opsets: Operator-set versions by domain.
        nodes: Nodes so far.
        tensors: Tensors by full name.
        kinds: Their types, partly known ones and sequences included.
        values: Values of small constants.
        warnings: What a reader should know.
    """

    model: onnx.ModelProto
    declared: DeclaredTypes
    strict_shapes: bool = False
    tolerance_depth: int = 0
    opsets: dict[str, int] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, TensorInfo] = field(default_factory=dict)
    kinds: dict[str, TensorType] = field(default_factory=dict)
    values: dict[str, NDArray[Any]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    _patches: dict[tuple[str, str], tuple[onnx.GraphProto, TensorType]] = field(default_factory=dict)
    _protos: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def run(self) -> None:
        """Flatten the main graph and everything below it.

        Raises:
            GraphError: If shapes contradict one another or are absurd.
        """
        self.opsets = {opset.domain: opset.version for opset in self.model.opset_import}
        scope = self.open_scope("", self.model.graph, None)
        self.define_inputs(scope, {})
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # folding an overflow or a division by zero is the model's business
            self.walk(scope, 1.0)
        self.write_back()

    def open_scope(self, path: str, graph: onnx.GraphProto, parent: GraphScope | None) -> GraphScope:
        """Start a graph: index its inferred types and define its initialisers."""
        scope = GraphScope(path, graph, parent, declared=self.declared.get(path, {}))
        scope.inferred = {value.name: TensorType.of(value.type) for value in (*graph.value_info, *graph.output)}
        for tensor in graph.initializer:
            kind = TensorType(tensor.data_type, tuple(tensor.dims))
            self.define(scope, tensor.name, kind, constant=True, value=proto_values.read_tensor_value(tensor))
        for sparse in graph.sparse_initializer:
            kind = TensorType(sparse.values.data_type, tuple(sparse.dims))
            value = proto_values.read_sparse_value(sparse)
            self.define(scope, sparse.values.name, kind, constant=True, value=value)
        return scope

    def define_inputs(self, scope: GraphScope, bound: Mapping[str, TensorType]) -> None:
        """Define the formal inputs of a graph.

        Args:
            scope: The graph.
            bound: Types known from outside, by input name; they win where they say more.
        """
        for value in scope.graph.input:
            if value.name not in scope.names:
                self.define(scope, value.name, _choose_more_specific(TensorType.of(value.type), bound.get(value.name)))

    def define(
        self,
        scope: GraphScope,
        name: str,
        kind: TensorType | None,
        *,
        constant: bool = False,
        value: NDArray[Any] | None = None,
    ) -> str:
        """Register a tensor (again, if its body is walked a second time) and return its full name."""
        full = scope.names[name] = scope.full(name)
        self.values.pop(full, None)
        self._protos.pop(full, None)
        self._patches.pop((scope.path, name), None)
        kind = kind or TensorType(0, None)
        self.kinds[full] = kind
        dims = kind.dims
        if dims and min(dims) < 0:  # `find_shape_contradiction` has told, or nobody cares
            dims = None
        elif dims and prod(dims) > MAX_ELEMENTS:
            raise GraphError(f"tensor '{full}' would have {prod(dims):,} elements; check the input shapes")
        if value is not None:
            self.values[full] = value
        self.tensors[full] = TensorInfo(
            full, dims, proto_values.get_dtype_name(kind.elem_type), constant or value is not None
        )
        return full

    def walk(self, scope: GraphScope, multiplicity: float) -> None:
        """Take the nodes of one graph in order."""
        for node in scope.graph.node:
            inputs = tuple(scope.resolve(name) if name else "" for name in node.input)
            bodies = proto_values.list_subgraphs(node)
            taken = Node(
                name=node.name,
                op_type=node.op_type,
                domain=node.domain,
                inputs=inputs,
                outputs=tuple(scope.full(name) for name in node.output),
                attributes=proto_values.read_attributes(node),
                scope=scope.path,
                multiplicity=multiplicity,
            )
            self.nodes.append(taken)
            if bodies:
                kinds, known = control_flow.flatten_bodies(self, scope, node, taken)
                values = [known.get(name) for name in node.output]
                self._define_outputs(scope, node, kinds, constant=False, values=values)
            else:
                self._plain(scope, node, taken)

    def warn(self, text: str) -> None:
        """Add a warning once."""
        if text not in self.warnings:
            self.warnings.append(text)

    def write_back(self) -> None:
        """Write the shapes found by this pass into the model, for readers of ``Graph.model``."""
        by_graph: dict[str, tuple[onnx.GraphProto, dict[str, TensorType]]] = {}
        for (path, name), (graph, kind) in self._patches.items():
            by_graph.setdefault(path, (graph, {}))[1][name] = kind
        for graph, kinds in by_graph.values():
            for value in (*graph.value_info, *graph.output):
                if value.name in kinds:
                    value.type.CopyFrom(kinds.pop(value.name).message())
            for name, kind in kinds.items():
                graph.value_info.add(name=name, type=kind.message())

    def _plain(self, scope: GraphScope, node: onnx.NodeProto, taken: Node) -> None:
        """Define the outputs of a node without bodies."""
        kinds = {name: scope.inferred.get(name) for name in node.output if name}
        incomplete = [name for name, kind in kinds.items() if kind is None or kind.dims is None]
        if incomplete:
            found = self._infer_node(scope, node, taken)
            for name in incomplete:
                kinds[name] = _choose_more_specific(found.get(name), kinds[name])
            if node.op_type == "Dropout" and len(node.output) == 2 and node.output[1] in incomplete:
                kinds[node.output[1]] = self._mask(taken)
        values = self._values(node, taken, kinds)
        if values is not None and incomplete:
            for name, value in zip(node.output, values, strict=False):
                kind = kinds.get(name)
                if name in incomplete and kind is not None and kind.elem_type:
                    kinds[name] = TensorType(kind.elem_type, value.shape)
        self._define_outputs(scope, node, kinds, constant=self._is_constant(node, taken), values=values)
        self._check(taken, [None if (kind := kinds.get(name)) is None else kind.dims for name in node.output])

    def _check(self, taken: Node, shapes: Sequence[tuple[int, ...] | None]) -> None:
        if taken.domain or self.tolerance_depth:
            return
        inputs = [self._dims(name) for name in taken.inputs]
        problem = find_shape_contradiction(taken.op_type, taken.attributes, inputs, shapes)
        if problem:
            raise GraphError(f"node '{taken.name}' ({taken.op_type}): {problem}")

    def _define_outputs(
        self,
        scope: GraphScope,
        node: onnx.NodeProto,
        kinds: Mapping[str, TensorType | None],
        *,
        constant: bool,
        values: Sequence[NDArray[Any] | None] | None,
    ) -> None:
        for index, name in enumerate(node.output):
            if not name:
                continue
            before = scope.inferred.get(name)
            kind = _choose_more_specific(kinds.get(name), before)
            if (kind is None or kind.dims is None) and name in scope.declared:
                kind = _choose_more_specific(TensorType.of(scope.declared[name]), kind)
            self.define(scope, name, kind, constant=constant, value=values[index] if values is not None else None)
            if kind is not None and kind is not before and kind.dims is not None:
                self._patches[scope.path, name] = (scope.graph, kind)

    def _mask(self, taken: Node) -> TensorType | None:
        """Type of the mask of an old Dropout, which the library infers only from operator set 12 on."""
        source = self.kinds.get(taken.inputs[0]) if taken.inputs else None
        if source is None or source.dims is None:
            return None
        return TensorType(source.elem_type if self.opsets.get("", 1) < 10 else 9, source.dims)

    def _dims(self, name: str) -> tuple[int, ...] | None:
        return self.tensors[name].shape if name in self.tensors else None

    def _is_constant(self, node: onnx.NodeProto, taken: Node) -> bool:
        if node.op_type in NON_DETERMINISTIC:
            return False
        read = [name for name in taken.inputs if name]
        if not read:
            return node.op_type == "Constant" and not node.domain
        return all(name in self.tensors and self.tensors[name].constant for name in read)

    def _values(
        self, node: onnx.NodeProto, taken: Node, kinds: Mapping[str, TensorType | None]
    ) -> list[NDArray[Any]] | None:
        """Values of the outputs, where they are small and do not depend on the input."""
        if node.domain:
            return None
        if node.op_type == "Constant":
            value = proto_values.read_constant_value(node)
            return None if value is None else [value]
        if node.op_type in {"Shape", "Size"}:
            return self._shape_value(taken)
        if not is_foldable(node.op_type, node.domain):
            return None
        inputs: list[NDArray[Any] | None] = []
        for name in taken.inputs:
            if name and name not in self.values:
                return None
            inputs.append(self.values.get(name))
        shapes = [None if (kind := kinds.get(name)) is None else kind.dims for name in node.output]
        return fold_node(node, inputs, shapes, self.opsets) if any(value is not None for value in inputs) else None

    def _shape_value(self, taken: Node) -> list[NDArray[Any]] | None:
        dims = self._dims(taken.inputs[0]) if taken.inputs else None
        if dims is None:
            return None
        if taken.op_type == "Size":
            return [np.array(prod(dims), np.int64)]
        return [np.array(dims[slice(taken.attributes.get("start", 0), taken.attributes.get("end"))], np.int64)]

    def _infer_node(self, scope: GraphScope, node: onnx.NodeProto, taken: Node) -> dict[str, TensorType]:
        """Infer one node with the values found so far."""
        from onnx import checker, numpy_helper, shape_inference

        found_schema = get_operator_schema(node.op_type, self.opsets.get(node.domain, 1), node.domain)
        if found_schema is None:
            return {}
        kinds: dict[str, onnx.TypeProto] = {}
        data: dict[str, onnx.TensorProto] = {}
        for name in node.input:
            full = scope.resolve(name)
            if not full:
                continue
            kinds[name] = self.kinds[full].message()
            value = self.values.get(full)
            if value is not None and value.dtype != object and value.size <= SMALL_ELEMENTS:
                if full not in self._protos:
                    self._protos[full] = numpy_helper.from_array(value)
                data[name] = self._protos[full]
        imports = list(self.model.opset_import)
        try:
            found = shape_inference.infer_node_outputs(
                found_schema, node, kinds, data, None, imports, self.model.ir_version
            )
            return {name: TensorType.of(kind) for name, kind in found.items()}
        except checker.ValidationError as error:
            raise GraphError(f"node '{node.name}' is malformed: {shorten_error(error)}") from error
        except (shape_inference.InferenceError, RuntimeError, ValueError, TypeError, KeyError, IndexError) as error:
            if self.tolerance_depth:
                return {}
            self._check(taken, [None] * len(taken.outputs))  # the plainer message, where there is one
            if self.strict_shapes and "ShapeInferenceError" in str(error):
                message = f"node '{node.name}' cannot take these input shapes: {shorten_error(error)}"
                raise GraphError(message) from error
            if not any(text.startswith("shape inference") for text in self.warnings):  # the rest follows from the first
                self.warn(f"shape inference failed at node '{node.name}': {shorten_error(error)}")
            return {}


def _choose_more_specific(first: TensorType | None, second: TensorType | None) -> TensorType | None:
    """The type that says more; the first of equals."""
    if first is None or second is None:
        return first or second
    return first if first.specificity >= second.specificity else second
