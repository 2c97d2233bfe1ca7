"""The real runner in a real process: short runs, no judgement on times."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deepen import catalog
from deepen.devices import open_device
from deepen.devices.links.local import LocalLink, PipeChannel
from deepen.devices.runtimes.python_runner import OnnxRuntime
from deepen.devices.state.read_state import get_usable_cores
from deepen.errors import ConfigError, LinkError, RunError

pytestmark = pytest.mark.serial


@pytest.fixture(scope="module")
def runtime() -> Iterator[OnnxRuntime]:
    opened = OnnxRuntime(LocalLink())
    yield opened
    opened.close()


def gone(pid: int, patience_s: float = 60.0) -> bool:
    """Whether a process ends within a while (a zombie counts as ended)."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            status = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if status == "Z":
            return True
        time.sleep(0.02)
    return False


def test_a_block_is_stamped_on_the_hosts_clock_with_its_cpu_time(runtime: OnnxRuntime, models: Path) -> None:
    loaded = runtime.load(models / "add.onnx")
    before = time.monotonic()
    interval = loaded.run(50)
    after = time.monotonic()
    assert before <= interval.start_s < interval.end_s <= after
    assert interval.runs == 50
    assert interval.cpu_s > 0
    import onnxruntime

    assert loaded.build == f"onnxruntime {onnxruntime.__version__} CPUExecutionProvider level=extended threads=1"
    assert loaded.inputs == [{"name": "x", "shape": [4, 8], "type": "tensor(float)"}]
    loaded.close()
    assert not loaded.alive


@pytest.mark.parametrize("name", ["f16", "bf16", "f64", "i8", "i64", "u8", "bool", "gather", "nonzero", "misdeclared"])
def test_every_input_type_and_awkward_output_runs(name: str, runtime: OnnxRuntime, models: Path) -> None:
    loaded = runtime.load(models / f"{name}.onnx")
    assert loaded.run(3).runs == 3
    loaded.close()


def test_dynamic_outputs_get_the_shape_the_model_really_produces(runtime: OnnxRuntime, models: Path) -> None:
    loaded = runtime.load(models / "nonzero.onnx")
    assert loaded.outputs[0]["shape"] == [2, 12]  # uniform input: nothing is zero
    loaded.close()


def test_open_shapes_are_asked_for_and_then_fixed(runtime: OnnxRuntime, models: Path) -> None:
    with pytest.raises(ConfigError, match=r"input 'x' leaves batch open.*--shape"):
        runtime.load(models / "matmul.onnx")
    loaded = runtime.load(models / "matmul.onnx", shapes={"x": (5, 64)})
    assert loaded.inputs[0]["shape"] == [5, 64]
    assert loaded.outputs[0]["shape"] == [5, 64]
    loaded.close()


