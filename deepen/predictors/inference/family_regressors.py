"""Everything a predictor knows about kernels, as dense arrays, and the evaluator.

All families share one column space, so that one pass over flat tree arrays answers all kernels of all models at once.

For a kernel of a family with a regressor::

    log E = log work(family) + (1 - h) * (trees + gaussian) + constant + (share + h * hand_over) * trend

``h`` is 0 inside the family's training range and approaches 1 outside it (``h = 1 - exp(-d / 0.7)``, ``d`` the largest
distance of a feature that varied in training beyond its range, in log units): there the trees' nearest leaf gives way
to the log-linear trend (``hand_over`` is the share of learners that do not add to the trend anyway) at the edge of the
range, its values kept near those seen, and the roofline carries the rest: what a trend says beyond the rows it was
fitted to is worth less than what it says of the last of them. A process shared with other families is not faded: they
may have rows there.
Whatever the learners say, ``E / work`` stays within a factor of two of the values seen in training.
Other kernels get the roofline of their family where the dataset has a few rows of it, else the pooled one times what is
known of the family beforehand (:mod:`deepen.predictors.inference.family_priors`). So is an operator that the family's
rows do not have: by how it compares with those they have.

Outside the range two things widen the interval: the distance, over all sizes and kinds together, and how far the
regressor's answer is from the pooled roofline's, two opinions of which nobody knows which is right. Beyond a factor of
four the prediction meets the roofline half-way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepen.predictors.inference.columns import (
    OPERATOR_SPAN,
    compute_work_terms,
    list_column_names,
    make_columns,
    select_coordinate_columns,
    select_extrapolation_columns,
)
from deepen.predictors.inference.conformal import Z
from deepen.predictors.inference.family_priors import compute_prior_half_width, load_family_priors, look_up_priors
from deepen.predictors.inference.gaussian_process import compute_matern
from deepen.predictors.inference.roofline import compute_log_roofline
from deepen.predictors.inference.tree_ensemble import TreeEnsemble, evaluate_trees

__all__ = ["KernelEnergies", "PredictorParameters"]

Floats = NDArray[np.float64]

RANGE_MARGIN = float(np.log(1.25))
"""Distance beyond the training range (log units) from which on a kernel counts as extrapolated."""
_HAND_OVER = 0.7
_WIDENING = 0.4
"""Standard error of log energy per log unit far outside the range; near its edge it grows with the square."""
_TOLERATED_GAP = float(np.log(4.0))
"""Log distance between regressor and pooled roofline from which on an extrapolation gives way to the latter."""


@dataclass(frozen=True, slots=True)
class KernelEnergies:
    """Predictions for a batch of kernels, each executed once.

    Attributes:
        energy_j: shape (n,), positive.
        half_width: Half-width of the nominal 90 % interval in log energy, shape (n,).
        regressor: Mask of the kernels a regressor answered (the others: the roofline), shape (n,).
        extrapolated: Mask of the kernels with a column outside the family's training range, shape (n,).
    """

    energy_j: Floats
    half_width: Floats
    regressor: NDArray[np.bool_]
    extrapolated: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class PredictorParameters:
    """The arrays; F families and one pooled entry behind them, D columns, T work terms.

    Attributes:
        families: Their names.
        feature_names: Features, in the order of ``deepen.kernels.features`` when it was trained.
        regressor: Mask of the families that have one, shape (F,).
        work: Roofline coefficients, joules per unit, shape (F + 1, T); the last row is pooled over families.
        half_width: Interval half-widths in log energy, shape (F + 1,).
        trend_mean: shape (F, D).
        trend_scale: shape (F, D), positive.
        trend_coefficient: Zero for columns a family does not use, shape (F, D).
        trend_intercept: shape (F,).
        trend_share: Share of the chosen learners that add to the trend, shape (F,).
        trend_low: Least value of the trend, shape (F,).
        trend_high: Greatest value, shape (F,).
        constant: Added (of a process shared with other families), shape (F,).
        hand_over: Share of the learners that give way to the trend outside the range, shape (F,).
        range_low: Least value of each column in training, shape (F, D).
        range_high: Greatest value, shape (F, D).
        forest: Trees of all families; leaf values already divided by the number of blended learners.
        tree_start: First tree of each family, and the total, shape (F + 1,).
        gaussian_x: Training rows of Gaussian processes in standard units, shape (G, D).
        gaussian_alpha: Their weights, shape (G,).
        gaussian_start: First row of each family, and the total, shape (F + 1,).
        gaussian_inverse_length: One over the length scales; zero for unused columns, shape (F, D).
    """

    families: tuple[str, ...]
    feature_names: tuple[str, ...]
    regressor: NDArray[np.bool_]
    work: Floats
    half_width: Floats
    trend_mean: Floats
    trend_scale: Floats
    trend_coefficient: Floats
    trend_intercept: Floats
    trend_share: Floats
    trend_low: Floats
    trend_high: Floats
    constant: Floats
    hand_over: Floats
    range_low: NDArray[np.float32]
    range_high: NDArray[np.float32]
    forest: TreeEnsemble
    tree_start: NDArray[np.int32]
    gaussian_x: NDArray[np.float32]
    gaussian_alpha: Floats
    gaussian_start: NDArray[np.int32]
    gaussian_inverse_length: Floats

    def predict(self, families: Sequence[str], raw: Floats) -> KernelEnergies:
        """Predict kernels executed once, alone.

        Args:
            families: Family of each kernel.
            raw: Features, float64, shape (n, len(feature_names)).

        Raises:
            PredictorError: If a feature is not finite.
        """
        count = len(self.families)
        index = {name: i for i, name in enumerate(self.families)}
        family = np.array([index.get(f, count) for f in families], dtype=np.int64)
        terms = compute_work_terms(raw, self.feature_names)
        log_energy = compute_log_roofline(terms, self.work[family])
        covered = np.append(self.regressor, False)[family]
        half_width = self.half_width[family].copy()
        outside = np.zeros(len(family), dtype=bool)
        # 1. Families that nobody measured: the pooled roofline times their prior.
        codes = raw[:, self.feature_names.index("op_code")] if "op_code" in self.feature_names else np.zeros(len(raw))
        ratio, spread = look_up_priors(families, codes)
        pooled = compute_log_roofline(terms, self.work[-1]) + ratio
        foreign = (family == count) & (count > 0)
        log_energy[foreign] = pooled[foreign]
        half_width[foreign] = compute_prior_half_width(spread[foreign])
        # 2. Families with a regressor.
        rows = np.flatnonzero(covered)
        if rows.size:
            x = make_columns(raw[rows], self.feature_names)
            residual, distance, reach, shift = self._residual(x, family[rows])
            log_energy[rows] += residual
            # 3. Operators that the family's rows do not have: by how they compare with those they have.
            new, step = self._compare_operators(family[rows], codes[rows])
            log_energy[rows] += step
            # 4. Outside the range: wider with the distance, and with the gap to the pooled roofline.
            gap = log_energy[rows] - pooled[rows]
            log_energy[rows] -= shift * 0.5 * np.sign(gap) * np.maximum(np.abs(gap) - _TOLERATED_GAP, 0.0)
            far = np.hypot(half_width[rows] * (1.0 + distance), Z * _WIDENING * reach**2 / (1.0 + reach))
            far = np.maximum(far, shift**2 * np.abs(log_energy[rows] - pooled[rows]))
            half_width[rows] = np.where(new, np.hypot(far, compute_prior_half_width(spread[rows])), far)
            outside[rows] = (distance > 0) | new
        return KernelEnergies(np.exp(np.clip(log_energy, -60.0, 60.0)), half_width, covered, outside)

    def _compare_operators(self, family: NDArray[np.int64], codes: Floats) -> tuple[NDArray[np.bool_], Floats]:
        """Find the kernels whose operator their family's rows do not have, and the step to it from those they have.

        Returns:
            Mask of such kernels, and log ratios to add, 0 for others, each of shape (n,).
        """
        new, step = np.zeros(len(family), dtype=bool), np.zeros(len(family))
        names = list_column_names(self.feature_names)
        if "op_code=0" not in names:
            return new, step
        first = names.index("op_code=0")
        seen = self.range_high[:, first : first + OPERATOR_SPAN] > 0
        new = ~seen[family, np.mod(codes, OPERATOR_SPAN).astype(np.int64)]
        known = load_family_priors()
        for f in np.unique(family[new]):
            prior = known.get(self.families[f])
            if prior is not None:
                # Codes of a family lie within one span, so that the remainder says which of them was seen.
                had = [p.log_ratio for c, p in prior.operators.items() if seen[f, c % OPERATOR_SPAN]]
                base = float(np.mean(had)) if had else prior.log_ratio
                rows = np.flatnonzero(new & (family == f))
                step[rows] = [prior.find(int(c)).log_ratio - base for c in codes[rows].tolist()]
        return new, step

    def _residual(self, x: NDArray[np.float32], family: NDArray[np.int64]) -> tuple[Floats, Floats, Floats, Floats]:
        """Evaluate the regressors.

        Returns:
            log(E / work); the greatest distance of a column outside the training range; that of all sizes and kinds
            together; and how far trees have handed over, 0..1. Each of shape (n,).
        """
        low, high = self.range_low[family], self.range_high[family]
        tested = select_extrapolation_columns(self.feature_names)
        beyond = np.maximum(np.maximum(low - x, x - high)[:, tested].astype(np.float64) - RANGE_MARGIN, 0.0)
        distance = beyond.max(axis=1)
        # A feature that never varied (a flag, a dilation) says nothing about where trees end: it is only reported.
        hand_over = 1.0 - np.exp(-(beyond * (high > low)[:, tested]).max(axis=1) / _HAND_OVER)
        held = np.clip(x, low, high).astype(np.float64)
        mean, scale = self.trend_mean[family], self.trend_scale[family]
        coefficient = self.trend_coefficient[family]
        trend = np.einsum("nd,nd->n", (held - mean) / scale, coefficient) + self.trend_intercept[family]
        trend = np.clip(trend, self.trend_low[family], self.trend_high[family])
        trees = evaluate_trees(self.forest, x, self.tree_start[family], self.tree_start[family + 1])
        # A process shared with other families may have their rows where this family has none: it stays.
        shared = self.trend_share[family] + self.hand_over[family] < 1.0 - 1e-6
        smooth = np.where(shared, 1.0, 1.0 - hand_over) * self._gaussian(((held - mean) / scale), family)
        on_trend = self.trend_share[family] + hand_over * self.hand_over[family]
        total = (1.0 - hand_over) * trees + smooth + self.constant[family] + on_trend * trend
        total = np.clip(total, self.trend_low[family], self.trend_high[family])
        coordinates = select_coordinate_columns(self.feature_names)[tested]
        return total, distance, np.sqrt((beyond[:, coordinates] ** 2).sum(axis=1)), hand_over

    def _gaussian(self, standard: Floats, family: NDArray[np.int64]) -> Floats:
        result = np.zeros(len(family))
        for f in np.unique(family):
            start, stop = int(self.gaussian_start[f]), int(self.gaussian_start[f + 1])
            if stop > start:
                rows = family == f
                used = self.gaussian_inverse_length[f] > 0
                k = compute_matern(
                    standard[rows][:, used],
                    self.gaussian_x[start:stop, used].astype(np.float64),
                    self.gaussian_inverse_length[f, used],
                )
                result[rows] = k @ self.gaussian_alpha[start:stop]
        return result

    @property
    def column_count(self) -> int:
        """Columns made from the features."""
        return len(list_column_names(self.feature_names))
