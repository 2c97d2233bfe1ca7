"""Mapping executed nodes back to the model's nodes, on hand-written graphs."""

from __future__ import annotations

import pytest

from deepen.errors import GraphError
from deepen.graph.types import Node
from deepen.kernels.splitting.node_mapping import ExecutedNode, MappedScope, map_scope


def node(name: str, op: str, inputs: str, outputs: str, **attributes: object) -> Node:
    return Node(name, op, "", tuple(inputs.split()), tuple(outputs.split()), attributes)


def run(name: str, op: str, inputs: str, outputs: str) -> ExecutedNode:
    domain, _, kind = op.rpartition(":")
    return ExecutedNode(name, kind, domain, tuple(inputs.split()), tuple(outputs.split()))


def mapped(nodes: list[Node], executed: list[ExecutedNode], outputs: str = "y", constant: str = "") -> MappedScope:
    return map_scope(nodes, executed, constant=set(constant.split()), outputs=set(outputs.split()), values={})


def groups(result: MappedScope) -> list[tuple[list[str], list[str]]]:
    return [([n.name for n in g.nodes], [r.op_type for r in g.runtime]) for g in result.groups]


CHAIN = [node("conv", "Conv", "x w", "a"), node("relu", "Relu", "a", "b"), node("pool", "MaxPool", "b", "y")]


def test_fused_nodes_are_found_between_tensors() -> None:
    result = mapped(CHAIN, [run("f", "com.microsoft:FusedConv", "x w", "b"), run("pool", "MaxPool", "b", "y")])
    assert groups(result) == [(["conv", "relu"], ["FusedConv"]), (["pool"], ["MaxPool"])]
    assert not result.folded
    assert not result.warnings
    assert result.groups[0].runtime[0].qualified == "com.microsoft.FusedConv"


def test_renamed_tensor_falls_back_to_the_node_name() -> None:
    executed = [
        run("conv", "Conv", "x w", "renamed"),
        run("relu", "Relu", "renamed", "b"),
        run("p", "MaxPool", "b", "y"),
    ]
    assert groups(mapped(CHAIN, executed)) == [(["conv"], ["Conv"]), (["relu"], ["Relu"]), (["pool"], ["MaxPool"])]


def test_inserted_casts_belong_to_the_kernel_they_serve() -> None:
    executed = [
        run("cast1", "Cast", "x", "x32"),
        run("conv", "Conv", "x32 w", "a32"),
        run("relu", "Relu", "a32", "b32"),
        run("cast2", "Cast", "b32", "b"),
        run("pool", "MaxPool", "b", "y"),
    ]
    assert groups(mapped(CHAIN, executed)) == [
        (["conv"], ["Cast", "Conv"]),
        (["relu"], ["Relu", "Cast"]),
        (["pool"], ["MaxPool"]),
    ]


def test_reshapes_put_around_a_fused_product_belong_to_it() -> None:
    nodes = [node("mm", "MatMul", "x w", "a"), node("add", "Add", "a b", "y")]
    executed = [
        run("r1", "Reshape", "x s", "x2"),
        run("g", "Gemm", "x2 w b", "g2"),
        run("r2", "Reshape", "g2 s", "y"),
    ]
    assert groups(mapped(nodes, executed, constant="w b s")) == [(["mm", "add"], ["Reshape", "Gemm", "Reshape"])]


def test_moved_transpose_keeps_a_kernel_of_its_own() -> None:
    nodes = [node("turn", "Transpose", "x", "t"), node("relu", "Relu", "t", "r"), node("out", "MaxPool", "r", "y")]
    executed = [
        run("relu", "Relu", "x", "r_early"),
        run("turn_2", "Transpose", "r_early", "r"),
        run("out", "MaxPool", "r", "y"),
    ]
    assert groups(mapped(nodes, executed)) == [
        (["relu"], ["Relu"]),
        (["turn"], ["Transpose"]),
        (["out"], ["MaxPool"]),
    ]


def test_cancelled_transposes_do_no_work() -> None:
    nodes = [node("t1", "Transpose", "x", "a"), node("relu", "Relu", "a", "b"), node("t2", "Transpose", "b", "y")]
    result = mapped(nodes, [run("relu", "Relu", "x", "y")])
    assert groups(result) == [(["relu"], ["Relu"])]
    assert sorted(result.folded) == ["t1", "t2"]


