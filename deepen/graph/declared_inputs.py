"""Shapes of inputs as a model file declares them, and a copy of a model that declares others.

A runtime refuses an input whose size differs from a static one in the file; to measure another size, the file has to
say so.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from deepen.errors import GraphError
from deepen.graph.onnx_reader.input_shapes import list_model_inputs
from deepen.graph.onnx_reader.proto_values import list_subgraphs
from deepen.graph.onnx_reader.without_weights import strip_weights

if TYPE_CHECKING:
    import onnx

__all__ = ["DeclaredShape", "read_declared_shapes", "write_model_with_shapes"]

DeclaredShape = tuple[int | str, ...] | None
"""Sizes or symbols (empty where there is neither) of an input; ``None`` where not even the rank is declared."""


def read_declared_shapes(path: Path) -> dict[str, DeclaredShape]:
    """Read the declared shape of every tensor input, by name; weights are not read.

    Raises:
        GraphError: If the file cannot be read as an ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    model = onnx.ModelProto()
    try:
        with path.open("rb") as file:  # the map is closed with its last view
            model.ParseFromString(strip_weights(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    except (OSError, ValueError, DecodeError) as error:
        raise GraphError("cannot be read as an ONNX model", subject=str(path)) from error
    if not model.HasField("graph"):
        raise GraphError("cannot be read as an ONNX model", subject=str(path))
    found: dict[str, DeclaredShape] = {}
    for value in list_model_inputs(model.graph):
        if value.type.HasField("tensor_type"):
            tensor = value.type.tensor_type
            dims = (d.dim_value if d.HasField("dim_value") else d.dim_param for d in tensor.shape.dim)
            found[value.name] = tuple(dims) if tensor.HasField("shape") else None
    return found


def write_model_with_shapes(path: Path, shapes: Mapping[str, tuple[int, ...]], target: Path) -> None:
    """Write a copy of a model whose inputs have other shapes; shapes derived from them are left to the runtime.

    External data stays where it is named: relative to the copy.

    Args:
        path: The model; it is read whole.
        shapes: Shape by name of an input.
        target: The copy.

    Raises:
        GraphError: If the model cannot be read.
        OSError: If the copy cannot be written.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), load_external_data=False)
    except (OSError, ValueError, DecodeError) as error:
        raise GraphError("cannot be read as an ONNX model", subject=str(path)) from error
    for value in model.graph.input:
        if value.name in shapes:
            shape = value.type.tensor_type.shape
            shape.ClearField("dim")
            for size in shapes[value.name]:
                shape.dim.add().dim_value = size
    for graph in _iterate_graphs(model.graph):
        graph.ClearField("value_info")
        for value in graph.output:
            if value.type.HasField("tensor_type"):
                for dim in value.type.tensor_type.shape.dim:
                    dim.Clear()
    target.write_bytes(model.SerializeToString())


def _iterate_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    waiting = [graph]
    while waiting:
        found = waiting.pop()
        yield found
        waiting += [body for node in found.node for _, body in list_subgraphs(node)]
