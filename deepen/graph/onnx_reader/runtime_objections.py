"""Faults that the reader mends and for which ONNX Runtime refuses a file: kept, so that both give one verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from deepen.graph.onnx_reader.proto_values import TensorType, get_dtype_name, iter_graphs
from deepen.graph.onnx_reader.shape_inference import DeclaredTypes
from deepen.graph.types import Node, RuntimeObjection

if TYPE_CHECKING:
    import onnx

__all__ = ["find_file_objections", "find_type_objections"]


def find_file_objections(model: onnx.ModelProto) -> tuple[RuntimeObjection, ...]:
    """Find missing imports of operator sets and of local functions' domains, and node names used twice in a graph.

    Args:
        model: As parsed.
    """
    found: list[RuntimeObjection] = []
    if not model.opset_import and model.ir_version > 2:
        found.append(RuntimeObjection("it imports no operator set", "add one to the model's opset_import"))
    for graph in iter_graphs(model.graph):
        names = [node.name for node in graph.node if node.name and node.op_type != "Constant"]  # it becomes a weight
        if len(set(names)) < len(names):
            seen: set[str] = set()
            twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            found.append(
                RuntimeObjection(f"two nodes have the name '{twice}'", "give each node a name of its own, or none")
            )
    imported = {opset.domain for opset in model.opset_import}
    for function in model.functions:
        if function.domain not in imported:
            cause = f"the domain '{function.domain}' of the local function '{function.name}' is not imported"
            found.append(RuntimeObjection(cause, "add it to the model's opset_import"))
            break
    return tuple(found)


def find_type_objections(
    nodes: Iterable[Node], types: Mapping[str, TensorType], declared: DeclaredTypes
) -> tuple[RuntimeObjection, ...]:
    """Find the first tensor whose declared element type is not the one its operator writes.

    Args:
        nodes: Nodes of the graph.
        types: Types found, by full name.
        declared: Types that the file declares.
    """
    for node in nodes if any(declared.values()) else ():
        stated = declared.get(node.scope)
        if not stated or node.domain == "ai.onnx.ml":
            continue
        for full in node.outputs:
            name = full[len(node.scope) + 1 :] if node.scope else full
            before = stated[name].tensor_type.elem_type if name in stated else 0
            after = types[full].elem_type if full in types else 0
            if before and after and before != after:
                cause = (
                    f"the file declares tensor '{name}' as {get_dtype_name(before)}, but node '{node.name}' "
                    f"({node.op_type}) writes {get_dtype_name(after)}"
                )
                return (RuntimeObjection(cause, "declare that type, or none"),)
    return ()
