#!/usr/bin/env python3
"""Portable on-device runner: loads ONNX models with ONNX Runtime and runs blocks of inferences with time stamps.

It needs numpy and onnxruntime and nothing of deepen, so the same file runs on the host and on a board. The protocol is
one JSON object per line: a request on stdin, its answer on stdout. Everything a library prints to stdout is sent to
stderr, so an answer can not be corrupted. The process ends when stdin closes, even in the middle of a run.

Requests (all carry ``op`` and ``id``; the answer repeats ``id``)::

    hello                                                   -> protocol, pid, versions, clocks, cpus
    load   path threads level cpus shapes seed              -> handle, build, inputs, outputs, first_run_s
    run    handle n                                         -> start_ns, end_ns, cpu_ns
    unload handle                                           -> (nothing)
    bye                                                     -> (nothing), then exit

``start_ns`` and ``end_ns`` are CLOCK_MONOTONIC, ``cpu_ns`` is the CPU time of the whole process (all threads) in
between (CLOCK_PROCESS_CPUTIME_ID). An error is ``{"id", "error", "kind"}`` with kind ``model`` (the model can not be
loaded or run), ``shape`` (an input needs a shape), ``missing`` (no such file), ``memory``, ``runtime`` (a package is
absent) or ``protocol`` (a malformed request); the runner survives all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import select
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

PROTOCOL = 1

# ONNX TensorProto.DataType by ONNX Runtime's type name, and the numpy type that stores it.
TYPES = {
    "tensor(float)": (1, "float32"),
    "tensor(uint8)": (2, "uint8"),
    "tensor(int8)": (3, "int8"),
    "tensor(uint16)": (4, "uint16"),
    "tensor(int16)": (5, "int16"),
    "tensor(int32)": (6, "int32"),
    "tensor(int64)": (7, "int64"),
    "tensor(string)": (8, "object"),
    "tensor(bool)": (9, "bool"),
    "tensor(float16)": (10, "float16"),
    "tensor(double)": (11, "float64"),
    "tensor(uint32)": (12, "uint32"),
    "tensor(uint64)": (13, "uint64"),
    "tensor(bfloat16)": (16, "uint16"),
}
LEVELS = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}


class Refused(Exception):
    """A request that can not be done; ``kind`` tells the host what to make of it."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def make_input(rng: Any, type_name: str, shape: tuple) -> tuple:
    """Make the contents of one input: seeded uniform floats in [-1, 1), zero integers, true booleans.

    Zero is the one index that is valid for every gather and embedding; floats are never denormal.
    """
    import numpy as np

    code, store = TYPES[type_name]
    if store == "object":
        return code, np.full(shape, "a", dtype=object)
    if code == 16:  # bfloat16: the upper half of a float32
        bits = np.ascontiguousarray(rng.uniform(-1, 1, shape).astype(np.float32)).view(np.uint32)
        return code, (bits >> 16).astype(np.uint16).reshape(shape)
    if store.startswith("float"):
        return code, np.ascontiguousarray(rng.uniform(-1, 1, shape).astype(store))
    if store == "bool":
        return code, np.ones(shape, dtype=bool)
    return code, np.zeros(shape, dtype=store)


def static(shape: Any) -> bool:
    """Whether every dimension is a known size."""
    return shape is not None and all(isinstance(d, int) and d >= 0 for d in shape)


