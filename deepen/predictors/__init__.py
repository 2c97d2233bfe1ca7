"""Predictors: from a dataset of measured kernels to joules for kernels and models nobody has measured.

::

    predictor = deepen.predictors.train(dataset)
    predictor.save("mine.deepen")
    deepen.predictors.load("mine.deepen").predict("model.onnx").energy_j

Loading and predicting need numpy only; training also needs scikit-learn, LightGBM and scipy. Names load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepen.predictors.evaluation import evaluate, metrics
    from deepen.predictors.fitting.calibrate import calibrate
    from deepen.predictors.fitting.recipes import Recipe, load_recipe, recipe_names
    from deepen.predictors.fitting.sklearn_estimator import LogWorkRegressor
    from deepen.predictors.fitting.train import train
    from deepen.predictors.library import available, home, load
    from deepen.predictors.predictor import Predictor

__all__ = [
    "LogWorkRegressor",
    "Predictor",
    "Recipe",
    "available",
    "calibrate",
    "evaluate",
    "home",
    "load",
    "load_recipe",
    "metrics",
    "recipe_names",
    "train",
]

if not TYPE_CHECKING:
    _LAZY = {
        "LogWorkRegressor": "fitting.sklearn_estimator",
        "Predictor": "predictor",
        "Recipe": "fitting.recipes",
        "available": "library",
        "calibrate": "fitting.calibrate",
        "evaluate": "evaluation",
        "home": "library",
        "load": "library",
        "load_recipe": "fitting.recipes",
        "metrics": "evaluation",
        "recipe_names": "fitting.recipes",
        "train": "fitting.train",
    }

    def __getattr__(name: str) -> object:
        """Import a public name on first use."""
        if name not in _LAZY:
            raise AttributeError(f"module 'deepen.predictors' has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"deepen.predictors.{_LAZY[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """Public names, loaded or not."""
        return sorted(__all__)
