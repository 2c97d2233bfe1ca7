"""Parts shared by the benchmarks: repeated runs of a program, medians, and the conditions of the run.

Only the standard library is imported: a child's peak memory counts what its parent held when it was started.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

SCRIPTS = Path(sys.executable).parent

# Some benchmarks run what the tests share (tests/support), which no wheel holds.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


class Run(NamedTuple):
    """One run of a program: wall time in seconds and peak resident memory in bytes (its own, not its children's)."""

    wall_s: float
    peak_bytes: int


def deepen_program() -> str:
    """Path of the installed ``deepen`` script beside this Python.

    Raises:
        SystemExit: If deepen is not installed in this environment.
    """
    program = SCRIPTS / "deepen"
    if not program.exists():
        sys.exit(f"error: no {program}; run this with the Python of the environment (tools/quickstart makes .venv)")
    return str(program)


def measure(command: list[str], times: int, warmup: int = 1) -> list[Run]:
    """Run a command several times in fresh processes; the first ``warmup`` runs fill the disk cache and do not count.

    Raises:
        SystemExit: If the command fails; its own message is printed.
    """
    runs = []
    for index in range(times + warmup):
        start = time.monotonic()
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert child.stderr is not None
        message = child.stderr.read().decode(errors="replace")
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.monotonic() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        child.stderr.close()
        if child.returncode != 0:
            sys.exit(f"error: {' '.join(command)} exited with {child.returncode}: {message.strip()}")
        if index >= warmup:
            scale = 1 if sys.platform == "darwin" else 1024
            runs.append(Run(wall_s, usage.ru_maxrss * scale))
    return runs


def arguments(description: str, times: int) -> argparse.ArgumentParser:
    """Parser with the option every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("-n", "--times", type=int, default=times, help=f"runs to take the median of ({times})")
    return parser


def processor() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def conditions() -> str:
    """Processor, cores, load, Python and package versions: what a number here depends on."""
    names = ("deepen", "numpy", "onnx", "onnxruntime", "lightgbm", "scikit-learn", "click")
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    load = f", load {os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""
    system = f"{platform.system()} {platform.release()}"
    return f"{processor()}, {os.cpu_count()} cores{load}; {system}; Python {platform.python_version()}\n{packages}"


def report(title: str, rows: list[tuple[str, list[float], str, float | None]]) -> None:
    """Print a Markdown table of medians.

    Args:
        title: What was run.
        rows: What, the values, their unit, and the target (at most) or None.
    """
    print(f"{title}\n{conditions()}\n")
    print("| what | median | min | max | runs | target |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for what, values, unit, target in rows:
        cells = [f"{f(values):.3g} {unit}" for f in (statistics.median, min, max)]
        print(f"| {what} | {' | '.join(cells)} | {len(values)} | {'' if target is None else f'{target:g} {unit}'} |")
