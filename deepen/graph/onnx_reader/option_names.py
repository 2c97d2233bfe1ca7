"""Checks that every name in the user's options is one of the model."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from deepen.errors import GraphError
from deepen.graph.onnx_reader.dimension_symbols import list_symbol_names, list_type_symbols
from deepen.graph.onnx_reader.input_shapes import list_model_inputs
from deepen.graph.onnx_reader.proto_values import list_subgraphs
from deepen.graph.read_options import ReadOptions

if TYPE_CHECKING:
    import onnx

__all__ = ["check_option_names"]

_LOOPS = frozenset({"Loop", "Scan"})


def check_option_names(model: onnx.ModelProto, options: ReadOptions) -> None:
    """Check the names of ``--dim``, ``--size``, ``--rounds`` and ``--branch``.

    Args:
        model: Normalised, its declared types still there.
        options: The user's options; input names of ``shapes`` are checked where shapes are fixed.

    Raises:
        GraphError: If a name is not one of the model; close names are listed.
    """
    if not (options.dims or options.sizes or options.rounds or options.branches):
        return
    graphs = list(_walk_graphs(model.graph, ""))
    nodes = [node for _, graph in graphs for node in graph.node]
    if options.dims:
        values = (v for _, graph in graphs for v in (*graph.input, *graph.output, *graph.value_info))
        symbols = {
            name for value in values for symbol in list_type_symbols(value.type) for name in list_symbol_names(symbol)
        }
        _check_names("symbolic dimension", options.dims, symbols)
    if options.sizes:
        tensors = (f"{path}/{o}" if path else o for path, graph in graphs for n in graph.node for o in n.output if o)
        _check_names("tensor", options.sizes, tensors)
    _check_names("loop", options.rounds, (n.name for n in nodes if n.op_type in _LOOPS))
    inputs = (value.name for value in list_model_inputs(model.graph))
    _check_names("If node or input", options.branches, (*(n.name for n in nodes if n.op_type == "If"), *inputs))


def _walk_graphs(graph: onnx.GraphProto, path: str) -> Iterator[tuple[str, onnx.GraphProto]]:
    """Yield every graph with the path that the names of its tensors begin with."""
    yield path, graph
    for node in graph.node:
        for name, body in list_subgraphs(node):
            yield from _walk_graphs(body, f"{node.name}.{name}")


def _check_names(what: str, asked: Iterable[str], known: Iterable[str]) -> None:
    asked = list(asked)
    if not asked:
        return
    names = dict.fromkeys(known)
    for name in asked:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or list(names)[:5]
            cure = f"it has {', '.join(close)}" if close else "it has none"
            raise GraphError(f"the model has no {what} '{name}'", cure=cure)
