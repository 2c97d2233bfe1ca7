"""The host's half of the runner protocol, against a scripted worker: what went wrong is told apart."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from deepen.devices import Device, Link, LoadedModel, ProcessChannel, Runtime
from deepen.devices.links.local import LocalLink, PipeChannel
from deepen.devices.runtimes.python_runner import LiteRt, OnnxRuntime
from deepen.devices.types import CompletedCommand
from deepen.errors import ConfigError, DeepenError, LinkError, RunError
from deepen.testing.bench import SimulatedBench
from deepen.testing.device import FakeChannel, FakeLink

HELLO = {"protocol": 1, "onnxruntime": "1.0", "cpus": [0, 1, 2, 3]}
LOADED = {"handle": 1, "build": "onnxruntime 1.0", "inputs": [], "outputs": [], "first_run_s": 1e-3}


def stamps() -> dict[str, Any]:
    """What a device whose clock is 1000 s behind the host's says of a block that takes no time."""
    now = time.monotonic_ns() - 1000 * 10**9
    return {"start_ns": now, "end_ns": now, "cpu_ns": 0}


def worker(words: str = "", **answers: Any) -> FakeChannel:
    table = {"hello": HELLO, "load": LOADED, "unload": {}, "bye": {}, **answers}

    def answer(request: dict[str, Any]) -> Any:
        if request["op"] == "run" and (request["n"] == 0 or "run" not in table):
            return stamps()
        return table[request["op"]]

    return FakeChannel(answer, pid=4711, words=words)


def linked(*channels: FakeChannel) -> FakeLink:
    """A link to a device with Python."""
    return FakeLink(list(channels), answer=lambda argv: CompletedCommand(0, b"/usr/bin/python3\n", b""))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"x")
    return path


def test_a_good_run(model: Path) -> None:
    channel = worker()
    link = linked(channel)
    runtime = OnnxRuntime(link)
    assert runtime.pid is None
    loaded = runtime.load(model, threads=2, shapes={"x": (1, 2)}, seed=3)
    assert runtime.pid == 4711
    loaded.run(10)
    loaded.close()
    runtime.close()
    asked = [(r["op"], r.get("n")) for r in channel.requests]
    assert asked[:2] == [("hello", None), ("load", None)]
    assert asked[-2:] == [("unload", None), ("bye", None)]
    assert asked.count(("run", 10)) == 1
    assert set(asked[2:-2]) == {("run", 0), ("run", 10)}  # the clocks are read by runs of nothing
    assert channel.requests[0]["runtime"] == "onnxruntime"
    assert channel.requests[1]["shapes"] == {"x": [1, 2]}
    assert (channel.requests[1]["seed"], channel.requests[1]["cpus"]) == (3, [2, 3])
    assert channel.killed


def test_the_stamps_of_a_device_become_the_hosts_with_an_error_that_holds(model: Path) -> None:
    """The device's clock is 1000 s behind; a block of its own clock is found on the host's within what is stated."""
    true: list[int] = []

    def run(request: dict[str, Any]) -> dict[str, Any]:
        if request["op"] != "run":
            return HELLO if request["op"] == "hello" else LOADED
        reply = stamps()
        if request["n"] == 0:
            return reply
        time.sleep(0.01)
        reply["end_ns"] = time.monotonic_ns() - 1000 * 10**9
        true[:] = [reply["start_ns"] + 1000 * 10**9, reply["end_ns"] + 1000 * 10**9]
        return reply

    runtime = OnnxRuntime(linked(FakeChannel(run)))
    interval = runtime.load(model).run(10)
    assert 0 < interval.uncertainty_s < 0.01
    allowed = 2 * interval.uncertainty_s
    assert (interval.start_s, interval.end_s) == (
        pytest.approx(true[0] / 1e9, abs=allowed),
        pytest.approx(true[1] / 1e9, abs=allowed),
    )
    assert (interval.runs, interval.cpu_s) == (10, 0.0)


def test_a_device_that_slept_during_a_block_gives_no_interval(model: Path) -> None:
    slept = {"start_ns": 0, "end_ns": 10**9, "start_boot_ns": 5, "end_boot_ns": 3 * 10**9, "cpu_ns": 0}
    loaded = OnnxRuntime(linked(worker(run=slept))).load(model)
    with pytest.raises(LinkError, match="went to sleep during a block"):
        loaded.run(1)


@pytest.mark.parametrize(
    "reply", [{"start_ns": 1}, {"start_ns": "x", "end_ns": 1}, {"start_ns": 2, "end_ns": 1}, {"start_ns": None}]
)
def test_stamps_that_make_no_sense_are_refused(reply: dict[str, Any], model: Path) -> None:
    loaded = OnnxRuntime(linked(worker(run=reply))).load(model)
    with pytest.raises(LinkError, match="use the runner shipped"):
        loaded.run(1)


def test_a_device_without_python_is_told_what_to_do(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"no Python on .*use the C runner"):
        OnnxRuntime(FakeLink()).load(model)


