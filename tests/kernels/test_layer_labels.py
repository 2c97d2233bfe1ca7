"""Kernels get the name of the layer they are."""

from __future__ import annotations

import pytest

from deepen.graph import TensorInfo
from deepen.kernels.layer_labels import format_shape, label_kernel
from deepen.kernels.types import Kernel


def make_kernel(*op_types: str) -> Kernel:
    def tensor(name: str, *shape: int) -> TensorInfo:
        return TensorInfo(name, shape, "float32")

    return Kernel(
        "n0", "other", op_types, {}, (tensor("s"), tensor("x", 1, 3, 8, 8)), (tensor("b", 4), tensor("w", 4, 3, 3, 3)),
        (tensor("y", 1, 4, 8, 8),), tuple(f"n{i}" for i in range(len(op_types))), 0, 0, 0, 0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("op_types", "layer"),
    [
        (("DequantizeLinear", "DequantizeLinear", "Conv", "Relu", "QuantizeLinear"), "n2"),
        (("Transpose", "MatMul", "Add", "MatMul"), "n1"),
        (("DequantizeLinear", "Softmax", "QuantizeLinear"), "n1"),
        (("DequantizeLinear", "Transpose", "QuantizeLinear"), "n1"),
        (("Reshape", "Add", "LSTM"), "n2"),
        (("Cast", "Identity"), "n0"),
    ],
)
def test_the_layer_is_the_node_that_computes(op_types: tuple[str, ...], layer: str) -> None:
    assert label_kernel(make_kernel(*op_types)).layer == layer


def test_shapes_are_those_of_the_largest_tensors() -> None:
    label = label_kernel(make_kernel("Conv"))
    assert label[3:] == ((1, 3, 8, 8), (4, 3, 3, 3), (1, 4, 8, 8))
    assert [format_shape(s) for s in ((1, 2), (), None)] == ["1x2", "scalar", "?"]
