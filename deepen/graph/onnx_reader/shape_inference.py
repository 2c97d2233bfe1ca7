"""Shape inference of a whole model by the ``onnx`` library, and the types the file itself declares."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from deepen.errors import GraphError
from deepen.graph.onnx_reader.proto_values import list_subgraphs

if TYPE_CHECKING:
    import onnx

__all__ = ["DeclaredTypes", "extract_declared_types", "infer_model_shapes", "shorten_error", "shorten_text"]

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
