"""Loops of a model that run no round with given inputs, found by one profiled run on this machine.

ONNX Runtime's profile has an event for every node that ran, and one named ``SequentialExecutor::Execute`` for every
execution of a graph or a body. A Loop during which no body was executed ran no round.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.storage.temporary_folders import TemporaryFolder

__all__ = ["find_idle_loops"]

_MOST_BYTES = 1 << 30
"""Largest model file that is run on this machine for this."""
_BODY = "SequentialExecutor::Execute"


def find_idle_loops(
    path: Path,
    inputs: Mapping[str, tuple[tuple[int, ...], str]],
    values: Mapping[str, NDArray[Any] | None],
) -> tuple[str, ...]:
    """Find the Loop nodes that ran, but no round of theirs.

    Args:
        path: The model.
        inputs: Shape and type of every input, by name.
        values: Values of inputs; ``None`` for random floating point numbers.

    Returns:
        Their names; empty also where this machine cannot run the model (no ONNX Runtime, too large, an operator it does
        not have).
    """
    try:
        import onnxruntime
    except ImportError:
        return ()
    if path.stat().st_size > _MOST_BYTES:
        return ()
    rng = np.random.default_rng(0)
    feeds = {}
    for name, (shape, dtype) in inputs.items():
        value = values.get(name)
        if value is None:
            if not dtype.startswith("float"):
                return ()
            value = rng.uniform(-1, 1, shape).astype(dtype)
        feeds[name] = np.ascontiguousarray(value)
    with closing(TemporaryFolder("deepen-rounds-")) as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_profiling = True
        options.profile_file_prefix = str(folder.path / "rounds")
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            session.run(None, feeds)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        except Exception:  # onnxruntime raises a dozen unrelated classes; the device will tell what is wrong
            return ()
    return _find_loops_without_body(events)


def _find_loops_without_body(events: list[dict[str, Any]]) -> tuple[str, ...]:
    """Names of Loops in a profile during none of whose executions a body was executed."""
    bodies = np.array([(e["ts"], e["ts"] + e["dur"]) for e in events if e.get("name") == _BODY], dtype=float).reshape(
        -1, 2
    )
    busy: dict[str, bool] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("args", {}).get("op_name") == "Loop" and name.endswith("_kernel_time"):
            inside = (bodies[:, 0] >= event["ts"]) & (bodies[:, 1] <= event["ts"] + event["dur"])
            short = name.removesuffix("_kernel_time")
            busy[short] = busy.get(short, False) or bool(inside.any())
    return tuple(name for name, worked in busy.items() if not worked)
