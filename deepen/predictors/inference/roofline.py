"""The roofline: energy as non-negative joules per operation, per byte and per call.

``E = a . (macs, ops, bytes of activations read, bytes of weights read, bytes written, ..., 1)`` with ``a >= 0``; where
a family's own rows show it, what loops cost besides (:mod:`deepen.predictors.inference.loop_costs`). This is the
additive form of the roofline model (Williams et al., CACM 2009; for energy, Choi et al., IPDPS 2013: energies add, they
do not overlap as times do). It is what energy is divided by before a regressor sees it ("per unit of work"), what trees
hand over to outside their training range, and the answer for families without data.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["compute_log_roofline"]

_FLOOR_J = 1e-15


def compute_log_roofline(terms: NDArray[np.float64], coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the natural logarithm of the work.

    Args:
        terms: shape (n, t), from :func:`deepen.predictors.inference.columns.compute_work_terms`.
        coefficients: joules per unit of each term; shape (t,) or (n, t).

    Returns:
        log joules, shape (n,).
    """
    joules = terms @ coefficients if coefficients.ndim == 1 else np.einsum("nt,nt->n", terms, coefficients)
    return np.asarray(np.log(np.maximum(joules, _FLOOR_J)), dtype=np.float64)
