"""The stand-in without weights makes the runtime decide as the real model does."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from deepen.errors import GraphError, StorageError
from deepen.graph import Graph, load_graph, load_graph_from_proto
from deepen.kernels.splitting import onnxruntime_graph
from deepen.kernels.splitting.skeleton_model import build_skeleton_model
from deepen.kernels.splitting.split import split_graph
from tests.support.operator_models import make_tree_attributes, make_tree_ensemble_5

Make = Callable[..., Path]
Weights = Callable[..., np.ndarray]


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(n.op_type for n in model.graph.node)


def tensors(model: onnx.ModelProto) -> set[tuple[str, str]]:
    return {(n.op_type, n.output[0]) for n in model.graph.node}


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "densenet121", "resnet50"])
def test_same_graph_as_with_weights(name: str, light_dir: Path, optimised: Callable, tmp_path: Path) -> None:
    path = light_dir / f"light_{name}.onnx"
    assert tensors(onnxruntime_graph.get_executed_graph(load_graph(path)).model) == tensors(optimised(path, tmp_path))


@pytest.mark.parametrize("name", ["inception_v1", "inception_v2"])
def test_equal_computed_weights_are_merged_before_they_are_folded(
    name: str, light_dir: Path, optimised: Callable, tmp_path: Path
) -> None:
    """These files make equal weights for parallel branches: the runtime runs such branches once. It may keep either."""
    path = light_dir / f"light_{name}.onnx"
    assert kinds(onnxruntime_graph.get_executed_graph(load_graph(path)).model) == kinds(optimised(path, tmp_path))


def conv_chain(make_model: Make, weights: Weights, **options: object) -> Path:
    """Conv+BN+Relu, Conv+Mul, grouped Conv+BN, a plain Conv and a linear layer, with weights of their own."""
    bn = {f"{p}{i}": abs(weights(64)) + 0.5 for p in ("scale", "shift", "mean", "var") for i in (1, 3)}
    return make_model(
        [
            ("Conv", ["x", "w1"], ["a1"], {"pads": [1, 1, 1, 1]}),
            ("BatchNormalization", ["a1", "scale1", "shift1", "mean1", "var1"], ["b1"], {}),
            ("Relu", ["b1"], ["r1"], {}),
            ("Conv", ["r1", "w2"], ["a2"], {}),
            ("Mul", ["a2", "factor"], ["m2"], {}),
            ("Conv", ["m2", "w3"], ["a3"], {"group": 8}),
            ("BatchNormalization", ["a3", "scale3", "shift3", "mean3", "var3"], ["b3"], {}),
            ("Conv", ["b3", "w4"], ["a4"], {}),
            ("Flatten", ["a4"], ["f"], {}),
            ("MatMul", ["f", "w5"], ["mm"], {}),
            ("Add", ["mm", "b5"], ["y"], {}),
        ],
        {"x": (1, 16, 12, 12)},
        ["y"],
        {
            "w1": weights(64, 16, 3, 3),
            "w2": weights(64, 64, 1, 1),
            "w3": weights(64, 8, 3, 3),
            "w4": weights(32, 64, 3, 3),
            "w5": weights(32 * 8 * 8, 10),
            "b5": weights(10),
            "factor": weights(64, 1, 1),
            **bn,
        },
        **options,
    )


def test_scaled_weights_are_cut_and_the_verdict_kept(
    make_model: Make, weights: Weights, optimised: Callable, tmp_path: Path
) -> None:
    path = conv_chain(make_model, weights)
    graph = load_graph(path)
    asked = onnxruntime_graph.get_executed_graph(graph).model
    assert tensors(asked) == tensors(optimised(path, tmp_path))
    assert kinds(asked)["BatchNormalization"] == kinds(asked)["Mul"] == 0  # the scaling fusions did happen
    cut = {t.name: list(t.dims) for t in onnx.ModelProto.FromString(build_skeleton_model(graph).data).graph.initializer}
    assert cut["w1"] == [64, 1, 1, 1]
    assert cut["w4"] == [32, 64, 3, 3]  # nothing scales it


def test_old_files_list_constants_as_inputs(
    make_model: Make, weights: Weights, optimised: Callable, tmp_path: Path
) -> None:
    """Before IR version 4 an initialiser had to be listed as an input and still was a constant."""
    path = conv_chain(make_model, weights, ir_version=3, opset=9, inputs_list_constants=True)
    assert tensors(onnxruntime_graph.get_executed_graph(load_graph(path)).model) == tensors(optimised(path, tmp_path))


def test_overridable_initialisers_are_no_constants(
    make_model: Make, weights: Weights, optimised: Callable, tmp_path: Path
) -> None:
    """From IR version 4 on a listed initialiser may be replaced by the caller, so the runtime must not fold it."""
    path = conv_chain(make_model, weights, inputs_list_constants=True)
    asked = onnxruntime_graph.get_executed_graph(load_graph(path)).model
    assert tensors(asked) == tensors(optimised(path, tmp_path))
    assert kinds(asked)["BatchNormalization"] == 2


@pytest.mark.parametrize("elements", [8, 9, 4096])
def test_distinct_weights_stay_distinct(make_model: Make, elements: int) -> None:
    """All large constants alias one zero-filled file; products with them must not be taken for the same."""
    values = np.arange(elements, dtype=np.float32)
    path = make_model(
        [("Mul", ["x", "w1"], ["a"], {}), ("Mul", ["x", "w2"], ["b"], {}), ("Concat", ["a", "b"], ["y"], {"axis": 1})],
        {"x": (1, elements)},
        ["y"],
        {"w1": values, "w2": values + 1},
    )
    assert kinds(onnxruntime_graph.get_executed_graph(load_graph(path)).model)["Mul"] == 2


def test_small_constants_keep_their_values(make_model: Make) -> None:
    """GELU is recognised by the square root of two; another number is another function."""

    def gelu(root: float) -> Graph:
        return load_graph(
            make_model(
                [
                    ("Div", ["x", "root"], ["d"], {}),
                    ("Erf", ["d"], ["e"], {}),
                    ("Add", ["e", "one"], ["s"], {}),
                    ("Mul", ["x", "s"], ["g"], {}),
                    ("Mul", ["g", "half"], ["y"], {}),
                ],
                {"x": (1, 4096)},
                ["y"],
                {"root": np.float32(root), "one": np.float32(1), "half": np.float32(0.5)},
            )
        )

    assert kinds(onnxruntime_graph.get_executed_graph(gelu(2**0.5)).model) == {"Gelu": 1}
    assert kinds(onnxruntime_graph.get_executed_graph(gelu(1.7)).model)["Erf"] == 1


def test_nothing_large_is_built_or_written(light_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """VGG-19 makes 575 MB of weights by ConstantOfShape; the question and the answer are kilobytes."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    graph = load_graph(light_dir / "light_vgg19.onnx")
    stand_in = build_skeleton_model(graph)
    answer = onnxruntime_graph.get_executed_graph(graph)
    assert stand_in.largest_bytes == 25088 * 4096 * 4
    assert len(stand_in.data) < 100_000
    assert answer.model.ByteSize() < 100_000
    assert list(tmp_path.iterdir()) == []  # temporary files are gone


