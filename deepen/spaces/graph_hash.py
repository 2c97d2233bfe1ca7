"""Hash of a network's structure and shapes, independent of names, weights and the order of nodes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from deepen.graph.types import Graph

__all__ = ["hash_graph"]


def hash_graph(graph: Graph) -> str:
    """Hash a graph so that equal networks agree, however they were exported.

    Each tensor is named by what computes it (a Merkle tree). Of constants, whole numbers and single numbers count with
    their values (axes, shapes, limits), weights by shape and type only: they change no energy.

    Args:
        graph: The graph.

    Returns:
        32 hexadecimal digits.
    """
    known: dict[str, str] = {"": ""}
    for position, tensor in enumerate(graph.inputs):
        known[tensor.name] = _hash_parts("input", position, tensor.shape, tensor.dtype)

    def name(tensor: str) -> str:
        if tensor not in known:
            found = graph.tensors.get(tensor)
            value = graph.values.get(tensor)
            told = value is not None and (value.dtype.kind in "iub" or value.size == 1)
            known[tensor] = _hash_parts(
                "constant",
                None if found is None else found.shape,
                "" if found is None else found.dtype,
                np.asarray(value).tolist() if told else None,
            )
        return known[tensor]

    nodes = []
    for node in graph.nodes:
        attributes = sorted((key, _to_json_value(value)) for key, value in node.attributes.items())
        parts = (node.op_type, node.domain, attributes, [name(t) for t in node.inputs], node.scope, node.multiplicity)
        digest = _hash_parts("node", *parts)
        nodes.append(digest)
        for position, output in enumerate(node.outputs):
            if output:
                known[output] = _hash_parts(digest, position)
    return _hash_parts("graph", sorted(nodes), [name(t.name) for t in graph.outputs])


def _hash_parts(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=_to_json_value).encode()).hexdigest()[:32]


def _to_json_value(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [str(value.dtype), list(value.shape), value.tolist() if value.size <= 64 else None]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple | list):
        return [_to_json_value(v) for v in value]
    return value if isinstance(value, int | float | str | bool | None) else str(value)
