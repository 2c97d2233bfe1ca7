"""From a file to a graph: names, order, values, constants, types, shapes."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deepen.errors import GraphError
from deepen.graph import (
    TensorInfo,
    list_weightless_tensors,
    load_graph,
    load_graph_from_proto,
    map_consumers,
    map_producers,
)


def test_a_convnet(models, save):
    path = save(models.convnet())
    graph = load_graph(path)
    assert [node.name for node in graph.nodes] == ["conv", "relu", "pool", "flat", "fc"]
    assert graph.nodes[0].inputs == ("x", "w", "b")
    assert graph.nodes[0].attributes == {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)}
    assert graph.inputs == (TensorInfo("x", (1, 3, 8, 8), "float32"),)
    assert graph.outputs == (TensorInfo("y", (1, 10), "float32"),)
    assert graph.tensors["p"].shape == (1, 16, 4, 4)
    assert graph.tensors["fw"] == TensorInfo("fw", (10, 256), "float32", constant=True)
    assert graph.opsets == {"": 17}
    assert graph.source_path == path
    assert graph.source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert graph.warnings == ()


def test_small_weights_have_values_and_large_ones_do_not(models):
    built = models.convnet()
    graph = load_graph_from_proto(built)
    assert set(graph.values) == {"w", "b", "fb"}
    np.testing.assert_array_equal(graph.values["b"], numpy_helper.to_array(built.graph.initializer[1]))
    assert [tensor.name for tensor in list_weightless_tensors(graph.model)] == ["fw"]


def test_a_large_file_is_hashed_whole(models, save):
    built = models.model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [models.tensor("x", 1, 2000)], [models.tensor("y", 1, 3000)], [models.weight("w", 2000, 3000)],
    )  # fmt: skip
    path = save(built)
    assert path.stat().st_size > 20_000_000
    assert load_graph(path).source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_loading_changes_nothing_in_a_model_from_memory(models):
    built = models.with_functions()
    before = built.SerializeToString()
    load_graph_from_proto(built)
    assert built.SerializeToString() == before


def test_unnamed_and_repeated_names_become_unique(models):
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"], "same"),
        helper.make_node("Neg", ["b"], ["c"], "same"),
        helper.make_node("Relu", ["c"], ["d"], "Relu_0"),
        helper.make_node("Abs", ["d"], ["y"], "same"),
    ]
    graph = load_graph_from_proto(models.model(nodes, [models.tensor("x", 2)], [models.tensor("y", 2)]))
    names = [node.name for node in graph.nodes]
    assert names == ["Relu_0_1", "same", "same_1", "Relu_0", "same_2"]
    assert [node.name for node in graph.model.graph.node] == names


def test_nodes_come_in_topological_order_whatever_the_file_says(models):
    built = models.convnet()
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in built.graph.node]
    del built.graph.node[:]
    built.graph.node.extend(reversed(nodes))
    graph = load_graph_from_proto(built)
    assert [node.name for node in graph.nodes] == ["conv", "relu", "pool", "flat", "fc"]
    assert graph.outputs[0].shape == (1, 10)


def test_an_order_that_only_a_body_depends_on(models):
    body = helper.make_graph([helper.make_node("Neg", ["late"], ["t"])], "b", [], [models.tensor("t", 2)])
    nodes = [
        helper.make_node("If", ["cond"], ["y"], "choose", then_branch=body, else_branch=body),
        helper.make_node("Relu", ["x"], ["late"], "relu"),
    ]
    cond = numpy_helper.from_array(np.array(True), "cond")
    graph = load_graph_from_proto(models.model(nodes, [models.tensor("x", 2)], [models.tensor("y", 2)], [cond]))
    assert [node.name for node in graph.nodes if not node.scope] == ["relu", "choose"]


@pytest.mark.parametrize(
    ("attributes", "expected", "dtype"),
    [
        ({"value_int": 3}, 3, np.int64),
        ({"value_ints": [1, 2]}, [1, 2], np.int64),
        ({"value_float": 0.5}, 0.5, np.float32),
        ({"value_floats": [0.5, 1.5]}, [0.5, 1.5], np.float32),
        ({"value_string": "a"}, "a", object),
        ({"value_strings": ["a", "b"]}, ["a", "b"], object),
        ({"value": numpy_helper.from_array(np.ones((2, 2), np.float16))}, np.ones((2, 2)), np.float16),
    ],
)
def test_constants_in_every_form(models, attributes, expected, dtype):
    nodes = [helper.make_node("Constant", [], ["c"], **attributes), helper.make_node("Relu", ["x"], ["y"])]
    graph = load_graph_from_proto(models.model(nodes, [models.tensor("x", 2)], [models.tensor("y", 2)]))
    assert graph.tensors["c"].constant
    assert graph.tensors["c"].shape == np.shape(expected)
    assert graph.values["c"].dtype == dtype
    np.testing.assert_array_equal(graph.values["c"], np.array(expected, dtype))


@pytest.mark.parametrize("linear", [True, False])
def test_sparse_constants_and_initialisers(models, linear):
    dense = np.zeros((3, 4), np.float32)
    dense[0, 1], dense[2, 3] = 5, 7
    rows = models.ints("", 1, 11) if linear else numpy_helper.from_array(np.array([[0, 1], [2, 3]], np.int64))
    values = numpy_helper.from_array(np.array([5, 7], np.float32), "s")
    sparse = helper.make_sparse_tensor(values, rows, [3, 4])
    nodes = [helper.make_node("Constant", [], ["c"], sparse_value=sparse), helper.make_node("Add", ["x", "c"], ["a"])]
    nodes.append(helper.make_node("Add", ["a", "s"], ["y"]))
    built = models.model(nodes, [models.tensor("x", 3, 4)], [models.tensor("y", 3, 4)])
    built.graph.sparse_initializer.append(sparse)
    graph = load_graph_from_proto(built)
    for name in ("c", "s"):
        assert graph.tensors[name] == TensorInfo(name, (3, 4), "float32", constant=True)
        np.testing.assert_array_equal(graph.values[name], dense)


def test_a_large_constant_node_has_a_shape_and_no_value(models):
    nodes = [
        helper.make_node("Constant", [], ["w"], value=models.weight("", 64, 64)),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    graph = load_graph_from_proto(models.model(nodes, [models.tensor("x", 2, 64)], [models.tensor("y", 2, 64)]))
    assert graph.tensors["w"] == TensorInfo("w", (64, 64), "float32", constant=True)
    assert "w" not in graph.values
    assert graph.nodes[0].attributes == {"value": None}


def test_what_follows_from_constants_is_constant(models):
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["filled"]),
        helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]),
        helper.make_node("Cast", ["wt"], ["wh"], to=TensorProto.FLOAT16),
        helper.make_node("RandomNormal", [], ["noise"], shape=[40, 40]),
        helper.make_node("RandomNormalLike", ["w"], ["noise2"]),
        helper.make_node("MatMul", ["x", "wt"], ["m"]),
        helper.make_node("Add", ["m", "filled"], ["y"]),
    ]
    weights = [models.weight("w", 40, 40), models.ints("s", 1, 40)]
    graph = load_graph_from_proto(
        models.model(nodes, [models.tensor("x", 1, 40)], [models.tensor("y", 1, 40)], weights)
    )
    constant = {name for name, tensor in graph.tensors.items() if tensor.constant}
    assert constant == {"w", "s", "filled", "wt", "wh"}
    np.testing.assert_array_equal(graph.values["filled"], np.zeros((1, 40), np.float32))


def test_shapes_computed_by_the_graph_are_found(models):
    """Against the reference evaluator, which runs the same model on real data."""
    from onnx.reference import ReferenceEvaluator

    built = models.dynamic_reshape(batch="N")
    graph = load_graph_from_proto(built, {"x": (2, 4, 6, 6)})
    result = ReferenceEvaluator(built).run(["shape", "y"], {"x": np.zeros((2, 4, 6, 6), np.float32)})
    np.testing.assert_array_equal(graph.values["shape"], result[0])
    assert graph.outputs[0].shape == result[1].shape
    assert all(tensor.shape is not None for tensor in graph.tensors.values())
    assert graph.tensors["shape"].constant
    assert not graph.tensors["r"].constant
    written = {
        info.name: [d.dim_value for d in info.type.tensor_type.shape.dim] for info in graph.model.graph.value_info
    }
    assert written["r"] == [2, 8, 18]


def test_shape_with_a_start_and_size(models):
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], start=-2),
        helper.make_node("Size", ["x"], ["n"]),
        helper.make_node("Relu", ["x"], ["y"]),
    ]
    graph = load_graph_from_proto(models.model(nodes, [models.tensor("x", 2, 3, 4)], [models.tensor("y", 2, 3, 4)]))
    assert graph.values["s"].tolist() == [3, 4]
    assert graph.values["n"].tolist() == 24


@pytest.mark.parametrize(
    ("attributes", "data", "weight", "expected"),
    [
        ({"group": 4}, (2, 8, 9, 7), (12, 2, 3, 3), (2, 12, 7, 5)),
        ({"group": 8}, (1, 8, 9, 7), (8, 1, 3, 3), (1, 8, 7, 5)),
        ({"dilations": [2, 3]}, (1, 3, 20, 20), (4, 3, 3, 3), (1, 4, 16, 14)),
        ({"pads": [0, 1, 2, 3]}, (1, 3, 10, 10), (4, 3, 3, 3), (1, 4, 10, 12)),
        ({"strides": [2, 1], "auto_pad": "SAME_UPPER"}, (1, 3, 11, 10), (4, 3, 3, 3), (1, 4, 6, 10)),
        ({"strides": [3]}, (4, 3, 100), (5, 3, 10), (4, 5, 31)),
        ({"pads": [1] * 6}, (1, 2, 4, 5, 6), (3, 2, 3, 3, 3), (1, 3, 4, 5, 6)),
    ],
)
def test_every_kind_of_convolution(models, attributes, data, weight, expected):
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    unshaped = models.unshaped("y")
    graph = load_graph_from_proto(
        models.model([node], [models.tensor("x", *data)], [unshaped], [models.weight("w", *weight)])
    )
    assert graph.outputs[0].shape == expected


def test_quantised_models_keep_their_types(models):
    graph = load_graph_from_proto(models.quantised())
    assert (graph.tensors["xq"].dtype, graph.tensors["xd"].dtype) == ("int8", "float32")
    assert graph.tensors["wd"] == TensorInfo("wd", (16, 16, 3, 3), "float32", constant=True)
    assert graph.tensors["wq"].nbytes == 16 * 16 * 9
    assert not graph.tensors["xd"].constant


@pytest.mark.parametrize(("elem", "name"), [(10, "float16"), (16, "bfloat16"), (11, "float64")])
def test_other_float_types(models, elem, name):
    node = helper.make_node("Relu", ["x"], ["y"])
    built = models.model([node], [models.tensor("x", 3, elem=elem)], [models.tensor("y", 3, elem=elem)])
    assert load_graph_from_proto(built).outputs[0] == TensorInfo("y", (3,), name)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 15, 18, 21, onnx.defs.onnx_opset_version()])
def test_every_opset(models, opset):
    graph = load_graph_from_proto(models.convnet(opset=opset))
    assert graph.opsets[""] == opset
    assert graph.outputs[0].shape == (1, 10)
    assert graph.warnings == ()


def test_the_ai_onnx_domain_is_the_standard_one(models):
    built = models.convnet()
    built.opset_import[0].domain = "ai.onnx"
    built.graph.node[0].domain = "ai.onnx"
    graph = load_graph_from_proto(built)
    assert graph.opsets == {"": 17}
    assert graph.nodes[0].domain == ""


def test_an_unknown_operator_keeps_what_the_file_declares(models):
    nodes = [
        helper.make_node("Mystery", ["x"], ["m"], "mystery", domain="acme", mode="fast"),
        helper.make_node("Relu", ["m"], ["y"]),
        helper.make_node("Mystery", ["y"], ["z"], domain="acme"),
    ]
    built = models.model(nodes, [models.tensor("x", 2)], [models.unshaped("y"), models.unshaped("z")])
    built.graph.value_info.append(models.tensor("m", 4, 5))
    graph = load_graph_from_proto(built)
    assert graph.nodes[0].domain == "acme"
    assert graph.nodes[0].attributes == {"mode": "fast"}
    assert graph.tensors["y"].shape == (4, 5)
    assert graph.tensors["z"].shape is None
    assert graph.tensors["z"].nbytes == 0


def test_declared_shapes_are_not_trusted_for_another_batch(models):
    nodes = [helper.make_node("Mystery", ["x"], ["y"], "mystery", domain="acme")]
    built = models.model(nodes, [models.tensor("x", 1, 2)], [models.tensor("y", 1, 7)])
    assert load_graph_from_proto(built).outputs[0].shape == (1, 7)
    assert load_graph_from_proto(built, {"x": (5, 2)}).outputs[0].shape is None


def test_omitted_optional_inputs_and_outputs(models):
    nodes = [
        helper.make_node("Clip", ["x", "", "high"], ["c"]),
        helper.make_node("Dropout", ["c"], ["y", ""]),
    ]
    high = numpy_helper.from_array(np.array(6, np.float32), "high")
    graph = load_graph_from_proto(models.model(nodes, [models.tensor("x", 2)], [models.tensor("y", 2)], [high]))
    assert graph.nodes[0].inputs == ("x", "", "high")
    assert graph.nodes[1].outputs == ("y", "")
    assert "" not in graph.tensors


def test_local_functions_are_inlined(models):
    graph = load_graph_from_proto(models.with_functions())
    assert [node.op_type for node in graph.nodes] == ["MatMul", "Constant", "Mul"] * 2
    assert len({node.name for node in graph.nodes}) == 6
    assert all(tensor.shape is not None for tensor in graph.tensors.values())
    assert not graph.model.functions


def test_functions_of_another_opset_are_converted_or_named(models):
    built = models.with_functions()
    for function in built.functions:
        function.opset_import[0].version = 18
    graph = load_graph_from_proto(built)
    called = {node.op_type for node in graph.nodes} & {"Block", "Scale"}
    assert all(name in " ".join(graph.warnings) for name in called)
    assert bool(called) == bool(graph.warnings)


def test_functions_that_call_themselves_are_refused(models):
    built = models.with_functions()
    built.functions[1].node.append(helper.make_node("Block", ["b", "b"], ["d"], domain="local"))
    with pytest.raises(GraphError, match=r"local function '.*' calls itself"):
        load_graph_from_proto(built)


def test_functions_that_multiply_are_refused(models):
    """Thirty functions, each calling the next twice, are a billion nodes."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    functions = []
    for index in range(30):
        nodes = [helper.make_node(f"F{index + 1}", [a], [b], domain="local") for a, b in (("a", "b"), ("b", "c"))]
        if index == 29:
            nodes = [helper.make_node("Relu", ["a"], ["c"])]
        functions.append(helper.make_function("local", f"F{index}", ["a"], ["c"], nodes, opsets))
    node = helper.make_node("F0", ["x"], ["y"], domain="local")
    built = models.model([node], [models.tensor("x", 2)], [models.tensor("y", 2)], functions=functions)
    with pytest.raises(GraphError, match="expand to more than 1,000,000 nodes"):
        load_graph_from_proto(built)


