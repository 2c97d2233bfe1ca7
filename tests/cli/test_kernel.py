"""``deepen kernel``: the JSON contract, what people see, and how it fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from deepen.cli import cli
from tests.support.model_files import write_model_file


@pytest.fixture
def run() -> Callable[..., Result]:
    return lambda *arguments: CliRunner().invoke(cli, ["kernel", *map(str, arguments)])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    weights = np.random.default_rng(20261122).standard_normal((16, 8, 3, 3), dtype=np.float32)
    return write_model_file(
        tmp_path,
        [
            ("Conv", ["x", "w"], ["a"], {}),
            ("Relu", ["a"], ["b"], {}),
            ("Det", ["b"], ["c"], {}),
            ("Identity", ["c"], ["i"], {}),
            ("Exp", ["i"], ["y"], {}),
        ],
        {"x": (1, 8, 6, 6)},
        ["y"],
        {"w": weights},
    )


def test_split_json_is_the_contract(run: Callable[..., Result], model: Path) -> None:
    done = run("split", model, "--json")
    assert done.exit_code == 0
    document = json.loads(done.stdout)
    assert document["macs"] == 16 * 8 * 9 * 16
    assert document["unassigned"] == [{"name": "n2", "op_types": ["Det"]}]
    assert (document["runtime"], document["method"], document["folded"]) == ("onnxruntime", "oracle", 1)
    assert document["evidence"].startswith("onnxruntime ")
    first = document["kernels"][0]
    assert first["family"] == "conv-bn-relu"
    assert first["nodes"] == ["n0", "n1"]
    assert first["macs"] == document["macs"]
    assert first["bytes_read"] == 4 * (8 * 36 + 16 * 8 * 9)
    assert first["bytes_written"] == 4 * 16 * 16
    assert first["params"]["c_out"] == 16


def test_split_prints_kernels_totals_and_what_has_no_family(
    run: Callable[..., Result], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    done = run("split", model)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0] == f"{model}: 3 kernels from 4 nodes, 18.4 kMAC per inference"
    assert "nodes that do no work at run time: 1" in lines[1]
    rows = [line.split() for line in lines]
    assert [
        "1",
        "n0",
        "conv-bn-relu",
        "Conv+Relu",
        "1x8x6x6",
        "1x16x4x4",
        "18.4",
        "k",
        "5.76",
        "kB",
        "1.02",
        "kB",
    ] in rows
    assert any(row[:2] == ["total", "3"] for row in rows)
    assert lines[-1] == "1 kernels have no family and count as 'other': n2 (Det)"


def test_split_by_rules(run: Callable[..., Result], model: Path) -> None:
    document = json.loads(run("split", model, "--runtime", "tflite-cpu", "--json").stdout)
    assert document["method"] == "rules"
    assert "tflite-cpu.toml" in document["evidence"]


def test_shapes_can_be_given(run: Callable[..., Result], tmp_path: Path) -> None:
    path = write_model_file(tmp_path, [("Relu", ["x"], ["y"], {})], {"x": ("n", 4)}, ["y"])
    assert run("split", path).exit_code == 1
    document = json.loads(run("split", path, "--shape", "x=3x4", "--json").stdout)
    assert document["kernels"][0]["bytes_written"] == 48


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--runtime", "tflite"), "did you mean tflite-cpu"),
        (("--shape", "z=1"), "no input 'z'"),
        (("--shape", "nonsense"), "nonsense"),
    ],
)
def test_split_errors_are_one_line(
    run: Callable[..., Result], model: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = run("split", model, *arguments)
    assert done.exit_code == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_split_of_no_model(run: Callable[..., Result], tmp_path: Path) -> None:
    path = tmp_path / "noise.onnx"
    path.write_bytes(b"\x00\xff" * 100)
    done = run("split", path)
    assert done.exit_code == 1
    assert len(done.stderr.strip().splitlines()) == 1


def test_list_names_families_and_runtimes(run: Callable[..., Result]) -> None:
    document = json.loads(run("list", "--json").stdout)
    assert {"conv-bn-relu", "fc", "attention"} <= {f["name"] for f in document["families"]}
    assert {"onnxruntime", "tflite-cpu"} <= set(document["runtimes"])
    text = run("list").stdout
    assert all(f["name"] in text for f in document["families"])


def test_sample_is_seeded_and_bounded(run: Callable[..., Result]) -> None:
    arguments = ("sample", "--family", "fc", "-n", "5", "--seed", "3", "--max-macs", "2000000", "--json")
    first, second = run(*arguments), run(*arguments)
    assert first.stdout == second.stdout
    kernels = json.loads(first.stdout)["kernels"]
    assert len({k["key"] for k in kernels}) == 5
    assert all(k["family"] == "fc" and k["macs"] <= 2_000_000 for k in kernels)


def test_sample_of_an_unknown_family(run: Callable[..., Result]) -> None:
    done = run("sample", "--family", "conv-bn-rely")
    assert done.exit_code == 1
    assert "conv-bn-relu" in done.stderr
