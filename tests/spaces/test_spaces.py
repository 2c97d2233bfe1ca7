"""Search spaces: identity, moves, listing, and a user's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepen.errors import ConfigError
from deepen.graph import load_graph_from_proto
from deepen.spaces import GeneratedSpace, open_space
from deepen.spaces.graph_hash import hash_graph
from deepen.spaces.network_writer import NetworkWriter

CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|"


def network(depth: int, width: int, seed: int = 0) -> Any:
    net = NetworkWriter(True, seed)
    x, before = "image", 3
    for _ in range(depth):
        x, before = net.conv_bn_relu(x, before, width, 3), width
    return net.finish("made", 8, x, before, 4)


def grid() -> Iterator[tuple[dict[str, int], Any]]:
    for depth in (1, 2, 3):
        for width in (4, 8):
            yield {"depth": depth, "width": width}, network(depth, width)


@pytest.mark.parametrize(("vertices", "cells"), [(3, 7), (4, 91)])
def test_cells_of_small_spaces_are_counted_as_published(vertices: int, cells: int) -> None:
    members = open_space(f"nasbench101?vertices={vertices}").members()
    assert members is not None
    assert len(members) == len(set(members)) == cells


@pytest.mark.slow
def test_the_5v_space_has_as_many_cells_as_published() -> None:
    members = open_space("nasbench101?vertices=5").members()
    assert members is not None
    assert len(members) == 2532


def test_large_spaces_are_not_listed() -> None:
    assert open_space("nasbench101").members() is None


@pytest.mark.parametrize("name", ["nasbench201", "nasbench101?vertices=4", "nasbench101"])
def test_genomes_and_moves(name: str) -> None:
    space = open_space(name)
    rng = np.random.default_rng(0)
    arch = CELL if name == "nasbench201" else "111.01.1:conv3x3-bn-relu,maxpool3x3"
    seen = set()
    for _ in range(100):
        assert space.decode(space.encode(arch)) is not None
        assert space.key(str(space.decode(space.encode(arch)))) == space.key(arch)
        moved = space.mutate(arch, rng)
        assert space.canonical(moved) == moved
        assert space.key(moved) != space.key(arch)
        arch = moved
        seen.add(space.key(arch))
    assert len(seen) > 15


def test_moves_of_nasbench201_change_two_edges_on_average() -> None:
    space = open_space("nasbench201")
    rng = np.random.default_rng(0)
    start = np.array(space.encode(CELL))
    changes = [int((np.array(space.encode(space.mutate(CELL, rng))) != start).sum()) for _ in range(2000)]
    # Expected 2, given that at least one changes: 2 / (1 - (2/3)^6).
    assert np.mean(changes) == pytest.approx(2 / (1 - (2 / 3) ** 6), abs=0.08)


def test_cells_beyond_the_space_are_refused() -> None:
    with pytest.raises(ConfigError, match="at most 4"):
        open_space("nasbench101?vertices=4").canonical("1100.010.01.1:conv3x3-bn-relu,maxpool3x3,maxpool3x3")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nasbench21", "nasbench201"),
        ("nasbench201?class=10", "classes"),
        ("nasbench201?classes=ten", "whole number"),
        ("nasbench101?vertices=9", "3 to 7"),
        ("missing.py:networks", "no such file"),
    ],
)
def test_unknown_spaces_are_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_space(name)


def test_counted_kernels_equal_split_ones() -> None:
    space = open_space("nasbench101?vertices=3")
    archs = ["1:", "11.1:maxpool3x3"]
    kernels, counts = space.kernel_counts(archs, "onnxruntime")
    assert counts.shape == (2, len(kernels))
    macs = counts @ np.array([k.macs for k in kernels])
    convs = [sum(n.op_type == "Conv" for n in g.nodes) for g in space.graphs(archs)]
    assert convs == [10, 19]
    assert macs[1] > macs[0] > 0


def test_a_users_own_space(tmp_path: Path) -> None:
    space = GeneratedSpace(grid)
    assert space.members() == [f"depth={d},width={w}" for d in (1, 2, 3) for w in (4, 8)]
    assert space.levels == (3, 2)
    assert space.decode(space.encode("depth=2,width=8")) == "depth=2,width=8"
    assert len({space.key(a) for a in space.members()}) == 6
    assert space.mutate("depth=1,width=4", np.random.default_rng(0)) != "depth=1,width=4"
    model = space.model("depth=3,width=4")
    assert sum(n.op_type == "Conv" for n in model.graph.node) == 3
    depths = [sum(n.op_type == "Conv" for n in g.nodes) for g in space.graphs(space.members())]
    assert depths == [1, 1, 2, 2, 3, 3]


def test_a_space_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from deepen.spaces.nasbench101_networks import build_model, parse_cell\n"
        "def networks():\n"
        "    for text in ('1:', '11.1:maxpool3x3'):\n"
        "        yield text, build_model(parse_cell(text), resolution=8, weights=False)\n"
    )
    space = open_space(f"{file}:networks")
    assert space.members() == ["1:", "11.1:maxpool3x3"]
    with pytest.raises(ConfigError, match="no function 'nets'"):
        open_space(f"{file}:nets")


def test_the_same_network_again_is_left_out_and_said_so() -> None:
    space = GeneratedSpace(lambda: iter([("a", network(1, 4)), ("b", network(1, 4, seed=9)), ("c", network(1, 8))]))
    assert list(space.members()) == ["a", "c"]
    assert space.repeated == {"b": "a"}
    assert space.canonical("b") == "a"


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "yields no network"),
        ([1], "no pair"),
        ([("a", network(1, 4)), ("a", network(2, 4))], "twice"),
        ([("", network(1, 4))], "printable"),
    ],
)
def test_what_is_no_space_is_refused(items: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GeneratedSpace(lambda: iter(items), "mine")


def test_a_function_that_fails_is_named() -> None:
    def broken() -> Iterator[Any]:
        yield "a", network(1, 4)
        raise RuntimeError("out of ideas")

    with pytest.raises(ConfigError, match="mine failed: RuntimeError: out of ideas"):
        GeneratedSpace(broken, "mine")


def test_identity_ignores_names_order_and_weights_but_not_structure() -> None:
    def renamed(model: Any) -> Any:
        import onnx

        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        for node in copy.graph.node:
            node.name = "x" + node.name
            for k, name in enumerate(node.output):
                if not any(o.name == name for o in copy.graph.output):
                    node.output[k] = "x" + name
            for k, name in enumerate(node.input):
                if any(n.output[0] == "x" + name for n in copy.graph.node):
                    node.input[k] = "x" + name
        return copy

    base = hash_graph(load_graph_from_proto(network(2, 4)))
    assert hash_graph(load_graph_from_proto(renamed(network(2, 4)))) == base
    assert hash_graph(load_graph_from_proto(network(2, 4, seed=5))) == base
    assert hash_graph(load_graph_from_proto(network(3, 4))) != base
    assert hash_graph(load_graph_from_proto(network(2, 8))) != base
