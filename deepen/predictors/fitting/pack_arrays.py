"""Pack the fits of all families into the dense arrays of ``family_regressors.PredictorParameters``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deepen.predictors.fitting.choose_learner import FamilyFit
from deepen.predictors.fitting.fit_gaussian_process import GaussianFit
from deepen.predictors.fitting.folds import FamilyData
from deepen.predictors.fitting.shared_gaussian_process import SharedProcessPart
from deepen.predictors.inference.columns import list_column_names
from deepen.predictors.inference.conformal import compute_family_half_width
from deepen.predictors.inference.family_priors import compute_prior_half_width, load_family_priors
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
    judged = np.array([fit is not None for fit in fits], dtype=np.bool_)
    covered = np.isin(family_of, np.array(families)[judged])
    forests: list[TreeEnsemble] = []
    gaussian_x, gaussian_alpha = [np.zeros((0, d))], [np.zeros(0)]
    p = PredictorParameters(
        families=families,
        feature_names=names,
        regressor=judged,
        work=np.tile(pooled.work, (f + 1, 1)),
        half_width=np.full(f + 1, pooled.half_width),
        trend_mean=np.zeros((f, d)),
        trend_scale=np.ones((f, d)),
        trend_coefficient=np.zeros((f, d)),
        trend_intercept=np.zeros(f),
        trend_share=np.zeros(f),
        trend_low=np.zeros(f),
        trend_high=np.zeros(f),
        constant=np.zeros(f),
        hand_over=np.zeros(f),
        range_low=np.zeros((f, d), np.float32),
        range_high=np.zeros((f, d), np.float32),
        forest=TreeEnsemble.empty(),
        tree_start=np.zeros(f + 1, np.int32),
        gaussian_x=gaussian_x[0].astype(np.float32),
        gaussian_alpha=gaussian_alpha[0],
        gaussian_start=np.zeros(f + 1, np.int32),
        gaussian_inverse_length=np.zeros((f, d)),
    )
    for i, (rows, fit) in enumerate(zip(data, fits, strict=True)):
        # 1. Range and roofline.
        p.range_low[i], p.range_high[i] = rows.columns.min(0), rows.columns.max(0)
        if fit is None:
            p.work[i], p.half_width[i] = _scale_pooled_roofline(rows, pooled)
        else:
            p.work[i] = fit.work
            p.half_width[i] = compute_family_half_width(residual[family_of == rows.name], residual[covered])
        if fit is not None and fit.trend is not None:
            # 2. Trend.
            p.trend_mean[i, fit.active], p.trend_scale[i, fit.active] = fit.trend.mean, fit.trend.scale
            p.trend_coefficient[i, fit.active] = fit.trend.coefficient
            p.trend_intercept[i], p.trend_low[i], p.trend_high[i] = fit.trend.intercept, fit.trend.low, fit.trend.high
            # 3. Members.
            for member, part in fit.members:
                if isinstance(member, SharedProcessPart):
                    p.constant[i] += member.constant * part
                    used, scale = member.columns, p.trend_scale[i, member.columns]
                    x = (member.x - p.trend_mean[i, used]) / scale
                    process: GaussianFit | None = GaussianFit(x, member.inverse_length * scale, member.alpha)
                else:
                    (p.trend_share if member.adds_to_trend else p.hand_over)[i] += part
                    used, process = fit.active, member.gaussian
                    if member.forest is not None:
                        forests.append(_expand_tree_columns(member.forest, used, part))
                if process is not None:
                    gaussian_x.append(np.zeros((process.alpha.size, d)))
                    gaussian_x[-1][:, used] = process.x
                    gaussian_alpha.append(process.alpha * part)
                    p.gaussian_inverse_length[i, used] = process.inverse_length
        # 4. Ends.
        p.tree_start[i + 1] = sum(forest.roots.size for forest in forests)
        p.gaussian_start[i + 1] = sum(alpha.size for alpha in gaussian_alpha)
    return replace(
        p,
        forest=concatenate_ensembles(forests),
        gaussian_x=np.concatenate(gaussian_x).astype(np.float32),
        gaussian_alpha=np.concatenate(gaussian_alpha),
    )


def _scale_pooled_roofline(rows: FamilyData, pooled: PooledRoofline) -> tuple[Floats, float]:
    """The pooled roofline, scaled by the few rows a family has, as if three rows had agreed with the family's prior.

    Returns:
        Its coefficients, and the half-width of the interval: the prior's, or the pooled one for families without.
    """
    bias = np.log(rows.energy_j) - compute_log_roofline(rows.terms, pooled.work)
    n, prior = len(rows.keys), load_family_priors().get(rows.name)
    expected = 0.0 if prior is None else prior.log_ratio
    scale = float(np.exp((float(np.median(bias)) * n + expected * _SHRINK_ROWS) / (n + _SHRINK_ROWS)))
    half_width = pooled.half_width if prior is None else float(compute_prior_half_width(prior.spread))
    return np.asarray(pooled.work * scale), half_width


def _expand_tree_columns(forest: TreeEnsemble, active: NDArray[np.int64], factor: float) -> TreeEnsemble:
    """Trees over a family's columns as trees over all columns."""
    feature = np.where(forest.feature >= 0, active[np.maximum(forest.feature, 0)], -1).astype(np.int16)
    value = (forest.value * factor).astype(np.float32)
    return TreeEnsemble(feature, forest.threshold, forest.left, forest.right, value, forest.roots)
