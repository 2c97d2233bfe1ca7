"""States that every round of a loop makes longer: the work of all rounds, not of the first or of none."""

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from deepen.graph import ReadOptions, load_graph_from_proto
from deepen.graph.onnx_reader.growing_states import Growth, find_growth
from deepen.kernels.splitting.split import split_graph

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
WIDTH = 16


def decoder(rounds, past=4, by=1):
    """A decoder in a Loop: every round adds ``by`` rows to the cache, and looks at all of it, by its Shape."""
    nodes = [
        helper.make_node("MatMul", ["x", "wk"], ["k"], "project"),
        helper.make_node("Concat", ["cache", "k"], ["all"], axis=1),
        helper.make_node("Shape", ["all"], ["dims"]),
        helper.make_node("Reshape", ["all", "dims"], ["same"]),
        helper.make_node("Transpose", ["same"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "t"], ["s"], "scores"),
        helper.make_node("Softmax", ["s"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "all"], ["x2"], "context"),
        helper.make_node("Identity", ["c"], ["go"]),
    ]

    def info(name, elem, shape):
        return helper.make_tensor_value_info(name, elem, shape)

    rows = (1, by, WIDTH)
    body = helper.make_graph(
        nodes, "body",
        [info("i", INT64, ()), info("c", BOOL, ()), info("x", FLOAT, rows), info("cache", FLOAT, (1, None, WIDTH))],
        [info("go", BOOL, ()), info("x2", FLOAT, rows), info("all", FLOAT, (1, None, WIDTH))],
    )  # fmt: skip
    loop = helper.make_node("Loop", ["n", "", "x0", "cache0"], ["y", "filled"], "decode", body=body)
    weights = [numpy_helper.from_array(np.zeros((WIDTH, WIDTH), np.float32), "wk")]
    inputs = [info("x0", FLOAT, rows), info("cache0", FLOAT, (1, past, WIDTH))]
    if rounds is None:
        inputs.append(info("n", INT64, ()))
    else:
        weights.append(numpy_helper.from_array(np.array(rounds, np.int64), "n"))
    outputs = [info("y", FLOAT, rows), info("filled", FLOAT, (1, None, WIDTH))]
    graph = helper.make_graph([loop], "g", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def sum_macs(graph):
    return sum(kernel.macs * kernel.multiplicity for kernel in split_graph(graph).kernels)


@pytest.mark.parametrize(("rounds", "past", "by"), [(1, 4, 1), (30, 4, 1), (30, 0, 2), (200, 0, 1)])
def test_the_work_of_all_rounds_is_counted(rounds, past, by):
    model = decoder(rounds, past, by)
    graph = load_graph_from_proto(model)
    true = sum(by * WIDTH * WIDTH + 2 * by * (past + by * (i + 1)) * WIDTH for i in range(rounds))
    assert true <= sum_macs(graph) <= 1.2 * true
    assert graph.tensors["filled"].shape == (1, past + by * rounds, WIDTH)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"x0": np.zeros((1, by, WIDTH), np.float32), "cache0": np.zeros((1, past, WIDTH), np.float32)}
    assert session.run(["filled"], feeds)[0].shape == graph.tensors["filled"].shape
    assert graph.unknowns == ()
    assert any("'cache' at" in text for text in graph.warnings)


def test_without_the_number_of_rounds_the_first_one_is_a_lower_bound():
    graph = load_graph_from_proto(decoder(None))
    assert sum_macs(graph) == WIDTH * WIDTH + 2 * 5 * WIDTH
    assert [part.kind for part in graph.unknowns] == ["rounds"]
    said = load_graph_from_proto(decoder(None), ReadOptions(rounds={"decode": 30}))
    assert sum_macs(said) == sum_macs(load_graph_from_proto(decoder(30)))
    assert said.unknowns == ()


@given(st.integers(0, 50), st.integers(0, 9), st.integers(1, 400))
def test_the_average_is_no_less_than_what_linear_and_quadratic_work_need(first, by, rounds):
    growth = find_growth([("s", (1, first), (1, first + by))]).get("s") or Growth((1, first), (0, 0))
    size = growth.average_dims(rounds)[1]
    sizes = [growth.compute_dims(i)[1] for i in range(rounds)]
    assert rounds * size >= sum(sizes)
    assert rounds * size * size >= sum(s * s for s in sizes)
    assert (size - 1) ** 2 * rounds <= sum(s * s for s in sizes) or size == 0


def test_what_shrinks_or_changes_rank_does_not_grow():
    shapes = [("a", (3, 4), (2, 5)), ("b", (3,), (3, 1)), ("c", (3,), (3,)), ("d", None, (3,)), ("e", (3,), (5,))]
    assert find_growth(shapes) == {"e": Growth((3,), (2,))}
