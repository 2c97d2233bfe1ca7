"""The C runner (sanitized) against runner.py: the same requests, the same answers."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from deepen.devices.state.read_state import get_usable_cores

GOOD = ["add", "f16", "bf16", "f64", "i8", "i64", "u8", "bool", "gather", "nonzero", "misdeclared"]
TIMES = {"start_ns", "end_ns", "start_boot_ns", "end_boot_ns", "cpu_ns"}


@pytest.fixture(scope="session")
def more_models(models: Path) -> Path:
    """The models of the Python runner's tests, and some more."""
    from onnx import TensorProto as T
    from onnx import helper, save

    def write(name: str, nodes: list[Any], inputs: list[Any], outputs: list[Any]) -> None:
        graph = helper.make_graph(nodes, name, inputs, outputs)
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
             str(models / f"{name}.onnx"))  # fmt: skip

    info = helper.make_tensor_value_info
    write(
        "string", [helper.make_node("Identity", ["x"], ["y"])], [info("x", T.STRING, [2])], [info("y", T.STRING, [2])]
    )
    write("scalar", [helper.make_node("Neg", ["x"], ["y"])], [info("x", T.FLOAT, [])], [info("y", T.FLOAT, [])])
    write("unranked", [helper.make_node("Neg", ["x"], ["y"])], [info("x", T.FLOAT, None)], [info("y", T.FLOAT, None)])
    write("empty_tensor", [helper.make_node("Neg", ["x"], ["y"])], [info("x", T.FLOAT, [0, 3])],
          [info("y", T.FLOAT, [0, 3])])  # fmt: skip
    sequence = helper.make_tensor_sequence_value_info("y", T.FLOAT, None)
    write("sequence", [helper.make_node("SequenceConstruct", ["x", "x"], ["y"])], [info("x", T.FLOAT, [2])], [sequence])
    ask = helper.make_tensor_sequence_value_info("x", T.FLOAT, None)
    write("from_sequence", [helper.make_node("SequenceLength", ["x"], ["y"])], [ask], [info("y", T.INT64, [])])
    quote = 'in "put"\n$(x)'
    write(
        "quoted", [helper.make_node("Neg", [quote], ["é"])], [info(quote, T.FLOAT, ["n"])], [info("é", T.FLOAT, ["n"])]
    )
    return models


def both(c_worker: Any, python_worker: Any, **request: Any) -> tuple[Any, Any]:
    return c_worker.ask(id=1, **request), python_worker.ask(id=1, **request)


def test_given_values_are_taken_and_refused_alike(
    c_worker: Any, python_worker: Any, more_models: Path, tmp_path: Path
) -> None:
    values = tmp_path / "x.bin"
    asked = {"op": "load", "path": str(more_models / "nonzero.onnx"), "seed": 0}
    plain = c_worker.ask(id=1, **asked)
    (entry,) = plain["inputs"]
    size = {"tensor(float)": 4, "tensor(int64)": 8, "tensor(bool)": 1}[entry["type"]] * math.prod(entry["shape"])
    values.write_bytes(bytes(size))
    for worker in (c_worker, python_worker):  # none of its elements is there
        given = worker.ask(id=1, **asked, inputs={entry["name"]: str(values)})
        assert 0 in given["outputs"][0]["shape"]
    assert 0 not in plain["outputs"][0]["shape"]
    for bad in (
        {"absent": str(values)},
        {entry["name"]: str(tmp_path / "no.bin")},
        {entry["name"]: str(more_models / "nonzero.onnx")},
    ):
        refusals = both(c_worker, python_worker, **asked, inputs=bad)
        assert [answer["kind"] for answer in refusals] == ["inputs", "inputs"]
    text = both(c_worker, python_worker, op="load", path=str(more_models / "string.onnx"), inputs={"x": str(values)})
    assert [answer["kind"] for answer in text] == ["inputs", "inputs"]
    values.write_bytes(bytes(size - 1))
    short = both(c_worker, python_worker, **asked, inputs={entry["name"]: str(values)})
    assert [answer["kind"] for answer in short] == ["inputs", "inputs"]
    assert c_worker.ask(op="load", id=2, path=asked["path"], inputs=[])["kind"] == "protocol"


@pytest.mark.parametrize("name", [*GOOD, "empty_tensor"])
def test_models_load_alike(name: str, c_worker: Any, python_worker: Any, more_models: Path) -> None:
    have, wanted = both(c_worker, python_worker, op="load", path=str(more_models / f"{name}.onnx"), seed=3)
    assert have.pop("first_run_s") > 0
    wanted.pop("first_run_s")
    assert have == wanted
    ran = c_worker.ask(op="run", id="r", handle=1, n=3)
    assert set(ran) == {*TIMES, "id"}
    assert ran["start_ns"] < ran["end_ns"]
    assert c_worker.bye()[0] == 0  # and nothing leaked


