"""Calibration: a predictor for a new device, runtime or version from a few measurements of kernels or whole models.

Fitting is :mod:`deepen.predictors.fitting.calibrate`; what a calibrated predictor carries is
:class:`CalibrationFactors`.
"""

from __future__ import annotations

from deepen.predictors.inference.calibration_factors import CalibrationFactors, FactorTerm

__all__ = ["CalibrationFactors", "FactorTerm"]
