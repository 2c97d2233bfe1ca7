"""Energy of neural networks on phones and edge boards: measured, or predicted.

::

    deepen.load_predictor("name").predict("model.onnx")  # joules, interval, joules per kernel
    deepen.profile("model.onnx", device="local")  # measured here
    deepen.measure_training("nvml")  # with ...: energy of a training run
    deepen.read_dataset("folder")  # pandas.DataFrame, one row per measured kernel

Names are loaded on first use, so that ``import deepen`` imports nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepen import errors
    from deepen.datasets import read_dataset
    from deepen.measure import measure_training, profile
    from deepen.predictors import load_predictor

__version__ = "0.1.0"

__all__ = ["__version__", "errors", "load_predictor", "measure_training", "profile", "read_dataset"]

if not TYPE_CHECKING:  # type checkers see the names above, and no others
    _LAZY = {
        "errors": ("deepen.errors", None),
        "load_predictor": ("deepen.predictors", "load_predictor"),
        "measure_training": ("deepen.measure", "measure_training"),
        "profile": ("deepen.measure", "profile"),
        "read_dataset": ("deepen.datasets", "read_dataset"),
    }

    def __getattr__(name: str) -> object:
        """Import a public name on first use."""
        if name not in _LAZY:
            raise AttributeError(f"module 'deepen' has no attribute {name!r}")
        from importlib import import_module

        module_name, attribute = _LAZY[name]
        module = import_module(module_name)
        value = getattr(module, attribute) if attribute else module
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """Public names, loaded or not."""
        return sorted(__all__)