def test_graph_is_not_changed(light_dir: Path) -> None:
    graph = load_graph(light_dir / "light_squeezenet.onnx")
    before = graph.model.SerializeToString()
    build_skeleton_model(graph)
    assert graph.model.SerializeToString() == before


def test_refused_model_is_one_line(make_model: Make) -> None:
    path = make_model([("NoSuchOperator", ["x"], ["y"], {"domain": "com.microsoft"})], {"x": (1, 2)}, ["y"])
    with pytest.raises(GraphError, match=r"ONNX Runtime \S+ does not know .*NoSuchOperator") as caught:
        onnxruntime_graph.get_executed_graph(load_graph(path))
    assert "\n" not in str(caught.value)


def test_no_room_for_temporary_files(make_model: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    graph = load_graph(make_model([("Relu", ["x"], ["y"], {})], {"x": (1, 2)}, ["y"]))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(StorageError, match="TMPDIR"):
        onnxruntime_graph.get_executed_graph(graph)


@pytest.mark.parametrize("op_type", ["TreeEnsembleRegressor", "TreeEnsembleClassifier", "TreeEnsemble"])
def test_the_runtime_is_asked_about_large_ensembles_without_their_trees(op_type: str) -> None:
    generator = np.random.default_rng(0)
    if op_type == "TreeEnsemble":
        attributes = make_tree_ensemble_5(generator, 100, 6, 16)
    else:
        classes = op_type == "TreeEnsembleClassifier"
        attributes = make_tree_attributes(generator, 100, 6, 16, "class" if classes else "target")
        attributes |= {"classlabels_int64s": [0, 1, 2]} if classes else {"n_targets": 1}
    names = ["y", "z"] if op_type == "TreeEnsembleClassifier" else ["y"]
    node = helper.make_node(op_type, ["x"], names, name="trees", domain="ai.onnx.ml", **attributes)
    version = 5 if op_type == "TreeEnsemble" else 3
    written = {"y": onnx.TensorProto.INT64 if len(names) == 2 else onnx.TensorProto.FLOAT}
    model = helper.make_model(
        helper.make_graph(
            [node], "g", [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [8, 16])],
            [helper.make_tensor_value_info(name, kind, None) for name, kind in written.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", version)],
        ir_version=8,
    )  # fmt: skip
    assert model.ByteSize() > 1 << 16
    graph = load_graph_from_proto(model)
    split = split_graph(graph)
    assert [kernel.op_types for kernel in split.kernels] == [(op_type,)]
    assert len(build_skeleton_model(graph).data) < 4096
