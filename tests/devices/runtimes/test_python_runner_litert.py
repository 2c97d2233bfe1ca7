"""LiteRT in the real runner; a stand-in package where a delegate or an old board is needed."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deepen.devices.links.local import LocalLink
from deepen.devices.runtimes.python_runner import LiteRt, OnnxRuntime
from deepen.devices.state.read_state import get_usable_cores
from deepen.errors import ConfigError, RunError

pytestmark = pytest.mark.serial


@pytest.fixture(scope="module")
def runtime(lite_models: Path) -> Iterator[LiteRt]:
    opened = LiteRt(LocalLink())
    yield opened
    opened.close()


def test_a_model_runs_and_says_what_runs_it(runtime: LiteRt, lite_models: Path) -> None:
    import ai_edge_litert

    loaded = runtime.load(lite_models / "sum.tflite")
    interval = loaded.run(20)
    assert (interval.runs, interval.uncertainty_s) == (20, 0.0)
    assert interval.duration_s > 0
    assert interval.cpu_s > 0
    version = ai_edge_litert.__version__
    assert loaded.build == f"ai-edge-litert {version} XNNPACK 3/4 nodes level=extended threads=1"
    assert loaded.placement == {"asked": None, "nodes": 4, "delegated": 0, "default": 3}
    assert loaded.inputs == [{"name": "x", "shape": [1, 8], "type": "float32"}]
    assert runtime.versions["litert"] == version
    assert "onnxruntime" not in runtime.versions  # only what is used is imported
    loaded.close()


def test_the_default_delegate_can_be_left_out_and_is_named_then(lite_models: Path) -> None:
    runtime = LiteRt(LocalLink(), level="disable")
    try:
        loaded = runtime.load(lite_models / "sum.tflite")
        assert " no delegate 0/4 nodes level=disable" in loaded.build
        assert loaded.placement == {"asked": None, "nodes": 4, "delegated": 0, "default": 0}
    finally:
        runtime.close()


def test_open_dimensions_take_the_size_asked_for(runtime: LiteRt, lite_models: Path) -> None:
    loaded = runtime.load(lite_models / "sum.tflite", shapes={"x": (5, 8)})
    assert loaded.inputs[0]["shape"] == [5, 8]
    assert loaded.outputs[0]["shape"] == [5, 8]
    loaded.close()


@pytest.mark.parametrize(
    ("model", "shapes", "message"),
    [
        ("sum", {"x": (5, 9)}, "does not fit"),
        ("sum", {"x": (5,)}, "rank 2, not 1"),
        ("sum", {"image": (5, 8)}, "no input 'image'; it has x"),
        ("twin", {"x1": (3, 4)}, "does not fit"),
    ],
)
def test_wrong_shapes(model: str, shapes: dict[str, Any], message: str, runtime: LiteRt, lite_models: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        runtime.load(lite_models / f"{model}.tflite", shapes=shapes)


@pytest.mark.parametrize("name", ["torn", "junk"])
def test_a_bad_file_is_a_run_error_and_the_next_model_runs(name: str, runtime: LiteRt, lite_models: Path) -> None:
    with pytest.raises(RunError, match=f"{name}.tflite"):
        runtime.load(lite_models / f"{name}.tflite")
    assert runtime.load(lite_models / "twin.tflite").run(2).runs == 2


@pytest.mark.skipif(
    len(get_usable_cores()) < 2 or not hasattr(os, "sched_setaffinity"), reason="needs two cores and affinity"
)
def test_every_thread_has_a_core_of_its_own(runtime: LiteRt, lite_models: Path) -> None:
    runtime.load(lite_models / "sum.tflite", threads=2).run(1)
    assert runtime.pid is not None
    masks = [os.sched_getaffinity(int(t.name)) for t in Path(f"/proc/{runtime.pid}/task").iterdir()]
    first, second = get_usable_cores()[-2:]
    assert {first} in masks
    assert {second} in masks


def test_every_mlperf_tiny_model_runs(runtime: LiteRt, shared_dir: Path) -> None:
    for path in sorted((shared_dir / "data" / "mlperf_tiny" / "models").glob("*.tflite")):
        loaded = runtime.load(path)
        assert loaded.run(2).runs == 2, path.name
        assert loaded.placement is not None
        assert 0 < loaded.placement["default"] <= loaded.placement["nodes"], path.name
        loaded.close()


FAKE = """
import numpy as np

