"""How good predictions are: measures, held-out comparisons, cross-validation beside baselines, additivity.

``measures`` are the field's error measures and their bootstrap confidence, ``held_out`` compares a trained predictor
with a dataset, ``crossval`` trains on parts of a dataset (``splits``) and sets ``baselines`` beside it, ``additivity``
compares the sum of measured kernels with measured whole models.
"""

from __future__ import annotations

from deepen.predictors.evaluation.evaluate import evaluate_predictor
from deepen.predictors.metrics import compute_metrics, compute_spearman

__all__ = ["compute_metrics", "compute_spearman", "evaluate_predictor"]
