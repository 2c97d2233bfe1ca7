"""The tools as runtimes: stand-in programs that print what the real ones do, over the local link."""

from __future__ import annotations

import stat
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deepen.devices.links.local import LocalLink
from deepen.devices.local import RUNTIMES
from deepen.devices.protocols import LoadedModel, Runtime
from deepen.devices.runtimes.benchmark_model import BenchmarkModel, BenchmarkModelGpu
from deepen.devices.runtimes.benchmark_tool import ToolRuntime
from deepen.devices.runtimes.perf_test import PerfTest, PerfTestCuda
from deepen.devices.runtimes.sync_load import ShellLoad
from deepen.devices.runtimes.trtexec import TrtExec, TrtExecDla
from deepen.errors import ConfigError, LinkError, RunError
from deepen.testing.device import FakeLink

pytestmark = pytest.mark.serial

HEAD = """
import json, os, sys, time
options = dict(a[2:].split("=", 1) for a in sys.argv[1:] if a.startswith("--") and "=" in a)
say = lambda text: print(text, flush=FLUSH)
FLUSH = os.environ.get("HELD") is None
mode = os.environ.get("MODE", "")
run_s = 0.002
def runs(n):
    begun = time.monotonic()
    for _ in range(n):
        time.sleep(run_s)
    return time.monotonic() - begun
"""
BENCHMARK = """
n = int(options["num_runs"])
if mode == "crash":
    os.abort()
say("INFO: STARTING!")
if options.get("use_gpu"):
    taken = {"partly": 5, "none": 0}.get(mode, 9)
    if mode == "refused":
        say("INFO: Though GPU delegate is explicitly applied, the model graph will not be executed by the delegate.")
    elif mode != "silent":
        print(f"VERBOSE: Replacing {taken} out of 9 node(s) with delegate (TfLiteGpuDelegateV2) node, yielding 1",
              file=sys.stderr, flush=True)
    if mode == "later" and n > 1:
        say("INFO: Though GPU delegate is explicitly applied, the model graph will not be executed by the delegate.")
if mode == "fails":
    print("ERROR: Failed to load model", file=sys.stderr)
    sys.exit(1)
say("INFO: Initialized session in 0.5ms.")
say("INFO: Running benchmark for at least 1 iterations and at least 0 seconds but terminate if exceeding 86400")
took = runs(1)
say(f"INFO: count=1 curr={took * 1e6:.0f}")
say(f"INFO: Running benchmark for at least {n} iterations and at least 0 seconds but terminate if exceeding 86400")
took = runs(n)
if mode == "fewer":
    n -= 1
say(f"INFO: count={n} first=1 curr=1 min=1 max=1 avg={took / n * 1e6:.6g} std=0")
say(f"INFO: Inference timings in us: Init: 500, Warmup (avg): 1, Inference (avg): {took / n * 1e6:.6g}")
if "enable_op_profiling" in options:
    say("Operator-wise Profiling Info for Regular Benchmark Runs:")
    say("============================== Run Order ==============================")
    say("node type, first, avg_ms, %, cdf%, mem KB, times called, name")
    say("CONV_2D, 2, 2, 100%, 100%, 0, 1, conv:0")
"""
PERF = """
n = int(sys.argv[sys.argv.index("-r") + 1])
if mode == "fallback":
    print("This session contains graph nodes that are assigned to the default CPU EP", file=sys.stderr)
    sys.exit(1)
took = runs(n)
say("Session creation time cost: 0.001 s")
say("First inference time cost: 0 ms")
say(f"Total inference time cost: {took} s")
say(f"Total inference requests: {n if mode != 'fewer' else n - 1}")
say(f"Average inference time cost: {took / (n if mode != 'fewer' else n - 1) * 1e3} ms")
say(f"Total inference run time: {took} s")
"""
TRT = """
if "onnx" in options:
    if "--skipInference" in sys.argv and mode == "old":
        say("[11/22/2026-14:00:00] [E] Unknown option: --skipInference")
        sys.exit(1)
    if mode == "dla":
        say("[11/22/2026-14:00:00] [W] Default DLA is enabled but layer a cannot run on DLA, falling back to GPU.")
    open(options["saveEngine"], "w").write("engine")
    say("&&&& PASSED TensorRT.trtexec [TensorRT v8502] # trtexec")
    sys.exit(0)
assert open(options["loadEngine"]).read() == "engine"
n = int(options["iterations"])
say("[11/22/2026-14:00:00] [I] Starting inference")
origin = time.monotonic()
queries = []
for _ in range(n + 2 if mode != "fewer" else n - 1):
    a = (time.monotonic() - origin) * 1e3
    time.sleep(run_s)
    b = (time.monotonic() - origin) * 1e3
    queries.append({"startEnqMs": a, "endD2hMs": b, "computeMs": b - a})
say(f"[11/22/2026-14:00:00] [I] Timing trace has {len(queries)} queries over 1 s")
open(options["exportTimes"], "w").write(json.dumps(queries))
say("[11/22/2026-14:00:00] [I] === Performance summary ===")
say("&&&& PASSED TensorRT.trtexec [TensorRT v8502] # trtexec")
"""


