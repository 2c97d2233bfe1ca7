"""Writes a single-kernel ONNX model from its layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepen.kernels.anatomy.base import Layout, Spec

if TYPE_CHECKING:
    import onnx

__all__ = ["Writer", "onnx_type"]

_ONNX_NAMES = {"float32": "FLOAT", "float64": "DOUBLE"}

_WEIGHT_SPAN = 0.05
"""Weights lie in [0.25, 1] x this span, either sign: small enough that deep sums stay finite in half precision, far
from the denormal range, whose arithmetic is many times slower on x86 (Intel 64 optimisation manual, 3.9.2)."""


def onnx_type(dtype: str) -> int:
    """ONNX ``TensorProto.DataType`` number of a data type's name."""
    import onnx

    return int(getattr(onnx.TensorProto, _ONNX_NAMES.get(dtype, dtype.upper())))


class Writer:
    """Collects the nodes and constants of one kernel's model.

    Args:
        layout: Its tensors; the activations become graph inputs, in order, and the outputs graph outputs.
        seed: Seed of the random weights.
    """

    def __init__(self, layout: Layout, seed: int) -> None:
        self.layout = layout
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.domains: dict[str, int] = {}
        self._random = np.random.default_rng(seed)
        self._given: set[str] = set()
        self._count = 0

    def fresh(self, stem: str = "t") -> str:
        """A tensor name not used before."""
        self._count += 1
        return f"{stem}_{self._count}"

    def constant(self, values: NDArray[Any] | Sequence[Any], dtype: str, name: str | None = None) -> str:
        """Add an initialiser with given values.

        Returns:
            Its name.
        """
        from onnx import helper, numpy_helper

        array = np.asarray(values, dtype=helper.tensor_dtype_to_np_dtype(onnx_type(dtype)))
        name = name or self.fresh("c")
        self.initializers.append(numpy_helper.from_array(array, name))
        self._given.add(name)
        return name

    def scalar(self, value: float, dtype: str) -> str:
        """Add a rank-0 initialiser."""
        return self.constant(np.array(value), dtype)

    def random(self, spec: Spec) -> NDArray[Any]:
        """Draw weights for a tensor; see :data:`_WEIGHT_SPAN`. Integers cover their type's range, sparing the ends."""
        if spec.dtype == "bool":
            return self._random.integers(0, 2, spec.shape).astype(bool)
        if spec.dtype in ("int4", "uint4"):
            low = -7 if spec.dtype == "int4" else 1
            return self._random.integers(low, low + 14, spec.shape)
        if spec.dtype.startswith(("int", "uint")):
            return self._random.integers(1 if spec.dtype.startswith("uint") else -100, 100, spec.shape)
        size = self._random.uniform(0.25, 1.0, spec.shape) * _WEIGHT_SPAN
        return size * np.where(self._random.random(spec.shape) < 0.5, -1.0, 1.0)

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
        """
        from onnx import helper

        for spec in self.layout.weights:
            if spec.name not in self._given:
                self.constant(self.random(spec), spec.dtype, spec.name)
        read = {tensor for node in self.nodes for tensor in node.input}
        graph = helper.make_graph(
            self.nodes,
            name,
            [_info(spec) for spec in self.layout.inputs],
            [_info(spec) for spec in self.layout.outputs],
            [tensor for tensor in self.initializers if tensor.name in read],
        )
        opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in self.domains.items())]
        return helper.make_model(
            graph, opset_imports=opsets, producer_name="deepen", ir_version=helper.find_min_ir_version_for(opsets, True)
        )


def _info(spec: Spec) -> onnx.ValueInfoProto:
    from onnx import helper

    return helper.make_tensor_value_info(spec.name, onnx_type(spec.dtype), list(spec.shape))
