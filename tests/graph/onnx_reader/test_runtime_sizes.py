"""Sizes that only a run decides: no run is larger than the bound, and a size that is given is the size."""

from math import prod

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from deepen.errors import GraphError
from deepen.graph import ReadOptions, load_graph_from_proto
from deepen.kernels.splitting.split import split_graph

INT64, FLOAT = TensorProto.INT64, TensorProto.FLOAT


def numbers(name, values, dtype=np.int64):
    return numpy_helper.from_array(np.array(values, dtype), name)


def build(nodes, inputs, weights, output="y"):
    values = [helper.make_tensor_value_info(name, elem, shape) for name, elem, shape in inputs]
    outputs = [helper.make_tensor_value_info(output, INT64 if output == "n" else FLOAT, None)]
    graph = helper.make_graph(nodes, "g", values, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model, feeds, name):
    model.graph.output.add(name=name)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    del model.graph.output[-1]
    return session.run([name], feeds)[0].shape


@st.composite
def deciding_nodes(draw):
    """A node whose output's size its data decides, in front of a product: (model, feeds, tensor)."""
    rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 6))
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    data = random.integers(0, 3, (rows, columns)).astype(np.float32)
    inputs, feeds = [("x", FLOAT, (rows, columns))], {"x": data}
    weights = [numbers("w", random.random((columns, 8)), np.float32), numbers("0", 0), numbers("far", [2**60])]
    kind = draw(st.sampled_from(["NonZero", "Compress", "Compress flat", "Unique", "Unique rows", "TopK", "Slice",
                                 "NonMaxSuppression", "Slice all"]))  # fmt: skip
    product, last = helper.make_node("MatMul", ["t", "w"], ["y"], "product"), "t"
    if kind == "NonZero":
        nodes = [
            helper.make_node("NonZero", ["x"], ["t"], "decide"),
            helper.make_node("Gather", ["t", "0"], ["i"]),
            helper.make_node("Gather", ["x", "i"], ["r"]),
            helper.make_node("MatMul", ["r", "w"], ["y"], "product"),
        ]
    elif kind.startswith("Compress"):
        size = draw(st.integers(1, rows))
        inputs.append(("c", TensorProto.BOOL, (size,)))
        feeds["c"] = random.random(size) < 0.6
        axis = {} if kind.endswith("flat") else {"axis": 0}
        nodes = [helper.make_node("Compress", ["x", "c"], ["t"], "decide", **axis), product]
        if not axis:
            nodes[1] = helper.make_node("Relu", ["t"], ["y"])
    elif kind.startswith("Unique"):
        axis = {"axis": 0} if kind.endswith("rows") else {}
        nodes = [helper.make_node("Unique", ["x"], ["t", "i", "v", "n"], "decide", **axis), product]
        if not axis:
            nodes[1] = helper.make_node("Relu", ["t"], ["y"])
        last = draw(st.sampled_from(["t", "i", "v", "n"]))
    elif kind == "TopK":
        inputs.append(("k", INT64, (1,)))
        feeds["k"] = np.array([draw(st.integers(1, rows))])
        nodes = [helper.make_node("TopK", ["x", "k"], ["t", "i"], "decide", axis=0), product]
        last = draw(st.sampled_from(["t", "i"]))
    elif kind.startswith("Slice"):
        inputs.append(("s", INT64, (1,)))
        feeds["s"] = np.array([draw(st.integers(-rows - 1, rows))])
        axes = [] if kind.endswith("all") else ["axes"]
        weights.append(numbers("axes", [0]))
        nodes = [helper.make_node("Slice", ["x", "s", "far", *axes], ["t"], "decide"), product]
    else:
        boxes, classes, most = draw(st.integers(1, 12)), draw(st.integers(1, 3)), draw(st.integers(0, 20))
        corner = random.random((1, boxes, 2)).astype(np.float32)
        inputs = [("x", FLOAT, (1, boxes, 4)), ("c", FLOAT, (1, classes, boxes))]
        feeds = {"x": np.concatenate([corner, corner + 0.3], 2), "c": random.random((1, classes, boxes), np.float32)}
        weights += [numbers("m", [most]), numbers("iou", [0.5], np.float32), numbers("low", [0.2], np.float32)]
        nodes = [helper.make_node("NonMaxSuppression", ["x", "c", "m", "iou", "low"], ["t"], "decide"),
                 helper.make_node("Cast", ["t"], ["y"], to=FLOAT)]  # fmt: skip
    return build(nodes, inputs, weights), feeds, last