class Handle:
    """One loaded model with its inputs and outputs bound to buffers that stay in place."""

    def __init__(self, ort: Any, request: dict) -> None:
        self.cpus = [int(c) for c in request.get("cpus") or []]
        self.threads = int(request.get("threads", 1))
        self.level = request.get("level", "extended")
        self.keep = []
        self.keep_outputs = []
        path = request["path"]
        if not Path(path).is_file():
            raise Refused("missing", f"no such file: {path}")
        pin(self.cpus[:1])
        shapes = {k: [int(d) for d in v] for k, v in (request.get("shapes") or {}).items()}
        overrides = self.find_overrides(ort, path, shapes)
        self.session = ort.InferenceSession(path, self.options(ort, overrides), providers=["CPUExecutionProvider"])
        self.build = (
            f"onnxruntime {ort.__version__} {self.session.get_providers()[0]} level={self.level} threads={self.threads}"
        )
        self.io = self.session.io_binding()
        self.inputs = self.bind_inputs(shapes, int(request.get("seed", 0)))
        self.first_run_s = self.first_run()
        self.outputs = [
            {"name": o.name, "shape": list(v.shape()) if v.is_tensor() else None, "type": v.data_type()}
            for o, v in zip(self.session.get_outputs(), self.io.get_outputs())  # noqa: B905 - Python 3.8
        ]

    def options(self, ort: Any, overrides: dict) -> Any:
        """Session options: one pinned thread per core, no spinning for a single thread, denormals as zero."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[self.level])
        options.log_severity_level = 4
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        if self.threads == 1:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        elif len(self.cpus) >= self.threads:
            # One entry per pool thread (the caller is the first thread), processors counted from 1.
            entries = ";".join(str(c + 1) for c in self.cpus[1 : self.threads])
            options.add_session_config_entry("session.intra_op_thread_affinities", entries)
        for name, size in overrides.items():
            options.add_free_dimension_override_by_name(name, size)
        return options

    def find_overrides(self, ort: Any, path: str, shapes: dict) -> dict:
        """Sizes of the named symbolic dimensions, found by matching the wanted shapes with the declared ones."""
        if not shapes:
            return {}
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        declared = {i.name: i for i in ort.InferenceSession(path, options, ["CPUExecutionProvider"]).get_inputs()}
        sizes = {}
        for name, shape in shapes.items():
            if name not in declared:
                raise Refused("shape", f"the model has no input '{name}'; it has {', '.join(sorted(declared))}")
            known = declared[name].shape
            if known is not None and len(known) != len(shape):
                raise Refused("shape", f"input '{name}' has rank {len(known)}, not {len(shape)}")
            for have, want in zip(known or [], shape):  # noqa: B905 - Python 3.8
                if isinstance(have, int) and have >= 0 and have != want:
                    raise Refused("shape", f"input '{name}' is declared {known}; {shape} does not fit")
                if isinstance(have, str) and sizes.setdefault(have, want) != want:
                    raise Refused("shape", f"dimension '{have}' is asked to be both {sizes[have]} and {want}")
        return sizes

    def bind_inputs(self, shapes: dict, seed: int) -> list:
        """Allocate and bind every input."""
        import numpy as np
        import onnxruntime as ort

        rng = np.random.default_rng(seed)
        found = []
        for value in self.session.get_inputs():
            shape = shapes.get(value.name, value.shape)
            if value.type not in TYPES:
                raise Refused("model", f"input '{value.name}' has type {value.type}, which this runner can not make")
            if not static(shape):
                loose = [str(d) for d in shape or [] if not isinstance(d, int) or d < 0] or ["rank"]
                raise Refused("shape", f"input '{value.name}' leaves {', '.join(loose)} open; give its shape")
            code, data = make_input(rng, value.type, tuple(shape))
            self.keep.append(data)
            if code == 8:
                self.io.bind_ortvalue_input(value.name, ort.OrtValue.ortvalue_from_numpy(data))
            else:
                self.io.bind_input(value.name, "cpu", 0, code, list(data.shape), data.ctypes.data)
            found.append({"name": value.name, "shape": list(data.shape), "type": value.type})
        return found

    def bind_outputs(self, shapes: list) -> None:
        """Bind outputs to buffers of these shapes; ``None`` leaves the allocation to the runtime."""
        import numpy as np

        self.io.clear_binding_outputs()
        self.keep_outputs = []
        for value, shape in zip(self.session.get_outputs(), shapes):  # noqa: B905 - Python 3.8
            if shape is None or value.type not in TYPES or value.type == "tensor(string)":
                self.io.bind_output(value.name, "cpu")
                continue
            code, store = TYPES[value.type]
            data = np.zeros(tuple(shape), dtype=store)
            self.keep_outputs.append(data)
            self.io.bind_output(value.name, "cpu", 0, code, list(data.shape), data.ctypes.data)

    def first_run(self) -> float:
        """Run once and settle the output buffers.

        Buffers in place save an allocation per run. Inputs are fixed, so an output whose declared shape is open has
        one shape all the same: the first run tells it. Where a buffer is refused the runtime allocates.
        """
        declared = [list(o.shape) if static(o.shape) else None for o in self.session.get_outputs()]
        started = time.monotonic()
        try:
            self.bind_outputs(declared)
            self.session.run_with_iobinding(self.io)
        except Exception:
            declared = [None] * len(declared)
            self.bind_outputs(declared)
            started = time.monotonic()
            self.session.run_with_iobinding(self.io)
        took = time.monotonic() - started
        if None in declared:
            values = self.io.get_outputs()
            actual = [list(v.shape()) if v.is_tensor() else None for v in values]
            try:
                self.bind_outputs(actual)
                self.session.run_with_iobinding(self.io)
            except Exception:
                self.bind_outputs(declared)
                self.session.run_with_iobinding(self.io)
        return took

    def run(self, n: int) -> tuple:
        """Run n inferences; returns (start_ns, end_ns, cpu_ns)."""
        pin(self.cpus[:1])
        call, io = self.session.run_with_iobinding, self.io
        gc.disable()
        try:
            cpu = time.process_time_ns()
            start = time.monotonic_ns()
            for _ in range(n):
                call(io)
            end = time.monotonic_ns()
            return start, end, time.process_time_ns() - cpu
        finally:
            gc.enable()


PINNED: list = []


def pin(cpus: list) -> None:
    """Keep the calling thread on these cores, where the system can."""
    if not cpus or cpus == PINNED or not hasattr(os, "sched_setaffinity"):
        return
    try:
        os.sched_setaffinity(0, set(cpus))
    except OSError as error:
        raise Refused("protocol", f"core {cpus} can not be used: {error.strerror}") from error
    PINNED[:] = cpus


class Runner:
    """Answers requests."""

    def __init__(self) -> None:
        self.handles: dict = {}
        self.count = 0
        self.done = False
        self.ort: Any = None

    def runtime(self) -> Any:
        """Import ONNX Runtime on first use."""
        if self.ort is None:
            try:
                import onnxruntime
            except ImportError as error:
                raise Refused("runtime", f"onnxruntime can not be imported ({error})") from error
            onnxruntime.set_default_logger_severity(4)
            self.ort = onnxruntime
        return self.ort

    def hello(self, request: dict) -> dict:
        """Tell versions and clocks."""
        ort = self.runtime()
        import numpy

        return {
            "protocol": PROTOCOL,
            "pid": os.getpid(),
            "python": platform.python_version(),
            "onnxruntime": ort.__version__,
            "numpy": numpy.__version__,
            "machine": platform.machine(),
            "clock": "CLOCK_MONOTONIC",
            "cpu_clock": "CLOCK_PROCESS_CPUTIME_ID",
            "cpus": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [],
        }

    def load(self, request: dict) -> dict:
        """Load a model and run it once."""
        handle = Handle(self.runtime(), request)
        self.count += 1
        self.handles[self.count] = handle
        return {
            "handle": self.count,
            "build": handle.build,
            "inputs": handle.inputs,
            "outputs": handle.outputs,
            "first_run_s": handle.first_run_s,
        }

    def run(self, request: dict) -> dict:
        """Run a block."""
        handle = self.handles.get(request["handle"])
        if handle is None:
            raise Refused("protocol", f"no handle {request['handle']}")
        start, end, cpu = handle.run(int(request["n"]))
        return {"start_ns": start, "end_ns": end, "cpu_ns": cpu}

    def unload(self, request: dict) -> dict:
        """Forget a model."""
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
            if request.get("op") not in ("hello", "load", "run", "unload", "bye"):
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
        except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
            text = f"{error}"
            kind = "memory" if "alloc" in text.lower() and "fail" in text.lower() else "model"
        return {"id": number, "error": " ".join(text.split()), "kind": kind}


def end_with_stdin() -> None:
    """End the process as soon as the writer of stdin is gone, also in the middle of a run."""
    poller = select.poll()
    poller.register(0, 0)  # hang-up and error are always reported; data is not asked for
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
