"""Lists that stay in the file: decoded they are what was written, and a large ensemble takes no memory of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from deepen.errors import GraphError
from deepen.graph import load_graph_from_proto
from deepen.graph.onnx_reader.long_lists import FLOATS, INTS, STRINGS, LongList, find_run_end
from deepen.graph.onnx_reader.without_weights import strip_weights
from deepen.kernels.splitting.split import split_graph

INT64 = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 300)
FLOAT32 = st.floats(width=32, allow_nan=False)


def serialise(name: str, values: list[Any]) -> bytes:
    """The fields of one list of ``AttributeProto``, unpacked."""
    return onnx.AttributeProto(**{name: values}).SerializeToString()


@settings(deadline=None)
@given(st.lists(INT64), st.lists(FLOAT32), st.lists(st.text(max_size=200)), st.integers(0, 3))
def test_a_list_is_decoded_as_written_up_to_where_its_run_ends(ints, floats, texts, tail):
    behind = onnx.AttributeProto(doc_string="x" * 300, ref_attr_name="\x40\x80" * tail).SerializeToString()
    for field, name, values in ((INTS, "ints", ints), (FLOATS, "floats", floats), (STRINGS, "strings", texts)):
        data = serialise(name, [v.encode() for v in values] if field == STRINGS else values)
        view = memoryview(data + behind)
        if field != STRINGS:
            assert find_run_end(view, field, 0, len(view)) == len(data)
        found = LongList(field, ((view[: len(data)], False),))
        assert len(found) == len(values)
        assert list(found) == values
        assert np.asarray(found).tolist() == values


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1), st.lists(FLOAT32, min_size=1))
def test_packed_pieces_are_decoded_too(ints, floats):
    packed = onnx.TensorProto(int64_data=ints).SerializeToString()  # this field is packed
    start = 2 if packed[1] < 0x80 else 3
    assert np.asarray(LongList(INTS, ((memoryview(packed)[start:], True),))).tolist() == ints
    raw = memoryview(np.array(floats, "<f4").tobytes())
    assert np.asarray(LongList(FLOATS, ((raw, True),))).tolist() == floats


def test_a_run_of_integers_across_chunks_ends_where_it_ends():
    values = list(range(1_000_000))
    data = serialise("ints", values)
    view = memoryview(data + b"\x6a\x01x")
    assert find_run_end(view, INTS, 0, len(view)) == len(data)
    assert np.array_equal(np.asarray(LongList(INTS, ((view[: len(data)], False),))), values)


@pytest.mark.parametrize("data", [b"\x40", b"\x40\x80", b"\x40" + b"\x80" * 11 + b"\x01"])
def test_a_damaged_run_is_an_error(data):
    with pytest.raises(GraphError, match="truncated or damaged"):
        find_run_end(memoryview(data), INTS, 0, len(data))


def make_ensemble(trees: int, classes: int = 0) -> onnx.ModelProto:
    """An ensemble of trees of three leaves each."""
    leaves = "class" if classes else "target"
    attributes: dict[str, Any] = {
        "nodes_treeids": np.repeat(np.arange(trees), 5).tolist(), "nodes_nodeids": list(range(5)) * trees,
        "nodes_featureids": [1, 0, 2, 0, 0] * trees, "nodes_values": [0.5, 0.0, 0.25, 0.0, 0.0] * trees,
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "BRANCH_GT", "LEAF", "LEAF"] * trees,
        "nodes_truenodeids": [1, 0, 3, 0, 0] * trees, "nodes_falsenodeids": [2, 0, 4, 0, 0] * trees,
        f"{leaves}_treeids": np.repeat(np.arange(trees), 3).tolist(), f"{leaves}_nodeids": [1, 3, 4] * trees,
        f"{leaves}_ids": [0] * 3 * trees, f"{leaves}_weights": [1.0, 2.0, 3.0] * trees,
    }  # fmt: skip
    attributes |= {"classlabels_int64s": list(range(classes))} if classes else {"n_targets": 1}
    node = helper.make_node(
        "TreeEnsembleClassifier" if classes else "TreeEnsembleRegressor", ["x"], ["y", "z"] if classes else ["y"],
        name="trees", domain="ai.onnx.ml", **attributes,
    )  # fmt: skip
    outputs = [helper.make_tensor_value_info("y", TensorProto.INT64 if classes else TensorProto.FLOAT, None)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [7, 4])]
    graph = helper.make_graph([node], "g", inputs, outputs)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)], ir_version=8
    )


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("trees", [2, 20_000])
def test_attributes_of_an_ensemble_are_the_same_in_the_file_and_in_memory(trees, classes):
    model = make_ensemble(trees, classes)
    graph = load_graph_from_proto(model)
    for attribute in model.graph.node[0].attribute:
        found, wanted = graph.nodes[0].attributes[attribute.name], helper.get_attribute_value(attribute)
        if attribute.type == onnx.AttributeProto.STRINGS:
            wanted = [text.decode() for text in wanted]
        assert np.array_equal(np.asarray(found), np.asarray(wanted)), attribute.name
    assert graph.model is not None
    assert graph.model.ByteSize() < 4096


def make_ensemble_of_version_5(trees: int) -> onnx.ModelProto:
    """An ensemble of trees of one node and two leaves each, some of its lists in tensors."""
    number = np.arange(trees)
    node = helper.make_node(
        "TreeEnsemble", ["x"], ["y"], name="trees", domain="ai.onnx.ml", n_targets=2, tree_roots=number.tolist(),
        nodes_featureids=[1] * trees, nodes_splits=numpy_helper.from_array(np.full(trees, 0.5, np.float32)),
        nodes_modes=numpy_helper.from_array(np.zeros(trees, np.uint8)),
        nodes_truenodeids=(2 * number).tolist(), nodes_falsenodeids=(2 * number + 1).tolist(),
        nodes_trueleafs=[1] * trees, nodes_falseleafs=[1] * trees, leaf_targetids=[0, 1] * trees,
        leaf_weights=numpy_helper.from_array(np.ones(2 * trees, np.float32)),
    )  # fmt: skip
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    return helper.make_model(
        helper.make_graph([node], "g", inputs, outputs),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 5)], ir_version=10,
    )  # fmt: skip


@pytest.mark.parametrize("trees", [3, 20_000])
def test_rows_can_be_given_for_an_ensemble_whatever_lists_stay_in_the_file(trees):
    """The library's inference compares the lengths of lists, which are not those it sees."""
    for model in (make_ensemble_of_version_5(trees), make_ensemble(trees)):
        graph = load_graph_from_proto(model, {"x": (64, 4)})
        assert graph.tensors["y"].shape == (64, 2 if model.graph.node[0].op_type == "TreeEnsemble" else 1)
        (kernel,) = split_graph(graph).kernels
        assert kernel.ops >= 64 * trees


def test_without_a_place_for_them_long_lists_are_copied():
    data = make_ensemble(20_000).SerializeToString()
    assert strip_weights(data) == data
