"""Splitting models: invariants, control flow, quantised and half-precision models, and real architectures."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from deepen.errors import ConfigError, GraphError
from deepen.graph import Graph, load_graph
from deepen.kernels.describe import count_node_macs
from deepen.kernels.splitting import split as module
from deepen.kernels.splitting.split import list_split_runtimes, split_graph
from deepen.kernels.types import ModelSplit

Make = Callable[..., Graph]
Weights = Callable[..., np.ndarray]
MAC_OPS = {"Conv", "Gemm", "MatMul"}  # onnx-tool reads a transposed convolution's weight as a convolution's: left out


def check(graph: Graph, found: ModelSplit) -> None:
    """The promises, checked from outside."""
    names = [n for k in found.kernels for n in k.node_names]
    assert len(names) == len(set(names))
    missing = {n.name for n in graph.nodes} - set(names) - set(found.folded)
    assert not missing
    assert not set(names) & set(found.folded)
    by_name = {n.name: n for n in graph.nodes}
    worked = sum(count_node_macs(by_name[n], graph) for n in names if n in by_name)
    assert found.macs == worked == sum(k.macs for k in found.kernels)
    assert [k.name for k in found.kernels if k.family == "other"] == [name for name, _ in found.unassigned]


def families(found: ModelSplit) -> Counter[str]:
    return Counter(k.family for k in found.kernels)


def tool_macs(path: Path, shapes: Mapping[str, tuple[int, ...]] | None) -> dict[str, int]:
    """Multiply-accumulates of convolution, matmul and gemm nodes by first output, as onnx-tool counts them.

    It also counts the addition of a bias as one per output element, which is taken off here.
    """
    onnx_tool = pytest.importorskip("onnx_tool")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = onnx_tool.Model(str(path)).graph
        inputs = {n: np.zeros((shapes or {}).get(n) or graph.tensormap[n].get_shape(), np.float32) for n in graph.input}
        graph.shape_infer(inputs)
        graph.profile()
    found = {}
    for node in graph.nodemap.values():
        if node.op_type in MAC_OPS:
            macs = int(node.macs[0] if isinstance(node.macs, list | tuple) else node.macs)
            biased = len([i for i in node.input if i]) > 2
            out = int(np.prod(graph.tensormap[node.output[0]].get_shape()))
            found[node.output[0]] = macs - out * biased
    return found


def agrees_with_tool(path: Path, graph: Graph, found: ModelSplit, shapes: Mapping[str, tuple[int, ...]] | None) -> None:
    """MACs within 1 % of onnx-tool's for the same nodes."""
    theirs = tool_macs(path, shapes)
    running = {n for k in found.kernels for n in k.node_names}
    nodes = [n for n in graph.nodes if n.op_type in MAC_OPS and n.name in running and not n.scope]
    assert nodes
    expected = sum(theirs[n.outputs[0]] for n in nodes)
    assert sum(count_node_macs(n, graph) for n in nodes) == pytest.approx(expected, rel=0.01)


LIGHT = {
    "bvlc_alexnet": (15, 0.6546e9), "densenet121": (432, 2.8342e9), "inception_v1": (83, 1.3966e9),
    "inception_v2": (110, 1.8812e9), "resnet50": (90, 4.0892e9), "shufflenet": (137, 0.1247e9),
    "squeezenet": (39, 0.3492e9), "vgg19": (26, 19.632e9), "zfnet512": (15, 1.4817e9),
}  # fmt: skip
"""Kernels (as many as ONNX Runtime 1.31 executes nodes) and MACs that run."""


@pytest.mark.parametrize("name", LIGHT)
def test_light_models(name: str, light_dir: Path) -> None:
    path = light_dir / f"light_{name}.onnx"
    graph = load_graph(path)
    found = split_graph(graph)
    check(graph, found)
    assert not found.unassigned
    assert found.method == "oracle"
    assert found.macs == pytest.approx(LIGHT[name][1], rel=1e-3)
    assert sum(len(k.runtime_ops) for k in found.kernels) == LIGHT[name][0]
    agrees_with_tool(path, graph, found, None)


VAD = {"input": (1, 512), "state": (2, 1, 128)}
PACKAGED = [
    ("magika", "models/standard_v3_3/model.onnx", {"bytes": (1, 2048)}, False),  # onnx-tool lacks GlobalMaxPool
    ("nudenet", "320n.onnx", {"images": (1, 3, 320, 320)}, True),
    ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx", {"x": (1, 3, 640, 640)}, True),
    ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx", {"x": (1, 3, 48, 320)}, True),
    ("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": (1, 3, 48, 192)}, True),
    ("silero_vad", "data/silero_vad.onnx", VAD, False),  # its work is inside If bodies
    ("silero_vad", "data/silero_vad_16k_op15.onnx", VAD, False),
    ("silero_vad", "data/silero_vad_half.onnx", VAD, False),
    ("silero_vad", "data/silero_vad_op18_ifless.onnx", VAD, False),
    ("silero_vad", "data/silero_vad_16k_sequence.onnx", {"input": (4, 576)}, True),
    ("silero_vad", "data/silero_vad_openvino_16k.onnx", {}, False),
]


