"""Tensors that go through sequences keep their shapes: compared with a run, for sequences drawn at random."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from deepen.graph import load_graph_from_proto
from tests.graph.onnx_reader.test_runtime_types import run_session

FLOAT = TensorProto.FLOAT


def scalar(name: str, value: Any) -> Any:
    return numpy_helper.from_array(np.array(value, np.int64), name)


@st.composite
def sequence_models(draw: st.DrawFn) -> Any:
    """Split a tensor into a sequence, change the sequence, read one element and join all of them."""
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=2, max_size=3)))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    size = shape[axis]
    weights = []
    inputs = ["x"]
    how = draw(st.sampled_from(["ones", "scalar", "sizes"]))
    if how == "scalar":
        inputs.append("split")
        weights.append(scalar("split", draw(st.integers(1, size))))
    elif how == "sizes":
        first = draw(st.integers(1, size))
        inputs.append("split")
        weights.append(scalar("split", [first, size - first] if size > first else [first]))
    keep = draw(st.sampled_from([0, 1])) if how == "ones" else 1
    nodes = [helper.make_node("SplitToSequence", inputs, ["s0"], "split", axis=axis, keepdims=keep)]
    nodes.append(helper.make_node("SequenceAt", ["s0", "zero"], ["first"], "at"))
    weights.append(scalar("zero", 0))
    nodes.append(helper.make_node("SequenceInsert", ["s0", "first"], ["s1"], "insert"))
    last = "s1"
    if draw(st.booleans()):
        nodes.append(helper.make_node("SequenceErase", ["s1", "zero"], ["s2"], "erase"))
        last = "s2"
    nodes.append(helper.make_node("SequenceLength", [last], ["length"], "length"))
    equal = how == "ones" or (how == "scalar" and size % int(numpy_helper.to_array(weights[0])) == 0)
    if equal and draw(st.booleans()):
        nodes.append(helper.make_node("ConcatFromSequence", [last], ["y"], "join", axis=0, new_axis=1))
    elif keep:
        nodes.append(helper.make_node("ConcatFromSequence", [last], ["y"], "join", axis=axis))
    else:
        nodes.append(helper.make_node("ConcatFromSequence", [last], ["y"], "join", axis=-1, new_axis=1))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", FLOAT, shape)], [value("y", FLOAT, None), value("length", TensorProto.INT64, None)],
        weights,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), shape


@settings(max_examples=60, deadline=None)
@given(sequence_models())
def test_shapes_behind_sequences_are_those_of_a_run(drawn: Any) -> None:
    import onnx
    import onnxruntime as ort

    model, shape = drawn
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    y, length = session.run(None, {"x": np.zeros(shape, np.float32)})
    loaded = load_graph_from_proto(onnx.ModelProto.FromString(model.SerializeToString()))
    assert loaded.tensors["y"].shape == y.shape
    assert loaded.values["length"] == length


def test_an_element_at_an_unknown_place_has_the_shape_that_all_share(models: Any) -> None:
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("SequenceConstruct", ["x", "x"], ["s"]),
        helper.make_node("SequenceAt", ["s", "place"], ["y"]),
        helper.make_node("SequenceConstruct", ["x", "z"], ["t"]),
        helper.make_node("SequenceAt", ["t", "place"], ["u"]),
    ]
    inputs = [models.tensor("x", 2, 3), models.tensor("z", 4, 3), value("place", TensorProto.INT64, ())]
    loaded = load_graph_from_proto(models.model(nodes, inputs, [models.unshaped("y"), models.unshaped("u")]))
    assert loaded.tensors["y"].shape == (2, 3)
    assert loaded.tensors["u"].shape is None


def test_the_helper_runs_what_it_is_given() -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "g", [value("x", FLOAT, (2, 3))], [value("y", FLOAT, None)]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    assert run_session(model, {"x": np.zeros((2, 3), np.float32)}) == {"y": (2, 3)}
