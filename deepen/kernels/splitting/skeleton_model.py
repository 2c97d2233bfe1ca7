"""A runnable skeleton of a model without its weights, in which a runtime makes the same fusion decisions.

The weights of a model do not influence its fusion, but loading them takes seconds and gigabytes. In the skeleton every
large constant aliases the same region of one sparse, zero-filled file. Three changes keep the runtime's work small and
its decisions unchanged:

1. Files older than IR version 4 have constant initialisers although they list them as inputs; the list is removed and
   the version raised, so that new constants need not be inputs.
2. Large constants the model *computes* (``ConstantOfShape``, ``Transpose`` of a weight, ...) become stored ones. ONNX
   Runtime merges equal nodes before it folds constants, so equal nodes are merged here first; otherwise the runtime
   would find a fusion that it never sees in the full model.
3. Convolution weights in front of a batch normalisation or product are scaled by the runtime, which would write all of
   them. The scaling depends on the rank and the first dimension only, so they are cut down to ``(c_out, 1, ...)``, with
   the kernel size written as an attribute.
4. A large tree ensemble, whose trees the runtime would build, is cut down to a single leaf.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deepen.graph.onnx_reader.external_data import list_weightless_tensors
from deepen.graph.onnx_reader.long_lists import TREE_LISTS
from deepen.graph.onnx_reader.proto_values import get_dtype_name, iter_graphs
from deepen.graph.onnx_reader.runtime_session import redirect_to_stand_in
from deepen.graph.onnx_reader.without_weights import LONG_LIST, SMALL_ELEMENTS
from deepen.graph.types import DTYPE_BYTES, Graph
from deepen.kernels.splitting.value_numbering import find_duplicate_nodes, is_standard_domain

if TYPE_CHECKING:
    import onnx

__all__ = ["SkeletonModel", "build_skeleton_model", "list_overridable_initialisers", "map_dtype_to_number"]

_MOVES = frozenset({
    "Cast", "Concat", "ConstantOfShape", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "Split",
    "Squeeze", "Tile", "Transpose", "Unsqueeze",
})  # fmt: skip
_COMPUTES = frozenset({
    "Abs", "Add", "And", "Clip", "Cos", "Div", "Equal", "Erf", "Exp", "Floor", "Gemm", "Greater", "Less", "Log",
    "MatMul", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Range", "Reciprocal", "ReduceMean", "ReduceSum",
    "Relu", "ScatterND", "Sigmoid", "Sin", "Sqrt", "Sub", "Sum", "Tanh", "Trilu", "Where",
})  # fmt: skip
_COMPUTED_TYPES = frozenset({"float32", "float64", "int32", "int64", "bool"})
_SCALES_WEIGHTS = frozenset({"BatchNormalization", "Mul"})


@dataclass(frozen=True, slots=True)
class SkeletonModel:
    """A weightless model.

    Attributes:
        data: Serialised ``ModelProto``.
        largest_bytes: Required size of the file that its large constants alias, bytes.
        cut: Nodes cut out of it: what they read it writes, and what they write it reads.
    """

    data: bytes
    largest_bytes: int
    cut: tuple[onnx.NodeProto, ...] = ()


def list_overridable_initialisers(model: onnx.ModelProto) -> set[str]:
    """List initialisers of the main graph that are also inputs: a caller may replace them, so they are no constants."""
    if model.ir_version < 4:
        return set()
    return {i.name for i in model.graph.input} & {t.name for t in model.graph.initializer}


def build_skeleton_model(graph: Graph, cut: Collection[str] = ()) -> SkeletonModel:
    """Make the skeleton of a graph; ``graph.model`` is not changed.

    Args:
        graph: With a model.
        cut: Nodes of the main graph to leave out, because the runtime does not know them.
    """
    import onnx

    assert graph.model is not None
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    if model.ir_version < 4:  # 1
        weights = {t.name for t in model.graph.initializer}
        inputs = [i for i in model.graph.input if i.name not in weights]
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        model.ir_version = 4
    _store_computed_constants(model, graph)  # 2
    apart = _cut_nodes(model.graph, graph, cut)
    for body in iter_graphs(model.graph):
        _cut_scaled_weights(body)  # 3
        _cut_tree_ensembles(body)  # 4
    largest = 0
    for tensor in list_weightless_tensors(model):
        largest = max(largest, redirect_to_stand_in(tensor))
    return SkeletonModel(model.SerializeToString(), largest, apart)


def _cut_nodes(main: onnx.GraphProto, graph: Graph, cut: Collection[str]) -> tuple[onnx.NodeProto, ...]:
    """Cut nodes out of a graph, so that a runtime sees the rest as it would see it around them.

    1. The nodes are taken out.
    2. What they read and nodes write becomes outputs; of what they write, outputs of the graph are no longer its own.
    3. What they write and the graph reads becomes inputs, of the types known; for a type unknown, that of the first
       input is assumed, and integers where that is text.
    """
    if not cut:
        return ()
    from deepen.graph.onnx_reader.proto_values import make_type_proto

    # 1
    apart = [type(node).FromString(node.SerializeToString()) for node in main.node if node.name in cut]
    kept = [type(node).FromString(node.SerializeToString()) for node in main.node if node.name not in cut]
    del main.node[:]
    main.node.extend(kept)
    # 2
    made = {name for node in apart for name in node.output if name}
    outputs = [type(o).FromString(o.SerializeToString()) for o in main.output if o.name not in made]
    del main.output[:]
    main.output.extend(outputs)
    listed = {output.name for output in outputs}
    written = {name for node in kept for name in node.output}
    for name in dict.fromkeys(name for node in apart for name in node.input):
        if name in written and name not in listed:
            main.output.add(name=name)
    # 3
    numbers = map_dtype_to_number()
    first = {name: node.input[0] for node in apart for name in node.output if node.input}
    for name in sorted(made & {name for node in kept for name in node.input}):
        tensor, source = graph.tensors[name], graph.tensors.get(first.get(name, ""))
        guess = "float32" if source is None else {"": "float32", "string": "int64"}.get(source.dtype, source.dtype)
        number = numbers[tensor.dtype or guess]
        main.input.add(name=name).type.CopyFrom(make_type_proto(number, tensor.shape))
    return tuple(apart)


def _store_computed_constants(model: onnx.ModelProto, graph: Graph) -> None:
    """Replace the main graph's large computed constants by stored ones.

    1. Find the nodes whose outputs are computed from constants, follow known operators and types, and are large.
    2. If there are any, find the nodes that equal an earlier one.
    3. Leave out both; each output of the nodes of step 1 becomes an initialiser without data.
    4. Let the readers of merged nodes read the outputs of the node that stays, in all bodies.
    """
    numbers = map_dtype_to_number()
    main = model.graph
    outputs = {o.name for o in main.output}
    nodes = [n for n in graph.nodes if not n.scope]
    constant = {t.name for t in main.initializer} - list_overridable_initialisers(model)
    replaced: dict[str, tuple[str, ...]] = {}
    # 1
    for node in nodes:
        if not is_standard_domain(node.domain) or not outputs.isdisjoint(node.outputs):
            continue
        if node.op_type == "Constant":
            constant.update(node.outputs)
            continue
        tensors = [graph.tensors.get(name) for name in node.outputs if name]
        movable = node.op_type in _MOVES or (
            node.op_type in _COMPUTES and all(t is not None and t.dtype in _COMPUTED_TYPES for t in tensors)
        )
        if not movable or not node.inputs or not all(not name or name in constant for name in node.inputs):
            continue
        constant.update(name for name in node.outputs if name)
        known = all(t is not None and t.shape is not None and t.dtype in numbers for t in tensors)
        if known and any(t is not None and t.elements > SMALL_ELEMENTS for t in tensors):
            replaced[node.name] = node.outputs
    if not replaced:
        return
    # 2
    renamed: dict[str, str] = {}
    merged = find_duplicate_nodes(nodes, graph.values, outputs)
    by_name = {n.name: n for n in nodes}
    for name, earlier in merged.items():
        renamed.update(zip(by_name[name].outputs, earlier.outputs, strict=True))
    # 3
    kept = []
    for proto in main.node:
        if proto.name in merged:
            continue
        if proto.name in replaced:
            for output in replaced[proto.name]:
                if output:
                    tensor = graph.tensors[output]
                    _add_weightless_initialiser(main, output, tensor.shape or (), numbers[tensor.dtype])
            continue
        kept.append(proto)
    # Copies are needed: clearing the repeated field would invalidate the messages still referred to.
    protos = [type(p).FromString(p.SerializeToString()) for p in kept]
    del main.node[:]
    main.node.extend(protos)
    # 4
    for body in iter_graphs(main):
        for proto in body.node:
            for index, name in enumerate(proto.input):
                target = name
                while target in renamed and renamed[target] != target:
                    target = renamed[target]
                if target != name:
                    proto.input[index] = target


def _add_weightless_initialiser(main: onnx.GraphProto, name: str, shape: tuple[int, ...], number: int) -> None:
    from deepen.graph.onnx_reader.proto_values import mark_weightless

    tensor = main.initializer.add(name=name, data_type=number, dims=shape)
    mark_weightless(tensor)


def map_dtype_to_number() -> dict[str, int]:
    """Map data types by deepen's names to ``TensorProto.DataType``."""
    import onnx

    return {get_dtype_name(n): n for n in onnx.TensorProto.DataType.values() if get_dtype_name(n) in DTYPE_BYTES}