@pytest.fixture
def tool(tmp_path: Path) -> Callable[[str], Path]:
    def make(body: str) -> Path:
        path = tmp_path / "tool"
        path.write_text(f"#!{sys.executable}\n{textwrap.dedent(HEAD)}{body}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return make


@pytest.fixture
def lite(tmp_path: Path) -> Path:
    path = tmp_path / "it's a $(model).tflite"
    path.write_bytes(b"\0\0\0\0TFL3")
    return path


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"x")
    return path


def test_every_tool_is_a_runtime_of_its_own_name() -> None:
    import importlib

    for name, target in RUNTIMES.items():
        module, _, attribute = target.partition(":")
        opened = getattr(importlib.import_module(module), attribute)(LocalLink(), cpu_mask=())
        assert isinstance(opened, Runtime)
        if isinstance(opened, ToolRuntime):
            assert opened.name == name
        opened.close()


CASES = [(BenchmarkModel, BENCHMARK, "lite"), (PerfTest, PERF, "onnx"), (TrtExec, TRT, "onnx")]


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize(("kind", "body", "model"), CASES)
def test_a_block_lies_within_the_life_of_its_process(
    kind: type[ToolRuntime], body: str, model: str, held: bool, tool: Callable[[str], Path],
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Also where the tool's output is held back in a buffer until it ends."""
    if held:
        monkeypatch.setenv("HELD", "1")
    runtime = kind(LocalLink(), tool=tool(body))
    loaded = runtime.load(request.getfixturevalue(model))
    assert isinstance(loaded, LoadedModel)
    assert loaded.first_run_s > 0
    before = time.monotonic()
    interval = loaded.run(10)
    after = time.monotonic()
    reach = 3**0.5 * interval.uncertainty_s
    assert before <= interval.start_s + reach
    assert interval.end_s - reach <= after
    assert interval.duration_s >= 10 * 0.002
    assert (interval.runs, interval.label) == (10, "run")
    assert interval.uncertainty_s > 0
    assert "sha256=" in loaded.build
    runtime.close()
    assert not loaded.alive
    with pytest.raises(LinkError, match="load it again"):
        loaded.run(1)


def test_what_benchmark_model_is_asked_for(tool: Callable[[str], Path], lite: Path) -> None:
    echo = tool("print(json.dumps(sys.argv[1:]), file=open(sys.argv[0] + '.seen', 'a'))\n" + BENCHMARK)
    runtime = BenchmarkModelGpu(LocalLink(), tool=echo)
    loaded = runtime.load(lite, threads=3, shapes={"a": (1, 8), "b": (2,)})
    assert " gpu=full 9/9 nodes threads=3" in loaded.build
    seen = Path(f"{echo}.seen").read_text()
    for wanted in (f"--graph={lite}", "--num_threads=3", "--num_runs=1", "--warmup_runs=1", "--use_gpu=true",
                   "--input_layer=a,b", "--input_layer_shape=1,8:2"):  # fmt: skip
        assert f'"{wanted}"' in seen
    assert "op_profiling" not in seen
    with pytest.raises(ConfigError, match="cannot be told the shape of an input 'x,y'"):
        runtime.load(lite, shapes={"x,y": (1,)})


def test_the_profile_is_a_run_of_its_own(tool: Callable[[str], Path], lite: Path) -> None:
    runtime = BenchmarkModel(LocalLink(), tool=tool(BENCHMARK))
    assert [r.name for t in runtime.profile(lite, runs=2) for r in t.rows] == ["conv:0"]


@pytest.mark.parametrize(
    ("mode", "error", "message"),
    [
        ("crash", RunError, "crashed with SIGABRT"),
        ("fails", RunError, "failed with status 1 .*Failed to load model"),
        ("refused", RunError, "gpu delegate does not run it and the CPU would .*explicitly applied"),
        ("none", RunError, "the CPU would"),
        ("silent", RunError, "does not say whether the gpu delegate"),
    ],
)
def test_loading_fails_with_the_reason(
    mode: str, error: type[Exception], message: str, tool: Callable[[str], Path], lite: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("MODE", mode)
    with pytest.raises(error, match=message):
        BenchmarkModelGpu(LocalLink(), tool=tool(BENCHMARK)).load(lite)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("later", "the CPU would"),  # a fallback in one block alone
        ("partly", "ran with gpu=partial 5/9 nodes now and with gpu=full 9/9 nodes before"),
        ("fewer", "ran 3 inferences instead of 4"),
    ],
)
def test_a_block_that_is_not_what_was_loaded_is_no_block(
    mode: str, message: str, tool: Callable[[str], Path], lite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = BenchmarkModelGpu(LocalLink(), tool=tool(BENCHMARK)).load(lite)
    monkeypatch.setenv("MODE", mode)
    with pytest.raises(RunError, match=message):
        loaded.run(4)


def test_perf_test_is_told_not_to_fall_back(
    tool: Callable[[str], Path], onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    echo = tool("print(json.dumps(sys.argv[1:]), file=open(sys.argv[0] + '.seen', 'a'))\n" + PERF)
    loaded = PerfTestCuda(LocalLink(), tool=echo).load(onnx, threads=2)
    assert "provider=cuda level=extended threads=2" in loaded.build
    assert '"-e", "cuda", "-x", "2"' in Path(f"{echo}.seen").read_text()
    assert '"-C", "session.disable_cpu_ep_fallback|1"' in Path(f"{echo}.seen").read_text()
    monkeypatch.setenv("MODE", "fallback")
    with pytest.raises(RunError, match="provider cuda does not run all of it and the CPU would"):
        loaded.run(2)
    monkeypatch.setenv("MODE", "fewer")
    with pytest.raises(RunError, match="ran 1 inferences instead of 2"):
        loaded.run(2)
    with pytest.raises(ConfigError, match="takes no shapes"):
        PerfTest(LocalLink(), tool=echo).load(onnx, shapes={"x": (1,)})


def test_trtexec_of_an_older_generation_builds_too(
    tool: Callable[[str], Path], onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODE", "old")
    runtime = TrtExec(LocalLink(), tool=tool(TRT))
    loaded = runtime.load(onnx)
    assert " tensorrt=8502 gpu threads=1" in loaded.build
    folder = Path(runtime._folder)
    assert folder.is_dir()
    runtime.close()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("mode", "message"), [("dla", "the DLA does not run all of it"), ("fewer", "exported 0 queries instead of 1")]
)
def test_trtexec_that_does_less_is_an_error(
    mode: str, message: str, tool: Callable[[str], Path], onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODE", mode)
    runtime = TrtExecDla(LocalLink(), tool=tool(TRT))
    with pytest.raises(RunError, match=message):
        runtime.load(onnx)
    runtime.close()


def test_a_tool_past_its_deadline_is_killed(tool: Callable[[str], Path], lite: Path, tmp_path: Path) -> None:
    endless = tool("open(sys.argv[0] + '.pid', 'w').write(str(os.getpid()))\ntime.sleep(600)\n")
    with pytest.raises(RunError, match="took more than"):
        BenchmarkModel(LocalLink(), tool=endless, load_timeout_s=1.0).load(lite)
    pid = int((tmp_path / "tool.pid").read_text())
    assert not Path(f"/proc/{pid}").exists()


def test_what_is_missing_is_said(tmp_path: Path, lite: Path, onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEEPEN_BENCHMARK_MODEL", raising=False)
    with pytest.raises(ConfigError, match=r"no benchmark_model on a stand-in.*set DEEPEN_BENCHMARK_MODEL"):
        BenchmarkModel(FakeLink()).load(lite)
    with pytest.raises(ConfigError, match=r"runs \.tflite, \.lite files only"):
        BenchmarkModel(LocalLink()).load(onnx)
    with pytest.raises(ConfigError, match="no such model file"):
        BenchmarkModel(LocalLink()).load(tmp_path / "absent.tflite")
    with pytest.raises(ConfigError, match="2 threads need as many cores"):
        BenchmarkModel(LocalLink(), cpu_mask=(0,)).load(lite, threads=2)
    plain = tmp_path / "plain"
    plain.write_text("x")
    monkeypatch.setenv("DEEPEN_BENCHMARK_MODEL", str(plain))
    with pytest.raises(ConfigError, match=r"not executable; chmod \+x"):
        BenchmarkModel(LocalLink()).load(lite)


def test_a_load_with_sharp_edges_for_the_sync_pattern() -> None:
    load = ShellLoad(LocalLink(), (), 1e-3)
    before = time.monotonic()
    load.start()
    interval = load.run(20)
    after = time.monotonic()
    assert before <= interval.start_s <= interval.end_s <= after
    assert (interval.runs, interval.label) == (20, "pulse")
    assert 0 < interval.uncertainty_s <= 1e-3
    assert load.per_run_s > 0
    load.close()
    assert not load.alive
    with pytest.raises(LinkError, match="was closed"):
        load.run(1)
