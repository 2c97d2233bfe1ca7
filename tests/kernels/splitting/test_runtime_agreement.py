"""What ONNX Runtime takes we take, and what it refuses we refuse, in our words: valid models with small faults."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deepen.errors import ConfigError, GraphError
from deepen.graph import load_graph, load_graph_from_proto
from deepen.graph.read_options import ReadOptions
from deepen.kernels.splitting.split import split_graph
from tests.support.model_faults import FAULTS, asks_runtime

FLOAT = TensorProto.FLOAT


def weight(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.random.default_rng(1).standard_normal(shape).astype(np.float32), name)


def build(nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], shape: tuple[int, ...], **opsets: int) -> Any:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [value("x", FLOAT, shape)], [value("y", FLOAT, None)], weights)
    domains = {node.domain for node in nodes} - {""}
    imports = [helper.make_opsetid("", opsets.get("opset", 17)), *(helper.make_opsetid(d, 1) for d in sorted(domains))]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def make_convnet() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("MaxPool", ["r"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "fw"], ["y"], "fc", transB=1),
    ]
    return build(nodes, [weight("w", 16, 3, 3, 3), weight("fw", 10, 256)], (1, 3, 8, 8))


def make_contributed() -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("FastGelu", ["h"], ["g"], "gelu", domain="com.microsoft"),
        helper.make_node("MatMul", ["g", "v"], ["y"], "last"),
    ]
    return build(nodes, [weight("w", 40, 50), weight("v", 50, 30)], (2, 40))


def make_branches() -> onnx.ModelProto:
    bodies = []
    for name, operator in (("then", "Relu"), ("else", "Neg")):
        node = helper.make_node(operator, ["h"], [f"{name}_out"], f"{name}_node")
        bodies.append(helper.make_graph([node], name, [], [helper.make_tensor_value_info(f"{name}_out", FLOAT, None)]))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("If", ["yes"], ["b"], "choose", then_branch=bodies[0], else_branch=bodies[1]),
        helper.make_node("MatMul", ["b", "v"], ["y"], "last"),
    ]
    weights = [weight("w", 40, 50), weight("v", 50, 30), numpy_helper.from_array(np.array(True), "yes")]
    return build(nodes, weights, (2, 40))


def make_attention() -> onnx.ModelProto:
    nodes = [
        helper.make_node("LayerNormalization", ["x", "s"], ["n"], "norm"),
        helper.make_node("MatMul", ["n", "w"], ["q"], "query"),
        helper.make_node("Transpose", ["q"], ["t"], "turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "t"], ["a"], "scores"),
        helper.make_node("Softmax", ["a"], ["p"], "softmax", axis=-1),
        helper.make_node("MatMul", ["p", "q"], ["y"], "mix"),
    ]
    return build(nodes, [weight("s", 16), weight("w", 16, 16)], (2, 5, 16))


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "convnet": make_convnet, "contributed": make_contributed, "branches": make_branches, "attention": make_attention,
}  # fmt: skip


def give_verdict(model: onnx.ModelProto) -> str:
    """Our verdict: empty if the model can be split, else the error."""
    try:
        split_graph(load_graph_from_proto(model))
    except GraphError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("fault", FAULTS)
def test_verdicts_agree(name: str, fault: str) -> None:
    seen = set()
    for seed in range(5):
        model = MODELS[name]()
        if not FAULTS[fault](model, np.random.default_rng(seed)) or (data := model.SerializeToString()) in seen:
            continue
        seen.add(data)
        theirs, ours = asks_runtime(model), give_verdict(model)
        if fault == "move_to_unknown_domain" and not ours:
            continue  # the file declares what the custom operator writes, so that the rest can be split
        assert bool(theirs) == bool(ours), f"seed {seed}: runtime '{theirs[:200]}', ours '{ours}'"
        assert len(ours) <= 400
        assert not re.search(r"onnxruntime::|\.cc:|\.h:|ONNXRuntimeError", ours), ours


def test_a_new_version_names_the_newest_that_is_taken() -> None:
    model = make_convnet()
    model.ir_version = 99
    assert re.search(r"IR version 99, but ONNX Runtime \S+ takes up to \d\d; upgrade onnxruntime", give_verdict(model))
    newest = int(re.findall(r"up to (\d+)", give_verdict(model))[0])
    model.ir_version = newest
    assert asks_runtime(model) == ""
    model = make_convnet()
    model.opset_import[0].version = 99
    newest = int(re.findall(r"up to (\d+)", give_verdict(model))[0])
    assert newest > 20


def test_an_old_operator_set_names_the_operator_and_the_way_out() -> None:
    model = build([helper.make_node("Relu", ["x"], ["y"], "relu")], [], (2, 3), opset=5)
    assert re.search(r"does not implement \w+ of operator set 5 .*; convert .* operator set 7", give_verdict(model))


def test_a_type_without_an_implementation_is_named() -> None:
    model = make_convnet()
    FAULTS["make_model_double"](model, np.random.default_rng(0))
    assert "does not implement Conv of operator set 17 for float64 (node 'conv')" in give_verdict(model)


def test_the_last_of_equal_initialisers_counts() -> None:
    model = make_convnet()
    model.graph.initializer.append(weight("fw", 12, 256))
    graph = load_graph_from_proto(model)
    assert graph.tensors["y"].shape == (1, 12)
    assert "initialiser 'fw' is defined twice; the last one counts" in split_graph(graph).warnings


def test_a_domain_that_the_runtime_knows_needs_no_import() -> None:
    model = make_contributed()
    del model.opset_import[1]
    found = split_graph(load_graph_from_proto(model))
    assert found.macs == 2 * 40 * 50 + 2 * 50 * 30
    assert any("'com.microsoft' is used but not imported" in note for note in found.warnings)


def make_custom(inside: bool = False, declared: bool = True) -> onnx.ModelProto:
    """Two convolutions with an activation of a domain nobody knows between them, the second reading it late."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "one", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Wave", ["r", "x"], ["s"], "wave", domain="mine"),
        helper.make_node("Add", ["s", "x"], ["a"], "add"),
        helper.make_node("Conv", ["a", "w"], ["y"], "two", pads=[1, 1, 1, 1]),
    ]
    model = build(nodes, [weight("w", 16, 16, 3, 3)], (1, 16, 8, 8))
    if declared:
        model.graph.value_info.append(helper.make_tensor_value_info("s", FLOAT, (1, 16, 8, 8)))
    return model