def _iter_scaled_conv_weights(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, str]]:
    """Yield the convolutions whose weight the runtime would scale, with the weight's name."""
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    for node in graph.node:
        if node.op_type != "Conv" or len(node.input) < 2:
            continue
        readers = consumers.get(node.output[0], [])
        if len(readers) != 1 or readers[0].op_type not in _SCALES_WEIGHTS:
            continue
        sharing = consumers.pop(node.input[1], [])  # each weight once, with all that read it
        if all(reader.op_type == "Conv" for reader in sharing):
            yield from ((reader, node.input[1]) for reader in sharing)


def _cut_scaled_weights(graph: onnx.GraphProto) -> None:
    """Cut weights that the runtime would scale down to ``(c_out, 1, ...)``."""
    from onnx import helper

    inputs = {value.name for value in graph.input}  # initialisers listed there may be replaced: nothing scales them
    weights = {t.name: t for t in list_weightless_initialisers(graph) if t.name not in inputs}
    kernels: dict[str, list[int]] = {}
    for node, name in _iter_scaled_conv_weights(graph):
        tensor = weights.get(name)
        if tensor is None or len(tensor.dims) < 3:
            continue
        if name not in kernels:
            kernels[name] = list(tensor.dims[2:])
            channels = tensor.dims[0]
            del tensor.dims[:]
            tensor.dims.extend([channels] + [1] * (len(kernels[name]) + 1))
        if not any(a.name == "kernel_shape" for a in node.attribute):
            node.attribute.append(helper.make_attribute("kernel_shape", kernels[name]))