@pytest.mark.parametrize("level", ["disable", "basic", "extended", "all"])
def test_levels_are_told(level: str, c_worker: Any, python_worker: Any, more_models: Path) -> None:
    have, wanted = both(c_worker, python_worker, op="load", path=str(more_models / "add.onnx"), level=level)
    assert have["build"] == wanted["build"]
    assert f"level={level} threads=1" in have["build"]


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("matmul", {}),
        ("matmul", {"x": [5, 64]}),
        ("matmul", {"x": [0, 64]}),
        ("matmul", {"x": [5, 65]}),
        ("matmul", {"x": [5]}),
        ("matmul", {"image": [5, 64]}),
        ("twin", {"a": [3, 2], "b": [4, 2]}),
        ("twin", {"a": [3, 2]}),
        ("twin", {"c": [3, 2]}),
        ("unnamed", {"x": [2, 3, 5]}),
        ("unnamed", {}),
        ("add", {"x": [4, 9]}),
        ("quoted", {}),
        ("quoted", {'in "put"\n$(x)': [2]}),
        ("absent", {}),
    ],
)
def test_shapes_are_taken_and_refused_alike(
    name: str, shapes: dict[str, Any], c_worker: Any, python_worker: Any, more_models: Path
) -> None:
    path = str(more_models / f"{name}.onnx")
    have, wanted = both(c_worker, python_worker, op="load", path=path, shapes=shapes)
    assert have.pop("first_run_s", None) is not None or "error" in wanted
    wanted.pop("first_run_s", None)
    assert have == wanted


@pytest.mark.parametrize("name", ["garbage", "empty", "impossible", "from_sequence"])
def test_bad_models_are_told_alike_and_survived(
    name: str, c_worker: Any, python_worker: Any, more_models: Path
) -> None:
    have, wanted = both(c_worker, python_worker, op="load", path=str(more_models / f"{name}.onnx"))
    assert have["kind"] == wanted["kind"]
    assert have["error"]
    assert c_worker.ask(op="load", id=2, path=str(more_models / "add.onnx"))["handle"] == 1
    assert c_worker.bye()[0] == 0


@pytest.mark.parametrize(
    ("name", "shapes", "shape", "kind"),
    [("string", {}, [2], "tensor(string)"), ("scalar", {}, [], "tensor(float)"),
     ("unranked", {"x": [2, 3]}, [2, 3], "tensor(float)")],
)  # fmt: skip
def test_inputs_beyond_the_python_runner(
    name: str, shapes: dict[str, Any], shape: list[int], kind: str, c_worker: Any, more_models: Path
) -> None:
    """Strings, true scalars, and inputs whose rank is open (numpy and the Python package know no such thing)."""
    loaded = c_worker.ask(op="load", id=1, path=str(more_models / f"{name}.onnx"), shapes=shapes)
    assert loaded["inputs"] == [{"name": "x", "shape": shape, "type": kind}]
    assert loaded["outputs"] == [{"name": "y", "shape": shape, "type": kind}]
    assert "start_ns" in c_worker.ask(op="run", id=2, handle=1, n=2)
    assert c_worker.bye()[0] == 0


def test_an_open_rank_is_asked_for(c_worker: Any, more_models: Path) -> None:
    answer = c_worker.ask(op="load", id=1, path=str(more_models / "unranked.onnx"))
    assert answer == {"id": 1, "kind": "shape", "error": "input 'x' leaves rank open; give its shape"}


def test_an_output_that_is_no_tensor(c_worker: Any, more_models: Path) -> None:
    loaded = c_worker.ask(op="load", id=1, path=str(more_models / "sequence.onnx"))
    assert loaded["outputs"] == [{"name": "y", "shape": None, "type": "no tensor"}]
    assert "start_ns" in c_worker.ask(op="run", id=2, handle=1, n=2)
    assert c_worker.bye()[0] == 0


def test_a_tensor_beyond_all_memory(c_worker: Any, more_models: Path) -> None:
    answer = c_worker.ask(op="load", id=1, path=str(more_models / "matmul.onnx"), shapes={"x": [2**62, 64]})
    assert answer["kind"] == "memory"


