"""Rounds of random while-loops, beside what ONNX Runtime really runs."""

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from deepen.graph import load_graph_from_proto

INT64, BOOL, FLOAT = TensorProto.INT64, TensorProto.BOOL, TensorProto.FLOAT
LIMIT = 300  # rounds of a loop that does not end by itself


def value(name, number, dtype=np.int64):
    return numpy_helper.from_array(np.array(number, dtype), name)


def info(name, elem=INT64, shape=()):
    return helper.make_tensor_value_info(name, elem, shape)


def while_loop(draw_condition, step, start, limit, most=None, extra=()):
    """A Loop that multiplies a matrix, steps a counter, and compares it; a second output counts the rounds.

    Args:
        draw_condition: Nodes from ``next`` and ``limit`` to ``go``.
        step: (operator, number) of the counter.
        start: First value of the counter.
        limit: Initialiser's value, or ``None`` for the length of the input.
        most: Largest number of rounds.
        extra: Initialisers the condition reads.
    """
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["x2"], "step"),
        helper.make_node(step[0], ["i", "by"], ["next"]),
        helper.make_node("Add", ["n", "one"], ["n2"]),
        *draw_condition,
    ]
    formal = [info("k"), info("c", BOOL), info("i"), info("n"), info("x", FLOAT, (1, 4))]
    results = [info("go", BOOL), info("next"), info("n2"), info("x2", FLOAT, (1, 4))]
    body = helper.make_graph(nodes, "body", formal, results)
    main = []
    weights = [value("by", step[1]), value("one", 1), value("zero", 0), value("start", start), *extra]
    weights.append(value("w", np.zeros((4, 4)), np.float32))
    if limit is None:
        main += [helper.make_node("Shape", ["data"], ["dims"]), helper.make_node("Gather", ["dims", "one"], ["limit"])]
    else:
        weights.append(value("limit", limit))
    if most is not None:
        weights.append(value("most", most))
    main.append(helper.make_node("Loop", ["most" if most is not None else "", "", "start", "zero", "first"],
                                 ["end", "rounds", "y"], "while", body=body))  # fmt: skip
    inputs = [info("first", FLOAT, (1, 4)), info("data", FLOAT, (1, 17))]
    outputs = [info("end"), info("rounds"), info("y", FLOAT, (1, 4))]
    graph = helper.make_graph(main, "g", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run_for_real(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    feeds = {"first": np.zeros((1, 4), np.float32), "data": np.zeros((1, 17), np.float32)}
    end, rounds, _ = session.run(None, feeds)
    return int(end), int(rounds)


COMPARISONS = ["Less", "Greater", "LessOrEqual", "GreaterOrEqual"]


@st.composite
def while_loops(draw):
    comparison = draw(st.sampled_from([*COMPARISONS, "Different"]))
    limit = draw(st.one_of(st.none(), st.integers(-40, 120)))
    by = draw(st.integers(-3, 5))
    condition = []
    if comparison == "Different":
        condition += [helper.make_node("Equal", ["next", "limit"], ["same"]), helper.make_node("Not", ["same"], ["a"])]
    else:
        sides = draw(st.permutations(["next", "limit"]))
        condition.append(helper.make_node(comparison, list(sides), ["a"]))
    if draw(st.booleans()):  # another bound, on the number of the round
        condition += [helper.make_node("Less", ["k", "far"], ["b"])]
        condition.append(helper.make_node(draw(st.sampled_from(["And", "Or"])), ["a", "b"], ["c2"]))
    else:
        condition.append(helper.make_node("Identity", ["a"], ["c2"]))
    condition.append(helper.make_node("Identity", ["c2"], ["go"]))
    most = draw(st.sampled_from([LIMIT, LIMIT, 3, 0]))
    step = (draw(st.sampled_from(["Add", "Sub", "Mul"])), by)
    start = draw(st.integers(-20, 60))
    return while_loop(condition, step, start, limit, most, [value("far", draw(st.integers(0, 90)))])


@settings(max_examples=120, deadline=None)
@given(while_loops())
def test_rounds_are_those_that_the_runtime_runs(model):
    end, rounds = run_for_real(model)
    graph = load_graph_from_proto(model)
    assert {node.multiplicity for node in graph.nodes if node.op_type == "MatMul"} == {rounds}
    assert graph.unknowns == ()
    assert graph.warnings == ()
    if rounds and "end" in graph.values:
        assert int(graph.values["end"]) == end


@pytest.mark.parametrize("rounds", [63, 64, 65, 66, 67, 100, 1000, 1_000_003, 400_000_000])
@pytest.mark.parametrize(("step", "comparison"), [(("Add", 1), "Less"), (("Sub", -1), "Less"), (("Add", 3), "Less")])
def test_many_rounds_are_counted_exactly(rounds, step, comparison):
    by = abs(step[1])
    model = while_loop([helper.make_node(comparison, ["next", "limit"], ["go"])], step, 5, 5 + by * rounds - (by - 1))
    graph = load_graph_from_proto(model)
    assert {node.multiplicity for node in graph.nodes if node.op_type == "MatMul"} == {rounds}
    assert int(graph.values["end"]) == 5 + by * rounds
    if rounds <= 1000:
        assert run_for_real(model) == (5 + by * rounds, rounds)


def test_what_data_decides_is_an_upper_bound_if_a_counter_is_asked_too():
    condition = [
        helper.make_node("ReduceSum", ["x2"], ["sum"], keepdims=0),
        helper.make_node("Less", ["sum", "small"], ["open"]),
        helper.make_node("Less", ["next", "limit"], ["early"]),
        helper.make_node("And", ["open", "early"], ["go"]),
    ]
    model = while_loop(condition, ("Add", 1), 0, 90, None, [value("small", 1.0, np.float32)])
    graph = load_graph_from_proto(model)
    assert {node.multiplicity for node in graph.nodes if node.op_type == "MatMul"} == {90}
    assert graph.warnings[0].startswith("'while' runs at most 90 rounds")
    assert (graph.unknowns, "end" in graph.values) == ((), False)


@pytest.mark.parametrize("go", ["data", "never"])
def test_a_loop_that_only_data_ends_is_unknown(go):
    condition = [helper.make_node("ReduceSum", ["x2"], ["sum"], keepdims=0),
                 helper.make_node("Less", ["sum", "small"], ["go"])]  # fmt: skip
    if go == "never":
        condition = [helper.make_node("Less", ["limit", "next"], ["go"])]
    model = while_loop(condition, ("Add", 1), 0, -1, None, [value("small", 1.0, np.float32)])
    graph = load_graph_from_proto(model)
    assert [part.kind for part in graph.unknowns] == ["rounds"]
    assert graph.unknowns[0].cure == "--rounds while=N"
    assert {node.multiplicity for node in graph.nodes if node.op_type == "MatMul"} == {1}