def test_a_custom_operator_of_declared_shape_is_a_kernel_of_its_own() -> None:
    found = split_graph(load_graph_from_proto(make_custom()))
    assert [(k.family, k.op_types) for k in found.kernels] == [
        ("conv-bn-relu", ("Conv", "Relu")), ("other", ("Wave",)), ("add", ("Add",)), ("conv-bn-relu", ("Conv",)),
    ]  # fmt: skip
    assert any("custom operator mine.Wave" in note for note in found.warnings)
    assert [(part.node, part.op_type) for part in found.unknowns] == [("wave", "mine.Wave")]


def test_a_custom_operator_of_unknown_shape_is_refused_with_the_way_out() -> None:
    model = make_custom(declared=False)
    verdict = give_verdict(model)
    assert "mine.Wave of node 'wave'" in verdict
    assert "--custom-ops" in verdict
    assert "--shape s=DIMS" in verdict
    assert split_graph(load_graph_from_proto(model, {"s": (1, 16, 8, 8)})).macs == 2 * 16 * 16 * 9 * 64


def test_a_custom_operator_of_unknown_shape_is_a_part_where_that_is_allowed() -> None:
    graph = load_graph_from_proto(make_custom(declared=False), ReadOptions(allow_unknown=True))
    found = split_graph(graph)
    (part,) = found.unknowns
    assert (part.node, part.kind, part.products) == ("wave", "shape", 1)
    assert found.macs == 16 * 16 * 9 * 64


def test_only_outputs_that_are_read_need_a_shape() -> None:
    model = make_custom(declared=False)
    model.graph.node[2].output.extend(["unread", "more"])
    assert "--shape s=DIMS" in give_verdict(model)
    assert "unread" not in give_verdict(model)
    assert split_graph(load_graph_from_proto(model, {"s": (1, 16, 8, 8)})).macs == 2 * 16 * 16 * 9 * 64


def test_a_library_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    library = str(tmp_path / "absent.so")
    with pytest.raises(ConfigError, match="cannot be loaded") as caught:
        split_graph(load_graph_from_proto(make_custom(), ReadOptions(custom_ops=(library,))))
    assert caught.value.subject == library
    assert len(str(caught.value)) <= 400


def test_an_error_of_a_file_keeps_its_cure_however_long_it_is(tmp_path: Path) -> None:
    model = make_convnet()
    model.graph.node[0].input[0] = "n" * 900
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(GraphError) as caught:
        load_graph(path)
    assert len(str(caught.value)) <= 400
