"""Small ONNX models the graph tests are made of."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def weight(name: str, *shape: int, dtype: Any = np.float32, seed: int = 0) -> onnx.TensorProto:
    values = np.random.default_rng(seed).normal(size=shape).astype(dtype)
    return numpy_helper.from_array(values, name)


def ints(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def tensor(name: str, *shape: Any, elem: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, elem, shape)


def unshaped(name: str, elem: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, elem, None)


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: list[onnx.TensorProto] | None = None,
    opset: int = 17,
    **extra: Any,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights or [])
    domains = {node.domain for node in nodes} - {"", "ai.onnx"}
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(domain, 1) for domain in sorted(domains)]
    made = helper.make_model(graph, opset_imports=opsets, **extra)
    made.ir_version = min(made.ir_version, 10)
    return made


def convnet(batch: Any = 1, side: Any = 8, opset: int = 17) -> onnx.ModelProto:
    """Conv + Relu + pool + Flatten + Gemm: large and small weights, a fixed number of features."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("MaxPool", ["r"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "fw", "fb"], ["y"], "fc", transB=1),
    ]
    weights = [weight("w", 16, 3, 3, 3), weight("b", 16), weight("fw", 10, 256, seed=1), weight("fb", 10)]
    return model(nodes, [tensor("x", batch, 3, side, side)], [tensor("y", batch, 10)], weights, opset)


