"""Shapes behind the operators of ai.onnx.ml are those of a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from deepen.graph import load_graph_from_proto

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


def trees(kind: str, outputs: int) -> dict[str, Any]:
    """Attributes of an ensemble of one tree with two leaves."""
    nodes = {
        "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [0, 0, 0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"], "nodes_values": [0.0, 0.0, 0.0],
        "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0],
    }  # fmt: skip
    names = {"treeids": [0, 0], "nodeids": [1, 2], "ids": [0, outputs - 1], "weights": [1.0, 2.0]}
    return {**nodes, **{f"{kind}_{name}": values for name, values in names.items()}}


ONE_OUTPUT: dict[str, tuple[str, dict[str, Any]]] = {
    "scaler": ("Scaler", {"offset": [0.0], "scale": [2.0]}),
    "normaliser": ("Normalizer", {"norm": "L2"}),
    "binarizer": ("Binarizer", {"threshold": 0.5}),
    "imputer": ("Imputer", {"imputed_value_floats": [1.0], "replaced_value_float": 0.0}),
    "one_hot": ("OneHotEncoder", {"cats_int64s": [0, 1, 2], "zeros": 1}),
    "linear": ("LinearRegressor", {"coefficients": [0.1] * 12, "intercepts": [0.0] * 3, "targets": 3}),
    "trees": ("TreeEnsembleRegressor", {**trees("target", 2), "n_targets": 2}),
    "vectors": (
        "SVMRegressor",
        {"coefficients": [1.0, 1.0], "support_vectors": [0.1] * 8, "n_supports": 2, "rho": [0.0], "kernel_type": "RBF",
         "kernel_params": [0.1, 0.0, 3.0]},
    ),
    "labels": ("LabelEncoder", {"keys_floats": [0.0, 1.0], "values_int64s": [3, 4]}),
}  # fmt: skip

CLASSIFIERS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": (
        "LinearClassifier", {"coefficients": [0.1] * 12, "intercepts": [0.0] * 3, "classlabels_ints": [0, 1, 2]},
    ),
    "linear_of_one_score": (
        "LinearClassifier", {"coefficients": [0.1] * 4, "intercepts": [0.0], "classlabels_strings": ["a", "b"]},
    ),
    "trees": ("TreeEnsembleClassifier", {**trees("class", 3), "classlabels_int64s": [5, 6, 7]}),
    "vectors": (
        "SVMClassifier",
        {"coefficients": [1.0] * 6, "support_vectors": [0.1] * 12, "vectors_per_class": [1, 1, 1], "rho": [0.0] * 3,
         "kernel_type": "RBF", "kernel_params": [0.1, 0.0, 3.0], "classlabels_ints": [0, 1, 2]},
    ),
    "linear_vectors": (
        "SVMClassifier",
        {"coefficients": [0.1] * 16, "rho": [0.0],
         "kernel_type": "LINEAR", "kernel_params": [0.1, 0.0, 3.0], "classlabels_ints": [0, 1, 2, 3]},
    ),
}  # fmt: skip


def build(op_type: str, attributes: dict[str, Any], outputs: list[str], shape: tuple[int, ...] = (6, 4)) -> Any:
    value = helper.make_tensor_value_info
    node = helper.make_node(op_type, ["x"], outputs, "n", domain="ai.onnx.ml", **attributes)
    declared = [value(name, TensorProto.UNDEFINED, None) for name in outputs]
    for output in declared:
        output.ClearField("type")
    graph = helper.make_graph([node], "g", [value("x", FLOAT, shape)], declared)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def run(model: Any, shape: tuple[int, ...] = (6, 4)) -> list[np.ndarray]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": np.zeros(shape, np.float32)}))


@pytest.mark.parametrize("name", ONE_OUTPUT)
def test_one_output(name: str) -> None:
    model = build(*ONE_OUTPUT[name], ["y"])
    (y,) = run(model)
    found = load_graph_from_proto(model).tensors["y"]
    assert (found.shape, found.dtype) == (y.shape, y.dtype.name)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_labels_and_scores(name: str) -> None:
    model = build(*CLASSIFIERS[name], ["label", "scores"])
    label, scores = run(model)
    tensors = load_graph_from_proto(model).tensors
    assert tensors["label"].shape == label.shape
    assert tensors["label"].dtype == ("string" if label.dtype == object else label.dtype.name)
    assert tensors["scores"].shape == scores.shape


def test_features_are_extracted_and_joined(models: Any) -> None:
    node = helper.make_node("ArrayFeatureExtractor", ["x", "at"], ["h"], domain="ai.onnx.ml")
    join = helper.make_node("FeatureVectorizer", ["h", "x"], ["y"], domain="ai.onnx.ml", inputdimensions=[3, 4])
    at = numpy_helper.from_array(np.array([0, 2, 1]), "at")
    built = models.model([node, join], [models.tensor("x", 6, 4)], [models.unshaped("y")], [at])
    (y,) = run(built)
    tensors = load_graph_from_proto(built).tensors
    assert (tensors["h"].shape, tensors["y"].shape) == ((6, 3), y.shape)


def test_a_pipeline_has_shapes_to_its_end(models: Any) -> None:
    nodes = [
        helper.make_node("Scaler", ["x"], ["s"], domain="ai.onnx.ml", offset=[0.0], scale=[1.0]),
        helper.make_node("MatMul", ["s", "w"], ["h"]),
        helper.make_node("Normalizer", ["h"], ["n"], domain="ai.onnx.ml"),
        helper.make_node("MatMul", ["n", "v"], ["y"]),
    ]
    weights = [models.weight("w", 8, 16), models.weight("v", 16, 4)]
    loaded = load_graph_from_proto(models.model(nodes, [models.tensor("x", 5, 8)], [models.unshaped("y")], weights))
    assert {name: loaded.tensors[name].shape for name in "shny"} == {
        "s": (5, 8),
        "h": (5, 16),
        "n": (5, 16),
        "y": (5, 4),
    }