@pytest.mark.parametrize(
    ("model", "shapes", "message"),
    [
        ("matmul", {"x": (5, 65)}, "does not fit"),
        ("matmul", {"x": (5,)}, "rank 2, not 1"),
        ("matmul", {"image": (5, 64)}, "no input 'image'; it has x"),
        ("twin", {"a": (3, 2), "b": (4, 2)}, "both 3 and 4"),
        ("add", {"x": (4, 9)}, "does not fit"),
    ],
)
def test_wrong_shapes(model: str, shapes: dict[str, Any], message: str, runtime: OnnxRuntime, models: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        runtime.load(models / f"{model}.onnx", shapes=shapes)


def test_one_named_dimension_given_once_serves_every_input(runtime: OnnxRuntime, models: Path) -> None:
    loaded = runtime.load(models / "twin.onnx", shapes={"a": (3, 2)})
    assert [i["shape"] for i in loaded.inputs] == [[3, 2], [3, 2]]
    loaded.close()


def test_question_marks_name_no_dimension(runtime: OnnxRuntime, models: Path) -> None:
    loaded = runtime.load(models / "unnamed.onnx", shapes={"x": (2, 3, 5)})
    assert loaded.outputs[0]["shape"] == [2, 3, 5]
    assert loaded.run(1).runs == 1
    loaded.close()


@pytest.mark.parametrize("name", ["garbage", "empty", "impossible"])
def test_a_bad_model_is_a_run_error_and_the_worker_survives(name: str, runtime: OnnxRuntime, models: Path) -> None:
    good = runtime.load(models / "add.onnx")
    pid = runtime.pid
    with pytest.raises(RunError, match=f"{name}.onnx"):
        runtime.load(models / f"{name}.onnx")
    assert runtime.pid == pid
    assert good.run(1).runs == 1
    good.close()


def test_several_models_stay_loaded_side_by_side(runtime: OnnxRuntime, models: Path) -> None:
    first, second = runtime.load(models / "add.onnx"), runtime.load(models / "f64.onnx")
    assert first.run(2).runs == 2
    assert second.run(3).runs == 3
    first.close()
    assert second.run(1).runs == 1
    second.close()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
def test_the_worker_is_pinned_to_the_core_asked_for(models: Path) -> None:
    core = get_usable_cores()[0]
    runtime = OnnxRuntime(LocalLink(), cpu_mask=(core,))
    try:
        runtime.load(models / "add.onnx")
        assert runtime.pid is not None
        assert os.sched_getaffinity(runtime.pid) == {core}
    finally:
        runtime.close()


@pytest.mark.skipif(len(get_usable_cores()) < 2, reason="needs two cores")
def test_two_threads_get_a_core_each(runtime: OnnxRuntime, models: Path) -> None:
    loaded = runtime.load(models / "matmul.onnx", threads=2, shapes={"x": (64, 64)})
    assert loaded.build.endswith("threads=2")
    assert runtime.pid is not None
    wanted = {frozenset({c}) for c in get_usable_cores()[-2:]}
    masks: set[frozenset[int]] = set()
    deadline = time.monotonic() + 60
    while not wanted <= masks and time.monotonic() < deadline:  # a pool thread pins itself once it has started
        tasks = [int(t.name) for t in Path(f"/proc/{runtime.pid}/task").iterdir()]
        masks = {frozenset(os.sched_getaffinity(t)) for t in tasks}
    assert wanted <= masks
    loaded.close()


def test_library_output_cannot_corrupt_the_protocol(models: Path, tmp_path: Path) -> None:
    """What a library prints goes to stderr, at Python's level and below it; answers stay JSON."""
    script = tmp_path / "run.py"
    runner = catalog.find_path("devices", "runner", "runner.py")
    script.write_text(
        textwrap.dedent(f"""
        import importlib.util, os, sys
        sys.path.insert(0, {str(runner.parent)!r})
        spec = importlib.util.spec_from_file_location("runner", {str(runner)!r})
        runner = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(runner)
        original = runner.Runner.hello
        def hello(self, request):
            print("chatter on stdout", flush=True)
            os.write(1, b"raw chatter\\n")
            return original(self, request)
        runner.Runner.hello = hello
        sys.argv = ["runner"]
        runner.main()
        """)
    )
    channel = PipeChannel([sys.executable, str(script)], {})
    try:
        channel.send(json.dumps({"op": "hello", "id": 5}).encode())
        line = channel.receive(60.0)
        assert line is not None
        assert json.loads(line)["id"] == 5
        assert "raw chatter" in channel.last_words()
    finally:
        channel.kill()


@pytest.mark.parametrize(
    "line",
    [b"", b"garbage", b"[]", b"{}", b'{"op": "format"}', b'{"op": "load"}', b'{"op": "run", "handle": 7, "n": 1}',
     b'{"op": "__class__"}', b"\xff\xfe", b'{"op": "unload", "handle": null}'],
)  # fmt: skip
def test_malformed_requests_are_answered_and_survived(line: bytes) -> None:
    channel = PipeChannel([sys.executable, str(catalog.find_path("devices", "runner", "runner.py"))], {})
    try:
        channel.send(line)
        reply = channel.receive(60.0)
        assert reply is not None
        assert json.loads(reply)["kind"] == "protocol"
        channel.send(b'{"op": "hello", "id": 1}')
        reply = channel.receive(60.0)
        assert reply is not None
        assert json.loads(reply)["protocol"] == 1
    finally:
        channel.kill()


def test_a_killed_worker_is_a_link_error_and_the_next_load_works(models: Path) -> None:
    runtime = OnnxRuntime(LocalLink())
    try:
        loaded = runtime.load(models / "add.onnx")
        assert runtime.pid is not None
        os.kill(runtime.pid, signal.SIGKILL)
        with pytest.raises(LinkError):
            loaded.run(1)
        assert runtime.load(models / "add.onnx").run(1).runs == 1
    finally:
        runtime.close()


def test_a_worker_past_its_deadline_is_killed(models: Path) -> None:
    runtime = OnnxRuntime(LocalLink(), run_timeout_s=0.2)
    try:
        loaded = runtime.load(models / "add.onnx")
        pid = runtime.pid
        loaded._expected_s = 0.0
        with pytest.raises(RunError, match="too slow"):
            loaded.run(2_000_000_000)
        assert pid is not None
        assert gone(pid)
    finally:
        runtime.close()


def test_a_program_that_does_not_exist_cannot_be_started() -> None:
    with pytest.raises(LinkError, match="cannot start /nonexistent/python"):
        LocalLink().spawn(["/nonexistent/python"], {})


def test_closing_the_device_ends_the_worker(models: Path) -> None:
    device = open_device("local")
    assert device.worker_pid() is None
    device.runtime().load(models / "add.onnx")
    pid = device.worker_pid()
    assert pid is not None
    device.close()
    assert gone(pid)


HOST = """
import sys, threading, time
from pathlib import Path
from deepen.devices import open_device

def work():
    device = open_device("local")
    loaded = device.runtime().load(Path(sys.argv[1]))
    print(device.worker_pid(), flush=True)
    while sys.argv[3] == "busy":
        loaded.run(1_000_000)
    time.sleep(600)

if sys.argv[2] == "thread":
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
else:
    work()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("thread", "busy"), [("main", "idle"), ("main", "busy"), ("thread", "busy")])
def test_no_worker_outlives_a_killed_host(how: signal.Signals, thread: str, busy: str, models: Path) -> None:
    if how is signal.SIGINT and thread == "thread":
        how = signal.SIGKILL  # a join() in the main thread holds Ctrl-C back; nothing of ours
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, str(models / "add.onnx"), thread, busy],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert host.stdout is not None
        worker = int(host.stdout.readline())
        host.send_signal(how)
        host.wait(timeout=60)
        assert gone(worker)
    finally:
        host.kill()
        host.wait()
        if host.stdout is not None:
            host.stdout.close()
