"""Hash of a network's structure and shapes, independent of names, weights and the order of nodes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from deepen.graph.types import Graph

__all__ = ["hash_graph"]


def hash_graph(graph: Graph) -> str:
    """Hash a graph so that equal networks have equal hashes, whatever exported them.

    1. The hash of an input is that of its position, shape and type.
    2. The hash of a constant is that of its shape and type, and of its values if these are integers or a single number
       (axes, shapes, limits). Values of weights are left out: they do not change the energy.
    3. The hash of a node is that of its operator, attributes and the hashes of its inputs (a Merkle tree); that of its
       outputs adds their position.
    4. The hash of the graph is that of all node hashes, sorted, and of its outputs.

    Args:
        graph: The graph.

    Returns:
        32 hexadecimal digits.
    """
    known: dict[str, str] = {"": ""}
    for position, tensor in enumerate(graph.inputs):  # 1
        known[tensor.name] = _hash_parts("input", position, tensor.shape, tensor.dtype)

    def get_hash(tensor: str) -> str:
        if tensor not in known:  # 2
            found = graph.tensors.get(tensor)
            value = graph.values.get(tensor)
            hash_value = value is not None and (value.dtype.kind in "iub" or value.size == 1)
            known[tensor] = _hash_parts(
                "constant",
                None if found is None else found.shape,
                "" if found is None else found.dtype,
                np.asarray(value).tolist() if hash_value else None,
            )
        return known[tensor]

    nodes = []
    for node in graph.nodes:  # 3
        attributes = sorted((key, _to_json_value(value)) for key, value in node.attributes.items())
        inputs = [get_hash(t) for t in node.inputs]
        digest = _hash_parts("node", node.op_type, node.domain, attributes, inputs, node.scope, node.multiplicity)
        nodes.append(digest)
        for position, output in enumerate(node.outputs):
            if output:
                known[output] = _hash_parts(digest, position)
    return _hash_parts("graph", sorted(nodes), [get_hash(t.name) for t in graph.outputs])  # 4


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
