"""What the backends of the runner share: a loaded model, time stamps, input values, cores."""

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
    """A request that can not be done; ``kind`` tells the host what to make of it."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def boot_ns() -> Any:
    """CLOCK_BOOTTIME, which goes on during suspend; ``None`` where the system has none."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else None


class Handle:
    """One loaded model."""

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
        self.shapes = {k: [int(d) for d in v] for k, v in (request.get("shapes") or {}).items()}

    def caller(self) -> Any:
        """What one inference is a call of, without arguments."""
        raise NotImplementedError

    def run(self, n: int) -> dict:
        """Run n inferences and stamp them."""
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
    """Do something and stamp it."""
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
    """Rest for so long, or until a process is gone (0: none)."""
    end = time.monotonic_ns() + ns
    while (left := end - time.monotonic_ns()) > 0:
        if pid and not runs(pid):
            return
        time.sleep(min(left, LOOK_NS if pid else left) / 1e9)


def runs(pid: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
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


def threads_now() -> set:
    """Threads of this process, where the system tells."""
    tasks = Path("/proc/self/task")
    return {int(t.name) for t in tasks.iterdir()} if tasks.is_dir() else set()


def pin_pool(before: set, cpus: list) -> None:
    """Keep the calling thread on the first core and every thread born since on one of its own, in turn."""
    pin(cpus[:1])
    if len(cpus) < 2 or not hasattr(os, "sched_setaffinity"):
        return
    for k, thread in enumerate(sorted(threads_now() - before)):
        with contextlib.suppress(OSError):  # it has ended
            os.sched_setaffinity(thread, {cpus[1 + k % (len(cpus) - 1)]})