def test_constants_identities_and_dropout_are_folded() -> None:
    nodes = [
        node("shape", "Shape", "x", "s"),
        node("id", "Identity", "x", "i"),
        node("drop", "Dropout", "i", "d"),
        node("re", "Reshape", "d s", "y"),
    ]
    result = mapped(nodes, [run("re", "Reshape", "x s", "y")], constant="s")
    assert groups(result) == [(["re"], ["Reshape"])]
    assert sorted(result.folded) == ["drop", "id", "shape"]


def test_equal_nodes_run_once() -> None:
    nodes = [
        node("a", "Relu", "x", "ra"),
        node("b", "Relu", "x", "rb"),
        node("c", "Exp", "ra", "ea"),
        node("d", "Sqrt", "rb", "sb"),
        node("e", "Add", "ea sb", "y"),
    ]
    executed = [
        run("b", "Relu", "x", "rb"),
        run("c", "Exp", "rb", "ea"),
        run("d", "Sqrt", "rb", "sb"),
        run("e", "Add", "ea sb", "y"),
    ]
    result = mapped(nodes, executed)
    assert groups(result) == [(["b"], ["Relu"]), (["c"], ["Exp"]), (["d"], ["Sqrt"]), (["e"], ["Add"])]
    assert (result.folded, result.never_executed) == (["a"], ["a"])


def test_equal_chains_run_once() -> None:
    """The inner node of the merged chain is no tensor of the executed graph; it must not be counted all the same."""
    nodes = [
        node("c1", "Conv", "x w", "a1"),
        node("r1", "Relu", "a1", "b1"),
        node("c2", "Conv", "x w", "a2"),
        node("r2", "Relu", "a2", "b2"),
        node("e", "Add", "b1 b2", "y"),
    ]
    result = mapped(nodes, [run("f", "FusedConv", "x w", "b1"), run("e", "Add", "b1 b1", "y")])
    assert groups(result) == [(["c1", "r1"], ["FusedConv"]), (["e"], ["Add"])]
    assert sorted(result.never_executed) == ["c2", "r2"]
    assert not result.warnings


def test_equal_nodes_fused_differently_both_run() -> None:
    nodes = [
        node("c1", "Conv", "x w", "a1"),
        node("r1", "Relu", "a1", "b1"),
        node("c2", "Conv", "x w", "a2"),
        node("s2", "Sigmoid", "a2", "b2"),
        node("e", "Add", "b1 b2", "y"),
    ]
    executed = [run("f1", "FusedConv", "x w", "b1"), run("f2", "FusedConv", "x w", "b2"), run("e", "Add", "b1 b2", "y")]
    result = mapped(nodes, executed)
    assert groups(result) == [(["c1", "r1"], ["FusedConv"]), (["c2", "s2"], ["FusedConv"]), (["e"], ["Add"])]
    assert not result.folded


def test_dead_nodes_are_named() -> None:
    nodes = [*CHAIN, node("dead", "Exp", "b", "nobody")]
    result = mapped(nodes, [run("f", "FusedConv", "x w", "b"), run("pool", "MaxPool", "b", "y")])
    assert result.never_executed == ["dead"]
    assert "dead" in result.warnings[0]


def test_a_node_whose_output_moved_behind_it_is_not_lost() -> None:
    """The runtime kept the convolution's name and renamed what the activation wrote."""
    nodes = [node("conv", "Conv", "x w", "a"), node("relu", "Relu", "a", "b"), node("out", "MaxPool", "b", "y")]
    executed = [run("conv", "Conv", "x w", "other"), run("out", "MaxPool", "other", "y")]
    result = mapped(nodes, executed)
    assert sorted(n for names, _ in groups(result) for n in names) == ["conv", "out", "relu"]
    assert not result.folded


def test_a_vanished_computation_is_an_error_not_a_smaller_number() -> None:
    nodes = [node("a", "Exp", "x", "y"), node("lost", "Sin", "x", "z")]
    with pytest.raises(GraphError, match="'lost' \\(Sin\\)"):
        mapped(nodes, [run("a", "Exp", "x", "y")], outputs="y z")


def test_control_flow_is_a_container() -> None:
    nodes = [node("if", "If", "c", "y")]
    executed = [run("if", "If", "c", "y")]
    result = mapped(nodes, executed)
    assert result.containers == {"if": executed[0]}
    assert (groups(result), result.folded) == ([], ["if"])


def test_every_executed_node_is_somewhere() -> None:
    executed = [
        run("f", "FusedConv", "x w", "b"),
        run("pool", "MaxPool", "b", "y"),
        run("odd", "MemcpyToHost", "q", "p"),
    ]
    result = mapped(CHAIN, executed)
    assert sum(len(g.runtime) for g in result.groups) == len(executed)
    assert any("MemcpyToHost" in w for w in result.warnings)
