"""Inputs are filled so that ONNX Runtime takes them and the model does its work, however far the consumer is away."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from deepen.graph import ReadOptions, load_graph_from_proto
from deepen.graph.input_roles import DEFAULT_ROUNDS, fill_graph_inputs

INT64, INT32, FLOAT, BOOL = TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT, TensorProto.BOOL
LIMIT, STEPS, WIDTH = 11, 9, 4


class Builder:
    """A model made node by node."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.inputs: list[Any] = []

    def add(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], f"{op}_{name}", domain=domain, **attributes))
        return name

    def const(self, value: Any, dtype: Any = np.int64) -> str:
        self.weights.append(numpy_helper.from_array(np.array(value, dtype=dtype), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def input(self, name: str, elem: int, *shape: int) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, elem, list(shape)))
        return name

    def build(self, *outputs: str) -> ModelProto:
        made = [helper.make_tensor_value_info(name, 0, None) for name in outputs]
        for value in made:
            value.ClearField("type")
        graph = helper.make_graph(self.nodes, "g", self.inputs, made, self.weights)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def run(model: ModelProto, options: ReadOptions | None = None) -> tuple[dict[str, Any], list[Any]]:
    """Fill the inputs of a model and run it; returns what was filled and the outputs."""
    from onnx import shape_inference

    model = shape_inference.infer_shapes(model)
    graph = load_graph_from_proto(model, options)
    filled = fill_graph_inputs(graph, options)
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), quiet, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feeds = {
        info.name: filled[info.name].values if info.name in filled else rng.random(info.shape, np.float32)
        for info in graph.inputs
    }
    return filled, session.run(None, feeds)


def loop(builder: Builder, rounds: str) -> str:
    """Append a Loop that counts its rounds."""
    scalar = [helper.make_tensor_value_info(n, t, []) for n, t in (("i", INT64), ("go", BOOL), ("s", INT64))]
    out = [helper.make_tensor_value_info(n, t, []) for n, t in (("go2", BOOL), ("s2", INT64))]
    nodes = [helper.make_node("Identity", ["go"], ["go2"]), helper.make_node("Add", ["s", "one"], ["s2"])]
    one = numpy_helper.from_array(np.array(1, dtype=np.int64), "one")
    body = helper.make_graph(nodes, "body", scalar, out, [one])
    return builder.add("Loop", rounds, builder.const(True, np.bool_), builder.const(0), body=body)


# What a chain of operators may do to a vector of STEPS integers, without changing its shape in the end.
HOPS = {
    "cast": lambda b, x: b.add("Cast", b.add("Cast", x, to=INT32), to=INT64),
    "identity": lambda b, x: b.add("Identity", x),
    "reshape": lambda b, x: b.add("Reshape", x, b.const([-1])),
    "unsqueeze": lambda b, x: b.add("Squeeze", b.add("Unsqueeze", x, b.const([0])), b.const([0])),
    "slice": lambda b, x: b.add("Slice", x, b.const([0]), b.const([STEPS]), b.const([0])),
    "float": lambda b, x: b.add("Cast", b.add("Floor", b.add("Cast", x, to=FLOAT)), to=INT64),
    "plus": lambda b, x: b.add("Sub", b.add("Add", x, b.const(2)), b.const(2)),
    "shift": lambda b, x: b.add("Add", x, b.const(3)),
    "back": lambda b, x: b.add("Sub", x, b.const(1)),
    "double": lambda b, x: b.add("Mul", x, b.const(2)),
    "clip": lambda b, x: b.add("Clip", x, b.const(0), b.const(1000)),
    "concat": lambda b, x: b.add("Concat", x, axis=0),
}
KEEPS = sorted(set(HOPS) - {"shift", "back", "double"})


@settings(max_examples=60, deadline=None)
@given(hops=st.lists(st.sampled_from(sorted(HOPS)), max_size=6), name=st.sampled_from(["ids", "input.3", "positions"]))
def test_indices_are_in_range_at_any_depth(hops: list[str], name: str) -> None:
    offset, factor = 0, 1
    for hop in hops:  # the largest and the least index that the chain makes of an input of 0 or more
        offset, factor = {
            "shift": (offset + 3, factor), "back": (offset - 1, factor), "double": (2 * offset, 2 * factor)
        }.get(hop, (offset, factor))  # fmt: skip
    builder = Builder()
    x = builder.input(name, INT64, STEPS)
    for hop in hops:
        x = HOPS[hop](builder, x)
    rows = max(LIMIT, offset + factor * 3, 1)
    builder.add("Gather", builder.const(np.ones((rows, WIDTH)), np.float32), x)
    filled, (out,) = run(builder.build(f"t{len(builder.nodes) - 1}"))
    assert out.shape == (STEPS, WIDTH)
    assert filled[name].role in ("index", "position")


