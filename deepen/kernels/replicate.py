"""Several copies of one kernel in one model, so that each run finds the caches as a whole model leaves them.

A kernel timed alone in a loop finds its weights and buffers in the cache its last run warmed, and pays the cost of one
call into the runtime per execution. Inside a model other kernels ran in between and the call is paid once. A model of
R copies with weights and buffers of their own shows each copy what a model would: its data were last touched R - 1
kernels ago, and the call is shared by R.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["copies_for", "replicate"]

FOOTPRINT_BYTES = 8 * 2**20
"""Data one round over the copies should touch: past the private caches of today's cores (0.5-2 MB)."""

MAX_COPIES = 16
MAX_TOTAL_BYTES = 256 * 2**20
MAX_MACS = 200_000_000
"""Work per run past which more copies only cost time."""


def copies_for(footprint_bytes: int, macs: int) -> int:
    """Choose how many copies of a kernel one run should hold.

    Args:
        footprint_bytes: Weights, inputs and outputs of one copy, bytes.
        macs: Multiply-accumulates of one copy.

    Returns:
        Between 1 and :data:`MAX_COPIES`: enough to touch :data:`FOOTPRINT_BYTES` in a round and at least 4 where the
        kernel is small, never more than :data:`MAX_MACS` or :data:`MAX_TOTAL_BYTES` would allow (2 at least, unless
        two copies would exceed :data:`MAX_TOTAL_BYTES`).
    """
    size = max(1, footprint_bytes)
    if 2 * size > MAX_TOTAL_BYTES:
        return 1
    wanted = max(4, -(-FOOTPRINT_BYTES // size))
    affordable = min(MAX_MACS // max(1, macs), MAX_TOTAL_BYTES // size)
    return int(max(2, min(wanted, affordable, MAX_COPIES)))


def replicate(model: onnx.ModelProto, copies: int, *, share: bool = True) -> onnx.ModelProto:
    """Repeat a single-kernel model side by side.

    Copies with weights share the activations they read (in a model these were just written, so they are warm); copies
    without weights read their own, since a runtime would merge equal nodes on equal inputs.

    Args:
        model: A model without sub-graphs that refer to outer tensors.
        copies: How many; 1 returns the model unchanged.
        share: Let copies with weights share activations. Some kernels only form where nothing else reads their input:
            one that adds a residual in place, or one that quantises its input itself.

    Returns:
        A model with ``copies`` times the nodes, weights and outputs.
    """
    if copies <= 1:
        return model
    import numpy as np
    import onnx

    graph = model.graph
    has_weights = any(int(np.prod(w.dims)) > 1024 for w in graph.initializer)
    shared = {value.name for value in graph.input} if has_weights and share else set()
    out = onnx.ModelProto()
    out.CopyFrom(model)
    del out.graph.node[:], out.graph.initializer[:], out.graph.input[:], out.graph.output[:], out.graph.value_info[:]
    out.graph.input.extend(value for value in graph.input if value.name in shared)
    for copy in range(copies):

        def rename(name: str, copy: int = copy) -> str:
            return name if not name or name in shared else f"{name}__{copy}"

        for field in ("input", "output", "initializer"):
            for item in getattr(graph, field):
                if field != "input" or item.name not in shared:
                    added = getattr(out.graph, field).add()
                    added.CopyFrom(item)
                    added.name = rename(item.name)
        for node in graph.node:
            added = out.graph.node.add()
            added.CopyFrom(node)
            added.name = rename(node.name)
            added.input[:] = [rename(name) for name in node.input]
            added.output[:] = [rename(name) for name in node.output]
    return out
