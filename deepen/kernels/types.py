"""A kernel: the unit that runs, is measured and is predicted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deepen.graph.types import TensorInfo, UnknownPart

__all__ = ["Kernel", "ModelSplit", "hash_params"]


def hash_params(family: str, params: Mapping[str, Any]) -> str:
    """Content hash (16 hex characters) of a kernel configuration; equal configurations have equal keys."""
    text = json.dumps([family, dict(params)], sort_keys=True, separators=(",", ":"), default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Kernel:
    """One fused kernel of a model.

    Attributes:
        name: Unique inside the model (its first node's name).
        family: Family from ``kernels/families``; ``other`` where none matches.
        op_types: Operators of its nodes, in order, as in the model file.
        params: The configuration: everything ``build`` needs to make an equal kernel (JSON values; tuples as lists).
        inputs: Activations read.
        weights: Constants read.
        outputs: Tensors written.
        node_names: Nodes of the model file it consists of.
        runtime_ops: Operators the runtime executes for it, for example ``("com.microsoft.FusedConv",)``.
        macs: Multiply-accumulates of its convolution, matmul and gemm nodes, per execution.
        ops: Other arithmetic operations, per execution.
        bytes_read: Activations and weights read, per execution.
        bytes_written: Outputs written, per execution.
        multiplicity: Executions per inference (see ``Node.multiplicity``).
        zero_operand: Whether it multiplies by nothing but zeros, whatever the model's input is.
    """

    name: str
    family: str
    op_types: tuple[str, ...]
    params: Mapping[str, Any]
    inputs: tuple[TensorInfo, ...]
    weights: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    node_names: tuple[str, ...]
    macs: int
    ops: int
    bytes_read: int
    bytes_written: int
    runtime_ops: tuple[str, ...] = ()
    multiplicity: float = 1.0
    zero_operand: bool = False

    @property
    def key(self) -> str:
        """Content hash of family and parameters; a kernel that multiplies by zeros only has a hash of its own."""
        if self.zero_operand:
            return hash_params(self.family, {**self.params, "zero_operand": True})
        return hash_params(self.family, self.params)


@dataclass(frozen=True, slots=True)
class ModelSplit:
    """A model as kernels.

    Attributes:
        kernels: In execution order; every compute node of the graph is in exactly one.
        folded: Nodes that do no work at run time (constants, folded constant sub-graphs, eliminated identities).
        unassigned: Kernels of family ``other``, by name, with their operators: ``(name, op_types)``.
        runtime: Runtime the model was split for, for example ``onnxruntime``.
        method: ``oracle`` (the runtime's own graph) or ``rules``.
        evidence: Runtime build and level, or rule file and version.
        warnings: Warnings for the user.
        unknowns: Where it is unknown how much work is done: those of the graph, and kernels whose shapes are unknown.
    """

    kernels: tuple[Kernel, ...]
    folded: tuple[str, ...]
    unassigned: tuple[tuple[str, tuple[str, ...]], ...]
    runtime: str
    method: str
    evidence: str
    warnings: tuple[str, ...] = field(default=())
    unknowns: tuple[UnknownPart, ...] = field(default=())

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all kernels, each counted once."""
        return sum(k.macs for k in self.kernels)
