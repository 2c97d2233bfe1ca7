"""Input shapes: parsing the option, fixing symbols, refusing what does not fit."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from deepen.errors import ConfigError, GraphError
from deepen.graph import ReadOptions, load_graph_from_proto, parse_shape


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("input=1x3x224x224", ("input", (1, 3, 224, 224))),
        ("x=8", ("x", (8,))),
        ("a=b=2,3", ("a=b", (2, 3))),
        ("data:0 = 1 X 2", ("data:0", (1, 2))),
        ("past=1x2x0x64", ("past", (1, 2, 0, 64))),
    ],
)
def test_parse_shape(text, expected):
    assert parse_shape(text) == expected


@pytest.mark.parametrize("text", ["1x3", "x=", "=1x3", "x=1xx3", "x=-1x3", "x=1x3x", "x=1.5", "x=²"])
def test_parse_shape_refuses(text):
    with pytest.raises(ConfigError, match=r"shape '.*'"):
        parse_shape(text)


def test_a_symbolic_dimension_names_input_dimension_and_cure(models):
    with pytest.raises(GraphError) as caught:
        load_graph_from_proto(models.convnet(batch="N"))
    message = "input 'x' has a symbolic dimension 'N' (axis 0); fix it, for example with --shape x=1x3x8x8"
    assert str(caught.value) == message


def test_an_unnamed_dimension_and_an_input_without_shape(models):
    with pytest.raises(
        GraphError, match=r"input 'x' has an open dimension \(axis 2\); fix it, for example with --shape x=1x3x8x8$"
    ):
        load_graph_from_proto(models.convnet(side=None))
    relu = helper.make_node("Relu", ["x"], ["y"])
    with pytest.raises(GraphError, match="input 'x' has no shape; fix it, for example with --shape x="):
        load_graph_from_proto(models.model([relu], [models.unshaped("x")], [models.unshaped("y")]))
    graph = load_graph_from_proto(models.model([relu], [models.unshaped("x")], [models.unshaped("y")]), {"x": (2, 3)})
    assert graph.tensors["y"].shape == (2, 3)


def test_a_negative_dimension_counts_as_open_and_a_fixed_0_does_not(models):
    with pytest.raises(GraphError, match=r"open dimension \(axis 0\)"):
        load_graph_from_proto(models.convnet(batch=-1))
    graph = load_graph_from_proto(models.convnet(batch=0))
    assert graph.outputs[0].shape == (0, 10)
    assert graph.warnings == ("input 'x' is empty by the file (0x3x8x8); --shape gives another size",)
    assert load_graph_from_proto(models.convnet(batch=0), {"x": (2, 3, 8, 8)}).warnings == ()


def test_a_size_by_symbol_holds_in_every_input_and_in_what_is_computed_from_it(models):
    nodes = [helper.make_node("Concat", ["past", "x"], ["all"], axis=1), helper.make_node("Mul", ["all", "m"], ["y"])]
    inputs = [models.tensor("x", "b", "s"), models.tensor("past", "b", "p"), models.tensor("m", "b", "p + s")]
    built = models.model(nodes, inputs, [models.tensor("y", "b", "p + s")])
    for options in (
        ReadOptions(dims={"b": 2, "s": 3, "p": 0}),
        ReadOptions(dims={"b": 2, "s": 3}, shapes={"past": (2, 0)}),
        ReadOptions(shapes={"m": (2, 3), "x": (2, 3)}),
    ):
        graph = load_graph_from_proto(built, options)
        assert [tensor.shape for tensor in graph.inputs] == [(2, 3), (2, 0), (2, 3)]
        assert graph.outputs[0].shape == (2, 3)
    with pytest.raises(GraphError, match="dimension 'b' is 2 in --dim but 1 in input 'x'"):
        load_graph_from_proto(built, ReadOptions(dims={"b": 2}, shapes={"x": (1, 3)}))


def test_the_cure_cures(models):
    graph = load_graph_from_proto(models.convnet(batch="N"), dict([parse_shape("x=1x3x8x8")]))
    assert graph.inputs[0].shape == (1, 3, 8, 8)
    assert graph.outputs[0].shape == (1, 10)


def test_a_symbol_fixed_in_one_input_holds_in_the_others(models):
    add = helper.make_node("Add", ["a", "b"], ["y"])
    inputs = [models.tensor("a", "N", 4), models.tensor("b", "N", 4)]
    built = models.model([add], inputs, [models.tensor("y", "N", 4)])
    graph = load_graph_from_proto(built, {"a": (3, 4)})
    assert [tensor.shape for tensor in graph.inputs] == [(3, 4), (3, 4)]
    with pytest.raises(GraphError, match="dimension 'N' is 3 in input 'a' but 5 in input 'b'"):
        load_graph_from_proto(built, {"a": (3, 4), "b": (5, 4)})
    with pytest.raises(GraphError, match=r"1 other input is open too; fix it, for example with --shape a=1x4$"):
        load_graph_from_proto(built)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"inputs": (1, 3, 8, 8)}, "the model has no input 'inputs'; its inputs: x"),
        ({"w": (1, 3, 8, 8)}, "the model has no input 'w'; its inputs: x"),
        ({"x": (3, 8, 8)}, r"shape 3x8x8 for input 'x' has 3 dimensions but the model declares 4 \(Nx3x8x8\)"),
        ({"x": (1, 3, -8, 8)}, "negative dimension"),
        ({"x": (2**30, 3, 2**30, 8)}, "absurdly large"),
    ],
)
def test_shapes_that_cannot_be_asked_for(models, shapes, message):
    with pytest.raises(GraphError, match=message):
        load_graph_from_proto(models.convnet(batch="N"), shapes)


def test_a_static_batch_can_be_replaced(models):
    graph = load_graph_from_proto(models.convnet(), {"x": (4, 3, 8, 8)})
    assert graph.tensors["c"].shape == (4, 16, 8, 8)
    assert graph.outputs[0].shape == (4, 10)
    assert [d.dim_value for d in graph.model.graph.output[0].type.tensor_type.shape.dim] == [4, 10]


def test_a_shape_the_model_cannot_take_names_the_node(models):
    with pytest.raises(GraphError, match=r"node 'fc' \(Gemm\): 1x1024 and 10x256 cannot be multiplied"):
        load_graph_from_proto(models.convnet(), {"x": (1, 3, 16, 16)})
    with pytest.raises(GraphError, match=r"node 'conv' \(Conv\): 4 input channels do not fit the weight 16x3x3x3"):
        load_graph_from_proto(models.convnet(), {"x": (1, 4, 8, 8)})
    with pytest.raises(GraphError, match=r"node 'pool' \(MaxPool\)"):
        load_graph_from_proto(models.convnet(), {"x": (1, 3, 1, 1)})


def test_a_fixed_reshape_does_not_take_another_batch(models):
    nodes = [helper.make_node("Reshape", ["x", "s"], ["y"], "flat")]
    built = models.model(nodes, [models.tensor("x", 1, 6)], [models.tensor("y", 2, 3)], [models.ints("s", 2, 3)])
    assert load_graph_from_proto(built).outputs[0].shape == (2, 3)
    with pytest.raises(GraphError, match=r"node 'flat' \(Reshape\): 2x6 cannot become 2x3"):
        load_graph_from_proto(built, {"x": (2, 6)})


def test_an_addition_that_cannot_broadcast_is_the_callers_error(models):
    add = helper.make_node("Add", ["x", "w"], ["y"], "add")
    built = models.model([add], [models.tensor("x", 1, 6)], [models.tensor("y", 1, 6)], [models.weight("w", 6)])
    with pytest.raises(GraphError, match="node 'add' cannot take these input shapes"):
        load_graph_from_proto(built, {"x": (1, 5)})


def test_stale_declared_shapes_do_not_win(models):
    built = models.convnet()
    built.graph.output[0].CopyFrom(models.tensor("y", 77, 10))
    built.graph.value_info.append(models.tensor("c", 9, 9, 9, 9))
    graph = load_graph_from_proto(built)
    assert graph.outputs[0].shape == (1, 10)
    assert graph.tensors["c"].shape == (1, 16, 8, 8)


def test_initialisers_listed_as_inputs_are_no_inputs(models):
    built = models.convnet()
    built.ir_version = 3
    built.graph.input.extend([models.tensor("w", 16, 3, 3, 3), models.tensor("b", 16)])
    graph = load_graph_from_proto(built)
    assert [tensor.name for tensor in graph.inputs] == ["x"]
    assert graph.tensors["w"].constant
    assert graph.values["b"].shape == (16,)


def test_scalar_and_vector_inputs(models):
    nodes = [helper.make_node("Mul", ["x", "s"], ["y"]), helper.make_node("ReduceSum", ["y"], ["z"], keepdims=0)]
    built = models.model(nodes, [models.tensor("x", 5), models.tensor("s")], [models.unshaped("z")])
    graph = load_graph_from_proto(built)
    assert [tensor.shape for tensor in graph.inputs] == [(5,), ()]
    assert graph.outputs[0].shape == ()
    assert graph.outputs[0].elements == 1


def test_a_sequence_input_is_no_crash(models):
    value = helper.make_tensor_sequence_value_info("s", models.FLOAT, (2, 3))
    at = numpy_helper.from_array(np.array(0, np.int64), "at")
    nodes = [helper.make_node("SequenceAt", ["s", "at"], ["e"]), helper.make_node("Relu", ["e"], ["y"])]
    graph = load_graph_from_proto(models.model(nodes, [value], [models.unshaped("y")], [at]))
    assert graph.tensors["s"].shape is None
    assert graph.tensors["y"].shape == (2, 3)
    with pytest.raises(GraphError, match="input 's' is not a tensor"):
        load_graph_from_proto(models.model(nodes, [value], [models.unshaped("y")], [at]), {"s": (2, 3)})
