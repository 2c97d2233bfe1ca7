"""Builder of whole ONNX networks: records nodes, weights, shapes and multiply-accumulates."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

__all__ = ["NetworkBuilder"]

OPSET = 17
"""Newest operator set that all supported runtimes of recent years read."""

Shape = tuple[int, ...]


def _compute_window_count(size: int, kernel: int, stride: int, before: int, after: int, *, ceil: bool = False) -> int:
    """Output size along one dimension (ONNX operator documentation of Conv and MaxPool)."""
    room = size + before + after - kernel
    return (-(-room // stride) if ceil else room // stride) + 1


class NetworkBuilder:
    """A network under construction (batch 1, float32, NCHW).

    Methods take and return tensor names and add what they name. In a dry run weights are counted, not drawn.

    Attributes:
        shapes: Static shape of every tensor.
        macs: Multiply-accumulates so far.
        weight_bytes: Bytes of weights so far.
        peak_bytes: Bytes of the largest single activation so far.
    """

    def __init__(self, rng: np.random.Generator, *, dry: bool = False) -> None:
        """Start an empty network whose weights come from ``rng``."""
        self.shapes: dict[str, Shape] = {}
        self.macs = 0
        self.weight_bytes = 0
        self.peak_bytes = 0
        self._rng = rng
        self._dry = dry
        self._nodes: list[tuple[str, list[str], list[str], dict[str, Any]]] = []
        self._weights: dict[str, Any] = {}
        self._inputs: list[str] = []

    def input(self, *shape: int) -> str:
        """Declare the network's input."""
        name = f"input{len(self._inputs)}"
        self._inputs.append(name)
        self.shapes[name] = shape
        return name

    def weight(self, shape: Shape, fan_in: int = 0, *, positive: bool = False) -> str:
        """Add a weight: He-scaled normal values (He et al., 2015), or values in [0.5, 1.5) where ``positive``."""
        name = f"w{len(self._weights)}"
        self.weight_bytes += 4 * prod(shape)
        values: Any = None
        if not self._dry:
            if positive:
                values = self._rng.random(shape, dtype=np.float32) + np.float32(0.5)
            else:
                scale = (2 / fan_in) ** 0.5 if fan_in else 0.1
                values = self._rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)
        self._weights[name] = values
        self.shapes[name] = shape
        return name

    def constant(self, values: Any) -> str:
        """Add a small constant with given values."""
        name = f"w{len(self._weights)}"
        array = np.asarray(values)
        self._weights[name] = array
        self.shapes[name] = array.shape
        return name

    def node(self, op: str, inputs: Sequence[str], shapes: Sequence[Shape], **attributes: Any) -> list[str]:
        """Add one operator; return its output names (one per shape)."""
        outputs = [f"{op.lower()}{len(self._nodes)}_{i}" for i in range(len(shapes))]
        self._nodes.append((op, list(inputs), outputs, attributes))
        for name, shape in zip(outputs, shapes, strict=True):
            self.shapes[name] = tuple(shape)
            self.peak_bytes = max(self.peak_bytes, 4 * prod(shape))
        return outputs

    def conv(
        self, x: str, c_out: int, kernel: int = 3, stride: int = 1, *, pad: int | None = None, groups: int = 1,
        bn: bool = False, bias: bool = True, act: str = "none",
    ) -> str:  # fmt: skip
        """Add a convolution, optionally batch normalisation, and an activation; ``pad`` defaults to "same"."""
        n, c_in, *spatial = self.shapes[x]
        p = kernel // 2 if pad is None else pad
        out = tuple(_compute_window_count(s, kernel, stride, p, p) for s in spatial)
        taps = c_in // groups * kernel ** len(spatial)
        inputs = [x, self.weight((c_out, c_in // groups, *([kernel] * len(spatial))), taps)]
        if bias and not bn:
            inputs.append(self.weight((c_out,)))
        self.macs += n * c_out * prod(out) * taps
        y = self.node(
            "Conv", inputs, [(n, c_out, *out)],
            kernel_shape=[kernel] * len(spatial), strides=[stride] * len(spatial), pads=[p] * 2 * len(spatial),
            group=groups,
        )[0]  # fmt: skip
        return self.act(self.bn(y) if bn else y, act)

    def bn(self, x: str) -> str:
        """Add a batch normalisation with statistics of its own."""
        c = (self.shapes[x][1],)
        weights = [self.weight(c, positive=True), self.weight(c), self.weight(c), self.weight(c, positive=True)]
        return self.node("BatchNormalization", [x, *weights], [self.shapes[x]], epsilon=1e-5)[0]

    def scale(self, x: str) -> str:
        """Multiply and add a constant per channel, as exporters of Caffe's Scale layer write it."""
        rank = len(self.shapes[x]) - 2
        shape = (self.shapes[x][1], *([1] * rank))
        y = self.node("Mul", [x, self.weight(shape, positive=True)], [self.shapes[x]])[0]
        return self.node("Add", [y, self.weight(shape)], [self.shapes[x]])[0]

    def act(self, x: str, kind: str) -> str:
        """One of none, relu, relu6, leakyrelu, sigmoid, tanh, hswish, hsigmoid, silu or gelu as exporters write it."""
        shape = [self.shapes[x]]
        plain = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "hswish": "HardSwish"}
        if kind == "none":
            return x
        if kind in plain:
            return self.node(plain[kind], [x], shape)[0]
        if kind == "relu6":
            low, high = self.constant(np.float32(0)), self.constant(np.float32(6))
            return self.node("Clip", [x, low, high], shape)[0]
        if kind == "leakyrelu":
            return self.node("LeakyRelu", [x], shape, alpha=0.1)[0]
        if kind == "hsigmoid":
            return self.node("HardSigmoid", [x], shape, alpha=1 / 6, beta=0.5)[0]
        if kind == "silu":
            return self.node("Mul", [x, self.node("Sigmoid", [x], shape)[0]], shape)[0]
        if kind == "gelu":
            y = self.node("Div", [x, self.constant(np.float32(2**0.5))], shape)[0]
            y = self.node("Erf", [y], shape)[0]
            y = self.node("Add", [y, self.constant(np.float32(1))], shape)[0]
            y = self.node("Mul", [x, y], shape)[0]
            return self.node("Mul", [y, self.constant(np.float32(0.5))], shape)[0]
        raise ValueError(f"no activation '{kind}'")

    def pool(self, x: str, kind: str, kernel: int, stride: int, pad: int = 0, *, ceil: bool = False) -> str:
        """Max or average pooling (``kind`` "max" or "avg")."""
        n, c, *spatial = self.shapes[x]
        out = tuple(_compute_window_count(s, kernel, stride, pad, pad, ceil=ceil) for s in spatial)
        return self.node(
            "MaxPool" if kind == "max" else "AveragePool", [x], [(n, c, *out)],
            kernel_shape=[kernel] * len(spatial), strides=[stride] * len(spatial), pads=[pad] * 2 * len(spatial),
            ceil_mode=int(ceil),
        )[0]  # fmt: skip

    def global_average_pool(self, x: str, *, keep: bool = False) -> str:
        """Global average pooling, flattened to (n, c) unless ``keep``."""
        n, c, *spatial = self.shapes[x]
        y = self.node("GlobalAveragePool", [x], [(n, c, *([1] * len(spatial)))])[0]
        return y if keep else self.flatten(y)

    def flatten(self, x: str) -> str:
        """Flatten to (n, rest)."""
        n, *rest = self.shapes[x]
        return self.node("Flatten", [x], [(n, prod(rest))], axis=1)[0]

    def reshape(self, x: str, *shape: int) -> str:
        """Reshape."""
        return self.node("Reshape", [x, self.constant(np.array(shape, np.int64))], [shape])[0]

    def transpose(self, x: str, *perm: int) -> str:
        """Permute dimensions."""
        old = self.shapes[x]
        return self.node("Transpose", [x], [tuple(old[p] for p in perm)], perm=list(perm))[0]

    def gemm(self, x: str, units: int, act: str = "none") -> str:
        """Fully connected layer on (m, k), as Gemm."""
        m, k = self.shapes[x]
        self.macs += m * k * units
        y = self.node("Gemm", [x, self.weight((units, k), k), self.weight((units,))], [(m, units)], transB=1)[0]
        return self.act(y, act)

    def linear(self, x: str, units: int, act: str = "none", *, bias: bool = True) -> str:
        """Fully connected layer on the last dimension of any rank, as MatMul and Add."""
        *lead, k = self.shapes[x]
        self.macs += prod(lead) * k * units
        y = self.node("MatMul", [x, self.weight((k, units), k)], [(*lead, units)])[0]
        if bias:
            y = self.node("Add", [self.weight((units,)), y], [(*lead, units)])[0]
        return self.act(y, act)

    def matmul(self, a: str, b: str) -> str:
        """Product of two activations with equal leading dimensions."""
        *lead, m, k = self.shapes[a]
        n = self.shapes[b][-1]
        self.macs += prod(lead) * m * k * n
        return self.node("MatMul", [a, b], [(*lead, m, n)])[0]

    def binary(self, op: str, a: str, b: str) -> str:
        """Element-wise Add, Mul, Sub or Div with broadcasting."""
        return self.node(op, [a, b], [tuple(np.broadcast_shapes(self.shapes[a], self.shapes[b]))])[0]

    def add(self, a: str, b: str, act: str = "none") -> str:
        """Residual addition and activation."""
        return self.act(self.binary("Add", a, b), act)

    def concat(self, parts: Sequence[str], axis: int = 1) -> str:
        """Concatenate."""
        shape = list(self.shapes[parts[0]])
        shape[axis] = sum(self.shapes[p][axis] for p in parts)
        return self.node("Concat", parts, [tuple(shape)], axis=axis)[0]

    def split(self, x: str, parts: int, axis: int = 1) -> list[str]:
        """Split into equal parts."""
        shape = list(self.shapes[x])
        shape[axis] //= parts
        sizes = self.constant(np.array([shape[axis]] * parts, np.int64))
        return self.node("Split", [x, sizes], [tuple(shape)] * parts, axis=axis)

    def lrn(self, x: str, size: int = 5) -> str:
        """Local response normalisation with the constants of Krizhevsky et al. (2012)."""
        return self.node("LRN", [x], [self.shapes[x]], size=size, alpha=1e-4, beta=0.75, bias=1.0)[0]

    def shuffle(self, x: str, groups: int) -> str:
        """Channel shuffle (Zhang et al., 2018): reshape, transpose, reshape."""
        n, c, h, w = self.shapes[x]
        y = self.transpose(self.reshape(x, n, groups, c // groups, h, w), 0, 2, 1, 3, 4)
        return self.reshape(y, n, c, h, w)

    def squeeze_excite(self, x: str, ratio: int, gate: str = "sigmoid") -> str:
        """Squeeze-and-excitation (Hu et al., 2018) from 1x1 convolutions."""
        c = self.shapes[x][1]
        y = self.conv(self.global_average_pool(x, keep=True), max(8, c // ratio // 8 * 8), 1, act="relu")
        return self.binary("Mul", x, self.conv(y, c, 1, act=gate))

    def layernorm(self, x: str) -> str:
        """Layer normalisation over the last dimension."""
        c = (self.shapes[x][-1],)
        return self.node(
            "LayerNormalization", [x, self.weight(c, positive=True), self.weight(c)], [self.shapes[x]],
            axis=-1, epsilon=1e-5,
        )[0]  # fmt: skip

    def softmax(self, x: str) -> str:
        """Softmax over the last dimension."""
        return self.node("Softmax", [x], [self.shapes[x]], axis=-1)[0]

    def model(self, name: str, output: str) -> onnx.ModelProto:
        """The finished network as an ONNX model.

        Raises:
            ValueError: After a dry run, which has no weights.
        """
        from onnx import TensorProto, helper

        if self._dry:
            raise ValueError("a dry run has no weights")
        f32 = TensorProto.FLOAT
        graph = helper.make_graph(
            [helper.make_node(op, i, o, name=o[0], **attributes) for op, i, o, attributes in self._nodes],
            name,
            [helper.make_tensor_value_info(i, f32, self.shapes[i]) for i in self._inputs],
            [helper.make_tensor_value_info(output, f32, self.shapes[output])],
        )
        model = helper.make_model(
            graph, producer_name="deepen", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8
        )
        for key, values in self._weights.items():  # added in place: make_graph would copy every weight
            data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
            model.graph.initializer.add(name=key, dims=values.shape, data_type=data_type, raw_data=values.tobytes())
        return model