@pytest.mark.parametrize(
    "line",
    [b"", b"garbage", b"[]", b"{}", b'{"op": "format"}', b'{"op": "load"}', b'{"op": "run", "handle": 7, "n": 1}',
     b'{"op": "__class__"}', b"\xff\xfe", b'{"op": "unload", "handle": null}', b'{"op": ["hello"]}', b"[" * 100,
     b'{"op": "load", "path": "a\\u0000b"}', b'{"op": "load", "path": "x", "level": "more"}',
     b'{"op": "load", "path": "x", "threads": 0}', b'{"op": "load", "path": "x", "threads": 1.5}',
     b'{"op": "load", "path": "x", "cpus": [-1]}', b'{"op": "load", "path": "x", "shapes": []}',
     b'{"op": "load", "path": "x", "seed": -1}', b'{"op": "load", "path": 3}', b"{" + b" " * (1 << 20) + b"}"],
    ids=range(21),
)  # fmt: skip
def test_malformed_requests_are_answered_and_survived(line: bytes, c_worker: Any) -> None:
    answer = c_worker.line(line)
    assert answer["kind"] == "protocol"
    assert answer["error"]
    assert c_worker.ask(op="hello", id=1)["protocol"] == 1


@pytest.mark.parametrize("value", [None, True, 3, -1.5e3, "", 'a"\\\n\u00e9\U0001f600'])
def test_the_id_comes_back(value: Any, c_worker: Any) -> None:
    assert c_worker.ask(op="run", id=value)["id"] == value


def test_hello(c_worker: Any, python_worker: Any) -> None:
    have, wanted = both(c_worker, python_worker, op="hello", runtime="onnxruntime")
    assert have["runner"] == "c"
    for key in ("protocol", "onnxruntime", "machine", "clock", "boot_clock", "cpu_clock", "cpus"):
        assert have[key] == wanted[key]
    assert have["pid"] == c_worker.channel.pid
    assert "litert" not in have
    assert c_worker.ask(op="hello", id=1, runtime="nonsense")["kind"] == "runtime"
    assert c_worker.ask(op="hello", id=1, runtime="litert")["kind"] == "runtime"  # its library was not named


def test_an_accelerator_is_refused_not_ignored(c_worker: Any, more_models: Path) -> None:
    path = str(more_models / "add.onnx")
    delegate = {"provider": "CUDAExecutionProvider"}
    assert c_worker.ask(op="load", id=1, path=path, delegate=delegate)["kind"] == "fallback"
    assert c_worker.ask(op="load", id=1, path=path, delegate={"library": "x.so"})["kind"] == "fallback"
    assert c_worker.ask(op="load", id=1, path=path, delegate={"provider": "CPUExecutionProvider"})["handle"] == 1


def test_handles(c_worker: Any, more_models: Path) -> None:
    paths = [str(more_models / f"{name}.onnx") for name in ("add", "f64", "nonzero")]
    assert [c_worker.ask(op="load", id=0, path=p)["handle"] for p in paths] == [1, 2, 3]
    assert c_worker.ask(op="unload", id=5, handle=2) == {"id": 5}
    assert c_worker.ask(op="run", id=6, handle=2, n=1)["error"] == "no handle 2"
    assert "start_ns" in c_worker.ask(op="run", id=7, handle=3, n=1)
    assert c_worker.ask(op="load", id=8, path=paths[1])["handle"] == 4
    assert c_worker.bye()[0] == 0


def test_a_block_of_none_is_a_reading_of_the_clocks(c_worker: Any, more_models: Path) -> None:
    c_worker.ask(op="load", id=1, path=str(more_models / "add.onnx"))
    before = time.monotonic_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    read = c_worker.ask(op="run", id=2, handle=1, n=0)
    after = time.monotonic_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert before[0] <= read["start_ns"] <= read["end_ns"] <= after[0]
    assert before[1] <= read["start_boot_ns"] <= read["end_boot_ns"] <= after[1]
    assert c_worker.ask(op="run", id=2, handle=1, n=-1)["kind"] == "protocol"


def test_a_file_name_that_is_no_text(c_worker: Any, more_models: Path, tmp_path: Path) -> None:
    for name in (b"caf\xe9 \xff.onnx", b'a "b" $(c)\n\\.onnx'):
        path = os.fsencode(tmp_path) + b"/" + name
        Path(os.fsdecode(path)).write_bytes((more_models / "add.onnx").read_bytes())
        assert "handle" in c_worker.ask(op="load", id=1, path=os.fsdecode(path))


@pytest.mark.skipif(len(get_usable_cores()) < 2, reason="needs two cores")
def test_each_thread_gets_its_core(c_worker: Any, more_models: Path) -> None:
    cores = list(get_usable_cores()[-2:])
    pid = c_worker.channel.pid
    c_worker.ask(op="hello", id=0)
    before = set(Path(f"/proc/{pid}/task").iterdir())
    path = str(more_models / "matmul.onnx")
    loaded = c_worker.ask(op="load", id=1, path=path, threads=2, cpus=cores, shapes={"x": [64, 64]})
    assert loaded["build"].endswith("threads=2")
    born = set(Path(f"/proc/{pid}/task").iterdir()) - before
    assert [os.sched_getaffinity(int(t.name)) for t in born] == [{cores[1]}]
    assert os.sched_getaffinity(pid) == {cores[0]}
    assert c_worker.ask(op="load", id=1, path=path, cpus=[4000], shapes={"x": [64, 64]})["kind"] == "protocol"


