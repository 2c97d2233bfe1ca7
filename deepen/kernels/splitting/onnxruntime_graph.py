"""Asks ONNX Runtime which graph it executes."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepen.errors import GraphError, StorageError
from deepen.graph.onnx_reader.runtime_session import (
    RuntimeRefusal,
    is_onnxruntime_available,
    open_session,
    write_stand_in,
)
from deepen.graph.types import Graph
from deepen.kernels.splitting.skeleton_model import build_skeleton_model

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
    """

    model: onnx.ModelProto
    evidence: str


def get_executed_graph(graph: Graph) -> ExecutedGraph:
    """Get the graph ONNX Runtime executes for a model, on the CPU, at level :data:`LEVEL`.

    The model is created without its weights (see :mod:`deepen.kernels.splitting.skeleton_model`) in a temporary folder
    that is gone when this returns, and never run.

    Raises:
        GraphError: If the graph has no model, or the runtime does not accept it.
        StorageError: If the temporary folder cannot be written.
    """
    import onnx
    import onnxruntime as ort

    if graph.model is None:
        raise GraphError(f"{graph.source_path}: the graph holds no model to ask a runtime about; load it from its file")
    skeleton = build_skeleton_model(graph)
    try:
        with tempfile.TemporaryDirectory(prefix="deepen-split-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            write_stand_in(folder, skeleton.largest_bytes)
            open_session(skeleton.data, folder, optimised=folder / "optimised.onnx")
            model = onnx.ModelProto.FromString((folder / "optimised.onnx").read_bytes())
    except RuntimeRefusal as refusal:
        raise GraphError(
            f"{graph.source_path}: ONNX Runtime {ort.__version__} does not accept the model: {refusal.reason}; "
            "correct the model, or split it for another runtime"
        ) from refusal
    except OSError as error:
        raise StorageError(
            f"cannot write to the temporary folder {tempfile.gettempdir()} ({error.strerror or error}); "
            "free some space or set TMPDIR"
        ) from error
    return ExecutedGraph(model, f"onnxruntime {ort.__version__}, level {LEVEL}, CPUExecutionProvider")
