"""Finds what most of a kernel's work consists of, according to the roofline its predictor has fitted.

The roofline's terms are counts of operations, of bytes moved, and of things started; each has its joules per unit. The
kind whose terms add up to most joules bounds the kernel: ``compute``, ``memory``, or ``call`` for a kernel so small
that starting it is what costs (Williams et al., Roofline, CACM 2009; in joules: Choi et al., IPDPS 2013). The
coefficients are those of the kernel's family where it has some, else those pooled over all families.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from deepen.predictors.inference.columns import WORK_TERMS, compute_work_terms

if TYPE_CHECKING:
    from deepen.predictors.inference.family_regressors import PredictorParameters

__all__ = ["Bound", "find_dominant_terms"]

Bound = Literal["compute", "memory", "call"]
"""Kind of work that takes most of a kernel's energy."""

_KINDS: tuple[Bound, ...] = ("compute", "memory", "call")
_MEMORY = frozenset({"runs", "unrolled_inside", "gathered"})
_CALL = frozenset({"products"})


def find_dominant_terms(
    parameters: PredictorParameters, families: Sequence[str], raw: NDArray[np.float64]
) -> list[Bound]:
    """Find the kind of work each kernel spends most energy on.

    Args:
        parameters: Those of the predictor.
        families: Family of each kernel.
        raw: Features, float64, shape (n, features).
    """
    number = {name: i for i, name in enumerate(parameters.families)}
    rows = np.array([number.get(f, len(number)) for f in families], dtype=np.int64)
    joules = compute_work_terms(raw, parameters.feature_names) * parameters.work[rows]
    kinds = np.array([*map(_find_kind, WORK_TERMS), _KINDS.index("call")])  # the constant is the last
    sums = np.stack([joules[:, kinds == kind].sum(axis=1) for kind in range(len(_KINDS))], axis=1)
    return [_KINDS[kind] for kind in sums.argmax(axis=1).tolist()]


def _find_kind(term: str) -> int:
    """Number of the kind a term of work belongs to."""
    return _KINDS.index("memory" if "bytes" in term or term in _MEMORY else "call" if term in _CALL else "compute")
