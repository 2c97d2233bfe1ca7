"""Builds of the C runner, and a worker to talk to. A test that needs a compiler is skipped where there is none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deepen import catalog
from deepen.devices.links.local import PipeChannel
from deepen.devices.runtimes.c_runner.build import build_runner
from deepen.devices.runtimes.c_runner.runtime import find_installed_library

HERE = Path(__file__).parent
SANITIZERS = {"ASAN_OPTIONS": "detect_leaks=1:abort_on_error=1", "UBSAN_OPTIONS": "print_stacktrace=1"}


class Worker:
    """A runner, C or Python, behind a pipe."""

    def __init__(self, argv: list[str], env: dict[str, str] | None = None) -> None:
        self.channel = PipeChannel(argv, env or {})

    def line(self, line: bytes) -> Any:
        self.channel.send(line)
        answer = self.channel.receive(900.0)  # only so that a dead runner ends the test; emulated ones are slow
        assert answer is not None
        return json.loads(answer)

    def ask(self, **request: Any) -> Any:
        return self.line(json.dumps(request).encode())

    def bye(self) -> tuple[int | None, str]:
        """End it politely; its exit status and what it wrote on stderr."""
        assert self.ask(op="bye", id="end") == {"id": "end"}
        self.channel._process.wait(timeout=60)
        return self.channel.exit_status(), self.channel.last_words()


@pytest.fixture(scope="session")
def native() -> Path:
    if shutil.which(os.environ.get("CC") or "cc") is None:
        pytest.skip("no C compiler; install gcc")
    return build_runner("native")


def _compile(sources: list[Path], made: Path, *flags: str) -> Path:
    folder = catalog.find_path("devices", "runner", "c")
    subprocess.run(
        ["cc", "-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off",
         f"-I{folder}", *flags, "-o", str(made), *map(str, sources)],
        check=True,
    )  # fmt: skip
    return made


@pytest.fixture(scope="session")
def sanitized(native: Path) -> Path:
    """The runner with the address and undefined-behaviour sanitizers."""
    return build_runner("sanitize")


@pytest.fixture(scope="session")
def check(native: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``check.c``, sanitized."""
    folder = catalog.find_path("devices", "runner", "c")
    sources = [HERE / "check.c", *(folder / name for name in ("json.c", "text.c", "random.c"))]
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    return _compile(sources, tmp_path_factory.mktemp("check") / "check", *flags)


@pytest.fixture(scope="session")
def lite_library(native: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``lite.c``, the stand-in for libtensorflowlite_c."""
    return _compile([HERE / "lite.c"], tmp_path_factory.mktemp("lite") / "liblite.so", "-shared", "-fPIC")


@pytest.fixture(scope="session")
def ort_library() -> Path:
    library = find_installed_library("onnxruntime", "capi/libonnxruntime.so*")
    if library is None:
        pytest.skip("no libonnxruntime.so in the installed onnxruntime")
    return library


Start = Callable[..., Worker]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a worker; it is killed after the test."""
    workers: list[Worker] = []

    def run(*argv: str | Path, **env: str) -> Worker:
        workers.append(Worker([str(a) for a in argv], env))
        return workers[-1]

    yield run
    for worker in workers:
        worker.channel.kill()


@pytest.fixture
def c_worker(start: Start, sanitized: Path, ort_library: Path) -> Worker:
    """The sanitized C runner with ONNX Runtime."""
    return start(sanitized, "--library", ort_library, **SANITIZERS)


@pytest.fixture
def python_worker(start: Start) -> Worker:
    """The Python runner."""
    return start(sys.executable, catalog.find_path("devices", "runner", "runner.py"))
