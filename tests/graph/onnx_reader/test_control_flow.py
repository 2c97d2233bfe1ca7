"""Bodies of If, Loop and Scan: names, executions, shapes."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from deepen.graph import ReadOptions, UnknownPart, load_graph_from_proto
from deepen.kernels.splitting.split import split_graph


def runs(graph):
    return {node.name: node.multiplicity for node in graph.nodes}


@pytest.mark.parametrize(("condition", "conv", "add"), [(True, 1, 0), (False, 0, 1)])
def test_if_with_a_known_condition_counts_the_branch_taken(models, condition, conv, add):
    graph = load_graph_from_proto(models.branching(condition))
    assert runs(graph)["choose.then_branch/Conv_0"] == conv
    assert runs(graph)["choose.else_branch/Add_0"] == add
    assert graph.warnings == ()


def test_if_with_an_unknown_condition_counts_the_costlier_branch_and_says_so(models):
    graph = load_graph_from_proto(models.branching())
    assert runs(graph) == {"choose": 1, "choose.then_branch/Conv_0": 1, "choose.else_branch/Add_0": 0, "Relu_1": 1}
    said = "the condition of 'choose' is not known; its costlier branch (then_branch) is counted"
    assert graph.warnings == (f"{said}; choose with --branch cond=false",)
    assert graph.unknowns == ()


@pytest.mark.parametrize("name", ["choose", "cond"])
@pytest.mark.parametrize(("holds", "conv", "add"), [(True, 1, 0), (False, 0, 1)])
def test_a_branch_is_chosen_by_the_node_or_by_the_input_that_decides(models, name, holds, conv, add):
    graph = load_graph_from_proto(models.branching(), ReadOptions(branches={name: holds}))
    assert (runs(graph)["choose.then_branch/Conv_0"], runs(graph)["choose.else_branch/Add_0"]) == (conv, add)
    assert graph.warnings == ()
    kernels = [kernel for kernel in split_graph(graph).kernels if kernel.macs]
    assert bool(kernels) == holds


def test_bodies_are_flattened_with_scoped_names(models):
    graph = load_graph_from_proto(models.branching(True))
    node = next(node for node in graph.nodes if node.op_type == "Conv")
    assert node.scope == "choose.then_branch"
    assert node.inputs == ("x", "w")
    assert node.outputs == ("choose.then_branch/t",)
    assert graph.tensors["choose.then_branch/t"].shape == (1, 4, 8, 8)
    assert [n.op_type for n in graph.nodes] == ["If", "Conv", "Add", "Relu"]


def test_a_branch_that_is_never_taken_may_be_impossible(models):
    """Exports of squeeze check the size first; the other branch contradicts the shapes and never runs."""
    squeeze = helper.make_graph([helper.make_node("Squeeze", ["x", "axis"], ["s"])], "then", [], [models.unshaped("s")])
    keep = helper.make_graph([helper.make_node("Identity", ["x"], ["k"])], "else", [], [models.unshaped("k")])
    nodes = [
        helper.make_node("Shape", ["x"], ["dims"]),
        helper.make_node("Gather", ["dims", "at"], ["size"]),
        helper.make_node("Equal", ["size", "one"], ["cond"]),
        helper.make_node("If", ["cond"], ["y"], then_branch=squeeze, else_branch=keep),
    ]
    weights = [numpy_helper.from_array(np.array(1, np.int64), name) for name in ("at", "one")] + [
        models.ints("axis", 1)
    ]
    built = models.model(nodes, [models.tensor("x", 2, "C")], [models.unshaped("y")], weights)
    kept = load_graph_from_proto(built, {"x": (2, 5)})
    assert kept.outputs[0].shape == (2, 5)
    assert kept.warnings == ()
    assert load_graph_from_proto(built, {"x": (2, 1)}).outputs[0].shape == (2,)


def test_a_value_that_comes_out_of_a_known_branch_is_known(models):
    make = helper.make_node("Constant", [], ["s"], value_ints=[3, 2])
    then_graph = helper.make_graph([make], "then", [], [models.unshaped("s", models.INT64)])
    nodes = [
        helper.make_node("If", ["cond"], ["shape"], then_branch=then_graph, else_branch=then_graph),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    cond = numpy_helper.from_array(np.array(True), "cond")
    graph = load_graph_from_proto(models.model(nodes, [models.tensor("x", 6)], [models.unshaped("y")], [cond]))
    assert graph.outputs[0].shape == (3, 2)


@pytest.mark.parametrize("trips", [0, 1, 5])
def test_loop_with_a_constant_trip_count(models, trips):
    graph = load_graph_from_proto(models.looping(trips))
    assert {node.multiplicity for node in graph.nodes if node.scope} == {trips}
    assert runs(graph)["loop"] == 1
    assert graph.tensors["loop.body/m"].shape == (2, 8)
    assert [tensor.shape for tensor in graph.outputs] == [(2, 8), (trips, 2, 8)]
    assert graph.warnings == ()


def test_loop_that_stops_after_the_first_round(models):
    graph = load_graph_from_proto(models.looping(5, stop=True))
    assert {node.multiplicity for node in graph.nodes if node.scope} == {1}
    assert graph.outputs[1].shape == (1, 2, 8)
    assert graph.warnings == ()


@pytest.mark.parametrize("kwargs", [{"trips": None}, {"trips": 2**62}, {"trips": 2**62, "condition": "c"}])
def test_loop_of_unknown_length_counts_once_and_says_so(models, kwargs):
    graph = load_graph_from_proto(models.looping(**kwargs))
    assert {node.multiplicity for node in graph.nodes if node.scope} == {1}
    rounds = "the number of rounds of 'loop' is not known"
    assert graph.warnings == (f"{rounds}; its body is counted once; give it with --rounds loop=N",)
    assert graph.unknowns == (UnknownPart("loop", "Loop", "rounds", rounds, "--rounds loop=N"),)
    assert graph.outputs[0].shape == (2, 8)
    assert graph.outputs[1].shape is None


@pytest.mark.parametrize("kwargs", [{"trips": None}, {"trips": 2**62}, {"trips": 5, "condition": "c"}, {"trips": 9}])
def test_the_rounds_that_the_user_gives_are_counted(models, kwargs):
    graph = load_graph_from_proto(models.looping(**kwargs), ReadOptions(rounds={"loop": 7}))
    assert {node.multiplicity for node in graph.nodes if node.scope} == {7}
    assert [tensor.shape for tensor in graph.outputs] == [(2, 8), (7, 2, 8)]
    assert (graph.warnings, graph.unknowns) == ((), ())


def test_the_largest_number_of_rounds_is_a_bound_where_data_ends_the_loop(models):
    graph = load_graph_from_proto(models.looping(5, condition="c"))
    assert {node.multiplicity for node in graph.nodes if node.scope} == {5}
    assert graph.warnings[0].startswith("'loop' runs at most 5 rounds, which is what is counted")
    assert graph.unknowns == ()


def test_a_state_that_grows_has_no_static_shape(models):
    graph = load_graph_from_proto(models.looping(3, grows=True))
    assert graph.tensors["loop.body/state"].shape is None
    assert graph.tensors["loop.body/m"].shape is None
    assert graph.outputs[0].shape is None
    assert {node.multiplicity for node in graph.nodes if node.scope} == {3}


def test_scan_runs_once_per_slice(models):
    graph = load_graph_from_proto(models.scanning())
    assert {node.multiplicity for node in graph.nodes if node.scope} == {7}
    assert graph.tensors["scan.body/item"].shape == (3, 4)
    assert [tensor.shape for tensor in graph.outputs] == [(3, 4), (7, 3, 4)]
    assert graph.warnings == ()


def nested(models, depth, trips):
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["r0"])], "inner", [], [models.tensor("r0", 2)])
    for level in range(1, depth + 1):
        body = helper.make_graph(
            [helper.make_node("If", ["yes"], [f"v{level}"], then_branch=graph, else_branch=graph)],
            f"body{level}",
            [models.tensor(f"i{level}", elem=models.INT64), models.tensor(f"c{level}", elem=models.BOOL)],
            [models.tensor(f"c{level}", elem=models.BOOL), models.tensor(f"v{level}", 2)],
        )
        loop = helper.make_node("Loop", ["trips", ""], [f"r{level}"], body=body)
        graph = helper.make_graph([loop], "g", [], [models.unshaped(f"r{level}")])
    weights = [models.ints("n", trips), numpy_helper.from_array(np.array(True), "yes")]
    weights[0] = numpy_helper.from_array(np.array(trips, np.int64), "trips")
    return models.model(list(graph.node), [models.tensor("x", 2)], list(graph.output), weights)


def test_nested_bodies_multiply(models):
    graph = load_graph_from_proto(nested(models, 2, 3))
    relus = [node for node in graph.nodes if node.op_type == "Relu"]
    assert sorted(node.multiplicity for node in relus) == [0, 0, 0, 9]
    taken = next(node for node in relus if node.multiplicity)
    assert taken.scope.count("then_branch") == 2
    assert taken.scope.count("body") == 2
    assert len({node.name for node in graph.nodes}) == len(graph.nodes)


def test_bodies_see_outer_tensors_but_have_names_of_their_own(models):
    """The body's ``x`` hides the outer one."""
    body = helper.make_graph(
        [helper.make_node("Neg", ["outer"], ["x"]), helper.make_node("Relu", ["x"], ["t"])], "b", [],
        [models.unshaped("t")],
    )  # fmt: skip
    nodes = [
        helper.make_node("Abs", ["x"], ["outer"]),
        helper.make_node("If", ["cond"], ["y"], "choose", then_branch=body, else_branch=body),
    ]
    cond = numpy_helper.from_array(np.array(True), "cond")
    graph = load_graph_from_proto(models.model(nodes, [models.tensor("x", 2)], [models.unshaped("y")], [cond]))
    relu = next(node for node in graph.nodes if node.op_type == "Relu")
    assert relu.inputs == ("choose.then_branch/x",)
    assert graph.tensors["choose.then_branch/x"].shape == (2,)


def test_an_operator_with_bodies_of_unknown_use_counts_them_once(models):
    body = helper.make_graph([helper.make_node("Relu", ["x"], ["t"])], "b", [], [models.unshaped("t")])
    node = helper.make_node("BeamSearch", ["x"], ["y"], "search", domain="com.microsoft", decoder=body)
    graph = load_graph_from_proto(models.model([node], [models.tensor("x", 2)], [models.unshaped("y")]))
    assert runs(graph) == {"search": 1, "search.decoder/Relu_0": 1}
    assert graph.warnings == ("how often the bodies of 'search' (BeamSearch) run is not known; counted once",)
    assert [(part.node, part.op_type, part.kind) for part in graph.unknowns] == [
        ("search", "com.microsoft.BeamSearch", "rounds")
    ]
