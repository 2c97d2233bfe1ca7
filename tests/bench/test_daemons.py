"""Cuttable connections, supervised daemons, and the supervisor."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deepen.bench import daemon_supervisor, daemons
from deepen.bench.daemons import BenchDaemon, LoopbackCable, find_adbd, find_sshd, make_namespace_command, start_adbd
from deepen.errors import ConfigError, LinkError

pytestmark = [
    pytest.mark.serial,
    pytest.mark.skipif(sys.platform != "linux", reason="the daemons of a bench run on Linux only"),
]
KEEPER = str(Path(daemon_supervisor.__file__))


def until(condition: Callable[[], bool], what: str, patience_s: float = 60.0) -> None:
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture
def echo() -> Iterator[Callable[[], socket.socket]]:
    """A server that sends back what it gets; returns how to connect to it."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=back, args=(client,), daemon=True).start()

    def back(client: socket.socket) -> None:
        with client:
            daemon_supervisor.copy_bytes(client, client)

    threading.Thread(target=serve, daemon=True).start()
    yield lambda: socket.create_connection(server.getsockname())
    server.shutdown(socket.SHUT_RDWR)
    server.close()


def says(port: int, text: bytes = b"hello") -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(text)
        return client.recv(100)


def test_a_cable_carries_is_cut_and_mended(echo: Callable[[], socket.socket]) -> None:
    cable = LoopbackCable(echo)
    try:
        with socket.create_connection(("127.0.0.1", cable.port), 10) as client:
            client.sendall(b"one")
            assert client.recv(100) == b"one"
            cable.cut(float("inf"))
            assert client.recv(100) == b""
        with contextlib.suppress(ConnectionError):
            assert says(cable.port) == b""
        cable.mend()
        assert says(cable.port) == b"hello"
        cable.cut()  # for a moment only
        assert says(cable.port) == b"hello"
    finally:
        cable.close()
    with pytest.raises(OSError):
        says(cable.port)


def keep(tmp_path: Path, *, script: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, KEEPER, "sh", "-c", script, "sh", str(tmp_path)], stdin=subprocess.PIPE)


def pids(folder: Path, count: int) -> list[int]:
    def there() -> list[int]:
        return [int(p.read_text()) for p in folder.glob("pid*") if p.read_text().endswith("\n")]

    until(lambda: len(there()) == count, "the daemon did not start")
    return there()


LEAVERS = 'echo $$ >"$1/pid1"; setsid sh -c \'echo $$ >"$1/pid2"; exec sleep 1000\' x "$1" & exec sleep 1000'


def test_the_supervisor_leaves_nothing_behind(tmp_path: Path) -> None:
    kept = keep(tmp_path, script=LEAVERS)
    running = pids(tmp_path, 2)
    assert not any(gone(p) for p in running)
    assert kept.stdin is not None
    kept.stdin.close()
    assert kept.wait(60) == 0
    assert all(gone(p) for p in running)


def test_also_when_who_started_it_is_killed(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, sys.argv[1], 'sh', '-c', sys.argv[3], 'sh', sys.argv[2]],"
        " stdin=subprocess.PIPE)\n"
        "time.sleep(1000)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, KEEPER, str(tmp_path), LEAVERS])
    running = pids(tmp_path, 2)
    parent.kill()
    parent.wait()
    until(lambda: all(gone(p) for p in running), "something was left")


def test_a_daemon_that_ends_takes_its_own_with_it(tmp_path: Path) -> None:
    kept = keep(tmp_path, script='sleep 1000 & echo $! >"$1/pid1"; exit 7')
    assert kept.wait(60) == 7
    assert all(gone(p) for p in pids(tmp_path, 1))
    assert kept.stdin is not None
    kept.stdin.close()


def test_a_daemon_that_does_not_start_says_why(tmp_path: Path, echo: Callable[[], socket.socket]) -> None:
    def nowhere() -> socket.socket:
        raise ConnectionRefusedError

    command = [sys.executable, KEEPER, "sh", "-c", "echo it hurts >&2; exit 1"]
    daemon = BenchDaemon("thing", command, {}, tmp_path / "log", LoopbackCable(nowhere))
    with pytest.raises(LinkError, match="the bench's thing does not start: it hurts"):
        daemon.await_ready(nowhere)


def test_adbd_sees_loopback_alone(tmp_path: Path) -> None:
    try:
        find_adbd()
        make_namespace_command()
    except ConfigError as error:
        pytest.skip(str(error))
    key = tmp_path / "key.pub"
    key.write_text("nobody\n")
    daemon = start_adbd(tmp_path, os.environ["PATH"], [key])
    try:
        log = str(tmp_path / "adbd.sock")
        found = [
            int(p.name) for p in Path("/proc").glob("[0-9]*")
            if p.joinpath("cmdline").exists() and log in p.joinpath("cmdline").read_text(errors="replace")
        ]  # fmt: skip
        assert found
        for pid in found:
            assert Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
            interfaces = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
            assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]
        with socket.create_connection(("127.0.0.1", daemon.cable.port), 10) as client:
            client.settimeout(0.3)
            client.sendall(b"CNXN" + b"\0" * 20)  # a broken greeting: it is there, and hangs up or waits
            with contextlib.suppress(TimeoutError):
                client.recv(24)
    finally:
        daemon.close()
    until(lambda: all(gone(p) for p in found), "adbd or its supervisor is left")


def test_what_is_missing_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(daemons.shutil, "which", lambda *_, **__: None)
    with pytest.raises(ConfigError, match="apt-get install openssh-server"):
        find_sshd()
    monkeypatch.setenv("DEEPEN_CACHE", str(tmp_path))
    monkeypatch.delenv("DEEPEN_ADBD", raising=False)
    with pytest.raises(ConfigError, match=r"tools/build-adbd.*--link ssh"):
        find_adbd()
    monkeypatch.setenv("DEEPEN_ADBD", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="tools/build-adbd"):
        find_adbd()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"namespace of its own.*--link ssh"):
        make_namespace_command()


def test_signals_of_a_terminal_do_not_reach_a_daemon(tmp_path: Path, echo: Callable[[], socket.socket]) -> None:
    command = [sys.executable, KEEPER, "sh", "-c", 'echo $$ >"$0/pid1"; exec sleep 1000', str(tmp_path)]
    daemon = BenchDaemon("thing", command, {}, tmp_path / "log", LoopbackCable(echo))
    (pid,) = pids(tmp_path, 1)
    assert os.getpgid(pid) != os.getpgid(0)
    daemon.close()
    assert gone(pid)
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