@pytest.mark.parametrize(("package", "inside", "shapes", "tool"), PACKAGED, ids=[p[1].split("/")[-1] for p in PACKAGED])
def test_models_inside_packages(
    packaged: Callable[[str, str], Path], package: str, inside: str, shapes: dict[str, tuple[int, ...]], tool: bool
) -> None:
    path = packaged(package, inside)
    graph = load_graph(path, shapes or None)
    found = split_graph(graph)
    check(graph, found)
    assert not found.unassigned
    assert found.macs > 0
    if tool:
        agrees_with_tool(path, graph, found, shapes)


def test_unnamed_nodes_and_rank_0_tensors(make_graph: Make) -> None:
    graph = make_graph(
        [("Relu", ["x"], ["a"], {}), ("Mul", ["a", "two"], ["b"], {}), ("Relu", ["b"], ["y"], {})],
        {"x": (1, 3, 4)},
        ["y"],
        {"two": np.float32(2)},
        names=False,
    )
    found = split_graph(graph)
    check(graph, found)
    assert [k.op_types for k in found.kernels] == [("Relu",), ("Mul",), ("Relu",)]


def test_if_with_known_condition_is_dissolved(make_model: Callable[..., Path], tmp_path: Path) -> None:
    """The branch taken fuses with its surroundings; the other does no work."""
    path = if_model(tmp_path, constant=True)
    graph = load_graph(path)
    found = split_graph(graph)
    check(graph, found)
    assert [k.op_types for k in found.kernels] == [("Conv", "Relu")]
    assert found.kernels[0].runtime_ops == ("com.microsoft.FusedConv",)
    assert any("else_branch" in name for name in found.folded)
    assert "choose" in found.folded


def test_if_with_unknown_condition_keeps_both_branches(tmp_path: Path) -> None:
    graph = load_graph(if_model(tmp_path, constant=False))
    found = split_graph(graph)
    check(graph, found)
    counted = {k.op_types: k.multiplicity for k in found.kernels}
    assert counted == {("Conv",): 1.0, ("Relu",): 1.0, ("Exp",): 0.0}


def if_model(folder: Path, *, constant: bool) -> Path:
    """``y = relu(conv(x, w)) if c else exp(x)``; the convolution lies in the branch, the activation behind it."""
    value = helper.make_tensor_value_info
    then = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["t"], name="conv", pads=[1, 1, 1, 1])], "then", [],
        [value("t", 1, [1, 4, 8, 8])],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("Exp", ["x"], ["e"], name="exp")], "else", [], [value("e", 1, [1, 4, 8, 8])]
    )
    nodes = [
        helper.make_node("If", ["c"], ["b"], name="choose", then_branch=then, else_branch=other),
        helper.make_node("Relu", ["b"], ["y"], name="relu"),
    ]
    weight = np.random.default_rng(0).standard_normal((4, 4, 3, 3), dtype=np.float32)
    constants = [onnx.numpy_helper.from_array(weight, "w")]
    inputs = [value("x", 1, [1, 4, 8, 8])]
    if constant:
        constants.append(onnx.numpy_helper.from_array(np.array(True), "c"))
    else:
        inputs.append(value("c", onnx.TensorProto.BOOL, []))
    graph = helper.make_graph(nodes, "g", inputs, [value("y", 1, None)], constants)
    path = folder / "if.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_loop_bodies_count_their_rounds(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"], name="go"),
            helper.make_node("MatMul", ["state", "w"], ["m"], name="product"),
            helper.make_node("Tanh", ["m"], ["next"], name="squash"),
        ],
        "body",
        [value("i", 7, []), value("go", 9, []), value("state", 1, [1, 64])],
        [value("on", 9, []), value("next", 1, [1, 64])],
    )
    weight = np.random.default_rng(0).standard_normal((64, 64), dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Loop", ["rounds", "go0", "x"], ["y"], name="loop", body=body)],
        "g",
        [value("x", 1, [1, 64])],
        [value("y", 1, None)],
        [
            onnx.numpy_helper.from_array(weight, "w"),
            onnx.numpy_helper.from_array(np.array(5, np.int64), "rounds"),
            onnx.numpy_helper.from_array(np.array(True), "go0"),
        ],
    )
    path = tmp_path / "loop.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    loaded = load_graph(path)
    found = split_graph(loaded)
    check(loaded, found)
    assert {k.op_types: (k.multiplicity, k.macs) for k in found.kernels} == {
        ("MatMul",): (5.0, 4096),
        ("Tanh",): (5.0, 0),
        ("Identity",): (5.0, 0),  # it writes an output of the body, so it does run
    }


