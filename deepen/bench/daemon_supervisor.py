"""Supervise a daemon: run it, relay connections into its network namespace, and kill all its descendants at the end.

Runs as ``daemon_supervisor.py [--relay SOCKET PORT] COMMAND...``, with the standard library alone, until its standard
input closes, which also happens when its starter is killed. It then kills the daemon and all its descendants. With
``--relay``, connections to the Unix socket ``SOCKET`` are passed on to ``127.0.0.1:PORT`` where the supervisor runs: a
socket file is visible from outside a network namespace, a port is not.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>


def copy_bytes(source: socket.socket, sink: socket.socket) -> None:
    """Copy bytes in one direction until either end closes, then close both."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    for one in (source, sink):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


def connect_sockets(one: socket.socket, other: socket.socket) -> None:
    """Copy bytes in both directions, in threads, until either end closes."""

    def carry() -> None:
        back = threading.Thread(target=copy_bytes, args=(other, one), daemon=True)
        back.start()
        copy_bytes(one, other)
        back.join()
        one.close()
        other.close()

    threading.Thread(target=carry, daemon=True).start()


def relay_connections(path: str, port: int) -> None:
    """Pass connections to the socket ``path`` on to a port of 127.0.0.1; never returns."""
    Path(path).unlink(missing_ok=True)  # left by the previous supervisor when a daemon is restarted
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    while True:
        client, _ = server.accept()
        try:
            target = socket.create_connection(("127.0.0.1", port), 5.0)
            target.settimeout(None)
        except OSError:
            client.close()
            continue
        connect_sockets(client, target)


def list_children() -> list[int]:
    """Return the ids of this process's children, adopted ones included."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == os.getpid():
                found.append(int(stat.parent.name))
    return found


def kill_descendants() -> None:
    """Kill every descendant: the children of a process that is killed become ours."""
    quiet = 0
    while quiet < 2:
        found = list_children()
        quiet = 0 if found else quiet + 1
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in found:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        time.sleep(0.01)


def main() -> None:
    """Run the daemon until standard input closes or the daemon ends."""
    command = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if command[0] == "--relay":
        path, port, *command = command[1:]
        threading.Thread(target=relay_connections, args=(path, int(port)), daemon=True).start()
    daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    ending = threading.Event()

    def reap() -> None:
        while True:
            try:
                pid, status = os.wait()
            except ChildProcessError:
                return
            if pid == daemon.pid and not ending.is_set():
                kill_descendants()
                os._exit(os.waitstatus_to_exitcode(status) & 0xFF)

    threading.Thread(target=reap, daemon=True).start()
    while os.read(0, 4096):
        pass
    ending.set()
    kill_descendants()
    os._exit(0)


if __name__ == "__main__":
    main()
