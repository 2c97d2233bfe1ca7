"""Model file -> graph: ONNX models with static shapes, without their weights."""

from __future__ import annotations

from deepen.graph.load import load_graph, load_graph_from_proto
from deepen.graph.onnx_reader.external_data import list_weightless_tensors
from deepen.graph.onnx_reader.input_shapes import parse_shape
from deepen.graph.onnx_reader.without_weights import SMALL_ELEMENTS, WEIGHTLESS
from deepen.graph.read_options import ReadOptions, ShapesOrOptions
from deepen.graph.types import DTYPE_BYTES, Graph, Node, TensorInfo, UnknownPart, get_scalar_value

__all__ = [
    "DTYPE_BYTES",
    "SMALL_ELEMENTS",
    "WEIGHTLESS",
    "Graph",
    "Node",
    "ReadOptions",
    "ShapesOrOptions",
    "TensorInfo",
    "UnknownPart",
    "get_scalar_value",
    "list_weightless_tensors",
    "load_graph",
    "load_graph_from_proto",
    "map_consumers",
    "map_producers",
    "parse_shape",
]


def map_producers(graph: Graph) -> dict[str, Node]:
    """Map each tensor to the node that writes it, by tensor name (inputs and initialisers have none)."""
    return {name: node for node in graph.nodes for name in node.outputs if name}


def map_consumers(graph: Graph) -> dict[str, tuple[Node, ...]]:
    """Map each tensor to the nodes that read it, by tensor name, in order, each node once."""
    found: dict[str, dict[str, Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            if name:
                found.setdefault(name, {})[node.name] = node
    return {name: tuple(nodes.values()) for name, nodes in found.items()}
