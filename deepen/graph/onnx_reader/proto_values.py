"""Reads plain Python and numpy values out of ONNX protobuf messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepen.errors import GraphError
from deepen.graph.onnx_reader.long_lists import LongList
from deepen.graph.onnx_reader.without_weights import LONG_LIST, MAX_ELEMENTS, SMALL_ELEMENTS, WEIGHTLESS

if TYPE_CHECKING:
    import onnx

__all__ = [
    "TensorType",
    "count_tensor_elements",
    "get_dtype_name",
    "iter_graphs",
    "iter_tensors",
    "list_subgraphs",
    "mark_weightless",
    "read_attribute_value",
    "read_attributes",
    "read_constant_value",
    "read_sparse_value",
    "read_tensor_value",
]


_STANDARD_DOMAINS = frozenset({"", "ai.onnx"})

_RAW_DTYPES = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8"}


@cache
def _map_dtype_names() -> dict[int, str]:
    import onnx

    names = {number: name.lower() for name, number in onnx.TensorProto.DataType.items() if number}
    return {**names, onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.DOUBLE: "float64"}


def get_dtype_name(elem_type: int) -> str:
    """Name of a ``TensorProto.DataType`` as ``DTYPE_BYTES`` has it; empty for undefined or unknown numbers."""
    return _map_dtype_names().get(elem_type, "")


def read_static_shape(type_proto: onnx.TypeProto) -> tuple[int, ...] | None:
    """Read the static shape of a tensor type; ``None`` if a dimension is missing or it is not a tensor.

    A negative dimension is returned as it is: the caller reports the contradiction.
    """
    tensor = type_proto.tensor_type
    if not tensor.HasField("shape"):
        return None
    dims = []
    for dim in tensor.shape.dim:
        size = dim.dim_value
        if not size and not dim.HasField("dim_value"):
            return None
        dims.append(size)
    return tuple(dims)


@dataclass(slots=True)
class TensorType:
    """Type of a tensor, decoded.

    Attributes:
        elem_type: ``TensorProto.DataType``; 0 where unknown or no tensor.
        dims: Static shape, if known.
        proto: The message it was decoded from, if any; it may hold more (a partly known shape, a sequence).
    """

    elem_type: int
    dims: tuple[int, ...] | None
    proto: onnx.TypeProto | None = None

    @classmethod
    def of(cls, proto: onnx.TypeProto) -> TensorType:
        """Decode a message."""
        return cls(proto.tensor_type.elem_type, read_static_shape(proto), proto)

    @property
    def specificity(self) -> int:
        """Rank by completeness, to choose the better known of two descriptions."""
        return 2 * (self.dims is not None) + bool(self.elem_type)

    def message(self) -> onnx.TypeProto:
        """The type as a message."""
        if self.proto is None:
            self.proto = make_type_proto(self.elem_type, self.dims)
        return self.proto


def make_type_proto(elem_type: int, dims: tuple[int, ...] | None) -> onnx.TypeProto:
    """Make a tensor type; without ``dims`` of unknown rank."""
    import onnx

    made = onnx.TypeProto()
    made.tensor_type.elem_type = elem_type
    if dims is not None:
        shape = made.tensor_type.shape
        shape.SetInParent()
        for dim in dims:
            shape.dim.add().dim_value = dim
    return made


def count_tensor_elements(tensor: onnx.TensorProto) -> int:
    """Number of elements by the dimensions.

    Raises:
        GraphError: If a dimension is negative or the tensor is absurdly large.
    """
    elements = 1
    for dim in tensor.dims:
        if dim < 0:
            raise GraphError(f"tensor '{tensor.name}' has the negative dimension {dim}")
        elements *= dim
    if elements > MAX_ELEMENTS:
        raise GraphError(f"tensor '{tensor.name}' would have {elements:,} elements; the file is damaged")
    return elements


def mark_weightless(tensor: onnx.TensorProto) -> None:
    """Remove the data of a tensor and mark it as weightless, as ``without_weights.strip_weights`` does."""
    for name in ("raw_data", "float_data", "int32_data", "int64_data", "string_data", "double_data", "uint64_data"):
        tensor.ClearField(name)
    del tensor.external_data[:]
    tensor.data_location = tensor.EXTERNAL
    tensor.external_data.add(key="location", value=WEIGHTLESS)


def read_tensor_value(tensor: onnx.TensorProto) -> NDArray[Any] | None:
    """Value of a small tensor held in the file; ``None`` for a large or weightless one.

    Raises:
        GraphError: If data and dimensions do not fit.
    """
    from onnx import numpy_helper

    if tensor.data_location == tensor.EXTERNAL or count_tensor_elements(tensor) > SMALL_ELEMENTS:
        return None
    try:
        raw = _RAW_DTYPES.get(tensor.data_type)
        if raw and tensor.HasField("raw_data"):  # numpy_helper does the same in three times the time
            return np.frombuffer(tensor.raw_data, raw).reshape(tuple(tensor.dims)).copy()
        return np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError, OverflowError, NotImplementedError) as error:
        raise GraphError(f"tensor '{tensor.name}' cannot be read: {error}") from error


def read_sparse_value(sparse: onnx.SparseTensorProto) -> NDArray[Any] | None:
    """Dense value of a small sparse tensor (ONNX IR: linear or per-axis indices)."""
    elements = 1
    for dim in sparse.dims:
        if dim < 0:
            raise GraphError(f"sparse tensor '{sparse.values.name}' has the negative dimension {dim}")
        elements *= dim
    if elements > SMALL_ELEMENTS:
        return None
    values, indices = read_tensor_value(sparse.values), read_tensor_value(sparse.indices)
    if values is None or indices is None:
        return None
    dense = np.zeros(elements, values.dtype)
    try:
        if indices.ndim == 2:
            indices = np.ravel_multi_index(tuple(indices.T), tuple(sparse.dims))
        dense[indices.astype(np.int64)] = values.reshape(-1)
        return dense.reshape(tuple(sparse.dims))
    except (ValueError, IndexError, TypeError) as error:
        raise GraphError(f"sparse tensor '{sparse.values.name}' cannot be read: {error}") from error


def _decode_bytes(raw: bytes) -> str:
    return raw.decode(errors="replace")


def _infer_attribute_type(attribute: onnx.AttributeProto) -> int:
    """Infer the type of an attribute in a file of IR version 1, which does not state it."""
    for name, number in (("f", 1), ("i", 2), ("s", 3), ("t", 4), ("g", 5)):
        if attribute.HasField(name):
            return number
    for name, number in (("floats", 6), ("ints", 7), ("strings", 8), ("tensors", 9), ("graphs", 10)):
        if getattr(attribute, name):
            return number
    return 0


def read_attribute_value(attribute: onnx.AttributeProto) -> Any:
    """Plain value of an attribute.

    Returns:
        int, float, str, a tuple of these, an array for a small tensor; ``None`` for large tensors, sub-graphs, types.
    """
    kind = attribute.type or _infer_attribute_type(attribute)
    match kind:
        case 1:
            return attribute.f
        case 2:
            return attribute.i
        case 3:
            return _decode_bytes(attribute.s)
        case 4:
            return read_tensor_value(attribute.t)
        case 6:
            return tuple(attribute.floats)
        case 7:
            return tuple(attribute.ints)
        case 8:
            return tuple(_decode_bytes(raw) for raw in attribute.strings)
        case 9:
            return tuple(read_tensor_value(tensor) for tensor in attribute.tensors)
        case 11:
            return read_sparse_value(attribute.sparse_tensor)
        case 12:
            return tuple(read_sparse_value(sparse) for sparse in attribute.sparse_tensors)
        case _:
            return None


def read_attributes(node: onnx.NodeProto, long_lists: Sequence[LongList] = ()) -> dict[str, Any]:
    """Attributes of a node as plain values, sub-graphs left out.

    Args:
        node: The node.
        long_lists: Lists that ``without_weights.strip_weights`` left in the file.
    """
    found = {
        attribute.name: read_attribute_value(attribute)
        for attribute in node.attribute
        if not (attribute.HasField("g") or attribute.graphs)
    }
    for attribute in node.attribute if long_lists else ():
        number = attribute.doc_string.removeprefix(LONG_LIST)
        if number != attribute.doc_string and number.isdecimal() and int(number) < len(long_lists):
            found[attribute.name] = long_lists[int(number)]
    return found


def read_constant_value(node: onnx.NodeProto) -> NDArray[Any] | None:
    """Value of a ``Constant`` node in any of its forms, if small."""
    dtypes: dict[str, Any] = {
        "value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32,
        "value_string": object, "value_strings": object,
    }  # fmt: skip
    for attribute in node.attribute:
        if attribute.name in {"value", "sparse_value"}:
            value = read_attribute_value(attribute)
            return value if isinstance(value, np.ndarray) else None
        if attribute.name in dtypes:
            value = read_attribute_value(attribute)
            if value is None or (isinstance(value, tuple) and len(value) > SMALL_ELEMENTS):
                return None
            try:
                return np.array(value, dtype=dtypes[attribute.name])
            except (TypeError, ValueError, OverflowError) as error:
                raise GraphError(f"Constant node '{node.name}' cannot be read: {error}") from error
    return None


_WITH_BODIES = frozenset({"If", "Loop", "Scan", "SequenceMap"})  # the standard operators with graph attributes


def list_subgraphs(node: onnx.NodeProto) -> list[tuple[str, onnx.GraphProto]]:
    """Bodies of a node by attribute name (``name[i]`` where an attribute holds several)."""
    found: list[tuple[str, onnx.GraphProto]] = []
    if node.op_type not in _WITH_BODIES and node.domain in _STANDARD_DOMAINS:
        return found
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found.append((attribute.name, attribute.g))
        if attribute.graphs:
            found += [(f"{attribute.name}[{index}]", graph) for index, graph in enumerate(attribute.graphs)]
    return found


def iter_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield the graph and every body inside it."""
    yield graph
    for node in graph.node:
        for _, body in list_subgraphs(node):
            yield from iter_graphs(body)


def _iter_node_tensors(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("sparse_tensor"):
            yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
        for sparse in attribute.sparse_tensors:
            yield from (sparse.values, sparse.indices)


def iter_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor held in a model: initialisers, attributes, bodies, local functions."""
    graphs = list(iter_graphs(model.graph))
    for function in model.functions:
        for node in function.node:
            yield from _iter_node_tensors(node)
            for _, body in list_subgraphs(node):
                graphs += iter_graphs(body)
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            yield from _iter_node_tensors(node)
