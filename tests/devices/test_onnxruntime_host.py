"""The host's half of the runner protocol, against a scripted worker: what went wrong is told apart."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from deepen.devices import Channel, Device, Link, Loaded, Runtime
from deepen.devices.runtimes.onnxruntime import OnnxRuntime
from deepen.errors import ConfigError, DeepenError, LinkError, RunError
from deepen.testing.bench import SimulatedBench
from deepen.testing.device import FakeChannel, FakeLink

HELLO = {"protocol": 1, "onnxruntime": "1.0"}
LOADED = {"handle": 1, "build": "onnxruntime 1.0", "inputs": [], "outputs": [], "first_run_s": 1e-3}


def worker(words: str = "", **answers: Any) -> FakeChannel:
    table = {"hello": HELLO, "load": LOADED, "unload": {}, "bye": {}, **answers}
    return FakeChannel(lambda request: table[request["op"]], pid=4711, words=words)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"x")
    return path


def test_a_good_run(model: Path) -> None:
    channel = worker(run={"start_ns": 1_000_000_000, "end_ns": 1_500_000_000, "cpu_ns": 400_000_000})
    runtime = OnnxRuntime(FakeLink([channel]))
    assert runtime.pid is None
    loaded = runtime.load(model, threads=1, shapes={"x": (1, 2)}, seed=3)
    assert runtime.pid == 4711
    interval = loaded.run(10)
    assert (interval.start_s, interval.end_s, interval.cpu_s, interval.runs) == (1.0, 1.5, 0.4, 10)
    loaded.close()
    runtime.close()
    assert [r["op"] for r in channel.requests] == ["hello", "load", "run", "unload", "bye"]
    assert channel.requests[1]["shapes"] == {"x": [1, 2]}
    assert channel.requests[1]["seed"] == 3
    assert channel.killed


@pytest.mark.parametrize(
    ("answer", "expected", "message"),
    [
        ({"error": "bad graph", "kind": "model"}, RunError, "m.onnx: onnxruntime cannot run it: bad graph"),
        ({"error": "input 'x' leaves n open", "kind": "shape"}, ConfigError, "--shape"),
        ({"error": "no such file", "kind": "missing"}, ConfigError, "no such file"),
        ({"error": "bad_alloc", "kind": "memory"}, RunError, "too little memory"),
        ({"error": "onnxruntime can not be imported", "kind": "runtime"}, ConfigError, "pip install onnxruntime"),
        ({"error": "no op", "kind": "protocol"}, LinkError, "refused the request"),
        (-int(signal.SIGSEGV), RunError, "crashed with SIGSEGV during 'load'"),
        (-int(signal.SIGABRT), RunError, "SIGABRT"),
        (-int(signal.SIGKILL), LinkError, "ran out of memory"),
        (-int(signal.SIGTERM), LinkError, "SIGTERM"),
        (1, LinkError, "status 1.*last line of stderr"),
        (None, RunError, "took more than"),
        (b"Segmentation fault", LinkError, "not JSON"),
        ({"id": 99, **LOADED}, LinkError, "answered request 99"),
    ],
)
def test_failures_while_loading(
    answer: Any, expected: type[DeepenError], message: str, model: Path
) -> None:  # fmt: skip
    channel = worker(load=answer, words="first line\nlast line of stderr")
    runtime = OnnxRuntime(FakeLink([channel]))
    with pytest.raises(expected, match=message) as caught:
        runtime.load(model)
    assert type(caught.value) is expected
    runtime.close()
    assert channel.killed


@pytest.mark.parametrize(
    ("hello", "message"),
    [
        ({"protocol": 2}, "speaks protocol 2"),
        (None, "did not answer 'hello'"),
        (-int(signal.SIGSEGV), "ended by SIGSEGV"),  # nobody's model is to blame yet
        (3, "status 3"),
    ],
)
def test_a_worker_that_does_not_start_is_a_link_error(hello: Any, message: str, model: Path) -> None:
    channel = worker(hello=hello)
    with pytest.raises(LinkError, match=message):
        OnnxRuntime(FakeLink([channel])).load(model)
    assert channel.killed


def test_a_crash_while_running_blames_the_model_and_the_next_load_starts_a_fresh_worker(model: Path) -> None:
    first, second = worker(run=-int(signal.SIGSEGV)), worker()
    runtime = OnnxRuntime(FakeLink([first, second]))
    loaded = runtime.load(model)
    with pytest.raises(RunError, match="SIGSEGV during 'run'"):
        loaded.run(1)
    assert not loaded.alive
    with pytest.raises(LinkError, match="load it again"):
        loaded.run(1)
    loaded.close()  # harmless
    again = runtime.load(model)
    assert again.alive
    assert not loaded.alive  # the old handle does not come back to life with the new worker
    runtime.close()


def test_an_error_answer_leaves_the_worker_alive(model: Path) -> None:
    channel = worker(run={"error": "shape mismatch", "kind": "model"})
    runtime = OnnxRuntime(FakeLink([channel]))
    loaded = runtime.load(model)
    with pytest.raises(RunError, match="shape mismatch"):
        loaded.run(1)
    assert loaded.alive
    assert not channel.killed
    runtime.close()


def test_a_busy_worker_is_killed_without_a_goodbye(model: Path) -> None:
    def interrupted(request: dict[str, Any]) -> dict[str, Any]:
        if request["op"] == "run":
            raise KeyboardInterrupt
        return HELLO if request["op"] == "hello" else LOADED

    channel, other = FakeChannel(interrupted), worker()
    runtime = OnnxRuntime(FakeLink([channel, other]))
    loaded = runtime.load(model)
    with pytest.raises(KeyboardInterrupt):
        loaded.run(1)
    assert not loaded.alive  # its answer may still come: the worker is of no use any more
    loaded.close()
    assert channel.requests[-1]["op"] == "run"
    assert runtime.load(model).alive
    assert channel.killed
    runtime.close()
    assert channel.requests[-1]["op"] == "run"
    assert other.requests[-1]["op"] == "bye"


def test_wrong_requests_are_refused_before_a_worker_starts(tmp_path: Path, model: Path) -> None:
    link = FakeLink()
    runtime = OnnxRuntime(link)
    with pytest.raises(ConfigError, match="no such model file"):
        runtime.load(tmp_path / "absent.onnx")
    with pytest.raises(ConfigError, match=r"\.onnx models only"):
        runtime.load(tmp_path / "m.tflite")
    with pytest.raises(ConfigError, match="lower --threads"):
        runtime.load(model, threads=10_000)
    with pytest.raises(ConfigError, match="core 9999"):
        OnnxRuntime(link, cpu_mask=(9999,)).load(model)
    assert link.spawned == []
    with pytest.raises(LinkError, match="device is gone"):
        runtime.load(model)


def test_stand_ins_satisfy_the_protocols() -> None:
    bench = SimulatedBench()
    assert isinstance(bench.device, Device)
    assert isinstance(bench.runtime, Runtime)
    assert isinstance(bench.device.link, Link)
    assert isinstance(worker(), Channel)
    loaded = bench.runtime.load(Path(__file__))
    assert isinstance(loaded, Loaded)


@pytest.mark.parametrize("protocol", [Channel, Device, Link, Loaded, Runtime])
def test_protocols_have_at_most_six_verbs(protocol: type) -> None:
    verbs = [n for n, v in vars(protocol).items() if callable(v) and not n.startswith("_")]
    assert 1 <= len(verbs) <= 6