def dynamic_reshape(batch: Any = 1) -> onnx.ModelProto:
    """A shape computed the way torch exports it: Shape, Gather, Unsqueeze, Concat, Reshape."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axis"], ["n1"]),
        helper.make_node("Gather", ["s", "one"], ["c"]),
        helper.make_node("Mul", ["c", "half"], ["c0"]),
        helper.make_node("Unsqueeze", ["c0", "axis"], ["c1"]),
        helper.make_node("Constant", [], ["minus"], value_ints=[-1]),
        helper.make_node("Concat", ["n1", "c1", "minus"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("Transpose", ["r"], ["y"], perm=[0, 2, 1]),
    ]
    scalars = [numpy_helper.from_array(np.array(v, np.int64), n) for n, v in (("zero", 0), ("one", 1), ("half", 2))]
    return model(nodes, [tensor("x", batch, 4, 6, 6)], [tensor("y", batch, None, None)], [*scalars, ints("axis", 0)])


def branching(condition: bool | None = None) -> onnx.ModelProto:
    """If with a convolution in one branch and an addition in the other."""
    then_graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["t"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])],
        "then", [], [tensor("t", 1, 4, 8, 8)],
    )  # fmt: skip
    else_graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["e"])], "else", [], [tensor("e", 1, 4, 8, 8)])
    nodes = [
        helper.make_node("If", ["cond"], ["y"], "choose", then_branch=then_graph, else_branch=else_graph),
        helper.make_node("Relu", ["y"], ["z"]),
    ]
    inputs, weights = [tensor("x", 1, 4, 8, 8)], [weight("w", 4, 4, 3, 3)]
    if condition is None:
        inputs.append(tensor("cond", elem=BOOL))
    else:
        weights.append(numpy_helper.from_array(np.array(condition), "cond"))
    return model(nodes, inputs, [tensor("z", 1, 4, 8, 8)], weights)


def looping(trips: int | None = 5, condition: str = "", grows: bool = False, stop: bool = False) -> onnx.ModelProto:
    """Loop with a MatMul; its condition passes through, or stops after the first round."""
    body_nodes = [
        helper.make_node("MatMul", ["state", "w"], ["m"]),
        helper.make_node("Concat", ["m", "m"], ["out"], axis=0) if grows else helper.make_node("Relu", ["m"], ["out"]),
        helper.make_node("Identity", ["m"], ["slice"]),
    ]
    body_weights = []
    if stop:
        body_weights.append(numpy_helper.from_array(np.array(False), "go"))
    else:
        body_nodes.append(helper.make_node("Identity", ["cond"], ["go"]))
    body = helper.make_graph(
        body_nodes, "body",
        [tensor("i", elem=INT64), tensor("cond", elem=BOOL), unshaped("state")],
        [tensor("go", elem=BOOL), unshaped("out"), unshaped("slice")],
        body_weights,
    )  # fmt: skip
    nodes = [
        helper.make_node("Loop", ["trips" if trips is not None else "", condition, "x"], ["y", "ys"], "loop", body=body)
    ]
    weights = [weight("w", 8, 8)]
    if trips is not None:
        weights.append(numpy_helper.from_array(np.array(trips, np.int64), "trips"))
    inputs = [tensor("x", 2, 8)]
    if condition:
        inputs.append(tensor(condition, elem=BOOL))
    return model(nodes, inputs, [unshaped("y"), unshaped("ys")], weights)


def scanning() -> onnx.ModelProto:
    """Scan over the second axis of its input: seven rounds."""
    body = helper.make_graph(
        [helper.make_node("Add", ["state", "item"], ["next"]), helper.make_node("Relu", ["next"], ["seen"])],
        "body", [unshaped("state"), unshaped("item")], [unshaped("next"), unshaped("seen")],
    )  # fmt: skip
    nodes = [
        helper.make_node(
            "Scan", ["init", "x"], ["last", "all"], "scan", body=body, num_scan_inputs=1, scan_input_axes=[1]
        )
    ]
    return model(nodes, [tensor("x", 3, 7, 4)], [unshaped("last"), unshaped("all")], [weight("init", 3, 4)])


def with_functions(version: int = 17) -> onnx.ModelProto:
    """Two local functions, one calling the other."""
    opsets = [helper.make_opsetid("", version), helper.make_opsetid("local", 1)]
    inner = helper.make_function(
        "local", "Scale", ["a"], ["b"],
        [helper.make_node("Constant", [], ["two"], value_float=2.0), helper.make_node("Mul", ["a", "two"], ["b"])],
        opsets,
    )  # fmt: skip
    outer = helper.make_function(
        "local", "Block", ["a", "w"], ["c"],
        [helper.make_node("MatMul", ["a", "w"], ["m"]), helper.make_node("Scale", ["m"], ["c"], domain="local")],
        opsets,
    )  # fmt: skip
    nodes = [
        helper.make_node("Block", ["x", "w"], ["h"], "first", domain="local"),
        helper.make_node("Block", ["h", "w"], ["y"], "second", domain="local"),
    ]
    return model(nodes, [tensor("x", 2, 40)], [tensor("y", 2, 40)], [weight("w", 40, 40)], functions=[outer, inner])


def quantised() -> onnx.ModelProto:
    """QDQ around a convolution, as quantisers write it, with weights in int8."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["wq", "s", "z"], ["wd"]),
        helper.make_node("Conv", ["xd", "wd"], ["y"], kernel_shape=[3, 3]),
    ]
    weights = [
        numpy_helper.from_array(np.ones((16, 16, 3, 3), np.int8), "wq"),
        numpy_helper.from_array(np.array(0.5, np.float32), "s"),
        numpy_helper.from_array(np.array(0, np.int8), "z"),
    ]
    return model(nodes, [tensor("x", 1, 16, 9, 7)], [tensor("y", 1, 16, 7, 5)], weights)


ALL = {
    "convnet": convnet,
    "dynamic_reshape": dynamic_reshape,
    "if": branching,
    "if_known": lambda: branching(True),
    "loop": looping,
    "scan": scanning,
    "functions": with_functions,
    "quantised": quantised,
}


@pytest.fixture(scope="session")
def models() -> SimpleNamespace:
    """The builders above, under one name."""
    names = """weight ints tensor unshaped model convnet dynamic_reshape branching looping scanning with_functions
    quantised ALL FLOAT INT64 BOOL"""
    return SimpleNamespace(**{name: globals()[name] for name in names.split()})


@pytest.fixture
def save(tmp_path: Path) -> Any:
    """Save a model (or bytes) under a name in a fresh folder and return the path."""

    def write(content: onnx.ModelProto | bytes, name: str = "m.onnx") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
        return path

    return write
