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
    from deepen.predictors.active_learning import propose_kernels
    from deepen.predictors.evaluation import compute_metrics, evaluate_predictor
    from deepen.predictors.fitting.calibrate import calibrate_predictor
    from deepen.predictors.fitting.recipes import Recipe, list_recipe_names, load_recipe
    from deepen.predictors.fitting.sklearn_estimator import LogWorkRegressor
    from deepen.predictors.fitting.train import train_predictor
    from deepen.predictors.kernel_counts import KernelCounts
    from deepen.predictors.library import get_predictor_folder, list_predictors, load_predictor
    from deepen.predictors.models_in_memory import predict
    from deepen.predictors.predictor import Predictor

__all__ = [
    "KernelCounts",
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
    "predict",
    "propose_kernels",
    "train_predictor",
]

if not TYPE_CHECKING:
    from deepen import registry as _registry

    __getattr__, __dir__ = _registry.make_lazy_names(
        globals(),
        {
            "KernelCounts": "deepen.predictors.kernel_counts",
            "LogWorkRegressor": "deepen.predictors.fitting.sklearn_estimator",
            "Predictor": "deepen.predictors.predictor",
            "Recipe": "deepen.predictors.fitting.recipes",
            "list_predictors": "deepen.predictors.library",
            "calibrate_predictor": "deepen.predictors.fitting.calibrate",
            "evaluate_predictor": "deepen.predictors.evaluation",
            "get_predictor_folder": "deepen.predictors.library",
            "load_predictor": "deepen.predictors.library",
            "load_recipe": "deepen.predictors.fitting.recipes",
            "compute_metrics": "deepen.predictors.evaluation",
            "list_recipe_names": "deepen.predictors.fitting.recipes",
            "predict": "deepen.predictors.models_in_memory",
            "propose_kernels": "deepen.predictors.active_learning",
            "train_predictor": "deepen.predictors.fitting.train",
        },
    )
