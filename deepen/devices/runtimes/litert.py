"""LiteRT (TensorFlow Lite) on a device, through the portable runner (``devices/runner/runner.py``)."""

from __future__ import annotations

from pathlib import Path

from deepen.devices.runtimes.python_runner import PythonRuntime
from deepen.errors import ConfigError

__all__ = ["LiteRt"]


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
            raise ConfigError(f"{path.name}: litert runs .tflite models only; measure it with the runtime onnxruntime")
