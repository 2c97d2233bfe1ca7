"""TensorFlow Lite's C API over a stand-in library, and LiteRT over the real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepen.devices.runtimes.c_runner.runtime import find_installed_library

SANITIZERS = {"ASAN_OPTIONS": "detect_leaks=1:abort_on_error=1"}


def fake_model(folder: Path, fault: str = "-") -> str:
    path = folder / f"{ord(fault)}.tflite"
    path.write_bytes(b"\x1c\0\0\0TFL3" + fault.encode() + bytes(8))
    return str(path)


@pytest.fixture
def lite(start: Any, sanitized: Path, lite_library: Path) -> Any:
    return start(sanitized, "--library", lite_library, **SANITIZERS)


def test_a_model_runs_through_the_c_api(lite: Any, tmp_path: Path) -> None:
    assert lite.ask(op="hello", id=0, runtime="litert")["tflite"] == "2.99.0"
    loaded = lite.ask(op="load", id=1, path=fake_model(tmp_path), seed=4, shapes={"in": [3, 2]}, threads=2)
    assert loaded["build"] == "tflite 2.99.0 CPU level=extended threads=2"
    assert loaded["inputs"] == [{"name": "in", "shape": [3, 2], "type": "float32"}]
    assert loaded["outputs"] == [{"name": "out", "shape": [3, 2], "type": "float32"}]
    assert "start_ns" in lite.ask(op="run", id=2, handle=1, n=2)
    status, words = lite.bye()
    assert status == 0
    first = np.float32(np.random.default_rng(4).uniform(-1, 1))
    assert words.splitlines() == [f"in[0]={first:.9g} threads=2"] * 3


@pytest.mark.parametrize(
    ("fault", "shapes", "kind", "words"),
    [
        ("c", {}, "model", "making an interpreter failed"),
        ("a", {}, "memory", "failed to allocate 7 bytes"),
        ("i", {}, "model", "Node number 3 (CONV_2D) failed to invoke"),
        ("s", {}, "model", "input 'in' has type string, which this runner can not make"),
        ("n", {}, "model", "input 'in' has no memory of its size"),
        ("-", {"x": [1, 2]}, "shape", "the model has no input 'x'; it has in"),
        ("-", {"in": [1]}, "shape", "input 'in' has rank 2, not 1"),
        ("-", {"in": [1, 3]}, "model", "Cannot resize input 0"),
        ("-", {"in": [2**40, 2]}, "shape", "input 'in' can not be that large"),
    ],
)  # fmt: skip
def test_faults_are_told_apart(
    fault: str, shapes: dict[str, Any], kind: str, words: str, lite: Any, tmp_path: Path
) -> None:
    answer = lite.ask(op="load", id=1, path=fake_model(tmp_path, fault), shapes=shapes)
    assert answer["kind"] == kind
    assert words in answer["error"]
    assert "handle" in lite.ask(op="load", id=2, path=fake_model(tmp_path))
    assert lite.bye()[0] == 0


def test_the_default_delegate_cannot_be_left_out_through_this_api(lite: Any, tmp_path: Path) -> None:
    assert lite.ask(op="load", id=1, path=fake_model(tmp_path), level="disable")["kind"] == "runtime"


def test_an_onnx_model_needs_onnx_runtime(lite: Any, models: Path) -> None:
    assert lite.ask(op="load", id=1, path=str(models / "add.onnx"))["kind"] == "runtime"


@pytest.fixture
def litert(start: Any, sanitized: Path) -> Any:
    library = find_installed_library("ai_edge_litert", "libLiteRt.so")
    if library is None:
        pytest.skip("ai-edge-litert is not installed: pip install 'deepen[litert]'")
    return start(sanitized, "--library", library, **SANITIZERS)


@pytest.mark.parametrize(
    ("name", "inputs", "outputs"),
    [
        ("ad01_fp32", ([1, 640], "float32"), ([1, 640], "float32")),
        ("kws_ref_model", ([1, 49, 10, 1], "int8"), ([1, 12], "int8")),
        ("vww_96_float", ([1, 96, 96, 3], "float32"), ([1, 2], "float32")),
    ],
)
def test_litert_runs_real_models(
    name: str, inputs: tuple[Any, str], outputs: tuple[Any, str], litert: Any, shared_dir: Path
) -> None:
    path = shared_dir / "data" / "mlperf_tiny" / "models" / f"{name}.tflite"
    loaded = litert.ask(op="load", id=1, path=str(path), threads=1)
    assert [(i["shape"], i["type"]) for i in loaded["inputs"]] == [inputs]
    assert [(o["shape"], o["type"]) for o in loaded["outputs"]] == [outputs]
    assert "start_ns" in litert.ask(op="run", id=2, handle=1, n=2)
    for level, changes in (("disable", {}), ("all", {"shapes": {loaded["inputs"][0]["name"]: [2, *inputs[0][1:]]}})):
        again = litert.ask(op="load", id=3, path=str(path), level=level, **changes)
        assert f"level={level}" in again["build"]
        assert again["outputs"][0]["shape"][0] == (2 if changes else 1)
    name = "nonsense"
    assert litert.ask(op="load", id=4, path=str(path), shapes={name: [1]})["kind"] == "shape"


def test_litert_refuses_a_torn_model(litert: Any, tmp_path: Path) -> None:
    answer = litert.ask(op="load", id=1, path=fake_model(tmp_path))
    assert answer["kind"] == "model"
    assert "reading the model failed" in answer["error"]
