"""The base of those who have none: joules per multiply-accumulate, operation, byte and call, fitted to measurements.

The physical form is the roofline of :mod:`deepen.predictors.inference.roofline`. Its prior says only that a byte moved
and an operation cost about what a multiply-accumulate costs, and a call about as much as a hundred thousand of them
(some microseconds of a core): orders of magnitude that hold from phones to servers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepen.predictors.fitting.calibration_cases import CalibrationCases
from deepen.predictors.fitting.fit_roofline import fit_roofline
from deepen.predictors.fitting.pack_arrays import PooledRoofline, pack_parameters
from deepen.predictors.inference.columns import compute_work_terms, select_base_roofline_terms
from deepen.predictors.inference.family_regressors import PredictorParameters

__all__ = ["fit_physical_base"]

Floats = NDArray[np.float64]

_CALL = 1e5
"""Energy of a call as a multiple of a multiply-accumulate's; every other term of work counts as one."""
_HALF_WIDTH = float(np.log(3.0))


def fit_physical_base(cases: CalibrationCases) -> PredictorParameters:
    """Fit the physical form to measurements of kernels or whole models.

    Args:
        cases: The measurements.

    Returns:
        Parameters without families: every kernel is answered by the roofline.
    """
    # A few measurements say nothing of loops.
    feature_names = cases.kernels.feature_names
    terms = cases.counts @ (compute_work_terms(cases.kernels.features, feature_names) * select_base_roofline_terms())
    weight = 1.0 / (0.03**2 + cases.relative_sd**2)
    ratios = select_base_roofline_terms().astype(np.float64)
    ratios[-1] = _CALL
    prior = ratios * float(np.median(cases.energy_j / (terms @ ratios)))
    work = fit_roofline(terms, cases.energy_j, weight / weight.mean(), prior, prior_rows=1.0)
    # A term the measurements do not show is not free of charge elsewhere.
    pooled = PooledRoofline(np.maximum(work, 0.01 * prior), np.zeros(0), _HALF_WIDTH)
    return pack_parameters((), feature_names, (), (), pooled, np.zeros(0), np.zeros(0, dtype=np.str_))
