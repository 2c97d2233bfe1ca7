"""Given values fit their input or are refused; what was chosen, and what does no work, is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from deepen.errors import ConfigError, GraphError
from deepen.graph import ReadOptions
from deepen.measure.input_values import (
    choose_model_inputs,
    describe_inputs,
    fit_given_values,
    parse_input,
    warn_empty_outputs,
)


def write_loop(path: Path, symbol: Any = 4) -> Path:
    """Write a model that squares its input in a Loop of n rounds."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["more"]), helper.make_node("Mul", ["s", "s"], ["t"], "square")],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("s", TensorProto.FLOAT, None)],
        [value("more", TensorProto.BOOL, []), value("t", TensorProto.FLOAT, None)],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["n", "true", "x"], ["y"], "decode", body=body)],
        "g",
        [value("x", TensorProto.FLOAT, [1, symbol]), value("n", TensorProto.INT64, [])],
        [value("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(True), "true")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [("n=3", "n", 3), ("a=b=-1.5", "a=b", -1.5), ("flag=True", "flag", 1), ("f=false", "f", 0)],
)
def test_values_are_parsed(text: str, name: str, value: float) -> None:
    assert parse_input(text) == (name, value)


@pytest.mark.parametrize("text", ["n", "=3", "n=", "n=three", "n=nan", "n=inf", "n=absent.npy"])
def test_what_is_no_value_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the input|no such file"):
        parse_input(text)


ENTRIES = [
    {"name": "f", "shape": [2, 3], "type": "float32"},
    {"name": "i", "shape": [2, 3], "type": "tensor(int64)"},
    {"name": "u", "shape": [2, 3], "type": "uint8"},
    {"name": "b", "shape": [2, 3], "type": "bool"},
]
KINDS = {"f": np.float32, "i": np.int64, "u": np.uint8, "b": np.bool_}


@settings(deadline=None)
@given(
    name=st.sampled_from(sorted(KINDS)),
    array=hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_]),
        st.sampled_from([(), (2, 3), (3, 2), (2,), (0,)]),
        elements={"min_value": 0, "max_value": 1},
    ),
)
def test_values_keep_their_value_or_are_refused(name: str, array: Any) -> None:
    try:
        found = fit_given_values({name: array}, ENTRIES)[name]
    except ConfigError as error:
        assert f"'{name}'" in str(error)
        assert error.cure
        whole = array.dtype.kind == "f" and KINDS[name] is not np.float32
        assert whole or array.shape not in ((), (2, 3))
        return
    assert found.role == "given"
    assert found.values.shape == (2, 3)
    assert found.values.dtype == KINDS[name]
    assert (found.values == array.astype(found.values.dtype)).all()


@pytest.mark.parametrize(("name", "value"), [("i", 1.5), ("u", 300), ("u", -1), ("b", 2), ("i", 1e30)])
def test_a_number_that_the_type_cannot_hold_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match="cannot hold the given"):
        fit_given_values({name: value}, ENTRIES)


def test_an_unknown_input_and_a_type_without_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="no input 'x'; its inputs: f, i, u, b"):
        fit_given_values({"x": 1}, ENTRIES)
    with pytest.raises(ConfigError, match="has type string"):
        fit_given_values({"s": 1}, [{"name": "s", "shape": [1], "type": "tensor(string)"}])


def test_files_are_not_trusted(tmp_path: Path) -> None:
    short, objects, archive, text = (tmp_path / n for n in ("short.npy", "objects.npy", "archive.npy", "text.npy"))
    np.save(short, np.zeros((1000, 1000)))
    short.write_bytes(short.read_bytes()[:200])
    np.save(objects, np.array([{}], dtype=object), allow_pickle=True)
    with archive.open("wb") as file:
        np.savez(file, a=np.zeros(3))
    text.write_text("1 2 3")
    for path in (short, objects, archive, text):
        with pytest.raises(ConfigError, match=r"no array of numbers|an archive of arrays"):
            fit_given_values({"f": path}, ENTRIES)


def test_rounds_nobody_said_are_a_warning_and_those_said_are_none(tmp_path: Path) -> None:
    path = write_loop(tmp_path / "m.onnx")
    found = choose_model_inputs(path)
    assert found.filled["n"].role == "rounds"
    assert found.shapes == {}
    (warning,) = found.warnings
    assert warning.code == "inputs"
    assert "--input n=VALUE" in warning.text
    for options, given_values in ((ReadOptions(rounds={"decode": 3}), {}), (None, {"n": 5})):
        found = choose_model_inputs(path, options, given_values)
        assert found.warnings == ()
        assert found.filled["n"].values in (3, 5)


def test_a_loop_of_no_rounds_is_a_warning_with_the_input(tmp_path: Path) -> None:
    found = choose_model_inputs(write_loop(tmp_path / "m.onnx"), None, {"n": 0})
    told = [w.text for w in found.warnings]
    assert any("'decode' runs no round" in text and "--input n=VALUE" in text for text in told)


def test_open_shapes_are_the_error_of_the_graph_and_a_file_of_values_closes_them(tmp_path: Path) -> None:
    path = write_loop(tmp_path / "m.onnx", "width")
    with pytest.raises(GraphError, match="width"):
        choose_model_inputs(path)
    np.save(tmp_path / "x.npy", np.ones((1, 6), dtype=np.float32))
    found = choose_model_inputs(path, None, {"x": tmp_path / "x.npy"})
    assert found.shapes == {"x": (1, 6), "n": ()}
    assert found.filled["x"].values.shape == (1, 6)


def test_a_model_that_only_the_runtime_reads_is_left_to_it(tmp_path: Path) -> None:
    path = write_loop(tmp_path / "m.onnx")
    model = onnx.load(str(path))
    model.graph.node[0].domain = "nobody.knows"
    onnx.save(model, str(path))
    found = choose_model_inputs(path, None, {"n": 2})
    assert dict(found.given) == {"n": 2}
    assert choose_model_inputs(tmp_path / "m.tflite", None, {"n": 2}).given == {"n": 2}


def test_what_was_chosen_is_said_in_one_line(tmp_path: Path) -> None:
    found = choose_model_inputs(write_loop(tmp_path / "m.onnx"), None, {"x": 0.5})
    documents = {name: value.document() for name, value in found.filled.items()}
    assert describe_inputs(documents) == "n = 16 (rounds), x = 0.5 (given)"
    assert describe_inputs({"e": {"role": "index", "shape": [0], "low": None, "high": None}}) == "e empty"
    many = {f"i{k}": {"role": "mask", "shape": [1], "low": 1, "high": 1} for k in range(20)}
    assert describe_inputs(many).endswith("and 12 more")


def test_an_empty_output_is_a_warning() -> None:
    assert warn_empty_outputs([{"name": "y", "shape": [1, 3]}, {"name": "s", "shape": None}], {}) == []
    (warning,) = warn_empty_outputs([{"name": "boxes", "shape": [0, 4]}], {})
    assert "'boxes' (0x4)" in warning.text
    assert "input" in warning.text