@settings(max_examples=40, deadline=None)
@given(
    hops=st.lists(st.sampled_from(KEEPS), max_size=6), consumer=st.sampled_from(["lstm", "gru", "reverse", "compare"])
)
def test_lengths_are_the_whole_length_at_any_depth(hops: list[str], consumer: str) -> None:
    builder = Builder()
    x = builder.input("input.7", INT64, STEPS)
    for hop in hops:
        x = HOPS[hop](builder, x)
    frames = builder.input("x", FLOAT, 7, STEPS, WIDTH)
    if consumer in ("lstm", "gru"):
        gates = 4 if consumer == "lstm" else 3
        weights = [builder.const(np.ones((1, gates * 2, n)) / 8, np.float32) for n in (WIDTH, 2)]
        y = builder.add(consumer.upper(), frames, *weights, "", builder.add("Cast", x, to=INT32), hidden_size=2)
        filled, (out,) = run(builder.build(y))
        assert np.abs(out[-1]).min() > 0  # the last step was computed
        assert (filled["input.7"].values == 7).all()
    elif consumer == "reverse":
        filled, (out,) = run(builder.build(builder.add("ReverseSequence", frames, x, time_axis=0, batch_axis=1)))
        assert (filled["input.7"].values == 7).all()
    else:
        steps = builder.add("Range", builder.const(0), builder.const(7), builder.const(1))
        mask = builder.add(
            "Less", builder.add("Unsqueeze", steps, builder.const([0])), builder.add("Unsqueeze", x, builder.const([1]))
        )
        filled, (out,) = run(builder.build(mask))
        assert out.all()
    assert filled["input.7"].role == "length"


@settings(max_examples=40, deadline=None)
@given(
    hops=st.lists(st.sampled_from(["cast", "identity", "plus", "float", "clip"]), max_size=6),
    wanted=st.none() | st.integers(1, 40),
)
def test_loops_run_rounds_at_any_depth(hops: list[str], wanted: int | None) -> None:
    builder = Builder()
    x = builder.input("n", INT64)
    for hop in hops:
        x = HOPS[hop](builder, x)
    y = loop(builder, x)
    options = ReadOptions(rounds={} if wanted is None else {builder.nodes[-1].name: wanted})
    filled, (out,) = run(builder.build(y), options)
    assert out == (wanted or DEFAULT_ROUNDS)
    assert filled["n"].role == "rounds"
    assert filled["n"].assumed == (wanted is None)


def test_a_mask_is_ones_by_its_consumer_or_its_name() -> None:
    builder = Builder()
    mask = builder.input("input.2", INT64, 1, STEPS)
    scores = builder.input("x", FLOAT, 1, STEPS)
    unseen = builder.add(
        "Mul",
        builder.add("Sub", builder.const(1, np.float32), builder.add("Cast", mask, to=FLOAT)),
        builder.const(-1e4, np.float32),
    )
    y = builder.add("Softmax", builder.add("Add", scores, unseen))
    named = builder.add("Cast", builder.input("attention_mask", INT64, 1, STEPS), to=FLOAT)
    filled, (out, _) = run(builder.build(y, named))
    assert filled["input.2"].role == filled["attention_mask"].role == "mask"
    assert (filled["input.2"].values == 1).all()
    assert (filled["attention_mask"].values == 1).all()
    assert out.max() < 1
    assert "x" not in filled  # random numbers, made by the device


@pytest.mark.parametrize("then", [True, False])
def test_a_condition_is_what_selects_the_branch_that_is_counted(then: bool) -> None:
    builder = Builder()
    flag, x = builder.input("use_cache_branch", BOOL, 1), builder.input("x", FLOAT, 1, WIDTH)
    weight = numpy_helper.from_array(np.ones((WIDTH, 64), dtype=np.float32), "w")
    out = helper.make_tensor_value_info("o", FLOAT, None)
    costly = helper.make_graph([helper.make_node("MatMul", [x, "w"], ["o"])], "a", [], [out], [weight])
    cheap = helper.make_graph([helper.make_node("Identity", [x], ["o"])], "b", [], [out])
    branches = {"then_branch": costly, "else_branch": cheap} if then else {"then_branch": cheap, "else_branch": costly}
    y = builder.add("If", flag, **branches)
    filled, (result,) = run(builder.build(y))
    assert filled["use_cache_branch"].values.tolist() == [then]
    assert result.shape == (1, 64)
    told, (result,) = run(builder.build(y), ReadOptions(branches={"use_cache_branch": not then}))
    assert told["use_cache_branch"].values.tolist() == [not then]
    assert result.shape == (1, WIDTH)


