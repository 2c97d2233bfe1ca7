"""Operators without a family: their work grows with what they do, and nothing is left uncounted."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from deepen.graph import load_graph_from_proto
from deepen.kernels import compute_features, describe_kernel
from deepen.kernels.families.operator_work import (
    SCALAR,
    count_node_ops,
    count_transform_ops,
    note_estimated_work,
)
from deepen.kernels.families.tree_ensembles import measure_tree_ensemble
from deepen.kernels.splitting.split import split_graph
from tests.support.operator_models import (
    OPERATOR_MODELS,
    OperatorModel,
    make_tree_attributes,
    make_tree_ensemble_5,
)


def describe(operator: str, n: int):
    """Kernel of the one node that the model is about."""
    model, _ = OPERATOR_MODELS[operator](n, np.random.default_rng(n)).build()
    graph = load_graph_from_proto(model)
    return describe_kernel([node for node in graph.nodes if node.name == "node"], graph)


@pytest.mark.parametrize("operator", OPERATOR_MODELS)
def test_work_grows_with_the_size_and_empty_tensors_stand(operator):
    kernels = [describe(operator, n) for n in (0, 1, 3)]
    work = [k.macs + k.ops + k.bytes_read + k.bytes_written for k in kernels]
    assert 0 <= work[0] <= work[1] <= work[2]
    assert work[1] < work[2] or operator == "SequenceLength"  # a sequence knows its length
    assert kernels[2].ops + kernels[2].macs <= 40 * (kernels[1].ops + kernels[1].macs + 1)
    for kernel in kernels:
        assert all(np.isfinite(v) and v >= 0 for v in compute_features(kernel).values())


@pytest.mark.parametrize("operator", OPERATOR_MODELS)
def test_every_operator_the_runtime_runs_is_known(operator):
    model, _ = OPERATOR_MODELS[operator](1, np.random.default_rng(0)).build()
    notes = note_estimated_work(load_graph_from_proto(model).nodes)
    assert not any("is unknown" in note for note in notes)


def tree_size(kind: str, trees: int, depth: int):
    random = np.random.default_rng(0)
    if kind == "TreeEnsemble":
        attributes = make_tree_ensemble_5(random, trees, depth, 4)
    else:
        attributes = make_tree_attributes(random, trees, depth, 4, "class" if "Class" in kind else "target")
        attributes |= {"classlabels_int64s": [0, 1]} if "Class" in kind else {"n_targets": 1}
    outputs = 2 if "Class" in kind else 1
    model, _ = OperatorModel(
        kind, [np.zeros((5, 4), np.float32)], attributes, outputs=outputs, domain="ai.onnx.ml"
    ).build()
    graph = load_graph_from_proto(model)
    return measure_tree_ensemble(graph.nodes[0]), describe_kernel(graph.nodes, graph)


@pytest.mark.parametrize("kind", ["TreeEnsembleRegressor", "TreeEnsembleClassifier", "TreeEnsemble"])
@pytest.mark.parametrize(("trees", "depth"), [(1, 1), (7, 3), (3, 6)])
def test_trees_are_measured_in_both_encodings(kind, trees, depth):
    size, kernel = tree_size(kind, trees, depth)
    assert (size.trees, size.depth, size.nodes) == (trees, depth, trees * (2 ** (depth + 1) - 1))
    assert kernel.ops > 5 * trees * depth


def test_the_mean_depth_of_an_uneven_tree_is_that_of_its_leaves():
    # 0 -> (1, 2); 2 -> (3, 4): leaves at depths 1, 2, 2
    attributes = {
        "nodes_treeids": (0,) * 5, "nodes_nodeids": (0, 1, 2, 3, 4), "nodes_truenodeids": (1, 0, 3, 0, 0),
        "nodes_falsenodeids": (2, 0, 4, 0, 0),
    }  # fmt: skip
    node = helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1, **attributes)
    proto = helper.make_model(
        helper.make_graph([node], "g", [helper.make_tensor_value_info("x", 1, [1, 1])],
            [helper.make_tensor_value_info("y", 1, [1, 1])]),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)], ir_version=8,
    )  # fmt: skip
    size = measure_tree_ensemble(load_graph_from_proto(proto).nodes[0])
    assert (size.trees, size.nodes, size.depth) == (1, 5, 2)  # 5/3 rounded


def test_a_tree_that_is_a_circle_ends():
    from deepen.graph.types import Node

    node = Node("t", "TreeEnsembleRegressor", "ai.onnx.ml", ("x",), ("y",), {
        "nodes_treeids": (0, 0, 0), "nodes_nodeids": (0, 1, 2), "nodes_truenodeids": (1, 2, 1),
        "nodes_falsenodeids": (2, 1, 2),
    })  # fmt: skip
    assert measure_tree_ensemble(node).trees == 1


def test_transforms_cost_n_log_n_and_odd_lengths_three_longer_ones():
    assert count_transform_ops(1024) < 2.3 * count_transform_ops(512)
    assert 4 < count_transform_ops(400) / count_transform_ops(512) < 9
    assert count_transform_ops(1) > 0


@pytest.mark.parametrize("reduction", ["none", "add", "max"])
def test_scattering_costs_by_the_update_whatever_the_size_of_the_result(reduction):
    work = {}
    for rows, updates in ((8, 100), (8, 1000), (80, 1000)):
        node = helper.make_node("ScatterElements", ["x", "i", "u"], ["y"], name="node", axis=0, reduction=reduction)
        graph = helper.make_graph(
            [node], "g", [helper.make_tensor_value_info(name, kind, [size, 3])
                          for name, kind, size in (("x", 1, rows), ("i", 7, updates), ("u", 1, updates))],
            [helper.make_tensor_value_info("y", 1, [rows, 3])])  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        loaded = load_graph_from_proto(model)
        work[rows, updates] = count_node_ops(loaded.nodes[0], loaded)
    assert work[8, 1000] == work[80, 1000] == 10 * work[8, 100] >= 1000 * 3 * 6 * SCALAR


def custom_model() -> onnx.ModelProto:
    nodes = [
        helper.make_node("StringSplit", ["s"], ["words", "n"], name="split", delimiter=" "),
        helper.make_node("Mystery", ["x"], ["y"], name="mystery", domain="com.example"),
    ]
    return helper.make_model(
        helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("s", 8, [3]), helper.make_tensor_value_info("x", 1, [3, 4])],
            [helper.make_tensor_value_info("words", 8, [3, 2]), helper.make_tensor_value_info("n", 7, [3]),
             helper.make_tensor_value_info("y", 1, [3, 4])]),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)], ir_version=9,
    )  # fmt: skip


def test_operators_nobody_knows_are_counted_by_their_sizes_and_named():
    graph = load_graph_from_proto(custom_model())
    notes = note_estimated_work(graph.nodes)
    assert any("Mystery" in note and "StringSplit" not in note for note in notes)
    assert any("StringSplit" in note and "Mystery" not in note for note in notes)
    mystery = next(n for n in graph.nodes if n.name == "mystery")
    assert count_node_ops(mystery, graph) == 8 * (12 + 12)


def test_a_foreign_operator_with_a_familiar_name_is_not_taken_for_it():
    model = custom_model()
    model.graph.node[1].op_type = "ZipMap"
    graph = load_graph_from_proto(model)
    assert any("ZipMap" in note for note in note_estimated_work(graph.nodes))


def test_a_split_names_what_it_estimated():
    model, _ = OPERATOR_MODELS["StringConcat"](2, np.random.default_rng(0)).build()
    assert any("StringConcat" in note for note in split_graph(load_graph_from_proto(model)).warnings)


@pytest.mark.parametrize("operator", ["RotaryEmbedding", "com.microsoft.RotaryEmbedding"])
def test_both_forms_of_rotary_embedding_are_one_family(operator):
    kernel = describe(operator, 2)
    want = {"dtype": "float32", "batch": 1, "heads": 2, "tokens": 8, "head_dim": 8, "turned": 8}
    assert (kernel.family, kernel.params) == ("rotary", want)
