"""Shapes behind operators of com.microsoft with constants, optional inputs and several outputs are those of a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deepen.graph import load_graph_from_proto
from deepen.kernels.splitting.split import split_graph
from tests.graph.onnx_reader.test_runtime_types import run_session

RNG = np.random.default_rng(5)
SCALE, ZERO = np.float32(0.1), np.uint8(3)


def real(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def byte(*shape: int) -> np.ndarray:
    return RNG.integers(0, 200, shape).astype(np.uint8)


def small(*shape: int) -> np.ndarray:
    return RNG.integers(-9, 9, shape).astype(np.int8)


# name -> (operator, inputs in order with "" for an omitted one, constants among them, outputs, attributes, MACs)
HEADS = {"num_heads": 4, "kv_num_heads": 2}
CACHE = {
    "pk": real(1, 2, 6, 16), "pv": real(1, 2, 6, 16), "sl": np.array([9], np.int32), "tl": np.array(10, np.int32)
}  # fmt: skip
SCALES = {"as": SCALE, "az": ZERO}
Case = tuple[str, dict[str, Any], str, int, dict[str, Any], int]
CASES: dict[str, Case] = {
    "grouped_queries": (
        "GroupQueryAttention", {"q": real(1, 4, 64), "k": real(1, 4, 32), "v": real(1, 4, 32), **CACHE}, "tl", 3, HEADS,
        4 * 4 * 10 * 32,
    ),
    "grouped_queries_in_one": (
        "GroupQueryAttention", {"q": real(1, 4, 128), "": None, " ": None, **CACHE}, "tl", 3, HEADS, 4 * 4 * 10 * 32,
    ),
    "attention_with_past": (
        "Attention", {"x": real(1, 4, 32), "w": real(32, 96), "b": real(96), "": None, "p": real(2, 1, 4, 6, 8)}, "w b",
        2, {"num_heads": 4}, 4 * 32 * 96 + 4 * 4 * 10 * 16,
    ),
    "many_heads_with_past": (
        "MultiHeadAttention",
        {"q": real(1, 4, 32), "k": real(1, 4, 32), "v": real(1, 4, 32), "": None, " ": None, "  ": None,
         "pk": real(1, 4, 6, 8), "pv": real(1, 4, 6, 8)}, "", 3, {"num_heads": 4}, 4 * 4 * 10 * 16,
    ),
    "quantised_attention": (
        "QAttention",
        {"x": byte(1, 4, 32), "w": byte(32, 96), "b": real(96), "xs": SCALE, "ws": SCALE, "": None, "xz": ZERO,
         "wz": ZERO}, "w b xs ws xz wz", 1, {"num_heads": 4}, 4 * 32 * 96 + 4 * 4 * 4 * 16,
    ),
    "quantised_lstm": (
        "DynamicQuantizeLSTM",
        {"x": real(3, 1, 4), "w": small(1, 4, 16), "r": small(1, 4, 16), "": None, " ": None, "  ": None, "   ": None,
         "    ": None, "ws": real(1), "wz": small(1), "rs": real(1), "rz": small(1)}, "w r ws wz rs rz", 3,
        {"hidden_size": 4}, 3 * (4 * 16 + 4 * 16),
    ),
    "dynamic_product": (
        "DynamicQuantizeMatMul", {"x": real(2, 3, 8), "w": byte(8, 5), "s": SCALE, "z": ZERO}, "w s z", 1, {}, 240,
    ),
    "scaled_product": (
        "MatMulIntegerToFloat", {"x": byte(2, 3, 8), "w": byte(8, 5), "s": SCALE, "t": SCALE}, "w", 1, {}, 240,
    ),
    "four_bits": (
        "MatMulBnb4", {"x": real(2, 32), "w": byte(64), "s": real(4)}, "w s", 1,
        {"K": 32, "N": 4, "block_size": 32, "quant_type": 1}, 256,
    ),
    "fused_convolution": (
        "FusedConv", {"x": real(1, 3, 8, 8), "w": real(4, 3, 3, 3), "b": real(4)}, "w b", 1,
        {"activation": "Relu", "kernel_shape": [3, 3], "strides": [2, 2]}, 4 * 9 * 27,
    ),
    "padded_at_run_time": (
        "ConvTransposeWithDynamicPads", {"x": real(1, 3, 8, 8), "w": real(3, 4, 3, 3), "p": np.array([1, 1, 1, 1])},
        "w p", 1, {"kernel_shape": [3, 3]}, 3 * 64 * 4 * 9,
    ),
    "fused_layer": (
        "FusedGemm", {"x": real(2, 8), "w": real(8, 5), "b": real(5)}, "w b", 1, {"activation": "Relu"}, 80,
    ),
    "embedding": (
        "EmbedLayerNormalization",
        {"i": np.ones((1, 5), np.int32), "sg": np.zeros((1, 5), np.int32), "we": real(20, 8), "pe": real(10, 8),
         "se": real(2, 8), "g": real(8), "b": real(8)}, "we pe se g b", 2, {}, 0,
    ),
    "rotation": (
        "RotaryEmbedding", {"x": real(1, 4, 32), "p": np.arange(4)[None], "c": real(16, 4), "s": real(16, 4)}, "c s", 1,
        {"num_heads": 4}, 0,
    ),
    "joined": (
        "QLinearConcat", {"ys": SCALE, "yz": ZERO, "a": byte(2, 3), **SCALES, "b": byte(2, 5), "bs": SCALE, "bz": ZERO},
        "ys yz as az bs bz", 1, {"axis": 1}, 0,
    ),
    "pooled": (
        "QLinearAveragePool", {"a": byte(1, 3, 8, 8), **SCALES, "ys": SCALE, "yz": ZERO}, "as az ys yz", 1,
        {"kernel_shape": [2, 2], "strides": [2, 2]}, 0,
    ),
    "distances": ("CDist", {"a": real(3, 4), "b": real(5, 4)}, "", 1, {}, 0),
    "new_axis": ("ExpandDims", {"x": real(2, 3), "at": np.array(1, np.int32)}, "at", 1, {}, 0),
}  # fmt: skip


def build(name: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    operator, given, constant, outputs, attributes, _ = CASES[name]
    node = helper.make_node(
        operator, [key.strip() for key in given], [f"y{i}" for i in range(outputs)], "n", domain="com.microsoft",
        **attributes,
    )  # fmt: skip
    values = {key: np.asarray(value) for key, value in given.items() if key.strip()}
    inputs = [
        helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for key, value in values.items()
        if key not in constant.split()
    ]
    weights = [numpy_helper.from_array(value, key) for key, value in values.items() if key in constant.split()]
    output = helper.make_tensor_value_info("y0", TensorProto.FLOAT, None)
    output.ClearField("type")
    graph = helper.make_graph([node], "g", inputs, [output], weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    feeds = {key: value for key, value in values.items() if key not in constant.split()}
    return helper.make_model(graph, opset_imports=opsets, ir_version=9), feeds


@pytest.mark.parametrize("name", CASES)
def test_shapes_are_those_of_a_run_and_macs_those_of_the_definition(name: str) -> None:
    model, feeds = build(name)
    expected = run_session(model, feeds)
    graph = load_graph_from_proto(model)
    assert {key: graph.tensors[key].shape for key in expected} == expected
    found = split_graph(graph)
    assert (found.macs, found.unknowns) == (CASES[name][5], ())
