"""Checks the nodes of a model against the schemas of their operators; looks each schema up once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, SupportsInt, cast

from deepen.errors import GraphError
from deepen.graph.onnx_reader.proto_values import iter_graphs, list_subgraphs

if TYPE_CHECKING:
    import onnx

__all__ = ["check_operator_schemas", "get_operator_schema"]


@lru_cache(maxsize=512)
def get_operator_schema(op_type: str, version: int, domain: str) -> onnx.defs.OpSchema | None:
    """Get the schema of an operator at an operator-set version; ``None`` if ``onnx`` has none.

    Raises:
        GraphError: If the name is not valid text.
    """
    from onnx import defs

    try:
        return defs.get_schema(op_type, version, domain)
    except defs.SchemaError:
        return None
    except (TypeError, UnicodeError) as error:  # protobuf lets bytes through that are no UTF-8
        raise GraphError(f"the operator name {op_type!a} is no text; the file is damaged") from error


@dataclass(frozen=True, slots=True)
class _OperatorSignature:
    inputs: range
    outputs: range
    required: frozenset[str]
    types: Mapping[str, int]


@lru_cache(maxsize=512)
def _get_operator_signature(op_type: str, version: int, domain: str) -> _OperatorSignature | None:
    found = get_operator_schema(op_type, version, domain)
    if found is None:
        return None
    return _OperatorSignature(
        range(found.min_input, found.max_input + 1),
        range(found.min_output, found.max_output + 1),
        frozenset(name for name, attribute in found.attributes.items() if attribute.required),
        {name: int(cast("SupportsInt", attribute.type)) for name, attribute in found.attributes.items()},
    )


def check_operator_schemas(model: onnx.ModelProto) -> None:
    """Check numbers of inputs and outputs, and required attributes and their types, of every node with a schema.

    Shape inference relies on these, and fails with obscure errors where they do not hold.

    Raises:
        GraphError: If a node does not fit its schema.
    """
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    for graph in iter_graphs(model.graph):
        for node in graph.node:
            rules = _get_operator_signature(node.op_type, opsets.get(node.domain, 1), node.domain)
            problem = _find_signature_problem(node, rules) if rules else None
            if rules and not problem and node.op_type in _CONDITIONS and not node.domain:
                problem = _find_body_problem(node, rules)
            if problem:
                raise GraphError(f"node '{node.name}' ({node.op_type}) is malformed: {problem}")


_CONDITIONS = {"If": 0, "Loop": 1, "Scan": 0}
"""Operator with bodies -> outputs of a body that are none of the node: of a Loop, the condition."""


def _find_body_problem(node: onnx.NodeProto, rules: _OperatorSignature) -> str | None:
    """Find the reason why a node does not fit its bodies: their outputs are its own, and it has no other attributes."""
    for name, body in list_subgraphs(node):
        written = len(body.output) - _CONDITIONS[node.op_type]
        if len(node.output) != written:
            return f"it has {len(node.output)} outputs, but its '{name}' gives {written}"
    unknown = {attribute.name for attribute in node.attribute} - rules.types.keys()
    return f"it has no attribute '{min(unknown)}'" if unknown else None


def _find_signature_problem(node: onnx.NodeProto, rules: _OperatorSignature) -> str | None:
    for what, count, allowed in (
        ("inputs", len(node.input), rules.inputs),
        ("outputs", len(node.output), rules.outputs),
    ):
        if count not in allowed:
            limit = f"at least {allowed.start}" if count < allowed.start else f"at most {allowed.stop - 1}"
            return f"it takes {limit} {what}, not {count}"
    missing = rules.required - {attribute.name for attribute in node.attribute}
    if missing:
        return f"its attribute '{min(missing)}' is missing"
    for attribute in node.attribute:
        if attribute.type and rules.types.get(attribute.name, attribute.type) != attribute.type:
            return f"its attribute '{attribute.name}' has the wrong type"
    return None
