"""Several copies of a small kernel in one model, so that they share the cost of a call into the runtime.

A kernel measured alone costs one call into the runtime per execution; the kernels of a model share one call. A model of
R copies, each with weights and buffers of its own, shares it among R. All copies together fit into the private caches
of a core, so that each finds its data as warm as the kernel before it leaves them in a model. Kernels that do not fit
run alone; the call does not matter beside them. ``docs/benchmarks.md`` compares sums of kernels with whole models;
``tools/bench/additivity.py --copies N`` does so for other numbers of copies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["choose_copies", "replicate_model"]

FOOTPRINT_BYTES = 2 * 2**20
"""Most bytes that all copies together read and write: about the private caches of today's cores (0.5-2 MB)."""

MAX_COPIES = 16
MAX_MACS = 100_000_000
"""Most multiply-accumulates per run; beyond it, more copies only take time."""


def choose_copies(footprint_bytes: int, macs: int) -> int:
    """Choose the number of copies of a kernel in one run.

    Args:
        footprint_bytes: Weights, inputs and outputs of one copy, bytes.
        macs: Multiply-accumulates of one copy.

    Returns:
        Between 1 and :data:`MAX_COPIES`; all copies stay within :data:`FOOTPRINT_BYTES` and :data:`MAX_MACS`.
    """
    fits = min(FOOTPRINT_BYTES // max(1, footprint_bytes), MAX_MACS // max(1, macs))
    return int(max(1, min(fits, MAX_COPIES)))


def replicate_model(model: onnx.ModelProto, copies: int, *, share: bool = True) -> onnx.ModelProto:
    """Repeat a single-kernel model side by side.

    Copies with weights share the activations they read (in a model these were just written, so they are warm); copies
    without weights read their own, since a runtime would merge equal nodes on equal inputs.

    Args:
        model: A model without sub-graphs that refer to outer tensors.
        copies: Number of copies; 1 returns the model unchanged.
        share: Let copies with weights share activations. Some kernels are fused only if no other node reads their
            input: one that adds a residual in place, or one that quantises its input itself.

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
