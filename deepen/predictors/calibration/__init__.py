"""Calibration: a predictor for a new device, runtime or version from a few measurements of kernels or whole models.

Fitting is :mod:`deepen.predictors.calibration.fit`; what a calibrated predictor carries is :class:`Calibration`.
"""

from __future__ import annotations

from deepen.predictors.calibration.layer import Calibration, Term

__all__ = ["Calibration", "Term"]
