"""Multiply-accumulates: against hand counts, and against onnx-tool on whole networks."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from deepen.graph import load_graph, load_graph_from_proto
from deepen.kernels import count_node_macs

node = helper.make_node
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def only(graph):
    (found,) = graph.nodes
    return count_node_macs(found, graph)


@pytest.mark.parametrize(
    ("attributes", "x", "w", "macs"),
    [
        ({}, [1, 8, 10, 12], [16, 8, 3, 3], 8 * 10 * 16 * 8 * 9),
        ({"pads": [1, 1, 1, 1]}, [1, 8, 10, 12], [16, 8, 3, 3], 10 * 12 * 16 * 8 * 9),
        ({"strides": [2, 3]}, [2, 8, 10, 12], [16, 8, 3, 3], 2 * 4 * 4 * 16 * 8 * 9),
        ({"dilations": [2, 1]}, [1, 8, 10, 12], [16, 8, 3, 3], 6 * 10 * 16 * 8 * 9),
        ({"group": 4}, [1, 8, 10, 12], [16, 2, 3, 3], 8 * 10 * 16 * 2 * 9),
        ({"group": 8}, [1, 8, 10, 12], [8, 1, 3, 3], 8 * 10 * 8 * 9),
        ({}, [1, 4, 50], [6, 4, 7], 44 * 6 * 4 * 7),
        ({}, [1, 4, 5, 6, 7], [6, 4, 2, 2, 2], 4 * 5 * 6 * 6 * 4 * 8),
    ],
)
def test_convolution(graph_of, attributes, x, w, macs):
    assert only(graph_of([node("Conv", ["x", "w"], ["y"], name="c", **attributes)], {"x": x}, ["y"], {"w": w})) == macs


def test_transposed_convolution_counts_input_positions(graph_of):
    nodes = [node("ConvTranspose", ["x", "w"], ["y"], name="c", strides=[2, 2], group=2)]
    assert only(graph_of(nodes, {"x": [1, 8, 5, 6]}, ["y"], {"w": [8, 3, 3, 3]})) == 8 * 5 * 6 * 3 * 9


@pytest.mark.parametrize(
    ("a", "b", "macs"),
    [
        ([3, 4], [4, 5], 60),
        ([2, 3, 4], [4, 5], 120),
        ([2, 1, 3, 4], [7, 4, 5], 2 * 7 * 60),
        ([4], [4, 5], 20),
        ([2, 3, 4], [4], 24),
        ([197, 768], [768, 3072], 197 * 768 * 3072),
    ],
)
def test_matmul_counts_every_row(graph_of, a, b, macs):
    """nn-Meter looked at the last sizes only and so ignored the number of tokens."""
    assert only(graph_of([node("MatMul", ["a", "b"], ["y"], name="m")], {"a": a, "b": b}, ["y"])) == macs


@pytest.mark.parametrize(("ta", "tb"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_gemm(graph_of, ta, tb):
    a, b = ([4, 3] if ta else [3, 4]), ([5, 4] if tb else [4, 5])
    nodes = [node("Gemm", ["a", "b"], ["y"], name="g", transA=ta, transB=tb)]
    assert only(graph_of(nodes, {"a": a, "b": b}, ["y"])) == 60


@pytest.mark.parametrize(
    ("equation", "a", "b", "macs"),
    [
        ("bij,bjk->bik", [2, 3, 4], [2, 4, 5], 120),
        ("...ij,jk->...ik", [2, 7, 3, 4], [4, 5], 840),
        ("bhid,bhjd->bhij", [2, 4, 6, 8], [2, 4, 9, 8], 2 * 4 * 6 * 9 * 8),
    ],
)
def test_einsum_of_two_operands(graph_of, equation, a, b, macs):
    nodes = [node("Einsum", ["a", "b"], ["y"], name="e", equation=equation)]
    assert only(graph_of(nodes, {"a": a, "b": b}, ["y"])) == macs


def test_integer_twins(graph_of):
    u8, i32 = onnx.TensorProto.UINT8, onnx.TensorProto.INT32
    product = graph_of(
        [node("MatMulInteger", ["a", "b"], ["y"], name="m")], {"a": ([3, 4], u8), "b": ([4, 5], u8)}, {"y": (None, i32)}
    )
    assert only(product) == 60
    conv = graph_of(
        [node("ConvInteger", ["x", "w"], ["y"], name="c")], {"x": ([1, 2, 5, 5], u8)}, {"y": (None, i32)},
        {"w": np.ones((4, 2, 3, 3), np.uint8)},
    )  # fmt: skip
    assert only(conv) == 9 * 4 * 2 * 9


def test_fused_twins_of_the_runtime(graph_of):
    """A model saved by ONNX Runtime holds its contributed operators."""
    matmul = node("FusedMatMul", ["a", "b"], ["y"], name="m", domain="com.microsoft", transA=1, transB=1)
    assert only(graph_of([matmul], {"a": [2, 4, 3], "b": [2, 5, 4]}, {"y": ([2, 3, 5], 1)})) == 120
    gemm = node("FusedGemm", ["a", "b"], ["y"], name="m", domain="com.microsoft", activation="Relu")
    assert only(graph_of([gemm], {"a": [3, 4], "b": [4, 5]}, {"y": ([3, 5], 1)})) == 60


def test_operators_of_foreign_domains_are_not_counted(graph_of):
    foreign = node("MatMul", ["a", "b"], ["y"], name="m", domain="example.org")
    assert only(graph_of([foreign], {"a": [3, 4], "b": [4, 5]}, {"y": ([3, 5], 1)})) == 0


@pytest.mark.parametrize("op", ["Add", "Relu", "Softmax", "MaxPool", "BatchNormalization"])
def test_other_arithmetic_is_not_multiply_accumulate(graph_of, op):
    extra = {"MaxPool": {"kernel_shape": [2, 2]}}.get(op, {})
    names = {"Add": ["x", "x"], "BatchNormalization": ["x", "a", "b", "c", "d"]}.get(op, ["x"])
    constants = {k: [4] for k in "abcd"} if op == "BatchNormalization" else {}
    assert only(graph_of([node(op, names, ["y"], name="n", **extra)], {"x": [1, 4, 6, 6]}, ["y"], constants)) == 0


def _onnx_tool_macs(model: onnx.ModelProto, ops: tuple[str, ...]) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import onnx_tool

        tool = onnx_tool.Model(model, {"constant_folding": False, "verbose": False})
        tool.graph.shape_infer()
        tool.graph.profile()
    return {n.output[0]: n.macs[0] for n in tool.graph.nodemap.values() if n.op_type in ops}


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "inception_v1", "densenet121", "resnet50"])
def test_agrees_with_onnx_tool_node_by_node(name, capfd):
    pytest.importorskip("onnx_tool")
    path = LIGHT / f"light_{name}.onnx"
    graph = load_graph(path)
    mine = {n.outputs[0]: count_node_macs(n, graph) for n in graph.nodes if n.op_type in ("Conv", "Gemm", "MatMul")}
    theirs = _onnx_tool_macs(onnx.load(path), ("Conv", "Gemm", "MatMul"))
    capfd.readouterr()
    assert mine.keys() == theirs.keys()
    assert len(mine) >= 26
    for key, macs in mine.items():
        # onnx-tool adds one operation per output element for a bias
        assert theirs[key] == pytest.approx(macs, rel=0.01) or theirs[key] - macs <= graph.tensors[key].elements, key
    assert sum(theirs.values()) == pytest.approx(sum(mine.values()), rel=0.01)


def test_built_kernels_agree_too():
    from deepen.kernels import build_kernel_model

    graph = load_graph_from_proto(build_kernel_model("fc", {"m": 197, "k": 768, "n": 3072, "bias": True}))
    assert sum(count_node_macs(n, graph) for n in graph.nodes) == 197 * 768 * 3072
