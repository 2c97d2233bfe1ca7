"""ONNX Runtime and LiteRT on a device, through the portable Python runner (``devices/runner/runner.py``)."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from deepen import catalog
from deepen.devices.runtimes.worker_process import WorkerRuntime
from deepen.errors import ConfigError

if TYPE_CHECKING:
    from deepen.devices.protocols import Link

__all__ = ["PYTHONS", "LiteRt", "OnnxRuntime", "PythonRuntime"]

PYTHONS = ("python3", "python", "/data/data/com.termux/files/usr/bin/python3")
"""Paths at which Python is looked for on a device; the last is that of Termux, the usual one on Android."""
_PARTS = ("runner_common.py", "runner_onnx.py", "runner_litert.py")
_FIND = 'for p in "$@"; do command -v -- "$p" && exit 0; done; exit 1'
_FIND_S = 20.0


class PythonRuntime(WorkerRuntime):
    """A runtime that is a package of the device's Python."""

    def __init__(
        self, link: Link, *, cpu_mask: Sequence[int] = (), python: str = "", level: str = "extended",
        delegate: Mapping[str, Any] | None = None, **timeouts: float,
    ) -> None:  # fmt: skip
        """Set up the runtime; the first load starts the worker.

        Args:
            link: Link to the device.
            cpu_mask: Cores to run on, one per thread; empty for the last usable ones.
            python: Interpreter on the device; empty for deepen's own (on this machine) or the first one found.
            level: Graph optimisation level: disable, basic, extended or all.
            delegate: Accelerator to run on, in the form of the protocol; ``None`` for the CPU.
            timeouts: ``hello_timeout_s``, ``load_timeout_s`` and ``run_timeout_s`` of :class:`WorkerRuntime`.
        """
        super().__init__(link, cpu_mask=cpu_mask, level=level, delegate=delegate, **timeouts)
        self._python = python

    def _command(self) -> list[str]:
        """Copy the runner to the device and return its command line there.

        Raises:
            ConfigError: If the device has no Python.
            LinkError: If the device is gone.
        """
        python = self._python or (sys.executable if self.local else self._find_python())
        pushed = [self._link.push(catalog.find_path("devices", "runner", part)) for part in ("runner.py", *_PARTS)]
        if not self.local:  # a pushed file has a folder of its own
            self._environment["PYTHONPATH"] = ":".join(str(PurePosixPath(p).parent) for p in pushed)
        return [python, pushed[0]]

    def _find_python(self) -> str:
        found = self._link.run(["sh", "-c", _FIND, "sh", *PYTHONS], timeout_s=_FIND_S)
        path = found.stdout.decode("utf-8", "replace").strip()
        if found.status != 0 or not path:
            raise ConfigError(
                f"there is no Python on {self._link.description}",
                cure="install one there, or use the C runner, which needs none (runtime crunner)",
            )
        return path.splitlines()[0]


class OnnxRuntime(PythonRuntime):
    """ONNX Runtime behind a link."""

    name = "onnxruntime"
    suffixes = (".onnx", ".ort")
    _missing_cure = "install it there: pip install onnxruntime"

    def _check(self, path: Path) -> None:
        """Refuse a TensorFlow Lite model.

        Raises:
            ConfigError: If the file is a TensorFlow Lite model.
        """
        if path.suffix.lower() in (".tflite", ".lite"):
            raise ConfigError(
                f"{path.name}: onnxruntime runs .onnx models only", cure="measure it with the runtime litert"
            )


class LiteRt(PythonRuntime):
    """LiteRT behind a link: ``ai-edge-litert``, or ``tflite-runtime`` where a board's Python is too old for it.

    With ``delegate={"library": PATH}`` the model runs on that delegate. Nodes it does not take run on the CPU without
    XNNPACK; ``build`` states how many it took, and none is an error.
    """

    name = "litert"
    suffixes = (".tflite", ".lite")
    _missing_cure = "install it there: pip install ai-edge-litert (or tflite-runtime for Python 3.9 and older boards)"

    def _check(self, path: Path) -> None:
        """Refuse an ONNX model.

        Raises:
            ConfigError: If the file is an ONNX model.
        """
        if path.suffix.lower() == ".onnx":
            raise ConfigError(
                f"{path.name}: litert runs .tflite models only", cure="measure it with the runtime onnxruntime"
            )
