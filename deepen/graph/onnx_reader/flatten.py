"""Turns an inferred model into nodes and tensors, in one pass in topological order that completes shapes and values.

Whole-model inference is fast but does not propagate values, so models that compute their shapes (Shape, Gather, Concat,
Reshape) stay incomplete. For each node without bodies, this pass

1. takes the output types that whole-model inference found;
2. infers the node again if a type is incomplete, with the values found so far
   (``onnx.shape_inference.infer_node_outputs``); what that leaves open is inferred by rules of our own
   (:mod:`deepen.graph.onnx_reader.shape_rules`, :mod:`deepen.graph.onnx_reader.sequence_types`), else by ONNX Runtime
   (:mod:`deepen.graph.onnx_reader.runtime_types`);
3. computes the outputs' values if they are small and constant (:mod:`deepen.graph.onnx_reader.constant_folding`), and
   takes missing shapes from them; a size that only a run decides is given by the user or bounded
   (:mod:`deepen.graph.onnx_reader.runtime_sizes`);
4. defines the outputs; the types that the file declares are used where nothing else is known;
5. checks the node's shapes for contradictions.

Nodes with bodies go to :mod:`deepen.graph.onnx_reader.control_flow`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepen.errors import GraphError
from deepen.graph.onnx_reader import control_flow, proto_values
from deepen.graph.onnx_reader.constant_folding import NON_DETERMINISTIC, fold_node, is_foldable
from deepen.graph.onnx_reader.graph_scope import GraphScope, GraphUnderConstruction, choose_more_specific_type
from deepen.graph.onnx_reader.long_lists import LongList
from deepen.graph.onnx_reader.operator_schemas import get_operator_schema
from deepen.graph.onnx_reader.proto_values import TensorType
from deepen.graph.onnx_reader.sequence_types import infer_sequence_operator
from deepen.graph.onnx_reader.shape_checks import find_shape_contradiction
from deepen.graph.onnx_reader.shape_inference import shorten_error
from deepen.graph.onnx_reader.shape_rules import apply_shape_rule
from deepen.graph.onnx_reader.without_weights import SMALL_ELEMENTS
from deepen.graph.types import Node

if TYPE_CHECKING:
    import onnx

__all__ = ["GraphFlattener"]

_SEQUENCE_READERS = frozenset({"ConcatFromSequence", "OptionalGetElement", "SequenceAt"})
_SEQUENCE_MAKERS = frozenset({
    "Identity", "Optional", "OptionalGetElement", "SequenceConstruct", "SequenceEmpty", "SequenceErase",
    "SequenceInsert", "SplitToSequence",
})  # fmt: skip


class GraphFlattener(GraphUnderConstruction):
    """The pass over one model."""

    __slots__ = ()

    def run(self) -> None:
        """Flatten the main graph and all bodies inside it.

        Raises:
            GraphError: If shapes contradict one another or are absurd.
        """
        self.opsets = {opset.domain: opset.version for opset in self.model.opset_import}
        scope = self.open_scope("", self.model.graph, None)
        self.define_inputs(scope, {})
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a model may compute with overflows and divisions by zero
            self.flatten_nodes(scope, 1.0)
        self._report_sizes()
        self.write_back()

    def _report_sizes(self) -> None:
        """Report the sizes that only a run decides, as far as the nodes that need them are counted."""
        self.sizes.check_used(self.tensors)
        executed = {node.name for node in self.nodes if node.multiplicity}
        bounds = self.sizes.describe_bounds(executed)
        if bounds:
            self.warn(bounds)
        for name, part in self.sizes.unknown.items():
            if name in executed:
                self.warn(f"{part.cause}; give {part.cure}")
                self.unknowns.append(part)

    def flatten_nodes(self, scope: GraphScope, multiplicity: float) -> None:
        """Flatten the nodes of one graph, in order."""
        for node in scope.graph.node:
            inputs = tuple(scope.resolve(name) if name else "" for name in node.input)
            bodies = proto_values.list_subgraphs(node)
            flat_node = Node(
                name=node.name,
                op_type=node.op_type,
                domain=node.domain,
                inputs=inputs,
                outputs=tuple(scope.full(name) for name in node.output),
                attributes=proto_values.read_attributes(node, self.long_lists),
                scope=scope.path,
                multiplicity=multiplicity,
            )
            self.nodes.append(flat_node)
            if bodies:
                types, known = control_flow.flatten_bodies(self, scope, node, flat_node)
                values = [known.get(name) for name in node.output]
                self._define_outputs(scope, node, types, constant=False, values=values)
            else:
                self._define_plain_outputs(scope, node, flat_node)

    def write_back(self) -> None:
        """Write the shapes found by this pass into the model, for readers of ``Graph.model``."""
        by_graph: dict[str, tuple[onnx.GraphProto, dict[str, TensorType]]] = {}
        for (path, name), (graph, tensor_type) in self._patches.items():
            by_graph.setdefault(path, (graph, {}))[1][name] = tensor_type
        for graph, types in by_graph.values():
            for value in (*graph.value_info, *graph.output):
                if value.name in types:
                    value.type.CopyFrom(types.pop(value.name).message())
            for name, tensor_type in types.items():
                graph.value_info.add(name=name, type=tensor_type.message())

    def _define_plain_outputs(self, scope: GraphScope, node: onnx.NodeProto, flat_node: Node) -> None:
        """Define the outputs of a node without bodies, in the five steps of the module's docstring."""
        # 1
        types = {name: scope.inferred.get(name) for name in node.output if name}
        if not self.resized.isdisjoint(flat_node.inputs):
            self._infer_again(scope, node, flat_node, types)
        incomplete = [name for name, tensor_type in types.items() if tensor_type is None or tensor_type.dims is None]
        if incomplete:  # 2
            found = self._infer_node(scope, node, flat_node)
            for name in incomplete:
                types[name] = choose_more_specific_type(found.get(name), types[name])
            if node.op_type == "Dropout" and len(node.output) == 2 and node.output[1] in incomplete:
                types[node.output[1]] = self._get_dropout_mask_type(flat_node)
            self._complete_types(scope, node, flat_node, types)
        values = self._compute_values(node, flat_node, types)  # 3
        if values is not None and incomplete:
            for name, value in zip(node.output, values, strict=False):
                tensor_type = types.get(name)
                if name in incomplete and tensor_type is not None and tensor_type.elem_type:
                    types[name] = TensorType(tensor_type.elem_type, value.shape)
                    self.resized.add(scope.full(name))
        elif incomplete:
            self._complete_sizes(scope, node, flat_node, types)
        self._define_outputs(scope, node, types, constant=self._is_constant(node, flat_node), values=values)  # 4
        self._define_sequence(scope, node, flat_node)
        shapes = [None if (tensor_type := types.get(name)) is None else tensor_type.dims for name in node.output]
        self._check_shapes(flat_node, shapes)  # 5

    def _infer_again(
        self, scope: GraphScope, node: onnx.NodeProto, flat_node: Node, types: dict[str, TensorType | None]
    ) -> None:
        """Infer output types behind a size that a rule completed; whole-model inference may have assumed another."""
        for name, found in self._infer_node(scope, node, flat_node).items():
            before = types.get(name)
            if found.dims is not None and (before is None or before.dims != found.dims):
                types[name] = found
                self.resized.add(scope.full(name))

    def _complete_types(
        self, scope: GraphScope, node: onnx.NodeProto, flat_node: Node, types: dict[str, TensorType | None]
    ) -> None:
        """Complete the output types of a node that the ``onnx`` library left open: by a rule, else by the runtime."""
        inputs = [self.types.get(name) if name else None for name in flat_node.inputs]
        ruled = apply_shape_rule(node.op_type, node.domain, flat_node.attributes, inputs)
        for name, tensor_type in zip(node.output, ruled, strict=False):
            if name:
                types[name] = choose_more_specific_type(types[name], tensor_type)
        if node.op_type in _SEQUENCE_READERS and not node.domain:
            found = self._infer_sequence(flat_node)
            if isinstance(found, TensorType):
                types[node.output[0]] = choose_more_specific_type(types[node.output[0]], found)
        if ruled or self.runtime is None or not self._may_runtime_know(node, inputs, types):
            return
        constant = [bool(name) and name in self.tensors and self.tensors[name].constant for name in flat_node.inputs]
        protos = [None if known is None else known.message() for known in inputs]
        stated = self.runtime.infer_outputs(
            node, protos, [self._get_value_proto(n) for n in flat_node.inputs], constant
        )
        for name, tensor_type in stated.items():
            types[name] = choose_more_specific_type(types[name], tensor_type)

    def _complete_sizes(
        self, scope: GraphScope, node: onnx.NodeProto, flat_node: Node, types: dict[str, TensorType | None]
    ) -> None:
        """Complete sizes that only a run decides; a size that the file declares is better than a bound."""
        known = [None if not name else types.get(name) for name in node.output]
        for index, name in enumerate(node.output):
            if name in scope.declared and scope.full(name) not in self.options.sizes:
                known[index] = choose_more_specific_type(known[index], TensorType.of(scope.declared[name]))
            if scope.full(name) in self.given:
                known[index] = TensorType(0, self.given[scope.full(name)])
        shapes = [self._get_shape(name) for name in flat_node.inputs]
        values = [self.values.get(name) for name in flat_node.inputs]
        types.update(zip(node.output, self.sizes.complete_types(flat_node, known, shapes, values), strict=True))
        types.pop("", None)
        self.resized.update(scope.full(name) for name, found in types.items() if found and found.dims is not None)

    def _may_runtime_know(
        self,
        node: onnx.NodeProto,
        inputs: Sequence[TensorType | None],
        types: Mapping[str, TensorType | None],
    ) -> bool:
        """Return whether it is worth asking the runtime: a standard operator with open inputs leads nowhere."""
        if all(tensor_type is not None and tensor_type.dims is not None for tensor_type in types.values()):
            return False
        return bool(node.domain) or all(known is None or known.dims is not None for known in inputs)

    def _get_value_proto(self, full: str) -> onnx.TensorProto | None:
        """Value of a small constant as a message."""
        from onnx import numpy_helper

        value = self.values.get(full)
        if value is None or value.dtype == object or value.size > SMALL_ELEMENTS:
            return None
        if full not in self._protos:
            self._protos[full] = numpy_helper.from_array(value)
        return self._protos[full]

    def _infer_sequence(self, flat_node: Node) -> Any:
        """Infer the output of an operator on sequences."""
        return infer_sequence_operator(
            flat_node.op_type,
            flat_node.attributes,
            [self.types.get(name) if name else None for name in flat_node.inputs],
            [self.sequences.get(name) for name in flat_node.inputs],
            [self.values.get(name) for name in flat_node.inputs],
        )

    def _define_sequence(self, scope: GraphScope, node: onnx.NodeProto, flat_node: Node) -> None:
        """Remember the elements of the sequence that a node makes."""
        if node.op_type in _SEQUENCE_MAKERS and not node.domain:
            found = self._infer_sequence(flat_node)
            if isinstance(found, tuple):
                self.sequences[flat_node.outputs[0]] = found

    def _check_shapes(self, flat_node: Node, shapes: Sequence[tuple[int, ...] | None]) -> None:
        if flat_node.domain:
            return
        inputs = [self._get_shape(name) for name in flat_node.inputs]
        problem = find_shape_contradiction(flat_node.op_type, flat_node.attributes, inputs, shapes)
        if problem and self.tolerance_depth:
            self.contradictions += 1
        elif problem:
            raise GraphError(f"node '{flat_node.name}' ({flat_node.op_type}): {problem}")

    def _define_outputs(
        self,
        scope: GraphScope,
        node: onnx.NodeProto,
        types: Mapping[str, TensorType | None],
        *,
        constant: bool,
        values: Sequence[NDArray[Any] | None] | None,
    ) -> None:
        for index, name in enumerate(node.output):
            if not name:
                continue
            before = scope.inferred.get(name)
            tensor_type = choose_more_specific_type(types.get(name), before)
            if (tensor_type is None or tensor_type.dims is None) and name in scope.declared:
                tensor_type = choose_more_specific_type(TensorType.of(scope.declared[name]), tensor_type)
            if self.given and scope.full(name) in self.given:
                elem_type = tensor_type.elem_type if tensor_type else 0
                tensor_type = TensorType(
                    elem_type or self._guess_element_type(scope, node), self.given[scope.full(name)]
                )
            self.define(
                scope, name, tensor_type, constant=constant, value=values[index] if values is not None else None
            )
            if tensor_type is not None and tensor_type is not before and tensor_type.dims is not None:
                self._patches[scope.path, name] = (scope.graph, tensor_type)

    def _guess_element_type(self, scope: GraphScope, node: onnx.NodeProto) -> int:
        """Guess the element type of an output that nothing states: that of the first input; of text, token numbers."""
        known = [self.types[full].elem_type for name in node.input if (full := scope.resolve(name)) in self.types]
        first = next((elem_type for elem_type in known if elem_type), 1)
        return 7 if first == 8 else first  # TensorProto.INT64, STRING

    def _get_dropout_mask_type(self, flat_node: Node) -> TensorType | None:
        """Type of a Dropout's mask, which ``onnx`` infers only from operator set 12 on."""
        source = self.types.get(flat_node.inputs[0]) if flat_node.inputs else None
        if source is None or source.dims is None:
            return None
        return TensorType(source.elem_type if self.opsets.get("", 1) < 10 else 9, source.dims)

    def _get_shape(self, name: str) -> tuple[int, ...] | None:
        return self.tensors[name].shape if name in self.tensors else None

    def _is_constant(self, node: onnx.NodeProto, flat_node: Node) -> bool:
        if node.op_type in NON_DETERMINISTIC:
            return False
        read = [name for name in flat_node.inputs if name]
        if not read:
            return node.op_type == "Constant" and not node.domain
        return all(name in self.tensors and self.tensors[name].constant for name in read)

    def _compute_values(
        self, node: onnx.NodeProto, flat_node: Node, types: Mapping[str, TensorType | None]
    ) -> list[NDArray[Any]] | None:
        """Values of the outputs, or ``None`` unless they are small and do not depend on the input."""
        if node.domain:
            return None
        if node.op_type == "Constant":
            value = proto_values.read_constant_value(node)
            return None if value is None else [value]
        if node.op_type in {"Shape", "Size"}:
            return self._compute_shape_value(flat_node)
        if node.op_type == "SequenceLength":
            length = self._infer_sequence(flat_node)
            return None if length is None else [length]
        if not is_foldable(node.op_type, node.domain):
            return None
        inputs: list[NDArray[Any] | None] = []
        for name in flat_node.inputs:
            if name and name not in self.values:
                return None
            inputs.append(self.values.get(name))
        shapes = [None if (tensor_type := types.get(name)) is None else tensor_type.dims for name in node.output]
        return fold_node(node, inputs, shapes, self.opsets) if any(value is not None for value in inputs) else None

    def _compute_shape_value(self, flat_node: Node) -> list[NDArray[Any]] | None:
        dims = self._get_shape(flat_node.inputs[0]) if flat_node.inputs else None
        if dims is None:
            return None
        if flat_node.op_type == "Size":
            return [np.array(prod(dims), np.int64)]
        return [np.array(dims[slice(flat_node.attributes.get("start", 0), flat_node.attributes.get("end"))], np.int64)]

    def _infer_node(self, scope: GraphScope, node: onnx.NodeProto, flat_node: Node) -> dict[str, TensorType]:
        """Infer one node's output types from the values found so far; empty if inference fails.

        A failure is

        1. ignored in a branch that may never run;
        2. an error if the shapes contradict one another, with our own message if there is one;
        3. an error if the caller asked for these shapes;
        4. otherwise a warning, for the first node only: later failures follow from it.

        Raises:
            GraphError: As above, or if the node is malformed.
        """
        from onnx import checker, shape_inference

        found_schema = get_operator_schema(node.op_type, self.opsets.get(node.domain, 1), node.domain)
        if found_schema is None or any(isinstance(value, LongList) for value in flat_node.attributes.values()):
            return {}  # the library would find the lists that stay in the file to be of one element each
        types: dict[str, onnx.TypeProto] = {}
        data: dict[str, onnx.TensorProto] = {}
        for name in node.input:
            full = scope.resolve(name)
            if not full:
                continue
            types[name] = self.types[full].message()
            value = self._get_value_proto(full)
            if value is not None:
                data[name] = value
        imports = list(self.model.opset_import)
        try:
            found = shape_inference.infer_node_outputs(
                found_schema, node, types, data, None, imports, self.model.ir_version
            )
            return {name: TensorType.of(tensor_type) for name, tensor_type in found.items()}
        except checker.ValidationError as error:
            raise GraphError(f"node '{node.name}' is malformed: {shorten_error(error)}") from error
        except (shape_inference.InferenceError, RuntimeError, ValueError, TypeError, KeyError, IndexError) as error:
            if self.tolerance_depth:  # 1
                self.contradictions += 1
                return {}
            self._check_shapes(flat_node, [None] * len(flat_node.outputs))  # 2
            if self.strict_shapes and "ShapeInferenceError" in str(error):
                message = f"node '{node.name}' cannot take these input shapes: {shorten_error(error)}"
                raise GraphError(message) from error  # 3
            if self.inference_warning not in self.warnings:  # 4
                self.inference_warning = f"shape inference failed at node '{node.name}': {shorten_error(error)}"
                self.warn(self.inference_warning)
            return {}
