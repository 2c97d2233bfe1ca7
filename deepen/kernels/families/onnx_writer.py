"""Writes a single-kernel ONNX model from its layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepen.errors import ConfigError
from deepen.graph.onnx_reader.without_weights import SMALL_ELEMENTS
from deepen.graph.types import DTYPE_BYTES
from deepen.kernels.families.kernel_layout import KernelLayout, TensorSpec
from deepen.kernels.families.random_weights import DRAWN, draw_weights, make_placeholder

if TYPE_CHECKING:
    import onnx

__all__ = ["KernelModelWriter", "get_onnx_type"]

_ONNX_NAMES = {"float32": "FLOAT", "float64": "DOUBLE"}

_INTEGER_RANGE = {
    "bool": (0, 2), "int4": (-7, 8), "uint4": (1, 16), "int8": (-100, 101), "uint8": (1, 201), "int16": (-100, 101),
    "uint16": (1, 201), "int32": (-100, 101), "uint32": (1, 201), "int64": (-100, 101), "uint64": (1, 201),
}  # fmt: skip

_MOST_BYTES = 1_900_000_000
"""Weights beyond this do not fit into one protobuf message (2 GiB)."""


def get_onnx_type(dtype: str) -> int:
    """ONNX ``TensorProto.DataType`` number of a data type's name."""
    import onnx

    return int(getattr(onnx.TensorProto, _ONNX_NAMES.get(dtype, dtype.upper())))


class KernelModelWriter:
    """Collector of the nodes and constants of one kernel's model.

    Args:
        layout: Its tensors; the activations become graph inputs, in order, and the outputs graph outputs.
        seed: Seed of the random weights.
        weights: Whether large float32 weights get their values; without, they are placeholders.
    """

    def __init__(self, layout: KernelLayout, seed: int, weights: bool = True) -> None:
        self.layout = layout
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.domains: dict[str, int] = {}
        self._random = np.random.default_rng(seed)
        self._given: set[str] = set()
        self._count = 0

    def fresh(self, stem: str = "t") -> str:
        """Return a tensor name not used before."""
        self._count += 1
        return f"{stem}_{self._count}"

    def constant(self, values: NDArray[Any] | Sequence[Any], dtype: str, name: str | None = None) -> str:
        """Add an initialiser with given values.

        Returns:
            Its name.
        """
        from onnx import helper, numpy_helper

        array = np.asarray(values, dtype=helper.tensor_dtype_to_np_dtype(get_onnx_type(dtype)))
        name = name or self.fresh("c")
        self.initializers.append(numpy_helper.from_array(array, name))
        self._given.add(name)
        return name

    def scalar(self, value: float, dtype: str) -> str:
        """Add a rank-0 initialiser."""
        return self.constant(np.array(value), dtype)

    def random(self, spec: TensorSpec) -> NDArray[Any]:
        """Draw weights for a tensor; integers cover their type's range, sparing the ends.

        Beyond :data:`deepen.kernels.families.random_weights.DRAWN` elements the values repeat, because drawing them
        takes time and the values do not matter.
        """
        count = min(spec.elements, DRAWN)
        low, high = _INTEGER_RANGE.get(spec.dtype, (0, 0))
        values: NDArray[Any] = self._random.integers(low, high, count) if high else draw_weights(self._random, count)
        return np.resize(values, spec.shape)

    def node(
        self,
        op_type: str,
        inputs: Sequence[str],
        outputs: Sequence[str] | str | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Add a node; attributes that are ``None`` are left out.

        Returns:
            Name of its first output.
        """
        from onnx import helper

        names = [outputs] if isinstance(outputs, str) else list(outputs or [self.fresh()])
        given = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(
            helper.make_node(op_type, list(inputs), names, name=f"{op_type}_{len(self.nodes)}", domain=domain, **given)
        )
        if domain:
            self.domains[domain] = 1
        return names[0]

    def finish(self, name: str, opset: int) -> onnx.ModelProto:
        """Make the model: weights of the layout that were not given values get random ones.

        Args:
            name: Graph name.
            opset: Version of the standard operator set.

        Raises:
            ConfigError: If the weights are too large for one file.
        """
        from onnx import helper

        size = sum(spec.elements * DTYPE_BYTES.get(spec.dtype, 0) for spec in self.layout.weights)
        if size > _MOST_BYTES:
            raise ConfigError(f"{name}: weights of {size / 1e9:.1f} GB do not fit into one file; take smaller sizes")
        for spec in self.layout.weights:
            if spec.name in self._given:
                continue
            if not self.weights and spec.dtype == "float32" and spec.elements > SMALL_ELEMENTS:
                self.initializers.append(make_placeholder(spec.name, tuple(spec.shape)))
            else:
                self.constant(self.random(spec), spec.dtype, spec.name)
        read = {tensor for node in self.nodes for tensor in node.input}
        graph = helper.make_graph(
            self.nodes,
            name,
            [_make_value_info(spec) for spec in self.layout.inputs],
            [_make_value_info(spec) for spec in self.layout.outputs],
            [tensor for tensor in self.initializers if tensor.name in read],
        )
        opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in self.domains.items())]
        return helper.make_model(
            graph, opset_imports=opsets, producer_name="deepen", ir_version=helper.find_min_ir_version_for(opsets, True)
        )


def _make_value_info(spec: TensorSpec) -> onnx.ValueInfoProto:
    from onnx import helper

    return helper.make_tensor_value_info(spec.name, get_onnx_type(spec.dtype), list(spec.shape))
