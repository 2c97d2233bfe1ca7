"""Advice for open dimensions: followed as it is printed, it works; sizes are what the first operators demand."""

import re
import shlex

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from deepen.errors import GraphError
from deepen.graph import ReadOptions, load_graph_from_proto, parse_shape
from deepen.kernels.splitting.split import split_graph

INT64, FLOAT = TensorProto.INT64, TensorProto.FLOAT


def weight(name, *shape):
    return numpy_helper.from_array(np.zeros(shape, np.float32), name)


def ints(name, *values):
    return numpy_helper.from_array(np.array(values, np.int64), name)


def build(nodes, inputs, weights=(), opset=17):
    values = [helper.make_tensor_value_info(name, elem, shape) for name, elem, shape in inputs]
    outputs = [helper.make_tensor_value_info(nodes[-1].output[0], FLOAT, None)]
    graph = helper.make_graph(list(nodes), "g", values, outputs, list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def take_advice(model):
    """Read a model with open inputs, follow the advice of the error, and return (message, graph)."""
    with pytest.raises(GraphError) as caught:
        load_graph_from_proto(model)
    message = str(caught.value)
    assert len(message) < 400
    said = re.search(r"for example with (.+)$", message)
    assert said, message
    words = shlex.split(said[1])
    shapes, dims = {}, {}
    for option, text in zip(words[::2], words[1::2], strict=True):
        if option == "--shape":
            name, shape = parse_shape(text)
            shapes[name] = shape
        else:
            name, _, size = text.rpartition("=")
            dims[name] = int(size)
    graph = load_graph_from_proto(model, ReadOptions(shapes=shapes, dims=dims))
    split_graph(graph)
    return said[1], graph


def test_the_layout_and_the_channels_come_from_the_first_convolution():
    nodes = [
        helper.make_node("Sub", ["in", "mean"], ["s"]),
        helper.make_node("Transpose", ["s"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["t", "w"], ["y"]),
    ]
    model = build(nodes, [("in", FLOAT, [None] * 4)], [weight("mean", 5), weight("w", 8, 5, 3, 3)])
    assert take_advice(model)[0] == "--shape in=1x224x224x5"
    grouped = build([helper.make_node("Conv", ["in", "w"], ["y"], group=4)], [("in", FLOAT, ["b", "c", "h", "w"])],
                    [weight("w", 8, 2, 3, 3)])  # fmt: skip
    assert take_advice(grouped)[0] == "--shape in=1x8x224x224"


@pytest.mark.parametrize("window", [400, 512, 1024, 15000, 30000])
def test_audio_is_long_enough_for_the_window(window):
    nodes = [helper.make_node("Unsqueeze", ["audio", "one"], ["a"]), helper.make_node("Conv", ["a", "w"], ["y"])]
    model = build(nodes, [("audio", FLOAT, ["batch_size", "samples"])], [ints("one", 1), weight("w", 4, 1, window)])
    graph = take_advice(model)[1]
    assert graph.inputs[0].shape[1] >= max(window, 16000)


@pytest.mark.parametrize("side", [6, 10, 20, 37, 299])
def test_the_size_that_the_dense_layer_wants_is_found_or_none_is_said(side):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("Gemm", ["f", "d"], ["y"]),
    ]
    weights = [weight("w", 2, 3, 3, 3), weight("d", 2 * (side - 2) ** 2, 4)]
    model = build(nodes, [("x", FLOAT, ["N", 3, "H", "W"])], weights)
    if side == 299:
        assert take_advice(model)[0] == "--shape x=1x3x299x299"
    else:
        with pytest.raises(GraphError, match=r"give sizes with --shape NAME=DIMS for x \(Nx3xHxW\)$"):
            load_graph_from_proto(model)


@pytest.mark.parametrize("total", ["past_length + length", "total_length", "kv"])
def test_a_decoder_with_a_cache_takes_a_length_that_fits_both(total):
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("Concat", ["past", "x"], ["k"], axis=1),
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "kt"], ["s"]),
        helper.make_node("Add", ["s", "mask"], ["m"]),
        helper.make_node("MatMul", ["m", "k"], ["y"]),
    ]
    inputs = [("ids", INT64, ["batch", "length"]), ("past", FLOAT, ["batch", "past_length", 32])]
    inputs.append(("mask", FLOAT, ["batch", "length", total]))
    graph = take_advice(build(nodes, inputs, [weight("table", 50, 32)]))[1]
    ids, past, mask = (tensor.shape for tensor in graph.inputs)
    assert mask[2] == past[1] + ids[1]
    assert ids[0] == 1


def test_many_inputs_are_said_by_few_options():
    names = [f"past_key_values.{layer}.{part}" for layer in range(40) for part in ("key", "value")]
    nodes = [helper.make_node("Concat", names, ["all"], axis=3), helper.make_node("Relu", ["all"], ["y"])]
    model = build(nodes, [(name, FLOAT, ["batch", 2, "past", 8]) for name in names])
    assert take_advice(model)[0] == "--shape past_key_values.0.key=1x2x128x8"
    names = [f"{name}.{'x' * 20}" for name in names[:12]]
    nodes = [helper.make_node("Concat", names, ["all"], axis=1), helper.make_node("Relu", ["all"], ["y"])]
    model = build(nodes, [(name, FLOAT, ["batch", f"d{i}"]) for i, name in enumerate(names)])
    said = take_advice(model)[0]
    assert said.startswith("--dim batch=1 --dim d0=128")
    names = [f"an_input_with_a_name_{i}" for i in range(40)]
    nodes = [helper.make_node("Concat", names, ["all"], axis=1), helper.make_node("Relu", ["all"], ["y"])]
    with pytest.raises(GraphError) as caught:
        load_graph_from_proto(build(nodes, [(name, FLOAT, [1, f"size{i}"]) for i, name in enumerate(names)]))
    assert str(caught.value).endswith("more, which the next message says")
    assert len(str(caught.value)) < 400


