"""Accuracy of predictions: held-out comparisons, cross-validation beside baselines, additivity.

``evaluate`` compares a trained predictor with a dataset, ``cross_validation`` trains on parts of a dataset (``splits``)
and sets ``baselines`` beside it, ``additivity`` compares the sum of measured kernels with measured whole models. The
error measures are in :mod:`deepen.predictors.metrics`.
"""

from __future__ import annotations

from deepen.predictors.evaluation.evaluate import evaluate_predictor
from deepen.predictors.metrics import compute_metrics

__all__ = ["compute_metrics", "evaluate_predictor"]
