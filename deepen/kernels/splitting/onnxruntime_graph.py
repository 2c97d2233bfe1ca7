"""Asks ONNX Runtime which graph it executes."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepen.errors import GraphError, StorageError
from deepen.graph.onnx_reader.normalise import sort_nodes
from deepen.graph.onnx_reader.runtime_session import (
    RuntimeRefusal,
    is_onnxruntime_available,
    open_session,
    write_stand_in,
)
from deepen.graph.types import Graph
from deepen.kernels.splitting.runtime_refusals import explain_refusal, is_custom_operator, list_hidden_tensors
from deepen.kernels.splitting.skeleton_model import SkeletonModel, build_skeleton_model

if TYPE_CHECKING:
    import onnx

__all__ = ["LEVEL", "ExecutedGraph", "get_executed_graph", "is_onnxruntime_available"]

LEVEL = "extended"
"""Optimisation level asked for. ``all`` adds layouts that depend on the processor, so it is never saved or compared."""


@dataclass(frozen=True, slots=True)
class ExecutedGraph:
    """Graph that the runtime executes for a model.

    Attributes:
        model: The optimised graph.
        evidence: Runtime, version, level and provider.
        notes: Notes for the user.
    """

    model: onnx.ModelProto
    evidence: str
    notes: tuple[str, ...] = ()


def get_executed_graph(graph: Graph) -> ExecutedGraph:
    """Get the graph ONNX Runtime executes for a model, on the CPU, at level :data:`LEVEL`.

    The model is created without its weights (see :mod:`deepen.kernels.splitting.skeleton_model`) in a temporary folder
    that is gone when this returns, and never run. Custom operators whose outputs are known are cut out, and put back
    into the answer: each is a node of its own there, as it is where the runtime has its library.

    Raises:
        GraphError: If the graph has no model, or the runtime does not accept it.
        StorageError: If the temporary folder cannot be written.
    """
    if graph.model is None:
        raise GraphError(f"{graph.source_path}: the graph holds no model to ask a runtime about; load it from its file")
    for objection in graph.objections:
        raise GraphError(
            f"ONNX Runtime refuses the file: {objection.cause}", subject=str(graph.source_path), cure=objection.cure
        )
    custom = [] if graph.custom_ops else _find_custom_nodes(graph)
    try:
        return _optimise_skeleton(build_skeleton_model(graph, custom), graph)
    except RuntimeRefusal as refusal:
        raise explain_refusal(graph, refusal) from refusal
    except OSError as error:
        raise StorageError(
            f"cannot write to the temporary folder {tempfile.gettempdir()} ({error.strerror or error}); "
            "free some space or set TMPDIR"
        ) from error


def _find_custom_nodes(graph: Graph) -> list[str]:
    """Find the nodes of the main graph that the runtime has no operator for, and whose outputs are known as needed."""
    assert graph.model is not None
    functions = {(function.domain, function.name) for function in graph.model.functions}
    hidden = list_hidden_tensors(graph)
    return [
        node.name
        for node in graph.model.graph.node
        if (node.domain, node.op_type) not in functions
        and node.domain
        and is_custom_operator(node)
        and (graph.allow_unknown or hidden.isdisjoint(node.output))
    ]


def _optimise_skeleton(skeleton: SkeletonModel, graph: Graph) -> ExecutedGraph:
    """Let the runtime optimise a skeleton, and put back what was cut out of it."""
    import onnx
    import onnxruntime as ort

    with tempfile.TemporaryDirectory(prefix="deepen-split-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        write_stand_in(folder, skeleton.largest_bytes)
        open_session(skeleton.data, folder, optimised=folder / "optimised.onnx", custom_ops=graph.custom_ops)
        model = onnx.ModelProto.FromString((folder / "optimised.onnx").read_bytes())
    notes = []
    if skeleton.cut:
        model.graph.node.extend(skeleton.cut)
        sort_nodes(model.graph)
        notes = [
            f"custom operator {node.domain}.{node.op_type} of node '{node.name}' is not known to ONNX Runtime: it is a "
            "kernel of its own, without a family"
            for node in skeleton.cut
        ]
    evidence = f"onnxruntime {ort.__version__}, level {LEVEL}, CPUExecutionProvider"
    return ExecutedGraph(model, evidence, tuple(notes))
