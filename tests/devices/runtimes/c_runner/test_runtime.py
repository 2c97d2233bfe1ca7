"""The C runner as a runtime, and how its builds are made and found."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from deepen.devices import Runtime
from deepen.devices.links.local import LocalLink
from deepen.devices.runtimes.c_runner import build
from deepen.devices.runtimes.c_runner.build import TARGETS, build_runner, find_built_runner, get_cache_folder
from deepen.devices.runtimes.c_runner.runtime import (
    CLiteRuntime,
    COnnxRuntime,
    find_installed_library,
    find_runner_target,
)
from deepen.devices.types import CompletedCommand
from deepen.errors import ConfigError, RunError, StorageError


@pytest.fixture(autouse=True)
def no_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DEEPEN_RUNNER", "DEEPEN_RUNNER_LIBRARY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def runtime(native: Path, ort_library: Path) -> Iterator[COnnxRuntime]:
    opened = COnnxRuntime(LocalLink())
    yield opened
    opened.close()


def test_a_block_is_stamped_on_the_hosts_clock(runtime: COnnxRuntime, models: Path) -> None:
    assert isinstance(runtime, Runtime)
    loaded = runtime.load(models / "add.onnx")
    before = time.monotonic()
    interval = loaded.run(50)
    after = time.monotonic()
    assert before <= interval.start_s < interval.end_s <= after
    assert (interval.runs, interval.uncertainty_s) == (50, 0.0)
    assert interval.cpu_s > 0
    import onnxruntime

    assert loaded.build == f"onnxruntime {onnxruntime.__version__} CPUExecutionProvider level=extended threads=1"
    assert loaded.inputs == [{"name": "x", "shape": [4, 8], "type": "tensor(float)"}]
    assert runtime.versions["runner"] == "c"
    pid = runtime.pid
    loaded.close()
    runtime.close()
    assert pid is not None
    assert not Path(f"/proc/{pid}").exists()


def test_failures_are_told_apart(runtime: COnnxRuntime, models: Path) -> None:
    with pytest.raises(RunError, match=r"garbage.onnx: onnxruntime cannot run it"):
        runtime.load(models / "garbage.onnx")
    with pytest.raises(ConfigError, match=r"leaves batch open.*--shape"):
        runtime.load(models / "matmul.onnx")
    with pytest.raises(ConfigError, match="no such model file"):
        runtime.load(models / "absent.onnx")
    with pytest.raises(ConfigError, match="crunner-litert"):
        runtime.load(models / "m.tflite")
    assert runtime.load(models / "add.onnx").run(1).runs == 1


def test_litert(native: Path, shared_dir: Path) -> None:
    if find_installed_library("ai_edge_litert", "libLiteRt.so") is None:
        pytest.skip("ai-edge-litert is not installed: pip install 'deepen[litert]'")
    runtime = CLiteRuntime(LocalLink())
    try:
        loaded = runtime.load(shared_dir / "data" / "mlperf_tiny" / "models" / "ad01_int8.tflite")
        assert loaded.run(3).runs == 3
        assert loaded.build == "litert CPU level=extended threads=1"
        with pytest.raises(ConfigError, match=r"LiteRT runs no \.onnx files; use the runtime crunner"):
            runtime.load(Path("m.onnx"))
    finally:
        runtime.close()


class RunnerDevice:
    """A link to a device that says what it is and keeps what is pushed to it."""

    description = "adb 0A1B2C"

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.pushed: list[Path] = []

    def run(self, argv: Sequence[str], *, env: Any = None, timeout_s: float) -> CompletedCommand:
        return CompletedCommand(0, self.answer.encode(), b"")

    def push(self, path: Path, *, name: str | None = None) -> str:
        self.pushed.append(path)
        return f"/data/local/tmp/deepen/{path.name}"


@pytest.mark.parametrize(
    ("answer", "target"),
    [("x86_64\n", "x86_64"), ("aarch64\n", "aarch64"), ("arm64\n", "aarch64"), ("aarch64\nandroid\n", "android")],
)
def test_the_target_follows_the_device(answer: str, target: str) -> None:
    assert find_runner_target(RunnerDevice(answer)) == target  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", ["", "armv7l\n", "x86_64\nandroid\n", "$(reboot)\n"])
def test_a_device_no_runner_is_built_for(answer: str) -> None:
    with pytest.raises(ConfigError, match=r"adb 0A1B2C says its processor is .* set DEEPEN_RUNNER"):
        find_runner_target(RunnerDevice(answer))  # type: ignore[arg-type]


def test_what_is_pushed_and_how_the_runner_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, library = tmp_path / "deepen-runner", tmp_path / "libonnxruntime.so"
    runner.touch()
    library.touch()
    device: Any = RunnerDevice("aarch64\n")

    def command(**options: Any) -> list[str]:
        device.pushed.clear()
        return COnnxRuntime(device, **options)._command()

    there = "/data/local/tmp/deepen/"
    assert command(runner=runner) == [there + "deepen-runner"]  # the device's own loader finds the library
    assert device.pushed == [runner]
    assert command(runner=runner, library=library) == [
        there + "deepen-runner", "--library", there + "libonnxruntime.so"
    ]  # fmt: skip
    assert device.pushed == [runner, library]
    assert command(runner=runner, library="/vendor/lib64/libx.so")[1:] == ["--library", "/vendor/lib64/libx.so"]
    monkeypatch.setenv("DEEPEN_RUNNER", str(runner))
    monkeypatch.setenv("DEEPEN_RUNNER_LIBRARY", str(library))
    assert command() == [there + "deepen-runner", "--library", there + "libonnxruntime.so"]
    monkeypatch.setenv("DEEPEN_RUNNER_LIBRARY", "/system/lib64/libonnxruntime.so")
    assert command()[1:] == ["--library", "/system/lib64/libonnxruntime.so"]
    monkeypatch.setenv("DEEPEN_RUNNER", str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match="tools/build-runner"):
        command()
    with pytest.raises(ConfigError, match=r"there is no library .*DEEPEN_RUNNER_LIBRARY"):
        command(runner=runner, library=tmp_path / "absent.so")


# ---- builds


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and a compiler that writes down how it is called."""
    compiler = tmp_path / "compiler"
    log = tmp_path / "log"
    compiler.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$*" >>"{log}"\n'
        'while [ $# -gt 0 ]; do if [ "$1" = -o ]; then echo built >"$2"; fi; shift; done\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("DEEPEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("ZIG", str(compiler))
    monkeypatch.delenv("ANDROID_NDK_HOME", raising=False)
    return log


