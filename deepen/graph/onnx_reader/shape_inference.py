"""Shape inference of a whole model by the ``onnx`` library, and the types the file itself declares."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from deepen.errors import GraphError
from deepen.graph.onnx_reader.dimension_symbols import UNNAMED, compute_symbol
from deepen.graph.onnx_reader.proto_values import list_subgraphs

if TYPE_CHECKING:
    import onnx

__all__ = [
    "DeclaredTypes",
    "extract_declared_types",
    "infer_model_shapes",
    "list_input_symbols",
    "shorten_error",
    "shorten_text",
    "size_symbols",
    "split_given_shapes",
    "substitute_symbols",
]

DeclaredTypes = dict[str, dict[str, "onnx.TypeProto"]]
"""Types by scope and tensor name, as the file declares them."""

_STATEFUL = frozenset({"Loop", "Scan"})


def extract_declared_types(graph: onnx.GraphProto, scope: str = "", *, stateful: bool = False) -> DeclaredTypes:
    """Remove declared shapes from a graph, so that inference starts from the inputs alone.

    Exporters write stale or symbolic shapes, and inference stops at the contradiction. The result holds the declared
    types, for outputs that inference cannot find (of operators outside the standard).

    Args:
        graph: Changed in place: ``value_info`` emptied; outputs, and inputs of Loop and Scan bodies, without shape.
        scope: Path of the body.
        stateful: Whether it is the body of a Loop or Scan.
    """
    types: dict[str, onnx.TypeProto] = {}
    for value in (*graph.value_info, *graph.output):
        types[value.name] = type(value.type).FromString(value.type.SerializeToString())
    declared: DeclaredTypes = {scope: types}
    del graph.value_info[:]
    for value in (*graph.output, *(graph.input if stateful else ())):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    for node in graph.node:
        for name, body in list_subgraphs(node):
            declared |= extract_declared_types(body, f"{node.name}.{name}", stateful=node.op_type in _STATEFUL)
    return declared


def list_input_symbols(graph: onnx.GraphProto) -> list[tuple[str, int, str]]:
    """List the named symbolic dimensions of the inputs: input, axis, symbol."""
    return [
        (value.name, axis, dim.dim_param)
        for value in graph.input
        for axis, dim in enumerate(value.type.tensor_type.shape.dim)
        if dim.dim_param not in UNNAMED
    ]


def size_symbols(graph: onnx.GraphProto, symbols: Sequence[tuple[str, int, str]]) -> dict[str, int]:
    """Size each symbol by the inputs' static shapes; a symbol of several sizes is left out.

    Args:
        graph: With static inputs.
        symbols: From :func:`list_input_symbols`, before the shapes were fixed.
    """
    inputs = {value.name: value.type.tensor_type.shape.dim for value in graph.input}
    found: dict[str, set[int]] = {}
    for name, axis, symbol in symbols:
        if axis < len(inputs[name]) and inputs[name][axis].HasField("dim_value"):
            found.setdefault(symbol, set()).add(inputs[name][axis].dim_value)
    return {symbol: sizes.pop() for symbol, sizes in found.items() if len(sizes) == 1}


def substitute_symbols(declared: DeclaredTypes, sizes: Mapping[str, int]) -> DeclaredTypes:
    """Write sizes for the symbols, and expressions over them, of declared types; these are changed in place."""
    for types in declared.values():
        for known in types.values():
            for dim in known.tensor_type.shape.dim:
                size = compute_symbol(dim.dim_param, sizes) if dim.dim_param else None
                if size is not None:
                    dim.dim_value = size
    return declared


def split_given_shapes(
    graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Split shapes that the user gives into those of inputs (and unknown names), and those of tensors inside.

    Args:
        graph: With named nodes.
        shapes: Shape by name; tensors in bodies are named ``scope/name``.
    """
    inputs = {value.name for value in graph.input}
    if inputs.issuperset(shapes):
        return dict(shapes), {}
    written = _list_written_tensors(graph, "")
    inside = {name: shape for name, shape in shapes.items() if name in written and name not in inputs}
    return {name: shape for name, shape in shapes.items() if name not in inside}, inside


def _list_written_tensors(graph: onnx.GraphProto, scope: str) -> set[str]:
    names: set[str] = set()
    for node in graph.node:
        names.update(f"{scope}/{name}" if scope else name for name in node.output if name)
        for name, body in list_subgraphs(node):
            names |= _list_written_tensors(body, f"{node.name}.{name}")
    return names


def infer_model_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Infer the shapes of a whole model.

    Inference is not strict: shapes behind a node with impossible inputs stay unknown, and
    :class:`~deepen.graph.onnx_reader.flatten.GraphFlattener` then names that node.

    Args:
        model: With static inputs.

    Returns:
        The model with ``value_info`` filled as far as known.

    Raises:
        GraphError: If the library refuses the model.
    """
    from onnx import shape_inference

    try:
        return shape_inference.infer_shapes(model)
    except shape_inference.InferenceError as error:
        raise GraphError(f"shapes cannot be inferred: {shorten_error(error)}") from error


def shorten_error(error: BaseException) -> str:
    """Shorten the message of a third party's error to one line."""
    text = re.sub(r"^\S+:\d+: \w+: Assertion `[^`]*` failed: ", "", str(error))  # source positions in onnx itself
    return shorten_text(text or type(error).__name__, 200)


def shorten_text(text: str, limit: int = 600) -> str:
    """Shorten text to one printable line: names in a damaged file can hold any bytes, at any length."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."
