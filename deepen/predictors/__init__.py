"""Predictors: from a dataset of measured kernels to joules for kernels and models nobody has measured.

::

    predictor = deepen.predictors.train_predictor(dataset)
    predictor.save("mine.deepen")
    deepen.predictors.load_predictor("mine.deepen").predict("model.onnx").energy_j

Loading and predicting need numpy only; training also needs scikit-learn, LightGBM and scipy. Names load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepen.predictors.evaluation import compute_metrics, evaluate_predictor
    from deepen.predictors.fitting.calibrate import calibrate_predictor
    from deepen.predictors.fitting.recipes import Recipe, list_recipe_names, load_recipe
    from deepen.predictors.fitting.sklearn_estimator import LogWorkRegressor
    from deepen.predictors.fitting.train import train_predictor
    from deepen.predictors.library import get_predictor_folder, list_predictors, load_predictor
    from deepen.predictors.predictor import Predictor

__all__ = [
    "LogWorkRegressor",
    "Predictor",
    "Recipe",
    "calibrate_predictor",
    "compute_metrics",
    "evaluate_predictor",
    "get_predictor_folder",
    "list_predictors",
    "list_recipe_names",
    "load_predictor",
    "load_recipe",
    "train_predictor",
]

if not TYPE_CHECKING:
    _LAZY = {
        "LogWorkRegressor": "fitting.sklearn_estimator",
        "Predictor": "predictor",
        "Recipe": "fitting.recipes",
        "list_predictors": "library",
        "calibrate_predictor": "fitting.calibrate",
        "evaluate_predictor": "evaluation",
        "get_predictor_folder": "library",
        "load_predictor": "library",
        "load_recipe": "fitting.recipes",
        "compute_metrics": "evaluation",
        "list_recipe_names": "fitting.recipes",
        "train_predictor": "fitting.train",
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
