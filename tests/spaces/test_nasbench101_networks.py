"""NAS-Bench-101 cells: identity, channels and the network around them, against figures of the benchmark itself."""

from __future__ import annotations

import itertools
import json
import re
import tarfile
from math import prod
from pathlib import Path

import numpy as np
import pytest

from deepen.errors import ConfigError
from deepen.spaces.nasbench101_networks import OPERATIONS, NasBench101Cell, build_graph, build_model, parse_cell


def trainable(cell: NasBench101Cell) -> int:
    """Parameters that training changes: means and variances of batch normalisations are not among them."""
    model = build_model(cell, weights=False)
    fixed = {name for node in model.graph.node if node.op_type == "BatchNormalization" for name in node.input[3:]}
    floats = [t for t in model.graph.initializer if t.data_type == 1 and t.name not in fixed]
    return sum(prod(t.dims) for t in floats)


def test_every_cell_of_the_4v_space_has_the_hash_and_the_parameters_the_benchmark_gives(shared_dir: Path) -> None:
    graphs, parameters = {}, {}
    with tarfile.open(shared_dir / "data/ec_nas/train_results_4V.tar.gz") as archive:
        for member in archive:
            found = re.search(r"/([0-9a-f]{32})/repeat_1/results.json$", member.name)
            if found or "generated_graphs" in member.name:
                document = json.load(archive.extractfile(member))  # type: ignore[arg-type]
                if found:
                    parameters[found[1]] = document["trainable_params"]
                else:
                    graphs = document
    assert len(graphs) == 91
    for key, (matrix, labels) in graphs.items():
        cell = NasBench101Cell.make(matrix, [OPERATIONS[label] for label in labels[1:-1]])
        assert cell.hash == key
        assert trainable(cell) == parameters[key]


def test_hash_of_the_smallest_cell() -> None:
    assert parse_cell("1:").hash == "043721b9c7fe8c5fad811d47d83132ec"


def test_isomorphic_cells_share_a_hash() -> None:
    a = parse_cell("1101.001.01.1:conv3x3-bn-relu,maxpool3x3,conv1x1-bn-relu".replace("1101.001.01.1", "1100.010.01.1"))
    order = [0, 2, 1, 3, 4]
    matrix = np.array(a.matrix)[np.ix_(order, order)]
    if not (np.tril(matrix) == 0).all():
        pytest.fail("the test's own permutation is not topological")
    b = NasBench101Cell.make(matrix.tolist(), [a.operations[i - 1] for i in order[1:-1]])
    assert a != b
    assert a.hash == b.hash


def test_useless_vertices_are_left_out() -> None:
    cell = NasBench101Cell.make(
        [[0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]], ["maxpool3x3", "conv3x3-bn-relu"]
    )
    assert str(cell) == "1:"


@pytest.mark.parametrize("text", ["1:", "11.1:conv1x1-bn-relu", "111.01.1:conv3x3-bn-relu,maxpool3x3"])
def test_text_and_back(text: str) -> None:
    assert str(parse_cell(text)) == text


def test_operations_may_name_input_and_output() -> None:
    assert NasBench101Cell.make([[0, 1], [0, 0]], ["input", "output"]) == parse_cell("1:")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no NAS-Bench-101 cell"),
        ("0:", "no way leads"),
        ("11.1:conv5x5", "conv5x5"),
        ("11.1:", "1 operations"),
        ("1.1:maxpool3x3", "digits"),
        ("2:", "no NAS-Bench-101 cell"),
    ],
)
def test_malformed_cells_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_cell(text)


@pytest.mark.parametrize("matrix", [[[0]], [[0, 1], [1, 0]], [[0, 2], [0, 0]], [[0, 1]], [[0, 1, 1], [0, 0, 1]]])
def test_malformed_matrices_are_refused(matrix: list[list[int]]) -> None:
    with pytest.raises(ConfigError, match="NAS-Bench-101"):
        NasBench101Cell.make(matrix, ["maxpool3x3"] * (len(matrix) - 2))


def test_networks_run_whatever_the_channels_are() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    # Three vertices share 128 channels: 43, 43 and 42, so that one tensor has to be cut.
    cell = parse_cell(
        "1111.101.11.1:conv1x1-bn-relu,conv1x1-bn-relu,maxpool3x3".replace("1111.101.11.1", "1110.111.11.1")
    )
    session = onnxruntime.InferenceSession(build_model(cell, 7, 8).SerializeToString())
    (logits,) = session.run(None, {"image": np.ones((1, 3, 8, 8), np.float32)})
    assert logits.shape == (1, 7)
    assert np.isfinite(logits).all()


def test_graphs_have_no_weights_and_the_right_shapes() -> None:
    graph = build_graph(parse_cell("11.1:conv3x3-bn-relu"))
    assert [t.shape for t in graph.outputs] == [(1, 10)]
    widths = {graph.tensors[n.outputs[0]].shape[1] for n in graph.nodes if n.op_type == "Conv"}  # type: ignore[index]
    assert widths == {128, 256, 512}


def test_sizes_that_make_no_sense_are_refused() -> None:
    for classes, resolution in ((0, 32), (10, 2)):
        with pytest.raises(ConfigError, match="at least"):
            build_model(parse_cell("1:"), classes, resolution)


def test_all_cells_of_three_vertices() -> None:
    found = set()
    for bits in itertools.product((0, 1), repeat=3):
        for operation in OPERATIONS:
            matrix = [[0, bits[0], bits[1]], [0, 0, bits[2]], [0, 0, 0]]
            if bits[1] or (bits[0] and bits[2]):
                found.add(NasBench101Cell.make(matrix, [operation]).hash)
    assert len(found) == 7  # input to output, and three operations with and without the way around them