def test_quantised_convolution_is_one_kernel(make_graph: Make, weights: Weights) -> None:
    """DequantizeLinear, Conv, QuantizeLinear run as one QLinearConv."""
    scale, zero = np.float32(0.05), np.uint8(128)
    graph = make_graph(
        [
            ("QuantizeLinear", ["x", "s", "z"], ["xq"], {}),
            ("DequantizeLinear", ["xq", "s", "z"], ["xd"], {}),
            ("DequantizeLinear", ["wq", "s", "wz"], ["wd"], {}),
            ("Conv", ["xd", "wd"], ["c"], {"pads": [1, 1, 1, 1]}),
            ("QuantizeLinear", ["c", "s", "z"], ["cq"], {}),
            ("DequantizeLinear", ["cq", "s", "z"], ["y"], {}),
        ],
        {"x": (1, 16, 8, 8)},
        ["y"],
        {"s": scale, "z": zero, "wz": np.int8(0), "wq": (weights(32, 16, 3, 3) * 20).astype(np.int8)},
    )
    found = split_graph(graph)
    check(graph, found)
    assert [(k.family, k.runtime_ops) for k in found.kernels] == [
        ("quantize", ("QuantizeLinear",)),
        ("qconv", ("QLinearConv",)),
        ("dequantize", ("DequantizeLinear",)),
    ]
    assert found.macs == 32 * 16 * 9 * 64


def test_half_precision_runs_between_casts(make_graph: Make, weights: Weights) -> None:
    """The CPU has no half-precision convolution: the casts around it belong to it."""
    graph = make_graph(
        [("Conv", ["x", "w"], ["a"], {}), ("Relu", ["a"], ["b"], {}), ("GlobalAveragePool", ["b"], ["y"], {})],
        {"x": (1, 16, 8, 8)},
        ["y"],
        {"w": weights(32, 16, 3, 3).astype(np.float16)},
        dtype=onnx.TensorProto.FLOAT16,
    )
    found = split_graph(graph)
    check(graph, found)
    assert not found.unassigned
    assert "Cast" in {op for k in found.kernels for op in k.runtime_ops}
    assert families(found)["conv-bn-relu"] == 1


def test_equal_branches_run_once(make_graph: Make, weights: Weights) -> None:
    graph = make_graph(
        [
            ("Conv", ["x", "w"], ["a"], {}),
            ("Conv", ["x", "w"], ["b"], {}),
            ("Exp", ["a"], ["ea"], {}),
            ("Sqrt", ["b"], ["sb"], {}),
            ("Add", ["ea", "sb"], ["y"], {}),
        ],
        {"x": (1, 8, 8, 8)},
        ["y"],
        {"w": weights(8, 8, 3, 3)},
    )
    found = split_graph(graph)
    check(graph, found)
    assert found.macs == 8 * 8 * 9 * 36
    assert families(found)["conv-bn-relu"] == 1
    assert len(found.folded) == 1


def test_equal_convolutions_with_different_scales_both_run(make_graph: Make, weights: Weights) -> None:
    """The runtime folds the scales into the weights first: then the convolutions are no longer equal."""
    bn = {f"{p}{i}": abs(weights(8)) + i for p in ("scale", "shift", "mean", "var") for i in (1, 2)}
    graph = make_graph(
        [
            ("Conv", ["x", "w"], ["a"], {}),
            ("BatchNormalization", ["a", "scale1", "shift1", "mean1", "var1"], ["na"], {}),
            ("Conv", ["x", "w"], ["b"], {}),
            ("BatchNormalization", ["b", "scale2", "shift2", "mean2", "var2"], ["nb"], {}),
            ("Mul", ["na", "nb"], ["y"], {}),
        ],
        {"x": (1, 8, 8, 8)},
        ["y"],
        {"w": weights(8, 8, 3, 3), **bn},
    )
    found = split_graph(graph)
    check(graph, found)
    assert found.macs == 2 * 8 * 8 * 9 * 36


