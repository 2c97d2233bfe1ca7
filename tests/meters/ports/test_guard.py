"""The guard writes when its parent dies, however it dies, and only then."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deepen.meters.ports.guard import PortGuard
from deepen.meters.ports.serial_port import open_port
from tests.support.terminals import read_bytes

HOST = """
import os, sys, time
from deepen.meters.ports.guard import PortGuard
fd = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
guard = PortGuard(fd, b"too early")
guard.arm(b"safe now")
{then}
print("ready", flush=True)
time.sleep(60)
"""


DRIVER = """
import sys, time
from types import SimpleNamespace
from deepen.meters import MeterContext, MeterSpec
from deepen.meters.stream.meter import make_stream_driver
from deepen.records import Accuracy

def make(port, spec, source):
    port.write(b"on;")
    return SimpleNamespace(
        name="toy", serial="", rate_hz=1000.0, calibration_id="", accuracy=Accuracy(), source=source,
        safe_bytes=b"off;", close=lambda: port.write(b"closed;"),
    )

meter = make_stream_driver("toy", "a toy", make).open(MeterSpec("toy", sys.argv[1]), MeterContext())
print("ready", flush=True)
sys.stdin.readline()
meter.close()
"""


@pytest.mark.parametrize(("kill", "expected"), [(True, b"on;off;"), (False, b"on;closed;")])
def test_an_opened_meter_is_guarded(kill: bool, expected: bytes, terminal: tuple[int, str], repo_root: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, terminal[1]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=repo_root,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if kill:
            process.kill()
            process.wait()
        else:
            process.communicate("\n")
            assert process.returncode == 0
    assert read_bytes(terminal[0], len(expected)) == expected
    open_port(terminal[1]).close()  # and its lock is free again


def host(path: str, root: Path, then: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOST.format(then=then), path], stdout=subprocess.PIPE, text=True, cwd=root
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_host_that_is_killed_leaves_the_instrument_safe(
    number: signal.Signals, terminal: tuple[int, str], repo_root: Path
) -> None:
    with host(terminal[1], repo_root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert select.select([terminal[0]], [], [], 0.0)[0] == []
        process.send_signal(number)
        process.wait()
    assert read_bytes(terminal[0], len(b"safe now")) == b"safe now"


def test_a_host_that_ends_without_closing_leaves_the_instrument_safe(
    terminal: tuple[int, str], repo_root: Path
) -> None:
    with host(terminal[1], repo_root, "sys.exit(0)") as process:
        process.wait()
    assert read_bytes(terminal[0], len(b"safe now")) == b"safe now"


def test_a_forked_child_that_lives_on_keeps_nothing_from_being_safe(terminal: tuple[int, str], repo_root: Path) -> None:
    then = "child = os.fork()\nif not child:\n    time.sleep(60)\n    os._exit(0)\nprint(child, flush=True)"
    with host(terminal[1], repo_root, then) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert process.stdout.readline() == "ready\n"
        process.kill()
        process.wait()
        try:
            assert read_bytes(terminal[0], len(b"safe now")) == b"safe now"
        finally:
            os.kill(child, signal.SIGKILL)


def test_an_orderly_end_writes_nothing(terminal: tuple[int, str], repo_root: Path) -> None:
    with host(terminal[1], repo_root, "guard.close(); guard.close(); guard.fire(); sys.exit(0)") as process:
        process.wait()
        assert process.returncode == 0
    os.set_blocking(terminal[0], False)
    with pytest.raises(OSError):  # EAGAIN, or EIO as nobody has the other end open
        os.read(terminal[0], 10)


def test_a_guard_that_was_killed_is_no_trouble(terminal: tuple[int, str]) -> None:
    fd = os.open(terminal[1], os.O_RDWR | os.O_NOCTTY)
    guard = PortGuard(fd, b"x")
    guard._process.kill()
    guard._process.wait()
    guard.arm(b"y")
    guard.close()
    os.close(fd)


def test_a_guard_fires_on_demand_and_holds_what_it_is_given(terminal: tuple[int, str]) -> None:
    fd = os.open(terminal[1], os.O_RDWR | os.O_NOCTTY)
    reader, writer = os.pipe()
    guard = PortGuard(fd, b"safe", keep=[writer])
    os.close(writer)
    assert select.select([reader], [], [], 0.0)[0] == []  # the guard still has the other end
    guard.fire()
    assert os.read(reader, 1) == b""
    assert read_bytes(terminal[0], len(b"safe")) == b"safe"
    os.close(reader)
    os.close(fd)


def test_a_guard_of_a_port_that_is_gone_ends_quietly(terminal: tuple[int, str]) -> None:
    fd = os.open(terminal[1], os.O_RDWR | os.O_NOCTTY)
    guard = PortGuard(fd, b"safe")
    os.close(terminal[0])
    guard.fire()
    assert guard._process.returncode == 0
    os.close(fd)
