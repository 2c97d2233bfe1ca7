"""Splitting by rules: the engine, the rule files, and how well the rules know ONNX Runtime."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deepen import catalog
from deepen.errors import ConfigError
from deepen.graph import Graph, load_graph
from deepen.kernels.splitting.fusion_rules import list_rule_names, load_rules
from deepen.kernels.splitting.split import split_graph
from deepen.kernels.types import ModelSplit

Make = Callable[..., Graph]
Weights = Callable[..., np.ndarray]
BASE = "version = 1\n"


@pytest.fixture
def rules_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Installs a rule file named ``mine`` in a catalogue of its own (the families are the real ones)."""

    def install(text: str) -> None:
        folder = tmp_path / "catalog" / "kernels"
        (folder / "rules").mkdir(parents=True)
        (folder / "rules" / "mine.toml").write_text(BASE + text, encoding="utf-8")
        shutil.copytree(catalog.find_path("kernels", "families"), folder / "families")
        monkeypatch.setenv("DEEPEN_CATALOG", str(folder.parent))

    return install


def ops(found: ModelSplit) -> list[tuple[str, ...]]:
    return [k.op_types for k in found.kernels]


@pytest.mark.parametrize("runtime", ["onnxruntime", "tflite-cpu"])
def test_every_verdict_has_evidence(runtime: str) -> None:
    rules = load_rules(runtime)
    assert rules.runtime == runtime
    for verdict, evidence in [*rules.pairs.values(), *((p.verdict, p.evidence) for p in rules.patterns)]:
        assert verdict in ("fuse", "keep", "undecided")
        assert len(evidence) > 20


def test_there_is_a_file_for_the_runtime_that_is_usually_asked() -> None:
    assert {"onnxruntime", "tflite-cpu"} <= set(list_rule_names())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[[pair]]\nfirst = "Conv"\nsecond = "Relu"\nverdict = "fuse"\n', "no evidence"),
        ('[[pair]]\nfirst = "Conv"\nsecond = "Relu"\nverdict = "yes"\nevidence = "e"\n', "verdict out of"),
        ('[[pair]]\nfirst = "Conv"\nverdict = "fuse"\nevidence = "e"\n', "broken entry"),
        ('[[pattern]]\nname = "p"\nverdict = "fuse"\nevidence = "e"\n', "has no nodes"),
        (
            '[[pattern]]\nname = "p"\nverdict = "fuse"\nevidence = "e"\nnodes = [{id="a",op="Mul",inputs=["b"]}]',
            "unknown operand",
        ),
    ],
)
def test_broken_rule_files_name_the_problem(rules_for: Callable[[str], None], text: str, problem: str) -> None:
    rules_for(text)
    with pytest.raises(ConfigError, match=problem):
        load_rules("mine")


PAIR = '[[pair]]\nfirst = "{0}"\nsecond = "{1}"\nverdict = "{2}"\nevidence = "a test"\n'


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        ("fuse", [("Relu", "Exp"), ("Sqrt",)]),
        ("keep", [("Relu",), ("Exp",), ("Sqrt",)]),
        ("undecided", [("Relu",), ("Exp",), ("Sqrt",)]),
    ],
)
def test_only_fuse_fuses(
    make_graph: Make, rules_for: Callable[[str], None], verdict: str, expected: list[tuple[str, ...]]
) -> None:
    rules_for(PAIR.format("Relu", "Exp", verdict))
    graph = make_graph(
        [("Relu", ["x"], ["a"], {}), ("Exp", ["a"], ["b"], {}), ("Sqrt", ["b"], ["y"], {})], {"x": (2, 3)}, ["y"]
    )
    found = split_graph(graph, "mine")
    assert ops(found) == expected
    assert (found.method, found.evidence) == ("rules", "kernels/rules/mine.toml, version 1")


