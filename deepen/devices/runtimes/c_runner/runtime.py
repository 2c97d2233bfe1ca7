"""ONNX Runtime and LiteRT on a device through the C runner (``devices/runner/c``): no Python is needed there.

The runner loads the runtime's shared library with ``dlopen``. It is looked for in this order:

1. the argument ``library``: a ``Path`` is a local file, which is pushed; a ``str`` is a path on the device;
2. ``$DEEPEN_RUNNER_LIBRARY``, a local file, which is pushed, or else a path on the device;
3. on this machine, the one in the installed package (``onnxruntime``, ``ai-edge-litert``);
4. elsewhere, the search path of the device's loader (``libonnxruntime.so``, ``libtensorflowlite_c.so``,
   ``libLiteRt.so``).

The runner itself is built when it is first needed (:mod:`deepen.devices.runtimes.c_runner.build`); ``$DEEPEN_RUNNER``
names one built elsewhere.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from deepen.devices.runtimes.c_runner.build import build_runner
from deepen.devices.runtimes.worker_process import WorkerRuntime
from deepen.errors import ConfigError

if TYPE_CHECKING:
    from deepen.devices.protocols import Link

__all__ = ["CLiteRuntime", "COnnxRuntime", "find_installed_library", "find_runner_target"]

_MACHINES = {"aarch64": "aarch64", "arm64": "aarch64", "x86_64": "x86_64", "amd64": "x86_64"}
_ASK = "uname -m; if [ -e /system/bin/linker64 ]; then echo android; fi"
_ASK_S = 20.0


def find_runner_target(link: Link) -> str:
    """Find the build target for the device behind a link.

    Raises:
        ConfigError: If there is no target for the device's processor.
        LinkError: If the device is gone.
    """
    words = link.run(["sh", "-c", _ASK], timeout_s=_ASK_S).stdout.decode("utf-8", "replace").split()
    machine = words[0] if words else "nothing"
    target = _MACHINES.get(machine)
    android = words[1:] == ["android"]
    if target is None or (android and target != "aarch64"):
        raise ConfigError(
            f"{link.description} says its processor is {machine!r}",
            cure="the C runner is built for aarch64 and x86_64 (Android: aarch64 alone). Build "
            "devices/runner/c for it and set DEEPEN_RUNNER to the program",
        )
    return "android" if android else target


def find_installed_library(package: str, pattern: str) -> Path | None:
    """Find a shared library of an installed package without importing the package.

    Args:
        package: Import name.
        pattern: Glob of the library, relative to the package.
    """
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return None
    return next(iter(sorted(Path(found.origin).parent.glob(pattern))), None)


class _CRuntime(WorkerRuntime):
    """A runtime's shared library in the C runner."""

    _package: ClassVar[str]
    _pattern: ClassVar[str]

    def __init__(
        self,
        link: Link,
        *,
        cpu_mask: Sequence[int] = (),
        level: str = "extended",
        library: str | Path = "",
        runner: Path | None = None,
        **timeouts: float,
    ) -> None:
        """Set up the runtime; the first load starts the worker.

        Args:
            link: Link to the device.
            cpu_mask: Cores to run on, one per thread; empty for the last usable ones.
            level: Graph optimisation level: disable, basic, extended or all.
            library: The runtime's shared library: a local ``Path`` (it is pushed), or a path on the device as ``str``.
            runner: The C runner, built for the device; ``None`` to build it.
            timeouts: ``hello_timeout_s``, ``load_timeout_s`` and ``run_timeout_s`` of ``WorkerRuntime``.
        """
        super().__init__(link, cpu_mask=cpu_mask, level=level, delegate=None, **timeouts)
        self._library = library
        self._runner = runner

    def _command(self) -> list[str]:
        library = self._find_library()
        argv = [self._link.push(self._find_runner())]
        if isinstance(library, Path):
            library = self._link.push(library)
        return [*argv, "--library", library] if library else argv

    def _find_runner(self) -> Path:
        named = os.environ.get("DEEPEN_RUNNER")
        runner = self._runner or (Path(named) if named else None)
        if runner is None:
            return build_runner("native" if self.local else find_runner_target(self._link))
        if not runner.is_file():
            raise ConfigError(f"there is no C runner at {runner}", cure="build it with tools/build-runner")
        return runner

    def _find_library(self) -> str | Path:
        library: str | Path = self._library
        named = os.environ.get("DEEPEN_RUNNER_LIBRARY", "")
        if not library and named:
            library = Path(named) if Path(named).is_file() else named
        if not library and self.local:
            library = find_installed_library(self._package, self._pattern) or ""
        if isinstance(library, Path) and not library.is_file():
            raise ConfigError(f"there is no library {library}", cure=self._missing_cure)
        return library


class COnnxRuntime(_CRuntime):
    """ONNX Runtime in the C runner."""

    name = "onnxruntime"
    suffixes = (".onnx", ".ort")
    _missing_cure = "put libonnxruntime.so (1.5 or newer) on the device and set DEEPEN_RUNNER_LIBRARY to its path"
    _package = "onnxruntime"
    _pattern = "capi/libonnxruntime.so*"

    def _check(self, path: Path) -> None:
        """Refuse a file that ONNX Runtime cannot run."""
        if path.suffix.lower() in (".tflite", ".lite"):
            raise ConfigError(f"{path.name}: ONNX Runtime runs no .tflite files", cure="use the runtime crunner-litert")


class CLiteRuntime(_CRuntime):
    """LiteRT or TensorFlow Lite in the C runner."""

    name = "litert"
    suffixes = (".tflite", ".lite")
    _missing_cure = (
        "put libLiteRt.so (2.2 or newer) or libtensorflowlite_c.so on the device and set DEEPEN_RUNNER_LIBRARY to its "
        "path"
    )
    _package = "ai_edge_litert"
    _pattern = "libLiteRt.so"

    def _check(self, path: Path) -> None:
        """Refuse a file that LiteRT cannot run."""
        if path.suffix.lower() == ".onnx":
            raise ConfigError(f"{path.name}: LiteRT runs no .onnx files", cure="use the runtime crunner")