def test_the_sample_rate_that_a_branch_compares_with_is_given() -> None:
    builder = Builder()
    rate, x = builder.input("sr", INT64), builder.input("x", FLOAT, 1, WIDTH)
    weight = numpy_helper.from_array(np.ones((WIDTH, 64), dtype=np.float32), "w")
    out = helper.make_tensor_value_info("o", FLOAT, None)
    costly = helper.make_graph([helper.make_node("MatMul", [x, "w"], ["o"])], "a", [], [out], [weight])
    cheap = helper.make_graph([helper.make_node("Identity", [x], ["o"])], "b", [], [out])
    y = builder.add("If", builder.add("Equal", rate, builder.const(16000)), then_branch=costly, else_branch=cheap)
    filled, (result,) = run(builder.build(y))
    assert filled["sr"].values == 16000
    assert result.shape == (1, 64)


def test_padding_tokens_are_avoided_and_positions_count_on_behind_the_cache() -> None:
    builder = Builder()
    tokens, positions = builder.input("input_ids", INT64, 1, 200), builder.input("position_ids", INT64, 1, 5)
    past = builder.input("past_key_values.0.key", FLOAT, 1, 2, 6, 4)
    embedded = builder.add("Gather", builder.const(np.ones((4, 2)), np.float32), tokens)
    real = builder.add("Not", builder.add("Equal", tokens, builder.const(1)))
    placed = builder.add("Gather", builder.const(np.ones((32, 2)), np.float32), positions)
    filled, (_, seen, _, _) = run(builder.build(embedded, real, placed, builder.add("Identity", past)))
    assert seen.all()
    assert len(np.unique(filled["input_ids"].values)) == 3  # the vocabulary of 4 without the padding
    assert filled["position_ids"].values.tolist() == [[6, 7, 8, 9, 10]]


@pytest.mark.parametrize("inverted", [False, True])
def test_a_mask_that_hides_places_hides_none(inverted: bool) -> None:
    builder = Builder()
    mask, scores = builder.input("input.5", BOOL, 1, STEPS), builder.input("x", FLOAT, 1, STEPS)
    hides = builder.add("Not", mask) if inverted else mask
    y = builder.add("Softmax", builder.add("Where", hides, builder.const(-np.inf, np.float32), scores))
    filled, (out,) = run(builder.build(y))
    assert (filled["input.5"].values == inverted).all()
    assert out.min() > 0


def test_one_hot_codes_by_comparison_are_indices() -> None:
    builder = Builder()
    tokens = builder.input("input.1", INT64, 1, 64)
    codes = builder.add("Range", builder.const(0), builder.const(LIMIT), builder.const(1))
    filled, (out,) = run(
        builder.build(builder.add("Equal", builder.add("Unsqueeze", tokens, builder.const([2])), codes))
    )
    assert filled["input.1"].role == "index"
    assert (out.sum(axis=2) == 1).all()


def test_quantised_data_are_random() -> None:
    builder = Builder()
    pixels = builder.input("pixels", TensorProto.UINT8, 1, 3, 8, 8)
    filled, _ = run(builder.build(builder.add("Cast", pixels, to=FLOAT)))
    assert len(np.unique(filled["pixels"].values)) > 50
    assert filled["pixels"].role == "data"


def test_sizes_thresholds_and_divisors_make_sense() -> None:
    builder = Builder()
    boxes, scores = builder.input("boxes", FLOAT, 1, 50, 4), builder.input("scores", FLOAT, 1, 2, 50)
    most, iou = builder.input("a", INT64, 1), builder.input("b", FLOAT, 1)
    found = builder.add("NonMaxSuppression", boxes, scores, most, iou)
    k = builder.input("c", INT64, 1)
    builder.nodes.append(helper.make_node("TopK", [scores, k], ["values", "indices"], "topk"))
    quotient = builder.add("Div", builder.const(12), builder.input("d", INT64))
    repeated = builder.add("Tile", scores, builder.input("e", INT64, 3))
    filled, outputs = run(builder.build(found, "values", quotient, repeated))
    assert filled["a"].values == 50
    assert filled["b"].values == 0.5
    assert outputs[1].shape[-1] == 50
    assert outputs[2] == 12
    assert outputs[3].shape == (1, 2, 50)
