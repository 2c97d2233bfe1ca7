"""ONNX Runtime on a device, through the portable runner (``devices/runner/runner.py``)."""

from __future__ import annotations

from pathlib import Path

from deepen.devices.runtimes.python_runner import PythonRuntime
from deepen.devices.runtimes.worker_process import WorkerLoadedModel
from deepen.errors import ConfigError

__all__ = ["OnnxLoaded", "OnnxRuntime"]

OnnxLoaded = WorkerLoadedModel


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
            raise ConfigError(f"{path.name}: onnxruntime runs .onnx models only; measure it with the runtime litert")
