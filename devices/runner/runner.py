#!/usr/bin/env python3
"""Portable on-device runner: runs ONNX and TensorFlow Lite models in blocks of inferences with time stamps.

It needs numpy and one runtime package (onnxruntime; ai-edge-litert or tflite-runtime) but not deepen, so the same files
run on the host and on a board. ``c/`` holds a runner in C for devices without Python; this is the protocol of both: one
JSON object per line, a request on stdin, its answer on stdout. Everything a library prints to stdout is redirected to
stderr, so that answers cannot be corrupted. The process ends when stdin closes, even in the middle of a run.

Requests (all carry ``op`` and ``id``; the answer repeats ``id``)::

    hello  runtime                                       -> protocol, pid, machine, clock, boot_clock, cpu_clock, cpus
    load   path threads level cpus shapes seed delegate  -> handle, build, inputs, outputs, first_run_s, placement
           inputs
    run    handle n                                      -> start_ns, end_ns, start_boot_ns, end_boot_ns, cpu_ns
    wait   ns pid                                        -> start_ns, end_ns, start_boot_ns, end_boot_ns, cpu_ns
    unload handle                                        -> (nothing)
    bye                                                  -> (nothing), then exit

``hello`` also returns the version of every runtime installed, under its name (``onnxruntime``, ``litert``,
``tflite``); a runner that loads runtimes on demand looks for ``runtime`` alone (by default ``onnxruntime``).
The runtime of a model follows from its file: one with the identifier ``TFL3`` is for LiteRT, every other one for ONNX
Runtime. ``level`` is ``disable``, ``basic``, ``extended`` or ``all``; for LiteRT ``disable`` leaves its default
delegate (XNNPACK) out, and the others are equivalent.

``inputs`` names, for inputs whose values are given, a file on the device: plain little-endian numbers of the input's
type in C order, as many as its shape has. Other inputs get uniform random floats from ``seed``, zeros (integers) and
true (booleans).

``start_ns`` and ``end_ns`` are CLOCK_MONOTONIC; ``start_boot_ns`` and ``end_boot_ns`` are CLOCK_BOOTTIME, read just
before and just after them (null if the system has none): it runs on during suspend, so the two clocks together show
whether the device slept. ``cpu_ns`` is the CPU time of the whole process (all threads) in between
(CLOCK_PROCESS_CPUTIME_ID). ``n`` may be 0: then the answer is a reading of the clocks, which together with the host
times of request and answer is a round trip for mapping them. ``wait`` waits for ``ns`` nanoseconds (at most a day), or
until the process ``pid``, if given, has ended (checked ten times a second); it needs no model.

``delegate`` requests an accelerator: for LiteRT ``{"library": PATH, "options": {NAME: TEXT}}``, for ONNX Runtime
``{"provider": NAME, "options": {NAME: TEXT}}``. ``placement`` is the outcome: ``{"asked", "nodes", "delegated",
"default"}``, the number of nodes of the graph, of those the accelerator took, and of those the runtime's own default
delegate took (null: unknown). An accelerator that takes no node is an error of the kind ``fallback``.

An error is ``{"id", "error", "kind"}`` with kind ``model`` (the model cannot be loaded or run), ``shape`` (an input
needs a shape), ``inputs`` (given values do not fit their input), ``missing`` (no such file), ``memory``, ``runtime`` (a
package is missing), ``fallback`` or ``protocol`` (a malformed request); the runner survives all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import select
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import runner_litert
import runner_onnx
from runner_common import LONGEST_NS, Handle, Refused, boot_ns, rest, stamped

PROTOCOL = 1


class Runner:
    """Answers requests."""

    def __init__(self) -> None:
        self.handles: dict = {}
        self.count = 0
        self.done = False
        self.ort: Any = None
        self.lite: Any = None

    def onnxruntime(self) -> Any:
        """Import ONNX Runtime on first use."""
        if self.ort is None:
            try:
                import onnxruntime
            except ImportError as error:
                raise Refused("runtime", f"onnxruntime can not be imported ({error})") from error
            onnxruntime.set_default_logger_severity(4)
            self.ort = onnxruntime
        return self.ort

    def litert(self) -> Any:
        """Import LiteRT on first use."""
        if self.lite is None:
            self.lite = runner_litert.LiteModule()
        return self.lite

    def hello(self, request: dict) -> dict:
        """Return versions and clocks."""
        wanted = request.get("runtime", "onnxruntime")
        if wanted not in ("onnxruntime", "litert"):
            raise Refused("runtime", f"this runner has no runtime {wanted!r}; it has onnxruntime and litert")
        version = self.litert().version if wanted == "litert" else self.onnxruntime().__version__
        import numpy

        return {
            "protocol": PROTOCOL,
            "pid": os.getpid(),
            "runner": "python",
            "python": platform.python_version(),
            wanted: version,
            "numpy": numpy.__version__,
            "machine": platform.machine(),
            "clock": "CLOCK_MONOTONIC",
            "boot_clock": None if boot_ns() is None else "CLOCK_BOOTTIME",
            "cpu_clock": "CLOCK_PROCESS_CPUTIME_ID",
            "cpus": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [],
        }

    def load(self, request: dict) -> dict:
        """Load a model and run it once."""
        path = Path(request["path"])
        if not path.is_file():
            raise Refused("missing", f"no such file: {path}")
        with path.open("rb") as file:
            lite = file.read(8)[4:] == b"TFL3"
        handle: Handle
        handle = (
            runner_litert.LiteHandle(self.litert(), self.litert().name, request)
            if lite
            else runner_onnx.OnnxHandle(self.onnxruntime(), request)
        )
        self.count += 1
        self.handles[self.count] = handle
        return {
            "handle": self.count,
            "build": handle.build,
            "inputs": handle.inputs,
            "outputs": handle.outputs,
            "first_run_s": handle.first_run_s,
            "placement": handle.placement,
        }

    def run(self, request: dict) -> dict:
        """Run a block of inferences."""
        handle = self.handles.get(request["handle"])
        if handle is None:
            raise Refused("protocol", f"no handle {request['handle']}")
        return handle.run(int(request["n"]))

    def wait(self, request: dict) -> dict:
        """Wait for a time, or for the end of a process."""
        ns, pid = int(request["ns"]), int(request.get("pid") or 0)
        if not (0 <= ns <= LONGEST_NS and pid >= 0):
            raise Refused("protocol", f"a rest of {ns} ns, or until process {pid} is gone")
        return stamped(lambda: rest(ns, pid))

    def unload(self, request: dict) -> dict:
        """Unload a model."""
        if self.handles.pop(request["handle"], None) is None:
            raise Refused("protocol", f"no handle {request['handle']}")
        return {}

    def bye(self, request: dict) -> dict:
        """End after this answer."""
        self.done = True
        return {}

    def answer(self, line: str) -> dict:
        """Answer one line; never raises."""
        number = None
        try:
            request = json.loads(line)
            number = request.get("id")
            if request.get("op") not in ("hello", "load", "run", "wait", "unload", "bye"):
                raise Refused("protocol", f"unknown op {request.get('op')!r}")
            reply = getattr(self, request["op"])(request)
            reply["id"] = number
            return reply
        except Refused as error:
            kind, text = error.kind, str(error)
        except MemoryError as error:
            kind, text = "memory", str(error) or "out of memory"
        except (json.JSONDecodeError, UnicodeError, KeyError, TypeError, AttributeError) as error:
            kind, text = "protocol", f"{type(error).__name__}: {error}"
        except Exception as error:  # runtimes raise a dozen unrelated classes
            text = f"{error}"
            kind = "memory" if "alloc" in text.lower() and "fail" in text.lower() else "model"
        return {"id": number, "error": " ".join(text.split()), "kind": kind}


def end_with_stdin() -> None:
    """End the process as soon as the writer of stdin is gone, even in the middle of a run."""
    poller = select.poll()
    poller.register(0, 0)  # hang-up and error are always reported; data are not requested
    while True:
        with contextlib.suppress(InterruptedError):
            if any(flags & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, flags in poller.poll()):
                os._exit(0)


def end_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent ends; covers a parent killed while a library holds the lock."""
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # 1: PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(0)


def main() -> None:
    """Answer requests until stdin closes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parent", type=int, default=0, help="process id to end with (Linux, main thread only)")
    options = parser.parse_args()
    if hasattr(signal, "SIGINT"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the host's to handle
    if options.parent and sys.platform == "linux":
        end_with_parent(options.parent)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if hasattr(select, "poll"):
        threading.Thread(target=end_with_stdin, daemon=True).start()
    runner = Runner()
    stdin = os.fdopen(0, "r", encoding="utf-8", errors="replace", closefd=False)
    while not runner.done:
        line = stdin.readline()
        if not line:
            break
        try:
            out.write(json.dumps(runner.answer(line)) + "\n")
            out.flush()
        except BrokenPipeError:
            break
    out.close()
    os._exit(0)


if __name__ == "__main__":
    main()
