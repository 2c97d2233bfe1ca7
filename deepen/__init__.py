"""Energy of neural networks on phones and edge boards: measured, or predicted.

::

    deepen.predict(model, predictor="name")  # a path, bytes, an onnx.ModelProto, a torch.nn.Module
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
    from deepen.predictors import load_predictor, predict

__version__ = "0.1.0"

__all__ = ["__version__", "errors", "load_predictor", "measure_training", "predict", "profile", "read_dataset"]

if not TYPE_CHECKING:  # type checkers see the names above, and no others
    from deepen import registry as _registry

    __getattr__, __dir__ = _registry.make_lazy_names(
        globals(),
        {
            "errors": "deepen.errors:",
            "load_predictor": "deepen.predictors",
            "measure_training": "deepen.measure",
            "predict": "deepen.predictors",
            "profile": "deepen.measure",
            "read_dataset": "deepen.datasets",
        },
    )