def _cut_tree_ensembles(graph: onnx.GraphProto) -> None:
    """Cut tree ensembles that lack values down to one tree: a leaf, or from version 5 on a branch to two leaves."""
    from onnx import helper, numpy_helper

    for node in graph.node:
        tensors = [a.t for a in node.attribute if a.HasField("t")]
        lacking = any(a.doc_string.startswith(LONG_LIST) for a in node.attribute)
        if not node.op_type.startswith("TreeEnsemble") or not (
            lacking or any(tensor.data_location == tensor.EXTERNAL for tensor in tensors)
        ):
            continue
        for attribute in node.attribute:
            name = attribute.name.removesuffix("_as_tensor")
            if name not in TREE_LISTS and name not in {"nodes_splits", "leaf_weights"}:
                continue
            if attribute.HasField("t"):
                dtype = helper.tensor_dtype_to_np_dtype(attribute.t.data_type)
                attribute.t.CopyFrom(numpy_helper.from_array(np.zeros(1, dtype), attribute.t.name))
            for values in (attribute.floats, attribute.ints, attribute.strings):
                del values[1:]
            attribute.ints[:] = [int(name.endswith("leafs")) for _ in attribute.ints]
            attribute.strings[:] = [b"LEAF" for _ in attribute.strings]


def list_weightless_initialisers(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """List the initialisers of one scope that hold no data."""
    return [t for t in graph.initializer if t.data_location == t.EXTERNAL]