def test_dimensions_named_by_a_question_mark_are_independent():
    nodes = [helper.make_node("MatMul", ["a", "w"], ["p"]), helper.make_node("MatMul", ["p", "b"], ["y"])]
    model = build(nodes, [("a", FLOAT, ["?", "?"]), ("b", FLOAT, ["?", "?"])], [weight("w", 12, 20)])
    shapes = [tensor.shape for tensor in take_advice(model)[1].inputs]
    assert shapes[0][1] == 12
    assert shapes[1][0] == 20


@st.composite
def models_with_shared_symbols(draw):
    """Sums, products and concatenations of inputs whose dimensions are shared or derived symbols."""
    symbols = draw(st.lists(st.sampled_from(["batch", "seq", "num_edges", "T", "x.1"]), min_size=2, unique=True))
    derived = [f"{symbols[0]} + {symbols[1]}", f"2*{symbols[1]}", f"{symbols[1]} + 1"]
    inputs, nodes, weights = [], [], [ints("two", 1, 2, 1), ints("pad", 0, 0, 0, 0, 1, 0)]
    width = draw(st.integers(1, 40))
    first, second = draw(st.permutations(symbols))[:2]
    kind = draw(st.sampled_from(["same", "sum", "double", "next", "across"]))
    inputs.append(("a", FLOAT, [draw(st.sampled_from([2, symbols[0]])), symbols[1], width]))
    rows = inputs[0][2][0]
    if kind == "same":
        inputs.append(("b", FLOAT, [rows, symbols[1], 1]))
        nodes.append(helper.make_node("Mul", ["a", "b"], ["s"]))
    elif kind == "sum":
        inputs[0] = ("a", FLOAT, [3, symbols[0], width])
        inputs += [("b", FLOAT, [3, symbols[1], width]), ("m", FLOAT, [3, derived[0], 1])]
        nodes += [helper.make_node("Concat", ["a", "b"], ["c"], axis=1), helper.make_node("Mul", ["c", "m"], ["s"])]
    elif kind == "double":
        inputs.append(("b", FLOAT, [rows, derived[1], width]))
        nodes += [helper.make_node("Tile", ["a", "two"], ["c"]), helper.make_node("Add", ["c", "b"], ["s"])]
    elif kind == "next":
        inputs.append(("b", FLOAT, [rows, derived[2], width]))
        nodes += [helper.make_node("Pad", ["a", "pad"], ["c"]), helper.make_node("Add", ["c", "b"], ["s"])]
    else:
        inputs = [("i", INT64, [2, first]), ("e", FLOAT, [first, width]), ("x", FLOAT, [second, width])]
        weights.append(ints("zero", 0))
        nodes += [
            helper.make_node("Gather", ["i", "zero"], ["row"]),
            helper.make_node("Squeeze", ["row", "zero"], ["at"]),
            helper.make_node("Gather", ["x", "at"], ["g"]),
            helper.make_node("Mul", ["g", "e"], ["s"]),
        ]
    weights.append(weight("w", width, draw(st.integers(1, 8))))
    nodes.append(helper.make_node("MatMul", ["s", "w"], ["y"]))
    unused = draw(st.booleans())
    if unused:
        inputs.append(("unused", INT64, ["b9", None]))
    return build(nodes, draw(st.permutations(inputs)), weights)


@settings(max_examples=80, deadline=None)
@given(models_with_shared_symbols())
def test_advice_works_as_it_is_printed(model):
    graph = take_advice(model)[1]
    assert all(tensor.shape is not None and tensor.elements for tensor in graph.inputs)
    assert graph.outputs[0].shape is not None


def make_vad(limit=16):
    """An If of unknown condition, one branch of which needs 400 samples (the costlier one) and the other ``limit``."""

    def branch(name, window):
        conv = helper.make_node("Conv", ["a", f"w{window}"], [f"{name}_out"])
        return helper.make_graph([conv], name, [], [helper.make_tensor_value_info(f"{name}_out", FLOAT, None)])

    nodes = [
        helper.make_node("Unsqueeze", ["x", "one"], ["a"]),
        helper.make_node("If", ["fast"], ["y"], "choose", then_branch=branch("t", 400), else_branch=branch("e", limit)),
    ]
    inputs = [("x", FLOAT, ["b", None]), ("fast", TensorProto.BOOL, [1])]
    return build(nodes, inputs, [ints("one", 1), weight("w400", 64, 1, 400), weight(f"w{limit}", 2, 1, limit)])


def test_advice_suits_both_branches_of_an_if_that_may_take_either():
    graph = take_advice(make_vad())[1]
    assert graph.inputs[0].shape[1] >= 400
    assert "its costlier branch (then_branch) is counted" in graph.warnings[0]


def test_a_branch_that_cannot_take_the_shapes_is_not_the_one_that_is_counted():
    graph = load_graph_from_proto(make_vad(), {"x": (1, 100)})
    assert "the only branch that takes these shapes (else_branch) is counted" in graph.warnings[0]
    assert split_graph(graph).macs == 2 * 16 * 85
