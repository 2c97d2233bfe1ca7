"""Common parts of the runner's backends: the loaded model, time stamps, input values, cores."""

from __future__ import annotations

import contextlib
import gc
import os
import time
from pathlib import Path
from typing import Any

LONGEST_NS = 86_400_000_000_000
LOOK_NS = 100_000_000
LEVELS = ("disable", "basic", "extended", "all")


class Refused(Exception):
    """Raised for a request that cannot be carried out; ``kind`` classifies it for the host."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def boot_ns() -> Any:
    """Read CLOCK_BOOTTIME, which runs on during suspend; ``None`` if the system has none."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else None


class Handle:
    """A loaded model."""

    def __init__(self, request: dict) -> None:
        self.inputs: list = []
        self.outputs: list = []
        self.build = ""
        self.first_run_s = 0.0
        self.placement: Any = None
        self.cpus = [int(c) for c in request.get("cpus") or []]
        self.threads = int(request.get("threads", 1))
        self.level = request.get("level", "extended")
        if self.level not in LEVELS:
            raise Refused("protocol", f"unknown level {self.level!r}; known: {', '.join(LEVELS)}")
        self.delegate = request.get("delegate") or {}
        self.given = {k: str(v) for k, v in (request.get("inputs") or {}).items()}
        self.shapes = {k: [int(d) for d in v] for k, v in (request.get("shapes") or {}).items()}

    def caller(self) -> Any:
        """Return the function, without arguments, that runs one inference."""
        raise NotImplementedError

    def run(self, n: int) -> dict:
        """Run n inferences and return their time stamps."""
        if n < 0:
            raise Refused("protocol", f"a block of {n} runs")
        pin(self.cpus[:1])
        call = self.caller()

        def block() -> None:
            for _ in range(n):
                call()

        gc.disable()
        try:
            return stamped(block)
        finally:
            gc.enable()


def stamped(work: Any) -> dict:
    """Call a function and return the time stamps around it."""
    cpu = time.process_time_ns()
    start_boot = boot_ns()
    start = time.monotonic_ns()
    work()
    end = time.monotonic_ns()
    end_boot = boot_ns()
    cpu = time.process_time_ns() - cpu
    return {
        "start_ns": start, "end_ns": end, "start_boot_ns": start_boot, "end_boot_ns": end_boot, "cpu_ns": cpu
    }  # fmt: skip


def rest(ns: int, pid: int) -> None:
    """Wait for a number of nanoseconds, or until a process is gone (0: none)."""
    end = time.monotonic_ns() + ns
    while (left := end - time.monotonic_ns()) > 0:
        if pid and not runs(pid):
            return
        time.sleep(min(left, LOOK_NS if pid else left) / 1e9)


def runs(pid: int) -> bool:
    """Return whether a process of this id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    return True


def fill_array(rng: Any, store: str, shape: tuple) -> Any:
    """Make an array: seeded uniform floats in [-1, 1), zero integers, true booleans.

    Zero is the one index that is valid for every gather and embedding; floats are never denormal.
    """
    import numpy as np

    if store.startswith("float"):
        return np.ascontiguousarray(rng.uniform(-1, 1, shape).astype(store))
    return np.ones(shape, dtype=bool) if store == "bool" else np.zeros(shape, dtype=store)


def read_array(path: str, name: str, store: str, shape: tuple) -> Any:
    """Read the values of an input from a file of plain little-endian numbers; its size must be that of the input."""
    import numpy as np

    file, kind = Path(path), np.dtype(store).newbyteorder("<")
    wanted = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    if not file.is_file() or file.stat().st_size != wanted:
        found = f"{file.stat().st_size} bytes" if file.is_file() else "no file"
        raise Refused("inputs", f"input '{name}' takes {wanted} bytes ({store} of shape {list(shape)}), given: {found}")
    return np.fromfile(path, dtype=kind).astype(store, copy=False).reshape(shape)


def check_given(given: dict, names: list) -> None:
    """Refuse values for inputs that the model does not have."""
    for name in given:
        if name not in names:
            raise Refused("inputs", f"the model has no input '{name}'; it has {', '.join(sorted(names)) or 'none'}")


PINNED: list = []


def pin(cpus: list) -> None:
    """Pin the calling thread to these cores, if the system supports it."""
    if not cpus or cpus == PINNED or not hasattr(os, "sched_setaffinity"):
        return
    try:
        os.sched_setaffinity(0, set(cpus))
    except OSError as error:
        raise Refused("protocol", f"core {cpus} can not be used: {error.strerror}") from error
    PINNED[:] = cpus


def threads_now() -> set:
    """Return the threads of this process, if the system lists them."""
    tasks = Path("/proc/self/task")
    return {int(t.name) for t in tasks.iterdir()} if tasks.is_dir() else set()


def pin_pool(before: set, cpus: list) -> None:
    """Pin the calling thread to the first core and every thread started since to one of its own, in turn."""
    pin(cpus[:1])
    if len(cpus) < 2 or not hasattr(os, "sched_setaffinity"):
        return
    for k, thread in enumerate(sorted(threads_now() - before)):
        with contextlib.suppress(OSError):  # the thread has ended
            os.sched_setaffinity(thread, {cpus[1 + k % (len(cpus) - 1)]})
