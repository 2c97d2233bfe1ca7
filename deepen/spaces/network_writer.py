"""Writer of the ONNX nodes that search-space networks consist of: convolutions, batch normalisations, weights."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from deepen.errors import ConfigError
from deepen.graph.onnx_reader.without_weights import SMALL_ELEMENTS, WEIGHTLESS

if TYPE_CHECKING:
    import onnx

__all__ = ["NetworkWriter", "check_network_sizes"]

OPSET = 17


def check_network_sizes(benchmark: str, **sizes: tuple[int, int]) -> None:
    """Refuse sizes that are too small.

    Args:
        benchmark: Whose network it is, for the message.
        sizes: Value and least value, by name.

    Raises:
        ConfigError: If a size is too small.
    """
    for name, (value, least) in sizes.items():
        if value < least:
            raise ConfigError(f"a {benchmark} network needs {name} of at least {least}, not {value}")


class NetworkWriter:
    """Nodes and weights of a network under construction."""

    def __init__(self, weights: bool, seed: int) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._drawn = weights
        self._rng = np.random.default_rng(seed)
        self._zero = ""

    def node(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node; its only output has its name."""
        from onnx import helper

        name = f"{op.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def _tensor(self, shape: Sequence[int]) -> onnx.TensorProto:
        from onnx import TensorProto

        name = f"weight_{len(self._weights)}"
        tensor = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT)
        self._weights.append(tensor)
        return tensor

    def weight(self, *shape: int, positive: bool = False) -> str:
        """Add a weight; scaled so that activations neither vanish nor explode (He et al., 2015)."""
        tensor = self._tensor(shape)
        if self._drawn or prod(shape) <= SMALL_ELEMENTS:
            if positive:
                values = self._rng.random(shape, dtype=np.float32) + np.float32(0.5)
            else:
                values = self._rng.standard_normal(shape, dtype=np.float32)
                values *= np.float32((2 / max(prod(shape[1:]), 1)) ** 0.5)
            tensor.raw_data = values.tobytes()
        else:
            tensor.data_location = tensor.EXTERNAL
            tensor.external_data.add(key="location", value=WEIGHTLESS)
        return tensor.name

    def integers(self, *values: int) -> str:
        """Add a constant list of integers, such as the bounds of a slice."""
        from onnx import TensorProto

        tensor = self._tensor((len(values),))
        tensor.data_type = TensorProto.INT64
        tensor.raw_data = np.asarray(values, dtype=np.int64).tobytes()
        return tensor.name

    def zero(self) -> str:
        """Return the constant 0 that ``none`` edges multiply by."""
        if not self._zero:
            tensor = self._tensor(())
            tensor.raw_data = np.float32(0).tobytes()
            self._zero = tensor.name
        return self._zero

    def conv(self, x: str, c_in: int, c_out: int, kernel: int, stride: int) -> str:
        """Add a convolution without bias, padded to keep the size at stride 1."""
        return self.node(
            "Conv", [x, self.weight(c_out, c_in, kernel, kernel)],
            kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4, dilations=[1, 1], group=1,
        )  # fmt: skip

    def batch_norm(self, x: str, channels: int) -> str:
        """Add a batch normalisation in its inference form."""
        scale, variance = (self.weight(channels, positive=True) for _ in range(2))
        shift, mean = (self.weight(channels) for _ in range(2))
        return self.node("BatchNormalization", [x, scale, shift, mean, variance], epsilon=1e-5)

    def conv_bn_relu(self, x: str, c_in: int, c_out: int, kernel: int) -> str:
        """Add convolution, batch normalisation and ReLU."""
        return self.node("Relu", [self.batch_norm(self.conv(x, c_in, c_out, kernel, 1), c_out)])

    def relu_conv_bn(self, x: str, c_in: int, c_out: int, kernel: int, stride: int = 1) -> str:
        """Add ReLU, convolution and batch normalisation."""
        return self.batch_norm(self.conv(self.node("Relu", [x]), c_in, c_out, kernel, stride), c_out)

    def finish(self, name: str, resolution: int, x: str, channels: int, classes: int) -> onnx.ModelProto:
        """Add the classifier (global average pooling, a fully connected layer) and make the model.

        Args:
            name: Name of the graph.
            resolution: Height and width of the image.
            x: Features to classify.
            channels: Their channels.
            classes: Outputs of the fully connected layer.
        """
        from onnx import TensorProto, helper

        x = self.node("Flatten", [self.node("GlobalAveragePool", [x])], axis=1)
        logits = self.node("Gemm", [x, self.weight(classes, channels), self.weight(classes)], transB=1)
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, resolution, resolution])
        output = helper.make_tensor_value_info(logits, TensorProto.FLOAT, [1, classes])
        graph = helper.make_graph(self._nodes, name, [image], [output], initializer=self._weights)
        return helper.make_model(
            graph, producer_name="deepen", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8
        )
