#!/usr/bin/env python3
"""Write a ResNet-50 with random weights as ONNX (25.6 million parameters, 102 MB), without torch.

Example:
    .venv/bin/python tools/bench/resnet50.py resnet50.onnx

Architecture: He et al., "Deep Residual Learning for Image Recognition", 2015 (table 1, 50-layer), stride in the 3x3
convolution as torchvision has it; batch normalisation folded into the convolutions.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""(bottleneck width, blocks, stride of the first block)."""


class Writer:
    """Collects nodes and weights."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(50)

    def node(self, op: str, inputs: list[str], **attributes: object) -> str:
        """Append a node; returns the name of its output."""
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def weight(self, *shape: int) -> str:
        """Append a random weight; returns its name."""
        name = f"w{len(self.weights)}"
        values = self.random.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(np.prod(shape[1:]) or 1))
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(self, x: str, c_in: int, c_out: int, kernel: int, stride: int = 1, relu: bool = True) -> str:
        """Append a convolution with bias and, if asked, a ReLU."""
        weights = [self.weight(c_out, c_in, kernel, kernel), self.weight(c_out)]
        size, edge = [kernel] * 2, [kernel // 2] * 4
        y = self.node("Conv", [x, *weights], kernel_shape=size, strides=[stride] * 2, pads=edge)
        return self.node("Relu", [y]) if relu else y


def resnet50() -> onnx.ModelProto:
    """Make the model."""
    net = Writer()
    x = net.conv("input", 3, 64, 7, 2)
    x = net.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    c_in = 64
    for width, blocks, first_stride in STAGES:
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            y = net.conv(x, c_in, width, 1)
            y = net.conv(y, width, width, 3, stride)
            y = net.conv(y, width, 4 * width, 1, relu=False)
            short = net.conv(x, c_in, 4 * width, 1, stride, relu=False) if block == 0 else x
            x = net.node("Relu", [net.node("Add", [y, short])])
            c_in = 4 * width
    x = net.node("Flatten", [net.node("GlobalAveragePool", [x])])
    x = net.node("Gemm", [x, net.weight(1000, 2048), net.weight(1000)], transB=1)
    graph = helper.make_graph(
        net.nodes,
        "resnet50",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 224, 224])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, 1000])],
        net.weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a ResNet-50 with random weights.")
    parser.add_argument("path", type=Path)
    onnx.save(resnet50(), parser.parse_args().path)
