"""The definition of a kernel family, and the view of a node group from which its parameters are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from deepen.errors import ConfigError
from deepen.graph.types import Graph, Node, TensorInfo, get_scalar_value
from deepen.kernels.families.kernel_layout import KernelLayout
from deepen.kernels.families.onnx_writer import KernelModelWriter

__all__ = [
    "IGNORED",
    "FamilyDefinition",
    "NodeGroup",
    "Params",
    "UnknownShapeError",
    "make_param_error",
    "qualify_operator",
]

Params = Mapping[str, Any]

IGNORED = frozenset({"Identity", "Dropout", "Constant", "Cast", "CastLike"})
"""Operators that never decide a family when anything else is in the group (they are folded, or free)."""

QLINEAR_INPUTS = {
    **dict.fromkeys(
        ("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "QLinearAveragePool", "QLinearGlobalAveragePool",
         "QLinearReduceMean"),
        slice(0, 1),
    ),
    **dict.fromkeys(("QLinearAdd", "QLinearMul"), slice(0, 4, 3)), "QLinearConcat": slice(2, None, 3),
    "QLinearWhere": slice(1, 5, 3),
}  # fmt: skip
"""Operators of ``com.microsoft`` on integers, and the positions of the tensors they read; scales and zero points lie
between (of QLinearWhere, the condition comes first)."""


class UnknownShapeError(Exception):
    """A tensor whose shape is needed has none; the group becomes family ``other``."""


@dataclass(frozen=True, slots=True)
class FamilyDefinition:
    """Definition of one family: seven functions that all work on its parameters.

    Parameters (``Params``) are JSON values under the names of ``kernels/families/FAMILY.toml``: sizes in elements,
    shapes as lists in ONNX order (``NCHW``), data types by the names of :data:`deepen.graph.types.DTYPE_BYTES`. Every
    function but ``read`` takes parameters that :func:`deepen.kernels.families.catalog.complete_params` has completed
    with defaults: ``layout``, ``ops`` and ``dims`` those that ``read`` returned or ``check`` accepted, ``write`` only
    those that ``check`` accepted.

    Attributes:
        family: Family name.
        read: ``read(group) -> params | None``. Recognises a :class:`NodeGroup` and returns its parameters (defaults
            may be left out), or ``None`` if the group is not of this family. Raises :class:`UnknownShapeError` if a
            shape it needs is not static; the group then becomes family ``other``.
        layout: ``layout(params) -> KernelLayout``. Tensors of the kernel, each once: shape, data type, and the elements
            touched where they are fewer than the shape says. Bytes read and written are summed from it.
        ops: ``ops(params) -> int``. Arithmetic operations of one execution that are not multiply-accumulates, weighted
            by operator (see :mod:`deepen.kernels.families.operator_costs`).
        dims: ``dims(params) -> {name: value}``. The family's own features, a subset of
            :data:`deepen.kernels.features.FEATURE_NAMES`: sizes in elements, flags as 0.0 or 1.0, operators as the
            codes of ``operator_costs``.
        write: ``write(params, writer) -> None``. Adds the family's ONNX nodes to a
            :class:`~deepen.kernels.families.onnx_writer.KernelModelWriter`. The nodes read the layout's inputs and
            weights, and write its outputs, under the names the layout gives them.
        check: ``check(params) -> None``. Raises ``ConfigError``, naming the parameter, if values do not fit together.
        opset: ``opset(params) -> int``. Version of the ONNX operator set the built model needs.
    """

    family: str
    read: Callable[[NodeGroup], Params | None]
    layout: Callable[[Params], KernelLayout]
    ops: Callable[[Params], int]
    dims: Callable[[Params], dict[str, float]]
    write: Callable[[Params, KernelModelWriter], None]
    check: Callable[[Params], None] = lambda params: None
    opset: Callable[[Params], int] = lambda params: 17


def make_param_error(family: str, param: str, problem: str) -> ConfigError:
    """Make the error for a parameter that does not fit the others."""
    return ConfigError(f"{family}: parameter '{param}' {problem}")


def qualify_operator(node: Node) -> str:
    """Operator with its domain where that is not the ONNX standard, for example ``com.microsoft.FusedConv``."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


class _GraphIndex:
    """Producers and readers of every tensor of one graph, and the tensors that are computed from constants only."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.producer = {name: node for node in graph.nodes for name in node.outputs if name}
        self.constant = {name for name, tensor in graph.tensors.items() if tensor.constant}
        for node in graph.nodes:
            if any(node.inputs) and all(name in self.constant for name in node.inputs if name):
                self.constant.update(filter(None, node.outputs))

    @cached_property
    def outputs(self) -> set[str]:
        """Names of the graph's outputs."""
        return {tensor.name for tensor in self.graph.outputs}

    @cached_property
    def readers(self) -> dict[str, list[str]]:
        """Tensor -> names of the nodes that read it."""
        found: dict[str, list[str]] = {}
        for node in self.graph.nodes:
            for name in node.inputs:
                found.setdefault(name, []).append(node.name)
        return found


_last_graph_index: list[_GraphIndex] = []


def index_graph(graph: Graph) -> _GraphIndex:
    """Index of a graph; the last one is kept, because a splitter describes many groups of one graph in a row."""
    if not _last_graph_index or _last_graph_index[0].graph is not graph:
        _last_graph_index[:] = [_GraphIndex(graph)]
    return _last_graph_index[0]


