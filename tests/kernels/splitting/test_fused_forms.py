"""Forms the runtime rewrites: linear layers in a row on many dimensions, and operators on integers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from deepen.graph import load_graph_from_proto
from deepen.kernels.splitting.split import split_graph

FEW = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def split(nodes, shape, constants):
    arrays = [numpy_helper.from_array(v, k) for k, v in constants.items()]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, shape)], [helper.make_tensor_value_info("y", 1, None)],
        arrays,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return split_graph(load_graph_from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=8)))


@FEW
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.lists(st.integers(1, 9), min_size=3, max_size=5),
    st.booleans(),
)
def test_linear_layers_in_a_row_are_one_kernel_each(head, widths, shared):
    if shared:  # the same weight in every layer
        widths = [widths[0]] * len(widths)
    nodes, constants, x = [], {}, "x"
    for i, (a, b) in enumerate(pairwise(widths)):
        w, c = ("w", "c") if shared else (f"w{i}", f"c{i}")
        out = "y" if i == len(widths) - 2 else f"s{i}"
        constants |= {w: np.ones((a, b), np.float32), c: np.ones(b, np.float32)}
        nodes += [
            helper.make_node("MatMul", [x, w], [f"m{i}"], name=f"layer{i}/MatMul"),
            helper.make_node("Add", [f"m{i}", c], [out], name=f"layer{i}/Add"),
        ]
        x = out
    found = split(nodes, [2, *head, widths[0]], constants)
    rows = 2 * int(np.prod(head))
    assert [k.family for k in found.kernels] == ["fc"] * (len(widths) - 1)
    assert [k.macs for k in found.kernels] == [rows * a * b for a, b in pairwise(widths)]


S = {"s": np.array(0.02, np.float32), "z": np.array(128, np.uint8), "o": np.array(1 / 256, np.float32)}


@pytest.mark.parametrize(
    ("op", "attributes", "extra", "family"),
    [
        ("Reshape", {}, np.array([4, 2, 36]), "reshape"),
        ("Transpose", {"perm": [0, 2, 3, 1]}, None, "transpose"),
        ("Softmax", {"axis": -1}, None, "softmax"),
        ("Sigmoid", {}, None, "elementwise"),
        ("LeakyRelu", {"alpha": 0.1}, None, "relu"),
        ("MaxPool", {"kernel_shape": [2, 2]}, None, "maxpool"),
        ("AveragePool", {"kernel_shape": [2, 2]}, None, "avgpool"),
        ("GlobalAveragePool", {}, None, "global-avgpool"),
    ],
)
def test_operators_between_conversions_keep_their_family(op, attributes, extra, family):
    constants = {**S, **({} if extra is None else {"extra": extra})}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="in"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="dq"),
        helper.make_node(op, ["d"] if extra is None else ["d", "extra"], ["r"], name="core", **attributes),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["p"], name="q2"),
        helper.make_node("DequantizeLinear", ["p", "s", "z"], ["y"], name="out"),
    ]
    found = split(nodes, [1, 8, 6, 6], constants)
    assert found.unassigned == ()
    assert [(k.family, k.params["dtype"]) for k in found.kernels if "core" in k.node_names] == [(family, "uint8")]


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "family"),
    [
        ("QLinearSoftmax", ["q", "s", "z", "o", "z"], {"axis": -1, "opset": 13}, "softmax"),
        ("QLinearSigmoid", ["q", "s", "z", "o", "z"], {}, "elementwise"),
        ("QLinearLeakyRelu", ["q", "s", "z", "s", "z"], {"alpha": 0.1}, "relu"),
        ("QLinearAveragePool", ["q", "s", "z", "s", "z"], {"kernel_shape": [2, 2]}, "avgpool"),
        ("QLinearAdd", ["q", "s", "z", "q", "s", "z", "s", "z"], {}, "add"),
        ("QLinearMul", ["q", "s", "z", "q", "s", "z", "s", "z"], {}, "binary"),
        ("QLinearConcat", ["s", "z", "q", "s", "z", "q", "s", "z"], {"axis": 1}, "concat"),
    ],
)
def test_integer_operators_of_a_model_file_have_a_family(op, inputs, attributes, family):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="in"),
        helper.make_node(op, inputs, ["p"], name="core", domain="com.microsoft", **attributes),
        helper.make_node("DequantizeLinear", ["p", "s", "z"], ["y"], name="out"),
    ]
    found = split(nodes, [1, 8, 6, 6], S)
    assert found.unassigned == ()
    assert [(k.family, k.params["dtype"]) for k in found.kernels if "core" in k.node_names] == [(family, "uint8")]
