"""Which runtime a session takes, and its own models in the form that runtime takes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deepen.devices import DeviceProfile
from deepen.devices.local import DELEGATES, LocalDevice
from deepen.errors import ConfigError, LinkError, RunError
from deepen.measure import make_workload
from deepen.measure.conditions.runtime_choice import (
    choose_runtime,
    get_file_suffixes,
    resolve_runtime_name,
    write_session_model,
)
from deepen.measure.conditions.tflite_reference import write_empty_lite_model, write_reference_lite_model
from deepen.testing.bench import SimulatedBench
from deepen.testing.device import RunCost


class Tried:
    """A runtime that works, or does not."""

    def __init__(self, error: Exception | None, loads: list[str]) -> None:
        self.error, self.loads = error, loads

    def load(self, path: Path, **options: Any) -> Any:
        self.loads.append(path.name)
        if self.error is not None:
            raise self.error
        return SimpleNamespace(close=lambda: None)

    def close(self) -> None:
        self.loads.append("closed")


class Board:
    """A device with runtimes of which some do not work."""

    def __init__(self, *names: str, alive: bool = True, **broken: Exception) -> None:
        self.profile = DeviceProfile(id="board", link="ssh", runtimes=names)
        self.link = SimpleNamespace(alive=lambda: alive)
        self.broken = broken
        self.loads: list[str] = []

    def runtime(self, name: str, cpu_mask: object = None) -> Tried:
        self.loads.append(name)
        return Tried(self.broken.get(name.replace("-", "_")), self.loads)


def choose(board: Any, **options: Any) -> tuple[str, list[str]]:
    news: list[str] = []
    return choose_runtime(board, tell=news.append, **options), news


def test_the_first_of_the_profile_that_takes_the_file_is_taken() -> None:
    board = Board("benchmark_model", "litert", "crunner", "onnxruntime")
    assert choose(board) == ("crunner", [])
    assert board.loads == ["crunner", "empty.onnx", "closed"]
    assert choose(board, suffix=".TFLITE") == ("benchmark_model", [])
    assert board.loads[3:] == ["benchmark_model", "empty.tflite", "closed"]
    only = Board("litert", "onnxruntime")
    assert choose(only, suffix=".onnx") == ("onnxruntime", [])
    assert only.loads == []  # there is nothing to choose from


def test_what_does_not_work_is_passed_over_and_said() -> None:
    board = Board("crunner", "onnxruntime", crunner=ConfigError("no library"))
    assert choose(board) == ("onnxruntime", ["runtime onnxruntime is taken, because crunner does not work: no library"])
    broken = Board("crunner", "onnxruntime", crunner=RunError("crashed"), onnxruntime=ConfigError("no Python"))
    words = "no runtime of device 'board' works; crunner does not work: crashed; onnxruntime does not work: no Python"
    with pytest.raises(ConfigError, match=words):
        choose(broken)
    dies = Board("crunner", "onnxruntime", crunner=LinkError("the worker ended with status 127"))
    assert choose(dies)[0] == "onnxruntime"
    with pytest.raises(LinkError, match="gone"):
        choose(Board("crunner", "onnxruntime", alive=False, crunner=LinkError("gone")))


def test_an_accelerator_is_asked_for_by_name() -> None:
    board = Board("crunner", "crunner-litert", "benchmark_model")
    assert choose(board, suffix=".tflite", delegate="gpu") == ("benchmark_model-gpu", [])
    assert choose(board, asked="benchmark_model", delegate="nnapi")[0] == "benchmark_model-nnapi"
    assert choose(board, asked="benchmark_model", delegate="cpu")[0] == "benchmark_model"
    with pytest.raises(
        ConfigError, match=r"no runtime for \.onnx files with the delegate 'gpu'; its profile lists cru"
    ):
        choose(board, delegate="gpu")
    with pytest.raises(ConfigError, match="no delegate 'gpu': it has none; 'gpu' comes with benchmark_model"):
        resolve_runtime_name("litert", "gpu")
    with pytest.raises(ConfigError, match="has no delegate 'gpux': it has gpu, hexagon, nnapi"):
        resolve_runtime_name("benchmark_model", "gpux")
    with pytest.raises(ConfigError, match="did you mean crunner"):
        resolve_runtime_name("crunnner", "")


def test_a_runtime_with_an_accelerator_is_listed_by_the_one_it_is_of(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "crunner-litert" not in DELEGATES
    device = LocalDevice()
    monkeypatch.setattr(device, "_profile", DeviceProfile(id="here", runtimes=("perf_test",)))
    assert device.runtime("perf_test-xnnpack").name == "perf_test-xnnpack"
    with pytest.raises(ConfigError, match="has no runtime 'crunner'; it lists perf_test"):
        device.runtime("crunner")


def test_every_runtime_says_which_files_it_takes() -> None:
    from deepen.devices.local import RUNTIMES

    lite = {name for name in RUNTIMES if ".tflite" in get_file_suffixes(name)}
    assert lite == {"litert", "crunner-litert", *(n for n in RUNTIMES if n.startswith("benchmark_model"))}
    assert all(".onnx" in get_file_suffixes(name) for name in set(RUNTIMES) - lite)


# Our own models


def lite_bench(cost: Any) -> tuple[SimulatedBench, list[str]]:
    """A bench whose runtime takes TensorFlow Lite files alone, and the names of what it loads."""
    bench = SimulatedBench(cost)
    bench.runtime.name = "litert"
    bench.runtime.suffixes = (".tflite",)  # type: ignore[attr-defined]
    loads: list[str] = []
    load = bench.runtime.load

    def loading(path: Path, **options: Any) -> Any:
        loads.append(path.name)
        return load(path, **options)

    bench.runtime.load = loading  # type: ignore[method-assign]
    return bench, loads


def test_sessions_of_runtimes_without_onnx_have_a_reference_and_an_empty_run() -> None:
    bench, loads = lite_bench(lambda path: RunCost(2e-3 if path.stem == "reference" else 1e-4))
    with bench.session(runtime="litert") as session:
        assert session.drift_series.points[0].latency_s == pytest.approx(2e-3)
        assert session.empty_run_j() == pytest.approx(2e-4)
        assert session.empty_run().runtime == "litert"
    assert loads == ["reference.tflite", "empty.tflite"]


def test_where_the_reference_does_not_run_drift_is_not_watched_and_that_is_said(model: Path) -> None:
    refused = RunError("the hexagon delegate does not run it")
    bench, _ = lite_bench(lambda path: RunCost(load_error=refused if path.stem == "reference" else None))
    with bench.session(runtime="litert", reference_every_s=0.0) as session:
        record = session.measure(make_workload(model, runtime="litert"))
    assert session.drift == ()
    assert [w for w in record.warnings if w.startswith("drift: not watched")] == [
        "drift: not watched, because the runtime does not run the reference workload "
        "(the hexagon delegate does not run it)"
    ]


def test_own_models_are_written_once(tmp_path: Path) -> None:
    path = write_session_model(tmp_path, "empty", (".tflite",))
    path.write_bytes(b"as it was")
    assert write_session_model(tmp_path, "empty", (".tflite",)).read_bytes() == b"as it was"
    assert write_session_model(tmp_path, "reference", (".onnx", ".ort")).name == "reference.onnx"


def test_lite_models_are_what_the_schema_says(tmp_path: Path) -> None:
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="ai-edge-litert is not installed")
    path = write_reference_lite_model(tmp_path / "reference.tflite")
    assert path.read_bytes() == write_reference_lite_model(tmp_path / "again.tflite").read_bytes()
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    (graph,) = model.subgraphs
    assert [list(graph.inputs), list(graph.outputs)] == [[0, 1], [6, 7]]
    codes = [model.operatorCodes[o.opcodeIndex].builtinCode for o in graph.operators]
    assert codes == [schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.FULLY_CONNECTED]
    options = graph.operators[0].builtinOptions
    assert (options.padding, options.strideW, options.strideH) == (schema.Padding.SAME, 1, 1)
    assert options.fusedActivationFunction == schema.ActivationFunctionType.RELU
    for tensor in graph.tensors:
        data = model.buffers[tensor.buffer].data
        assert data is None or len(data) == 4 * tensor.shape.prod()


def test_lite_models_run_and_compute_what_their_weights_say(tmp_path: Path) -> None:
    import numpy as np

    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed (pip install 'deepen[litert]')")
    from ai_edge_litert.interpreter import Interpreter

    path = write_reference_lite_model(tmp_path / "reference.tflite")
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    rng = np.random.default_rng(5)
    values = {d["name"]: rng.random(d["shape"], np.float32) for d in interpreter.get_input_details()}
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], values[detail["name"]])
    interpreter.invoke()
    found = {d["name"]: interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()}
    weights = np.random.default_rng(20240607)
    conv = (weights.standard_normal((64, 3, 3, 32)) / 17).astype(np.float32)
    dense = (weights.standard_normal((1024, 1024)) / 32).astype(np.float32)
    np.testing.assert_allclose(found["product"], values["vector"] @ dense.T, rtol=1e-3, atol=1e-4)
    window = values["image"][0, 4:7, 9:12]
    np.testing.assert_allclose(found["out"][0, 5, 10], np.maximum(0, (conv * window).sum((1, 2, 3))), atol=1e-3)
    empty = Interpreter(str(write_empty_lite_model(tmp_path / "empty.tflite")))
    empty.allocate_tensors()
    empty.set_tensor(empty.get_input_details()[0]["index"], np.float32([[-2.0]]))
    empty.invoke()
    assert empty.get_tensor(empty.get_output_details()[0]["index"]).tolist() == [[0.0]]