def test_a_result_read_twice_or_handed_out_does_not_fuse(make_graph: Make, rules_for: Callable[[str], None]) -> None:
    rules_for(PAIR.format("Relu", "Exp", "fuse") + PAIR.format("Exp", "Sqrt", "fuse"))
    graph = make_graph(
        [
            ("Relu", ["x"], ["a"], {}),
            ("Exp", ["a"], ["b"], {}),
            ("Sqrt", ["b"], ["y"], {}),
            ("Neg", ["a"], ["z"], {}),
        ],
        {"x": (2, 3)},
        ["y", "b", "z"],
    )
    assert ops(split_graph(graph, "mine")) == [("Relu",), ("Exp",), ("Sqrt",), ("Neg",)]


def test_chains_grow_and_look_through_folded_nodes(make_graph: Make, rules_for: Callable[[str], None]) -> None:
    rules_for('folded = ["Identity"]\n' + PAIR.format("Relu", "Exp", "fuse") + PAIR.format("Exp", "Sqrt", "fuse"))
    graph = make_graph(
        [
            ("Relu", ["x"], ["a"], {}),
            ("Identity", ["a"], ["i"], {}),
            ("Exp", ["i"], ["b"], {}),
            ("Sqrt", ["b"], ["y"], {}),
        ],
        {"x": (2, 3)},
        ["y"],
    )
    found = split_graph(graph, "mine")
    assert ops(found) == [("Relu", "Exp", "Sqrt")]
    assert found.folded == ("n1",)


def test_depthwise_is_a_class_of_its_own(make_graph: Make, rules_for: Callable[[str], None], weights: Weights) -> None:
    rules_for(PAIR.format("DepthwiseConv", "Relu", "fuse"))
    graph = make_graph(
        [
            ("Conv", ["x", "w1"], ["a"], {}),
            ("Relu", ["a"], ["b"], {}),
            ("Conv", ["b", "w2"], ["c"], {"group": 8}),
            ("Relu", ["c"], ["y"], {}),
        ],
        {"x": (1, 4, 8, 8)},
        ["y"],
        {"w1": weights(8, 4, 1, 1), "w2": weights(8, 1, 3, 3)},
    )
    assert ops(split_graph(graph, "mine")) == [("Conv",), ("Relu",), ("Conv", "Relu")]


GATED = """
[[pattern]]
name = "gated"
verdict = "fuse"
evidence = "a test"
nodes = [
    { id = "gate", op = "Sigmoid", inputs = ["x"] },
    { id = "out", op = "Mul", inputs = ["x", "gate"] },
]
"""


@pytest.mark.parametrize("order", [["x", "s"], ["s", "x"]])
def test_patterns_match_structure_in_any_order(
    make_graph: Make, rules_for: Callable[[str], None], order: list[str]
) -> None:
    rules_for(GATED)
    graph = make_graph([("Sigmoid", ["x"], ["s"], {}), ("Mul", order, ["y"], {})], {"x": (2, 3)}, ["y"])
    assert ops(split_graph(graph, "mine")) == [("Sigmoid", "Mul")]


def test_pattern_needs_the_same_input_and_no_outside_reader(make_graph: Make, rules_for: Callable[[str], None]) -> None:
    rules_for(GATED)
    other = make_graph(
        [("Sigmoid", ["x"], ["s"], {}), ("Mul", ["z", "s"], ["y"], {})], {"x": (2, 3), "z": (2, 3)}, ["y"]
    )
    assert ops(split_graph(other, "mine")) == [("Sigmoid",), ("Mul",)]
    read = make_graph([("Sigmoid", ["x"], ["s"], {}), ("Mul", ["x", "s"], ["y"], {})], {"x": (2, 3)}, ["y", "s"])
    assert ops(split_graph(read, "mine")) == [("Sigmoid",), ("Mul",)]