def test_producers_and_consumers(models):
    graph = load_graph_from_proto(models.dynamic_reshape())
    assert map_producers(graph)["shape"].op_type == "Concat"
    assert "x" not in map_producers(graph)
    assert [node.op_type for node in map_consumers(graph)["s"]] == ["Gather", "Gather"]
    assert [node.op_type for node in map_consumers(graph)["x"]] == ["Shape", "Reshape"]
    assert "y" not in map_consumers(graph)


def test_a_node_that_reads_a_tensor_twice_consumes_it_once(models):
    node = helper.make_node("Mul", ["x", "x"], ["y"], "square")
    graph = load_graph_from_proto(models.model([node], [models.tensor("x", 2)], [models.tensor("y", 2)]))
    assert [node.name for node in map_consumers(graph)["x"]] == ["square"]


def test_the_model_runs_once_stand_ins_are_filled_in(models, save):
    """What a splitter does: put bytes where weights were left out and hand the model to the runtime."""
    import onnxruntime

    graph = load_graph(save(models.convnet(batch="N")), {"x": (2, 3, 8, 8)})
    for tensor in list_weightless_tensors(graph.model):
        filled = numpy_helper.from_array(
            np.ones(tuple(tensor.dims), helper.tensor_dtype_to_np_dtype(tensor.data_type)), tensor.name
        )
        tensor.CopyFrom(filled)
    session = onnxruntime.InferenceSession(graph.model.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": np.zeros((2, 3, 8, 8), np.float32)})
    assert result.shape == graph.outputs[0].shape


def test_importing_the_package_does_not_import_onnx():
    import subprocess
    import sys

    code = "import sys, deepen.graph; print(sorted({'onnx', 'onnxruntime', 'google'} & set(sys.modules)))"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"
