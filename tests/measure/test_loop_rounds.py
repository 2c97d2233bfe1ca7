"""Loops without rounds are found in the profile of a run, whatever is around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deepen.measure.loop_rounds import find_idle_loops

value = helper.make_tensor_value_info


def write_nested(path: Path) -> Path:
    """Write a Loop of n rounds in a Loop of m rounds, each beside other nodes."""
    constant = [numpy_helper.from_array(np.array(True), "true")]

    def body(own: str, nodes: list[Any]) -> onnx.GraphProto:
        scalars = [value(f"{own}_i", TensorProto.INT64, []), value(f"{own}_go", TensorProto.BOOL, [])]
        inputs = [*scalars, value(f"{own}_s", TensorProto.FLOAT, None)]
        outputs = [value(f"{own}_more", TensorProto.BOOL, []), value(f"{own}_t", TensorProto.FLOAT, None)]
        nodes = [helper.make_node("Identity", [f"{own}_go"], [f"{own}_more"]), *nodes]
        return helper.make_graph(nodes, own, inputs, outputs)

    inner = body("a", [helper.make_node("Mul", ["a_s", "a_s"], ["a_t"])])
    outer = body("b", [helper.make_node("Loop", ["n", "true", "b_s"], ["b_t"], "inner", body=inner)])
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Loop", ["m", "true", "r"], ["u"], "outer", body=outer),
        helper.make_node("Neg", ["u"], ["y"]),
    ]
    inputs = [value("x", TensorProto.FLOAT, [1, 8]), *(value(n, TensorProto.INT64, []) for n in "mn")]
    graph = helper.make_graph(nodes, "g", inputs, [value("y", TensorProto.FLOAT, None)], constant)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.mark.parametrize(
    ("m", "n", "idle"), [(0, 0, ("outer",)), (0, 3, ("outer",)), (2, 0, ("inner",)), (2, 3, ()), (1, 1, ())]
)
def test_idle_loops_are_found(m: int, n: int, idle: tuple[str, ...], tmp_path: Path) -> None:
    path = write_nested(tmp_path / "m.onnx")
    inputs = {"x": ((1, 8), "float32"), "m": ((), "int64"), "n": ((), "int64")}
    assert find_idle_loops(path, inputs, {"m": np.array(m), "n": np.array(n), "x": None}) == idle


def test_what_cannot_run_here_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no model")
    assert find_idle_loops(path, {"x": ((1,), "float32")}, {}) == ()
    assert find_idle_loops(path, {"x": ((1,), "int64")}, {}) == ()
