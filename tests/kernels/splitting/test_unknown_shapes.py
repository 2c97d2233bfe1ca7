"""Work behind a hidden shape is a named part, and of a matrix product an error of ``predict``; never a smaller sum."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from deepen.errors import GraphError
from deepen.graph import load_graph_from_proto
from deepen.graph.read_options import ReadOptions
from deepen.kernels.splitting.split import split_graph
from deepen.predictors.kernel_counts import KernelCounts

FLOAT = TensorProto.FLOAT


def make_chain(operators: list[str]) -> onnx.ModelProto:
    """Nodes one after another on a square matrix; ``secret`` is an operator that nobody knows."""
    nodes, weights, last = [], [], "x"
    for index, operator in enumerate(operators):
        out, name = f"t{index}", f"{operator}_{index}"
        if operator == "MatMul":
            weights.append(numpy_helper.from_array(np.ones((16, 16), np.float32), f"w{index}"))
            nodes.append(helper.make_node("MatMul", [last, f"w{index}"], [out], name))
        elif operator == "secret":
            nodes.append(helper.make_node("Secret", [last], [out], name, domain="mine"))
        elif operator == "Range":  # as many rows as an input says, then again a matrix of 16 columns
            nodes += [
                helper.make_node("Range", ["zero", "limit", "one"], [f"{out}a"], name),
                helper.make_node("Gather", [last, f"{out}a"], [out], f"{name}_take"),
            ]
        else:
            nodes.append(helper.make_node(operator, [last], [out], name))
        last = out
    weights += [numpy_helper.from_array(np.array(i), n) for n, i in (("zero", 0), ("one", 1))]
    value = helper.make_tensor_value_info
    inputs = [value("x", FLOAT, (16, 16)), value("limit", TensorProto.INT64, ())]
    graph = helper.make_graph(nodes, "g", inputs, [value(last, FLOAT, None)], weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def split(model: onnx.ModelProto, options: Any = None) -> Any:
    """Split by rules: they take operators that no runtime knows."""
    return split_graph(load_graph_from_proto(model, options), runtime="tflite-cpu")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["MatMul", "Relu", "Sigmoid", "secret", "Range"]), min_size=1, max_size=8))
def test_what_is_hidden_is_counted_behind_the_first_node_that_hides_it(operators: list[str]) -> None:
    found = split(make_chain(operators))
    hides = next((i for i, name in enumerate(operators[:-1]) if name in ("secret", "Range")), None)
    if operators[-1] in ("secret", "Range") and hides is None:
        hides = len(operators) - 1
    if hides is None:
        assert found.unknowns == ()
        assert found.macs == 16**3 * operators.count("MatMul")
        return
    behind = operators[hides + 1 :]
    parts = {part.node: part for part in found.unknowns}
    part = parts.pop(f"{operators[hides]}_{hides}")
    others = [f"{name}_{i}" for i, name in enumerate(operators) if name in ("secret", "Range") and i > hides]
    assert sorted(parts) == sorted(others)  # each unknown by itself, too
    assert not any(other.products for other in parts.values())
    assert part.kind == ("shape" if operators[hides] == "secret" else "size")
    assert part.products == behind.count("MatMul")
    assert found.macs == 16**3 * operators[:hides].count("MatMul")
    assert any(part.node in note and part.cure in note for note in found.warnings)


def test_the_cure_works_when_typed() -> None:
    model = make_chain(["MatMul", "secret", "MatMul", "Relu"])
    (part,) = split(model).unknowns
    name = part.cure.removeprefix("--shape ").removesuffix("=DIMS")
    answered = split(model, {name: (16, 16)})
    assert answered.macs == 2 * 16**3
    assert [(part.node, part.products) for part in answered.unknowns] == [("secret_1", 0)]  # its own work


def test_predict_refuses_products_of_hidden_shape_unless_a_bound_will_do(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(make_chain(["secret", "MatMul", "MatMul"]).SerializeToString())
    with pytest.raises(GraphError, match=r"mine\.Secret 'secret_0' .* 2 of them matrix products") as caught:
        KernelCounts.from_files([path], runtime="tflite-cpu")
    assert "--shape t0=" in caught.value.cure
    assert "--allow-unknown" in caught.value.cure
    assert len(str(caught.value)) < 400
    counts = KernelCounts.from_files([path], ReadOptions(allow_unknown=True), runtime="tflite-cpu")
    assert [part.node for part in counts.unknowns[0]] == ["secret_0"]
    given = KernelCounts.from_files([path], {"t0": (16, 16)}, runtime="tflite-cpu")
    assert given.column("macs").sum() == 16**3


def test_a_refusal_is_one_file_of_many(tmp_path: Path) -> None:
    for name, operators in (("bad", ["secret", "MatMul"]), ("good", ["MatMul"])):
        (tmp_path / f"{name}.onnx").write_bytes(make_chain(operators).SerializeToString())
    failures: dict[str, Any] = {}
    paths = [tmp_path / "bad.onnx", tmp_path / "good.onnx"]
    counts = KernelCounts.from_files(paths, runtime="tflite-cpu", failures=failures)
    assert counts.names == (str(paths[1]),)
    assert list(failures) == [str(paths[0])]


def test_a_size_that_only_a_run_decides_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(make_chain(["Range", "MatMul"]).SerializeToString())
    (unknowns,) = KernelCounts.from_files([path]).unknowns
    assert [(part.node, part.kind) for part in unknowns] == [("Range_0", "size")]


def test_an_operator_that_multiplies_matrices_without_a_formula_is_unknown_work() -> None:
    value = helper.make_tensor_value_info
    node = helper.make_node("SparseToDenseMatMul", ["a", "b"], ["y"], "product", domain="com.microsoft")
    graph = helper.make_graph(
        [node], "g", [value("a", FLOAT, (4, 4)), value("b", FLOAT, (4, 4))], [value("y", FLOAT, (4, 4))]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    (part,) = split(helper.make_model(graph, opset_imports=opsets, ir_version=9)).unknowns
    assert (part.node, part.products) == ("product", 1)


def test_sequences_hide_nothing(make_model: Callable[..., Path]) -> None:
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("SequenceConstruct", ["x", "x"], ["s"], "both"),
        helper.make_node("ConcatFromSequence", ["s"], ["y"], "join", axis=0),
    ]
    graph = helper.make_graph(nodes, "g", [value("x", FLOAT, (2, 3))], [value("y", FLOAT, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    assert split_graph(load_graph_from_proto(model)).unknowns == ()