def channel_shuffle(make_graph: Make, shape: list[int], after: list[int]) -> Graph:
    return make_graph(
        [
            ("Reshape", ["x", "apart"], ["a"], {}),
            ("Transpose", ["a"], ["b"], {"perm": [0, 2, 1, 3, 4]}),
            ("Reshape", ["b", "joined"], ["y"], {}),
        ],
        {"x": (1, 8, 4, 4)},
        ["y"],
        {"apart": np.array(shape, np.int64), "joined": np.array(after, np.int64)},
    )


def test_channel_shuffle_keeps_its_shape(make_graph: Make) -> None:
    """A window partition is written with the same operators and is none."""
    shuffle = split_graph(channel_shuffle(make_graph, [1, 2, 4, 4, 4], [1, 8, 4, 4]), "tflite-cpu")
    assert [k.family for k in shuffle.kernels] == ["channelshuffle"]
    window = split_graph(channel_shuffle(make_graph, [1, 2, 4, 4, 4], [8, 4, 2, 2]), "tflite-cpu")
    assert [k.family for k in window.kernels] == ["reshape", "transpose", "reshape"]


def test_squeeze_and_excitation_is_one_kernel_by_rules(make_graph: Make, weights: Weights) -> None:
    graph = make_graph(
        [
            ("GlobalAveragePool", ["x"], ["p"], {}),
            ("Conv", ["p", "w1", "b1"], ["c1"], {}),
            ("Relu", ["c1"], ["r"], {}),
            ("Conv", ["r", "w2", "b2"], ["c2"], {}),
            ("Sigmoid", ["c2"], ["g"], {}),
            ("Mul", ["x", "g"], ["y"], {}),
        ],
        {"x": (1, 32, 7, 7)},
        ["y"],
        {"w1": weights(8, 32, 1, 1), "b1": weights(8), "w2": weights(32, 8, 1, 1), "b2": weights(32)},
    )
    found = split_graph(graph, "tflite-cpu")
    assert [k.family for k in found.kernels] == ["se"]
    assert found.macs == split_graph(graph).macs == 2 * 32 * 8


@pytest.mark.parametrize("runtime", ["onnxruntime", "tflite-cpu"])
def test_pattern_and_pair_rules_together(make_graph: Make, weights: Weights, runtime: str) -> None:
    ones = np.ones(16, np.float32)
    graph = make_graph(
        [
            ("Conv", ["x", "w"], ["c"], {}),
            ("BatchNormalization", ["c", "one", "one", "one", "one"], ["n"], {}),
            ("Relu", ["n"], ["r"], {}),
            ("Add", ["r", "x"], ["s"], {}),
            ("Relu", ["s"], ["y"], {}),
        ],
        {"x": (1, 16, 8, 8)},
        ["y"],
        {"w": weights(16, 16, 1, 1), "one": ones},
    )
    from deepen.kernels.splitting import fusion_rules as engine
    from deepen.kernels.splitting.split import _GraphSplitter

    work = _GraphSplitter(graph, ())
    work.apply_fusion_rules(engine.load_rules(runtime))
    tail = [("Add", "Relu")] if runtime == "tflite-cpu" else [("Add",), ("Relu",)]
    assert [tuple(n.op_type for n in p.nodes) for p in work.pieces] == [("Conv", "BatchNormalization", "Relu"), *tail]


AGREEMENT = {"squeezenet": 1.0, "resnet50": 1.0, "vgg19": 1.0, "shufflenet": 1.0, "densenet121": 1.0}


@pytest.mark.parametrize("name", AGREEMENT)
def test_rules_agree_with_the_runtime(name: str, light_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Share of the runtime's kernels that the fallback rules find with exactly the same nodes."""
    graph = load_graph(light_dir / f"light_{name}.onnx")
    asked = Counter(frozenset(k.node_names) for k in split_graph(graph).kernels)
    monkeypatch.setattr("deepen.kernels.splitting.onnxruntime_graph.is_onnxruntime_available", lambda: False)
    ruled = Counter(frozenset(k.node_names) for k in split_graph(graph).kernels)
    assert (asked & ruled).total() >= AGREEMENT[name] * asked.total()
