"""Models of many nodes, each of another shape: what a reader or splitter of graphs has to take in linear time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

__all__ = ["LARGE_MODELS"]

_UNARY = ("Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Exp")


def _make_model(
    nodes: Sequence[NodeProto],
    weights: Sequence[TensorProto] = (),
    outputs: Sequence[str] = ("y",),
    shape: Sequence[int] = (1, 16),
    condition: bool = False,
) -> ModelProto:
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    if condition:
        inputs.append(helper.make_tensor_value_info("condition", TensorProto.BOOL, []))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "graph", inputs, ends, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _make_scalar(name: str, value: float) -> TensorProto:
    return helper.make_tensor(name, TensorProto.FLOAT, [1], [value])


def _iter_links(count: int) -> Iterator[tuple[int, str, str]]:
    """Yield the number, the input and the output of each link of a chain from ``x`` to ``y``."""
    for index in range(count):
        yield index, f"s{index - 1}" if index else "x", f"s{index}" if index < count - 1 else "y"


def _make_chain(count: int) -> ModelProto:
    return _make_model([
        helper.make_node(_UNARY[i % len(_UNARY)], [source], [target], name=f"n{i}")
        for i, source, target in _iter_links(count)
    ])  # fmt: skip


def _make_reversed_chain(count: int) -> ModelProto:
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in _make_chain(count).graph.node]
    return _make_model(nodes[::-1])


def _make_chain_without_names(count: int) -> ModelProto:
    model = _make_chain(count)
    for node in model.graph.node:
        node.name = ""
    return model


def _make_identities(count: int) -> ModelProto:
    nodes = [helper.make_node("Identity", [a], [b], name=f"n{i}") for i, a, b in _iter_links(count)]
    nodes[-1].op_type = "Relu"
    return _make_model(nodes)


def _make_transposes(count: int) -> ModelProto:
    nodes = [helper.make_node("Transpose", [a], [b], name=f"n{i}", perm=[1, 0]) for i, a, b in _iter_links(count)]
    nodes[-1].CopyFrom(helper.make_node("Relu", list(nodes[-1].input), ["y"], name="last"))
    return _make_model(nodes)


def _make_outputs(count: int) -> ModelProto:
    nodes = [helper.make_node("Add", ["x", f"w{i}"], [f"o{i}"], name=f"n{i}") for i in range(count)]
    weights = [_make_scalar(f"w{i}", float(i)) for i in range(count)]
    return _make_model(nodes, weights, [f"o{i}" for i in range(count)])


def _make_equal_nodes(count: int) -> ModelProto:
    nodes = [helper.make_node("Relu", ["x"], [f"o{i}"], name=f"n{i}") for i in range(count)]
    return _make_model([*nodes, helper.make_node("Sum", [f"o{i}" for i in range(count)], ["y"], name="sum")])


def _make_equal_branches(count: int) -> ModelProto:
    nodes = []
    for i, a, b in _iter_links(count // 4):
        nodes += [
            helper.make_node("Relu", [a], [f"l{i}"], name=f"left{i}"),
            helper.make_node("Relu", [a], [f"r{i}"], name=f"right{i}"),
            helper.make_node("Tanh", [f"r{i}"], [f"t{i}"], name=f"tanh{i}"),
            helper.make_node("Add", [f"l{i}", f"t{i}"], [b], name=f"sum{i}"),
        ]
    return _make_model(nodes)


def _make_unused_nodes(count: int) -> ModelProto:
    model = _make_chain(count // 2)
    for i in range(count // 2 - 1):
        model.graph.node.append(helper.make_node("Sqrt", [f"s{i}"], [f"unused{i}"], name=f"unused{i}"))
    return model


def _make_constants(count: int) -> ModelProto:
    nodes = []
    for i, a, b in _iter_links(count // 2):
        nodes += [
            helper.make_node("Constant", [], [f"c{i}"], name=f"constant{i}", value=_make_scalar("v", float(i))),
            helper.make_node("Add", [a, f"c{i}"], [b], name=f"add{i}"),
        ]
    return _make_model(nodes)


def _make_shape_arithmetic(count: int) -> ModelProto:
    nodes = []
    for i, a, b in _iter_links(count // 4):
        nodes += [
            helper.make_node("Shape", [a], [f"a{i}"], name=f"shape{i}"),
            helper.make_node("Gather", [f"a{i}", "zero"], [f"b{i}"], name=f"gather{i}"),
            helper.make_node("Concat", [f"b{i}", "rest"], [f"c{i}"], name=f"concat{i}", axis=0),
            helper.make_node("Reshape", [a, f"c{i}"], [b], name=f"reshape{i}"),
        ]
    zero, rest = (helper.make_tensor(n, TensorProto.INT64, [1], [v]) for n, v in (("zero", 0), ("rest", -1)))
    return _make_model(nodes, [zero, rest])


def _make_residual_blocks(count: int, *, shared: bool = False) -> ModelProto:
    array = np.zeros((8, 8, 3, 3), np.float32)
    nodes, weights = [], [numpy_helper.from_array(array, "w")] if shared else []
    for i, a, b in _iter_links(count // 6):
        names = ("w", "w") if shared else (f"u{i}", f"v{i}")
        weights += [] if shared else [numpy_helper.from_array(array, name) for name in names]
        nodes += [
            helper.make_node("Conv", [a, names[0]], [f"a{i}"], name=f"first{i}", pads=[1] * 4),
            helper.make_node("Mul", [f"a{i}", "half"], [f"b{i}"], name=f"scale{i}"),
            helper.make_node("Relu", [f"b{i}"], [f"c{i}"], name=f"relu{i}"),
            helper.make_node("Conv", [f"c{i}", names[1]], [f"d{i}"], name=f"second{i}", pads=[1] * 4),
            helper.make_node("Add", [a, f"d{i}"], [f"e{i}"], name=f"sum{i}"),
            helper.make_node("Relu", [f"e{i}"], [b], name=f"last{i}"),
        ]
    return _make_model(nodes, [*weights, _make_scalar("half", 0.5)], shape=(1, 8, 8, 8))


def _make_quantised(count: int) -> ModelProto:
    nodes = []
    for i, a, b in _iter_links(count // 3):
        nodes += [
            helper.make_node("QuantizeLinear", [a, "scale", "zero"], [f"q{i}"], name=f"quantise{i}"),
            helper.make_node("DequantizeLinear", [f"q{i}", "scale", "zero"], [f"d{i}"], name=f"dequantise{i}"),
            helper.make_node("Relu", [f"d{i}"], [b], name=f"relu{i}"),
        ]
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [0.1])
    return _make_model(nodes, [scale, helper.make_tensor("zero", TensorProto.UINT8, [], [3])])


def _make_body(op_type: str, source: str, name: str) -> GraphProto:
    node = helper.make_node(op_type, [source], [f"{name}_out"], name=name)
    value = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, [1, 16])
    return helper.make_graph([node], name, [], [value])


def _make_branches(count: int, *, known: bool = False) -> ModelProto:
    nodes = [
        helper.make_node(
            "If", ["condition"], [b], name=f"if{i}",
            then_branch=_make_body("Relu", a, f"then{i}"), else_branch=_make_body("Tanh", a, f"else{i}"),
        )
        for i, a, b in _iter_links(count // 3)
    ]  # fmt: skip
    weights = [helper.make_tensor("condition", TensorProto.BOOL, [], [True])] if known else []
    return _make_model(nodes, weights, condition=not known)


def _make_loops(count: int) -> ModelProto:
    nodes = []
    for i, a, b in _iter_links(count // 3):
        types = {f"round{i}": (TensorProto.INT64, []), f"go{i}": (TensorProto.BOOL, []), f"old{i}": (1, [1, 16])}
        body = helper.make_graph(
            [
                helper.make_node("Identity", [f"go{i}"], [f"on{i}"], name="on"),
                helper.make_node("Relu", [f"old{i}"], [f"new{i}"], name="relu"),
            ],
            f"body{i}",
            [helper.make_tensor_value_info(name, kind, list(dims)) for name, (kind, dims) in types.items()],
            [
                helper.make_tensor_value_info(f"on{i}", TensorProto.BOOL, []),
                helper.make_tensor_value_info(f"new{i}", TensorProto.FLOAT, [1, 16]),
            ],
        )
        nodes.append(helper.make_node("Loop", ["rounds", "", a], [b], name=f"loop{i}", body=body))
    return _make_model(nodes, [helper.make_tensor("rounds", TensorProto.INT64, [], [7])])


LARGE_MODELS: dict[str, Callable[[int], onnx.ModelProto]] = {
    "branches": _make_branches,
    "chain": _make_chain,
    "chain without names": _make_chain_without_names,
    "constants": _make_constants,
    "equal branches": _make_equal_branches,
    "equal nodes": _make_equal_nodes,
    "identities": _make_identities,
    "known branches": lambda count: _make_branches(count, known=True),
    "loops": _make_loops,
    "outputs": _make_outputs,
    "quantised": _make_quantised,
    "residual blocks": _make_residual_blocks,
    "reversed chain": _make_reversed_chain,
    "shape arithmetic": _make_shape_arithmetic,
    "shared weight": lambda count: _make_residual_blocks(count, shared=True),
    "transposes": _make_transposes,
    "unused nodes": _make_unused_nodes,
}
"""A model of about so many nodes, by the shape of its graph."""
