"""Pack the fits of all families into the dense arrays of ``family_regressors.PredictorParameters``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepen.predictors.fitting.choose_learner import FamilyFit
from deepen.predictors.fitting.folds import FamilyData
from deepen.predictors.fitting.learners import FittedLearner
from deepen.predictors.fitting.shared_gaussian_process import SharedProcessPart
from deepen.predictors.inference.columns import list_column_names
from deepen.predictors.inference.conformal import compute_family_half_width
from deepen.predictors.inference.family_regressors import PredictorParameters
from deepen.predictors.inference.roofline import compute_log_roofline
from deepen.predictors.inference.tree_ensemble import TreeEnsemble, concatenate_ensembles

__all__ = ["PooledRoofline", "pack_parameters"]

Floats = NDArray[np.float64]

_SHRINK_ROWS = 3.0


@dataclass(frozen=True, slots=True)
class PooledRoofline:
    """The roofline over all families.

    Attributes:
        work: Its coefficients.
        held_out: Log energy of each row by the roofline of the other families.
        half_width: Of families without data.
    """

    work: Floats
    held_out: Floats
    half_width: float


def pack_parameters(
    families: tuple[str, ...],
    names: tuple[str, ...],
    data: Sequence[FamilyData],
    fits: Sequence[FamilyFit | None],
    pooled: PooledRoofline,
    residual: Floats,
    family_of: NDArray[np.str_],
) -> PredictorParameters:
    """Put all families' fits into the dense arrays of :class:`PredictorParameters`.

    For each family:

    1. Its range, and its roofline: its own, or the pooled one scaled by its few rows.
    2. Its trend, in the columns it uses; others keep mean 0, scale 1 and coefficient 0.
    3. Its members, each times its share: a part of a shared process is put into the family's standard units; trees are
       put over all columns; learners that do not add to the trend give way to it outside the range.
    4. The ends of its trees and rows in the arrays all families share.

    Args:
        families: Names of the families (F of them).
        names: Names of the features.
        data: Rows of each family.
        fits: Fit of each family; ``None``: the roofline answers.
        pooled: The roofline over all families.
        residual: Held-out log error of every record, shape (n,).
        family_of: Family of every record, shape (n,).
    """
    f, d = len(families), len(list_column_names(names))
    work = np.tile(pooled.work, (f + 1, 1))
    half_width = np.full(f + 1, pooled.half_width)
    matrices = {k: np.zeros((f, d)) for k in ("mean", "coefficient", "inverse_length")}
    scale = np.ones((f, d))
    low, high = np.zeros((f, d), np.float32), np.zeros((f, d), np.float32)
    intercept, share, constant, hand_over = np.zeros(f), np.zeros(f), np.zeros(f), np.zeros(f)
    trend_low, trend_high = np.zeros(f), np.zeros(f)
    forests: list[TreeEnsemble] = []
    tree_start, gaussian_start = np.zeros(f + 1, np.int32), np.zeros(f + 1, np.int32)
    gaussian_x: list[Floats] = [np.zeros((0, d))]
    gaussian_alpha: list[Floats] = [np.zeros(0)]
    judged = np.array([fit is not None for fit in fits], dtype=np.bool_)
    covered = np.isin(family_of, np.array(families)[judged])
    for i, (rows, fit) in enumerate(zip(data, fits, strict=True)):
        # 1. Range and roofline.
        low[i], high[i] = rows.columns.min(0), rows.columns.max(0)
        trees = gaussians = 0
        if fit is None:
            work[i] = _scale_pooled_roofline(rows, pooled)
        else:
            work[i] = fit.work
            half_width[i] = compute_family_half_width(residual[family_of == rows.name], residual[covered])
        # 2. Trend.
        if fit is not None and fit.trend is not None:
            matrices["mean"][i, fit.active] = fit.trend.mean
            matrices["coefficient"][i, fit.active] = fit.trend.coefficient
            scale[i, fit.active] = fit.trend.scale
            intercept[i] = fit.trend.intercept
            trend_low[i], trend_high[i] = fit.trend.low, fit.trend.high
            # 3. Members.
            share[i] = sum(part for m, part in fit.members if isinstance(m, FittedLearner) and m.adds_to_trend)
            for member, part in fit.members:
                if isinstance(member, SharedProcessPart):
                    constant[i] += member.constant * part
                    mean_at, scale_at = matrices["mean"][i, member.columns], scale[i, member.columns]
                    wide = np.zeros((member.alpha.size, d))
                    wide[:, member.columns] = (member.x - mean_at) / scale_at
                    matrices["inverse_length"][i, member.columns] = member.inverse_length * scale_at
                    gaussian_x.append(wide)
                    gaussian_alpha.append(member.alpha * part)
                    gaussians += member.alpha.size
                    continue
                if not member.adds_to_trend:
                    hand_over[i] += part
                if member.forest is not None:
                    forests.append(_expand_tree_columns(member.forest, fit.active, part))
                    trees += forests[-1].roots.size
                if member.gaussian is not None:
                    wide = np.zeros((member.gaussian.alpha.size, d))
                    wide[:, fit.active] = member.gaussian.x
                    gaussian_x.append(wide)
                    gaussian_alpha.append(member.gaussian.alpha * part)
                    matrices["inverse_length"][i, fit.active] = member.gaussian.inverse_length
                    gaussians += member.gaussian.alpha.size
        # 4. Ends.
        tree_start[i + 1] = tree_start[i] + trees
        gaussian_start[i + 1] = gaussian_start[i] + gaussians
    return PredictorParameters(
        families=families,
        feature_names=names,
        regressor=judged,
        work=work,
        half_width=half_width,
        trend_mean=matrices["mean"],
        trend_scale=scale,
        trend_coefficient=matrices["coefficient"],
        trend_intercept=intercept,
        trend_share=share,
        trend_low=trend_low,
        trend_high=trend_high,
        constant=constant,
        hand_over=hand_over,
        range_low=low,
        range_high=high,
        forest=concatenate_ensembles(forests),
        tree_start=tree_start,
        gaussian_x=np.concatenate(gaussian_x).astype(np.float32),
        gaussian_alpha=np.concatenate(gaussian_alpha),
        gaussian_start=gaussian_start,
        gaussian_inverse_length=matrices["inverse_length"],
    )


def _scale_pooled_roofline(rows: FamilyData, pooled: PooledRoofline) -> Floats:
    """The pooled roofline, scaled by the few rows a family has; shrunk as if three rows had agreed with it."""
    bias = np.log(rows.energy_j) - compute_log_roofline(rows.terms, pooled.work)
    n = len(rows.keys)
    return np.asarray(pooled.work * np.exp(float(np.median(bias)) * n / (n + _SHRINK_ROWS)))


def _expand_tree_columns(forest: TreeEnsemble, active: NDArray[np.int64], factor: float) -> TreeEnsemble:
    """Trees over a family's columns as trees over all columns."""
    feature = np.where(forest.feature >= 0, active[np.maximum(forest.feature, 0)], -1).astype(np.int16)
    value = (forest.value * factor).astype(np.float32)
    return TreeEnsemble(feature, forest.threshold, forest.left, forest.right, value, forest.roots)
