"""Shapes behind operators that the onnx library does not know: ONNX Runtime states them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deepen.graph import load_graph_from_proto
from deepen.graph.onnx_reader import runtime_types
from deepen.graph.onnx_reader.proto_values import make_type_proto
from deepen.graph.onnx_reader.runtime_types import RuntimeTypes

FLOAT = TensorProto.FLOAT


def run_session(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Shapes that the runtime's outputs have when it runs a model, with every tensor made an output."""
    import onnxruntime as ort

    exposed = onnx.ModelProto.FromString(model.SerializeToString())
    del exposed.graph.output[:]
    for node in exposed.graph.node:
        for name in node.output:
            if name:
                exposed.graph.output.add(name=name)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(exposed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return {o.name: v.shape for o, v in zip(session.get_outputs(), session.run(None, feeds), strict=True)}


def weight(rng: np.random.Generator, name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)


def contributed(op_type: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, outputs, f"n_{outputs[0]}", domain="com.microsoft", **attributes)


# One builder per operator: (node, weights by name) around a tensor "h" of shape (batch, tokens, 32).
OPERATORS: dict[str, Any] = {
    "QuickGelu": lambda rng: (contributed("QuickGelu", ["h"], ["g"]), []),
    "FastGelu": lambda rng: (contributed("FastGelu", ["h"], ["g"]), []),
    "BiasGelu": lambda rng: (contributed("BiasGelu", ["h", "bg"], ["g"]), [weight(rng, "bg", 32)]),
    "FusedMatMul": lambda rng: (
        contributed("FusedMatMul", ["h", "wm"], ["g"], transB=1, alpha=0.5), [weight(rng, "wm", 24, 32)],
    ),
    "SkipLayerNormalization": lambda rng: (
        contributed("SkipLayerNormalization", ["h", "h", "gamma"], ["g"]), [weight(rng, "gamma", 32)],
    ),
    "Attention": lambda rng: (
        contributed("Attention", ["h", "wa", "ba"], ["g"], num_heads=4),
        [weight(rng, "wa", 32, 96), weight(rng, "ba", 96)],
    ),
    "MatMulNBits": lambda rng: (
        contributed("MatMulNBits", ["h", "q", "s"], ["g"], K=32, N=48, bits=4, block_size=32),
        [numpy_helper.from_array(rng.integers(0, 255, (48, 1, 16), dtype=np.uint8), "q"), weight(rng, "s", 48)],
    ),
    "MultiHeadAttention": lambda rng: (contributed("MultiHeadAttention", ["h", "h", "h"], ["g"], num_heads=2), []),
}  # fmt: skip


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("inside", ["main", "loop"])
def test_shapes_behind_a_contributed_operator_are_those_of_a_run(operator: str, inside: str) -> None:
    rng = np.random.default_rng(3)
    node, weights = OPERATORS[operator](rng)
    wide = {"FusedMatMul": 24, "MatMulNBits": 48}.get(operator, 32)
    weights += [weight(rng, "w1", 16, 32), weight(rng, "w2", wide, 16)]
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], "first"),
        node,
        helper.make_node("MatMul", ["g", "w2"], ["y"], "last"),
    ]
    value = helper.make_tensor_value_info
    x, y = value("x", FLOAT, (2, 5, 16)), value("y", FLOAT, None)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    plain = helper.make_model(helper.make_graph(nodes, "g", [x], [y], weights), opset_imports=opsets, ir_version=9)
    expected = run_session(plain, {"x": rng.standard_normal((2, 5, 16)).astype(np.float32)})
    if inside == "loop":
        body = helper.make_graph(
            [*nodes, helper.make_node("Identity", ["go"], ["on"])], "body",
            [value("i", TensorProto.INT64, ()), value("go", TensorProto.BOOL, ()), value("x", FLOAT, None)],
            [value("on", TensorProto.BOOL, ()), y],
        )  # fmt: skip
        trips = numpy_helper.from_array(np.array(3), "trips")
        loop = helper.make_node("Loop", ["trips", "", "start"], ["out"], "loop", body=body)
        graph = helper.make_graph([loop], "g", [value("start", FLOAT, (2, 5, 16))], [value("out", FLOAT, None)],
                                  [trips, *weights])  # fmt: skip
        plain = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    loaded = load_graph_from_proto(plain)
    prefix = "loop.body/" if inside == "loop" else ""
    assert {name: loaded.tensors[prefix + name].shape for name in ("h", "g", "y")} == {
        name: expected[name] for name in ("h", "g", "y")
    }


def test_a_dimension_that_is_a_symbol_in_the_file_has_the_size_of_the_input() -> None:
    """An operator nobody knows, behind it a declared type with the input's symbol."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Secret", ["x"], ["h"], "secret", domain="mine"),
        helper.make_node("MatMul", ["h", "w"], ["y"], "last"),
    ]
    graph = helper.make_graph(
        nodes, "g", [value("x", FLOAT, ["batch", 8])], [value("y", FLOAT, None)],
        [weight(np.random.default_rng(0), "w", 4, 6)], value_info=[value("h", FLOAT, ["batch", 4])],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    assert load_graph_from_proto(model, {"x": (7, 8)}).tensors["y"].shape == (7, 6)


def test_the_shape_of_any_tensor_can_be_given(models: Any) -> None:
    nodes = [
        helper.make_node("Secret", ["x"], ["h"], "secret", domain="mine"),
        helper.make_node("MatMul", ["h", "w"], ["y"], "last"),
    ]
    built = models.model(nodes, [models.tensor("x", 2, 8)], [models.unshaped("y")], [models.weight("w", 4, 6)])
    assert load_graph_from_proto(built).tensors["y"].shape is None
    assert load_graph_from_proto(built, {"h": (5, 4)}).tensors["y"].shape == (5, 6)


def test_equal_nodes_are_asked_about_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    real = runtime_types.open_session
    monkeypatch.setattr(runtime_types, "open_session", lambda *a, **k: (opened.append(a), real(*a, **k))[1])
    known = make_type_proto(FLOAT, (2, 3))
    with RuntimeTypes({"": 17, "com.microsoft": 1}) as runtime:
        for index in range(20):
            node = helper.make_node("QuickGelu", [f"x{index}"], [f"y{index}"], f"n{index}", domain="com.microsoft")
            assert runtime.infer_outputs(node, [known], [None], [False])[f"y{index}"].dims == (2, 3)
    assert len(opened) == 1


def test_a_scalar_is_told_from_an_unknown_rank() -> None:
    with RuntimeTypes({"": 17, "com.microsoft": 1}) as runtime:
        node = helper.make_node("QuickGelu", ["x"], ["y"], domain="com.microsoft")
        assert runtime.infer_outputs(node, [make_type_proto(FLOAT, ())], [None], [False])["y"].dims == ()
        assert runtime.infer_outputs(node, [make_type_proto(FLOAT, None)], [None], [False])["y"].dims is None


def test_without_the_runtime_the_shape_stays_open(monkeypatch: pytest.MonkeyPatch, models: Any) -> None:
    monkeypatch.setattr(runtime_types, "is_onnxruntime_available", lambda: False)
    nodes = [helper.make_node("QuickGelu", ["x"], ["y"], domain="com.microsoft")]
    built = models.model(nodes, [models.tensor("x", 2, 3)], [models.unshaped("y")])
    assert load_graph_from_proto(built).tensors["y"].shape is None
