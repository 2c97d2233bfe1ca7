"""Architectures exported from torch (``tools/export_zoo``): all split, nothing lost, MACs as onnx-tool has them."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deepen.graph import load_graph
from deepen.kernels.splitting.split import split_graph

GMACS = {
    "resnet50": 4.089, "resnext50_32x4d": 4.230, "googlenet": 1.498, "densenet121": 2.834, "shufflenet_v2": 0.1449,
    "mobilenet_v2": 0.3008, "mobilenet_v3": 0.0565, "efficientnet_b0": 0.3858, "efficientnetv2_s": 2.850,
    "convnext_tiny": 4.456, "swin_tiny": 4.491, "vit_b_16": 17.56, "bert_base": 11.17, "resnet50-dynamo": 4.089,
    "mobilenet_v3-dynamo": 0.0565, "vit_b_16-dynamo": 17.56,
}  # fmt: skip
"""Multiply-accumulates of convolution, matmul and gemm nodes; onnx-tool's minus its one per biased output element."""


def exported(zoo_dir: Path, name: str) -> Path:
    path = zoo_dir / f"{name}.onnx"
    if not path.is_file():
        pytest.skip(f"{path} is not there; run tools/export_zoo")
    return path


@pytest.mark.parametrize("name", GMACS)
def test_export_is_split_completely(zoo_dir: Path, name: str) -> None:
    graph = load_graph(exported(zoo_dir, name))
    found = split_graph(graph)
    assert found.unassigned == ()
    inside = [n for k in found.kernels for n in k.node_names]
    assert len(inside) == len(set(inside))
    assert {*inside, *found.folded} == {n.name for n in graph.nodes}
    assert found.macs / 1e9 == pytest.approx(GMACS[name], rel=0.01)


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v3", "efficientnet_b0", "googlenet"])
def test_rules_agree_with_the_runtime(zoo_dir: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = load_graph(exported(zoo_dir, name))
    asked = {frozenset(k.node_names) for k in split_graph(graph).kernels}
    monkeypatch.setattr("deepen.kernels.splitting.split.oracle.available", lambda: False)
    assert {frozenset(k.node_names) for k in split_graph(graph).kernels} == asked


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "densenet121", "shufflenet_v2", "convnext_tiny"])
def test_weightless_question_gets_the_real_answer(
    zoo_dir: Path, name: str, optimised: Callable, tmp_path: Path
) -> None:
    from deepen.kernels.splitting import onnxruntime_graph

    path = exported(zoo_dir, name)
    asked = {(n.op_type, n.output[0]) for n in onnxruntime_graph.get_executed_graph(load_graph(path)).model.graph.node}
    assert asked == {(n.op_type, n.output[0]) for n in optimised(path, tmp_path).graph.node}


def test_export_tool_lists_what_is_tested_here(repo_root: Path) -> None:
    done = subprocess.run(
        [sys.executable, repo_root / "tools" / "export_zoo", "--list"], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == list(GMACS)


def test_export_tool_says_what_is_missing(
    repo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(sys, "argv", ["export_zoo", str(tmp_path), "resnet50"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(repo_root / "tools" / "export_zoo"), run_name="__main__")
    assert ended.value.code == 1
    assert "pip install torch" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
