"""Proxy between a link and the real runner: passes everything on, and holds answers back while the bench plays them.

Runs on the bench's device as ``runner_proxy.py SOCKET OFFSET_S PPM COMMAND...``, with the standard library alone. The
device's clock is ``OFFSET_S`` ahead of the host's and ``PPM`` parts per million fast; time stamps are given on it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from typing import IO, Any

STAMPS = ("start_ns", "end_ns", "start_boot_ns", "end_boot_ns")


class BenchUnavailable(Exception):
    """Raised when the bench refuses a request or does not answer."""


class RunnerProxy:
    """The proxy's side of the conversation with the bench."""

    def __init__(self, bench: socket.socket, offset_s: float, ppm: float) -> None:
        """Take the socket of the bench, and the offset (s) and drift (ppm) of the device's clock."""
        self.lines = bench.makefile("rw", encoding="utf-8")
        self.offset_ns = round(1e9 * offset_s)
        self.ppm = ppm
        self.runtime = "onnxruntime"
        self.keys: dict[int, tuple[str, int]] = {}  # handle -> the bench's hash of the model, threads

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Send the bench a request and return its answer."""
        try:
            self.lines.write(json.dumps(question) + "\n")
            self.lines.flush()
            line = self.lines.readline()
        except OSError as error:
            raise BenchUnavailable(f"the virtual bench is gone ({error.strerror})") from error
        if not line:
            raise BenchUnavailable("the virtual bench is gone")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BenchUnavailable(str(answer["error"]))
        return answer

    def answer(self, asked: dict[str, Any], reply: dict[str, Any]) -> dict[str, Any]:
        """Return the reply for the host in place of the runner's."""
        if "error" in reply:
            return reply
        op = asked.get("op")
        try:
            if op == "hello":
                self.runtime = str(asked.get("runtime") or self.runtime)
            elif op == "load":
                told = {"op": "load", "path": asked["path"], "shapes": asked.get("shapes") or {}}
                key = str(self.ask({**told, "runtime": self.runtime})["key"])
                self.keys[int(reply["handle"])] = key, int(asked.get("threads", 1))
            elif op == "run":
                if int(asked["n"]) > 0:
                    self.play(*self.keys[int(asked["handle"])], int(asked["n"]), reply)
                self.tell(reply)
            elif op == "wait":
                self.tell(reply)
        except BenchUnavailable as error:
            return {"id": reply.get("id"), "error": str(error), "kind": "model" if op == "load" else "protocol"}
        return reply

    def play(self, key: str, threads: int, runs: int, reply: dict[str, Any]) -> None:
        """Let the bench play a block, and move the runner's time stamps to the moment it was played.

        The bench's device has its cores to itself: a block lasts as long as its threads computed, without the time in
        which the host gave their cores to others.
        """
        start, end, cpu_ns = int(reply["start_ns"]), int(reply["end_ns"]), int(reply["cpu_ns"])
        ran_ns = min(end - start, cpu_ns / threads)
        played = self.ask({"op": "play", "key": key, "runs": runs, "ran_s": ran_ns / 1e9})
        moved = {"start_ns": round(1e9 * played["start_s"]), "end_ns": round(1e9 * played["end_s"])}
        for name in ("start", "end"):
            if reply.get(f"{name}_boot_ns") is not None:
                slept = int(reply[f"{name}_boot_ns"]) - int(reply[f"{name}_ns"])
                moved[f"{name}_boot_ns"] = moved[f"{name}_ns"] + slept
        longer = (moved["end_ns"] - moved["start_ns"]) / max(ran_ns, 1)
        reply.update(moved, cpu_ns=round(cpu_ns * longer))

    def tell(self, reply: dict[str, Any]) -> None:
        """Convert the time stamps of a reply to the device's clock."""
        for name in STAMPS:
            if reply.get(name) is not None:
                stamp = int(reply[name])
                reply[name] = stamp + round(1e-6 * self.ppm * stamp) + self.offset_ns


def exit_when_stdin_closes() -> None:
    """End as soon as the host closes the input, even during a run; the runner then loses its input and ends too."""
    poller = select.poll()
    poller.register(0, 0)
    while True:
        if any(flags & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, flags in poller.poll()):
            os._exit(0)


def relay_messages(proxy: RunnerProxy, requests: IO[bytes], runner: subprocess.Popen[bytes]) -> None:
    """Pass requests and answers on until either side ends."""
    assert runner.stdin is not None
    assert runner.stdout is not None
    for line in iter(requests.readline, b""):
        try:
            runner.stdin.write(line)
            runner.stdin.flush()
        except BrokenPipeError:
            return
        answered = runner.stdout.readline()
        if not answered:
            return
        try:
            reply = proxy.answer(json.loads(line), json.loads(answered))
            answered = json.dumps(reply).encode() + b"\n"
        except (ValueError, KeyError, TypeError):
            pass  # not a request the bench needs to see
        sys.stdout.buffer.write(answered)
        sys.stdout.buffer.flush()


def remove_parent_option(argv: list[str]) -> list[str]:
    """Return the command without ``--parent PID``: the runner's parent is this process, with which it ends anyway."""
    if "--parent" not in argv:
        return argv
    at = argv.index("--parent")
    return argv[:at] + argv[at + 2 :]


def main() -> None:
    """Run until the host or the runner ends, then exit with the runner's status."""
    address, offset_s, ppm, *command = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    bench = socket.socket(socket.AF_UNIX)
    try:
        bench.connect(address)
    except OSError as error:
        sys.exit(f"the virtual bench is gone ({error.strerror}); start it again: deepen bench up")
    runner = subprocess.Popen(remove_parent_option(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    threading.Thread(target=exit_when_stdin_closes, daemon=True).start()
    requests = os.fdopen(0, "rb", closefd=False)
    relay_messages(RunnerProxy(bench, float(offset_s), float(ppm)), requests, runner)
    if runner.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            runner.stdin.close()
    status = runner.wait()
    sys.stdout.flush()
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    main()
