"""What a converter removes before a model runs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from deepen.graph.load import load_graph_from_proto
from deepen.kernels.features import compute_features
from deepen.kernels.splitting.converter_passes import ConverterPasses, apply_converter_passes, find_zero_tensors
from deepen.kernels.splitting.split import split_graph

BOTH = ConverterPasses(merge=True, zeros=True)


def _graph(nodes, outputs=("y",), shape=(1, 4, 8, 8)):
    zero = numpy_helper.from_array(np.float32(0.0), "zero")
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.standard_normal((4, 4, 1, 1)).astype(np.float32), "w")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, shape)],
        [value(name, TensorProto.FLOAT, shape) for name in outputs],
        initializer=[zero, weight],
    )
    return load_graph_from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def _node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs, [output], name=output, **attributes)


def test_repeated_expressions_become_one_even_through_merged_inputs():
    pool = {"kernel_shape": [3, 3], "pads": [1] * 4}
    graph = _graph(
        [
            _node("Relu", ["x"], "a"),
            _node("Relu", ["x"], "b"),
            _node("AveragePool", ["a"], "p", **pool),
            _node("AveragePool", ["b"], "q", **pool),
            _node("Add", ["p", "q"], "y"),
        ]
    )
    simple, gone = apply_converter_passes(graph, BOTH)
    assert set(gone) == {"b", "q"}
    assert simple.nodes[-1].inputs == ("p", "p")


def test_equal_operators_with_other_attributes_stay():
    graph = _graph(
        [
            _node("LeakyRelu", ["x"], "a", alpha=0.1),
            _node("LeakyRelu", ["x"], "b", alpha=0.2),
            _node("Add", ["a", "b"], "y"),
        ]
    )
    assert apply_converter_passes(graph, BOTH)[1] == ()


def test_products_with_zero_take_along_what_only_they_read_and_the_sum():
    graph = _graph(
        [
            _node("Conv", ["x", "w"], "c"),
            _node("Mul", ["c", "zero"], "z"),
            _node("Relu", ["z"], "r"),
            _node("Sigmoid", ["x"], "s"),
            _node("Add", ["r", "s"], "t"),
            _node("Tanh", ["t"], "y"),
        ]
    )
    simple, gone = apply_converter_passes(graph, BOTH)
    assert set(gone) == {"c", "z", "r", "t"}
    assert [n.op_type for n in simple.nodes] == ["Sigmoid", "Tanh"]
    assert simple.nodes[-1].inputs == ("s",)


def test_a_convolution_of_zeros_stays():
    graph = _graph([_node("Mul", ["x", "zero"], "z"), _node("Conv", ["z", "w"], "y")])
    simple, gone = apply_converter_passes(graph, BOTH)
    assert [n.op_type for n in simple.nodes] == ["Conv"]
    assert gone == ("z",)


def test_outputs_stay_whatever_they_are():
    graph = _graph([_node("Mul", ["x", "zero"], "y"), _node("Mul", ["x", "zero"], "u")], outputs=("y", "u"))
    simple, gone = apply_converter_passes(graph, BOTH)
    assert len(simple.nodes) == 2
    assert gone == ()


def test_a_sum_that_broadcasts_is_not_its_other_term():
    nodes = [_node("GlobalAveragePool", ["x"], "g"), _node("Mul", ["x", "zero"], "z"), _node("Add", ["g", "z"], "y")]
    simple, gone = apply_converter_passes(_graph(nodes), BOTH)
    assert "y" not in gone
    assert [n.op_type for n in simple.nodes] == ["GlobalAveragePool", "Add"]


@pytest.mark.parametrize("wanted", [ConverterPasses(), ConverterPasses(merge=True), ConverterPasses(zeros=True)])
def test_only_what_is_asked_for_is_removed(wanted):
    nodes = [_node("Relu", ["x"], "a"), _node("Relu", ["x"], "b"), _node("Mul", ["b", "zero"], "z")]
    nodes += [_node("Add", ["a", "b"], "s"), _node("Add", ["s", "z"], "y")]
    expected = {(False, False): set(), (True, False): {"b"}, (False, True): {"z"}}[wanted.merge, wanted.zeros]
    gone = set(apply_converter_passes(_graph(nodes), wanted)[1])
    assert gone - {"y"} == expected


def test_zeros_are_followed_through_sums_only_where_every_term_is_zero():
    graph = _graph(
        [
            _node("Mul", ["x", "zero"], "z"),
            _node("Relu", ["z"], "r"),
            _node("Add", ["r", "z"], "both"),
            _node("Add", ["both", "x"], "one"),
            _node("Conv", ["both", "w"], "c"),
            _node("Add", ["one", "c"], "y"),
        ]
    )
    assert find_zero_tensors(graph.nodes, graph.values) == {"zero", "z", "r", "both"}


def test_the_split_for_a_converted_file_loses_no_node():
    graph = _graph(
        [
            _node("Conv", ["x", "w"], "c"),
            _node("Mul", ["c", "zero"], "z"),
            _node("Sigmoid", ["x"], "s"),
            _node("Sigmoid", ["x"], "t"),
            _node("Add", ["z", "s"], "u"),
            _node("Add", ["u", "t"], "y"),
        ]
    )
    result = split_graph(graph, "tflite-cpu")
    assert Counter(k.op_types for k in result.kernels) == {("Sigmoid",): 1, ("Add",): 1}
    assert set(result.folded) == {"c", "z", "t", "u"}


def test_kernels_that_multiply_by_zeros_say_so_and_have_a_key_of_their_own():
    nodes = [_node("Conv", ["x", "w"], "a"), _node("Mul", ["x", "zero"], "z"), _node("Conv", ["z", "w"], "b")]
    nodes.append(_node("Add", ["a", "b"], "y"))
    for runtime in ("tflite-cpu", "onnxruntime"):
        kernels = {k.name: k for k in split_graph(_graph(nodes), runtime).kernels}
        assert kernels["b"].zero_operand, runtime
        assert not kernels["a"].zero_operand
        assert kernels["a"].key != kernels["b"].key
        assert compute_features(kernels["b"]) == compute_features(kernels["a"]) | {"zero_operand": 1.0}