@pytest.mark.parametrize(
    ("answer", "expected", "message"),
    [
        ({"error": "bad graph", "kind": "model"}, RunError, "m.onnx: onnxruntime cannot run it: bad graph"),
        ({"error": "input 'x' leaves n open", "kind": "shape"}, ConfigError, "--shape"),
        ({"error": "no such file", "kind": "missing"}, ConfigError, "no such file"),
        ({"error": "bad_alloc", "kind": "memory"}, RunError, "too little memory"),
        ({"error": "onnxruntime can not be imported", "kind": "runtime"}, ConfigError, "pip install onnxruntime"),
        ({"error": "X takes none of the 9 nodes", "kind": "fallback"}, RunError, "X takes none.*on the CPU by name"),
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
    runtime = OnnxRuntime(linked(channel))
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
        OnnxRuntime(linked(channel)).load(model)
    assert channel.killed


def test_a_cut_link_is_told_as_such_and_not_as_a_lack_of_memory(model: Path) -> None:
    channel = worker(run=-int(signal.SIGKILL))
    loaded = OnnxRuntime(linked(channel)).load(model)
    channel.cut = True  # as channels of remote links have it
    with pytest.raises(LinkError) as caught:
        loaded.run(1)
    assert "memory" not in str(caught.value)
    assert not loaded.alive


def test_a_crash_while_running_blames_the_model_and_the_next_load_starts_a_fresh_worker(model: Path) -> None:
    first, second = worker(run=-int(signal.SIGSEGV)), worker()
    runtime = OnnxRuntime(linked(first, second))
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
    runtime = OnnxRuntime(linked(channel))
    loaded = runtime.load(model)
    with pytest.raises(RunError, match="shape mismatch"):
        loaded.run(1)
    assert loaded.alive
    assert not channel.killed
    runtime.close()


def test_a_busy_worker_is_killed_without_a_goodbye(model: Path) -> None:
    def interrupted(request: dict[str, Any]) -> dict[str, Any]:
        if request["op"] == "run":
            if request["n"] == 0:
                return stamps()
            raise KeyboardInterrupt
        return HELLO if request["op"] == "hello" else LOADED

    channel, other = FakeChannel(interrupted), worker()
    runtime = OnnxRuntime(linked(channel, other))
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


class Counting(LocalLink):
    """The local link, which counts the processes it starts."""

    started = 0

    def spawn(self, argv: Sequence[str], env: Mapping[str, str]) -> PipeChannel:
        self.started += 1
        return super().spawn(argv, env)


def test_wrong_requests_are_refused_before_a_worker_starts(tmp_path: Path, model: Path) -> None:
    link = Counting()
    runtime = OnnxRuntime(link)
    with pytest.raises(ConfigError, match="no such model file"):
        runtime.load(tmp_path / "absent.onnx")
    with pytest.raises(ConfigError, match=r"\.onnx models only"):
        runtime.load(tmp_path / "m.tflite")
    with pytest.raises(ConfigError, match=r"\.tflite models only"):
        LiteRt(link).load(model)
    with pytest.raises(ConfigError, match="lower --threads"):
        runtime.load(model, threads=10_000)
    with pytest.raises(ConfigError, match="core 9999"):
        OnnxRuntime(link, cpu_mask=(9999,)).load(model)
    assert link.started == 0


def test_the_cores_are_the_devices(model: Path) -> None:
    with pytest.raises(ConfigError, match="5 threads need as many cores; the 4 usable cores are fewer"):
        OnnxRuntime(linked(worker())).load(model, threads=5)
    with pytest.raises(ConfigError, match=r"core 7 of cpu_mask is not usable here; usable: \[0, 1, 2, 3\]"):
        OnnxRuntime(linked(worker()), cpu_mask=(7,)).load(model)
    nowhere = worker(hello={**HELLO, "cpus": []})
    OnnxRuntime(linked(nowhere)).load(model, threads=2)
    assert nowhere.requests[1]["cpus"] == []
    with pytest.raises(ConfigError, match="cannot pin"):
        OnnxRuntime(linked(worker(hello={**HELLO, "cpus": []})), cpu_mask=(1,)).load(model)


def test_a_device_that_is_gone_is_a_link_error(model: Path) -> None:
    with pytest.raises(LinkError, match="device is gone"):
        OnnxRuntime(linked()).load(model)


def test_stand_ins_satisfy_the_protocols() -> None:
    bench = SimulatedBench()
    assert isinstance(bench.device, Device)
    assert isinstance(bench.runtime, Runtime)
    assert isinstance(bench.device.link, Link)
    assert isinstance(worker(), ProcessChannel)
    loaded = bench.runtime.load(Path(__file__))
    assert isinstance(loaded, LoadedModel)


@pytest.mark.parametrize("protocol", [ProcessChannel, Device, Link, LoadedModel, Runtime])
def test_protocols_have_at_most_six_verbs(protocol: type) -> None:
    verbs = [n for n, v in vars(protocol).items() if callable(v) and not n.startswith("_")]
    assert 1 <= len(verbs) <= 6