@dataclass(slots=True)
class NodeGroup:
    """A group of nodes the runtime executes as one, as the readers see it.

    Attributes:
        nodes: The original nodes, in order.
        graph: The graph they are from.
        inputs: Activations the group reads.
        outputs: Tensors it writes.
        runtime_ops: Operators the runtime executes for it, with domain.
        compute: The nodes that decide the family: all but :data:`IGNORED` ones, or all if there are no others.
    """

    nodes: tuple[Node, ...]
    graph: Graph
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    runtime_ops: tuple[str, ...] = ()
    compute: tuple[Node, ...] = field(init=False)

    def __post_init__(self) -> None:
        compute = tuple(n for n in self.nodes if n.op_type not in IGNORED and not self._constant_node(n))
        self.compute = compute or tuple(n for n in self.nodes if n.op_type != "Constant")

    def _constant_node(self, node: Node) -> bool:
        return bool(node.inputs) and all(self.is_const(name) for name in node.inputs if name)

    @property
    def op_types(self) -> tuple[str, ...]:
        """Operators of the compute nodes, in order."""
        return tuple(n.op_type for n in self.compute)

    def runtime_executes(self, *ops: str) -> bool:
        """Return whether the runtime executes one of these operators (exact names, with domain) for the group."""
        return any(op in self.runtime_ops for op in ops)

    def shape(self, name: str) -> tuple[int, ...]:
        """Static shape of a tensor.

        Raises:
            UnknownShapeError: If it has none.
        """
        tensor = self.graph.tensors.get(name)
        if tensor is None or tensor.shape is None:
            raise UnknownShapeError(name)
        return tensor.shape

    def dtype(self, name: str) -> str:
        """Data type of a tensor; empty where unknown."""
        tensor = self.graph.tensors.get(name)
        return "" if tensor is None else tensor.dtype

    def is_const(self, name: str) -> bool:
        """Return whether a tensor is a constant, or computed from constants only (the runtime folds it)."""
        return name in index_graph(self.graph).constant

    def scalar(self, name: str) -> float | None:
        """Value of a constant with exactly one element, else ``None``."""
        return get_scalar_value(self.graph.values, name)

    def ints(self, node: Node, attribute: str, position: int | None = None) -> tuple[int, ...] | None:
        """Integers given as an attribute or, in newer opsets, as a constant input; ``None`` where neither is known."""
        value = node.attributes.get(attribute)
        if value is None and position is not None and position < len(node.inputs) and node.inputs[position]:
            value = self.graph.values.get(node.inputs[position])
        if value is None:
            return None
        flat = value.reshape(-1).tolist() if hasattr(value, "reshape") else value
        return tuple(int(v) for v in flat) if isinstance(flat, list | tuple) else (int(flat),)

    def consumers(self, name: str, among: Iterable[Node] | None = None) -> list[Node]:
        """Nodes of the group that read a tensor."""
        return [n for n in (self.nodes if among is None else among) if name in n.inputs]

    def producer(self, name: str) -> Node | None:
        """Node of the whole graph that writes a tensor."""
        return index_graph(self.graph).producer.get(name)

    def find_single_node(self, op_types: Sequence[str]) -> Node | None:
        """The only compute node, if it is one of these operators."""
        if len(self.compute) == 1 and self.compute[0].op_type in op_types:
            return self.compute[0]
        return None

    def find_integer_source(self, name: str) -> str:
        """Name of the integer tensor that a tensor is dequantised from, anywhere in the graph; else its own name."""
        node = self.producer(name)
        return node.inputs[0] if node is not None and node.op_type == "DequantizeLinear" else name

    def find_integer_core(self) -> NodeGroup | None:
        """The group as the one operator on integers it runs as, without what converts to them and back.

        1. ``QLinearNAME`` of a model file is NAME on the integer tensors it reads.
        2. An operator between DequantizeLinear and QuantizeLinear, if the runtime executes it, or its ``QLinear`` form,
           and no conversion; if no runtime was asked, the conversions on both sides decide.

        Returns:
            A group of one node that reads and writes the integer tensors; ``None`` if this is not such a group.
        """
        core = [n for n in self.nodes if n.op_type not in ("QuantizeLinear", "DequantizeLinear", *IGNORED)]
        if len(core) != 1 or core[0].attributes.get("channels_last", 0):
            return None
        node = core[0]
        if node.op_type in QLINEAR_INPUTS and len(self.nodes) == 1:  # 1
            name, inputs = node.op_type.removeprefix("QLinear"), node.inputs[QLINEAR_INPUTS[node.op_type]]
            inputs = (node.inputs[0], *inputs) if name == "Where" else inputs
            return replace(self, nodes=(replace(node, op_type=name, domain="", inputs=inputs),))
        # 2
        run = {op.rpartition(".")[2].removeprefix("QLinear") for op in self.runtime_ops}
        written = {n.inputs[0]: n.outputs[0] for n in self.nodes if n.op_type == "QuantizeLinear"}
        read = [self.find_integer_source(name) for name in node.inputs]
        if (run != {node.op_type} and (run or not written)) or not written or read == list(node.inputs):
            return None
        outputs = tuple(written.get(name, name) for name in node.outputs)
        return replace(self, nodes=(replace(node, inputs=tuple(read), outputs=outputs),))

    def opset(self) -> int:
        """Version of the standard operator set."""
        return int(self.graph.opsets.get("", self.graph.opsets.get("ai.onnx", 17)))
