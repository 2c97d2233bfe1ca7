"""The graph of a model: tensors with static shapes, nodes in topological order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

__all__ = ["DTYPE_BYTES", "Graph", "Node", "RuntimeObjection", "TensorInfo", "UnknownPart", "get_scalar_value"]

DTYPE_BYTES: dict[str, float] = {
    "float32": 4, "float16": 2, "bfloat16": 2, "float64": 8,
    "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8,
    "bool": 1, "string": 16, "int4": 0.5, "uint4": 0.5, "float8e4m3fn": 1, "float8e5m2": 1,
    "float8e4m3fnuz": 1, "float8e5m2fnuz": 1, "float8e8m0": 1, "float6e2m3": 0.75, "float6e3m2": 0.75,
    "float4e2m1": 0.5, "int2": 0.25, "uint2": 0.25, "complex64": 8, "complex128": 16,
}  # fmt: skip
"""Bytes per element of each data type, by deepen's name of it (ONNX ``TensorProto.DataType`` in lower case)."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A named tensor.

    Attributes:
        name: Name inside the graph (scoped ``body/name`` inside If/Loop bodies).
        shape: Static shape; ``None`` where no static shape could be found.
        dtype: Name from :data:`DTYPE_BYTES`; empty where unknown.
        constant: Whether it is a weight or another constant: an initialiser, a ``Constant``, a value known without
            running the model (a static shape), or computed from constants alone.
    """

    name: str
    shape: tuple[int, ...] | None
    dtype: str
    constant: bool = False

    @property
    def elements(self) -> int:
        """Number of elements; 0 where the shape is unknown."""
        return 0 if self.shape is None else prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes; 0 where shape or type is unknown."""
        return int(self.elements * DTYPE_BYTES.get(self.dtype, 0))


@dataclass(frozen=True, slots=True)
class Node:
    """One operator.

    Attributes:
        name: Unique name inside the graph (``OpType_index`` if the file has none, a suffix added if it repeats one).
        op_type: Operator, for example ``Conv``.
        domain: Operator domain; empty for the ONNX standard.
        inputs: Tensor names; empty string for an omitted optional input.
        outputs: Tensor names; empty string for an omitted optional output.
        attributes: Plain Python values (int, float, str, tuple, NDArray for tensors); sub-graph attributes left out. A
            list of a large tree ensemble is in serialised form: ``numpy.asarray`` decodes it, ``len`` counts it.
        scope: Empty for the main graph, else the path of the If/Loop/Scan bodies around it.
        multiplicity: Executions per inference: 1 in the main graph; the trip count inside a Loop if it is known,
            else 1; 0 in the branch of an If that is not counted.
    """

    name: str
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    scope: str = ""
    multiplicity: float = 1.0


@dataclass(frozen=True, slots=True)
class UnknownPart:
    """A place where a model's file, and what the user said, leave open how much work is done.

    Whatever is computed without it is a lower bound.

    Attributes:
        node: Name of the node where knowledge ends.
        op_type: Its operator, with its domain unless that is the ONNX standard one.
        kind: ``shape`` (the operator hides the shapes behind it), ``size`` (a run decides it from its data), ``rounds``
            (of a loop) or ``branch`` (of an If whose branches cannot be compared).
        cause: One sentence part, for example ``the number of rounds of 'loop' is decided by its input``.
        cure: The option that answers it, as it can be typed (``--rounds loop=N``); empty if there is none.
        products: Matrix products and convolutions in it whose multiply-accumulates are unknown.
    """

    node: str
    op_type: str
    kind: Literal["shape", "size", "rounds", "branch"]
    cause: str
    cure: str = ""
    products: int = 0


@dataclass(frozen=True, slots=True)
class RuntimeObjection:
    """A fault for which ONNX Runtime refuses a file although the file can be read.

    Attributes:
        cause: One sentence part.
        cure: What to change in the file.
    """

    cause: str
    cure: str


@dataclass(frozen=True, slots=True)
class Graph:
    """A model as nodes and tensors.

    Attributes:
        nodes: Every node, including those of If/Loop/Scan bodies and inlined local functions, topological per scope.
        inputs: Inputs that are not initialisers, with the shapes requested.
        outputs: Graph outputs.
        tensors: Every tensor by name.
        values: Values of small constants (at most 1,024 elements), by name.
        opsets: Operator-set version by domain.
        source_path: The file it was read from.
        source_sha256: SHA-256 of that file (the model file alone; of external data only small constants are read).
        warnings: Warnings for the user (for example nodes whose result is not used).
        unknowns: Where it is unknown how much work is done (for example a Loop whose trip count is unknown).
        custom_ops: Libraries of custom operators that a runtime needs to take the model.
        allow_unknown: Whether a custom operator may hide shapes.
        objections: Reasons why ONNX Runtime refuses the file.
        model: The ModelProto without the bytes of large weights (see ``deepen.graph.list_weightless_tensors``), input
            shapes fixed, local functions inlined, shapes inferred, nodes named as in ``nodes``. For splitters only.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    tensors: Mapping[str, TensorInfo]
    values: Mapping[str, NDArray[Any]]
    opsets: Mapping[str, int]
    source_path: Path
    source_sha256: str
    warnings: tuple[str, ...] = ()
    unknowns: tuple[UnknownPart, ...] = ()
    custom_ops: tuple[str, ...] = ()
    allow_unknown: bool = False
    objections: tuple[RuntimeObjection, ...] = ()
    model: onnx.ModelProto | None = field(default=None, repr=False, compare=False)


def get_scalar_value(values: Mapping[str, NDArray[Any]], name: str) -> float | None:
    """Value of a constant with exactly one element, or ``None``."""
    array = values.get(name)
    return None if array is None or np.size(array) != 1 else float(np.reshape(array, -1)[0])