class OpResolverType:
    AUTO, BUILTIN_WITHOUT_DEFAULT_DELEGATES = range(2)

def load_delegate(library, options=None):
    if "broken" in library:
        raise ValueError("cannot open shared object file")
    return ("some" in library) + 2 * ("all" in library), options

class Interpreter:
    \"\"\"x -> A -> t -> B -> y; a delegate takes none, the first or both.\"\"\"

    def __init__(self, model_path, num_threads, experimental_delegates, experimental_op_resolver_type):
        self.takes = experimental_delegates[0][0] if experimental_delegates else 0
        assert not experimental_delegates or experimental_delegates[0][1] == {"precision": "fp16"}

    def allocate_tensors(self): pass
    def invoke(self): pass
    def set_tensor(self, index, value): assert value.shape == (2,)
    def get_input_details(self):
        return [{"name": "x", "index": 0, "shape": np.array([2]), "dtype": np.float32}]
    def get_output_details(self):
        return [{"name": "y", "index": 2, "shape": np.array([2]), "dtype": np.float32}]
    def _get_ops_details(self):
        nodes = [dict(index=0, op_name="A", inputs=[0], outputs=[1]), dict(index=1, op_name="B", inputs=[1], outputs=[2])]
        if self.takes:
            nodes.append(dict(index=2, op_name="DELEGATE", inputs=[0], outputs=[self.takes]))
        return nodes
"""  # noqa: E501


@pytest.fixture
def old_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python with tflite-runtime alone, whose interpreter is a stand-in, and a model for it."""
    for name, text in {
        "ai_edge_litert/__init__.py": "raise ImportError('no wheel for this Python')",
        "tflite_runtime/__init__.py": "__version__ = '2.14.0'",
        "tflite_runtime/interpreter.py": textwrap.dedent(FAKE),
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    model = tmp_path / "m.tflite"
    model.write_bytes(b"\0\0\0\0TFL3")
    return model


def delegate(library: str) -> dict[str, Any]:
    return {"library": f"/vendor/lib{library}.so", "options": {"precision": "fp16"}}


def test_a_board_with_tflite_runtime_runs_too(old_board: Path) -> None:
    runtime = LiteRt(LocalLink())
    try:
        assert runtime.load(old_board).build == "tflite-runtime 2.14.0 XNNPACK 0/2 nodes level=extended threads=1"
    finally:
        runtime.close()


@pytest.mark.parametrize(("library", "taken"), [("some", 1), ("all", 2)])
def test_an_accelerator_is_named_with_the_nodes_it_took(library: str, taken: int, old_board: Path) -> None:
    runtime = LiteRt(LocalLink(), delegate=delegate(library))
    try:
        loaded = runtime.load(old_board)
        assert f" lib{library}.so {taken}/2 nodes " in loaded.build
        assert loaded.placement == {
            "asked": f"/vendor/lib{library}.so", "nodes": 2, "delegated": taken, "default": 0
        }  # fmt: skip
    finally:
        runtime.close()


@pytest.mark.parametrize(
    ("library", "message"), [("none", "takes none of the 2 nodes"), ("broken", "cannot open shared object")]
)
def test_a_fallback_to_the_cpu_is_an_error(library: str, message: str, old_board: Path) -> None:
    runtime = LiteRt(LocalLink(), delegate=delegate(library))
    try:
        with pytest.raises(RunError, match=f"m.tflite: .*{message}.*on the CPU by name"):
            runtime.load(old_board)
    finally:
        runtime.close()


def test_neither_package_is_a_config_error(old_board: Path) -> None:
    (old_board.parent / "tflite_runtime" / "__init__.py").write_text("raise ImportError('absent')")
    with pytest.raises(ConfigError, match=r"no wheel for this Python; absent.*pip install ai-edge-litert"):
        LiteRt(LocalLink()).load(old_board)


@pytest.mark.parametrize(
    ("provider", "message"),
    [
        ("TensorrtExecutionProvider", "has no TensorrtExecutionProvider and would run on the CPU"),
        ("AzureExecutionProvider", "runs none of the 1 nodes"),  # it is in every wheel, and takes nothing
    ],
)
def test_a_provider_that_would_fall_back_is_an_error(provider: str, message: str, models: Path) -> None:
    runtime = OnnxRuntime(LocalLink(), delegate={"provider": provider})
    try:
        with pytest.raises(RunError, match=f"add.onnx: .*{message}"):
            runtime.load(models / "add.onnx")
    finally:
        runtime.close()