@settings(max_examples=150, deadline=None)
@given(deciding_nodes())
def test_no_run_is_larger_than_the_bound_and_a_given_size_is_the_size(case):
    model, feeds, tensor = case
    real = run(model, feeds, tensor)
    bound = load_graph_from_proto(model)
    shape = bound.tensors[tensor].shape
    assert shape is not None
    assert len(shape) == len(real)
    assert all(size <= most for size, most in zip(real, shape, strict=True))
    assert bound.unknowns == ()
    assert split_graph(bound).macs >= 0
    if any("upper bound" in text and f"'{tensor}'" in text for text in bound.warnings):
        open_axis = next((axis for axis, (a, b) in enumerate(zip(real, shape, strict=True)) if a != b), None)
        size = max(real) if open_axis is None else real[open_axis]
        said = load_graph_from_proto(model, ReadOptions(sizes={tensor: size}))
        assert said.tensors[tensor].shape == real or open_axis is None


def make_range(*, partly=False):
    """A Range up to a sum of the input, and a product behind it."""
    nodes = [
        helper.make_node("ReduceMax", ["lengths"], ["most"], keepdims=0),
        helper.make_node("Range", ["zero", "most", "one"], ["r"], "range"),
        helper.make_node("Cast", ["r"], ["f"], to=FLOAT),
        helper.make_node("Unsqueeze", ["f", "last"], ["c"]),
        helper.make_node("MatMul", ["c", "w"], ["y"], "product"),
    ]
    weights = [numbers("zero", 0), numbers("one", 1), numbers("last", [-1]), numbers("w", np.ones((1, 64)), np.float32)]
    return build(nodes, [("lengths", INT64, (3,))], weights)


def test_what_nothing_bounds_is_an_unknown_part_until_it_is_given():
    graph = load_graph_from_proto(make_range())
    assert [(p.node, p.kind, p.cure) for p in graph.unknowns] == [("range", "size", "--size r=N")]
    assert any("--size r=N" in text for text in graph.warnings)
    parts = split_graph(graph).unknowns
    assert [(p.node, p.products) for p in parts] == [("range", 1)]
    said = load_graph_from_proto(make_range(), ReadOptions(sizes={"r": 50}))
    assert said.unknowns == ()
    assert split_graph(said).macs == 50 * 64


def test_a_size_that_no_run_decides_is_refused():
    with pytest.raises(GraphError, match=r"no run decides the shape of 'y' \(3x4\); leave out --size y"):
        load_graph_from_proto(
            build([helper.make_node("Relu", ["x"], ["y"])], [("x", FLOAT, (3, 4))], []), ReadOptions(sizes={"y": 3})
        )


def test_what_lies_behind_a_bound_is_counted_and_said():
    nodes = [
        helper.make_node("NonZero", ["x"], ["where"], "find"),
        helper.make_node("Transpose", ["where"], ["rows"]),
        helper.make_node("GatherND", ["table", "rows"], ["found"]),
        helper.make_node("MatMul", ["found", "w"], ["y"], "product"),
    ]
    weights = [numbers("table", np.ones((5, 7, 16)), np.float32), numbers("w", np.ones((16, 4)), np.float32)]
    graph = load_graph_from_proto(build(nodes, [("x", FLOAT, (5, 7))], weights))
    assert split_graph(graph).macs == prod((5, 7, 16, 4))
    assert [text for text in graph.warnings if "counted at their upper bound: 'where' (NonZero) 35" in text]


def test_the_size_of_a_rule_holds_behind_it_whatever_inference_assumed():
    """The library gives NonZero of a scalar no rows, ONNX Runtime one: the product behind it is work."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["places"], name="places"),
        helper.make_node("Cast", ["places"], ["y"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["y", "w"], ["product"], name="product"),
        helper.make_node("Relu", ["product"], ["z"], name="relu"),
    ]
    weights = numpy_helper.from_array(np.ones((1, 5), np.float32), "w")
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [])],
            [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
            [weights],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (real,) = session.run(None, {"x": np.array(1.0, np.float32)})
    graph = load_graph_from_proto(model)
    assert graph.tensors["product"].shape == graph.tensors["z"].shape == real.shape == (1, 5)
    assert sum(kernel.macs for kernel in split_graph(graph).kernels) == 5