def test_libraries_that_are_not_there(start: Any, sanitized: Path, tmp_path: Path) -> None:
    (tmp_path / "text.so").write_text("this is no library")
    for library in (tmp_path / "absent.so", tmp_path / "text.so"):
        worker = start(sanitized, "--library", library)
        answer = worker.ask(op="hello", id=1, runtime="onnxruntime")
        assert answer["kind"] == "runtime"
        assert library.name in answer["error"]
    other = start(sanitized, "--library", "libm.so.6").ask(op="hello", id=1)
    assert other["kind"] == "runtime"
    assert "no library named on the command line is" in other["error"]


@pytest.mark.parametrize(
    "argv", [["--parent"], ["--parent", "x"], ["--parent", "0"], ["x"], ["--library"], ["--what", "x"]]
)
def test_wrong_options(argv: list[str], sanitized: Path) -> None:
    done = subprocess.run([str(sanitized), *argv], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


def test_it_ends_when_stdin_closes_even_in_the_middle_of_a_run(
    start: Any, native: Path, ort_library: Path, more_models: Path
) -> None:
    worker = start(native, "--library", ort_library)
    worker.ask(op="load", id=1, path=str(more_models / "add.onnx"))
    worker.channel.send(b'{"op": "run", "id": 2, "handle": 1, "n": 4000000000000}')
    assert worker.channel.receive(0.3) is None
    worker.channel._process.stdin.close()
    assert worker.channel._process.wait(timeout=60) == 0


def test_it_ends_when_a_socket_is_shut_down(native: Path) -> None:
    """An SSH server without a terminal gives its commands sockets."""
    ours, theirs = socket.socketpair()
    with ours, theirs, subprocess.Popen([str(native)], stdin=theirs, stdout=subprocess.DEVNULL) as process:
        theirs.close()
        ours.shutdown(socket.SHUT_WR)
        assert process.wait(timeout=60) == 0


def test_it_ends_with_its_parent(native: Path) -> None:
    script = f'"{native}" --parent $$ <"$1" >/dev/null & echo $!; read -r line'
    reader, writer = os.pipe()
    try:
        with subprocess.Popen(["sh", "-c", script, "sh", f"/dev/fd/{reader}"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True, pass_fds=[reader]) as shell:  # fmt: skip
            assert shell.stdout is not None
            child = int(shell.stdout.readline())
            shell.kill()
            shell.wait()
            deadline = time.monotonic() + 60
            status = Path(f"/proc/{child}/stat")
            while status.exists() and ") Z " not in status.read_text():
                assert time.monotonic() < deadline
                time.sleep(0.02)
    finally:
        os.close(reader)
        os.close(writer)


def test_a_parent_that_has_gone_already(native: Path) -> None:
    argv = [str(native), "--parent", "1"]
    done = subprocess.run(argv, input=b'{"op": "hello"}\n', capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, b"")


def test_both_rest_as_long_as_asked(c_worker: Any, python_worker: Any) -> None:
    for worker in (c_worker, python_worker):
        before = time.monotonic_ns()
        rested = worker.ask(op="wait", id=1, ns=30_000_000)
        assert set(rested) == {*TIMES, "id"}
        assert before <= rested["start_ns"] <= rested["end_ns"] - 30_000_000
        assert worker.ask(op="wait", id=2, ns=0)["id"] == 2


def test_both_rest_no_longer_than_a_process_lives(c_worker: Any, python_worker: Any) -> None:
    for worker in (c_worker, python_worker):
        with subprocess.Popen(["sleep", "600"]) as other:
            worker.channel.send(b'{"op": "wait", "id": 1, "ns": 600000000000, "pid": %d}' % other.pid)
            assert worker.channel.receive(0.3) is None
            other.kill()
            other.wait()
            assert worker.channel.receive(60.0) is not None


@pytest.mark.parametrize("request_", [{}, {"ns": -1}, {"ns": 86_400_000_000_001}, {"ns": 1, "pid": -1}])
def test_both_refuse_a_rest_that_is_none(request_: dict[str, int], c_worker: Any, python_worker: Any) -> None:
    for answer in both(c_worker, python_worker, op="wait", **request_):
        assert answer["kind"] == "protocol"
