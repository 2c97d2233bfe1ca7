"""Asks ONNX Runtime which graph it executes."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepen.errors import GraphError, StorageError
from deepen.graph.types import Graph
from deepen.kernels.splitting.skeleton_model import STAND_IN, SkeletonModel, build_skeleton_model

if TYPE_CHECKING:
    import onnx

__all__ = ["LEVEL", "ExecutedGraph", "get_executed_graph", "is_onnxruntime_available"]

LEVEL = "extended"
"""Optimisation level asked for. ``all`` adds layouts that depend on the processor, so it is never saved or compared."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExecutedGraph:
    """Graph that the runtime executes for a model.

    Attributes:
        model: The optimised graph.
        evidence: Runtime, version, level and provider.
    """

    model: onnx.ModelProto
    evidence: str


def is_onnxruntime_available() -> bool:
    """Return whether ONNX Runtime can be imported."""
    import importlib.util

    return importlib.util.find_spec("onnxruntime") is not None


def get_executed_graph(graph: Graph) -> ExecutedGraph:
    """Get the graph ONNX Runtime executes for a model, on the CPU, at level :data:`LEVEL`.

    The model is created without its weights (see :mod:`deepen.kernels.splitting.skeleton_model`) in a temporary folder
    that is gone when this returns, and never run.

    Raises:
        GraphError: If the graph has no model, or the runtime does not accept it.
        StorageError: If the temporary folder cannot be written.
    """
    if graph.model is None:
        raise GraphError(f"{graph.source_path}: the graph holds no model to ask a runtime about; load it from its file")
    stand_in = build_skeleton_model(graph)
    try:
        with tempfile.TemporaryDirectory(prefix="deepen-split-", ignore_cleanup_errors=True) as folder:
            return _optimise_model(stand_in, Path(folder), graph.source_path)
    except OSError as error:
        raise StorageError(
            f"cannot write to the temporary folder {tempfile.gettempdir()} ({error.strerror or error}); "
            "free some space or set TMPDIR"
        ) from error


def _optimise_model(stand_in: SkeletonModel, folder: Path, source: Path) -> ExecutedGraph:
    import onnx
    import onnxruntime as ort

    with (folder / STAND_IN).open("wb") as file:
        file.truncate(stand_in.largest_bytes)  # sparse where the file system can; never written
    optimised = folder / "optimised.onnx"
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(optimised)
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    try:
        ort.InferenceSession(stand_in.data, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # its exceptions share no base class; this is the one boundary to it
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise GraphError(
            f"{source}: ONNX Runtime {ort.__version__} does not accept the model: {reason}; "
            "correct the model, or split it for another runtime"
        ) from error
    model = onnx.ModelProto.FromString(optimised.read_bytes())
    return ExecutedGraph(model, f"onnxruntime {ort.__version__}, level {LEVEL}, CPUExecutionProvider")