def test_unknown_operators_are_listed_not_dropped(make_graph: Make) -> None:
    graph = make_graph(
        [("Relu", ["x"], ["a"], {}), ("Det", ["a"], ["b"], {}), ("Relu", ["b"], ["y"], {})],
        {"x": (2, 3, 3)},
        ["y"],
    )
    found = split_graph(graph)
    check(graph, found)
    assert found.unassigned == (("n1", ("Det",)),)
    assert [k.family for k in found.kernels] == ["relu", "other", "relu"]


def test_groups_batch_and_shape_matter(make_graph: Make, weights: Weights) -> None:
    """nn-Meter gives ResNeXt-50 and Wide-ResNet-50 the same answer: groups are not among its features."""

    def keys(groups: int, batch: int, width: int) -> str:
        graph = make_graph(
            [("Conv", ["x", "w"], ["y"], {"group": groups})],
            {"x": (batch, 32, 9, width)},
            ["y"],
            {"w": weights(32, 32 // groups, 3, 3)},
        )
        return split_graph(graph).kernels[0].key

    assert len({keys(1, 1, 9), keys(4, 1, 9), keys(32, 1, 9), keys(1, 2, 9), keys(1, 1, 11)}) == 5


def test_transpose_is_not_squeeze_and_excite(make_graph: Make) -> None:
    """Operators are compared whole: nn-Meter finds "se" in "transpose" and "conv" in "convtrans"."""
    graph = make_graph([("Transpose", ["x"], ["y"], {"perm": [1, 0]})], {"x": (3, 5)}, ["y"])
    for runtime in list_split_runtimes():
        assert [k.family for k in split_graph(graph, runtime).kernels] == ["transpose"]


def test_lost_node_is_an_error(make_graph: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = make_graph([("Relu", ["x"], ["a"], {}), ("Exp", ["a"], ["y"], {})], {"x": (2, 3)}, ["y"])
    real = module.map_scope

    def forgetful(*args: object, **kwargs: object) -> object:
        result = real(*args, **kwargs)
        del result.groups[0]
        return result

    monkeypatch.setattr(module, "map_scope", forgetful)
    with pytest.raises(GraphError, match="belong to no kernel, first 'n0'"):
        split_graph(graph)


def test_wrong_sum_is_an_error(make_graph: Make, weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = make_graph([("MatMul", ["x", "w"], ["y"], {})], {"x": (2, 64)}, ["y"], {"w": weights(64, 8)})
    real = module.describe_kernel
    monkeypatch.setattr(module, "describe_kernel", lambda *a, **k: replace(real(*a, **k), macs=1))
    with pytest.raises(GraphError, match="kernels sum to 1 multiply-accumulates, nodes to 1024"):
        split_graph(graph)


def test_unknown_runtime_names_the_nearest(make_graph: Make) -> None:
    graph = make_graph([("Relu", ["x"], ["y"], {})], {"x": (2, 3)}, ["y"])
    with pytest.raises(ConfigError, match="did you mean onnxruntime"):
        split_graph(graph, "onxruntime")


def test_without_onnxruntime_rules_answer_and_say_so(make_graph: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = make_graph([("Relu", ["x"], ["y"], {})], {"x": (2, 3)}, ["y"])
    monkeypatch.setattr(module.onnxruntime_graph, "is_onnxruntime_available", lambda: False)
    found = split_graph(graph)
    assert (found.runtime, found.method) == ("onnxruntime", "rules")
    assert "not installed" in found.warnings[0]


@pytest.mark.parametrize("level", ["BASIC", "EXTENDED", "ALL"])
@pytest.mark.parametrize("name", ["squeezenet", "resnet50", "shufflenet"])
def test_a_graph_saved_by_the_runtime_is_split_like_the_model(
    name: str, level: str, light_dir: Path, tmp_path: Path
) -> None:
    """Its fused and blocked operators have the shapes, products and families of the nodes they replaced.

    At level ALL channels are padded to blocks of at most 16, which adds products, and layouts change around them.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(tmp_path / "saved.onnx")
    options.log_severity_level = 4
    path = light_dir / f"light_{name}.onnx"
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    plain, saved = split_graph(load_graph(path)), split_graph(load_graph(tmp_path / "saved.onnx"))
    assert saved.unknowns == ()
    products = {"conv-bn-relu", "dwconv-bn-relu", "groupconv", "fc"}
    if level != "ALL":
        assert Counter(k.family for k in saved.kernels) == Counter(k.family for k in plain.kernels)
        assert saved.macs == plain.macs
        return
    assert plain.macs <= saved.macs <= 1.05 * plain.macs
    counts = [Counter(k.family for k in s.kernels if k.family in products) for s in (plain, saved)]
    assert counts[0] == counts[1]
    assert {ops for _, ops in saved.unassigned} <= {("ReorderInput",), ("ReorderOutput",)}