def test_a_build_is_made_once(cache: Path) -> None:
    assert find_built_runner("native") is None
    made = build_runner("native")
    assert made.read_text() == "built\n"
    assert os.access(made, os.X_OK)
    assert build_runner("native") == find_built_runner("native") == made
    assert len(cache.read_text().splitlines()) == 1
    assert [p.name for p in made.parent.iterdir()] == ["deepen-runner"]


@pytest.mark.parametrize(
    ("target", "words"),
    [("native", "-O2 -std=c11"), ("sanitize", "-fsanitize=address,undefined"),
     ("aarch64", "cc -target aarch64-linux-gnu.2.17"), ("x86_64", "cc -target x86_64-linux-gnu.2.17")],
)  # fmt: skip
def test_every_target_is_compiled_strictly(target: str, words: str, cache: Path) -> None:
    build_runner(target)
    called = cache.read_text()
    assert words in called
    assert "-Wall -Wextra -Wpedantic" in called
    assert "-Werror" in called


def test_the_ndk_is_found_where_it_is_said_to_be(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How the NDK's compiler is called; no NDK was at hand to build with."""
    with pytest.raises(ConfigError, match="set ANDROID_NDK_HOME"):
        build_runner("android")
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path / "n d k"))
    with pytest.raises(ConfigError, match="no aarch64-linux-android24-clang"):
        build_runner("android")
    folder = tmp_path / "n d k" / "toolchains" / "llvm" / "prebuilt" / "linux-x86_64" / "bin"
    folder.mkdir(parents=True)
    (folder / "aarch64-linux-android24-clang").symlink_to(tmp_path / "compiler")
    assert build_runner("android").read_text() == "built\n"


def test_failed_builds_say_why_and_leave_nothing(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no target 'sparc'; known: native"):
        build_runner("sparc")
    monkeypatch.setenv("CC", "/nonexistent/cc")
    with pytest.raises(ConfigError, match="no program /nonexistent/cc; install a C compiler"):
        build_runner("native")
    bad = tmp_path / "bad"
    bad.write_text("#!/bin/sh\necho 'json.c:3:1: error: it is Monday' >&2; echo 'and so on' >&2; exit 1\n")
    bad.chmod(0o755)
    monkeypatch.setenv("CC", str(bad))
    with pytest.raises(ConfigError, match=r"for native: json\.c:3:1: error: it is Monday; install"):
        build_runner("native")
    assert find_built_runner("native") is None
    monkeypatch.delenv("ZIG")
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install ziglang"):
        build_runner("aarch64")
    (tmp_path / "file").touch()
    monkeypatch.setenv("DEEPEN_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="set DEEPEN_CACHE"):
        build_runner("native")


def test_where_builds_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DEEPEN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert get_cache_folder() == tmp_path / "deepen"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert get_cache_folder() == Path.home() / ".cache" / "deepen"


def test_the_script_knows_the_same_targets(repo_root: Path) -> None:
    script = repo_root / "devices" / "runner" / "c" / "build.sh"
    done = subprocess.run(["/bin/sh", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "|".join(TARGETS) in done.stderr
